//! What a task knows about where it runs.

use std::sync::Arc;

use super::lease::Lease;
use crate::cancel::Cancel;
use crate::tree::Node;

tokio::task_local! {
    pub(super) static CONTEXT: Context;
}

/// Set around every poll of a scope's body and of a group's tasks.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) scope: Arc<Surroundings>,
    pub(super) node: Node,
}

/// What a scope is to the scopes inside it.
pub(super) struct Surroundings {
    pub(super) cancel: Cancel,
    pub(super) lease: Lease,
}

impl Context {
    pub(super) fn current() -> Option<Context> {
        CONTEXT.try_with(Context::clone).ok()
    }
}

// What follows belongs to other modules and is here because groups set it: those modules need not know of groups.

impl Cancel {
    /// The request that the running task should obey: that of the innermost [`Group`](crate::Group) around it.
    /// Outside of any group it is a new one, which nobody will ever cancel.
    pub fn current() -> Cancel {
        CONTEXT
            .try_with(|context| context.scope.cancel.clone())
            .unwrap_or_default()
    }
}

impl Node {
    /// The node of the running task or scope, if it was started by a [`Scope`](crate::Scope).
    pub fn current() -> Option<Node> {
        CONTEXT.try_with(|context| context.node.clone()).ok()
    }
}
