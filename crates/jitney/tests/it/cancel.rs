use std::task::{Context, Poll, Waker};
use std::time::Duration;

use jitney::{Cancel, Cause, Deadline, GroupError, Scope};

use crate::support::{outside, settle};

#[test]
fn the_first_cause_wins_and_stays() {
    let cancel = Cancel::new();
    assert_eq!(cancel.cause(), None);
    cancel.cancel(Cause::ClientGone);
    cancel.cancel(Cause::Shutdown);
    assert_eq!(cancel.cause(), Some(Cause::ClientGone));
    assert_eq!(cancel.clone().cause(), Some(Cause::ClientGone));
}

#[test]
fn it_goes_down_and_not_up() {
    let top = Cancel::new();
    let (left, right) = (top.child(), top.child());
    let below = left.child();
    left.cancel(Cause::Requested);
    assert_eq!(below.cause(), Some(Cause::Requested));
    assert_eq!((top.cause(), right.cause()), (None, None));
    top.cancel(Cause::Shutdown);
    assert_eq!(right.cause(), Some(Cause::Shutdown));
    assert_eq!(below.cause(), Some(Cause::Requested), "the first wins");
    assert_eq!(
        top.child().cause(),
        Some(Cause::Shutdown),
        "late children start cancelled"
    );
}

#[test]
fn it_reaches_grandchildren_whose_parent_was_dropped_and_overflows_no_stack() {
    let top = Cancel::new();
    let mut last = top.child();
    let mut all = Vec::new();
    for _ in 0..20_000 {
        let next = last.child();
        all.push(std::mem::replace(&mut last, next));
    }
    let middle = all.split_off(1);
    top.cancel(Cause::Shutdown);
    assert_eq!(last.cause(), Some(Cause::Shutdown));
    drop(middle);
}

#[tokio::test]
async fn every_waiter_is_woken_early_and_late_ones() {
    let cancel = Cancel::new();
    let waiters: Vec<_> = (0..10)
        .map(|i| {
            let cancel = if i % 2 == 0 {
                cancel.clone()
            } else {
                cancel.child()
            };
            outside(async move { cancel.cancelled().await })
        })
        .collect();
    settle().await;
    cancel.cancel(Cause::Deadline);
    for waiter in waiters {
        assert_eq!(waiter.await.unwrap(), Cause::Deadline);
    }
    assert_eq!(cancel.cancelled().await, Cause::Deadline);
}

#[test]
fn the_last_waker_is_the_one_that_is_woken() {
    let cancel = Cancel::new();
    let mut waiting = std::pin::pin!(cancel.cancelled());
    let (first, last) = (Flag::default(), Flag::default());
    for flag in [&first, &last] {
        let waker = Waker::from(flag.0.clone());
        let polled = waiting.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
    }
    cancel.cancel(Cause::Requested);
    assert!(!first.woken() && last.woken());
    let polled = waiting
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()));
    assert_eq!(polled, Poll::Ready(Cause::Requested));
}

#[test]
fn a_dropped_waiter_holds_no_waker() {
    let cancel = Cancel::new();
    let flag = Flag::default();
    {
        let waker = Waker::from(flag.0.clone());
        let mut waiting = std::pin::pin!(cancel.cancelled());
        let polled = waiting.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
    }
    assert_eq!(std::sync::Arc::strong_count(&flag.0), 1);
}

#[test]
fn children_that_come_while_it_is_cancelled_are_never_missed() {
    for _ in 0..200 {
        let top = Cancel::new();
        let start = std::sync::Barrier::new(2);
        let children = std::thread::scope(|threads| {
            let made = threads.spawn(|| {
                start.wait();
                (0..50).map(|_| top.child().child()).collect::<Vec<_>>()
            });
            start.wait();
            top.cancel(Cause::Shutdown);
            made.join().unwrap()
        });
        assert!(
            children
                .iter()
                .all(|child| child.cause() == Some(Cause::Shutdown))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn deadlines_nest_and_the_earliest_counts() {
    let table = [(10, 20, 10), (20, 10, 10), (10, 10, 10)];
    for (outer, inner, expected) in table {
        let begun = tokio::time::Instant::now();
        let left: Result<(), GroupError<String>> = Scope::named("outer")
            .deadline(Duration::from_secs(outer))
            .run(async |_| {
                Scope::named("inner")
                    .deadline(Duration::from_secs(inner))
                    .run(async |_| {
                        let deadline = Cancel::current().deadline().unwrap();
                        assert_eq!(deadline.remaining(), Duration::from_secs(expected));
                        std::future::pending().await
                    })
                    .await
                    .map_err(|error: GroupError<String>| error.to_string())
            })
            .await;
        assert!(left.is_err());
        assert_eq!(begun.elapsed(), Duration::from_secs(expected));
    }
}

#[tokio::test]
async fn outside_of_a_group_nothing_is_cancelled() {
    let current = Cancel::current();
    assert_eq!((current.cause(), current.deadline()), (None, None));
    assert!(Deadline::after(Duration::MAX).remaining() > Duration::from_secs(1 << 28));
}

#[derive(Default)]
struct Flag(std::sync::Arc<Woken>);

#[derive(Default)]
struct Woken(std::sync::atomic::AtomicBool);

impl Flag {
    fn woken(&self) -> bool {
        self.0.0.load(std::sync::atomic::Ordering::SeqCst)
    }
}

impl std::task::Wake for Woken {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}
