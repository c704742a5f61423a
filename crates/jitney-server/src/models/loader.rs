//! Models are loaded a few at a time, each on a thread of its own, and nobody waits for one for ever.
//!
//! A load cannot be interrupted. One that takes longer than it may is left to itself: its model has failed, its place is free for the
//! next, and its thread ends when it can.

use std::collections::VecDeque;
use std::io;
use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

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

/// Loads models. Dropping it begins no more loads and leaves those behind that have begun.
pub(super) struct Loader {
    events: SyncSender<Event>,
    conductor: Option<JoinHandle<()>>,
}

/// What can happen while models are loaded.
enum Event {
    /// The load of that number has ended.
    Ended(usize),
    Close,
}

impl Loader {
    /// Begins to load these models in their order, so many at once.
    pub(super) fn start(jobs: Vec<Job>, at_once: NonZeroUsize) -> Loader {
        // There is room for the end of each load and for a word to close; more of those say nothing new.
        let (events, happened) = sync_channel(jobs.len() + 1);
        let loading = Loading {
            waiting: jobs.into_iter().enumerate().collect(),
            running: Vec::new(),
            at_once: at_once.get(),
            events: events.clone(),
        };
        let (hand_over, handed_over) = sync_channel::<Loading>(1);
        let conduct = move || {
            if let Ok(loading) = handed_over.recv() {
                loading.conduct(&happened);
            }
        };
        let conductor = thread::Builder::new().name("jitney-load".to_owned());
        let conductor = match conductor.spawn(conduct) {
            Ok(conductor) => {
                let _ = hand_over.send(loading);
                Some(conductor)
            }
            Err(error) => {
                loading.fail(&no_thread(&error));
                None
            }
        };
        Loader { events, conductor }
    }

    /// Whether a load goes on that nobody has given up.
    pub(super) fn is_busy(&self) -> bool {
        let conductor = self.conductor.as_ref();
        conductor.is_some_and(|conductor| !conductor.is_finished())
    }

    /// Begins no more loads.
    pub(super) fn close(&self) {
        let _ = self.events.try_send(Event::Close);
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.close();
        if let Some(conductor) = self.conductor.take() {
            // It waits for no load that goes on.
            let _ = conductor.join();
        }
    }
}

/// The loads of one loader, as its thread knows them.
struct Loading {
    waiting: VecDeque<(usize, Job)>,
    running: Vec<Running>,
    at_once: usize,
    events: SyncSender<Event>,
}

struct Running {
    number: usize,
    until: Instant,
    limit: Duration,
    fail: Box<dyn FnOnce(String) + Send>,
    thread: JoinHandle<()>,
}

impl Loading {
    fn conduct(mut self, happened: &Receiver<Event>) {
        loop {
            self.begin();
            let Some(until) = self.running.iter().map(|running| running.until).min() else {
                return;
            };
            let left = until.saturating_duration_since(Instant::now());
            match happened.recv_timeout(left) {
                Ok(Event::Ended(number)) => self.ended(number),
                Err(RecvTimeoutError::Timeout) => self.give_up(Instant::now()),
                Ok(Event::Close) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn begin(&mut self) {
        while self.running.len() < self.at_once
            && let Some((number, job)) = self.waiting.pop_front()
        {
            let (load, events) = (job.load, self.events.clone());
            let run = move || {
                load();
                let _ = events.try_send(Event::Ended(number));
            };
            // Some engines read a model recursively, so the stack is as large as a main thread's.
            let thread = thread::Builder::new()
                .name(format!("load {}", job.name))
                .stack_size(8 << 20);
            match thread.spawn(run) {
                Ok(thread) => self.running.push(Running {
                    number,
                    until: Instant::now() + job.limit,
                    limit: job.limit,
                    fail: job.fail,
                    thread,
                }),
                Err(error) => (job.fail)(no_thread(&error)),
            }
        }
    }

    fn fail(self, why: &str) {
        for (_, job) in self.waiting {
            (job.fail)(why.to_owned());
        }
    }

    fn ended(&mut self, number: usize) {
        let ended = self
            .running
            .extract_if(.., |running| running.number == number);
        for running in ended {
            let _ = running.thread.join();
        }
    }

    fn give_up(&mut self, now: Instant) {
        for overdue in self.running.extract_if(.., |running| running.until <= now) {
            (overdue.fail)(format!(
                "it was not loaded within {:?}\n  hint: where it needs longer, raise load_limit_ms",
                overdue.limit
            ));
        }
    }
}

fn no_thread(error: &io::Error) -> String {
    format!("no thread to load it: {error}")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

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

    fn places(count: usize) -> NonZeroUsize {
        NonZeroUsize::new(count).unwrap()
    }

    #[test]
    fn only_so_many_load_at_once() {
        let (now, most, done) = (
            Arc::new(AtomicUsize::new(0)),
            Arc::new(AtomicUsize::new(0)),
            sync_channel(50),
        );
        let job = |number: usize| {
            let (now, most, done) = (Arc::clone(&now), Arc::clone(&most), done.0.clone());
            Job {
                name: number.to_string(),
                limit: LONG,
                load: Box::new(move || {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    thread::yield_now();
                    now.fetch_sub(1, Ordering::SeqCst);
                    done.send(number).unwrap();
                }),
                fail: Box::new(|why| panic!("{why}")),
            }
        };
        let _loader = Loader::start((0..50).map(job).collect(), places(3));
        let mut ended: Vec<usize> = (0..50)
            .map(|_| done.1.recv_timeout(LONG).unwrap())
            .collect();
        ended.sort_unstable();
        assert!(ended.into_iter().eq(0..50));
        assert!((1..=3).contains(&most.load(Ordering::SeqCst)), "{most:?}");
    }

    #[test]
    fn a_load_that_hangs_fails_and_makes_room() {
        let gate = Gate::new();
        let jobs = vec![
            gate.job("hangs", Duration::from_millis(20)),
            gate.job("next", LONG),
        ];
        let loader = Loader::start(jobs, places(1));
        // On a busy machine the limit may pass before the first thread has got its first turn.
        let mut begun = [gate.next(), gate.next()];
        begun.sort();
        assert_eq!(begun, ["hangs", "next"]);
        let failures = gate.failures.lock().unwrap().join(" ");
        assert!(
            failures.starts_with("hangs: it was not loaded within 20ms"),
            "{failures}"
        );
        drop(loader);
        gate.open.send(()).unwrap();
    }

    #[test]
    fn closing_waits_for_no_load_and_begins_none() {
        let gate = Gate::new();
        let jobs = vec![gate.job("runs", LONG), gate.job("waits", LONG)];
        let loader = Loader::start(jobs, places(1));
        assert_eq!(gate.next(), "runs");
        loader.close();
        drop(loader);
        gate.open.send(()).unwrap();
        // With the last job the last sender is gone.
        drop(gate.begins);
        assert_eq!(gate.begun.recv_timeout(LONG).ok(), None);
        assert!(gate.failures.lock().unwrap().is_empty());
    }
}
