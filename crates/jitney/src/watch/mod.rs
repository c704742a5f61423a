//! The detector: says while it happens which task blocks its thread.
//!
//! A task that computes or makes a blocking call inside a poll holds up every other task of its thread. A [`Watchdog`] looks
//! at the threads twice in each threshold; a poll that lasts for the whole of one is reported within twice of it, while it
//! still lasts, with what is known without the task's help: its name and those above it, where it was started, what it
//! [labelled](crate::tree::Node::label) itself with, which thread it holds, and whether it computes, sleeps in a system call, or
//! is not given a processor.
//!
//! ```
//! use std::time::Duration;
//! use jitney::tree::Tree;
//! use jitney::watch::{Report, Watchdog};
//! use jitney::Scope;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let tree = Tree::new("server");
//! let (send, reports) = std::sync::mpsc::sync_channel(8);
//! let watchdog = Watchdog::start(&tree, Duration::from_millis(20), move |report| drop(send.try_send(report)))?;
//! let outcome = Scope::named("requests").under(&tree.root()).run(async |group: jitney::Group<String>| {
//!     drop(group.named("thumbnail").spawn(async {
//!         // Wrong: this belongs on another thread.
//!         std::thread::sleep(Duration::from_millis(100));
//!         Ok(())
//!     }));
//!     Ok(())
//! });
//! outcome.await?;
//! let Report::Blocked(incident) = reports.recv()? else { panic!("an incident begins before it ends") };
//! assert_eq!(&*incident.path.last().ok_or("it was in the tree")?.name, "thumbnail");
//! # drop(watchdog);
//! # Ok(())
//! # }
//! ```
//!
//! What it does not see: the stack inside of the task, which would need a signal handler and so `unsafe` code (a debugger or
//! `perf` shows it, given the thread's number); tasks that no [`Group`](crate::Group) started; and code that blocks on purpose
//! in [`Node::blocking`](crate::tree::Node::blocking). What a thread does is read from `/proc`, so on Linux only.

mod detector;
mod usage;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use self::detector::{Detector, Fact, Finding};
use self::usage::Usage;
pub use self::usage::Verdict;
use crate::tree::{NodeInfo, Sight, ThreadInfo, Tree};

/// Watches the tasks of a tree from a thread of its own, until it is dropped.
///
/// While no task runs it costs two looks at an empty list in each threshold; while one runs, a few nanoseconds a poll.
#[derive(Debug)]
#[must_use = "dropping the watchdog ends the watch"]
pub struct Watchdog {
    /// Dropped first, which tells the thread to end.
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What a [`Watchdog`] tells.
#[derive(Clone, Debug)]
pub enum Report {
    /// A task has blocked its thread for the threshold, and still does. Told once for each incident.
    Blocked(Incident),
    /// It does no more. Its [`blocked`](Incident::blocked) is how long it was in all.
    Ended(Incident),
}

/// One poll that takes too long.
#[derive(Clone, Debug)]
pub struct Incident {
    /// Counts from one; the same in both reports.
    pub number: u64,
    /// The task that was being polled, last, below those above it in the tree. Empty if it left the tree in that moment.
    pub path: Vec<NodeInfo>,
    /// The thread that it blocks.
    pub thread: Arc<ThreadInfo>,
    /// For how long. At the end of an incident exact to half the threshold.
    pub blocked: Duration,
    /// What the thread was doing when the incident was noticed.
    pub verdict: Verdict,
}

impl Watchdog {
    /// Starts to watch. The sink gets each report on the watchdog's thread, which waits for it, so it must be quick.
    ///
    /// A threshold of 10 ms finds what makes other requests late; 100 ms what makes them fail. A zero one counts as 1 ms.
    ///
    /// # Errors
    /// When the thread could not be started.
    ///
    /// # Panics
    /// Never; but a panic of the sink ends the watch.
    pub fn start(
        tree: &Tree,
        threshold: Duration,
        sink: impl FnMut(Report) + Send + 'static,
    ) -> io::Result<Watchdog> {
        let threshold = threshold.max(Duration::from_millis(1));
        let watch = Watch {
            tree: tree.clone(),
            detector: Detector::new(threshold),
            open: Vec::new(),
            sink,
        };
        let (stop, stopped) = sync_channel(0);
        tree.watch();
        let run = move || {
            let mut watch = Unwatched(watch);
            while stopped.recv_timeout(threshold / 2) == Err(RecvTimeoutError::Timeout) {
                watch.0.look(Instant::now());
            }
        };
        let thread = thread::Builder::new().name("jitney watchdog".into());
        Ok(Watchdog {
            stop: Some(stop),
            thread: Some(thread.spawn(run)?),
        })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // It has panicked only if the sink did.
            thread.join().ok();
        }
    }
}

/// What the thread of a watchdog owns.
struct Watch<S> {
    tree: Tree,
    detector: Detector,
    open: Vec<(u64, Incident)>,
    sink: S,
}

/// Ends the watch of a tree however the thread ends, also when it was never started.
struct Unwatched<S>(Watch<S>);

impl<S> Drop for Unwatched<S> {
    fn drop(&mut self) {
        self.0.tree.unwatch();
    }
}

impl<S: FnMut(Report)> Watch<S> {
    fn look(&mut self, now: Instant) {
        let sights = self.tree.polling();
        for finding in self.detector.look(now, &sights, Usage::read) {
            self.tell(finding);
        }
    }

    fn tell(
        &mut self,
        Finding {
            number,
            fact,
            blocked,
        }: Finding,
    ) {
        let report = match fact {
            Fact::Blocked(sight, verdict) => {
                let incident = self.incident(number, &sight, blocked, verdict);
                self.open.push((number, incident.clone()));
                Report::Blocked(incident)
            }
            Fact::Ended => {
                let Some(at) = self.open.iter().position(|(open, _)| *open == number) else {
                    return;
                };
                let (_, incident) = self.open.swap_remove(at);
                Report::Ended(Incident {
                    blocked,
                    ..incident
                })
            }
        };
        (self.sink)(report);
    }

    fn incident(
        &self,
        number: u64,
        sight: &Sight,
        blocked: Duration,
        verdict: Verdict,
    ) -> Incident {
        Incident {
            number,
            path: self.tree.line(sight.node),
            thread: sight.thread.clone(),
            blocked,
            verdict,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Report::Blocked(incident) => incident.fmt(f),
            Report::Ended(incident) => {
                write!(f, "#{} ended: ", incident.number)?;
                incident.write_task(f)?;
                write!(f, " blocked its thread for {:.1?}", incident.blocked)
            }
        }
    }
}

impl fmt::Display for Incident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}: ", self.number)?;
        self.write_task(f)?;
        write!(f, " has blocked its thread for {:.1?}", self.blocked)?;
        write!(f, "\n  {}: {}", self.thread, self.verdict)?;
        f.write_str("\n  in")?;
        for (at, node) in self.path.iter().enumerate() {
            write!(f, "{}{}", if at == 0 { " " } else { " > " }, node.name)?;
        }
        Ok(())
    }
}

impl Incident {
    fn write_task(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(task) = self.path.last() else {
            return f.write_str("a task that has left the tree");
        };
        write!(f, "{} #{}", task.name, task.id)?;
        if !task.label.is_empty() {
            write!(f, " [{}]", task.label)?;
        }
        write!(f, " (started at {}:{})", task.site.file(), task.site.line())
    }
}
