//! Finds the library of ONNX Runtime on the machine.
//!
//! Looking takes a few directory listings, far below a millisecond: a Python is started only when it was named by the user and does not
//! show its packages by where it lies.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a Python may take to say where its packages are.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a Python is asked: where the package is, without importing it.
const QUESTION: &str = "import importlib.util, sys\n\
                        spec = importlib.util.find_spec('onnxruntime')\n\
                        sys.stdout.write((spec and spec.origin) or '')";

/// Where library folders are that are not named by a variable.
const SYSTEM: [&str; 7] = [
    "/usr/local/lib",
    "/usr/lib",
    "/usr/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/opt/homebrew/lib",
    "/opt/onnxruntime/lib",
];

/// Finds the library of ONNX Runtime: the file that `ORT_DYLIB_PATH` names, else that of the `onnxruntime` package of the given Python, of
/// the active virtual environment (`VIRTUAL_ENV`, `CONDA_PREFIX`), or of the `python3` on the `PATH`, else one of the system.
///
/// A path in `ORT_DYLIB_PATH` is taken at its word, so that a wrong one is reported and not silently replaced.
pub fn find(python: Option<&Path>) -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(library) = variable("ORT_DYLIB_PATH") {
        return Some(library.into());
    }
    if let Some(python) = python {
        return of_python(python).or_else(|| of_asked_python(python));
    }
    let environments = [variable("VIRTUAL_ENV"), variable("CONDA_PREFIX")];
    let active = environments.into_iter().flatten();
    let paths = |name| {
        let value = variable(name).unwrap_or_default();
        std::env::split_paths(&value).collect::<Vec<_>>()
    };
    active
        .map(PathBuf::from)
        .find_map(|prefix| of_prefix(&prefix))
        .or_else(|| of_path(&paths("PATH")))
        .or_else(|| of_user(Path::new(&variable("HOME")?)))
        .or_else(|| of_system(&paths("LD_LIBRARY_PATH")))
}

fn of_path(path: &[PathBuf]) -> Option<PathBuf> {
    let name = format!("python3{}", std::env::consts::EXE_SUFFIX);
    let python = path.iter().map(|folder| folder.join(&name));
    of_python(&python.into_iter().find(|python| python.is_file())?)
}

/// Looks where the packages of an interpreter lie, which is beside it; for a virtual environment that is before links are followed, for
/// others after.
fn of_python(python: &Path) -> Option<PathBuf> {
    let prefix = |python: &Path| of_prefix(python.parent()?.parent()?);
    prefix(python).or_else(|| prefix(&python.canonicalize().ok()?))
}

fn of_prefix(prefix: &Path) -> Option<PathBuf> {
    let windows = prefix.join("Lib").join("site-packages");
    let debian = prefix.join("lib").join("python3");
    let local = prefix.join("local").join("lib");
    (versions(&prefix.join("lib")).into_iter())
        .chain(versions(&local))
        .chain([debian])
        .flat_map(|folder| ["site-packages", "dist-packages"].map(|name| folder.join(name)))
        .chain([windows])
        .find_map(|packages| of_packages(&packages))
}

fn of_user(home: &Path) -> Option<PathBuf> {
    let folders = versions(&home.join(".local").join("lib"));
    let mut packages = folders.iter().map(|folder| folder.join("site-packages"));
    packages.find_map(|packages| of_packages(&packages))
}

fn of_packages(packages: &Path) -> Option<PathBuf> {
    library_in(&packages.join("onnxruntime").join("capi"))
}

fn of_system(library_path: &[PathBuf]) -> Option<PathBuf> {
    let named = library_path.iter().map(PathBuf::as_path);
    named.chain(SYSTEM.map(Path::new)).find_map(library_in)
}

/// Asks an interpreter that hides its packages, such as a launcher that picks one of several.
fn of_asked_python(python: &Path) -> Option<PathBuf> {
    let mut child = Command::new(python)
        .args(["-c", QUESTION])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let deadline = Instant::now() + PATIENCE;
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() > deadline {
            // A Python that hangs is given up; there is nobody to tell but the person who named it.
            tracing::warn!("{} does not answer; it is not searched", python.display());
            child.kill().and_then(|()| child.wait()).ok()?;
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let answer = child.wait_with_output().ok()?;
    let init = PathBuf::from(String::from_utf8(answer.stdout).ok()?);
    library_in(&init.parent()?.join("capi"))
}

/// The folders of Python versions, `lib/python3.12` and so on, the newest first.
fn versions(lib: &Path) -> Vec<PathBuf> {
    let minor = |path: &PathBuf| -> Option<u32> {
        let name = path.file_name()?.to_str()?;
        name.strip_prefix("python3.")?.parse().ok()
    };
    let entries = std::fs::read_dir(lib).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    found.retain(|path| minor(path).is_some());
    found.sort_by_key(|path| std::cmp::Reverse(minor(path)));
    found
}

/// The library in a folder; of several the one with the shortest name, which is the link to the newest.
fn library_in(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?.flatten();
    let libraries = entries.filter(|entry| is_library(&entry.file_name()));
    libraries
        .map(|entry| entry.path())
        .min_by_key(|path| path.as_os_str().len())
}

fn is_library(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else {
        return false;
    };
    name == "onnxruntime.dll"
        || name == "libonnxruntime.dylib"
        || name == "libonnxruntime.so"
        || name.starts_with("libonnxruntime.so.")
        || (name.starts_with("libonnxruntime.") && name.ends_with(".dylib"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Makes an empty file and the folders to it.
    fn touch(path: &Path) -> PathBuf {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
        path.to_path_buf()
    }

    const CAPI: &str = "site-packages/onnxruntime/capi/libonnxruntime.so.1.31.1";

    #[test]
    fn a_virtual_environment_is_searched_by_path() {
        let root = tempfile::tempdir().unwrap();
        let venv = root.path();
        assert_eq!(of_prefix(venv), None);
        touch(&venv.join("lib/python3.9").join(CAPI));
        let newer = touch(&venv.join("lib/python3.12").join(CAPI));
        touch(&venv.join("lib/python3.13/site-packages/numpy/__init__.py"));
        assert_eq!(of_prefix(venv), Some(newer.clone()));
        let python = touch(&venv.join("bin/python"));
        assert_eq!(of_python(&python), Some(newer));
    }

    #[cfg(unix)]
    #[test]
    fn links_to_an_interpreter_are_followed_only_where_there_is_nothing_beside_them() {
        let root = tempfile::tempdir().unwrap();
        let real = touch(&root.path().join("opt/bin/python3"));
        let library = touch(&root.path().join("opt/lib/python3.11").join(CAPI));
        let link = root.path().join("usr/bin/python3");
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(real, &link).unwrap();
        let found = of_path(&["nowhere".into(), link.parent().unwrap().into()]);
        assert_eq!(
            found.unwrap().canonicalize().unwrap(),
            library.canonicalize().unwrap()
        );
        let beside = touch(&root.path().join("usr/lib/python3.11").join(CAPI));
        assert_eq!(of_python(&link), Some(beside));
    }

    #[test]
    fn debian_and_users_keep_their_packages_elsewhere() {
        let root = tempfile::tempdir().unwrap();
        let home = root.path().join("home");
        let theirs = touch(&home.join(".local/lib/python3.11").join(CAPI));
        assert_eq!(of_user(&home), Some(theirs));
        let dist = "dist-packages/onnxruntime/capi/libonnxruntime.so.1.21.0";
        let debian = touch(&root.path().join("usr/local/lib/python3.11").join(dist));
        assert_eq!(of_prefix(&root.path().join("usr")), Some(debian));
    }

    #[test]
    fn the_library_is_told_from_its_neighbours() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "libonnxruntime_providers_shared.so",
            "onnxruntime.py",
            "libonnxruntime.a",
        ] {
            touch(&folder.path().join(name));
        }
        assert_eq!(library_in(folder.path()), None);
        touch(&folder.path().join("libonnxruntime.so.1.31.1"));
        let link = touch(&folder.path().join("libonnxruntime.so.1"));
        assert_eq!(library_in(folder.path()), Some(link));
    }

    #[cfg(unix)]
    #[test]
    fn a_launcher_is_asked() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        let library = touch(
            &root
                .path()
                .join("packages/onnxruntime/capi/libonnxruntime.so"),
        );
        let init = root.path().join("packages/onnxruntime/__init__.py");
        let launcher = touch(&root.path().join("shims/python"));
        fs::write(
            &launcher,
            format!("#!/bin/sh\nprintf %s '{}'\n", init.display()),
        )
        .unwrap();
        fs::set_permissions(&launcher, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(of_asked_python(&launcher), Some(library));
        assert_eq!(of_asked_python(&root.path().join("none")), None);
    }
}
