//! Work outside of any task, for which the scope around waits all the same.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::context::{CONTEXT, Context, Surroundings};
use super::lease::Lease;
use super::panic_message;
use crate::cancel::Cancel;
use crate::tree::Node;

/// A piece of work for another thread. To the scope around it is what a scope inside would be: it hears of cancelling, and as
/// long as it exists the scope stays open.
pub(crate) struct Errand {
    context: Context,
}

impl Errand {
    /// An errand of the running task, if there is one.
    pub(crate) fn new(node: Node) -> Errand {
        let around = Context::current().map(|context| context.scope);
        let cancel = match &around {
            Some(around) => around.cancel.child(),
            None => Cancel::new(),
        };
        let lease = Lease::new(around);
        Errand {
            context: Context {
                scope: Arc::new(Surroundings { cancel, lease }),
                node,
            },
        }
    }

    pub(crate) fn cancel(&self) -> &Cancel {
        &self.context.scope.cancel
    }

    pub(crate) fn node(&self) -> &Node {
        &self.context.node
    }

    /// Runs the work where the context is the errand's. A panic is its message.
    pub(crate) fn run<R>(&self, work: impl FnOnce() -> R) -> Result<R, String> {
        CONTEXT.sync_scope(self.context.clone(), || caught(work))
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        self.context.node.leave();
        self.context.scope.lease.close();
        self.context.scope.lease.leave();
    }
}

/// Runs code of others. A panic is its message.
pub(crate) fn caught<R>(work: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| panic_message(&*payload))
}
