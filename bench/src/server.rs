//! A server under test: a child process on a core of its own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::ask::Client;
use crate::process::{self, Process};

/// The core of the server, and the one of the load.
pub(crate) const SERVER_CORE: &str = "0";
pub(crate) const LOAD_CORE: &str = "1";

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(5);

pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    /// Seconds from the start of the process until it was ready.
    pub(crate) ready: f64,
    /// Every process of it that was ever seen, so that none is left behind where it loses them itself.
    seen: Mutex<Vec<Process>>,
}

impl Server {
    /// Starts a program on the server's core and waits for its ready line.
    pub(crate) fn start(program: &Path, arguments: &[&str]) -> Outcome<Server> {
        let mut command = pinned(program);
        command.args(arguments);
        Server::announced(&mut command)
    }

    /// Starts a command and waits for its ready line.
    pub(crate) fn announced(command: &mut Command) -> Outcome<Server> {
        let started = Instant::now();
        let mut child = command
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
            return Err(format!("{command:?} printed {line:?} instead of a ready line").into());
        };
        Ok(Server::ready(child, address.parse()?, ready))
    }

    /// Starts a command that says nothing, and waits until it answers this request well.
    pub(crate) fn silent(
        command: &mut Command,
        address: SocketAddr,
        probe: &[u8],
    ) -> Outcome<Server> {
        let started = Instant::now();
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut client = Client::new(address, START_LIMIT);
        while client.ask(probe).status != 200 {
            if child.try_wait()?.is_some() {
                return Err(format!("{command:?} ended before it was ready").into());
            }
            if started.elapsed() > START_LIMIT {
                child.kill()?;
                return Err(format!("{command:?} was not ready in {START_LIMIT:?}").into());
            }
            sleep(Duration::from_millis(20));
        }
        let ready = started.elapsed().as_secs_f64();
        Ok(Server::ready(child, address, ready))
    }

    fn ready(child: Child, address: SocketAddr, ready: f64) -> Server {
        let server = Server {
            child,
            address,
            ready,
            seen: Mutex::default(),
        };
        server.tree();
        server
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its processes, itself first.
    pub(crate) fn tree(&self) -> Vec<Process> {
        let tree = process::tree(self.child.id());
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.extend(tree.iter().cloned());
        seen.sort();
        seen.dedup_by_key(|process| process.pid);
        tree
    }

    /// Resident memory in megabytes.
    pub(crate) fn resident(&self) -> Outcome<f64> {
        process::resident(self.child.id())
    }

    /// Ends the server as an operator does, and every process it leaves behind: how many those were.
    pub(crate) fn stop(mut self) -> usize {
        self.end()
    }

    fn end(&mut self) -> usize {
        if let Some(root) = self.tree().first() {
            root.signal("TERM");
        }
        let asked = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && asked.elapsed() < STOP_LIMIT {
            sleep(Duration::from_millis(10));
        }
        self.child.kill().ok();
        self.child.wait().ok();
        let seen = std::mem::take(self.seen.get_mut().unwrap_or_else(PoisonError::into_inner));
        // Those that end by themselves get the time to do so.
        sleep(Duration::from_millis(200));
        let left: Vec<_> = seen
            .into_iter()
            .filter(|process| process.pid != self.child.id() && process.alive())
            .collect();
        for process in &left {
            process.signal("KILL");
        }
        left.len()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// A command on the server's core.
pub(crate) fn pinned(program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", SERVER_CORE]).arg(program);
    command
}

/// Moves this process to the core of the load.
pub(crate) fn pin_to_load_core() -> Outcome<()> {
    let me = std::process::id().to_string();
    let pinned = Command::new("taskset")
        .args(["-cp", LOAD_CORE, &me])
        .output()?;
    if pinned.status.success() {
        Ok(())
    } else {
        Err("taskset could not pin the load to its core".into())
    }
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
