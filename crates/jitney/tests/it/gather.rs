use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use jitney::tree::Tree;
use jitney::{Cause, FailureKind, Group, GroupError, NotEnough, Outcome, Scope, Settled, Winner};
use jitney::{gather, gather_stream};
use proptest::prelude::*;

use crate::support::{Alive, Gate, outside, settle};

type Text = &'static str;

/// What an item does, and when, in milliseconds of a paused clock.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Item {
    Ok(u64),
    Fail(u64),
    Panic(u64),
    Hang,
}

use Item::{Fail, Hang, Panic};

impl Item {
    async fn run(self, index: usize, alive: Alive) -> Result<usize, Text> {
        let _guard = alive.guard();
        match self {
            Item::Ok(0) => Ok(index),
            Fail(0) => Err("expected"),
            Item::Ok(ms) | Fail(ms) | Panic(ms) => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                match self {
                    Item::Ok(_) => Ok(index),
                    Fail(_) => Err("expected"),
                    _ => panic!("expected panic"),
                }
            }
            Hang => std::future::pending().await,
        }
    }

    fn ends(self) -> Option<u64> {
        match self {
            Item::Ok(ms) | Fail(ms) | Panic(ms) => Some(ms),
            Hang => None,
        }
    }

    /// Its outcome if all start at once.
    fn outcome(self, index: usize, deadline: u64) -> Outcome<usize, Text> {
        match self {
            _ if self.ends().is_none_or(|end| end > deadline) => Outcome::TimedOut,
            Item::Ok(_) => Outcome::Ok(index),
            Fail(_) => Outcome::Err("expected"),
            _ => Outcome::Panicked("expected panic".to_owned()),
        }
    }
}

/// The two ways to run are to do the same, so that each test is of both.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Inline,
    Parallel,
}

const MODES: [Mode; 2] = [Mode::Inline, Mode::Parallel];

/// `gather!(mode, items, configuration, ending)`: the forms have different types, so no function can choose.
macro_rules! gathered {
    ($mode:expr, $items:expr, |$gather:ident| $configured:expr, $ending:ident($($argument:expr)?)) => {{
        let $gather = gather($items);
        let configured = $configured;
        match $mode {
            Mode::Inline => configured.$ending($($argument)?).await,
            Mode::Parallel => configured.parallel().$ending($($argument)?).await,
        }
    }};
}

fn items(items: &[Item], alive: &Alive) -> Vec<impl Future<Output = Result<usize, Text>> + use<>> {
    let indexed = items.iter().enumerate();
    indexed
        .map(|(index, item)| item.run(index, alive.clone()))
        .collect()
}

fn indices(winners: &[Winner<usize>]) -> Vec<usize> {
    assert!(winners.iter().all(|winner| winner.index == winner.value));
    winners.iter().map(|winner| winner.index).collect()
}

#[tokio::test(start_paused = true)]
async fn settle_has_an_outcome_for_every_item() {
    let table = [
        vec![],
        vec![Item::Ok(0)],
        vec![Item::Ok(30), Fail(10), Panic(20), Item::Ok(0), Hang],
        vec![Fail(0), Fail(0), Panic(1)],
        vec![Hang, Hang],
        vec![Item::Ok(99), Item::Ok(101)],
    ];
    for mode in MODES {
        for row in &table {
            let alive = Alive::default();
            let deadline = Duration::from_millis(100);
            let settled = gathered!(mode, items(row, &alive), |g| g.deadline(deadline), settle());
            let expected = row.iter().enumerate();
            let expected: Vec<_> = expected.map(|(i, item)| item.outcome(i, 100)).collect();
            assert_eq!(settled.outcomes(), expected, "{mode:?} {row:?}");
            assert_eq!(alive.count(), 0, "{mode:?} {row:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn settled_is_read_by_value_error_and_quorum() {
    let row = [Item::Ok(3), Fail(1), Item::Ok(0), Panic(2)];
    let settled: Settled<usize, Text> = gather(items(&row, &Alive::default())).settle().await;
    assert_eq!((settled.len(), settled.is_empty()), (4, false));
    assert_eq!(settled.oks().collect::<Vec<_>>(), [(0, &0), (2, &2)]);
    let errors: Vec<_> = settled
        .errors()
        .map(|(i, error)| (i, error.to_string()))
        .collect();
    assert_eq!(
        errors,
        [
            (1, "expected".into()),
            (3, "panicked: expected panic".into())
        ]
    );
    assert_eq!(indices(&settled.clone().quorum(2).unwrap()), [0, 2]);
    assert_eq!(indices(&settled.clone().quorum(1).unwrap()), [0]);
    let missed = settled.clone().quorum(3).unwrap_err();
    assert_eq!(missed.settled, settled);
    let results = settled.into_results();
    assert!(matches!(results[1], Err(FailureKind::Error("expected"))));
    assert!(
        matches!(&results[3], Err(FailureKind::Panic { message }) if message == "expected panic")
    );
}

#[tokio::test(start_paused = true)]
async fn all_gives_the_values_in_input_order_or_what_failed() {
    for mode in MODES {
        let alive = Alive::default();
        let row = [Item::Ok(30), Item::Ok(0), Item::Ok(20), Item::Ok(10)];
        let values = gathered!(mode, items(&row, &alive), |g| g.limit(3), all());
        assert_eq!(values.unwrap(), [0, 1, 2, 3], "{mode:?}");

        let row = [Item::Ok(30), Fail(20), Hang, Panic(5), Hang];
        let error = gathered!(mode, items(&row, &alive), |g| g.named("fetch"), all()).unwrap_err();
        assert_eq!(alive.count(), 0, "{mode:?}");
        assert_eq!(&*error.first.task.name, "fetch[3]", "{mode:?}");
        assert_eq!(
            error.first.task.elapsed,
            Duration::from_millis(5),
            "{mode:?}"
        );
        assert!(error.first.task.site.file().ends_with("gather.rs"));
        assert!(
            matches!(error.first.kind, FailureKind::Panic { .. }),
            "{mode:?}"
        );
        assert_eq!(
            (error.rest.len(), error.omitted),
            (0, 0),
            "{mode:?}: {error:#}"
        );

        let row = [Item::Ok(0), Hang, Item::Ok(50), Hang];
        let deadline = Duration::from_millis(20);
        let error: GroupError<Text> =
            gathered!(mode, items(&row, &alive), |g| g.deadline(deadline), all()).unwrap_err();
        let late: Vec<_> = error
            .iter()
            .map(|failure| failure.task.name.to_string())
            .collect();
        assert_eq!(late, ["gather[1]", "gather[2]", "gather[3]"], "{mode:?}");
        assert!(error.iter().all(|failure| match &failure.kind {
            FailureKind::TimedOut(elapsed) =>
                &*elapsed.name == "gather" && elapsed.limit == deadline,
            _ => false,
        }));
    }
}

#[tokio::test(start_paused = true)]
async fn races_end_with_the_first_that_counts() {
    let first = |row: &'static [Item]| (row, 0);
    let table: [(_, Result<Vec<usize>, u64>); 12] = [
        // Zero stands for `first`, other numbers for a quorum of so many.
        (first(&[Item::Ok(30), Item::Ok(10), Fail(20)]), Ok(vec![1])),
        (first(&[Item::Ok(30), Fail(10)]), Err(10)),
        (first(&[Hang, Panic(5)]), Err(5)),
        (first(&[]), Err(0)),
        ((&[Item::Ok(30), Fail(10), Panic(5), Hang], 1), Ok(vec![0])),
        ((&[Fail(30), Fail(10), Panic(5)], 1), Err(30)),
        ((&[], 1), Err(0)),
        (
            (&[Item::Ok(9), Hang, Item::Ok(3), Item::Ok(6), Fail(1)], 2),
            Ok(vec![2, 3]),
        ),
        ((&[Item::Ok(9), Fail(5), Fail(1), Hang], 3), Err(5)),
        ((&[Item::Ok(9), Fail(5), Hang, Hang], 4), Err(5)),
        ((&[Item::Ok(9), Hang], 3), Err(9)),
        ((&[Hang, Panic(1)], 0), Err(1)),
    ];
    for mode in MODES {
        for ((row, wanted), expected) in &table {
            let case = format!("{mode:?} {wanted} of {row:?}");
            let alive = Alive::default();
            let began = tokio::time::Instant::now();
            let items = items(row, &alive);
            let outcome: Result<Vec<Winner<usize>>, NotEnough<usize, Text>> = match wanted {
                0 => gathered!(mode, items, |g| g, first()).map(|winner| vec![winner]),
                1 => gathered!(mode, items, |g| g, first_ok()).map(|winner| vec![winner]),
                wanted => gathered!(mode, items, |g| g, quorum(*wanted)),
            };
            assert_eq!(alive.count(), 0, "{case}");
            match (outcome, expected) {
                (Ok(winners), Ok(expected)) => assert_eq!(&indices(&winners), expected, "{case}"),
                (Err(missed), Err(_)) if row.is_empty() => assert!(missed.settled.is_empty()),
                (Err(missed), Err(took)) => {
                    // Each error is kept, and it ended as soon as it was hopeless.
                    assert_eq!(missed.settled.len(), row.len(), "{case}");
                    assert!(
                        (*took..=took + 1).contains(&(began.elapsed().as_millis() as u64)),
                        "{case}"
                    );
                    for (index, outcome) in missed.settled.outcomes().iter().enumerate() {
                        let cut = Outcome::Cancelled(Cause::SiblingFailed);
                        let expected = row[index].outcome(index, *took);
                        assert!(
                            *outcome == expected || *outcome == cut,
                            "{case}: {outcome:?}"
                        );
                    }
                }
                (outcome, expected) => panic!("{case}: {outcome:?}, not {expected:?}"),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_quorum_of_none_starts_nothing() {
    for mode in MODES {
        let alive = Alive::default();
        let winners = gathered!(mode, items(&[Hang], &alive), |g| g, quorum(0)).unwrap();
        assert_eq!((winners.len(), alive.peak()), (0, 0), "{mode:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_input_is_taken_only_as_there_is_room() {
    for mode in MODES {
        let alive = Alive::default();
        let pulled = Arc::new(AtomicUsize::new(0));
        let most_ahead = Arc::new(AtomicUsize::new(0));
        let done = Arc::new(AtomicUsize::new(0));
        let input = (0..1000).map(|index| {
            let ahead = pulled.fetch_add(1, Ordering::SeqCst) + 1 - done.load(Ordering::SeqCst);
            most_ahead.fetch_max(ahead, Ordering::SeqCst);
            // The guard is made when the item is, so that it counts also those that wait to be polled.
            let (guard, done) = (alive.guard(), done.clone());
            async move {
                let _guard = guard;
                tokio::time::sleep(Duration::from_millis(index % 7)).await;
                done.fetch_add(1, Ordering::SeqCst);
                Ok::<_, Text>(index)
            }
        });
        let values = gathered!(mode, input, |g| g.limit(8), all()).unwrap();
        assert!(values.into_iter().eq(0..1000), "{mode:?}");
        assert_eq!((alive.peak(), alive.count()), (8, 0), "{mode:?}");
        assert_eq!(most_ahead.load(Ordering::SeqCst), 8, "{mode:?}");
    }
}

#[tokio::test]
async fn a_million_items_are_never_more_than_the_limit() {
    let alive = Alive::default();
    let input = (0..1_000_000u32).map(|index| {
        let guard = alive.guard();
        async move {
            let _guard = guard;
            if index % 1000 == 0 {
                tokio::task::yield_now().await;
            }
            Err::<(), ()>(())
        }
    });
    let mut first_ok = gather(input)
        .limit(100)
        .quorum(1)
        .await
        .unwrap_err()
        .settled
        .into_iter();
    assert!(first_ok.all(|outcome| outcome == Outcome::Err(())));
    assert!(alive.peak() <= 100, "{}", alive.peak());
}

#[tokio::test]
async fn a_limit_of_zero_is_one() {
    for mode in MODES {
        let alive = Alive::default();
        let values = gathered!(
            mode,
            items(&[Item::Ok(0); 3], &alive),
            |g| g.limit(0),
            all()
        );
        assert_eq!((values.unwrap().len(), alive.peak()), (3, 1), "{mode:?}");
    }
}

#[tokio::test]
async fn the_plain_form_borrows_and_need_not_be_send() {
    let seen = Cell::new(0);
    let texts = ["a".to_owned(), "bc".to_owned()];
    let lengths = gather(texts.iter().map(async |text| {
        seen.set(seen.get() + 1);
        tokio::task::yield_now().await;
        Ok::<_, Text>(text.len())
    }));
    assert_eq!(lengths.all().await.unwrap(), [1, 2]);
    assert_eq!(seen.get(), 2);
}

#[tokio::test]
async fn an_item_is_polled_only_when_it_was_woken() {
    let polls = Arc::new(AtomicUsize::new(0));
    let gate = Gate::new();
    let quiet = |polls: Arc<AtomicUsize>, gate: Gate| async move {
        let mut waiting = Box::pin(gate.wait());
        std::future::poll_fn(|cx| {
            polls.fetch_add(1, Ordering::SeqCst);
            waiting.as_mut().poll(cx)
        })
        .await;
        Ok::<_, Text>(())
    };
    let opener = async |gate: &Gate| {
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        gate.open();
        Ok(())
    };
    let items: Vec<futures_util::future::BoxFuture<'_, _>> = vec![
        Box::pin(quiet(polls.clone(), gate.clone())),
        Box::pin(opener(&gate)),
    ];
    gather(items).all().await.unwrap();
    assert_eq!(polls.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn those_that_were_woken_are_not_kept_waiting_by_those_that_are_new() {
    let (woken, started) = (Cell::new(None), Cell::new(0));
    let input = (0..100_000).map(|index| {
        let (woken, started) = (&woken, &started);
        async move {
            started.set(started.get() + 1);
            if index == 0 {
                tokio::task::yield_now().await;
                woken.set(Some(started.get()));
            }
            Ok::<_, Text>(())
        }
    });
    gather(input).all().await.unwrap();
    assert!(
        woken.get().is_some_and(|started| started < 1000),
        "{woken:?}"
    );
}

#[tokio::test]
async fn one_that_always_wakes_itself_keeps_nobody_waiting() {
    let done = Cell::new(0);
    let input = (0..10_000).map(|index| {
        let done = &done;
        async move {
            while index == 0 && done.get() < 9_999 {
                tokio::task::yield_now().await;
            }
            done.set(done.get() + 1);
            Ok::<_, Text>(())
        }
    });
    gather(input).limit(2).all().await.unwrap();
    assert_eq!(done.get(), 10_000);
}

#[tokio::test]
async fn other_tasks_have_their_turn_while_all_items_are_ready() {
    let turns = Arc::new(AtomicUsize::new(0));
    let other = outside({
        let turns = turns.clone();
        async move {
            loop {
                turns.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
            }
        }
    });
    let input = (0..100_000).map(async |_| Ok::<_, Text>(()));
    gather(input).all().await.unwrap();
    assert!(turns.load(Ordering::SeqCst) > 100, "{turns:?}");
    other.abort();
}

#[tokio::test(start_paused = true)]
async fn a_stream_may_take_its_time() {
    for mode in MODES {
        let every_second = stream::iter(0..5).then(async |index| {
            tokio::time::sleep(Duration::from_secs(1)).await;
            index
        });
        let input = every_second.map(async |index| Ok::<_, Text>(index));
        let gather = gather_stream(input);
        let values = match mode {
            Mode::Inline => gather.all().await,
            Mode::Parallel => gather.parallel().all().await,
        };
        assert_eq!(values.unwrap(), [0, 1, 2, 3, 4], "{mode:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_deadline_reaches_what_was_not_started() {
    for mode in MODES {
        let alive = Alive::default();
        let row = [
            Hang,
            Item::Ok(1),
            Item::Ok(2),
            Hang,
            Item::Ok(0),
            Item::Ok(0),
        ];
        let deadline = Duration::from_millis(9);
        let configured = items(&row, &alive);
        let settled = gathered!(
            mode,
            configured,
            |g| g.limit(2).deadline(deadline),
            settle()
        );
        let late = Outcome::TimedOut;
        let expected = [
            late.clone(),
            Outcome::Ok(1),
            Outcome::Ok(2),
            late.clone(),
            late.clone(),
            late,
        ];
        assert_eq!(settled.outcomes(), expected, "{mode:?}");
        assert_eq!(alive.peak(), 2, "{mode:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_input_comes_when_nothing_runs() {
    for mode in MODES {
        let alive = Alive::default();
        let seen = alive.clone();
        let gathering = outside(async move {
            let input = (0..5).map(|index| {
                assert!(index < 3, "the input panics");
                Hang.run(index, alive.clone())
            });
            gathered!(mode, input, |g| g, settle())
        });
        let panic = gathering.await.unwrap_err().into_panic();
        assert_eq!(
            panic.downcast_ref::<Text>(),
            Some(&"the input panics"),
            "{mode:?}"
        );
        assert_eq!(seen.count(), 0, "{mode:?}");
    }
}

struct PanicOnDrop;

impl Drop for PanicOnDrop {
    fn drop(&mut self) {
        panic!("panics on drop");
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_an_item_is_dropped_is_its_outcome() {
    for mode in MODES {
        let input = (0..3).map(|index| async move {
            let _bomb = (index == 1).then(|| PanicOnDrop);
            tokio::time::sleep(Duration::from_secs(1)).await;
            if index > 0 {
                std::future::pending::<()>().await;
            }
            Err::<(), _>("expected")
        });
        let error = gathered!(mode, input, |g| g, all()).unwrap_err();
        assert!(
            matches!(error.first.kind, FailureKind::Error("expected")),
            "{mode:?}"
        );
        let [rest] = &error.rest[..] else {
            panic!("{mode:?}: {error:#}")
        };
        assert!(
            matches!(&rest.kind, FailureKind::Panic { message } if message == "panics on drop")
        );
        assert_eq!(&*rest.task.name, "gather[1]");
    }
}

#[tokio::test]
async fn tasks_are_in_the_tree_and_leave_it() {
    let tree = Tree::new("test");
    let scope = Scope::named("scope").under(&tree.root());
    let gate = Gate::new();
    let outcome = scope.run(async |_: Group<Text>| {
        let input = (0..2).map(|_| {
            let gate = gate.clone();
            async move {
                gate.wait().await;
                Ok::<_, Text>(())
            }
        });
        let mut gathering = Box::pin(gather(input).named("fetch").parallel().all());
        assert!(futures_util::poll!(&mut gathering).is_pending());
        settle().await;
        let names = |tree: &Tree| -> Vec<_> {
            let nodes = tree.snapshot().nodes.into_iter();
            nodes.map(|node| node.name.to_string()).collect()
        };
        assert_eq!(
            names(&tree),
            ["test", "scope", "fetch", "fetch[0]", "fetch[1]"]
        );
        gate.open();
        gathering.await.unwrap();
        assert_eq!(names(&tree), ["test", "scope"]);
        Ok(())
    });
    outcome.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_scope_is_the_outcome_of_tasks() {
    let outer = Scope::named("outer").grace(Duration::from_secs(9));
    let outcome = outer.run(async |group: Group<Text>| {
        let alive = Alive::default();
        let row = [Item::Ok(0), Hang, Hang, Hang];
        let canceller = group.clone();
        drop(group.spawn(async move {
            settle().await;
            canceller.cancel(Cause::ClientGone);
            Ok(())
        }));
        let settled = gather(items(&row, &alive))
            .limit(2)
            .parallel()
            .settle()
            .await;
        let gone = Outcome::Cancelled(Cause::ClientGone);
        assert_eq!(
            settled.outcomes(),
            [Outcome::Ok(0), gone.clone(), gone.clone(), gone.clone()]
        );
        assert_eq!(alive.count(), 0);
        // And one that begins in a cancelled group starts nothing.
        let settled = gather(items(&row, &alive)).parallel().settle().await;
        assert_eq!(
            settled.outcomes(),
            [gone.clone(), gone.clone(), gone.clone(), gone]
        );
        Ok(())
    });
    // The outer scope was cancelled by itself, and its body was in time.
    outcome.await.unwrap();
}

#[tokio::test]
async fn a_dropped_parallel_gather_leaves_its_debt_to_the_scope_around() {
    let alive = Alive::default();
    let scope = Scope::named("scope").run(async |_: Group<Text>| {
        let mut gathering = Box::pin(gather(items(&[Hang, Hang], &alive)).parallel().all());
        assert!(futures_util::poll!(&mut gathering).is_pending());
        settle().await;
        assert_eq!(alive.count(), 2);
        drop(gathering);
        Ok(())
    });
    scope.await.unwrap();
    assert_eq!(alive.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn as_completed_gives_outcomes_as_they_come() {
    let alive = Alive::default();
    let row = [Item::Ok(30), Fail(10), Panic(20), Item::Ok(0), Hang];
    let deadline = Duration::from_millis(40);
    let configured = gather(items(&row, &alive)).deadline(deadline);
    let completed = configured.parallel().as_completed();
    let completed: Vec<_> = completed.collect().await;
    let order: Vec<_> = completed.iter().map(|completed| completed.index).collect();
    assert_eq!(order, [3, 1, 2, 0, 4]);
    for completed in completed {
        let expected = row[completed.index].outcome(completed.index, 40);
        assert_eq!(completed.outcome, expected);
    }
    assert_eq!(alive.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_slow_consumer_starves_nobody_and_is_not_flooded() {
    let alive = Alive::default();
    let pulled = Arc::new(AtomicUsize::new(0));
    let input = (0..100).map(|index| {
        pulled.fetch_add(1, Ordering::SeqCst);
        Item::Ok(5).run(index, alive.clone())
    });
    let mut completed = gather(input).limit(10).parallel().as_completed();
    assert_eq!(alive.peak(), 0, "it started before it was polled");
    let mut seen = BTreeSet::new();
    seen.insert(completed.next().await.unwrap().index);
    // While nobody polls the stream the items go on and end.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((alive.count(), pulled.load(Ordering::SeqCst)), (0, 10));
    while let Some(next) = completed.next().await {
        assert!(pulled.load(Ordering::SeqCst) - seen.len() <= 11);
        seen.insert(next.index);
    }
    assert_eq!((seen.len(), alive.peak()), (100, 10));
    assert!(completed.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn the_deadline_holds_while_the_consumer_is_busy() {
    let alive = Alive::default();
    let configured = gather(items(&[Item::Ok(0), Hang], &alive)).deadline(Duration::from_secs(1));
    let mut completed = configured.parallel().as_completed();
    assert!(completed.next().await.unwrap().outcome.is_ok());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(alive.count(), 0);
    assert_eq!(completed.next().await.unwrap().outcome, Outcome::TimedOut);
    assert!(completed.next().await.is_none());
}

#[tokio::test]
async fn a_dropped_stream_cancels_its_items() {
    let alive = Alive::default();
    let scope = Scope::named("scope").run(async |_: Group<Text>| {
        let mut completed = gather(items(&[Item::Ok(0), Hang], &alive))
            .parallel()
            .as_completed();
        assert!(completed.next().await.unwrap().outcome.is_ok());
        Ok(())
    });
    scope.await.unwrap();
    assert_eq!(alive.count(), 0);
}

fn item() -> impl Strategy<Value = Item> {
    let ms = 0..50u64;
    prop_oneof![
        6 => ms.clone().prop_map(Item::Ok),
        2 => ms.clone().prop_map(Fail),
        1 => (1..50u64).prop_map(Panic),
        1 => Just(Hang),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_items_keep_order_bound_and_errors(
        row in proptest::collection::vec(item(), 0..40),
        limit in 1..10usize,
        parallel: bool,
    ) {
        let mode = if parallel { Mode::Parallel } else { Mode::Inline };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let alive = Alive::default();
        let deadline = Duration::from_secs(10);
        let (settled, left) = runtime.block_on(async {
            let items = items(&row, &alive);
            let settled = gathered!(mode, items, |g| g.limit(limit).deadline(deadline), settle());
            (settled, alive.count())
        });
        prop_assert_eq!(left, 0);
        prop_assert!(alive.peak() <= limit);
        prop_assert_eq!(settled.len(), row.len());
        let hangs = row.iter().filter(|item| **item == Hang).count();
        for (index, outcome) in settled.into_iter().enumerate() {
            // With all places taken by items that hang, those behind them are not started.
            let held_up = hangs >= limit && outcome == Outcome::TimedOut;
            prop_assert!(held_up || outcome == row[index].outcome(index, 10_000));
        }
    }
}
