//! A relative link in a Markdown file leads to a file that exists.

use std::fs;
use std::path::Path;

use super::Finding;
use crate::Outcome;
use crate::workspace::Workspace;

pub(super) fn check(workspace: &Workspace, files: &[String]) -> Outcome<Vec<Finding>> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.ends_with(".md")) {
        let text =
            fs::read_to_string(workspace.path(file)).map_err(|error| format!("{file}: {error}"))?;
        let folder = Path::new(file).parent().unwrap_or(Path::new(""));
        for target in targets(&text) {
            if !workspace.root().join(folder).join(target).exists() {
                findings.push(format!("{file}: links to {target}, which does not exist"));
            }
        }
    }
    Ok(findings)
}

/// The files that inline links lead to, without fragments. Links elsewhere (`https:`, `#section`) and code blocks are left out.
fn targets(text: &str) -> Vec<&str> {
    let prose = text.split("\n```").step_by(2);
    let links = prose.flat_map(|part| part.split("](").skip(1));
    links
        .filter_map(|rest| rest.split([')', '#', ' ']).next())
        .filter(|target| !target.is_empty() && !target.contains(':'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_relative_links_in_prose_count() {
        let text =
            "[a](docs/a.md#part) [b](https://x.y) [c](#here)\n```rust\nv[0](no.md)\n```\n[d](../d)";
        assert_eq!(targets(text), ["docs/a.md", "../d"]);
    }
}
