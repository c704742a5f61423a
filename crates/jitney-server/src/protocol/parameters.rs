//! The parameters of a request: those that say something to the server, and what is added to them.

use std::collections::HashSet;
use std::time::Duration;

use super::scan::Scanner;
use super::write;
use crate::call::Meta;

/// The value of a parameter, as far as the server tells one from the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// A number of 0 or more without a fraction.
    Whole(u64),
    /// `true` or `false`.
    Switch,
    /// A string.
    Text,
    /// Anything else.
    Other,
}

/// Takes over what a parameter of a request says to the server. That of most names is the model's affair alone.
///
/// # Errors
/// What was expected in the place of the value.
pub(crate) fn take(meta: &mut Meta, name: &str, value: Value) -> Result<(), &'static str> {
    match (name, value) {
        // Zero is the protocol's default and stands for no timeout of the request's own.
        ("timeout", Value::Whole(micros)) => {
            meta.timeout = (micros > 0).then(|| Duration::from_micros(micros));
        }
        ("timeout", _) => return Err("an integer of microseconds"),
        ("priority", Value::Whole(priority)) => meta.priority = priority,
        ("priority", _) => return Err("an integer, 1 or more, or 0 for none"),
        ("sequence_id", Value::Switch | Value::Other) => {
            return Err("an integer of 0 or more, or a string");
        }
        ("sequence_start" | "sequence_end", Value::Whole(_) | Value::Text | Value::Other) => {
            return Err("true or false");
        }
        _ => (),
    }
    Ok(())
}

/// Why a request with a parameter is refused whose name is not the caller's to choose.
pub(crate) const RESERVED: &str = "names that begin with triton_ are reserved";

/// Why a request, an input or an output with a parameter of that name is refused.
pub(crate) fn refusal(name: &str) -> Option<&'static str> {
    let shared = name.starts_with("shared_memory_");
    shared.then_some("shared memory is not supported")
}

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
