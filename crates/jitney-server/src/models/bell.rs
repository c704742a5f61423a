//! Waking the thread that looks after the models.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Where a thread waits until a bell is rung.
pub(super) struct Door {
    bell: Bell,
    rung: Receiver<()>,
}

/// Says that there is something to look at. Ringing twice says no more than ringing once, and no ring is lost.
#[derive(Clone)]
pub(super) struct Bell(SyncSender<()>);

impl Door {
    pub(super) fn new() -> Door {
        let (bell, rung) = sync_channel(1);
        Door {
            bell: Bell(bell),
            rung,
        }
    }

    pub(super) fn bell(&self) -> Bell {
        self.bell.clone()
    }

    /// Waits until the bell has rung since it was last waited for, or so long.
    pub(super) fn wait(&self, longest: Option<Duration>) {
        // There is always a sender: this door's own.
        match longest {
            Some(longest) => drop(self.rung.recv_timeout(longest)),
            None => drop(self.rung.recv()),
        }
    }
}

impl Bell {
    pub(super) fn ring(&self) {
        // Where it is full it has been rung, and the looking is yet to come.
        let _ = self.0.try_send(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_ring_is_lost_and_none_counts_twice() {
        let door = Door::new();
        door.bell().ring();
        door.bell().ring();
        door.wait(None);
        door.wait(Some(Duration::from_millis(1)));
        door.bell().ring();
        door.wait(None);
    }
}
