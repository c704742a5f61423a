//! Just enough of a reader of Rust sources to tell which paths a module names.

/// The source without comments, string contents and the unit tests at its end.
pub(super) fn code(source: &str) -> String {
    let product = source
        .split("\n#[cfg(test)]\nmod ")
        .next()
        .unwrap_or(source);
    let mut code = String::with_capacity(product.len());
    let mut rest = product;
    while let Some(character) = rest.chars().next() {
        let skip = skipped(rest);
        if skip == 0 {
            code.push(character);
            rest = &rest[character.len_utf8()..];
        } else {
            code.push(' ');
            rest = &rest[skip..];
        }
    }
    code
}

/// The names that follow `prefix::` anywhere in the code: `x` of `prefix::x::y`, and `x` and `z` of `prefix::{x::y, z}`.
pub(super) fn names_after(code: &str, prefix: &str) -> Vec<String> {
    let needle = format!("{prefix}::");
    let mut names = Vec::new();
    for (at, _) in code.match_indices(&needle) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| is_word(c) || c == ':') {
            continue;
        }
        let rest = &code[at + needle.len()..];
        match rest.strip_prefix('{') {
            Some(group) => names.extend(heads(group)),
            None => names.extend(head(rest)),
        }
    }
    names
}

/// How many bytes of a comment or a literal stand at the start of `rest`.
fn skipped(rest: &str) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return rest.find("*/").map_or(rest.len(), |end| end + 2);
    }
    if rest.starts_with("'\"'") {
        return 3;
    }
    raw_string(rest).or_else(|| string(rest)).unwrap_or(0)
}

fn raw_string(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let body = after[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let end = body.find(&close)?;
    Some(1 + hashes + 1 + end + close.len())
}

fn string(rest: &str) -> Option<usize> {
    let body = rest.strip_prefix('"')?;
    let mut escaped = false;
    for (at, character) in body.char_indices() {
        match character {
            '"' if !escaped => return Some(at + 2),
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    None
}

fn head(path: &str) -> Option<String> {
    let name: String = path.chars().take_while(|c| is_word(*c)).collect();
    (!name.is_empty()).then_some(name)
}

/// The first names of the paths in a group whose opening brace is read already.
fn heads(group: &str) -> Vec<String> {
    let mut depth = 0;
    let mut names = Vec::new();
    let mut item = String::new();
    for character in group.chars() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.extend(head(std::mem::take(&mut item).trim())),
            _ if depth == 0 => item.push(character),
            _ => {}
        }
    }
    names.extend(head(item.trim()));
    names
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_names_and_nothing_else() {
        let source = r##"
use crate::alpha::Beta;
use crate::{gamma, delta::{Inner, other}, Epsilon};
// use crate::comment;
/* crate::block */
fn f() { let _ = "crate::text \" crate::more"; let _ = r#"crate::raw"#; let _ = '"'; crate::zeta::call(); not_crate::eta(); }

#[cfg(test)]
mod tests { use crate::only_in_tests; }
"##;
        let code = code(source);
        assert_eq!(
            names_after(&code, "crate"),
            ["alpha", "gamma", "delta", "Epsilon", "zeta"]
        );
    }

    #[test]
    fn a_path_of_another_crate_with_the_same_ending_is_not_it() {
        assert!(names_after("use ::my_serde::x; a::serde::y", "serde").is_empty());
        assert_eq!(
            names_after("derive(serde::Serialize)", "serde"),
            ["Serialize"]
        );
    }
}
