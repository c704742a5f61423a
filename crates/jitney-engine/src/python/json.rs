//! Takes the text of a JSON array apart into the texts of its elements.

use bytes::Bytes;
use serde_json::value::RawValue;

/// The elements of an array as the worker wrote it, each the text of one strict JSON value, and how many numbers of each JSON does not have:
/// `NaN`, `Infinity` and `-Infinity` are put in quotes. No counts where there is no such number.
///
/// The elements share the memory of the text.
pub(super) fn elements(text: &Bytes) -> Result<(Vec<Bytes>, Vec<i64>), String> {
    match split(text) {
        Ok(elements) => Ok((elements, Vec::new())),
        Err(error) => {
            let (strict, quoted) = with_quoted_words(text);
            if quoted.is_empty() {
                return Err(error);
            }
            let strict = Bytes::from(strict);
            let elements = split(&strict)?;
            let counts = count(&strict, &elements, &quoted);
            Ok((elements, counts))
        }
    }
}

fn split(text: &Bytes) -> Result<Vec<Bytes>, String> {
    let values: Vec<&RawValue> = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let element = |value: &RawValue| text.slice_ref(value.get().as_bytes());
    Ok(values.into_iter().map(element).collect())
}

/// How many of these places of the text, which are in order, lie in each of its elements.
fn count(text: &Bytes, elements: &[Bytes], places: &[usize]) -> Vec<i64> {
    let mut places = places.iter().peekable();
    let in_element = |element: &Bytes| {
        let end = element.as_ptr() as usize - text.as_ptr() as usize + element.len();
        let mut count = 0;
        while places.next_if(|place| **place < end).is_some() {
            count += 1;
        }
        count
    };
    elements.iter().map(in_element).collect()
}

/// The text with quotes around each word for what is no number, and where in it they are. What stands in strings stays.
fn with_quoted_words(text: &[u8]) -> (Vec<u8>, Vec<usize>) {
    const WORDS: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];
    let mut strict = Vec::with_capacity(text.len());
    let (mut at, mut places, mut in_string) = (0, Vec::new(), false);
    while let Some(&byte) = text.get(at) {
        let found = WORDS
            .iter()
            .find(|word| !in_string && text[at..].starts_with(word));
        if let Some(word) = found {
            places.push(strict.len());
            strict.push(b'"');
            strict.extend_from_slice(word);
            strict.push(b'"');
            at += word.len();
            continue;
        }
        in_string ^= byte == b'"';
        let length = if in_string && byte == b'\\' { 2 } else { 1 };
        let end = text.len().min(at + length);
        strict.extend_from_slice(&text[at..end]);
        at = end;
    }
    (strict, places)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(text: &str) -> Result<(Vec<String>, Vec<i64>), String> {
        let (elements, replaced) = elements(&Bytes::copy_from_slice(text.as_bytes()))?;
        let text = |element: Bytes| String::from_utf8(element.to_vec()).unwrap();
        Ok((elements.into_iter().map(text).collect(), replaced))
    }

    #[test]
    fn arrays_are_taken_apart() {
        let table: [(&str, &[&str], &[i64]); 7] = [
            ("[]", &[], &[]),
            (
                r#"[1,"a,b",{"k":[1,2]},null]"#,
                &["1", r#""a,b""#, r#"{"k":[1,2]}"#, "null"],
                &[],
            ),
            (
                "[NaN,0,[Infinity,1,-Infinity]]",
                &[r#""NaN""#, "0", r#"["Infinity",1,"-Infinity"]"#],
                &[1, 0, 2],
            ),
            (r#"["NaN",NaN]"#, &[r#""NaN""#, r#""NaN""#], &[0, 1]),
            (r#"["\"NaN\\",NaN]"#, &[r#""\"NaN\\""#, r#""NaN""#], &[0, 1]),
            (r#"[{"NaN":"Infinity"}]"#, &[r#"{"NaN":"Infinity"}"#], &[]),
            (
                r#"["ä",NaN,"日"]"#,
                &[r#""ä""#, r#""NaN""#, r#""日""#],
                &[0, 1, 0],
            ),
        ];
        for (text, expected, replaced) in table {
            assert_eq!(
                texts(text),
                Ok((
                    expected.iter().map(ToString::to_string).collect(),
                    replaced.to_vec()
                )),
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
