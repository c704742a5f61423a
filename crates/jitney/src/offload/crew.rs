//! A fixed number of threads and the queue of work for them.

use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroUsize;
use std::panic::Location;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use slab::Slab;
use tokio::sync::{oneshot, watch};

use crate::cancel::{Cancel, Cause};
use crate::clock::Clock;
use crate::group::{Errand, caught};
use crate::limiter::{Holder, task_name};
use crate::lock::lock;
use crate::tree::Node;

/// What some threads of an [`Offload`](super::Offload) do now, and have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// How many threads there are.
    pub threads: usize,
    /// Closures that run.
    pub running: usize,
    /// Closures that wait for a thread.
    pub queued: usize,
    /// How long the oldest of them has been waiting; zero if there is none.
    pub queue_age: Duration,
    /// Closures that began.
    pub begun: u64,
    /// Closures that ended, by returning or by a panic.
    pub ended: u64,
    /// Those of them that panicked.
    pub panicked: u64,
    /// Closures that were refused.
    pub refused: u64,
    /// Closures that were accepted and then never began.
    pub withdrawn: u64,
    /// The time that those which began had spent in the queue, all together.
    pub queue_time: Duration,
    /// The longest time that one of them had spent there.
    pub queue_time_max: Duration,
}

/// Why there is no place.
pub(super) enum Refusal {
    Full,
    Closed,
}

/// The threads. They end when it is dropped and nothing is left to do.
pub(super) struct Crew {
    shared: Arc<Shared>,
    handles: Mutex<Vec<JoinHandle<()>>>,
}

impl Crew {
    pub(super) fn start(
        parent: &Node,
        kind: &'static str,
        threads: NonZeroUsize,
        queue: usize,
        clock: Clock,
    ) -> io::Result<Crew> {
        let threads = threads.get();
        let node = parent.child(kind);
        node.label(format!("{threads} threads, {queue} may wait"));
        let crew = Crew {
            shared: Arc::new(Shared {
                node,
                kind,
                threads,
                capacity: threads.saturating_add(queue),
                clock,
                state: Mutex::default(),
                work: Condvar::new(),
                alive: watch::Sender::new(0),
            }),
            handles: Mutex::default(),
        };
        for number in 0..threads {
            let handle = crew.shared.clone().start_thread(parent.name(), number)?;
            lock(&crew.handles).push(handle);
        }
        Ok(crew)
    }

    /// A node for one piece of work: below the running task, and named after it.
    pub(super) fn node_of_work(&self, site: &'static Location<'static>) -> Node {
        let parent = Node::current().unwrap_or_else(|| self.shared.node.clone());
        let node = parent.child_at(task_name(), site);
        node.label(format!("{}: queued", self.shared.kind));
        node
    }

    /// A place for one piece of work.
    pub(super) fn reserve(&self) -> Result<Place<'_>, Refusal> {
        let mut state = lock(&self.shared.state);
        if state.closed {
            return Err(Refusal::Closed);
        }
        if state.reserved + state.queued.len() + state.running.len() >= self.shared.capacity {
            state.refused += 1;
            return Err(Refusal::Full);
        }
        state.reserved += 1;
        Ok(Place { crew: self })
    }

    pub(super) fn close(&self) {
        lock(&self.shared.state).closed = true;
        self.shared.work.notify_all();
    }

    /// Waits until a closed crew's threads have ended.
    pub(super) async fn ended(&self) {
        let mut alive = self.shared.alive.subscribe();
        // The sender is there as long as the crew is.
        drop(alive.wait_for(|alive| *alive == 0).await);
        let handles = std::mem::take(&mut *lock(&self.handles));
        // They have said that they are at their end, so this takes no time. They catch every panic.
        for handle in handles {
            drop(handle.join());
        }
    }

    /// Drops what is queued, asks what runs to stop, and says what that was.
    pub(super) fn abandon(&self) -> Vec<Holder> {
        let mut state = lock(&self.shared.state);
        let queued = std::mem::take(&mut state.queued);
        state.withdrawn += queued.len() as u64;
        let running: Vec<(Node, Cancel)> = state.running.iter().map(|(_, it)| it.clone()).collect();
        drop(state);
        let running = running.into_iter().map(|(node, cancel)| {
            cancel.cancel(Cause::Shutdown);
            Holder::of(&node)
        });
        let holders = running.chain(queued.values().map(|job| Holder::of(job.errand.node())));
        let holders = holders.collect();
        for job in queued.into_values() {
            job.errand.cancel().cancel(Cause::Shutdown);
            drop(caught(|| drop(job)));
        }
        holders
    }

    pub(super) fn stats(&self) -> Stats {
        let state = lock(&self.shared.state);
        let oldest = state.queued.values().next();
        Stats {
            threads: self.shared.threads,
            running: state.running.len(),
            queued: state.queued.len(),
            queue_age: oldest.map_or(Duration::ZERO, |job| self.shared.since(job.queued)),
            begun: state.begun,
            ended: state.ended,
            panicked: state.panicked,
            refused: state.refused,
            withdrawn: state.withdrawn,
            queue_time: state.queue_time,
            queue_time_max: state.queue_time_max,
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.close();
    }
}

/// The promise of a place in the queue.
#[must_use = "a place that is not filled is lost"]
pub(super) struct Place<'a> {
    crew: &'a Crew,
}

impl<'a> Place<'a> {
    /// Puts `work` in the queue, which answers through `sender`.
    pub(super) fn fill<T: Send + 'static>(
        self,
        errand: Errand,
        work: impl FnOnce() -> T + Send + 'static,
        sender: oneshot::Sender<Result<T, String>>,
    ) -> Ticket<'a> {
        let shared = &*self.crew.shared;
        let cancel = errand.cancel().clone();
        let job = Job {
            queued: shared.clock.now(),
            run: Box::new(move |errand, done| {
                let outcome = errand.run(work);
                done(outcome.is_err());
                // A value that nobody wants comes back, and is dropped here.
                drop(sender.send(outcome));
            }),
            errand,
        };
        let id = shared.enqueue(job);
        Ticket { shared, id, cancel }
    }
}

/// One who waits for work to be done. Dropped, it asks the work to stop, and takes it out of the queue.
pub(super) struct Ticket<'a> {
    shared: &'a Shared,
    id: u64,
    cancel: Cancel,
}

impl Ticket<'_> {
    pub(super) fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Takes the work out of the queue; false if it has begun.
    pub(super) fn withdraw(&self) -> bool {
        let mut state = lock(&self.shared.state);
        let job = state.queued.remove(&self.id);
        state.withdrawn += u64::from(job.is_some());
        drop(state);
        job.is_some()
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.cancel.cancel(Cause::ParentGone);
        self.withdraw();
    }
}

/// Runs the work in its errand's context, says that it is done and whether by a panic, and then delivers the value.
type Run = Box<dyn FnOnce(&Errand, &mut dyn FnMut(bool)) + Send>;

struct Job {
    queued: Instant,
    run: Run,
    // Dropped after the closure, so that the scope waits for that too.
    errand: Errand,
}

struct Shared {
    node: Node,
    kind: &'static str,
    threads: usize,
    /// Most pieces of work, those that run included.
    capacity: usize,
    clock: Clock,
    state: Mutex<State>,
    work: Condvar,
    alive: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    /// By age: the smallest number is the oldest.
    queued: BTreeMap<u64, Job>,
    next_id: u64,
    reserved: usize,
    running: Slab<(Node, Cancel)>,
    closed: bool,
    begun: u64,
    ended: u64,
    panicked: u64,
    refused: u64,
    withdrawn: u64,
    queue_time: Duration,
    queue_time_max: Duration,
}

impl Shared {
    fn start_thread(self: Arc<Shared>, name: &str, number: usize) -> io::Result<JoinHandle<()>> {
        let name = format!("{name}-{}-{number}", self.kind);
        let label = format!("{}: on {name}", self.kind);
        self.alive.send_modify(|alive| *alive += 1);
        let shared = self.clone();
        let started = Builder::new().name(name).spawn(move || {
            while let Some((key, job)) = shared.next() {
                shared.perform(key, job, &label);
            }
            shared.alive.send_modify(|alive| *alive -= 1);
        });
        if started.is_err() {
            self.alive.send_modify(|alive| *alive -= 1);
        }
        started
    }

    fn enqueue(&self, job: Job) -> u64 {
        let mut state = lock(&self.state);
        let id = state.next_id;
        state.next_id += 1;
        state.reserved -= 1;
        state.queued.insert(id, job);
        let closed = state.closed;
        drop(state);
        if closed {
            // Threads that would have ended stayed for this piece.
            self.work.notify_all();
        } else {
            self.work.notify_one();
        }
        id
    }

    /// Waits for work; none when it is closed and there is none left.
    fn next(&self) -> Option<(usize, Job)> {
        let mut state = lock(&self.state);
        loop {
            let Some((_, job)) = state.queued.pop_first() else {
                if state.closed && state.reserved == 0 {
                    return None;
                }
                let woken = self.work.wait(state);
                state = woken.unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            if job.errand.cancel().cause().is_none() {
                let waited = self.since(job.queued);
                return Some((state.begin(&job, waited), job));
            }
            state.withdrawn += 1;
            drop(state);
            drop(caught(|| drop(job)));
            state = lock(&self.state);
        }
    }

    fn perform(&self, key: usize, job: Job, label: &str) {
        let Job { run, errand, .. } = job;
        errand.node().label(label.to_owned());
        let mut done = |panicked| {
            errand.node().leave();
            lock(&self.state).end(key, panicked);
        };
        // The work's own panics are its outcome. What is caught here is a panic of its value being dropped.
        drop(caught(|| run(&errand, &mut done)));
    }

    fn since(&self, moment: Instant) -> Duration {
        self.clock.now().saturating_duration_since(moment)
    }
}

impl State {
    fn begin(&mut self, job: &Job, waited: Duration) -> usize {
        self.begun += 1;
        self.queue_time += waited;
        self.queue_time_max = self.queue_time_max.max(waited);
        let errand = &job.errand;
        self.running
            .insert((errand.node().clone(), errand.cancel().clone()))
    }

    fn end(&mut self, key: usize, panicked: bool) {
        self.ended += 1;
        self.panicked += u64::from(panicked);
        // Nothing of it is the last of its kind, so no foreign code runs under the lock.
        drop(self.running.try_remove(key));
    }
}
