//! One process: starting it, killing it with all that it started, and what the system knows of it.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionbio;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};

use super::Program;

/// The variable by which a child and its descendants are recognised.
pub(super) const TOKEN_VARIABLE: &str = "JITNEY_POOL";

/// A running process that leads its own group, and that was not reaped yet.
#[derive(Debug)]
pub(super) struct Child {
    process: std::process::Child,
    pub(super) pid: Pid,
    /// Readable once the process has ended.
    pub(super) ended: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    token: String,
}

impl Child {
    /// Starts the program with this end of the channel as its standard input.
    pub(super) fn spawn(program: &Program, channel: OwnedFd, token: String) -> io::Result<Self> {
        let mut command = command(program);
        command.args(&program.args).env(TOKEN_VARIABLE, &token);
        command
            .stdin(Stdio::from(channel))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = command.spawn()?;
        match parts(&mut process) {
            Ok((pid, ended, stdout, stderr)) => {
                prefer_to_kill(pid);
                Ok(Self {
                    process,
                    pid,
                    ended,
                    stdout,
                    stderr,
                    token,
                })
            }
            Err(error) => {
                let _ = process.kill();
                let _ = process.wait();
                Err(error)
            }
        }
    }

    /// Kills the process and its group. It cannot hit others: the number of the group is taken for as long as its leader was not reaped.
    pub(super) fn kill(&self) {
        let _ = kill_process_group(self.pid, Signal::KILL);
        let _ = pidfd_send_signal(&self.ended, Signal::KILL);
    }

    /// Whether it ends within so many milliseconds.
    pub(super) fn ends_within(&self, millis: i64) -> bool {
        wait_readable(&self.ended, millis)
    }

    /// Kills what is left of the group, waits for the process, and answers in words how it ended.
    pub(super) fn reap(&mut self) -> String {
        self.kill();
        match self.process.wait() {
            Ok(status) => in_words(status),
            Err(error) => format!("ended in a way that the system does not tell: {error}"),
        }
    }

    /// Kills those descendants that left the group.
    pub(super) fn sweep(&self) {
        sweep(&self.token);
    }
}

/// The command of a program: in a group of its own, and with an environment of its own. Arguments and standard streams are to come.
pub(super) fn command(program: &Program) -> Command {
    bare_command(program.executable.as_os_str(), program)
}

/// The same for another executable.
pub(super) fn bare_command(executable: &OsStr, program: &Program) -> Command {
    let mut command = Command::new(executable);
    command
        .env_clear()
        .envs(program.env.iter().map(|(name, value)| (name, value)));
    command.process_group(0);
    if let Some(folder) = &program.current_dir {
        command.current_dir(folder);
    }
    command
}

/// The resident memory of a process in bytes.
pub(super) fn resident(pid: u32) -> Option<u64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// Whether the descriptor becomes readable within so many milliseconds.
pub(super) fn wait_readable(descriptor: impl AsFd, millis: i64) -> bool {
    let limit = Timespec {
        tv_sec: millis / 1000,
        tv_nsec: millis % 1000 * 1_000_000,
    };
    poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&limit)).is_ok_and(|ready| ready > 0)
}

fn parts(process: &mut std::process::Child) -> io::Result<(Pid, OwnedFd, OwnedFd, OwnedFd)> {
    let missing = || io::Error::other("the process has no standard streams");
    let pid = Pid::from_child(process);
    let ended = pidfd_open(pid, PidfdFlags::empty())?;
    let stdout = OwnedFd::from(process.stdout.take().ok_or_else(missing)?);
    let stderr = OwnedFd::from(process.stderr.take().ok_or_else(missing)?);
    ioctl_fionbio(&stdout, true)?;
    ioctl_fionbio(&stderr, true)?;
    Ok((pid, ended, stdout, stderr))
}

/// When memory runs out, the kernel is to take the worker and not its server.
fn prefer_to_kill(pid: Pid) {
    let _ = fs::write(
        format!("/proc/{}/oom_score_adj", pid.as_raw_nonzero()),
        "500",
    );
}

fn in_words(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        // The standard library knows the names: "signal: 9 (SIGKILL)".
        (Some(_), _) => format!(
            "was killed by {}",
            status.to_string().replace("signal: ", "signal ")
        ),
        (None, Some(code)) => format!("exited with code {code}"),
        (None, None) => "ended".to_owned(),
    }
}

/// Kills every process that has the token in its environment, until there is none. A process that forks while this looks is found in
/// the next round; one that is in the middle of an exec has no environment for a moment, and is looked at again after a pause. The
/// number of rounds is bounded all the same.
fn sweep(token: &str) {
    let wanted = format!("{TOKEN_VARIABLE}={token}");
    let mut pause = Duration::from_millis(1);
    for _ in 0..ROUNDS_MAX {
        let round = kill_bearers(wanted.as_bytes());
        if round.killed == 0 && (round.unclear == 0 || pause > PAUSE_MAX) {
            return;
        }
        if round.killed == 0 {
            std::thread::sleep(pause);
            pause *= 2;
        }
    }
}

/// How many processes one round killed, and of how many it could not say.
#[derive(Debug, Default)]
struct Round {
    killed: usize,
    unclear: usize,
}

/// Whether a process has the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bears {
    Yes,
    No,
    /// It lives, but its environment is empty.
    Unclear,
}

fn kill_bearers(wanted: &[u8]) -> Round {
    let mut round = Round::default();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    for pid in numbers.filter_map(Pid::from_raw) {
        match bears(pid, wanted) {
            Bears::Yes => round.killed += usize::from(kill_bearer(pid, wanted)),
            Bears::Unclear => round.unclear += 1,
            Bears::No => {}
        }
    }
    round
}

/// The number of a process may have been given to another one meanwhile: its environment is read again once it is held.
fn kill_bearer(pid: Pid, wanted: &[u8]) -> bool {
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
        return false;
    };
    if bears(pid, wanted) != Bears::Yes {
        return false;
    }
    let _ = pidfd_send_signal(&process, Signal::KILL);
    wait_readable(&process, 100);
    true
}

fn bears(pid: Pid, wanted: &[u8]) -> Bears {
    let pid = pid.as_raw_nonzero().get();
    match fs::read(format!("/proc/{pid}/environ")) {
        Ok(environment) if environment.is_empty() && has_memory(pid) => Bears::Unclear,
        Ok(environment)
            if environment
                .split(|&byte| byte == 0)
                .any(|entry| entry == wanted) =>
        {
            Bears::Yes
        }
        _ => Bears::No,
    }
}

/// Neither a thread of the kernel nor dead.
fn has_memory(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/statm")).is_ok_and(|statm| !statm.starts_with("0 "))
}

const ROUNDS_MAX: usize = 20;
const PAUSE_MAX: Duration = Duration::from_millis(32);
