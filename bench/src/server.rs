//! A server under test: a child process on a core of its own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::Outcome;

/// The core of the server, and the one of the load.
pub(crate) const SERVER_CORE: &str = "0";
pub(crate) const LOAD_CORE: &str = "1";

pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    /// Seconds from the start of the process to its ready line.
    pub(crate) ready: f64,
}

impl Server {
    /// Starts a program on the server's core and waits for its ready line.
    pub(crate) fn start(program: &Path, arguments: &[&str]) -> Outcome<Server> {
        let started = Instant::now();
        let mut child = pinned(program)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("no standard output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let ready = started.elapsed().as_secs_f64();
        let address = line
            .split_whitespace()
            .find_map(|word| word.strip_prefix("http="));
        let Some(address) = address else {
            child.kill()?;
            return Err(format!(
                "{} printed {line:?} instead of a ready line",
                program.display()
            )
            .into());
        };
        Ok(Server {
            address: address.parse()?,
            child,
            ready,
        })
    }

    /// Resident memory in megabytes.
    pub(crate) fn resident(&self) -> Outcome<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .ok_or("no VmRSS")?;
        let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kilobytes / 1024.0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A command on the server's core.
pub(crate) fn pinned(program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", SERVER_CORE]).arg(program);
    command
}

/// A program built beside this one.
pub(crate) fn sibling(name: &str) -> Outcome<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    if path.exists() {
        Ok(path)
    } else {
        Err(format!(
            "{} is missing: run cargo build --release --workspace",
            path.display()
        )
        .into())
    }
}
