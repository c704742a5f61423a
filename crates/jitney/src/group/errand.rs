//! Work outside of any task, for which the scope around waits all the same.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::context::{CONTEXT, Context, Surroundings};
use super::lease::Place;
use super::panic_message;
use crate::cancel::Cancel;
use crate::tree::Node;

/// A piece of work for another thread. To the scope around it is what a scope inside would be: it hears of cancelling, and as
/// long as it exists the scope stays open.
pub(crate) struct Errand {
    scope: Arc<Surroundings>,
    node: Node,
}

impl Errand {
    /// An errand of the running task, if there is one.
    pub(crate) fn new(node: Node) -> Errand {
        let around = Context::current();
        let cancel = match &around {
            Some(around) => around.cancel().child(),
            None => Cancel::new(),
        };
        Errand {
            scope: Arc::new(Surroundings::of_limit(around.as_ref(), cancel)),
            node,
        }
    }

    pub(crate) fn cancel(&self) -> &Cancel {
        &self.scope.cancel
    }

    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    /// Runs the work where the context is the errand's. A panic is its message.
    pub(crate) fn run<R>(&self, work: impl FnOnce() -> R) -> Result<R, String> {
        let context = Context::Place(self.scope.clone(), Some(self.node.clone()));
        CONTEXT.sync_scope(context, || caught(work))
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        self.node.leave();
        self.scope.lease.close();
        self.scope.lease.leave(Place::Member);
    }
}

/// Runs code of others. A panic is its message.
pub(crate) fn caught<R>(work: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| panic_message(&*payload))
}
