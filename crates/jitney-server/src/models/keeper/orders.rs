//! What is asked of the models while they serve: to be loaded, and to be unloaded.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use tokio::sync::oneshot;

use super::super::discover::discover;
use super::super::entry::Entry;
use super::super::unknown_model;
use super::stock::{Stock, sightings};
use crate::config::{ModelOptions, Settings};
use crate::failure::{Code, Failure};
use crate::observe::logging;

/// Most orders that wait for the keeper to look at them.
pub(super) const MOST_ORDERS: usize = 64;

/// Something to be done to a model.
pub(super) struct Order {
    pub(super) name: String,
    pub(super) wish: Wish,
    /// Nobody may wait for it any more: then it is done all the same.
    pub(super) reply: Reply,
}

/// What is to be done.
pub(in super::super) enum Wish {
    /// Load it, or load it again, with these settings before all others.
    Load(Box<ModelOptions>),
    /// Let go of it.
    Unload,
}

type Reply = oneshot::Sender<Result<(), Failure>>;

/// The orders, one at a time for each model.
pub(super) struct Orders {
    come: Receiver<Order>,
    /// They wait for another one of the same model.
    waiting: VecDeque<Order>,
    working: Vec<Work>,
}

/// An order that is carried out.
struct Work {
    name: String,
    reply: Reply,
    stage: Stage,
}

/// What an order waits for.
enum Stage {
    /// The ends of these loads.
    Loading(Vec<(Arc<Entry>, u64)>),
    /// Until nothing is left of these.
    Unloading(Vec<Arc<Entry>>),
}

/// The end of an order.
pub(super) struct Answer {
    reply: Reply,
    result: Result<(), Failure>,
}

impl Answer {
    pub(super) fn send(self) {
        let _ = self.reply.send(self.result);
    }
}

impl Orders {
    pub(super) fn new(come: Receiver<Order>) -> Orders {
        Orders {
            come,
            waiting: VecDeque::new(),
            working: Vec::new(),
        }
    }

    /// What has been carried out.
    pub(super) fn take_answers(&mut self, stock: &Stock) -> Vec<Answer> {
        let mut answers = Vec::new();
        let mut working = Vec::new();
        for work in self.working.drain(..) {
            match work.result(stock) {
                Some(result) => answers.push(Answer {
                    reply: work.reply,
                    result,
                }),
                None => working.push(work),
            }
        }
        self.working = working;
        answers
    }

    /// Begins whatever does not wait for another order of the same model. Says whether anything did, since that may be done already.
    pub(super) fn begin(&mut self, stock: &mut Stock) -> bool {
        while self.waiting.len() < MOST_ORDERS
            && let Ok(order) = self.come.try_recv()
        {
            self.waiting.push_back(order);
        }
        let mut begun = false;
        let mut still_waiting = VecDeque::new();
        while let Some(order) = self.waiting.pop_front() {
            let same = |name: &String| *name == order.name;
            let busy = self.working.iter().any(|work| same(&work.name))
                || still_waiting.iter().any(|order: &Order| same(&order.name));
            if busy {
                still_waiting.push_back(order);
            } else {
                self.carry_out(order, stock);
                begun = true;
            }
        }
        self.waiting = still_waiting;
        begun
    }

    fn carry_out(&mut self, order: Order, stock: &mut Stock) {
        let Order { name, wish, reply } = order;
        let stage = match wish {
            Wish::Load(options) => load(stock, &name, &options).map(Stage::Loading),
            Wish::Unload => unload(stock, &name).map(Stage::Unloading),
        };
        match stage {
            Ok(stage) => self.working.push(Work { name, reply, stage }),
            Err(failure) => Answer {
                reply,
                result: Err(failure),
            }
            .send(),
        }
    }
}

impl Work {
    /// How it ended, if it has.
    fn result(&self, stock: &Stock) -> Option<Result<(), Failure>> {
        match &self.stage {
            Stage::Unloading(entries) => {
                let gone = entries.iter().all(|entry| stock.is_gone(entry));
                gone.then_some(Ok(()))
            }
            Stage::Loading(loads) => {
                let outcomes = loads.iter().map(|(entry, number)| {
                    let outcome = entry.outcome(*number)?;
                    Some(outcome.map_err(|why| not_loaded(entry, &why)))
                });
                // Not before all have ended, whatever became of the first.
                let outcomes: Option<Vec<_>> = outcomes.collect();
                outcomes.map(|outcomes| outcomes.into_iter().collect())
            }
        }
    }
}

/// Looks for the model anew, whatever was known of it, and begins to load it.
fn load(
    stock: &mut Stock,
    name: &str,
    options: &ModelOptions,
) -> Result<Vec<(Arc<Entry>, u64)>, Failure> {
    let settings = Settings {
        given: options.or(&stock.ways.settings.given),
        ..stock.ways.settings.clone()
    };
    let mut found = discover(&stock.ways.sources, &settings).found;
    found.retain(|found| found.name == name);
    if found.is_empty() {
        return Err(unknown_model(name));
    }
    if let Some(Err(why)) = found
        .iter()
        .find(|found| found.instead)
        .map(|found| &found.plan)
    {
        let why = logging::one_line(why);
        let message = format!("model \"{name}\" could not be loaded: {why}");
        return Err(Failure::new(Code::Failed, message));
    }
    let sightings = sightings(found, None).remove(name);
    Ok(stock.arrange(name, sightings.unwrap_or_default(), true))
}

fn unload(stock: &mut Stock, name: &str) -> Result<Vec<Arc<Entry>>, Failure> {
    let leaving = stock.remove(name);
    if leaving.is_empty() {
        let found = discover(&stock.ways.sources, &stock.ways.settings).found;
        let known = found.iter().any(|found| found.name == name);
        return known.then(Vec::new).ok_or_else(|| unknown_model(name));
    }
    Ok(leaving)
}

fn not_loaded(entry: &Entry, why: &str) -> Failure {
    let (name, version, why) = (&entry.name, &entry.version, logging::one_line(why));
    let message = format!("version {version} of model \"{name}\" could not be loaded: {why}");
    Failure::new(Code::Failed, message)
}
