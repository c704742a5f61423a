//! The CPythons of this machine, one of each version that a worker runs on. Each gets an environment with numpy, for typed models.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Outcome;
use crate::shell;
use crate::workspace::Workspace;

/// The minor versions of Python 3 on which a worker runs.
const MINORS: std::ops::RangeInclusive<u32> = 9..=14;
const REQUIREMENTS: &str = "crates/jitney-engine/tests/python/requirements.txt";

/// The interpreters to test, the environment of the tests first.
pub(crate) fn find(workspace: &Workspace) -> Vec<PathBuf> {
    let own = workspace.python();
    let covered = version(&own);
    let others = installed()
        .into_iter()
        .filter(|(minor, _)| Some(*minor) != covered);
    let others = others.map(|(minor, bare)| {
        let ready = environment(workspace, minor).join("bin/python");
        if ready.exists() { ready } else { bare }
    });
    std::iter::once(own).chain(others).collect()
}

/// Makes the environments that are missing. An interpreter that cannot have one is tested as it is.
pub(crate) fn provide(workspace: &Workspace) -> Outcome {
    let wanted = fs::read_to_string(workspace.path(REQUIREMENTS))
        .map_err(|error| format!("{REQUIREMENTS}: {error}"))?;
    let covered = version(&workspace.python());
    for (minor, bare) in installed() {
        if Some(minor) == covered {
            continue;
        }
        if let Err(error) = make(workspace, &environment(workspace, minor), &bare, &wanted) {
            println!("{error}: Python 3.{minor} is tested without numpy");
        }
    }
    Ok(())
}

fn make(workspace: &Workspace, folder: &Path, bare: &Path, wanted: &str) -> Outcome {
    let stamp = folder.join("requirements.installed");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    let made = shell::run(Command::new(bare).args(["-m", "venv"]).arg(folder))
        .and_then(|()| install(workspace, folder));
    if made.is_err() {
        let _ = fs::remove_dir_all(folder);
    }
    made?;
    fs::write(&stamp, wanted).map_err(|error| format!("{}: {error}", stamp.display()))
}

fn install(workspace: &Workspace, folder: &Path) -> Outcome {
    let mut pip = workspace.command(folder.join("bin/python"));
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]);
    shell::run(pip.args(["--requirement", REQUIREMENTS]))
}

fn environment(workspace: &Workspace, minor: u32) -> PathBuf {
    workspace.target().join(format!("pythons/3.{minor}"))
}

/// One interpreter for each version: from the `PATH`, else from pyenv.
fn installed() -> BTreeMap<u32, PathBuf> {
    let mut found = BTreeMap::new();
    for python in candidates().into_iter().filter(|python| python.is_file()) {
        if let Some(minor) = version(&python).filter(|minor| MINORS.contains(minor)) {
            found.entry(minor).or_insert(python);
        }
    }
    found
}

fn candidates() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut candidates = Vec::new();
    for folder in env::split_paths(&path) {
        candidates.extend(MINORS.map(|minor| folder.join(format!("python3.{minor}"))));
        candidates.push(folder.join("python3"));
    }
    candidates.extend(of_pyenv());
    candidates
}

fn of_pyenv() -> Vec<PathBuf> {
    let home = || Some(PathBuf::from(env::var_os("HOME")?).join(".pyenv"));
    let root = env::var_os("PYENV_ROOT").map(PathBuf::from).or_else(home);
    let versions = root.and_then(|root| fs::read_dir(root.join("versions")).ok());
    let folders = versions.into_iter().flatten().flatten();
    let mut pythons: Vec<PathBuf> = folders
        .map(|folder| folder.path().join("bin/python3"))
        .collect();
    pythons.sort();
    pythons
}

/// The minor version of a CPython 3 that works; a launcher without the version it is named after does not.
fn version(python: &Path) -> Option<u32> {
    const SAY: &str =
        "import sys; print(sys.implementation.name, sys.version_info[0], sys.version_info[1])";
    let said = shell::output(Command::new(python).args(["-c", SAY])).ok()?;
    said.trim().strip_prefix("cpython 3 ")?.parse().ok()
}
