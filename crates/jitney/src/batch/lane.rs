//! The batcher as a state machine: who waits, who runs, what was learned and what was counted.
//!
//! A lane has no clock, no lock and no thread. It is told the time and what happened, and answers what to do; replies that fall due are
//! handed back to the caller as [`Due`], to be sent after the lock around the lane is released, so that nobody is woken into it.

use std::mem;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::arrivals::Arrivals;
use super::cost::Cost;
use super::policy::{self, Decision, Scene};
use super::queue::{Entry, Head, Place, Queue};
use super::ticket::{Due, Outcome, Reply};
use super::{Answer, BatchError, Batching, Model, Reason, Refused, Stats, Terms, Trip};

/// What is left of a deadline must be this much longer than the estimate for a request to be let in: estimates are averages.
const MARGIN: f64 = 1.1;
const MARGIN_FIXED: Duration = Duration::from_micros(500);

/// What a batch is taken to cost before any has run, where only the order of requests depends on it.
const UNKNOWN_SERVICE: Duration = Duration::from_millis(1);

/// What an item may take at least that is run by itself because its batch hung.
const SHORTEST_LIMIT: Duration = Duration::from_millis(100);

/// The state behind one batcher.
pub(crate) struct Lane<M: Model> {
    batching: Batching,
    queue: Queue<M::In, Reply<M>>,
    cost: Cost,
    arrivals: Arrivals,
    slots: Vec<Slot<M>>,
    closing: bool,
    /// Since when the door is held open, while it is.
    held_since: Option<Instant>,
    /// Nothing of [`Lane::next_due`] falls due before this.
    due: Option<Instant>,
    counts: Counts,
}

/// One place for an instance.
struct Slot<M: Model> {
    /// Grows when the instance in it is given up, so that the given-up one knows when it comes back.
    generation: u64,
    state: SlotState<M>,
}

enum SlotState<M: Model> {
    /// The instance is being made, or could not be made, for this reason.
    Absent(Option<Arc<str>>),
    /// Ready for a batch, since then.
    Free(Instant),
    Running(Running<M>),
}

/// A batch inside a model.
struct Running<M: Model> {
    riders: Vec<Rider<M>>,
    rows: usize,
    /// When it left the queue, or, handed over ahead of time, when an instance came free for it.
    started: Instant,
    /// It was handed over ahead of time and waits for the batch before it.
    ahead: bool,
    /// Since when the door was held for it, if it was.
    held_since: Option<Instant>,
    reason: Reason,
}

/// Who waits for a running batch, in the order of its items.
struct Rider<M: Model> {
    seq: u64,
    at: Instant,
    deadline: Option<Instant>,
    /// `None` once answered or gone.
    reply: Option<Reply<M>>,
}

impl<M: Model> Running<M> {
    /// How the batch travelled; what differs from rider to rider is left for [`BatchTrip::of`].
    fn trip(&self, now: Instant) -> BatchTrip {
        BatchTrip {
            started: self.started,
            held_since: self.held_since,
            run: now.saturating_duration_since(self.started),
            rows: self.rows,
            reason: self.reason,
        }
    }
}

/// The part of a [`Trip`] that the riders of a batch share.
struct BatchTrip {
    started: Instant,
    held_since: Option<Instant>,
    run: Duration,
    rows: usize,
    reason: Reason,
}

impl BatchTrip {
    fn of(&self, arrived: Instant) -> Trip {
        let left_queue = self
            .held_since
            .map_or(self.started, |since| since.max(arrived));
        Trip {
            queued: left_queue.saturating_duration_since(arrived),
            held: self.started.saturating_duration_since(left_queue),
            run: self.run,
            rows: self.rows,
            reason: self.reason,
        }
    }
}

#[derive(Default)]
struct Counts {
    received: u64,
    ok: u64,
    failed: u64,
    refused: u64,
    expired: u64,
    cancelled: u64,
    batches: [u64; Reason::ALL.len()],
    batch_rows: Vec<u64>,
    batch_runs: Vec<(u64, Duration)>,
    replaced: u64,
}

impl Counts {
    /// Gives a rider its result, if it still waits for one.
    fn tell<M: Model>(
        &mut self,
        rider: &mut Rider<M>,
        result: Outcome<M>,
        trip: &BatchTrip,
        due: &mut Vec<Due<M>>,
    ) {
        let Some(reply) = rider.reply.take() else {
            return;
        };
        match result {
            Ok(_) => self.ok += 1,
            Err(_) => self.failed += 1,
        }
        let trip = trip.of(rider.at);
        due.push(reply.due(result.map(|value| Answer { value, trip })));
    }
}

/// The right to run batches in one slot, until it is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seat {
    pub(crate) slot: usize,
    generation: u64,
}

/// What a free instance should do.
pub(crate) enum Next<I> {
    /// Run this batch.
    Run(Vec<I>),
    /// Hold the door until then or until that many rows are ready.
    Hold { until: Instant, rows: usize },
    /// Wait for requests.
    Wait,
    /// Every instance runs a batch already, and there is none to hand over ahead of time.
    Follow,
    /// There is nothing left to do, ever.
    Stop,
}

/// What a model made of a batch.
pub(crate) type Outcomes<M> = Vec<Outcome<M>>;

impl<M: Model> Lane<M> {
    pub(crate) fn new(batching: Batching) -> Lane<M> {
        let absent = |_| Slot {
            generation: 0,
            state: SlotState::Absent(None),
        };
        Lane {
            queue: Queue::new(batching.padded),
            cost: Cost::new(batching.max_batch),
            arrivals: Arrivals::new(batching.max_wait),
            slots: (0..batching.slots()).map(absent).collect(),
            closing: false,
            held_since: None,
            due: None,
            counts: Counts {
                batch_rows: vec![0; batching.max_batch.get()],
                batch_runs: vec![(0, Duration::ZERO); batching.max_batch.get()],
                ..Counts::default()
            },
            batching,
        }
    }

    // === requests ===

    /// Lets a request in, or says why not. On success its place in the line.
    pub(crate) fn submit(
        &mut self,
        now: Instant,
        item: M::In,
        terms: &Terms,
        reply: Reply<M>,
    ) -> Result<Place, Refused> {
        let rows = M::rows(&item).max(1);
        let place = self.queue.place(now, terms.priority, terms.key);
        self.counts.received += 1;
        self.arrivals.offered(now, rows);
        if let Err(refused) = self.admit(now, rows, terms, place) {
            self.counts.refused += 1;
            return Err(refused);
        }
        self.arrivals.arrived(now, rows);
        let service = terms.key.map_or(Duration::ZERO, |_| self.service(rows));
        let entry = Entry {
            place,
            item,
            rows,
            at: now,
            deadline: terms.deadline,
            key: terms.key,
            reply,
        };
        self.queue.push(entry, service, M::compatible);
        self.falls_due(terms.deadline);
        Ok(place)
    }

    /// What rows take of the instances' time, in batches as they should be.
    fn service(&self, rows: usize) -> Duration {
        let aim = self.cost.aim();
        let batch = self.cost.expect(aim).unwrap_or(UNKNOWN_SERVICE);
        let instances = self.batching.instances.get();
        batch.mul_f64(rows as f64 / (aim * instances) as f64)
    }

    fn admit(&self, now: Instant, rows: usize, terms: &Terms, place: Place) -> Result<(), Refused> {
        let max_batch = self.batching.max_batch.get();
        if rows > max_batch {
            return Err(Refused::TooLarge { rows, max_batch });
        }
        if self.closing {
            return Err(Refused::Closed);
        }
        if let Some(reason) = self.dead() {
            return Err(Refused::Failed(reason));
        }
        let queued = self.queue.len();
        // A key may not have more waiting than there are places left, so that however many it sends, others find room (the dynamic
        // thresholds of Choudhury and Hahne, 1998).
        let free = self.batching.queue.get().saturating_sub(queued);
        if terms.key.map_or(0, |key| self.queue.len_of(key)) >= free {
            let retry_after = self.until_drained(now).unwrap_or_default();
            return Err(Refused::Full {
                queued,
                retry_after,
            });
        }
        let Some(deadline) = terms.deadline else {
            return Ok(());
        };
        let remaining = deadline.saturating_duration_since(now);
        match self.estimate(now, rows, place) {
            Some(estimate) if remaining < estimate.mul_f64(MARGIN) + MARGIN_FIXED => {
                Err(Refused::TooLate {
                    estimate,
                    remaining,
                })
            }
            _ => Ok(()),
        }
    }

    /// How long a request of `rows` that comes now will take until its answer: the work ahead of it, spread over the instances, and its
    /// own batch with those expected to join it.
    fn estimate(&self, now: Instant, rows: usize, place: Place) -> Option<Duration> {
        let aim = self.cost.aim();
        let (batches_ahead, rows_with_it) = place_in_line(self.queue.rows_before(place), rows, aim);
        let start = self.free_in(now, batches_ahead)?;
        let joining = (self.arrivals.rate() * start.as_secs_f64()) as usize;
        let size = (rows_with_it + joining).clamp(rows, aim.max(rows));
        Some(start + self.cost.expect(size)?)
    }

    /// How long until the queue as it stands has left.
    fn until_drained(&self, now: Instant) -> Option<Duration> {
        let (batches_ahead, _) = place_in_line(self.queue.rows(), 1, self.cost.aim());
        self.free_in(now, batches_ahead)
    }

    /// How long until an instance is free for the batch after `batches` others.
    fn free_in(&self, now: Instant, batches: usize) -> Option<Duration> {
        let each = self.cost.expect(self.cost.aim())?;
        let mut free = Vec::with_capacity(self.slots.len());
        let mut batches = batches;
        for slot in &self.slots {
            match &slot.state {
                SlotState::Absent(_) => {}
                SlotState::Free(_) => free.push(Duration::ZERO),
                SlotState::Running(running) if running.ahead => batches += 1,
                SlotState::Running(running) => {
                    let expected = self.cost.expect(running.rows).unwrap_or_default();
                    free.push((running.started + expected).saturating_duration_since(now));
                }
            }
        }
        // Those who run now count before those who could be handed a batch ahead of time.
        free.sort_unstable_by_key(|free| (free.is_zero(), *free));
        free.truncate(self.batching.instances.get());
        free.sort_unstable();
        let first = free.get(batches.checked_rem(free.len())?)?;
        Some(*first + each * u32::try_from(batches / free.len()).unwrap_or(u32::MAX))
    }

    /// The caller of a request has left. A queued request is taken out, to be dropped outside of the lock; a running one is only marked.
    pub(crate) fn cancel(&mut self, place: Place) -> Option<Entry<M::In, Reply<M>>> {
        let queued = self.queue.remove(place);
        let gone = queued.is_some()
            || self
                .rider(place.seq)
                .is_some_and(|rider| rider.reply.take().is_some());
        self.counts.cancelled += u64::from(gone);
        queued
    }

    fn rider(&mut self, seq: u64) -> Option<&mut Rider<M>> {
        self.running()
            .flat_map(|running| &mut running.riders)
            .find(|rider| rider.seq == seq)
    }

    fn running(&mut self) -> impl Iterator<Item = &mut Running<M>> {
        self.slots
            .iter_mut()
            .filter_map(|slot| match &mut slot.state {
                SlotState::Running(running) => Some(running),
                _ => None,
            })
    }

    /// Whether a request that just came changes the decision to hold the door until then or until `rows` are ready.
    pub(crate) fn disturbs(&self, until: Instant, rows: usize, deadline: Option<Instant>) -> bool {
        let run = self.cost.expect(rows).unwrap_or_default();
        let in_a_hurry =
            deadline.is_some_and(|deadline| deadline < until + run.mul_f64(MARGIN) + MARGIN_FIXED);
        in_a_hurry || self.queue.rows() >= rows || self.queue.kinds() > 1
    }

    /// Whether the last request made a batch full though an instance is free: it has not had a core, perhaps for want of the caller's. It
    /// should be let go first, while what the batch needs is still in the caches.
    pub(crate) fn free_instance_is_late(&self) -> bool {
        let max_batch = self.batching.max_batch.get();
        let full = max_batch > 1 && self.queue.rows().is_multiple_of(max_batch);
        full && self
            .slots
            .iter()
            .any(|slot| matches!(slot.state, SlotState::Free(_)))
    }

    /// Whether requests wait.
    pub(crate) fn waiting(&self) -> bool {
        self.queue.len() > 0
    }

    /// Whether a free seat should look at the queue. While every instance runs a batch, only a full one is handed over ahead of time: it
    /// could not get any better by waiting.
    pub(crate) fn wants_leader(&self) -> bool {
        self.has_idle_instance() || self.closing || self.full_batch_waits()
    }

    fn has_idle_instance(&self) -> bool {
        let running = |slot: &&Slot<M>| matches!(slot.state, SlotState::Running(_));
        self.batching.ahead == 0
            || self.slots.iter().filter(running).count() < self.batching.instances.get()
    }

    fn full_batch_waits(&self) -> bool {
        let aim = self.aim_of_next();
        self.queue.rows() >= aim
            && self
                .queue
                .head(aim)
                .is_some_and(|head| head.full || head.rows >= aim)
    }

    fn aim_of_next(&self) -> usize {
        self.cost.aim_of_next(self.counts.batches.iter().sum())
    }

    // === instances ===

    /// The right to fill `slot` as it stands.
    pub(crate) fn seat(&self, slot: usize) -> Seat {
        Seat {
            slot,
            generation: self.slots[slot].generation,
        }
    }

    /// An instance sits down, ready for batches.
    pub(crate) fn sit(&mut self, now: Instant, seat: Seat) {
        if self.sits(seat) {
            self.slots[seat.slot].state = SlotState::Free(now);
        }
    }

    /// The instance of `seat` is lost and another is not to be had, for now. When it was the last one, everyone who waits is told.
    pub(crate) fn vacate(&mut self, seat: Seat, reason: Arc<str>, due: &mut Vec<Due<M>>) {
        if !self.sits(seat) {
            return;
        }
        self.slots[seat.slot].state = SlotState::Absent(Some(reason));
        if let Some(reason) = self.dead() {
            let all = self.queue.take_all();
            self.counts.failed += all.len() as u64;
            due.extend(
                all.into_iter()
                    .map(|entry| entry.reply.due(Err(BatchError::Failed(reason.clone())))),
            );
        }
    }

    /// Whether `seat` still holds, or its instance was given up.
    pub(crate) fn sits(&self, seat: Seat) -> bool {
        self.slots[seat.slot].generation == seat.generation
    }

    /// Why no instance is alive, when none is and none is being made.
    fn dead(&self) -> Option<Arc<str>> {
        let mut reason = None;
        for slot in &self.slots {
            match &slot.state {
                SlotState::Absent(Some(why)) => reason = Some(why.clone()),
                _ => return None,
            }
        }
        reason
    }

    /// What the free instance of `seat` should do now.
    pub(crate) fn next(&mut self, now: Instant, seat: Seat, due: &mut Vec<Due<M>>) -> Next<M::In> {
        if !self.sits(seat) {
            return Next::Stop;
        }
        self.expire(now, due);
        let aim = self.aim_of_next();
        if !self.wants_leader() {
            return Next::Follow;
        }
        let Some(head) = self.queue.head(aim) else {
            self.held_since = None;
            return if self.closing { Next::Stop } else { Next::Wait };
        };
        let scene = self.scene(now, seat, &head, aim);
        let cost = |rows| self.cost.seconds(rows);
        match policy::decide(&scene, cost, self.arrivals.expected(now)) {
            Decision::Hold { until, rows } => {
                self.held_since.get_or_insert(now);
                Next::Hold { until, rows }
            }
            Decision::Go(reason) => {
                let (head, reason) = self.within_deadlines(now, head, reason);
                Next::Run(self.depart(now, seat, &head, reason))
            }
        }
    }

    fn scene(&self, now: Instant, seat: Seat, head: &Head, aim: usize) -> Scene {
        let run = self
            .cost
            .expect(head.rows)
            .unwrap_or_default()
            .mul_f64(MARGIN)
            + MARGIN_FIXED;
        Scene {
            now,
            ready: head.rows,
            aim,
            full: head.full,
            open_since: head.oldest.max(self.free_since(now, seat)),
            max_wait: self.batching.max_wait,
            leave_by: head
                .earliest_deadline
                .map(|deadline| deadline.checked_sub(run).unwrap_or(now)),
            others_wait: head.others,
            draining: self.closing,
            held: self.held_since.is_some(),
        }
    }

    fn free_since(&self, now: Instant, seat: Seat) -> Instant {
        match self.slots[seat.slot].state {
            SlotState::Free(since) => since,
            _ => now,
        }
    }

    /// A batch grows no further than its tightest deadline allows, if a smaller one can still meet it.
    fn within_deadlines(&self, now: Instant, head: Head, reason: Reason) -> (Head, Reason) {
        let whole = (head, reason);
        let Some(deadline) = head.earliest_deadline else {
            return whole;
        };
        let met = |rows| {
            self.cost
                .expect(rows)
                .is_none_or(|run| now + run < deadline)
        };
        if met(head.rows) {
            return whole;
        }
        let mut rows = head.rows;
        while rows > 1 && !met(rows) {
            rows /= 2;
        }
        match self.queue.head(rows) {
            Some(smaller) if met(smaller.rows) => (smaller, Reason::Deadline),
            _ => whole,
        }
    }

    fn depart(&mut self, now: Instant, seat: Seat, head: &Head, reason: Reason) -> Vec<M::In> {
        let entries = self.queue.take(head.entries);
        let rows = head.rows;
        let mut items = Vec::with_capacity(entries.len());
        let mut riders = Vec::with_capacity(entries.len());
        for Entry {
            place,
            item,
            at,
            deadline,
            reply,
            ..
        } in entries
        {
            items.push(item);
            riders.push(Rider {
                seq: place.seq,
                at,
                deadline,
                reply: Some(reply),
            });
        }
        self.counts.batches[reason as usize] += 1;
        if let Some(count) = self.counts.batch_rows.get_mut(rows - 1) {
            *count += 1;
        }
        let held_since = self.held_since.take();
        let ahead = !self.has_idle_instance();
        self.slots[seat.slot].state = SlotState::Running(Running {
            riders,
            rows,
            started: now,
            ahead,
            held_since,
            reason,
        });
        self.falls_due(self.give_up_at(now));
        items
    }

    /// When a batch that starts now has run too long.
    fn give_up_at(&self, started: Instant) -> Option<Instant> {
        if self.batching.keeps_limit {
            return None;
        }
        started.checked_add(self.batching.run_limit)
    }

    /// How long a batch may run.
    pub(crate) fn run_limit(&self) -> Duration {
        self.batching.run_limit
    }

    /// How long an item of the batch of `seat` may take when it is run by itself because one of them hangs: some times what it should
    /// need, so that the innocent pass and the guilty is found soon.
    pub(crate) fn short_limit(&self) -> Duration {
        let limit = self.batching.run_limit;
        match self.cost.expect(1) {
            Some(expected) => limit.min(expected * 10 + SHORTEST_LIMIT),
            None => limit / 4,
        }
    }

    /// Until when somebody waits for an item of the batch of `seat`, by its place.
    pub(crate) fn deadline(&mut self, seat: Seat, place: usize) -> Option<Instant> {
        self.riders(seat)?.get(place)?.deadline
    }

    fn riders(&mut self, seat: Seat) -> Option<&mut Vec<Rider<M>>> {
        let slot = &mut self.slots[seat.slot];
        match &mut slot.state {
            SlotState::Running(running) if slot.generation == seat.generation => {
                Some(&mut running.riders)
            }
            _ => None,
        }
    }

    /// Which items of the batch of `seat` still have somebody waiting. `None` when the batch was given up.
    pub(crate) fn awaited(&mut self, seat: Seat) -> Option<Vec<bool>> {
        let riders = self.riders(seat)?;
        Some(riders.iter().map(|rider| rider.reply.is_some()).collect())
    }

    /// Whether somebody waits for an item of the batch of `seat`, by its place.
    pub(crate) fn awaits(&mut self, seat: Seat, place: usize) -> bool {
        let rider = self.riders(seat).and_then(|riders| riders.get(place));
        rider.is_some_and(|rider| rider.reply.is_some())
    }

    /// Some items of the batch of `seat` have their results while the others are run again.
    pub(crate) fn answer(
        &mut self,
        now: Instant,
        seat: Seat,
        first: usize,
        results: Outcomes<M>,
        due: &mut Vec<Due<M>>,
    ) {
        if !self.sits(seat) {
            return;
        }
        if let SlotState::Running(running) = &mut self.slots[seat.slot].state {
            let trip = running.trip(now);
            for (rider, result) in running.riders.iter_mut().skip(first).zip(results) {
                self.counts.tell(rider, result, &trip, due);
            }
        }
    }

    /// The batch of `seat` came back: the riders get their answers, and the instance is free again. `took` is the time inside the model
    /// when it ran cleanly, from which the cost is learned. The results of a batch that was given up are dropped.
    pub(crate) fn complete(
        &mut self,
        now: Instant,
        seat: Seat,
        results: Outcomes<M>,
        took: Option<Duration>,
        due: &mut Vec<Due<M>>,
    ) {
        if !self.sits(seat) {
            return;
        }
        let free = SlotState::Free(now);
        let SlotState::Running(mut running) = mem::replace(&mut self.slots[seat.slot].state, free)
        else {
            return;
        };
        self.begin_next(now);
        if let Some(took) = took {
            self.cost.observe(running.rows, took);
        }
        self.arrivals.answered(now, running.rows);
        let trip = running.trip(now);
        if let Some((count, together)) = self.counts.batch_runs.get_mut(running.rows - 1) {
            *count += 1;
            *together += trip.run;
        }
        for (rider, result) in running.riders.iter_mut().zip(results) {
            self.counts.tell(rider, result, &trip, due);
        }
    }

    /// An instance came free: the batch that was handed over first begins now, if any was.
    fn begin_next(&mut self, now: Instant) {
        let waiting = self.running().filter(|running| running.ahead);
        if let Some(next) = waiting.min_by_key(|running| running.started) {
            next.ahead = false;
            next.started = now;
        }
    }

    // === what falls due by itself ===

    /// Answers everyone whose deadline has passed, in the queue or in a running batch.
    pub(crate) fn expire(&mut self, now: Instant, due: &mut Vec<Due<M>>) {
        if self.due.is_none_or(|at| now < at) {
            return;
        }
        let queued = self.queue.take_expired(now);
        let before = due.len();
        due.extend(
            queued
                .into_iter()
                .map(|entry| entry.reply.due(Err(BatchError::Expired { running: false }))),
        );
        for rider in self.running().flat_map(|running| &mut running.riders) {
            if rider.deadline.is_some_and(|deadline| deadline <= now)
                && let Some(reply) = rider.reply.take()
            {
                due.push(reply.due(Err(BatchError::Expired { running: true })));
            }
        }
        self.counts.expired += (due.len() - before) as u64;
    }

    /// Gives up the instances whose batch has run longer than the limit, answers their riders, and says which slots want a new instance.
    pub(crate) fn give_up(&mut self, now: Instant, due: &mut Vec<Due<M>>) -> Vec<usize> {
        let limit = self.batching.run_limit;
        let mut vacant = Vec::new();
        if self.batching.keeps_limit {
            return vacant;
        }
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let SlotState::Running(running) = &mut slot.state else {
                continue;
            };
            if now.saturating_duration_since(running.started) < limit {
                continue;
            }
            for reply in running
                .riders
                .iter_mut()
                .filter_map(|rider| rider.reply.take())
            {
                self.counts.failed += 1;
                due.push(reply.due(Err(BatchError::RunLimit(limit))));
            }
            slot.generation += 1;
            slot.state = SlotState::Absent(None);
            self.counts.replaced += 1;
            vacant.push(index);
        }
        vacant
    }

    /// When [`Lane::expire`] or [`Lane::give_up`] next has something to do. Looks at everything, and remembers.
    pub(crate) fn next_due(&mut self) -> Option<Instant> {
        let mut earliest = self.queue.earliest_deadline();
        for slot in &self.slots {
            let SlotState::Running(running) = &slot.state else {
                continue;
            };
            let waiting = running.riders.iter().filter(|rider| rider.reply.is_some());
            let deadlines = waiting.filter_map(|rider| rider.deadline);
            let all = deadlines
                .chain(self.give_up_at(running.started))
                .chain(earliest);
            earliest = all.min();
        }
        self.due = earliest;
        earliest
    }

    /// Whether something falls due before what [`Lane::next_due`] said.
    pub(crate) fn due_before(&self, said: Option<Instant>) -> bool {
        match (self.due, said) {
            (Some(due), Some(said)) => due < said,
            (due, None) => due.is_some(),
            (None, Some(_)) => false,
        }
    }

    fn falls_due(&mut self, at: Option<Instant>) {
        self.due = match (self.due, at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }

    // === life ===

    /// Refuses new requests from now on. What is queued is still run.
    pub(crate) fn close(&mut self) {
        self.closing = true;
    }

    /// Closes, and answers everyone in the queue.
    pub(crate) fn abort(&mut self, due: &mut Vec<Due<M>>) {
        self.closing = true;
        let all = self.queue.take_all();
        self.counts.failed += all.len() as u64;
        due.extend(
            all.into_iter()
                .map(|entry| entry.reply.due(Err(BatchError::Closed))),
        );
    }

    pub(crate) fn closing(&self) -> bool {
        self.closing
    }

    /// An instance panicked and another took its place.
    pub(crate) fn count_replaced(&mut self) {
        self.counts.replaced += 1;
    }

    /// Learns from a run outside of the lane, such as a warm-up.
    pub(crate) fn observe_cost(&mut self, rows: usize, took: Duration) {
        self.cost.observe(rows, took);
    }

    pub(crate) fn stats(&self, now: Instant) -> Stats {
        let riders = |slot: &Slot<M>| match &slot.state {
            SlotState::Running(running) => running
                .riders
                .iter()
                .filter(|rider| rider.reply.is_some())
                .count(),
            _ => 0,
        };
        let alive = |slot: &&Slot<M>| !matches!(slot.state, SlotState::Absent(_));
        let aim = self.cost.aim();
        Stats {
            received: self.counts.received,
            ok: self.counts.ok,
            failed: self.counts.failed,
            refused: self.counts.refused,
            expired: self.counts.expired,
            cancelled: self.counts.cancelled,
            queued: self.queue.len(),
            running: self.slots.iter().map(riders).sum(),
            oldest: self
                .queue
                .oldest()
                .map(|at| now.saturating_duration_since(at)),
            batches: self.counts.batches,
            batch_rows: self.counts.batch_rows.clone(),
            batch_runs: self.counts.batch_runs.clone(),
            instances: (self.slots.iter().filter(alive).count()).div_ceil(1 + self.batching.ahead),
            replaced: self.counts.replaced,
            dead: self.dead(),
            aim,
            gain: self.cost.gain(aim),
            costs: self
                .cost
                .known()
                .map(|(rows, s)| (rows, Duration::from_secs_f64(s)))
                .collect(),
        }
    }
}

/// With `ahead` rows in line and batches of `aim`: how many whole batches leave before the one that takes `rows` more, and how many rows
/// that one has then.
fn place_in_line(ahead: usize, rows: usize, aim: usize) -> (usize, usize) {
    let aim = NonZeroUsize::new(aim).unwrap_or(NonZeroUsize::MIN);
    let (batches, place) = (ahead / aim, ahead % aim + rows);
    if place > aim.get() && place > rows {
        (batches + 1, rows)
    } else {
        (batches, place)
    }
}
