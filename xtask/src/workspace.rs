//! Where things are.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Outcome;
use crate::shell;

/// The folders of this workspace.
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// Finds the root from where this program's sources are.
    pub(crate) fn open() -> Outcome<Workspace> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = manifest.parent().ok_or("xtask has no parent folder")?;
        Ok(Workspace {
            root: root.to_path_buf(),
        })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    pub(crate) fn target(&self) -> PathBuf {
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| self.path("target"), PathBuf::from)
    }

    /// The Python environment of the tests.
    pub(crate) fn venv(&self) -> PathBuf {
        self.target().join("venv")
    }

    pub(crate) fn python(&self) -> PathBuf {
        self.venv().join("bin/python")
    }

    /// The public clients of the protocols, which have a Python environment of their own.
    pub(crate) fn clients(&self) -> PathBuf {
        self.target().join("clients")
    }

    pub(crate) fn clients_python(&self) -> PathBuf {
        self.clients().join("venv/bin/python")
    }

    /// The models that tests load, beside those committed.
    pub(crate) fn models(&self) -> PathBuf {
        self.target().join("models")
    }

    /// The `jitney` command as the tests build it.
    pub(crate) fn jitney(&self) -> PathBuf {
        self.target().join("debug/jitney")
    }

    /// A command that runs in the root, with the Python environment of the tests as the active one.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root);
        if self.python().exists() {
            let bin = self.venv().join("bin");
            let path = std::env::var_os("PATH").unwrap_or_default();
            let paths = std::iter::once(bin).chain(std::env::split_paths(&path));
            if let Ok(joined) = std::env::join_paths(paths) {
                command.env("PATH", joined);
            }
            command.env("VIRTUAL_ENV", self.venv());
        }
        command
    }

    pub(crate) fn cargo(&self, args: &[&str]) -> Command {
        let mut command = self.command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(args);
        command
    }

    /// The files that belong to the repository, relative to the root: tracked, or new and not ignored.
    pub(crate) fn files(&self) -> Outcome<Vec<String>> {
        let mut command = Command::new("git");
        command.current_dir(&self.root);
        command.args(["ls-files", "--cached", "--others", "--exclude-standard"]);
        let mut files: Vec<String> = shell::output(&mut command)?
            .lines()
            .map(str::to_owned)
            .filter(|file| self.path(file).is_file())
            .collect();
        files.sort_unstable();
        files.dedup();
        Ok(files)
    }
}
