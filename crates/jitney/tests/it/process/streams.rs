//! Streams of real processes.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::join_all;
use jitney::process::{CallError, Health, Part, Pool, Replies, Settings, StreamRequest};
use tokio::time::timeout;

use super::support::{PATIENCE, child, echoes, eventually, start, workers};

const SHORT: Duration = Duration::from_millis(300);

fn streaming(count: usize, streams: usize) -> Settings {
    Settings {
        streams,
        ..workers(count, 1)
    }
}

fn pool(count: usize, streams: usize) -> Pool {
    start(child(&[]), streaming(count, streams)).0
}

fn request(command: &str) -> StreamRequest {
    StreamRequest {
        meta: Bytes::copy_from_slice(command.as_bytes()),
        payload: Bytes::new(),
        weight: 1,
        limit: PATIENCE,
        deadline: None,
    }
}

fn open(pool: &Pool, command: &str) -> Replies {
    pool.open(request(command)).unwrap()
}

async fn next(replies: &mut Replies) -> Option<Result<Part, CallError>> {
    timeout(PATIENCE, replies.next()).await.unwrap()
}

/// The heads of all parts, and how it ended.
async fn all(mut replies: Replies) -> (Vec<String>, Option<CallError>) {
    let mut heads = Vec::new();
    while let Some(part) = next(&mut replies).await {
        match part {
            Ok(part) => {
                assert_eq!((part.b, part.last), (7, &*part.meta == b"end"));
                heads.push(String::from_utf8(part.meta.to_vec()).unwrap());
            }
            Err(error) => {
                assert!(next(&mut replies).await.is_none());
                return (heads, Some(error));
            }
        }
    }
    (heads, None)
}

fn counted(count: usize) -> Vec<String> {
    let numbers = (0..count).map(|number| number.to_string());
    numbers.chain(["end".to_owned()]).collect()
}

#[tokio::test]
async fn streams_are_spread_over_the_children_and_come_in_order() {
    let pool = pool(2, 4);
    let read = (0..30).map(|_| all(open(&pool, "stream count 10")));
    for answer in join_all(read).await {
        assert_eq!(answer, (counted(10), None));
    }
    let served: Vec<u64> = pool.workers().iter().map(|worker| worker.served).collect();
    assert_eq!(served.iter().sum::<u64>(), 30);
}

#[tokio::test]
async fn a_child_that_does_not_keep_to_the_protocol_is_replaced() {
    let pool = pool(1, 4);
    let table = [
        ("count 17", 16, "beyond its credit"),
        ("other-slot 1", 1, "does not go on there"),
        ("other-run 1", 1, "does not go on there"),
        ("no-such-slot 1", 1, "does not go on there"),
        ("no-descriptor 1", 1, "without the descriptor"),
        ("no-region 1", 1, "flags 0x2"),
        ("small-region 1", 1, "in a region that is smaller"),
        ("long 1", 1, "without the descriptor"),
        ("done 1", 1, "which is not the one that is running"),
        ("end-with-flags 1", 1, "flags 0x2"),
    ];
    for (number, (command, replies, what)) in table.into_iter().enumerate() {
        let mut stream = open(&pool, &format!("stream {command}"));
        stream.placed().await.unwrap();
        // Whoever reads gives credit, so nobody does until the child has been caught.
        assert!(
            eventually(|| pool.workers()[0].restarts == number as u64 + 1),
            "{command}"
        );
        let (heads, error) = all(stream).await;
        assert_eq!(heads, counted(replies)[..replies], "{command}: {what}");
        // It said of none that it is at work on it.
        assert!(
            matches!(error, Some(CallError::Unavailable(_))),
            "{command}: {error:?}"
        );
        assert_eq!(all(open(&pool, "stream count 3")).await.0, counted(3));
        assert_eq!(pool.workers()[0].restarts, number as u64 + 1, "{command}");
    }
    // An end after the end is only seen when the next frame is read.
    assert_eq!(all(open(&pool, "stream twice 1")).await.0[..1], ["0"]);
    assert!(eventually(
        || pool.workers()[0].restarts == table.len() as u64 + 1
    ));
    assert_eq!(all(open(&pool, "stream count 3")).await.0, counted(3));
}

#[tokio::test]
async fn whoever_leaves_is_missed_by_the_child() {
    let pool = pool(1, 1);
    let mut left = open(&pool, "stream until-left 2");
    assert_eq!(next(&mut left).await.unwrap().unwrap().meta, "0");
    // There is no place for another until the child has ended the first.
    let other = open(&pool, "stream count 2");
    drop(left);
    assert_eq!(all(other).await, (counted(2), None));
    // Whoever leaves before he has a place is never missed.
    drop(open(&pool, "stream count 2"));
    assert_eq!(all(open(&pool, "stream count 0")).await, (counted(0), None));
    assert_eq!(pool.workers()[0].restarts, 0);
}

#[tokio::test]
async fn a_crash_is_the_end_of_its_stream_alone() {
    let pool = pool(1, 4);
    let guilty = open(&pool, "stream crash 0");
    let next = open(&pool, "stream count 2");
    let (guilty, next) = tokio::join!(all(guilty), all(next));
    assert!(
        matches!(guilty.1, Some(CallError::Crashed(_))),
        "{guilty:?}"
    );
    assert_eq!(next, (counted(2), None), "it had not begun");
}

#[tokio::test]
async fn a_child_that_is_silent_for_too_long_is_killed() {
    let pool = pool(1, 4);
    let begin = Instant::now();
    let guilty = pool.open(StreamRequest {
        limit: SHORT,
        ..request("stream hang 0")
    });
    let next = pool.open(StreamRequest {
        limit: SHORT,
        ..request("stream count 2")
    });
    let (guilty, next) = tokio::join!(all(guilty.unwrap()), all(next.unwrap()));
    assert_eq!(guilty, (vec![], Some(CallError::Hung(SHORT))));
    assert_eq!(next, (counted(2), None));
    assert!(begin.elapsed() >= SHORT && begin.elapsed() < PATIENCE / 2);
}

#[tokio::test]
async fn a_child_that_is_silent_and_at_work_on_nothing_is_nobodys_fault() {
    let pool = pool(1, 4);
    let stuck = pool.open(StreamRequest {
        limit: SHORT,
        ..request("stream sleep 1")
    });
    let (heads, error) = all(stuck.unwrap()).await;
    assert_eq!(heads, ["0"]);
    assert!(matches!(error, Some(CallError::Unavailable(_))));
}

#[tokio::test]
async fn payloads_of_any_size_go_both_ways() {
    let pool = pool(1, 4);
    for size in [0, 1000, 40_000, 1_000_000, 1_048_576, 3_000_000] {
        let payload: Vec<u8> = (0..size).map(|at| at as u8).collect();
        let mut replies = pool
            .open(StreamRequest {
                payload: payload.clone().into(),
                ..request("stream count 1")
            })
            .unwrap();
        let part = next(&mut replies).await.unwrap().unwrap();
        assert_eq!((&*part.meta, part.payload.len()), (&b"0"[..], size));
        assert!(part.payload == payload);
        assert!(next(&mut replies).await.unwrap().unwrap().last);
        assert!(next(&mut replies).await.is_none());
    }
    let table = [(Settings::default().payload_max + 1, 0), (0, 1 << 20)];
    for (payload, meta) in table {
        let error = pool.open(StreamRequest {
            payload: vec![0; payload as usize].into(),
            meta: vec![0; meta].into(),
            ..request("")
        });
        assert!(matches!(error, Err(CallError::TooLarge { .. })));
    }
}

/// The child is at work and reads nothing: nobody waits for it to do so.
#[tokio::test]
async fn requests_wait_for_a_child_that_does_not_read() {
    let pool = pool(1, 100);
    let first = open(&pool, "stream late 1");
    let mut others = Vec::new();
    for _ in 0..50 {
        let mut replies = pool
            .open(StreamRequest {
                payload: vec![7; 30_000].into(),
                ..request("stream count 2")
            })
            .unwrap();
        replies.placed().await.unwrap();
        others.push(replies);
    }
    assert_eq!(all(first).await, (counted(1), None));
    for answer in join_all(others.into_iter().map(all)).await {
        assert_eq!(answer, (counted(2), None));
    }
}

#[tokio::test]
async fn streams_of_a_closed_pool_have_some_time_and_then_end() {
    let settings = Settings {
        close_limit: SHORT,
        ..streaming(1, 4)
    };
    let (pool, _) = start(child(&[]), settings);
    let done = open(&pool, "stream late 2");
    let mut endless = open(&pool, "stream until-left 1");
    let done = tokio::join!(all(done), endless.placed());
    assert_eq!(done, ((counted(2), None), Ok(())));
    assert_eq!(next(&mut endless).await.unwrap().unwrap().meta, "0");
    let begin = Instant::now();
    pool.close();
    assert_eq!(
        all(open(&pool, "stream count 1")).await,
        (vec![], Some(CallError::Closed))
    );
    assert_eq!(all(endless).await, (vec![], Some(CallError::Closed)));
    assert!(begin.elapsed() >= SHORT);
    pool.wait_closed();
    assert_eq!(pool.health(), Health::Closed);
}

#[tokio::test]
async fn calls_and_streams_do_not_get_in_each_others_way() {
    let pool = pool(1, 2);
    for _ in 0..3 {
        assert_eq!(all(open(&pool, "stream count 5")).await, (counted(5), None));
        echoes(&pool);
    }
    let pool = start(child(&[]), workers(1, 1)).0;
    assert!(matches!(
        pool.open(request("stream count 1")),
        Err(CallError::Unavailable(_))
    ));
}

#[tokio::test]
async fn a_child_that_has_served_its_time_leaves_after_its_streams() {
    let settings = Settings {
        recycle_after: Some(2),
        ..streaming(1, 4)
    };
    let (pool, log) = start(child(&[]), settings);
    for _ in 0..6 {
        assert_eq!(all(open(&pool, "stream count 2")).await, (counted(2), None));
    }
    assert!(eventually(|| log.count("exited with code 0") > 0));
    assert_eq!(pool.workers()[0].restarts, 0);
}
