//! Every outcome of a gather, and what can be asked of them.

use std::fmt;

use crate::group::FailureKind;
use crate::outcome::Outcome;

/// The outcome of every item, in the order of the input.
///
/// ```
/// use jitney::gather;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let replicas = [Ok(7), Err("down"), Ok(7)];
/// let settled = gather(replicas.map(async |reply| reply)).settle().await;
/// assert_eq!(settled.errors().count(), 1);
/// let agreed = settled.quorum(2).unwrap();
/// assert_eq!(agreed[1].index, 2);
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "there may be failures in it: read them, or say that you do not care with drop(..)"]
pub struct Settled<T, E> {
    outcomes: Vec<Outcome<T, E>>,
}

impl<T, E> Settled<T, E> {
    pub(super) fn new(outcomes: Vec<Outcome<T, E>>) -> Settled<T, E> {
        Settled { outcomes }
    }

    /// How many items there were.
    pub fn len(&self) -> usize {
        self.outcomes.len()
    }

    /// Whether there were none.
    pub fn is_empty(&self) -> bool {
        self.outcomes.is_empty()
    }

    /// Every outcome; the place is that in the input.
    pub fn outcomes(&self) -> &[Outcome<T, E>] {
        &self.outcomes
    }

    /// The values, each with its place in the input.
    pub fn oks(&self) -> impl Iterator<Item = (usize, &T)> {
        let indexed = self.outcomes.iter().enumerate();
        indexed.filter_map(|(index, outcome)| match outcome {
            Outcome::Ok(value) => Some((index, value)),
            _ => None,
        })
    }

    /// Everything that is no value, each with its place in the input: errors, panics, and what was cut off.
    pub fn errors(&self) -> impl Iterator<Item = (usize, &Outcome<T, E>)> {
        let indexed = self.outcomes.iter().enumerate();
        indexed.filter(|(_, outcome)| !outcome.is_ok())
    }

    /// A `Result` for every item, for code that has no use for the difference between an error and a panic.
    pub fn into_results(self) -> Vec<Result<T, FailureKind<E>>> {
        self.into_iter().map(Outcome::into_result).collect()
    }

    /// The first `wanted` values in the order of the input.
    ///
    /// # Errors
    /// If there are fewer; then all outcomes are in the error.
    pub fn quorum(self, wanted: usize) -> Result<Vec<Winner<T>>, NotEnough<T, E>> {
        if self.oks().count() < wanted {
            return Err(NotEnough {
                wanted,
                settled: self,
            });
        }
        let indexed = self.into_iter().enumerate();
        let winners = indexed.filter_map(|(index, outcome)| {
            let value = outcome.ok()?;
            Some(Winner { index, value })
        });
        Ok(winners.take(wanted).collect())
    }
}

impl<T, E> IntoIterator for Settled<T, E> {
    type Item = Outcome<T, E>;
    type IntoIter = std::vec::IntoIter<Outcome<T, E>>;

    fn into_iter(self) -> Self::IntoIter {
        self.outcomes.into_iter()
    }
}

/// A value, and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Winner<T> {
    /// The place of the item in the input.
    pub index: usize,
    /// What it gave.
    pub value: T,
}

/// Fewer items succeeded than had to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotEnough<T, E> {
    /// How many had to succeed.
    pub wanted: usize,
    /// The outcome of every item that was started. Those that ran when it was clear that there would not be enough are
    /// [`Cancelled`](Outcome::Cancelled).
    pub settled: Settled<T, E>,
}

impl<T, E: fmt::Display> fmt::Display for NotEnough<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NotEnough { wanted, settled } = self;
        let oks = settled.oks().count();
        write!(
            f,
            "{wanted} had to succeed, but only {oks} of {} did",
            settled.len()
        )?;
        settled.errors().try_for_each(|(index, error)| match error {
            // They follow from the others.
            Outcome::Cancelled(_) => Ok(()),
            error => write!(f, "; item {index}: {error}"),
        })
    }
}

impl<T: fmt::Debug, E: fmt::Debug + fmt::Display> std::error::Error for NotEnough<T, E> {}
