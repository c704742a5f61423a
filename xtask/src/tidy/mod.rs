//! Rules about the repository that no compiler checks.

mod dependencies;
mod imports;
mod links;
mod reference;
mod scan;
mod traces;

use crate::Outcome;
use crate::setup::Need;
use crate::workspace::Workspace;

/// A place in the repository, and what is wrong there.
type Finding = String;

/// Reports every breach of every rule at once.
pub(crate) fn check(workspace: &Workspace) -> Outcome {
    let files = workspace.files()?;
    let mut findings = Vec::new();
    findings.extend(imports::check(workspace, &files)?);
    findings.extend(dependencies::check(workspace)?);
    findings.extend(links::check(workspace, &files)?);
    findings.extend(traces::check(workspace, &files)?);
    Need::Jitney.provide(workspace)?;
    findings.extend(reference::check(workspace)?);
    if findings.is_empty() {
        println!("tidy: {} files keep the rules", files.len());
        return Ok(());
    }
    let count = findings.len();
    Err(format!("{count} breaches:\n  {}", findings.join("\n  ")))
}

/// Renews the generated parts of the documentation.
pub(crate) fn write(workspace: &Workspace) -> Outcome {
    Need::Jitney.provide(workspace)?;
    reference::write(workspace)
}
