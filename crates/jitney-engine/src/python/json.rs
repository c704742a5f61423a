//! Takes the text of a JSON array apart into the texts of its elements.

use bytes::Bytes;
use serde_json::value::RawValue;

/// The elements of an array as the worker wrote it, each the text of one strict JSON value, and how many numbers that JSON cannot say
/// (`NaN`, `Infinity`, `-Infinity`) became `null` for that.
///
/// The elements share the memory of the text.
pub(super) fn elements(text: &Bytes) -> Result<(Vec<Bytes>, usize), String> {
    match split(text) {
        Ok(elements) => Ok((elements, 0)),
        Err(error) => {
            let (strict, replaced) = without_nonnumbers(text);
            if replaced == 0 {
                return Err(error);
            }
            Ok((split(&strict.into())?, replaced))
        }
    }
}

fn split(text: &Bytes) -> Result<Vec<Bytes>, String> {
    let values: Vec<&RawValue> = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let element = |value: &RawValue| text.slice_ref(value.get().as_bytes());
    Ok(values.into_iter().map(element).collect())
}

/// The text with `null` for each number that is none. What stands in strings stays.
fn without_nonnumbers(text: &[u8]) -> (Vec<u8>, usize) {
    const NONNUMBERS: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];
    let mut strict = Vec::with_capacity(text.len());
    let (mut at, mut replaced, mut quoted) = (0, 0, false);
    while let Some(&byte) = text.get(at) {
        let found = NONNUMBERS
            .iter()
            .find(|name| !quoted && text[at..].starts_with(name));
        if let Some(name) = found {
            strict.extend_from_slice(b"null");
            replaced += 1;
            at += name.len();
            continue;
        }
        quoted ^= byte == b'"';
        let length = if quoted && byte == b'\\' { 2 } else { 1 };
        let end = text.len().min(at + length);
        strict.extend_from_slice(&text[at..end]);
        at = end;
    }
    (strict, replaced)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(text: &str) -> Result<(Vec<String>, usize), String> {
        let (elements, replaced) = elements(&Bytes::copy_from_slice(text.as_bytes()))?;
        let text = |element: Bytes| String::from_utf8(element.to_vec()).unwrap();
        Ok((elements.into_iter().map(text).collect(), replaced))
    }

    #[test]
    fn arrays_are_taken_apart() {
        let table: [(&str, &[&str], usize); 7] = [
            ("[]", &[], 0),
            (
                r#"[1,"a,b",{"k":[1,2]},null]"#,
                &["1", r#""a,b""#, r#"{"k":[1,2]}"#, "null"],
                0,
            ),
            (
                "[NaN,-Infinity,[Infinity,1]]",
                &["null", "null", "[null,1]"],
                3,
            ),
            (r#"["NaN",NaN]"#, &[r#""NaN""#, "null"], 1),
            (r#"["\"NaN\\",NaN]"#, &[r#""\"NaN\\""#, "null"], 1),
            (r#"[{"NaN":"Infinity"}]"#, &[r#"{"NaN":"Infinity"}"#], 0),
            (r#"["ä",NaN,"日"]"#, &[r#""ä""#, "null", r#""日""#], 1),
        ];
        for (text, expected, replaced) in table {
            assert_eq!(
                texts(text),
                Ok((expected.iter().map(ToString::to_string).collect(), replaced)),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_array_is_refused() {
        for text in [
            "", "{}", "[1", "[1]]", "[1,]", "[NaNa]", "[xNaN", "[\"NaN]", "[\"\\",
        ] {
            assert!(texts(text).is_err(), "{text}");
        }
        assert!(elements(&Bytes::from_static(b"[\"\xff\"]")).is_err());
        assert!(elements(&Bytes::from_static(b"[NaN,\"\xff\"]")).is_err());
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = format!("[{}{}]", "[".repeat(1_000_000), "]".repeat(1_000_000));
        assert_eq!(texts(&deep).unwrap().0.len(), 1);
    }

    proptest! {
        #[test]
        fn elements_are_strict_or_refused(text in r#"\[("[a\\"N]{0,4}"|NaN|-?Infinity|[0-9]{1,3}|\[NaN\]|,|\\){0,8}\]"#) {
            if let Ok((elements, _)) = texts(&text) {
                for element in elements {
                    prop_assert!(serde_json::from_str::<serde_json::Value>(&element).is_ok(), "{}", element);
                }
            }
        }
    }
}
