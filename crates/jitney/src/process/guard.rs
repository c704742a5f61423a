//! The guard: a small process that kills the workers if this process no longer can.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{ioctl_fionbio, write};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::child::{bare_command, wait_readable};
use super::desk::Bell;
use super::{Output, Program};
use crate::lock::lock;

/// What tells a guard whose workers it guards.
const TOKEN_VARIABLE: &str = "JITNEY_GUARD";

/// The guard of one pool, started again whenever it dies.
pub(super) struct Guard {
    post: Arc<Post>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the guard's thread shares with the keepers.
struct Post {
    watch: Mutex<Watch>,
    bell: Bell,
}

struct Watch {
    /// The groups that are to die with us.
    groups: BTreeSet<i32>,
    process: Option<Running>,
    closing: bool,
}

struct Running {
    process: Child,
    ended: OwnedFd,
    /// Held by nobody else: when this process ends, however it ends, the guard reads the end of its input.
    orders: OwnedFd,
}

impl Guard {
    /// Starts the guard, and the thread that looks after it.
    pub(super) fn start(
        argv: &[OsString],
        program: &Program,
        token: &str,
        output: Arc<dyn Fn(Output<'_>) + Send + Sync>,
    ) -> io::Result<Self> {
        let first = Running::start(argv, program, token)?;
        let watch = Watch {
            groups: BTreeSet::new(),
            process: Some(first),
            closing: false,
        };
        let post = Arc::new(Post {
            watch: Mutex::new(watch),
            bell: Bell::new()?,
        });
        let (shared, argv, program, token) = (
            Arc::clone(&post),
            argv.to_vec(),
            program.clone(),
            token.to_owned(),
        );
        let start = move || Running::start(&argv, &program, &token);
        let thread = std::thread::Builder::new()
            .name("jitney-guard".to_owned())
            .spawn(move || shared.keep(start, &*output))?;
        Ok(Self {
            post,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// This group is to die with us.
    pub(super) fn add(&self, group: Pid) {
        self.post.order('+', group);
    }

    /// This group is dead.
    pub(super) fn remove(&self, group: Pid) {
        self.post.order('-', group);
    }

    /// Lets the guard go, and waits for it.
    pub(super) fn close(&self) {
        lock(&self.post.watch).closing = true;
        self.post.bell.ring();
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
    }
}

impl Post {
    fn order(&self, sign: char, group: Pid) {
        let mut watch = lock(&self.watch);
        let number = group.as_raw_nonzero().get();
        match sign {
            '+' => watch.groups.insert(number),
            _ => watch.groups.remove(&number),
        };
        if let Some(running) = &watch.process {
            running.tell(sign, number);
        }
    }

    /// Starts the guard again when it has died, at once and then ever more slowly.
    fn keep(&self, start: impl Fn() -> io::Result<Running>, output: &dyn Fn(Output<'_>)) {
        let mut wait = FIRST_WAIT;
        loop {
            self.wait_for_end();
            if let Some(running) = self.bury() {
                return running.leave();
            }
            if lock(&self.watch).closing {
                return;
            }
            output(Output::Event {
                worker: None,
                pid: None,
                text: "died, and is started again",
                expected: false,
            });
            if let Err(error) = self.replace(&start) {
                output(Output::Event {
                    worker: None,
                    pid: None,
                    text: &format!("cannot be started: {error}"),
                    expected: false,
                });
            }
            self.pause(wait);
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Waits until the guard has died or the pool closes.
    fn wait_for_end(&self) {
        let ended = lock(&self.watch)
            .process
            .as_ref()
            .and_then(|running| running.ended.try_clone().ok());
        let Some(ended) = ended else { return };
        let mut fds = [
            PollFd::new(&ended, PollFlags::IN),
            PollFd::new(&self.bell, PollFlags::IN),
        ];
        let _ = poll(&mut fds, None);
    }

    /// Takes the process away if it has died. Answers it if the pool closes instead.
    fn bury(&self) -> Option<Running> {
        let mut watch = lock(&self.watch);
        let mut running = watch.process.take()?;
        if watch.closing {
            return Some(running);
        }
        if wait_readable(&running.ended, 0) {
            let _ = running.process.wait();
        } else {
            watch.process = Some(running);
        }
        None
    }

    fn replace(&self, start: &impl Fn() -> io::Result<Running>) -> io::Result<()> {
        let mut watch = lock(&self.watch);
        if watch.process.is_none() {
            let running = start()?;
            for &group in &watch.groups {
                running.tell('+', group);
            }
            watch.process = Some(running);
        }
        Ok(())
    }

    fn pause(&self, wait: Duration) {
        let limit = Timespec {
            tv_sec: wait.as_secs().cast_signed(),
            tv_nsec: wait.subsec_nanos().into(),
        };
        let _ = poll(&mut [PollFd::new(&self.bell, PollFlags::IN)], Some(&limit));
    }
}

impl Running {
    fn start(argv: &[OsString], program: &Program, token: &str) -> io::Result<Self> {
        let (executable, args) = argv
            .split_first()
            .ok_or_else(|| io::Error::other("the command of the guard is empty"))?;
        let mut command = bare_command(executable, program);
        command.args(args).env(TOKEN_VARIABLE, token);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut process = command.spawn()?;
        match Self::parts(&mut process) {
            Ok((ended, orders)) => Ok(Self {
                process,
                ended,
                orders,
            }),
            Err(error) => {
                let _ = process.kill();
                let _ = process.wait();
                Err(error)
            }
        }
    }

    fn parts(process: &mut Child) -> io::Result<(OwnedFd, OwnedFd)> {
        let ended = pidfd_open(Pid::from_child(process), PidfdFlags::empty())?;
        let orders = process
            .stdin
            .take()
            .ok_or_else(|| io::Error::other("the guard has no standard input"))?;
        let orders = OwnedFd::from(orders);
        ioctl_fionbio(&orders, true)?;
        Ok((ended, orders))
    }

    /// A guard that does not read its orders any more is no guard: it is replaced.
    fn tell(&self, sign: char, group: i32) {
        let order = format!("{sign}{group}\n");
        if write(&self.orders, order.as_bytes()) != Ok(order.len()) {
            let _ = pidfd_send_signal(&self.ended, Signal::KILL);
        }
    }

    /// Ends its input, and waits for it to go; not for long.
    fn leave(self) {
        let Self {
            mut process,
            ended,
            orders,
        } = self;
        drop(orders);
        if !wait_readable(&ended, 1000) {
            let _ = process.kill();
        }
        let _ = process.wait();
    }
}

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
