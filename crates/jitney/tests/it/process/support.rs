//! A pool of the children of `child.py`, and what the system says about them.

use std::fs;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jitney::process::{
    CallError, Output, Pool, Program, Reply, Request, Settings, StartError, WorkerState,
};
use rustix::process::{Pid, Signal, kill_process};

/// Far more than anything here takes, so that what never ends is told from what is slow on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Lines and events, as they would be logged.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(crate) fn sink(&self) -> impl Fn(Output<'_>) + Send + Sync + 'static {
        let lines = Arc::clone(&self.0);
        move |output| lines.lock().unwrap().push(output.to_string())
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn count(&self, part: &str) -> usize {
        self.lines()
            .iter()
            .filter(|line| line.contains(part))
            .count()
    }

    pub(crate) fn wait_for(&self, part: &str) {
        let lines = || format!("no {part:?} in {:#?}", self.lines());
        assert!(eventually(|| self.count(part) > 0), "{}", lines());
    }
}

/// The path of a file beside this one.
fn beside(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/it/process")
        .join(name)
}

/// `child.py`, with these variables.
pub(crate) fn child(env: &[(&str, &str)]) -> Program {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut program = Program::new("python3");
    program.args = vec!["-S".into(), beside("child.py").into()];
    program.env = env
        .iter()
        .map(|&(name, value)| (name.into(), value.into()))
        .collect();
    program.env.push(("PATH".into(), path));
    program
}

/// The same with a guard.
pub(crate) fn guarded(env: &[(&str, &str)]) -> Program {
    let guard = vec!["python3".into(), "-S".into(), beside("guard.py").into()];
    Program {
        guard: Some(guard),
        ..child(env)
    }
}

pub(crate) fn workers(workers: usize, depth: usize) -> Settings {
    let close_limit = Duration::from_secs(5);
    Settings {
        workers,
        depth,
        close_limit,
        ..Settings::default()
    }
}

pub(crate) fn start(program: Program, settings: Settings) -> (Pool, Log) {
    let log = Log::default();
    let pool = try_start(program, settings, &log);
    (
        pool.unwrap_or_else(|error| panic!("{error}: {:#?}", log.lines())),
        log,
    )
}

pub(crate) fn try_start(
    program: Program,
    settings: Settings,
    log: &Log,
) -> Result<Pool, StartError> {
    Pool::start(program, settings, log.sink())
}

/// Gives a worker a command.
pub(crate) fn call(pool: &Pool, command: &str) -> Result<Reply, CallError> {
    pool.call(&Request::new(command.as_bytes(), PATIENCE))
}

pub(crate) fn call_with(pool: &Pool, command: &str, payload: &[u8]) -> Result<Reply, CallError> {
    let payload = [IoSlice::new(payload)];
    pool.call(&Request {
        payload: &payload,
        ..Request::new(command.as_bytes(), PATIENCE)
    })
}

/// The number that a worker answers to a command.
pub(crate) fn number(pool: &Pool, command: &str) -> i32 {
    let reply = call(pool, command).unwrap();
    std::str::from_utf8(&reply.meta).unwrap().parse().unwrap()
}

pub(crate) fn echoes(pool: &Pool) {
    let reply = call_with(pool, "echo", b"payload").unwrap();
    assert_eq!(
        (&reply.meta[..], &reply.payload[..]),
        (&b"echo"[..], &b"payload"[..])
    );
}

/// Waits until all workers are ready.
pub(crate) fn all_ready(pool: &Pool) {
    let ready = || {
        pool.workers()
            .iter()
            .all(|worker| worker.state == WorkerState::Idle)
    };
    assert!(eventually(ready), "{:#?}", pool.workers());
}

/// Waits until so many runs are under way.
pub(crate) fn busy(pool: &Pool, count: usize) {
    let busy = || {
        pool.workers()
            .iter()
            .filter(|worker| worker.state == WorkerState::Busy)
            .count()
    };
    assert!(eventually(|| busy() >= count), "{:#?}", pool.workers());
}

/// The process of a worker.
pub(crate) fn pid(pool: &Pool, worker: usize) -> i32 {
    pool.workers()[worker].pid.unwrap().cast_signed()
}

pub(crate) fn kill(pid: i32) {
    let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
}

/// Whether there is such a process, and it is more than a zombie.
pub(crate) fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    state.is_some_and(|state| !"ZX".contains(state))
}

/// Whether it dies before the patience ends.
pub(crate) fn dies(pid: i32) -> bool {
    eventually(|| !is_alive(pid))
}

/// The children of this process that have ended but were not reaped, and those that live.
pub(crate) fn children_of(parent: u32) -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_child = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent_of = stat
            .rsplit(") ")
            .next()
            .and_then(|rest| rest.split(' ').nth(1)?.parse::<u32>().ok());
        parent_of == Some(parent)
    };
    pids.filter(is_child).collect()
}

/// The processes that have this text in their environment.
pub(crate) fn bearers(text: &str) -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let bears = |pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        String::from_utf8_lossy(&environment).contains(text)
    };
    pids.filter(bears).filter(|&pid| is_alive(pid)).collect()
}

pub(crate) fn eventually(condition: impl Fn() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    condition()
}

/// A variable's value that no other test has.
pub(crate) fn unique(name: &str) -> String {
    format!("{name}-{}-{:?}", std::process::id(), Instant::now()).replace([' ', ':'], "")
}
