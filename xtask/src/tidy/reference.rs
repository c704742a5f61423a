//! The reference pages hold text that the `jitney` command prints about itself, between two markers:
//!
//! ```text
//! <!-- printed by: jitney reference errors -->
//! ...
//! <!-- end -->
//! ```

use std::fs;
use std::path::PathBuf;

use super::Finding;
use crate::workspace::Workspace;
use crate::{Outcome, shell};

const OPEN: &str = "<!-- printed by: jitney reference ";
const CLOSE: &str = "<!-- end -->";

pub(super) fn check(workspace: &Workspace) -> Outcome<Vec<Finding>> {
    let mut findings = Vec::new();
    for page in pages(workspace)? {
        let text = read(&page)?;
        if renewed(&text, &printer(workspace))? != text {
            let shown = page
                .strip_prefix(workspace.root())
                .unwrap_or(&page)
                .display();
            findings.push(format!(
                "{shown}: is not what the code prints; renew it with: cargo xtask tidy --write"
            ));
        }
    }
    Ok(findings)
}

pub(super) fn write(workspace: &Workspace) -> Outcome {
    for page in pages(workspace)? {
        let text = renewed(&read(&page)?, &printer(workspace))?;
        fs::write(&page, text).map_err(|error| format!("{}: {error}", page.display()))?;
    }
    Ok(())
}

fn pages(workspace: &Workspace) -> Outcome<Vec<PathBuf>> {
    let files = workspace.files()?;
    let docs = files
        .iter()
        .filter(|file| file.starts_with("docs/") && file.ends_with(".md"));
    Ok(docs.map(|file| workspace.path(file)).collect())
}

fn printer(workspace: &Workspace) -> impl Fn(&str) -> Outcome<String> {
    |topic| {
        shell::output(
            workspace
                .command(workspace.jitney())
                .args(["reference", topic]),
        )
    }
}

/// The page with what stands between each pair of markers printed anew.
fn renewed(page: &str, print: &impl Fn(&str) -> Outcome<String>) -> Outcome<String> {
    let mut result = String::new();
    let mut rest = page;
    while let Some(at) = rest.find(OPEN) {
        let after = &rest[at + OPEN.len()..];
        let (topic, body) = after
            .split_once(" -->\n")
            .ok_or("a marker without its end")?;
        let end = body
            .find(CLOSE)
            .ok_or_else(|| format!("no `{CLOSE}` after the marker of {topic}"))?;
        result.push_str(&rest[..at]);
        result.push_str(&format!(
            "{OPEN}{topic} -->\n{}\n",
            print(topic)?.trim_end()
        ));
        rest = &body[end..];
    }
    result.push_str(rest);
    Ok(result)
}

fn read(path: &PathBuf) -> Outcome<String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let page = format!("before\n{OPEN}errors -->\nold\n{CLOSE}\nafter\n");
        let print = |topic: &str| Ok(format!("new {topic}\n"));
        let expected = format!("before\n{OPEN}errors -->\nnew errors\n{CLOSE}\nafter\n");
        assert_eq!(renewed(&page, &print).unwrap(), expected);
        assert_eq!(renewed(&expected, &print).unwrap(), expected);
    }
}
