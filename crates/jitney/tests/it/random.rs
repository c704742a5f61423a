//! Random trees of tasks that succeed, fail, panic, hang, are cancelled, and have such trees of their own.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use jitney::tree::{Node, Tree};
use jitney::{Cause, FailureKind, Group, GroupError, Policy, Scope, shield, timeout};
use proptest::prelude::*;

use crate::support::{Alive, Guard};

#[derive(Clone, Debug)]
enum Act {
    Succeed {
        yields: u8,
    },
    Fail {
        yields: u8,
    },
    Panic {
        yields: u8,
    },
    Hang,
    CancelGroup,
    /// It starts a task that hangs, and cancels it.
    CancelOther,
    /// It has something done at the end of the scope.
    Defer {
        yields: u8,
        panics: bool,
    },
    /// It goes on for so long after everybody was cancelled.
    Shield {
        yields: u8,
    },
    /// It is a helper, and hangs.
    Help,
    Nest {
        plan: Plan,
        dropped_after: Option<u8>,
    },
}

#[derive(Clone, Debug)]
struct Plan {
    policy: Policy,
    limit: Option<std::num::NonZeroUsize>,
    grace_ms: u64,
    deadline_ms: u64,
    acts: Vec<Act>,
}

fn plans() -> impl Strategy<Value = Plan> {
    let leaf = prop_oneof![
        4 => (0..5u8).prop_map(|yields| Act::Succeed { yields }),
        1 => (0..5u8).prop_map(|yields| Act::Fail { yields }),
        1 => (0..5u8).prop_map(|yields| Act::Panic { yields }),
        1 => Just(Act::Hang),
        1 => Just(Act::CancelGroup),
        1 => Just(Act::CancelOther),
        2 => (0..5u8, any::<bool>()).prop_map(|(yields, panics)| Act::Defer { yields, panics }),
        1 => (0..5u8).prop_map(|yields| Act::Shield { yields }),
        1 => Just(Act::Help),
    ];
    let nested = leaf.prop_recursive(3, 40, 6, |inner| {
        (plan_of(inner), proptest::option::of(0..6u8)).prop_map(|(plan, dropped_after)| Act::Nest {
            plan,
            dropped_after,
        })
    });
    plan_of(nested.boxed())
}

fn plan_of(act: impl Strategy<Value = Act> + 'static) -> impl Strategy<Value = Plan> {
    (
        prop_oneof![
            2 => Just(Policy::CancelSiblings),
            2 => Just(Policy::Isolate),
            1 => Just(Policy::FirstSuccess),
        ],
        proptest::option::of((1..4usize).prop_map(|n| n.try_into().unwrap())),
        0..3u64,
        1..50u64,
        proptest::collection::vec(act, 0..6),
    )
        .prop_map(|(policy, limit, grace_ms, deadline_ms, acts)| Plan {
            policy,
            limit,
            grace_ms,
            deadline_ms,
            acts,
        })
}

/// Where plans are run, and what broke the rules there. Panics would not do: groups catch them.
#[derive(Clone)]
struct Lab {
    tree: Tree,
    complaints: Arc<Mutex<Vec<String>>>,
    alive: Alive,
    tally: Arc<Tally>,
}

/// What was to be reported or done, and was.
#[derive(Default)]
struct Tally {
    failed: AtomicUsize,
    reported: AtomicUsize,
    deferred: AtomicUsize,
    cleaned: AtomicUsize,
}

fn count(counter: &AtomicUsize) -> usize {
    counter.fetch_add(1, Ordering::SeqCst)
}

impl Lab {
    fn expect(&self, holds: bool, complaint: impl FnOnce() -> String) {
        if !holds {
            self.complaints.lock().unwrap().push(complaint());
        }
    }

    /// Runs a plan, and checks the one rule when its scope returns.
    fn run(self, plan: Plan, under: Node) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            let alive = Alive::default();
            let mut scope = Scope::named("scope")
                .under(&under)
                .policy(plan.policy)
                .grace(Duration::from_millis(plan.grace_ms))
                .deadline(Duration::from_millis(plan.deadline_ms));
            if let Some(limit) = plan.limit {
                scope = scope.limit(limit);
            }
            let mut begun = None;
            let body = async |group: Group<String>| {
                begun = Some(group.node().id());
                for act in plan.acts.clone() {
                    let helps = matches!(act, Act::Help);
                    let guards = (alive.guard(), self.alive.guard());
                    let act = self.clone().perform(act, group.clone(), guards);
                    drop(if helps {
                        group.spawn_helper(act)
                    } else {
                        group.spawn(act)
                    });
                }
                Ok(())
            };
            let outcome = scope.run(body).await;
            self.read(&outcome);
            let left: Vec<_> = self.tree.snapshot().nodes;
            let left = left
                .iter()
                .filter(|node| begun.is_some() && [Some(node.id), node.parent].contains(&begun));
            let left = (alive.count(), left.count());
            self.expect(left == (0, 0), || format!("{left:?} left by {plan:?}"));
            let fits = begun.is_none() || fits(&plan, &outcome);
            self.expect(fits, || format!("{outcome:?} of {plan:?}"));
        })
    }

    /// Counts what a scope reports to whoever ran it.
    fn read(&self, outcome: &Result<(), GroupError<String>>) {
        let failures = outcome
            .as_ref()
            .err()
            .into_iter()
            .flat_map(GroupError::iter);
        let own = failures.filter(|failure| is_own(&failure.kind)).count();
        self.tally.reported.fetch_add(own, Ordering::SeqCst);
    }

    fn fail(&self) -> Result<(), String> {
        count(&self.tally.failed);
        Err("fail".to_owned())
    }

    fn panic(&self) {
        count(&self.tally.failed);
        // Unlike a plain panic, this prints nothing.
        std::panic::resume_unwind(Box::new("panic"));
    }

    async fn clean_up(self, yields: u8, panics: bool, _guards: (Guard, Guard)) {
        rest(yields).await;
        count(&self.tally.cleaned);
        if panics {
            self.panic();
        }
    }

    async fn perform(
        self,
        act: Act,
        group: Group<String>,
        guards: (Guard, Guard),
    ) -> Result<(), String> {
        match act {
            Act::Succeed { yields } => rest(yields).await,
            Act::Fail { yields } => {
                rest(yields).await;
                return self.fail();
            }
            Act::Panic { yields } => {
                rest(yields).await;
                self.panic();
            }
            Act::Hang | Act::Help => std::future::pending().await,
            Act::CancelOther => {
                let other = group.spawn(std::future::pending::<Result<(), String>>());
                tokio::task::yield_now().await;
                other.cancel(Cause::ClientGone);
                let cancelled = other.await.map_err(|cancelled| cancelled.cause);
                self.expect(cancelled.is_err(), || format!("{cancelled:?} of pending"));
            }
            Act::Defer { yields, panics } => {
                count(&self.tally.deferred);
                let cleanup = self.clean_up(yields, panics, guards);
                group.defer(Duration::from_secs(60), cleanup);
            }
            Act::Shield { yields } => {
                tokio::task::yield_now().await;
                count(&self.tally.deferred);
                let long = Duration::from_secs(60);
                let shielded = timeout(long, shield(long, rest(yields)));
                shielded.await.map_err(|_| "late")?.map_err(|_| "late")?;
                count(&self.tally.cleaned);
            }
            Act::CancelGroup => group.cancel(Cause::Requested),
            Act::Nest {
                plan,
                dropped_after,
            } => {
                let mut nested = self.run(plan, Node::current().unwrap());
                let mut left = dropped_after;
                let polled = std::future::poll_fn(|cx| {
                    if left == Some(0) {
                        return Poll::Ready(());
                    }
                    left = left.map(|left| left - 1);
                    nested.as_mut().poll(cx)
                });
                polled.await;
            }
        }
        Ok(())
    }
}

async fn rest(yields: u8) {
    for _ in 0..yields {
        tokio::task::yield_now().await;
    }
}

/// Whether a scope that began may say this.
fn fits(plan: &Plan, outcome: &Result<(), GroupError<String>>) -> bool {
    let planned = |wanted: fn(&Act) -> bool| plan.acts.iter().filter(|act| wanted(act)).count();
    let failing = planned(|act| matches!(act, Act::Fail { .. } | Act::Panic { .. }));
    let hanging = planned(|act| matches!(act, Act::Hang));
    let orphans = plan
        .acts
        .iter()
        .any(|act| matches!(act, Act::Nest { .. } | Act::Defer { .. }));
    let cancelling = planned(|act| matches!(act, Act::CancelGroup));
    let failures = outcome
        .as_ref()
        .err()
        .into_iter()
        .flat_map(GroupError::iter);
    let (own, cut): (Vec<_>, Vec<_>) = failures.partition(|failure| is_own(&failure.kind));
    let all_told = match plan.policy {
        // Everything that did not fail by itself was cut off by the failure, the deadline or something around.
        Policy::CancelSiblings => failing + hanging == 0 || outcome.is_err(),
        Policy::Isolate => own.len() + cut.len() >= failing + hanging,
        Policy::FirstSuccess => true,
    };
    (own.len() <= failing || orphans) && (all_told || cancelling > 0)
}

/// Whether somebody did something wrong, and was not just stopped.
fn is_own(kind: &FailureKind<String>) -> bool {
    !matches!(kind, FailureKind::TimedOut(_) | FailureKind::Cancelled(_))
}

fn forgives(plan: &Plan) -> bool {
    plan.policy == Policy::FirstSuccess
        || plan
            .acts
            .iter()
            .any(|act| matches!(act, Act::Nest { plan, .. } if forgives(plan)))
}

fn holds_on(runtime: &tokio::runtime::Runtime, plan: Plan) {
    let lab = Lab {
        tree: Tree::new("test"),
        complaints: Arc::default(),
        alive: Alive::default(),
        tally: Arc::default(),
    };
    let forgives = forgives(&plan);
    let root = lab.tree.root();
    // The outer scope waits for what the dropped ones leave.
    let outer = Scope::named("outer").run(async |group: Group<String>| {
        drop(group.spawn({
            let running = lab.clone().run(plan, root);
            async move {
                running.await;
                Ok(())
            }
        }));
        Ok(())
    });
    // What the dropped ones failed with comes here.
    let patience = Duration::from_secs(600);
    let outcome = runtime.block_on(async { tokio::time::timeout(patience, outer).await });
    lab.read(&outcome.expect("it never ends"));
    assert_eq!(*lab.complaints.lock().unwrap(), [""; 0]);
    assert_eq!(lab.alive.count(), 0);
    let told = |counter: &AtomicUsize| counter.load(Ordering::SeqCst);
    let (failed, reported) = (told(&lab.tally.failed), told(&lab.tally.reported));
    assert!(
        reported == failed || forgives && reported < failed,
        "{reported} of {failed} reported"
    );
    assert_eq!(told(&lab.tally.cleaned), told(&lab.tally.deferred));
    assert_eq!(lab.tree.snapshot().nodes.len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_outlives_its_scope_on_one_thread(plan in plans()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        holds_on(&runtime, plan);
    }
}

#[test]
fn nothing_outlives_its_scope_on_many_threads() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .unwrap();
    let config = ProptestConfig {
        cases: 100,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(plan in plans())| holds_on(&runtime, plan));
}
