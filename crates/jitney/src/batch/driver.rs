//! The threads around a [`Lane`]: one for each instance of the model, and a keeper that owns them.
//!
//! Of the instances that are free, one is the *leader*: it alone looks at the queue, holds the door and forms the batch. When it leaves
//! with one, the next free instance leads. So an instance is always reserved before a batch is formed, and a request that arrives wakes
//! at most one thread. The keeper answers what falls due by itself (deadlines, run limits), replaces instances that were given up, and
//! ends last.
//!
//! One lock guards everything. Nobody is woken and no user code runs while it is held, but for [`Model::rows`] and
//! [`Model::compatible`].

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::context::Riders;
use super::isolate::{Guarded, make_guarded};
use super::lane::{Lane, Next, Outcomes, Seat};
use super::queue::Place;
use super::ticket::{Due, Reply, Ticket};
use super::{Batching, Courier, Model, Refused, Stats, Surroundings, Terms};
use crate::clock::{Clock, Sleeper};
use crate::sync::{Condvar, Mutex, MutexGuard, lock, thread};
use crate::tree::{Node, bounded};

/// Pauses between attempts to make an instance that could not be made: the first, doubled up to the last. A thread that could not be
/// started is tried again after the first.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// Makes instances of a model. Called on the thread the instance will live on.
pub(crate) type Make<M> = Arc<dyn Fn() -> Result<M, Arc<str>> + Send + Sync>;

/// What the threads of one batcher share.
pub(crate) struct Shared<M: Model> {
    name: Box<str>,
    clock: Clock,
    courier: Option<Courier>,
    node: Option<Node>,
    isolate: bool,
    state: Mutex<State<M>>,
    /// The leader waits here for requests, or holds the door.
    leading: Condvar,
    /// Other free instances wait here to lead.
    following: Condvar,
    /// Threads whose instance could not be made wait here to try again.
    pausing: Condvar,
    keeping: Condvar,
    /// Whoever starts the batcher waits here for the first instances.
    starting: Condvar,
}

struct State<M: Model> {
    lane: Lane<M>,
    leader: Leader,
    followers: usize,
    keeper: Keeper,
    vacant: Vec<Vacancy>,
    /// Instance threads that have not ended, without those that were given up.
    threads: usize,
    /// Threads that were given up and still hang inside the model, and how many may.
    hung: usize,
    hung_max: usize,
    /// First instances that are still being made, and why one could not be.
    starting: usize,
    refusal: Option<Arc<str>>,
}

/// A slot that wants a thread with an instance.
struct Vacancy {
    slot: usize,
    /// Not to be filled before, if a thread for it could not be started.
    not_before: Option<Instant>,
}

/// The free instance that looks at the queue.
#[derive(Clone, Copy)]
enum Leader {
    /// No instance is free, or none has come forward yet.
    None,
    /// It is awake and will look again.
    Awake,
    /// It waits for a first request.
    Waiting,
    /// It holds the door until then, or until that many rows are ready.
    Holding { until: Instant, rows: usize },
}

enum Keeper {
    Awake,
    /// Sleeps until then; anything due earlier must wake it.
    Asleep(Option<Instant>),
}

impl<M: Model> Shared<M> {
    #[track_caller]
    pub(crate) fn new(
        name: &str,
        batching: Batching,
        surroundings: Surroundings,
    ) -> Arc<Shared<M>> {
        let Surroundings {
            clock,
            courier,
            node,
        } = surroundings;
        let shared = Arc::new(Shared {
            name: name.into(),
            clock,
            courier,
            node: node.map(|node| node.child(format!("batcher {name}"))),
            isolate: batching.isolate,
            state: Mutex::new(State::new(batching)),
            leading: Condvar::new(),
            following: Condvar::new(),
            pausing: Condvar::new(),
            keeping: Condvar::new(),
            starting: Condvar::new(),
        });
        let sleeper: Arc<dyn Sleeper> = shared.clone();
        shared.clock.register(Arc::downgrade(&sleeper));
        shared
    }

    // === from the callers' side ===

    pub(crate) fn submit(
        self: &Arc<Self>,
        item: M::In,
        terms: &Terms,
    ) -> Result<Ticket<M>, Refused> {
        let (reply, receiver) = Reply::new();
        let now = self.clock.now();
        let mut state = lock(&self.state);
        let place = state.lane.submit(now, item, terms, reply)?;
        let wake = state.whom_to_wake(terms.deadline);
        let leave_core = state.lane.free_instance_is_late();
        drop(state);
        self.wake(wake);
        if leave_core {
            thread::yield_now();
        }
        Ok(Ticket::new(receiver, self.clone(), place))
    }

    pub(crate) fn cancel(&self, place: Place) {
        let cancelled = lock(&self.state).lane.cancel(place);
        drop(cancelled);
    }

    pub(crate) fn close(&self) {
        lock(&self.state).lane.close();
        self.wake_all();
    }

    /// Says how many were answered so.
    pub(crate) fn abort(&self) -> usize {
        let mut due = Vec::new();
        lock(&self.state).lane.abort(&mut due);
        let cut = due.len();
        send(&mut due);
        self.wake_all();
        cut
    }

    pub(crate) fn observe_cost(&self, rows: usize, took: Duration) {
        lock(&self.state).lane.observe_cost(rows, took);
    }

    pub(crate) fn stats(&self) -> Stats {
        let now = self.clock.now();
        lock(&self.state).lane.stats(now)
    }

    fn wake(&self, wake: Wake) {
        if wake.leader {
            self.leading.notify_one();
        }
        if wake.follower {
            self.following.notify_one();
        }
        if wake.keeper {
            self.keeping.notify_one();
        }
    }

    fn wake_all(&self) {
        // The state is taken once, so that nobody can be between looking at it and falling asleep.
        drop(lock(&self.state));
        self.leading.notify_all();
        self.following.notify_all();
        self.pausing.notify_all();
        self.keeping.notify_all();
    }

    // === an instance's thread ===

    /// Takes a free seat's next batch, or `None` when the seat has nothing to do any more.
    fn next_batch(&self, seat: Seat) -> Option<Vec<M::In>> {
        let mut due = Vec::new();
        let mut state = self.lead(lock(&self.state));
        let items = loop {
            let now = self.clock.now();
            let next = state.lane.next(now, seat, &mut due);
            if !due.is_empty() && !matches!(next, Next::Run(_)) {
                drop(state);
                send(&mut due);
                state = lock(&self.state);
                continue;
            }
            let until = match next {
                Next::Run(items) => break Some(items),
                Next::Stop => break None,
                Next::Follow => {
                    state.leader = Leader::None;
                    state = self.lead(state);
                    continue;
                }
                Next::Wait => {
                    state.leader = Leader::Waiting;
                    None
                }
                Next::Hold { until, rows } => {
                    state.leader = Leader::Holding { until, rows };
                    Some(until)
                }
            };
            let first = matches!(state.leader, Leader::Waiting);
            state = self.clock.wait(&self.leading, state, until);
            state.leader = Leader::Awake;
            if first {
                // Where callers and instances share a core, whoever submits now would be interrupted by this thread for a batch of one.
                // Those who are ready to submit go first; when there are none, this costs nothing.
                drop(state);
                thread::yield_now();
                state = lock(&self.state);
            }
        };
        state.leader = Leader::None;
        let keeper = state.wake_keeper();
        let follower = state.wake_follower(items.is_none());
        drop(state);
        self.wake(Wake {
            leader: false,
            follower,
            keeper,
        });
        send(&mut due);
        items
    }

    /// Waits until this thread leads, and there is something to lead.
    fn lead<'a>(&self, mut state: MutexGuard<'a, State<M>>) -> MutexGuard<'a, State<M>> {
        while !matches!(state.leader, Leader::None) || !state.lane.wants_leader() {
            state.followers += 1;
            state = self.clock.wait(&self.following, state, None);
            state.followers -= 1;
        }
        state.leader = Leader::Awake;
        state
    }

    /// Hands over what became of the seat's batch. False when the seat was given up meanwhile, as it can be only while its batch runs.
    fn complete(&self, seat: Seat, results: Outcomes<M>, took: Option<Duration>) -> bool {
        let mut due = Vec::new();
        let now = self.clock.now();
        let mut state = lock(&self.state);
        state.lane.complete(now, seat, results, took, &mut due);
        let sits = state.lane.sits(seat);
        drop(state);
        match &self.courier {
            // One answer is delivered as quickly from here.
            Some(courier) if due.len() > 1 => courier.take(due),
            _ => send(&mut due),
        }
        sits
    }

    /// Answers some items of the seat's batch, from the given place on, while the others are run again.
    pub(crate) fn answer(&self, seat: Seat, first: usize, results: Outcomes<M>) {
        let mut due = Vec::new();
        let now = self.clock.now();
        lock(&self.state)
            .lane
            .answer(now, seat, first, results, &mut due);
        send(&mut due);
    }

    /// Which items of the seat's batch are still awaited; `None` when the batch was given up.
    pub(crate) fn awaited(&self, seat: Seat) -> Option<Vec<bool>> {
        lock(&self.state).lane.awaited(seat)
    }

    /// How long a batch may run, and how long an item by itself when one of its batch hung.
    pub(crate) fn limits(&self) -> (Duration, Duration) {
        let state = lock(&self.state);
        (state.lane.run_limit(), state.lane.short_limit())
    }

    pub(crate) fn count_replaced(&self) {
        lock(&self.state).lane.count_replaced();
    }

    /// Runs batches with an instance until there is nothing left to do, another has taken its seat, or it is lost for this reason.
    fn run_batches(
        &self,
        seat: Seat,
        model: M,
        make: &Make<M>,
        node: Option<&Node>,
    ) -> Result<(), Arc<str>> {
        let mut model = Guarded::new(model, make, self, seat);
        while let Some(items) = self.next_batch(seat) {
            if let Some(node) = node {
                let rows = items.iter().map(M::rows).sum();
                let unit = if rows == 1 { " row" } else { " rows" };
                node.label_number("runs ", rows, unit);
            }
            let (results, took) = model.run(&items, self.isolate, &self.clock);
            label(node, "idle");
            if !self.complete(seat, results, took) {
                break;
            }
            model.alive()?;
        }
        Ok(())
    }

    /// The life of an instance's thread: makes the instance and runs its batches; when it is lost and cannot be made again, tries later.
    fn live(&self, seat: Seat, make: &Make<M>) {
        let node = self.node_of(seat);
        let node = node.as_ref();
        let mut pause = FIRST_PAUSE;
        loop {
            label(node, "is being made");
            let made = make_guarded(make);
            if made.is_ok() {
                label(node, "idle");
                lock(&self.state).lane.sit(self.clock.now(), seat);
            }
            self.started(made.as_ref().err().cloned());
            let reason = match made {
                Ok(model) => {
                    pause = FIRST_PAUSE;
                    match self.run_batches(seat, model, make, node) {
                        Ok(()) => return,
                        Err(reason) => reason,
                    }
                }
                Err(reason) => reason,
            };
            label(node, "is to be made again");
            if !self.pause(seat, reason, pause) {
                return;
            }
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    /// The place of an instance's thread in the tree.
    fn node_of(&self, seat: Seat) -> Option<Node> {
        let node = self.node.as_ref()?;
        let name = bounded(&format!("instance {}", seat.slot));
        Some(node.child_at(name, node.site()))
    }

    /// Gives the seat up for a while. False when there is no coming back.
    fn pause(&self, seat: Seat, reason: Arc<str>, pause: Duration) -> bool {
        let mut due = Vec::new();
        let mut state = lock(&self.state);
        state.lane.vacate(seat, reason, &mut due);
        self.following.notify_all();
        if !due.is_empty() {
            drop(state);
            send(&mut due);
            state = lock(&self.state);
        }
        let until = self.clock.now() + pause;
        while !state.lane.closing() && self.clock.now() < until {
            state = self.clock.wait(&self.pausing, state, Some(until));
        }
        !state.lane.closing()
    }

    /// The first attempt to make an instance has ended.
    fn started(&self, refusal: Option<Arc<str>>) {
        let mut state = lock(&self.state);
        if state.starting > 0 {
            state.starting -= 1;
            state.refusal = state.refusal.take().or(refusal);
            drop(state);
            self.starting.notify_all();
        }
    }

    fn ended(&self, seat: Seat) {
        let mut state = lock(&self.state);
        if state.lane.sits(seat) {
            state.threads -= 1;
        } else {
            state.hung -= 1;
        }
        drop(state);
        self.keeping.notify_one();
    }

    // === the keeper's thread ===

    /// Starts the keeper, which starts the instances, and waits until each has been made.
    pub(crate) fn start(
        self: &Arc<Self>,
        make: Make<M>,
    ) -> Result<watch::Receiver<bool>, Arc<str>> {
        let (ended, closed) = watch::channel(false);
        let shared = self.clone();
        let keep = move || {
            shared.keep(&make);
            // What the instances are made from has ended too when this is said.
            drop(make);
            ended.send_replace(true);
        };
        let keeper = thread::Builder::new().name(format!("{} keeper", self.name));
        keeper.spawn(keep).map_err(|error| no_thread(&error))?;
        let mut state = lock(&self.state);
        while state.starting > 0 {
            state = self.clock.wait(&self.starting, state, None);
        }
        let refusal = state.refusal.take();
        drop(state);
        match refusal {
            Some(reason) => {
                self.abort();
                Err(reason)
            }
            None => Ok(closed),
        }
    }

    fn keep(self: Arc<Self>, make: &Make<M>) {
        let mut threads = Vec::new();
        let mut due = Vec::new();
        let mut state = lock(&self.state);
        loop {
            let now = self.clock.now();
            state.lane.expire(now, &mut due);
            let given_up = state.give_up_hung(now, &mut due);
            if given_up || !due.is_empty() {
                drop(state);
                if given_up {
                    // It does not run any more, so that there may be something to lead for who waits to.
                    self.following.notify_one();
                }
                send(&mut due);
                state = lock(&self.state);
                continue;
            }
            if let Some(seat) = state.vacant_seat(now) {
                drop(state);
                self.populate(seat, make, &mut threads);
                state = lock(&self.state);
                continue;
            }
            if state.lane.closing() && state.threads == 0 {
                break;
            }
            let until = state.next_due();
            state.keeper = Keeper::Asleep(until);
            state = self.clock.wait(&self.keeping, state, until);
            state.keeper = Keeper::Awake;
        }
        // A thread that was given up may hang for ever; the others are about to end.
        threads.retain(|(seat, _)| state.lane.sits(*seat));
        drop(state);
        for (_, thread) in threads {
            thread.join().ok();
        }
    }

    /// Puts a thread with a new instance on a vacant seat.
    fn populate(
        self: &Arc<Self>,
        seat: Seat,
        make: &Make<M>,
        threads: &mut Vec<(Seat, thread::JoinHandle<()>)>,
    ) {
        threads.retain(|(old, _)| old.slot != seat.slot);
        let (shared, make) = (self.clone(), make.clone());
        let live = move || {
            // A panic here is not the model's, whose panics are caught where it runs; the seat must be left in any case.
            catch_unwind(AssertUnwindSafe(|| shared.live(seat, &make))).ok();
            shared.started(Some("its thread panicked".into()));
            shared.ended(seat);
        };
        let name = format!("{} {}", self.name, seat.slot);
        match thread::Builder::new().name(name).spawn(live) {
            Ok(thread) => threads.push((seat, thread)),
            Err(error) => {
                let mut due = Vec::new();
                let reason = no_thread(&error);
                let now = self.clock.now();
                lock(&self.state).not_started(now, seat, reason.clone(), &mut due);
                self.started(Some(reason));
                send(&mut due);
            }
        }
    }
}

impl<M: Model> State<M> {
    fn new(batching: Batching) -> State<M> {
        let instances = batching.slots();
        State {
            lane: Lane::new(batching),
            leader: Leader::None,
            followers: 0,
            keeper: Keeper::Awake,
            vacant: (0..instances).map(Vacancy::at_once).collect(),
            threads: 0,
            hung: 0,
            hung_max: instances,
            starting: instances,
            refusal: None,
        }
    }

    /// Whom a new request concerns.
    fn whom_to_wake(&mut self, deadline: Option<Instant>) -> Wake {
        let leader = match self.leader {
            Leader::Waiting => true,
            Leader::Holding { until, rows } => self.lane.disturbs(until, rows, deadline),
            Leader::None | Leader::Awake => false,
        };
        if leader {
            self.leader = Leader::Awake;
        }
        let follower = matches!(self.leader, Leader::None) && self.wake_follower(false);
        Wake {
            leader,
            follower,
            keeper: self.wake_keeper(),
        }
    }

    /// Whether one of those who wait to lead should. When a thread ends, it passes that on.
    fn wake_follower(&self, ended: bool) -> bool {
        let wanted = || self.lane.waiting() && self.lane.wants_leader();
        self.followers > 0 && (ended || wanted())
    }

    /// Whether something falls due before the keeper looks again.
    fn wake_keeper(&mut self) -> bool {
        let late = match self.keeper {
            Keeper::Asleep(until) => self.lane.due_before(until),
            Keeper::Awake => false,
        };
        if late {
            self.keeper = Keeper::Awake;
        }
        late
    }

    /// Says whether there were any.
    fn give_up_hung(&mut self, now: Instant, due: &mut Vec<Due<M>>) -> bool {
        let slots = self.lane.give_up(now, due);
        let given_up = !slots.is_empty();
        for slot in slots {
            self.threads -= 1;
            self.hung += 1;
            self.vacant.push(Vacancy::at_once(slot));
        }
        if self.hung > self.hung_max {
            let reason: Arc<str> = "it hangs, and so did the instances that took its place".into();
            for vacancy in &self.vacant {
                let seat = self.lane.seat(vacancy.slot);
                self.lane.vacate(seat, reason.clone(), due);
            }
        }
        given_up
    }

    /// A seat to put a new instance on now.
    fn vacant_seat(&mut self, now: Instant) -> Option<Seat> {
        if !self.wants_instances() {
            return None;
        }
        let due = |vacancy: &Vacancy| vacancy.not_before.is_none_or(|at| at <= now);
        let vacancy = self.vacant.remove(self.vacant.iter().rposition(due)?);
        self.threads += 1;
        Some(self.lane.seat(vacancy.slot))
    }

    /// Whether vacant seats are to be filled. Not while more threads hang than there are seats: a model that always hangs must not use
    /// up the machine's threads.
    fn wants_instances(&self) -> bool {
        self.hung <= self.hung_max && (!self.lane.closing() || self.lane.waiting())
    }

    /// The thread for a vacant seat could not be started, for this reason: it is tried again later.
    fn not_started(&mut self, now: Instant, seat: Seat, reason: Arc<str>, due: &mut Vec<Due<M>>) {
        self.threads -= 1;
        self.vacant.push(Vacancy {
            slot: seat.slot,
            not_before: Some(now + FIRST_PAUSE),
        });
        self.lane.vacate(seat, reason, due);
    }

    /// When the keeper next has something to do by itself.
    fn next_due(&mut self) -> Option<Instant> {
        let due = self.lane.next_due();
        if !self.wants_instances() {
            return due;
        }
        let vacancies = self.vacant.iter().filter_map(|vacancy| vacancy.not_before);
        vacancies.chain(due).min()
    }
}

impl Vacancy {
    fn at_once(slot: usize) -> Vacancy {
        Vacancy {
            slot,
            not_before: None,
        }
    }
}

/// The riders of the batch of a seat.
pub(crate) struct SeatRiders<'a, M: Model> {
    pub(crate) shared: &'a Shared<M>,
    pub(crate) seat: Seat,
}

impl<M: Model> Riders for SeatRiders<'_, M> {
    fn awaited(&self, place: usize) -> bool {
        lock(&self.shared.state).lane.awaits(self.seat, place)
    }

    fn deadline(&self, place: usize) -> Option<Instant> {
        lock(&self.shared.state).lane.deadline(self.seat, place)
    }
}

impl<M: Model> Sleeper for Shared<M> {
    fn time_moved(&self) {
        self.wake_all();
    }
}

impl<M: Model> std::fmt::Debug for Shared<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batcher")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Threads to wake once the lock is released.
#[derive(Clone, Copy)]
struct Wake {
    leader: bool,
    follower: bool,
    keeper: bool,
}

fn send<M: Model>(due: &mut Vec<Due<M>>) {
    due.drain(..).for_each(Due::send);
}

fn label(node: Option<&Node>, text: &'static str) {
    if let Some(node) = node {
        node.label(text);
    }
}

fn no_thread(error: &impl Display) -> Arc<str> {
    format!("no thread could be started: {error}").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Context;

    struct Idle;

    impl Model for Idle {
        type In = ();
        type Out = ();
        type Error = ();

        fn run(&mut self, items: &[()], _: &Context<'_>) -> Result<Vec<Result<(), ()>>, ()> {
            Ok(items.iter().map(|&()| Ok(())).collect())
        }
    }

    #[test]
    fn a_thread_that_could_not_be_started_is_tried_again_after_a_pause() {
        let now = Instant::now();
        let mut state = State::<Idle>::new(Batching::default());
        for now in [now, now + FIRST_PAUSE] {
            let seat = state.vacant_seat(now).unwrap();
            state.not_started(now, seat, "none left".into(), &mut Vec::new());
            let later = now + FIRST_PAUSE;
            assert_eq!((state.vacant_seat(now), state.threads), (None, 0));
            assert_eq!(state.next_due(), Some(later), "the keeper looks again then");
        }
        assert_eq!(state.lane.stats(now).dead.as_deref(), Some("none left"));
        state.lane.close();
        assert_eq!(state.next_due(), None, "nobody is left to start it for");
    }
}
