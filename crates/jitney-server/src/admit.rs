//! Who may come in: not while draining, and not beyond the bytes the server can hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::failure::{Code, Failure};

/// How far the server has come on its way out. Each phase only ever follows the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// New work is welcome. => Draining
    Serving,
    /// New work is refused; what was accepted is finished. => Closing
    Draining,
    /// Nothing is in flight, or time is up: connections close. => Cut
    Closing,
    /// What still runs is abandoned. Final.
    Cut,
}

/// The door of one server.
#[derive(Debug)]
pub(crate) struct Admission {
    phase: watch::Sender<Phase>,
    in_flight: AtomicUsize,
    idle: Notify,
    bytes_max: usize,
    bytes_left: AtomicUsize,
}

/// One admitted request. Dropping it lets the server know that the request has ended.
#[derive(Debug)]
pub(crate) struct Admitted {
    admission: Arc<Admission>,
    bytes: usize,
}

impl Admission {
    /// A door through which at most `bytes_max` bytes of request bodies fit at a time.
    pub(crate) fn new(bytes_max: usize) -> Arc<Admission> {
        Arc::new(Admission {
            phase: watch::Sender::new(Phase::Serving),
            in_flight: AtomicUsize::new(0),
            idle: Notify::new(),
            bytes_max,
            bytes_left: AtomicUsize::new(bytes_max),
        })
    }

    /// Lets a request in whose body is announced to have `announced` bytes.
    ///
    /// The bytes are only looked at, not taken: they are taken as they arrive, so that announcing much and sending little keeps nobody out.
    pub(crate) fn enter(self: &Arc<Self>, announced: usize) -> Result<Admitted, Failure> {
        let admitted = Admitted {
            admission: Arc::clone(self),
            bytes: 0,
        };
        // Counted before looking at the phase, so that a drain that begins now either waits for this request or is seen by it.
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        if self.phase() > Phase::Serving {
            return Err(Failure::new(
                Code::Draining,
                "the server is shutting down; send the request to another one",
            ));
        }
        if announced > self.bytes_left.load(Ordering::Relaxed) {
            return Err(no_room());
        }
        Ok(admitted)
    }

    /// Lets in who asks about the server, and is answered while it drains too.
    pub(crate) fn enter_to_ask(self: &Arc<Self>) -> Admitted {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        Admitted {
            admission: Arc::clone(self),
            bytes: 0,
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    pub(crate) fn draining(&self) -> bool {
        self.phase() > Phase::Serving
    }

    /// A view of the phase that can be waited on.
    pub(crate) fn watch(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Moves on to `phase`; does nothing when it was reached before.
    pub(crate) fn advance(&self, phase: Phase) {
        self.phase.send_if_modified(|current| {
            let later = phase > *current;
            *current = phase.max(*current);
            later
        });
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// Bytes of request bodies that are held now.
    pub(crate) fn bytes_held(&self) -> usize {
        self.bytes_max
            .saturating_sub(self.bytes_left.load(Ordering::Relaxed))
    }

    /// Waits until no request is in flight. Only to be relied on while draining.
    pub(crate) async fn wait_idle(&self) {
        loop {
            let mut idle = std::pin::pin!(self.idle.notified());
            idle.as_mut().enable();
            if self.in_flight() == 0 {
                return;
            }
            idle.await;
        }
    }
}

impl Admitted {
    /// Takes room for bytes that have arrived.
    pub(crate) fn take(&mut self, bytes: usize) -> Result<(), Failure> {
        self.hold(self.bytes.saturating_add(bytes))
    }

    /// Takes room, or gives it back, until it has room for so many bytes.
    pub(crate) fn hold(&mut self, bytes: usize) -> Result<(), Failure> {
        let left = &self.admission.bytes_left;
        if let Some(more) = bytes.checked_sub(self.bytes) {
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(more)
            })
            .map_err(|_| no_room())?;
        } else {
            left.fetch_add(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Takes what is missing to room for so many bytes, for a body that has become larger than it came.
    pub(crate) fn grow_to(&mut self, bytes: usize) -> Result<(), Failure> {
        self.take(bytes.saturating_sub(self.bytes))
    }

    /// Gives back all room: nothing of the request's body is kept. It is still in flight.
    pub(crate) fn give_back(&mut self) {
        self.admission
            .bytes_left
            .fetch_add(std::mem::take(&mut self.bytes), Ordering::Relaxed);
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.admission
            .bytes_left
            .fetch_add(self.bytes, Ordering::Relaxed);
        if self.admission.in_flight.fetch_sub(1, Ordering::SeqCst) == 1 && self.admission.draining()
        {
            self.admission.idle.notify_waiters();
        }
    }
}

fn no_room() -> Failure {
    Failure::new(
        Code::Overloaded,
        "the server holds as many bytes of requests as it may; try again later",
    )
    .retry_after(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_given_back() {
        let admission = Admission::new(10);
        let mut first = admission.enter(10).unwrap();
        first.take(8).unwrap();
        assert_eq!(first.take(3).unwrap_err().code, Code::Overloaded);
        assert_eq!(admission.enter(3).unwrap_err().code, Code::Overloaded);
        let mut second = admission.enter(2).unwrap();
        second.take(2).unwrap();
        drop(first);
        assert!(admission.enter(8).is_ok());
        assert_eq!(second.hold(11).unwrap_err().code, Code::Overloaded);
        second.hold(10).unwrap();
        second.hold(4).unwrap();
        assert_eq!(admission.bytes_held(), 4);
        second.give_back();
        assert_eq!((admission.bytes_held(), admission.in_flight()), (0, 1));
    }

    #[tokio::test]
    async fn draining_refuses_new_work_and_waits_for_the_old() {
        let admission = Admission::new(10);
        let first = admission.enter(0).unwrap();
        admission.advance(Phase::Draining);
        assert_eq!(admission.enter(0).unwrap_err().code, Code::Draining);
        assert_eq!(admission.in_flight(), 1);
        let (idle, ()) = tokio::join!(admission.wait_idle(), async { drop(first) });
        assert_eq!((idle, admission.in_flight()), ((), 0));
    }

    #[test]
    fn phases_never_go_back() {
        let admission = Admission::new(0);
        admission.advance(Phase::Closing);
        admission.advance(Phase::Draining);
        assert_eq!(admission.phase(), Phase::Closing);
    }
}
