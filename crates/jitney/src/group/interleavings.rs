//! The lease and the exit stack under shuttle: thousands of random and of prioritised schedules of tasks that come and go while
//! their scope closes, or is dropped.
//!
//! `cargo nextest run -p jitney --features model-check`

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use shuttle::future::block_on;
use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::thread;

use super::exits::Stack;
use super::lease::{Lease, Left, Place};

fn explore(test: impl Fn() + Send + Sync + Clone + 'static) {
    shuttle::check_random(test.clone(), 3_000);
    shuttle::check_pct(test, 2_000, 3);
}

/// How many tasks are running, and how many clean-ups were promised and are still to be done.
#[derive(Clone, Default)]
struct World {
    running: Arc<AtomicUsize>,
    owed: Arc<AtomicUsize>,
}

impl World {
    fn is_quiet(&self) -> bool {
        (
            self.running.load(Ordering::SeqCst),
            self.owed.load(Ordering::SeqCst),
        ) == (0, 0)
    }

    /// A task that puts something on the stack, and starts `children` others before it ends.
    fn task(&self, lease: &Arc<Lease>, stack: &Arc<Stack<()>>, place: Place, children: usize) {
        if !lease.join(place) {
            return;
        }
        self.running.fetch_add(1, Ordering::SeqCst);
        let (world, lease, stack) = (self.clone(), lease.clone(), stack.clone());
        thread::spawn(move || {
            thread::yield_now();
            world.owed.fetch_add(1, Ordering::SeqCst);
            assert_eq!(stack.push(()), None, "a running task is never refused");
            for _ in 0..children {
                world.task(&lease, &stack, place, 0);
            }
            world.running.fetch_sub(1, Ordering::SeqCst);
            lease.leave(place);
        });
    }

    fn unwind(&self, stack: &Stack<()>) {
        while stack.pop().is_some() {
            assert_eq!(
                self.running.load(Ordering::SeqCst),
                0,
                "cleaned up under a task"
            );
            thread::yield_now();
            self.owed.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// The owner is never told too early, is told at last, and nobody comes after that.
#[test]
fn a_scope_closes_when_its_last_task_has_left() {
    explore(|| {
        let (world, lease) = (World::default(), Arc::new(Lease::new(None)));
        let stack = Arc::new(Stack::new());
        world.task(&lease, &stack, Place::Member, 1);
        world.task(&lease, &stack, Place::Member, 0);
        block_on(poll_fn(|cx| lease.poll_alone(cx)));
        assert!(!lease.join(Place::Member), "it is closed");
        world.unwind(&stack);
        assert!(world.is_quiet());
        assert_eq!(stack.push(()), Some(()), "it is over");
    });
}

/// Helpers are dismissed when no other task is left, and waited for.
#[test]
fn helpers_are_dismissed_once_they_are_alone() {
    explore(|| {
        let (world, lease) = (World::default(), Arc::new(Lease::new(None)));
        let stack = Arc::new(Stack::new());
        assert!(lease.join(Place::Helper));
        world.task(&lease, &stack, Place::Member, 1);
        let mut helps = true;
        let closing = poll_fn(|cx| {
            let left = lease.poll_close(cx);
            if left == Left::Helpers && helps {
                helps = false;
                assert_eq!(world.running.load(Ordering::SeqCst), 0);
                let helper = lease.clone();
                thread::spawn(move || helper.leave(Place::Helper));
            }
            match left {
                Left::Nobody => Poll::Ready(()),
                Left::Helpers | Left::Members => Poll::Pending,
            }
        });
        block_on(closing);
        assert!(!helps, "it closed with a helper in it");
        world.unwind(&stack);
        assert!(world.is_quiet());
    });
}

/// A scope is dropped at any moment; the scope around is open until its tasks have ended and its stack is empty.
#[test]
fn a_dropped_scope_leaves_its_debt_to_the_one_around() {
    explore(|| {
        let (world, outer) = (World::default(), Arc::new(Lease::new(None)));
        let inner = Arc::new(Lease::new(Some((outer.clone(), Place::Member))));
        let stack = Arc::new(Stack::new());
        world.task(&inner, &stack, Place::Member, 1);
        let dropping = {
            let (world, inner, stack) = (world.clone(), inner.clone(), stack.clone());
            thread::spawn(move || {
                inner.close();
                if !(inner.is_alone() && stack.is_over()) {
                    block_on(poll_fn(|cx| inner.poll_alone(cx)));
                    world.unwind(&stack);
                }
                inner.leave(Place::Member);
            })
        };
        block_on(poll_fn(|cx| outer.poll_alone(cx)));
        assert!(world.is_quiet(), "the scope around returned too early");
        dropping.join().unwrap();
    });
}

/// Two scopes dropped together, one in the other: the debt goes up both.
#[test]
fn debts_go_up_through_scopes_that_are_gone() {
    explore(|| {
        let (world, top) = (World::default(), Arc::new(Lease::new(None)));
        let middle = Arc::new(Lease::new(Some((top.clone(), Place::Member))));
        let low = Arc::new(Lease::new(Some((middle.clone(), Place::Helper))));
        let stack = Arc::new(Stack::new());
        world.task(&low, &stack, Place::Member, 1);
        for gone in [&middle, &low] {
            gone.close();
        }
        middle.leave(Place::Member);
        let dropped = low.clone();
        thread::spawn(move || dropped.leave(Place::Member));
        block_on(poll_fn(|cx| top.poll_alone(cx)));
        assert_eq!(world.running.load(Ordering::SeqCst), 0);
    });
}
