//! What the queue promises: bounds, overflow, order, and that nothing is lost under any schedule.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jitney::queue::{Closed, Overflow, Receiver, SendError, Sender, TryRecvError, queue};
use proptest::prelude::*;

use crate::support::{outside, settle};

fn make<T>(capacity: usize, overflow: Overflow) -> (Sender<T>, Receiver<T>) {
    queue(NonZeroUsize::new(capacity).unwrap(), overflow)
}

#[tokio::test(start_paused = true)]
async fn each_overflow_answers_in_its_own_way() {
    for (overflow, answer, left) in [
        (Overflow::Reject, Err(SendError::Full(3)), vec![1, 2]),
        (Overflow::DropOldest, Ok(vec![1]), vec![2, 3]),
        (Overflow::DropExpired, Err(SendError::Full(3)), vec![1, 2]),
    ] {
        let (sender, receiver) = make(2, overflow);
        for item in 1..=2 {
            assert_eq!(sender.send(item).await, Ok(vec![]), "{overflow:?}");
        }
        assert_eq!(sender.send(3).await, answer, "{overflow:?}");
        sender.close();
        assert_eq!(drain(&receiver), left, "{overflow:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiting_sender_goes_on_when_there_is_a_place() {
    let (sender, receiver) = make(1, Overflow::Wait);
    sender.send(1).await.unwrap();
    assert_eq!(sender.try_send(9), Err(SendError::Full(9)));
    let waiting = outside({
        let sender = sender.clone();
        async move { sender.send(2).await }
    });
    settle().await;
    assert!(!waiting.is_finished());
    assert_eq!(receiver.recv().await, Some(1));
    assert_eq!(waiting.await.unwrap(), Ok(vec![]));
    assert_eq!(receiver.recv().await, Some(2));
}

#[tokio::test(start_paused = true)]
async fn expired_items_make_room_and_reach_nobody() {
    let (sender, receiver) = make(3, Overflow::DropExpired);
    sender
        .send_until(1, Duration::from_millis(10))
        .await
        .unwrap();
    sender.send(2).await.unwrap();
    sender
        .send_until(3, Duration::from_millis(10))
        .await
        .unwrap();
    assert_eq!(sender.send(4).await, Err(SendError::Full(4)));
    tokio::time::advance(Duration::from_millis(10)).await;
    assert_eq!(sender.send(5).await, Ok(vec![1, 3]));
    sender
        .send_until(6, Duration::from_millis(10))
        .await
        .unwrap();
    tokio::time::advance(Duration::from_millis(10)).await;
    assert_eq!(receiver.recv().await, Some(2));
    assert_eq!(receiver.recv().await, Some(5));
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    let stats = receiver.stats();
    assert_eq!((stats.sent, stats.received, stats.expired), (5, 2, 3));
    for item in 7..10 {
        assert_eq!(
            sender.send(item).await,
            Ok(vec![]),
            "every place is free again"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_item_that_expires_outside_comes_back() {
    let (sender, receiver) = make(1, Overflow::Wait);
    sender.send(1).await.unwrap();
    let late = sender.send_until(2, Duration::from_millis(5)).await;
    assert_eq!(late, Err(SendError::Expired(2)));
    assert_eq!(
        sender.send_until(3, Duration::ZERO).await,
        Err(SendError::Expired(3))
    );
    assert_eq!(receiver.recv().await, Some(1));
    assert_eq!(sender.try_send(4), Ok(vec![]));
}

#[tokio::test(start_paused = true)]
async fn stats_say_how_deep_and_how_old() {
    let (sender, _receiver) = make(4, Overflow::Wait);
    assert_eq!(sender.stats().age, Duration::ZERO);
    sender.send("old").await.unwrap();
    tokio::time::advance(Duration::from_secs(3)).await;
    sender.send("new").await.unwrap();
    let stats = sender.stats();
    assert_eq!((stats.capacity, stats.depth), (4, 2));
    assert_eq!(stats.age, Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn closing_drains_and_aborting_gives_back() {
    let (sender, receiver) = make(2, Overflow::Wait);
    sender.send(1).await.unwrap();
    sender.send(2).await.unwrap();
    let refused = outside({
        let sender = sender.clone();
        async move { sender.send(3).await }
    });
    settle().await;
    receiver.close();
    assert_eq!(refused.await.unwrap(), Err(SendError::Closed(3)));
    assert_eq!(sender.send(4).await, Err(SendError::Closed(4)));
    assert_eq!(receiver.recv().await, Some(1));
    assert_eq!(sender.abort(), [2]);
    assert_eq!(receiver.recv().await, None);
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Closed));
}

#[tokio::test(start_paused = true)]
async fn a_place_reserved_before_closing_takes_nothing_after_it() {
    let (sender, receiver) = make(1, Overflow::DropOldest);
    let place = sender.reserve().await.unwrap();
    assert_eq!(
        sender.try_send(1),
        Err(SendError::Full(1)),
        "a reserved place makes no room"
    );
    sender.close();
    assert_eq!(place.send(2), Err(SendError::Closed(2)));
    assert_eq!(sender.reserve().await.err(), Some(Closed));
    assert_eq!(receiver.recv().await, None);
}

#[tokio::test(start_paused = true)]
async fn either_end_that_is_gone_ends_it() {
    let (sender, receiver) = make(2, Overflow::Wait);
    let second = sender.clone();
    second.send(1).await.unwrap();
    drop(sender);
    drop(second);
    assert_eq!(receiver.recv().await, Some(1));
    assert_eq!(receiver.recv().await, None);

    let (sender, receiver) = make(2, Overflow::Wait);
    let item = Arc::new(());
    sender.send(item.clone()).await.unwrap();
    drop(receiver);
    assert_eq!(Arc::strong_count(&item), 1, "nobody will ever take it");
    assert!(matches!(sender.send(item).await, Err(SendError::Closed(_))));
}

#[tokio::test(start_paused = true)]
async fn waiting_senders_and_receivers_are_served_in_turn() {
    let (sender, receiver) = make(1, Overflow::Wait);
    sender.send(0).await.unwrap();
    let senders: Vec<_> = (1..=5)
        .map(|item| {
            let sender = sender.clone();
            outside(async move { sender.send(item).await.map(drop) })
        })
        .collect();
    settle().await;
    for item in 0..=5 {
        assert_eq!(receiver.recv().await, Some(item));
    }
    for sender in senders {
        sender.await.unwrap().unwrap();
    }
    let served = Arc::new(Mutex::new(Vec::new()));
    let receivers: Vec<_> = (0..5)
        .map(|turn| {
            let (receiver, served) = (receiver.clone(), served.clone());
            outside(async move {
                receiver.recv().await.unwrap();
                served.lock().unwrap().push(turn);
            })
        })
        .collect();
    settle().await;
    for item in 0..5 {
        sender.send(item).await.unwrap();
        settle().await;
    }
    for receiver in receivers {
        receiver.await.unwrap();
    }
    assert_eq!(*served.lock().unwrap(), [0, 1, 2, 3, 4]);
}

/// One who uses the queue, and is dropped after a number of turns if it is not done by then.
#[derive(Clone, Debug)]
enum Act {
    Send { until_ms: Option<u64>, patience: u8 },
    Recv { patience: u8 },
    Advance { ms: u64 },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (proptest::option::of(0..6u64), 0..4u8).prop_map(|(until_ms, patience)| Act::Send { until_ms, patience }),
        3 => (0..4u8).prop_map(|patience| Act::Recv { patience }),
        1 => (1..6u64).prop_map(|ms| Act::Advance { ms }),
    ];
    proptest::collection::vec(act, 1..60)
}

proptest! {
    /// Every item is in one place at the end: received, given back, or dropped by its own cancelled or expired sender.
    #[test]
    fn no_item_is_lost_or_doubled_under_random_cancellation(
        acts in acts(),
        capacity in 1..4usize,
        overflow in prop_oneof![
            Just(Overflow::Wait),
            Just(Overflow::Reject),
            Just(Overflow::DropOldest),
            Just(Overflow::DropExpired),
        ],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(check(acts, capacity, overflow));
    }
}

async fn check(acts: Vec<Act>, capacity: usize, overflow: Overflow) {
    let (sender, receiver) = make(capacity, overflow);
    let received = Arc::new(Mutex::new(Vec::new()));
    let back = Arc::new(Mutex::new(Vec::new()));
    let unsent = Arc::new(Mutex::new(0));
    let mut tasks = Vec::new();
    let mut items = 0..;
    for act in acts {
        match act {
            Act::Send { until_ms, patience } => {
                let item: u64 = items.next().unwrap();
                let (sender, back, unsent) = (sender.clone(), back.clone(), unsent.clone());
                tasks.push(outside(async move {
                    let sending = async {
                        match until_ms {
                            Some(ms) => sender.send_until(item, Duration::from_millis(ms)).await,
                            None => sender.send(item).await,
                        }
                    };
                    match patiently(patience, sending).await {
                        Some(Ok(gone)) => back.lock().unwrap().extend(gone),
                        Some(Err(error)) => back.lock().unwrap().push(error.into_item()),
                        None => *unsent.lock().unwrap() += 1,
                    }
                }));
            }
            Act::Recv { patience } => {
                let (receiver, received) = (receiver.clone(), received.clone());
                tasks.push(outside(async move {
                    if let Some(item) = patiently(patience, receiver.recv()).await {
                        received.lock().unwrap().extend(item);
                    }
                }));
            }
            Act::Advance { ms } => tokio::time::advance(Duration::from_millis(ms)).await,
        }
        assert!(sender.stats().depth <= capacity);
        tokio::task::yield_now().await;
    }
    for task in tasks {
        task.await.unwrap();
    }
    let stats = sender.stats();
    let left = sender.abort();
    let received = received.lock().unwrap().clone();
    let back = back.lock().unwrap().clone();
    let unsent = *unsent.lock().unwrap();
    let mut seen: Vec<u64> = [&received[..], &back[..], &left[..]].concat();
    let mut once = seen.clone();
    once.sort_unstable();
    once.dedup();
    seen.sort_unstable();
    assert_eq!(seen, once, "an item is in two places");
    assert_eq!(stats.received, received.len() as u64);
    // What expired inside was either given back to a sender, or dropped in the sight of a receiver.
    let vanished = items.next().unwrap() - seen.len() as u64 - unsent;
    assert!(vanished <= stats.expired, "{vanished} lost, {stats:?}");
    if overflow == Overflow::DropOldest || overflow == Overflow::Reject {
        // Senders never wait, so the order of sending is that of the numbers.
        assert!(received.is_sorted(), "{received:?}");
    }
}

/// Polls the future for so many turns, and then drops it.
async fn patiently<T>(turns: u8, future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        value = future => Some(value),
        () = async {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
        } => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_senders_and_receivers_on_many_threads_share_it() {
    const EACH: u64 = 2_000;
    let (sender, receiver) = make(3, Overflow::Wait);
    let senders: Vec<_> = (0..4)
        .map(|number| {
            let sender = sender.clone();
            outside(async move {
                for item in 0..EACH {
                    sender.send(number * EACH + item).await.unwrap();
                }
            })
        })
        .collect();
    let receivers: Vec<_> = (0..4)
        .map(|_| {
            let receiver = receiver.clone();
            outside(async move {
                let mut items = Vec::new();
                while let Some(item) = receiver.recv().await {
                    items.push(item);
                }
                items
            })
        })
        .collect();
    for sender in senders {
        sender.await.unwrap();
    }
    sender.close();
    let mut all = Vec::new();
    for receiver in receivers {
        all.extend(receiver.await.unwrap());
    }
    all.sort_unstable();
    assert_eq!(all, (0..4 * EACH).collect::<Vec<_>>());
}

fn drain<T>(receiver: &Receiver<T>) -> Vec<T> {
    std::iter::from_fn(|| receiver.try_recv().ok()).collect()
}
