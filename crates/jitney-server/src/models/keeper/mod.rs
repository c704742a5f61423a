//! The thread that looks after the models: it loads them, replaces them, and lets go of them.
//!
//! It decides by what it sees at one moment: the disk, the loads that have ended, what requests still hold, what somebody has asked for.
//! It alone reads the folders of the sources.
//! Whatever happens rings its bell, and it looks at everything again. Requests are no concern of it: they find the models in a
//! [`Roster`], which is replaced as a whole.

mod inquiries;
mod orders;
mod poll;
mod stock;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use jitney::batch::Courier;
use jitney::tree::Node;
use tokio::sync::{oneshot, watch};

pub(super) use self::inquiries::Holdings;
use self::inquiries::{Asker, Inquiries, inquiries};
pub(super) use self::orders::Wish;
use self::orders::{MOST_ORDERS, Order, Orders};
use self::poll::Poll;
use self::stock::Stock;
use super::bell::{Bell, Door};
use super::failures::{SOON, draining};
use super::loads::no_thread;
use super::roster::Roster;
use crate::config::{Control, ModelSource, Settings, SourceError};
use crate::failure::{Code, Failure};
use crate::observe::metrics::ModelTable;

/// How models are found and loaded: the same at the start as later.
pub(super) struct Ways {
    pub(super) sources: Vec<ModelSource>,
    pub(super) settings: Settings,
    pub(super) courier: Option<Courier>,
}

/// What the models are made under.
pub(super) struct Surroundings {
    pub(super) metrics: ModelTable,
    pub(super) node: Node,
    /// Counts the models that the server waits for before it is ready.
    pub(super) pending: watch::Sender<usize>,
    /// Told whenever what can be called may have become something else.
    pub(super) changes: watch::Sender<()>,
}

/// The thread, and the way to it. Dropping it ends the thread, which waits for no load.
pub(super) struct Keeper {
    stop: Arc<AtomicBool>,
    bell: Bell,
    orders: SyncSender<Order>,
    asker: Asker,
    thread: Option<JoinHandle<()>>,
}

/// How often it is looked whether requests still hold what they cannot get hold of again.
const SWEEP: Duration = Duration::from_millis(10);

impl Keeper {
    /// Finds the models, begins to load those that are to be served from the start, and keeps the roster true from then on.
    ///
    /// # Errors
    /// When the sources themselves cannot be what was meant.
    pub(super) fn start(
        ways: &Arc<Ways>,
        surroundings: Surroundings,
        roster: &Arc<ArcSwap<Roster>>,
    ) -> Result<Keeper, SourceError> {
        let (door, stop) = (Door::new(), Arc::new(AtomicBool::new(false)));
        let (orders, ordered) = sync_channel(MOST_ORDERS);
        let (asker, inquiries) = inquiries();
        let bell = door.bell();
        let mut stock = Stock::new(ways, surroundings, roster, bell.clone(), &stop);
        let polls = ways.settings.control == Control::Poll;
        let poll = polls.then(|| Poll::new(&ways.sources));
        stock.fill(poll.as_ref().map(Poll::seen))?;
        let keeping = Keeping {
            stock,
            poll,
            orders: Orders::new(ordered),
            inquiries,
            door,
            stop: Arc::clone(&stop),
        };
        Ok(Keeper {
            stop,
            bell,
            orders,
            asker,
            thread: keeping.spawn(),
        })
    }

    /// Has something done to a model; the answer comes when it is done.
    ///
    /// # Errors
    /// When so much was asked for already that more must wait outside, or when the server ends.
    pub(super) fn order(
        &self,
        name: &str,
        wish: Wish,
    ) -> Result<oneshot::Receiver<Result<(), Failure>>, Failure> {
        let (reply, answer) = oneshot::channel();
        let order = Order {
            name: name.to_owned(),
            wish,
            reply,
        };
        let sent = self.orders.try_send(order);
        sent.map_err(|error| refused(&error, "too many models wait to be loaded or unloaded"))?;
        self.bell.ring();
        Ok(answer)
    }

    /// Has the sources looked at; the answer is what they hold.
    ///
    /// # Errors
    /// When too many wait for that already, or when the server ends.
    pub(super) fn look(&self) -> Result<oneshot::Receiver<Holdings>, Failure> {
        let asked = self.asker.ask();
        let answer = asked.map_err(|error| refused(&error, "too many wait for the index"))?;
        self.bell.ring();
        Ok(answer)
    }

    /// Whether the thread has ended, as it does once there is nothing more for it to do.
    #[cfg(test)]
    pub(super) fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Begins nothing more.
    pub(super) fn close(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.bell.ring();
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.close();
        if let Some(thread) = self.thread.take() {
            // Its panic was logged where it happened.
            let _ = thread.join();
        }
    }
}

/// What the thread has.
struct Keeping {
    stock: Stock,
    /// Where files are watched.
    poll: Option<Poll>,
    orders: Orders,
    inquiries: Inquiries,
    door: Door,
    stop: Arc<AtomicBool>,
}

impl Keeping {
    fn spawn(self) -> Option<JoinHandle<()>> {
        let (hand_over, handed_over) = sync_channel::<Keeping>(1);
        let keep = move || {
            if let Ok(keeping) = handed_over.recv() {
                keeping.keep();
            }
        };
        match thread::Builder::new()
            .name("jitney-models".to_owned())
            .spawn(keep)
        {
            Ok(thread) => {
                let _ = hand_over.send(self);
                Some(thread)
            }
            Err(error) => {
                self.give_up(&error);
                None
            }
        }
    }

    fn give_up(mut self, error: &io::Error) {
        self.stock.fail(&no_thread(error));
    }

    fn keep(mut self) {
        while !self.stop.load(Ordering::SeqCst) {
            let now = Instant::now();
            let answers = self.orders.take_answers(&self.stock);
            if let Some(poll) = &mut self.poll {
                poll.look(&mut self.stock, now);
            }
            let begun = self.orders.begin(&mut self.stock);
            self.stock.step(now);
            self.inquiries.answer(&self.stock);
            for answer in answers {
                answer.send();
            }
            if self.is_done() {
                break;
            }
            if !begun {
                self.door.wait(self.rest(now));
            }
        }
        self.stock.end();
    }

    /// Without anybody who could change the models, there is nothing more to do once they are loaded.
    fn is_done(&self) -> bool {
        self.stock.control() == Control::None && self.stock.is_idle()
    }

    /// How long there is nothing to do unless the bell rings.
    fn rest(&self, now: Instant) -> Option<Duration> {
        let sweep = self.stock.is_held().then(|| now + SWEEP);
        let load = self.stock.next_due();
        let look = self.poll.as_ref().map(Poll::next_due);
        let next = [sweep, load, look].into_iter().flatten().min();
        next.map(|next| next.saturating_duration_since(Instant::now()))
    }
}

fn refused<T>(error: &TrySendError<T>, full: &str) -> Failure {
    match error {
        TrySendError::Full(_) => Failure::new(Code::Overloaded, full).retry_after(SOON),
        TrySendError::Disconnected(_) => draining(),
    }
}

#[cfg(test)]
mod tests;
