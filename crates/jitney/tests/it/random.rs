//! Random trees of tasks that succeed, fail, panic, hang, are cancelled, and have such trees of their own.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use jitney::tree::{Node, Tree};
use jitney::{Cause, FailureKind, Group, GroupError, Policy, Scope};
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
        prop_oneof![Just(Policy::CancelSiblings), Just(Policy::Isolate)],
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
                    let act = self.clone().perform(act, group.clone(), alive.guard());
                    drop(group.spawn(act));
                }
                Ok(())
            };
            let outcome = scope.run(body).await;
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

    async fn perform(self, act: Act, group: Group<String>, _guard: Guard) -> Result<(), String> {
        match act {
            Act::Succeed { yields } => rest(yields).await,
            Act::Fail { yields } => {
                rest(yields).await;
                return Err("fail".to_owned());
            }
            Act::Panic { yields } => {
                rest(yields).await;
                // Unlike a plain panic, this prints nothing.
                std::panic::resume_unwind(Box::new("panic"));
            }
            Act::Hang => std::future::pending().await,
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
    let cancelling = planned(|act| matches!(act, Act::CancelGroup));
    let failures = outcome
        .as_ref()
        .err()
        .into_iter()
        .flat_map(GroupError::iter);
    let (own, cut): (Vec<_>, Vec<_>) = failures.partition(|failure| {
        matches!(
            failure.kind,
            FailureKind::Error(_) | FailureKind::Panic { .. }
        )
    });
    let all_told = match plan.policy {
        // Everything that did not fail by itself was cut off by the failure, the deadline or something around.
        Policy::CancelSiblings => failing + hanging == 0 || outcome.is_err(),
        Policy::Isolate => own.len() + cut.len() >= failing + hanging,
    };
    own.len() <= failing && (all_told || cancelling > 0)
}

fn holds_on(runtime: &tokio::runtime::Runtime, plan: Plan) {
    let lab = Lab {
        tree: Tree::new("test"),
        complaints: Arc::default(),
    };
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
    runtime.block_on(outer).unwrap();
    assert_eq!(*lab.complaints.lock().unwrap(), [""; 0]);
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
