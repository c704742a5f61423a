//! What is added to the parameters of a request.

use std::collections::HashSet;

use super::scan::Scanner;
use super::write;

/// Adds header fields to the parameters of a request, as strings. A parameter that the request itself has stays as it is, and names of the
/// server's own, `triton_...`, are not given away.
pub(crate) fn with_fields(
    parameters: Option<String>,
    fields: &[(String, String)],
) -> Option<String> {
    if fields.is_empty() {
        return parameters;
    }
    let said = parameters.as_deref().unwrap_or("{}");
    let Some(mut taken) = names(said) else {
        return parameters;
    };
    // What the request says follows behind, without the brace that it begins with.
    let rest = said.trim_start().strip_prefix('{').unwrap_or_default();
    let is_empty = taken.is_empty();
    let new = fields
        .iter()
        .filter(|(name, _)| !name.starts_with("triton_") && taken.insert(name.clone()));
    let mut out = vec![b'{'];
    write::separated(&mut out, new, |out, (name, value)| {
        write::string(out, name);
        out.push(b':');
        write::string(out, value);
    });
    if out.len() > 1 && !is_empty {
        out.push(b',');
    }
    write::text(&mut out, rest);
    String::from_utf8(out).ok()
}

/// The names in an object; `None` where it is none.
fn names(object: &str) -> Option<HashSet<String>> {
    let mut scanner = Scanner::new(object.as_bytes()).ok()?;
    let mut keys = scanner.object("an object of parameters").ok()?;
    let mut names = HashSet::new();
    while let Some(name) = keys.next(&mut scanner).ok()? {
        scanner.skip().ok()?;
        names.insert(name.into_owned());
    }
    Some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_before_what_the_request_says() {
        let rows = [
            (None, &[][..], None),
            (Some("{}"), &[], Some("{}")),
            (None, &[("x-a", "1")], Some(r#"{"x-a":"1"}"#)),
            (Some("{ }"), &[("x-a", "\"")], Some(r#"{"x-a":"\"" }"#)),
            (
                Some(r#"{"colour": ["a", NaN]}"#),
                &[("x-a", "1"), ("x-b", ""), ("x-a", "2")],
                Some(r#"{"x-a":"1","x-b":"","colour": ["a", NaN]}"#),
            ),
            (
                Some(r#"{"x\u002da":1}"#),
                &[("x-a", "2")],
                Some(r#"{"x\u002da":1}"#),
            ),
            (None, &[("triton_x", "2")], Some("{}")),
        ];
        for (parameters, fields, expected) in rows {
            let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            let fields: Vec<_> = fields.iter().map(owned).collect();
            let got = with_fields(parameters.map(str::to_owned), &fields);
            assert_eq!(got.as_deref(), expected);
        }
    }
}
