//! Finds the interpreter that runs the workers.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::LoadError;

/// The interpreter for a model: the named one, else that of the active virtual environment (`VIRTUAL_ENV`), else the first `python3` on the
/// `PATH`. Its version is looked at when it starts.
///
/// # Errors
/// When there is none where it was looked for.
pub fn find(named: Option<&Path>) -> Result<PathBuf, LoadError> {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
    let found = find_in(
        named,
        variable("VIRTUAL_ENV").as_deref(),
        variable("PATH").as_deref(),
    )?;
    Ok(behind_a_script(&found).unwrap_or(found))
}

/// The interpreter behind a script that only looks for one, as version managers put on the `PATH`: a worker that is replaced need not
/// wait for the search again.
fn behind_a_script(python: &Path) -> Option<PathBuf> {
    let mut start = [0; 2];
    File::open(python).ok()?.read_exact(&mut start).ok()?;
    if start != *b"#!" {
        return None;
    }
    let tell = "import sys; sys.stdout.write(sys.executable)";
    let told = Command::new(python)
        .args(["-I", "-S", "-c", tell])
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let found = PathBuf::from(OsString::from_vec(told.stdout));
    found.is_file().then_some(found)
}

fn find_in(
    named: Option<&Path>,
    environment: Option<&OsStr>,
    path: Option<&OsStr>,
) -> Result<PathBuf, LoadError> {
    if let Some(named) = named {
        let found = if named.components().count() == 1 {
            on_path(named, path)
        } else {
            named.is_file().then(|| named.to_path_buf())
        };
        return found.ok_or_else(|| {
            LoadError::new(format!(
                "there is no Python interpreter at {}",
                named.display()
            ))
            .hint("give --python the path of one, such as .venv/bin/python")
        });
    }
    if let Some(environment) = environment {
        let python = Path::new(environment).join("bin/python");
        return if python.is_file() {
            Ok(python)
        } else {
            Err(LoadError::new(format!(
                "VIRTUAL_ENV names {}, but there is no bin/python in it",
                Path::new(environment).display()
            ))
            .hint("activate another environment, or name an interpreter with --python"))
        };
    }
    on_path(Path::new("python3"), path).ok_or_else(|| {
        LoadError::new("Python was not found: there is no python3 on the PATH")
            .hint("install CPython 3.9 or newer, or name an interpreter with --python")
    })
}

fn on_path(name: &Path, path: Option<&OsStr>) -> Option<PathBuf> {
    env::split_paths(path?)
        .map(|folder| folder.join(name))
        .find(|python| python.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_explicit_place_wins() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| {
            let bin = folder.path().join(name).join("bin");
            std::fs::create_dir_all(&bin).unwrap();
            for python in ["python", "python3", "python3.12"] {
                std::fs::write(bin.join(python), "").unwrap();
            }
            bin
        };
        let (named, path) = (place("named").join("python"), place("path"));
        place("venv");
        let environment = folder.path().join("venv");
        let find = |named: Option<&Path>, environment: Option<&Path>| {
            find_in(
                named,
                environment.map(Path::as_os_str),
                Some(path.as_os_str()),
            )
        };
        assert_eq!(find(Some(&named), Some(&environment)), Ok(named));
        let bare = Some(Path::new("python3.12"));
        assert_eq!(find(bare, Some(&environment)), Ok(path.join("python3.12")));
        assert_eq!(
            find(None, Some(&environment)),
            Ok(environment.join("bin/python"))
        );
        assert_eq!(find(None, None), Ok(path.join("python3")));
    }

    #[test]
    fn a_script_that_looks_for_an_interpreter_is_asked_once() {
        let folder = tempfile::tempdir().unwrap();
        let (real, script) = (folder.path().join("real"), folder.path().join("script"));
        std::fs::write(&real, "").unwrap();
        let text = format!("#!/bin/sh\nprintf %s '{}'\n", real.display());
        std::fs::write(&script, text).unwrap();
        let mut open = std::fs::metadata(&script).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut open, 0o755);
        std::fs::set_permissions(&script, open).unwrap();
        assert_eq!(behind_a_script(&script), Some(real.clone()));
        assert_eq!(behind_a_script(&real), None, "it is no script");
    }

    #[test]
    fn what_is_missing_is_named() {
        let nowhere = Path::new("/nowhere");
        let table = [
            (
                find_in(Some(&nowhere.join("python")), None, None),
                "at /nowhere/python",
            ),
            (
                find_in(None, Some(nowhere.as_os_str()), None),
                "VIRTUAL_ENV names /nowhere",
            ),
            (
                find_in(None, None, Some(nowhere.as_os_str())),
                "no python3 on the PATH",
            ),
        ];
        for (found, expected) in table {
            let error = found.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
