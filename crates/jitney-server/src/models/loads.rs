//! Models are loaded a few at a time, each on a thread of its own, and nobody waits for one for ever.
//!
//! A load cannot be interrupted. One that takes longer than it may is left to itself: its model has failed, its place is free for the
//! next, and its thread ends when it can.

use std::collections::VecDeque;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::bell::Bell;

/// A model to be loaded.
pub(super) struct Job {
    /// Its name, for the thread.
    pub(super) name: String,
    /// How long the load may take.
    pub(super) limit: Duration,
    /// The load. Must not panic.
    pub(super) load: Box<dyn FnOnce() + Send>,
    /// Called instead of it, or while it goes on, with the reason why the model has failed.
    pub(super) fail: Box<dyn FnOnce(String) + Send>,
}

/// The loads that wait and those that go on. Dropping it begins no more loads and leaves those behind that have begun.
///
/// It does nothing by itself: [`Loads::step`] is to be called whenever the bell has rung, and at [`Loads::next_due`].
pub(super) struct Loads {
    waiting: VecDeque<Job>,
    running: Vec<Running>,
    at_once: usize,
    bell: Bell,
}

struct Running {
    until: Instant,
    limit: Duration,
    fail: Box<dyn FnOnce(String) + Send>,
    ended: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Loads {
    /// No loads yet, and so many at once. The bell is rung when one has ended.
    pub(super) fn new(at_once: NonZeroUsize, bell: Bell) -> Loads {
        Loads {
            waiting: VecDeque::new(),
            running: Vec::new(),
            at_once: at_once.get(),
            bell,
        }
    }

    /// Puts a load behind those that wait.
    pub(super) fn add(&mut self, job: Job) {
        self.waiting.push_back(job);
    }

    /// Whether there is nothing to load.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Takes note of what has ended, gives up what has taken too long, and begins what there is room for.
    pub(super) fn step(&mut self, now: Instant) {
        let ended = |running: &mut Running| running.ended.load(Ordering::Acquire);
        for running in self.running.extract_if(.., ended) {
            // It has rung the bell, which is the last thing that it does.
            let _ = running.thread.join();
        }
        for overdue in self.running.extract_if(.., |running| running.until <= now) {
            (overdue.fail)(format!(
                "it was not loaded within {:?}\n  hint: where it needs longer, raise load_limit_ms",
                overdue.limit
            ));
        }
        while self.running.len() < self.at_once
            && let Some(job) = self.waiting.pop_front()
        {
            self.begin(job, now);
        }
    }

    /// When the first load will have taken too long.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.running.iter().map(|running| running.until).min()
    }

    /// Fails everything that waits.
    pub(super) fn fail(&mut self, why: &str) {
        for job in self.waiting.drain(..) {
            (job.fail)(why.to_owned());
        }
    }

    fn begin(&mut self, job: Job, now: Instant) {
        let ended = Arc::new(AtomicBool::new(false));
        let (load, bell, end) = (job.load, self.bell.clone(), Arc::clone(&ended));
        let run = move || {
            load();
            end.store(true, Ordering::Release);
            bell.ring();
        };
        // Some engines read a model recursively, so the stack is as large as a main thread's.
        let thread = thread::Builder::new()
            .name(format!("load {}", job.name))
            .stack_size(8 << 20);
        match thread.spawn(run) {
            Ok(thread) => self.running.push(Running {
                until: now + job.limit,
                limit: job.limit,
                fail: job.fail,
                ended,
                thread,
            }),
            Err(error) => (job.fail)(no_thread(&error)),
        }
    }
}

/// Why a load could not begin.
pub(super) fn no_thread(error: &io::Error) -> String {
    format!("no thread to load it: {error}")
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::super::bell::Door;
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// A gate that lets one load pass for each message, and the loads that come to it.
    struct Gate {
        open: SyncSender<()>,
        way: Arc<Mutex<Receiver<()>>>,
        begun: Receiver<String>,
        begins: SyncSender<String>,
        failures: Arc<Mutex<Vec<String>>>,
    }

    impl Gate {
        fn new() -> Gate {
            let (open, way) = sync_channel(16);
            let (begins, begun) = sync_channel(16);
            Gate {
                open,
                way: Arc::new(Mutex::new(way)),
                begun,
                begins,
                failures: Arc::default(),
            }
        }

        /// A load that says that it has begun, and passes the gate.
        fn job(&self, name: &str, limit: Duration) -> Job {
            let (begins, way) = (self.begins.clone(), Arc::clone(&self.way));
            let (failures, told) = (Arc::clone(&self.failures), name.to_owned());
            let name = name.to_owned();
            Job {
                name: name.clone(),
                limit,
                load: Box::new(move || {
                    begins.send(name).unwrap();
                    way.lock().unwrap().recv().ok();
                }),
                fail: Box::new(move |why| {
                    failures.lock().unwrap().push(format!("{told}: {why}"));
                }),
            }
        }

        fn next(&self) -> String {
            self.begun.recv_timeout(LONG).unwrap()
        }
    }

    fn loads(at_once: usize) -> (Loads, Door) {
        let door = Door::new();
        let at_once = NonZeroUsize::new(at_once).unwrap();
        (Loads::new(at_once, door.bell()), door)
    }

    #[test]
    fn only_so_many_load_at_once() {
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let done = Arc::new(AtomicUsize::new(0));
        let (mut loads, door) = loads(3);
        for number in 0..50 {
            let (now, most, done) = (Arc::clone(&now), Arc::clone(&most), Arc::clone(&done));
            loads.add(Job {
                name: number.to_string(),
                limit: LONG,
                load: Box::new(move || {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    thread::yield_now();
                    now.fetch_sub(1, Ordering::SeqCst);
                    done.fetch_add(1, Ordering::SeqCst);
                }),
                fail: Box::new(|why| panic!("{why}")),
            });
        }
        while !loads.is_idle() {
            loads.step(Instant::now());
            door.wait(Some(Duration::from_millis(50)));
        }
        assert_eq!(done.load(Ordering::SeqCst), 50);
        assert!((1..=3).contains(&most.load(Ordering::SeqCst)), "{most:?}");
    }

    #[test]
    fn a_load_that_hangs_fails_and_makes_room() {
        let gate = Gate::new();
        let (mut loads, _door) = loads(1);
        let limit = Duration::from_secs(5);
        loads.add(gate.job("hangs", limit));
        loads.add(gate.job("next", LONG));
        let start = Instant::now();
        loads.step(start);
        assert_eq!(gate.next(), "hangs");
        assert_eq!(loads.next_due(), Some(start + limit));
        loads.step(start + limit - Duration::from_millis(1));
        assert!(gate.failures.lock().unwrap().is_empty());
        loads.step(start + limit);
        let failures = gate.failures.lock().unwrap().join(" ");
        assert!(
            failures.starts_with("hangs: it was not loaded within 5s"),
            "{failures}"
        );
        assert_eq!(gate.next(), "next");
        gate.open.send(()).unwrap();
        gate.open.send(()).unwrap();
    }

    #[test]
    fn the_end_of_a_load_rings_and_makes_room() {
        let gate = Gate::new();
        let (mut loads, door) = loads(1);
        loads.add(gate.job("first", LONG));
        loads.add(gate.job("second", LONG));
        loads.step(Instant::now());
        assert_eq!(gate.next(), "first");
        gate.open.send(()).unwrap();
        door.wait(Some(LONG));
        loads.step(Instant::now());
        assert_eq!(gate.next(), "second");
        drop(loads);
        gate.open.send(()).unwrap();
        assert!(gate.failures.lock().unwrap().is_empty());
    }

    #[test]
    fn what_waits_can_be_failed() {
        let gate = Gate::new();
        let (mut loads, _door) = loads(1);
        loads.add(gate.job("a", LONG));
        loads.add(gate.job("b", LONG));
        loads.fail("no");
        assert_eq!(*gate.failures.lock().unwrap(), ["a: no", "b: no"]);
        assert!(loads.is_idle());
    }
}
