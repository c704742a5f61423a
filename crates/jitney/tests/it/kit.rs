//! The kit itself: each check passes what is right and catches what is wrong.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use jitney::batch::{BatchError, Batcher, Batching, Surroundings};
use jitney::clock::Clock;
use jitney::test::{self, FakeModel, Peak, Sequencer, Step, assert_cancel_safe, settle};
use jitney::{Cancel, Group, Scope};
use tokio::sync::{Notify, mpsc};

use crate::support::outside;

const HOUR: Duration = Duration::from_secs(3600);

/// What a test fails with.
fn failure(test: impl FnOnce()) -> String {
    let payload = catch_unwind(AssertUnwindSafe(test)).expect_err("it should have failed");
    match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(payload) => (*payload.downcast::<&str>().unwrap()).to_owned(),
    }
}

#[test]
fn settling_takes_no_time_and_lets_everything_happen() {
    test::run(async |_| {
        let start = tokio::time::Instant::now();
        let steps = Arc::new(Count::default());
        let counted = steps.clone();
        let chain = outside(async move {
            // More than a runtime polls before it looks at its timers.
            for _ in 0..10_000 {
                counted.add();
                tokio::task::yield_now().await;
            }
            tokio::time::sleep(HOUR).await;
            counted.add();
        });
        settle().await;
        assert_eq!(steps.get(), 10_000);
        settle().await;
        assert_eq!((steps.get(), start.elapsed()), (10_000, Duration::ZERO));
        tokio::time::advance(HOUR).await;
        settle().await;
        assert_eq!(steps.get(), 10_001);
        chain.await.unwrap();
    });
}

#[derive(Default)]
struct Count(std::sync::atomic::AtomicUsize);

impl Count {
    fn add(&self) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
    fn get(&self) -> usize {
        self.0.load(std::sync::atomic::Ordering::SeqCst)
    }
}

#[test]
fn a_test_in_which_nothing_can_go_on_fails_and_prints_who_waits() {
    let text = failure(|| {
        test::run(async |_| {
            let never = Notify::new();
            let outcome = Scope::named("philosopher").run(async |group: Group<String>| {
                group.node().label("waits for a fork");
                never.notified().await;
                Ok(())
            });
            outcome.await.unwrap();
        });
    });
    assert!(text.contains("not done after"), "{text}");
    assert!(
        text.contains("philosopher [waits for a fork] idle"),
        "{text}"
    );
}

#[test]
fn a_test_that_leaves_a_task_behind_fails() {
    let text = failure(|| test::run(async |_| drop(outside(std::future::pending::<()>()))));
    assert!(text.contains("1 tasks of its runtime go on"), "{text}");
    let text = failure(|| {
        let mut kept = None;
        test::run(async |tree| kept = Some(tree.root().child("forgotten")));
    });
    assert!(text.contains("forgotten"), "{text}");
}

#[test]
fn a_test_in_which_an_error_has_no_reader_fails() {
    let text = failure(|| {
        test::run(async |_| {
            let scope = Scope::named("dropped").grace(HOUR);
            let scope = scope.run(async |group: Group<String>| {
                drop(group.named("late").spawn(async {
                    Cancel::current().cancelled().await;
                    Err::<(), _>("nobody hears this".to_owned())
                }));
                std::future::pending::<Result<(), String>>().await
            });
            assert!(tokio::time::timeout(HOUR, scope).await.is_err());
        });
    });
    assert!(text.contains("late #"), "{text}");
}

#[test]
fn a_panic_of_the_body_is_that_of_the_test_and_values_come_back() {
    let text = failure(|| test::run(async |_| panic!("seven is not eight")));
    assert!(text.contains("seven is not eight"), "{text}");
    assert_eq!(test::run(async |_| 7), 7);
}

#[test]
fn points_are_reached_in_their_order_whoever_comes_first() {
    test::run(async |_| {
        let order = Sequencer::new(["a", "b", "c"]);
        let seen = RefCell::new(Vec::new());
        let visit = async |point: &'static str| {
            let turn = order.turn(point).await;
            seen.borrow_mut().push(point);
            // The next one waits for the end of the turn and not only for its begin.
            tokio::time::sleep(HOUR).await;
            seen.borrow_mut().push("end");
            drop(turn);
        };
        tokio::join!(visit("c"), visit("b"), visit("a"));
        order.assert_finished();
        assert_eq!(*seen.borrow(), ["a", "end", "b", "end", "c", "end"]);
    });
}

#[test]
fn a_point_that_is_missing_unknown_or_reached_twice_is_named() {
    let order = Sequencer::new(["a", "b"]);
    test::run(async |_| order.reach("a").await);
    let again = || test::run(async |_| order.reach("a").await);
    assert!(failure(again).contains("\"a\" is reached a second time"));
    assert!(failure(|| order.assert_finished()).contains("\"b\" was never reached"));
    let unknown = || test::run(async |_| order.reach("z").await);
    assert!(failure(unknown).contains("there is no point \"z\""));
    assert!(failure(|| drop(Sequencer::new(["a", "a"]))).contains("comes twice"));
}

#[test]
fn a_peak_is_not_content_with_nothing() {
    let peak = Peak::new();
    assert!(failure(|| peak.assert(0..=3)).contains("checks nothing"));
    assert!(failure(|| peak.assert(1..=3)).contains("at most 0 were inside"));
    let inside: Vec<_> = (0..4).map(|_| peak.enter()).collect();
    drop(inside);
    assert!(failure(|| peak.assert(1..=3)).contains("at most 4 were inside"));
    peak.assert(4..=4);
}

#[test]
fn a_future_that_loses_what_it_took_is_caught() {
    let lossy = || {
        test::run(async |_| {
            let (queue, done) = (Cell::new(3), Cell::new(0));
            let take_then_wait = async || {
                queue.set(queue.get() - 1);
                tokio::task::yield_now().await;
                done.set(done.get() + 1);
            };
            assert_cancel_safe(take_then_wait, async || {
                assert_eq!(queue.get() + done.get(), 3, "an item was lost");
            })
            .await;
        });
    };
    assert!(failure(lossy).contains("an item was lost"));
}

#[test]
fn a_value_that_is_on_its_way_to_a_dropped_future_is_caught() {
    let lossy = || {
        test::run(async |_| {
            let (received, sent) = (Cell::new(0), Arc::new(Count::default()));
            let receive = async || {
                let (send, receive) = tokio::sync::oneshot::channel();
                let sent = sent.clone();
                drop(outside(async move {
                    if send.send(1).is_ok() {
                        sent.add();
                    }
                }));
                received.set(received.get() + receive.await.unwrap_or(0));
            };
            let handed = async || {
                settle().await;
                assert_eq!(received.get(), sent.get());
            };
            assert_cancel_safe(receive, handed).await;
        });
    };
    assert!(failure(lossy).contains("left == right"));
}

#[test]
fn receiving_from_a_channel_is_cancel_safe() {
    test::run(async |_| {
        let (send, receive) = mpsc::channel(64);
        let receive = tokio::sync::Mutex::new(receive);
        let (sent, received) = (Cell::new(0), Cell::new(0));
        let drops = assert_cancel_safe(
            async || {
                sent.set(sent.get() + 1);
                let send = send.clone();
                let sending = async move {
                    tokio::task::yield_now().await;
                    send.send(()).await.unwrap();
                };
                drop(outside(sending));
                let item = receive.lock().await.recv().await;
                received.set(received.get() + usize::from(item.is_some()));
            },
            async || {
                settle().await;
                while receive.lock().await.try_recv().is_ok() {
                    received.set(received.get() + 1);
                }
                assert_eq!(sent.get(), received.get());
            },
        );
        assert_eq!(drops.await, 2);
    });
}

#[test]
fn a_future_that_never_waits_checks_nothing() {
    let ready = || {
        test::run(async |_| {
            assert_cancel_safe(async || (), async || ()).await;
        });
    };
    assert!(failure(ready).contains("nothing was checked"));
}

#[test]
fn a_fake_model_follows_its_script() {
    test::run_with_threads(async |_| {
        let model = FakeModel::new();
        model.script([
            Step::Hold,
            Step::Miscount,
            Step::Fail("out of memory".into()),
            Step::Panic,
        ]);
        let (made, clock) = (model.clone(), Clock::paused());
        let made = made.costs(&clock, Duration::from_millis(2), Duration::from_millis(1));
        let surroundings = Surroundings {
            clock: clock.clone(),
            ..Surroundings::default()
        };
        let batching = Batching {
            isolate: false,
            ..Batching::default()
        };
        let made = move || Ok::<_, String>(made.clone());
        let batcher = Batcher::start_with("fake", batching, surroundings, made).unwrap();
        let start = clock.now();
        let held = batcher.submit(1, None).unwrap();
        model.begun(1).await;
        model.release();
        assert_eq!(held.await.unwrap().value, 1);
        assert_eq!(clock.now() - start, Duration::from_millis(3));
        let result = batcher.submit(2, None).unwrap().await;
        assert!(matches!(
            result,
            Err(BatchError::CountMismatch {
                expected: 1,
                got: 0
            })
        ));
        let result = batcher.submit(3, None).unwrap().await;
        assert!(matches!(result, Err(BatchError::Model(error)) if error.0 == "out of memory"));
        let result = batcher.submit(4, None).unwrap().await;
        assert!(matches!(result, Err(BatchError::Panicked(_))));
        assert_eq!(batcher.submit(5, None).unwrap().await.unwrap().value, 5);
        assert_eq!(model.batches(), [[1], [2], [3], [4], [5]]);
        batcher.close();
        batcher.wait_closed().await;
    });
}
