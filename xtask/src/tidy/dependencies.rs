//! A dependency earns its place with a line in the table of `docs/design/dependencies.md`.

use std::collections::BTreeSet;
use std::fs;

use super::Finding;
use crate::Outcome;
use crate::workspace::Workspace;

const TABLE: &str = "docs/design/dependencies.md";

pub(super) fn check(workspace: &Workspace) -> Outcome<Vec<Finding>> {
    let read = |file: &str| {
        fs::read_to_string(workspace.path(file)).map_err(|error| format!("{file}: {error}"))
    };
    Ok(compare(
        &declared(&read("Cargo.toml")?),
        &explained(&read(TABLE)?),
    ))
}

fn compare(declared: &BTreeSet<String>, explained: &BTreeSet<String>) -> Vec<Finding> {
    let missing = declared
        .difference(explained)
        .map(|name| format!("{TABLE}: has no line for the dependency {name}"));
    let stale = explained
        .difference(declared)
        .map(|name| format!("{TABLE}: explains {name}, which is not a dependency"));
    missing.chain(stale).collect()
}

/// The foreign crates in `[workspace.dependencies]`.
fn declared(manifest: &str) -> BTreeSet<String> {
    let section = manifest
        .split("[workspace.dependencies]")
        .nth(1)
        .unwrap_or("");
    section
        .lines()
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.contains("path ="))
        .filter_map(|line| Some(line.split_once('=')?.0.trim().to_owned()))
        .filter(|name| !name.starts_with('#'))
        .collect()
}

/// The names in the first column of the table, written as code.
fn explained(table: &str) -> BTreeSet<String> {
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| Some(row.split_once('`')?.0.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_are_compared() {
        let manifest = "[workspace.dependencies]\nown = { path = \"x\" }\na = \"1\"\nb = { version = \"2\" }\n\n[profile.dev]\nc = 1\n";
        let table = "| crate | for |\n|---|---|\n| `a` | this |\n| `z` | that |\n";
        let findings = compare(&declared(manifest), &explained(table));
        assert_eq!(findings.len(), 2);
        assert!(findings[0].contains("no line for the dependency b"));
        assert!(findings[1].contains("explains z"));
    }
}
