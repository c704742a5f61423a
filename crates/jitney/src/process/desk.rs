//! Where callers and keepers meet: the supervisor, and the mailbox of every call.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{read, write};

use super::channel::Channel;
use super::frame::Frame;
use super::replies::Tray;
use super::supervisor::{CallId, StartFailure, Supervisor, Verdict};
use crate::lock::lock;

/// Everything that is shared about who does what.
#[derive(Debug)]
pub(super) struct Desk {
    inner: Mutex<Inner>,
    /// Rung when a first start may have been decided.
    news: Condvar,
    seats: Vec<Seat>,
}

/// The supervisor, together with those who wait for its verdicts.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) supervisor: Supervisor,
    pub(super) mailboxes: HashMap<CallId, Arc<Mailbox>>,
    pub(super) trays: HashMap<CallId, Arc<Tray>>,
}

/// One worker's place.
#[derive(Debug)]
struct Seat {
    bell: Bell,
    occupant: Mutex<Option<(u32, Arc<Channel>)>>,
}

/// Wakes a thread that polls.
#[derive(Debug)]
pub(super) struct Bell(OwnedFd);

/// Where a call waits. A newer message replaces one that was not read.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    message: Mutex<Option<Message>>,
    came: Condvar,
}

/// What a call is told.
#[derive(Debug)]
pub(super) enum Message {
    Verdict(Verdict),
    Reply { frame: Frame, took: Duration },
}

impl Desk {
    pub(super) fn new(supervisor: Supervisor) -> std::io::Result<Self> {
        let seats = supervisor.places();
        let seat = || {
            Ok(Seat {
                bell: Bell::new()?,
                occupant: Mutex::new(None),
            })
        };
        Ok(Self {
            inner: Mutex::new(Inner {
                supervisor,
                mailboxes: HashMap::new(),
                trays: HashMap::new(),
            }),
            news: Condvar::new(),
            seats: (0..seats).map(|_| seat()).collect::<std::io::Result<_>>()?,
        })
    }

    /// Tells the supervisor something or asks it, then delivers what follows from that. `own` is the worker whose keeper asks: it need
    /// not be woken.
    pub(super) fn with<T>(&self, own: Option<usize>, act: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = lock(&self.inner);
        let result = act(&mut inner);
        let Inner {
            supervisor,
            mailboxes,
            trays,
        } = &mut *inner;
        for (id, verdict) in supervisor.take_verdicts() {
            let tray = match verdict {
                Verdict::Assigned(_) => trays.get(&id).cloned(),
                _ => trays.remove(&id),
            };
            match tray {
                Some(tray) => tray.tell(verdict),
                None => deliver(mailboxes, id, verdict),
            }
        }
        let mut nudged = 0_u64;
        for seat in supervisor.take_nudges().filter(|&seat| Some(seat) != own) {
            if seat < 64 {
                nudged |= 1 << seat;
            } else {
                self.seats[seat].bell.ring();
            }
        }
        drop(inner);
        while nudged != 0 {
            self.seats[nudged.trailing_zeros() as usize].bell.ring();
            nudged &= nudged - 1;
        }
        result
    }

    /// Those who wait for the first start look again.
    pub(super) fn announce(&self) {
        self.news.notify_all();
    }

    /// Waits until it is clear how the first start went.
    pub(super) fn wait_started(&self) -> Result<(), StartFailure> {
        let mut inner = lock(&self.inner);
        loop {
            if let Some(result) = inner.supervisor.first_start() {
                return result;
            }
            inner = self
                .news
                .wait(inner)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn bell(&self, seat: usize) -> &Bell {
        &self.seats[seat].bell
    }

    /// The channel of the process in this place.
    pub(super) fn channel(&self, seat: usize) -> Option<Arc<Channel>> {
        lock(&self.seats[seat].occupant)
            .as_ref()
            .map(|(_, channel)| Arc::clone(channel))
    }

    /// The process in this place.
    pub(super) fn pid(&self, seat: usize) -> Option<u32> {
        lock(&self.seats[seat].occupant)
            .as_ref()
            .map(|&(pid, _)| pid)
    }

    pub(super) fn set_occupant(&self, seat: usize, occupant: Option<(u32, Arc<Channel>)>) {
        *lock(&self.seats[seat].occupant) = occupant;
    }

    pub(super) fn seats(&self) -> usize {
        self.seats.len()
    }
}

/// Puts the verdict into the call's mailbox, for the last time unless it only says where to send.
fn deliver(mailboxes: &mut HashMap<CallId, Arc<Mailbox>>, id: CallId, verdict: Verdict) {
    let mailbox = match verdict {
        Verdict::Assigned(_) => mailboxes.get(&id).cloned(),
        _ => mailboxes.remove(&id),
    };
    if let Some(mailbox) = mailbox {
        mailbox.put(Message::Verdict(verdict));
    }
}

impl Bell {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self(eventfd(
            0,
            EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
        )?))
    }

    pub(super) fn ring(&self) {
        let _ = write(&self.0, &1_u64.to_ne_bytes());
    }

    /// It was heard.
    pub(super) fn silence(&self) {
        let _ = read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Mailbox {
    pub(super) fn put(&self, message: Message) {
        *lock(&self.message) = Some(message);
        self.came.notify_one();
    }

    /// Waits for a message, at most until then.
    pub(super) fn wait(&self, until: Instant) -> Option<Message> {
        let mut message = lock(&self.message);
        while message.is_none() {
            let left = until
                .checked_duration_since(Instant::now())
                .filter(|left| !left.is_zero())?;
            message = self
                .came
                .wait_timeout(message, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        message.take()
    }
}
