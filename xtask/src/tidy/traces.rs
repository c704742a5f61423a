//! Nothing in the repository may speak of the machine it was written on, or of where packages come from.

use std::fs;

use super::Finding;
use crate::Outcome;
use crate::workspace::Workspace;

/// Written in two halves, so that this file is not its own finding.
const BANNED: &[(&str, &str)] = &[
    (concat!("/wo", "rk/"), "a path of one machine"),
    (concat!("/ro", "ot/"), "a path of one machine"),
    (concat!("/ho", "me/"), "a path of one machine"),
    (
        concat!("static.crat", "es.io"),
        "the host of a package registry",
    ),
    (
        concat!("index.crat", "es.io"),
        "the host of a package registry",
    ),
    (
        concat!("crates.io-", "index"),
        "the host of a package registry",
    ),
    (concat!("pypi", ".org"), "the host of a package registry"),
    (
        concat!("pythonhosted", ".org"),
        "the host of a package registry",
    ),
    (concat!("npmjs", ".org"), "the host of a package registry"),
    (
        concat!("deb.debian", ".org"),
        "the host of a package registry",
    ),
];

pub(super) fn check(workspace: &Workspace, files: &[String]) -> Outcome<Vec<Finding>> {
    let mut findings = Vec::new();
    // Cargo writes where every package came from into its lock file.
    for file in files.iter().filter(|file| !file.ends_with("Cargo.lock")) {
        let bytes = fs::read(workspace.path(file)).map_err(|error| format!("{file}: {error}"))?;
        let Ok(text) = String::from_utf8(bytes) else {
            continue;
        };
        findings.extend(in_text(file, &text));
    }
    Ok(findings)
}

fn in_text(file: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for (banned, what) in BANNED {
            if line.contains(banned) {
                findings.push(format!("{file}:{}: names {what}: {banned}", number + 1));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_found_with_its_line() {
        let text = format!("fine\nsee {}x\n", concat!("/wo", "rk/"));
        let findings = in_text("a.md", &text);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].starts_with("a.md:2: "), "{findings:?}");
    }
}
