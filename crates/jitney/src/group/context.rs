//! What a task knows about where it runs.

use std::sync::{Arc, Mutex, Weak};

use super::error::{Kept, Ledger};
use super::handle::Own;
use super::lease::{Lease, Place, Within};
use crate::cancel::Cancel;
use crate::deadline::Deadline;
use crate::lock::lock;
use crate::tree::{Entry, Node};

tokio::task_local! {
    pub(super) static CONTEXT: Context;
}

/// Whose future is polled, and what is around it. Set around every poll of a scope's body, of a group's tasks, and of what has a
/// time limit.
#[derive(Clone)]
pub(super) enum Context {
    /// That of a task, which can be cancelled alone.
    Task(Arc<Entry<dyn Own>>),
    /// That of a scope, or something in a task that has a time limit; with no node where that is outside of any scope.
    Place(Arc<Surroundings>, Option<Node>),
}

impl Context {
    pub(super) fn current() -> Option<Context> {
        CONTEXT.try_with(Context::clone).ok()
    }

    pub(super) fn scope(&self) -> &Arc<Surroundings> {
        match self {
            Context::Task(task) => task.details.scope(),
            Context::Place(scope, _) => scope,
        }
    }

    /// What the task should obey: its own request to stop, which follows that of its group.
    pub(super) fn cancel(&self) -> Cancel {
        match self {
            Context::Task(task) => {
                let group = &task.details.scope().cancel;
                task.details.personal().cancel_below(group)
            }
            Context::Place(scope, _) => scope.cancel.clone(),
        }
    }

    pub(super) fn node(&self) -> Option<Node> {
        match self {
            Context::Task(task) => Some(Node::of(task.clone())),
            Context::Place(_, node) => node.clone(),
        }
    }

    pub(super) fn within(&self) -> Within {
        let scope = self.scope();
        (scope.lease.clone(), scope.place)
    }

    pub(super) fn member(&self) -> Option<u64> {
        match self {
            Context::Task(task) => Some(task.id()),
            Context::Place(_, node) => node.as_ref().map(Node::id),
        }
    }

    /// Runs `act` for this place, and for all those whose dropping would drop the future that runs here.
    fn for_each_holder(&self, act: impl Fn(&Surroundings, Option<u64>)) {
        let (mut scope, mut member) = (self.scope(), self.member());
        loop {
            act(scope, member);
            match &scope.opened_in {
                Some((around, opener)) if member == scope.body => {
                    (scope, member) = (around, *opener);
                }
                _ => return,
            }
        }
    }
}

/// What a scope, or a time limit, is to what runs inside it.
pub(super) struct Surroundings {
    pub(super) cancel: Cancel,
    pub(super) lease: Arc<Lease>,
    /// As what the scopes inside count in the lease.
    pub(super) place: Place,
    ledger: Mutex<Ledger>,
    on_orphan: Option<OrphanHook>,
    /// The members that must not be dropped now.
    shielded: Mutex<Vec<Option<u64>>>,
    /// Which member is part of the future that opened this.
    body: Option<u64>,
    opened_in: Option<(Arc<Surroundings>, Option<u64>)>,
    /// The scope or time limit that was opened last inside.
    inside: Mutex<Weak<Surroundings>>,
    /// The name of the scope.
    name: Option<Arc<str>>,
}

/// Takes failures that have no scope left to report them.
pub(super) type OrphanHook = Arc<dyn Fn(Kept) + Send + Sync>;

impl Surroundings {
    /// Those of a scope, whose body is polled as `body`.
    pub(super) fn of_scope(
        outer: Option<&Context>,
        cancel: Cancel,
        body: &Node,
        on_orphan: Option<OrphanHook>,
    ) -> Surroundings {
        Surroundings {
            ledger: Mutex::new(Ledger::open()),
            on_orphan,
            body: Some(body.id()),
            name: Some(body.shared_name()),
            ..Surroundings::of_limit(outer, cancel)
        }
    }

    /// Those of a future that is polled in the task that opened them. They keep no failures.
    pub(super) fn of_limit(outer: Option<&Context>, cancel: Cancel) -> Surroundings {
        Surroundings {
            cancel,
            lease: Arc::new(Lease::new(outer.map(Context::within))),
            place: Place::Member,
            ledger: Mutex::new(Ledger::Gone),
            on_orphan: None,
            shielded: Mutex::new(Vec::new()),
            body: outer.and_then(Context::member),
            opened_in: outer.map(|outer| (outer.scope().clone(), outer.member())),
            inside: Mutex::new(Weak::new()),
            name: None,
        }
    }

    /// Those of some of the tasks of a scope, which can be cancelled without the others.
    pub(super) fn of_part(scope: &Arc<Surroundings>, place: Place) -> Surroundings {
        Surroundings {
            cancel: scope.cancel.child(),
            lease: scope.lease.clone(),
            place,
            ledger: Mutex::new(Ledger::Gone),
            on_orphan: None,
            shielded: Mutex::new(Vec::new()),
            body: None,
            opened_in: Some((scope.clone(), None)),
            inside: Mutex::new(Weak::new()),
            name: None,
        }
    }

    /// Has the one around know that this is open.
    pub(super) fn opened(self: Arc<Surroundings>) -> Arc<Surroundings> {
        if let Some((around, _)) = &self.opened_in {
            let before = std::mem::replace(&mut *lock(&around.inside), Arc::downgrade(&self));
            drop(before);
        }
        self
    }

    /// The names of the scopes that are open inside, as far as the youngest in each tells: outermost first.
    pub(super) fn names_inside(&self) -> Vec<Arc<str>> {
        let mut names = Vec::new();
        let mut next = lock(&self.inside).upgrade();
        while let Some(inside) = next {
            names.extend(inside.name.clone());
            next = lock(&inside.inside).upgrade();
        }
        names
    }

    /// Keeps a failure here, or if this is gone with the nearest scope that is not, or gives it to the nearest hook.
    ///
    /// That something was cut off concerns only the scope itself.
    pub(super) fn record(&self, failure: Kept) {
        let mut scope = self;
        let mut failure = failure;
        loop {
            // What comes back is dropped, or given to foreign code, when the lock is free again.
            let pushed = lock(&scope.ledger).push(failure);
            match pushed {
                Ok(omitted) => return drop(omitted),
                Err(orphan) if orphan.kind.is_cut() => return drop(orphan),
                Err(orphan) => failure = orphan,
            }
            match (&scope.on_orphan, &scope.opened_in) {
                (Some(hook), _) => return hook(failure),
                (None, Some((around, _))) => scope = around,
                (None, None) => return,
            }
        }
    }

    /// Ends the keeping of failures, and gives what was kept.
    pub(super) fn close_ledger(&self) -> Ledger {
        std::mem::replace(&mut *lock(&self.ledger), Ledger::Gone)
    }

    /// Nobody will read the ledger here: hands over what is in it.
    pub(super) fn disown(&self) {
        for failure in self.close_ledger().into_kept() {
            self.record(failure);
        }
    }

    pub(super) fn is_shielded(&self, member: Option<u64>) -> bool {
        lock(&self.shielded).contains(&member)
    }
}

/// As long as it exists, cancelling does not drop the future in which it was made.
pub(super) struct Shield(Option<Context>);

impl Shield {
    pub(super) fn raise(context: Option<Context>) -> Shield {
        if let Some(context) = &context {
            context.for_each_holder(|scope, member| lock(&scope.shielded).push(member));
        }
        Shield(context)
    }
}

impl Drop for Shield {
    fn drop(&mut self) {
        let Some(context) = &self.0 else { return };
        context.for_each_holder(|scope, member| {
            let mut shielded = lock(&scope.shielded);
            if let Some(index) = shielded.iter().position(|shielded| *shielded == member) {
                shielded.swap_remove(index);
            }
        });
    }
}

// What follows belongs to other modules and is here because groups set it: those modules need not know of groups.

impl Cancel {
    /// The request that the running task should obey: its own, which is cancelled with the innermost
    /// [`Group`](crate::Group), [`timeout`](crate::timeout) or [`shield`](crate::shield) around it.
    /// Outside of any it is a new one, which nobody will ever cancel.
    pub fn current() -> Cancel {
        CONTEXT.try_with(Context::cancel).unwrap_or_default()
    }
}

impl Deadline {
    /// The earliest deadline around the running code, if there is one.
    pub fn current() -> Option<Deadline> {
        CONTEXT
            .try_with(|context| context.scope().cancel.deadline())
            .ok()?
    }
}

impl Node {
    /// The node of the running task or scope, if it was started by a [`Scope`](crate::Scope).
    pub fn current() -> Option<Node> {
        CONTEXT.try_with(Context::node).ok()?
    }
}
