//! What a pool has, and who waits for it.

use std::collections::{BTreeMap, VecDeque};
use std::panic::Location;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use slab::Slab;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;

use super::{Guarded, Manager, PoolError, Settings};
use crate::limiter::Holder;
use crate::lock::lock;
use crate::tree::Node;

/// What a pool has now, and has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Most resources there may be.
    pub max: usize,
    /// Resources that somebody holds.
    pub held: usize,
    /// Resources that lie idle.
    pub idle: usize,
    /// Resources that are being opened, checked, recycled or closed.
    pub busy: usize,
    /// How many wait.
    pub waiting: usize,
    /// Resources that were opened.
    pub opened: u64,
    /// How often opening failed.
    pub failed: u64,
    /// Resources that were dropped because a check or a recycling failed.
    pub broken: u64,
    /// Resources that were closed: too old, too long idle, discarded, or because the pool closes.
    pub closed: u64,
}

pub(super) type Answer<M> = Result<Guarded<M>, PoolError<<M as Manager>::Error>>;

/// A resource and when it was opened.
pub(super) struct Lived<R> {
    pub(super) resource: R,
    pub(super) opened: Instant,
}

/// What asking for a resource leads to.
pub(super) enum Asked<M: Manager> {
    Answered(Answer<M>),
    Waiting(Waiting<M>),
}

/// What the keeper has to do to a resource.
pub(super) enum Step<R> {
    Open,
    Check(Lived<R>),
    Recycle(Lived<R>),
    Close(Lived<R>),
}

/// What came of a step.
pub(super) enum Done<M: Manager> {
    Opened(Result<M::Resource, PoolError<M::Error>>),
    /// Checked or recycled.
    Usable(Lived<M::Resource>),
    Broken,
    Closed,
}

/// What the keeper is to do next.
pub(super) struct Plan<R> {
    pub(super) steps: Vec<Step<R>>,
    /// When the next idle resource has to be closed.
    pub(super) look_again: Option<Instant>,
    /// The pool is closed, and nothing of it is left.
    pub(super) over: bool,
}

pub(super) struct Shared<M: Manager> {
    pub(super) node: Node,
    pub(super) manager: M,
    pub(super) settings: Settings,
    /// Tells the keeper to look again.
    pub(super) changed: Notify,
    over: watch::Sender<bool>,
    state: Mutex<State<M>>,
}

impl<M: Manager> Shared<M> {
    pub(super) fn new(node: Node, manager: M, settings: Settings) -> Shared<M> {
        Shared {
            node,
            manager,
            settings,
            changed: Notify::new(),
            over: watch::Sender::new(false),
            state: Mutex::new(State::new()),
        }
    }

    /// Takes what lies idle, or gets in line.
    pub(super) fn ask(
        self: &Arc<Self>,
        name: Arc<str>,
        site: &'static Location<'static>,
    ) -> Asked<M> {
        let mut state = lock(&self.state);
        if state.phase != Phase::Open {
            return Asked::Answered(Err(PoolError::Closed));
        }
        if state.waiters.is_empty() && !self.settings.check {
            let now = Instant::now();
            if let Some(idle) = state
                .idle
                .pop_back_if(|idle| !idle.is_over(&self.settings, now))
            {
                let node = self.node.child_at(name, site);
                return Asked::Answered(Ok(self.hold(&mut state, idle.lived, node)));
            }
        }
        let waiting = state.waiters.len();
        if waiting >= self.settings.max_waiting {
            return Asked::Answered(Err(PoolError::Full { waiting }));
        }
        let (sender, answer) = oneshot::channel();
        let id = state.next_id;
        state.next_id += 1;
        state.waiters.insert(id, Waiter { sender, name, site });
        drop(state);
        self.changed.notify_one();
        Asked::Waiting(Waiting {
            shared: self.clone(),
            id,
            answer,
        })
    }

    /// A holder is done with its resource.
    pub(super) fn give_back(&self, key: usize, lived: Lived<M::Resource>, discard: bool) {
        let mut state = lock(&self.state);
        let node = state.held.try_remove(key);
        // Without a keeper nobody could do more than drop it.
        let dropped = match state.phase {
            Phase::Over => Some(lived),
            _ => {
                state.returned.push(Returned { lived, discard });
                None
            }
        };
        drop(state);
        drop((node, dropped));
        self.changed.notify_one();
    }

    /// Forgets a holder that never came to hold.
    pub(super) fn release(&self, key: usize) {
        let node = lock(&self.state).held.try_remove(key);
        drop(node);
    }

    pub(super) fn begin_closing(&self) {
        let mut state = lock(&self.state);
        if state.phase == Phase::Open {
            state.phase = Phase::Closing;
        }
        let refused = std::mem::take(&mut state.waiters);
        drop(state);
        // They hear of it by their sender's end.
        drop(refused);
        self.changed.notify_one();
    }

    pub(super) fn is_closing(&self) -> bool {
        lock(&self.state).phase != Phase::Open
    }

    /// Ends the pool whatever is left of it: there is no keeper any more.
    pub(super) fn end(&self) {
        let mut state = lock(&self.state);
        state.phase = Phase::Over;
        let waiters = std::mem::take(&mut state.waiters);
        let idle = std::mem::take(&mut state.idle);
        let returned = std::mem::take(&mut state.returned);
        drop(state);
        drop((waiters, idle, returned));
        self.over.send_replace(true);
    }

    pub(super) async fn over(&self) {
        // The sender is there as long as this is.
        drop(self.over.subscribe().wait_for(|over| *over).await);
    }

    pub(super) fn plan(&self, now: Instant) -> Plan<M::Resource> {
        lock(&self.state).plan(&self.settings, now)
    }

    pub(super) fn settle(self: &Arc<Self>, done: Done<M>) {
        let mut state = lock(&self.state);
        state.busy -= 1;
        match done {
            Done::Opened(Ok(resource)) => {
                state.supplying -= 1;
                state.opened += 1;
                drop(state);
                let opened = Instant::now();
                self.hand_over(Lived { resource, opened });
            }
            Done::Opened(Err(error)) => {
                state.supplying -= 1;
                state.failed += 1;
                let oldest = state.waiters.pop_first();
                drop(state);
                if let Some((_, waiter)) = oldest {
                    drop(waiter.sender.send(Err(error)));
                }
            }
            Done::Usable(lived) => {
                state.supplying -= 1;
                drop(state);
                self.hand_over(lived);
            }
            Done::Broken => {
                state.supplying -= 1;
                state.broken += 1;
            }
            Done::Closed => state.closed += 1,
        }
    }

    pub(super) fn holders(&self) -> Vec<Holder> {
        let state = lock(&self.state);
        state
            .held
            .iter()
            .map(|(_, node)| Holder::of(node))
            .collect()
    }

    pub(super) fn stats(&self) -> Stats {
        let state = lock(&self.state);
        Stats {
            max: self.settings.max.get(),
            held: state.held.len(),
            idle: state.idle.len(),
            busy: state.busy + state.returned.len(),
            waiting: state.waiters.len(),
            opened: state.opened,
            failed: state.failed,
            broken: state.broken,
            closed: state.closed,
        }
    }

    /// Gives a resource to who waited longest, or lays it by.
    fn hand_over(self: &Arc<Self>, mut lived: Lived<M::Resource>) {
        loop {
            let mut state = lock(&self.state);
            if state.phase != Phase::Open {
                let discard = true;
                state.returned.push(Returned { lived, discard });
                return;
            }
            let Some((_, waiter)) = state.waiters.pop_first() else {
                let since = Instant::now();
                state.idle.push_back(Idle { lived, since });
                return;
            };
            let node = self.node.child_at(waiter.name, waiter.site);
            let guarded = self.hold(&mut state, lived, node);
            drop(state);
            match waiter.sender.send(Ok(guarded)) {
                Err(Ok(guarded)) => match guarded.take_back() {
                    Some(back) => lived = back,
                    None => return,
                },
                _ => return,
            }
        }
    }

    fn hold(
        self: &Arc<Self>,
        state: &mut State<M>,
        lived: Lived<M::Resource>,
        node: Node,
    ) -> Guarded<M> {
        node.label("holds");
        Guarded {
            lived: Some(lived),
            key: state.held.insert(node),
            shared: self.clone(),
        }
    }
}

/// A place in the line.
pub(super) struct Waiting<M: Manager> {
    shared: Arc<Shared<M>>,
    id: u64,
    answer: oneshot::Receiver<Answer<M>>,
}

impl<M: Manager> Waiting<M> {
    pub(super) async fn answer(mut self) -> Answer<M> {
        (&mut self.answer).await.unwrap_or(Err(PoolError::Closed))
    }
}

impl<M: Manager> Drop for Waiting<M> {
    fn drop(&mut self) {
        let waiter = lock(&self.shared.state).waiters.remove(&self.id);
        drop(waiter);
        // A resource that came too late goes back with the receiver.
    }
}

/// Open, then closing, then over; over also from open, if the keeper was cut off.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    Closing,
    Over,
}

struct State<M: Manager> {
    phase: Phase,
    /// The last one used is the last, and the first to be used again.
    idle: VecDeque<Idle<M::Resource>>,
    returned: Vec<Returned<M::Resource>>,
    /// By age: the smallest number waited longest.
    waiters: BTreeMap<u64, Waiter<M>>,
    next_id: u64,
    held: Slab<Node>,
    /// Resources in the keeper's hands.
    busy: usize,
    /// Those of them that will be handed to somebody, if all goes well.
    supplying: usize,
    opened: u64,
    failed: u64,
    broken: u64,
    closed: u64,
}

impl<M: Manager> State<M> {
    fn new() -> State<M> {
        State {
            phase: Phase::Open,
            idle: VecDeque::new(),
            returned: Vec::new(),
            waiters: BTreeMap::new(),
            next_id: 0,
            held: Slab::new(),
            busy: 0,
            supplying: 0,
            opened: 0,
            failed: 0,
            broken: 0,
            closed: 0,
        }
    }

    fn plan(&mut self, settings: &Settings, now: Instant) -> Plan<M::Resource> {
        let mut steps = Vec::new();
        self.sort_returned(settings, now, &mut steps);
        self.retire_idle(settings, now, &mut steps);
        self.supply(settings, &mut steps);
        let left = self.held.len() + self.idle.len() + self.returned.len() + self.busy;
        Plan {
            steps,
            look_again: self
                .idle
                .iter()
                .filter_map(|idle| idle.until(settings))
                .min(),
            over: self.phase != Phase::Open && left == 0,
        }
    }

    fn sort_returned(
        &mut self,
        settings: &Settings,
        now: Instant,
        steps: &mut Vec<Step<M::Resource>>,
    ) {
        for Returned { lived, discard } in std::mem::take(&mut self.returned) {
            self.busy += 1;
            if discard || self.phase != Phase::Open || lived.is_over(settings, now) {
                steps.push(Step::Close(lived));
            } else {
                self.supplying += 1;
                steps.push(Step::Recycle(lived));
            }
        }
    }

    fn retire_idle(
        &mut self,
        settings: &Settings,
        now: Instant,
        steps: &mut Vec<Step<M::Resource>>,
    ) {
        for idle in std::mem::take(&mut self.idle) {
            if self.phase != Phase::Open || idle.is_over(settings, now) {
                self.busy += 1;
                steps.push(Step::Close(idle.lived));
            } else {
                self.idle.push_back(idle);
            }
        }
    }

    /// Begins as much as those need who wait, and for whom nothing has begun.
    fn supply(&mut self, settings: &Settings, steps: &mut Vec<Step<M::Resource>>) {
        while self.waiters.len() > self.supplying {
            if let Some(idle) = self.idle.pop_back() {
                steps.push(Step::Check(idle.lived));
            } else if self.held.len() + self.busy < settings.max.get() {
                steps.push(Step::Open);
            } else {
                return;
            }
            self.busy += 1;
            self.supplying += 1;
        }
    }
}

struct Waiter<M: Manager> {
    sender: oneshot::Sender<Answer<M>>,
    name: Arc<str>,
    site: &'static Location<'static>,
}

struct Returned<R> {
    lived: Lived<R>,
    discard: bool,
}

struct Idle<R> {
    lived: Lived<R>,
    since: Instant,
}

impl<R> Idle<R> {
    fn until(&self, settings: &Settings) -> Option<Instant> {
        let idle = after(self.since, settings.idle);
        idle.into_iter().chain(self.lived.until(settings)).min()
    }

    fn is_over(&self, settings: &Settings, now: Instant) -> bool {
        self.until(settings).is_some_and(|until| until <= now)
    }
}

impl<R> Lived<R> {
    fn until(&self, settings: &Settings) -> Option<Instant> {
        after(self.opened, settings.lifetime)
    }

    fn is_over(&self, settings: &Settings, now: Instant) -> bool {
        self.until(settings).is_some_and(|until| until <= now)
    }
}

/// A limit too long for the clock is none.
fn after(moment: Instant, limit: Option<Duration>) -> Option<Instant> {
    moment.checked_add(limit?)
}
