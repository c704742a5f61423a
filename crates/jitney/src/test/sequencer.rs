//! Points that are reached in a given order.

use std::sync::Arc;

use tokio::sync::watch;

use super::fail;

/// Makes tasks reach named points in a given order: one interleaving, the same in every run. Clones are the same order.
///
/// ```
/// use jitney::test::{self, Sequencer};
/// use jitney::{Group, Scope};
///
/// test::run(async |_| {
///     let order = Sequencer::new(["read", "write", "read again"]);
///     let (reader, writer) = (order.clone(), order.clone());
///     let outcome = Scope::named("race").run(async |group: Group<String>| {
///         drop(group.spawn(async move {
///             reader.reach("read").await;
///             reader.reach("read again").await;
///             Ok(())
///         }));
///         drop(group.spawn(async move {
///             let turn = writer.turn("write").await;
///             // Nobody goes on before this is over.
///             drop(turn);
///             Ok(())
///         }));
///         Ok(())
///     });
///     outcome.await.unwrap();
///     order.assert_finished();
/// });
/// ```
#[derive(Clone, Debug)]
pub struct Sequencer {
    points: Arc<[&'static str]>,
    next: watch::Sender<usize>,
}

impl Sequencer {
    /// The points in their order. No name may come twice.
    ///
    /// # Panics
    /// When one does.
    #[track_caller]
    pub fn new(points: impl IntoIterator<Item = &'static str>) -> Sequencer {
        let points: Arc<[_]> = points.into_iter().collect();
        for (at, point) in points.iter().enumerate() {
            if points[..at].contains(point) {
                fail(&format!(
                    "the point {point:?} comes twice: each needs a name of its own"
                ));
            }
        }
        Sequencer {
            points,
            next: watch::Sender::new(0),
        }
    }

    /// Waits until all points before this one are behind, and puts it behind.
    ///
    /// # Cancel safety
    /// If it is dropped, the point has not been reached, and can be reached by another.
    ///
    /// # Panics
    /// When there is no such point, or it was reached before.
    pub async fn reach(&self, point: &str) {
        drop(self.turn(point).await);
    }

    /// Waits until all points before this one are behind. The next ones wait until the turn is dropped.
    ///
    /// # Cancel safety
    /// As [`reach`](Sequencer::reach).
    ///
    /// # Panics
    /// As [`reach`](Sequencer::reach).
    pub async fn turn(&self, point: &str) -> Turn {
        let Some(place) = self.points.iter().position(|name| *name == point) else {
            fail(&format!(
                "there is no point {point:?}; there are {:?}",
                self.points
            ));
        };
        let mut next = self.next.subscribe();
        // The sender is here, so the error cannot come.
        if let Ok(next) = next.wait_for(|next| *next >= place).await
            && *next > place
        {
            fail(&format!("the point {point:?} is reached a second time"));
        }
        Turn {
            next: self.next.clone(),
            place,
        }
    }

    /// Checks that every point was reached.
    ///
    /// # Panics
    /// When one was not: it names the first.
    #[track_caller]
    pub fn assert_finished(&self) {
        let next = *self.next.borrow();
        if let Some(point) = self.points.get(next) {
            fail(&format!("the point {point:?} was never reached"));
        }
    }
}

/// The time between a point of a [`Sequencer`] and the next; ends when it is dropped.
#[derive(Debug)]
#[must_use = "the next point may be reached as soon as the turn is dropped"]
pub struct Turn {
    next: watch::Sender<usize>,
    place: usize,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.next.send_replace(self.place + 1);
    }
}
