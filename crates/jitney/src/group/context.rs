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

pub(crate) fn cancel() -> Option<Cancel> {
    CONTEXT
        .try_with(|context| context.scope.cancel.clone())
        .ok()
}

pub(crate) fn node() -> Option<Node> {
    CONTEXT.try_with(|context| context.node.clone()).ok()
}
