//! Producers, pages and chunks: what arrives, how far ahead they work, and that they end when their consumer does.

use std::collections::VecDeque;
use std::io;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::FusedStream;
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use jitney::stream::{Chunks, Page, Pages, ProducerError, Records, paginate, producer};
use jitney::tree::Tree;
use jitney::{Cause, Group, Scope};
use proptest::prelude::*;
use tokio::io::{AsyncRead, ReadBuf};

use crate::support::{Alive, Gate, settle};

fn n(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap()
}

/// Counts what it sends, without end.
fn counting(capacity: usize, sent: &Arc<AtomicUsize>, alive: &Alive) -> Records<usize, String> {
    let (sent, alive) = (sent.clone(), alive.clone());
    producer(n(capacity), move |items| async move {
        let _alive = alive.guard();
        loop {
            let number = sent.fetch_add(1, Ordering::SeqCst);
            if items.send(number).await.is_err() {
                return Ok(());
            }
        }
    })
}

#[tokio::test]
async fn it_works_ahead_of_the_consumer_and_no_further_than_its_capacity() {
    let (sent, alive) = (Arc::default(), Alive::default());
    let mut records = counting(3, &sent, &alive);
    settle().await;
    assert_eq!(
        sent.load(Ordering::SeqCst),
        0,
        "it begins with the first poll"
    );
    assert_eq!(records.next().await, Some(Ok(0)));
    settle().await;
    // One was taken, three wait, and one is in the hands of the producer.
    assert_eq!(sent.load(Ordering::SeqCst), 5);
    assert_eq!(records.next().await, Some(Ok(1)));
    records.close().await.unwrap();
    assert_eq!(alive.count(), 0, "closing waits for the producer");
}

#[tokio::test]
async fn closing_lets_a_producer_clean_up_within_its_grace() {
    let cleaned = Gate::new();
    let clean = cleaned.clone();
    let mut records: Records<u8, String> = producer(n(1), move |items| async move {
        while items.send(1).await.is_ok() {}
        settle().await;
        clean.open();
        Ok(())
    });
    records = records.grace(Duration::from_secs(1));
    assert_eq!(records.next().await, Some(Ok(1)));
    records.close().await.unwrap();
    assert!(cleaned.is_open());
}

#[tokio::test]
async fn what_went_wrong_is_the_last_item_and_comes_once() {
    type Ending = fn() -> Result<(), String>;
    let endings: [(Ending, ProducerError<String>); 2] = [
        (
            || Err("disk".to_owned()),
            ProducerError::Failed("disk".to_owned()),
        ),
        (
            || panic!("bug"),
            ProducerError::Panicked {
                message: "bug".to_owned(),
            },
        ),
    ];
    for (ending, error) in endings {
        let mut records = producer(n(4), move |items| async move {
            items.send(1).await.map_err(|gone| gone.to_string())?;
            items.send(2).await.map_err(|gone| gone.to_string())?;
            ending()
        });
        settle().await;
        assert_eq!(records.next().await, Some(Ok(1)));
        assert_eq!(records.next().await, Some(Ok(2)));
        assert!(!records.is_terminated());
        assert_eq!(records.next().await, Some(Err(error)));
        assert!(records.is_terminated());
        assert_eq!(records.next().await, None);
        assert_eq!(records.close().await, Ok(()), "it has been said");
    }
}

#[tokio::test]
async fn closing_says_what_the_stream_had_no_time_to_say() {
    let mut records: Records<u8, String> = producer(n(1), |items| async move {
        items.send(1).await.map_err(|gone| gone.to_string())?;
        Err("disk".to_owned())
    });
    assert_eq!(records.next().await, Some(Ok(1)));
    settle().await;
    let failed = ProducerError::Failed("disk".to_owned());
    assert_eq!(records.close().await, Err(failed));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_a_deadline_cut_short_says_so() {
    let outcome = Scope::named("report")
        .deadline(Duration::from_secs(1))
        .grace(Duration::from_secs(1))
        .run(async |_: Group<String>| {
            let mut records: Records<u8, String> = producer(n(1), |items| async move {
                items.send(1).await.map_err(|gone| gone.to_string())?;
                std::future::pending().await
            });
            assert_eq!(records.next().await, Some(Ok(1)));
            Ok(records.next().await)
        })
        .await;
    assert_eq!(
        outcome.unwrap(),
        Some(Err(ProducerError::Cancelled(Cause::Deadline)))
    );
}

#[tokio::test]
async fn a_dropped_stream_is_waited_for_by_the_scope_around() {
    let (sent, alive) = (Arc::default(), Alive::default());
    let tree = Tree::new("test");
    let run = Scope::named("report")
        .under(&tree.root())
        .run(async |_: Group<String>| {
            let mut records = counting(2, &sent, &alive).named("events");
            assert_eq!(records.next().await, Some(Ok(0)));
            let shown = tree.snapshot().to_string();
            assert!(
                shown.contains("events idle") && shown.contains("streams.rs"),
                "{shown}"
            );
            assert_eq!(alive.count(), 1);
            drop(records);
            assert_eq!(alive.count(), 1, "nothing can wait in a drop");
            Ok(())
        });
    run.await.unwrap();
    assert_eq!(alive.count(), 0);
}

#[tokio::test]
async fn a_stream_that_was_never_polled_has_nothing_to_close() {
    let records: Records<u8, String> = producer(n(1), |_| async { panic!("it must not begin") });
    records.close().await.unwrap();
}

type Asked = Arc<Mutex<Vec<usize>>>;

/// Pages of three from 0 to `last`, and which cursors were asked for.
fn pages(last: usize) -> (Pages<usize, String>, Asked) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = asked.clone();
    let stream = paginate(0, move |cursor| {
        log.lock().unwrap().push(cursor);
        async move {
            let items: Vec<usize> = (cursor..last.min(cursor + 3)).collect();
            let next = (cursor + 3 < last).then_some(cursor + 3);
            Ok(Page { items, next })
        }
    });
    (stream, asked)
}

#[tokio::test]
async fn pages_come_as_one_stream_with_one_page_read_ahead() {
    let (mut stream, asked) = pages(8);
    assert_eq!(stream.next().await, Some(Ok(0)));
    settle().await;
    assert_eq!(
        *asked.lock().unwrap(),
        [0, 3],
        "the next page is read, and only that"
    );
    assert_eq!(
        stream
            .by_ref()
            .take(2)
            .try_collect::<Vec<_>>()
            .await
            .unwrap(),
        [1, 2]
    );
    settle().await;
    assert_eq!(*asked.lock().unwrap(), [0, 3]);
    assert_eq!(
        stream.try_collect::<Vec<_>>().await.unwrap(),
        [3, 4, 5, 6, 7]
    );
    assert_eq!(*asked.lock().unwrap(), [0, 3, 6]);
}

#[tokio::test]
async fn an_empty_page_in_the_middle_is_not_the_end_and_an_error_is() {
    let stream = paginate(0, |cursor| async move {
        match cursor {
            0 => Ok(Page {
                items: vec![],
                next: Some(1),
            }),
            1 => Ok(Page {
                items: vec!["a"],
                next: Some(2),
            }),
            _ => Err("gone".to_owned()),
        }
    });
    let items: Vec<_> = stream.collect().await;
    assert_eq!(
        items,
        [Ok("a"), Err(ProducerError::Failed("gone".to_owned()))]
    );
}

/// A reader that does as it is told, one step a poll.
struct Scripted(VecDeque<Step>);

#[derive(Clone, Debug)]
enum Step {
    Bytes(Vec<u8>),
    Wait,
    Interrupt,
    Fail,
}

impl AsyncRead for Scripted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.0.pop_front() {
            None => Poll::Ready(Ok(())),
            Some(Step::Wait) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Step::Interrupt) => Poll::Ready(Err(io::ErrorKind::Interrupted.into())),
            Some(Step::Fail) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Some(Step::Bytes(mut bytes)) => {
                let rest = bytes.split_off(bytes.len().min(buf.remaining()));
                buf.put_slice(&bytes);
                if !rest.is_empty() {
                    self.0.push_front(Step::Bytes(rest));
                }
                Poll::Ready(Ok(()))
            }
        }
    }
}

proptest! {
    /// However the bytes arrive and however often the wait for a chunk is given up, the chunks are exact and nothing is lost.
    #[test]
    fn chunks_are_exact_however_the_bytes_arrive(
        steps in proptest::collection::vec(
            prop_oneof![
                3 => proptest::collection::vec(any::<u8>(), 1..40).prop_map(Step::Bytes),
                2 => Just(Step::Wait),
                1 => Just(Step::Interrupt),
            ],
            0..30,
        ),
        size in 1..20usize,
    ) {
        let whole: Vec<u8> = steps.iter().flat_map(|step| match step {
            Step::Bytes(bytes) => bytes.clone(),
            _ => Vec::new(),
        }).collect();
        let mut chunks = Chunks::new(Scripted(steps.into()), n(size));
        let mut got: Vec<Bytes> = Vec::new();
        while !chunks.is_terminated() {
            // A future that is not ready is dropped, as a `select!` would.
            if let Some(Some(chunk)) = chunks.next().now_or_never() {
                got.push(chunk.unwrap());
            }
        }
        let sizes: Vec<usize> = got.iter().map(Bytes::len).collect();
        let expected: Vec<usize> = whole.chunks(size).map(<[u8]>::len).collect();
        prop_assert_eq!(sizes, expected);
        prop_assert_eq!(got.concat(), whole);
    }
}

#[tokio::test]
async fn chunks_end_for_good_with_an_error_and_lose_nothing() {
    let steps = [
        Step::Bytes(b"abcde".to_vec()),
        Step::Fail,
        Step::Bytes(b"never read".to_vec()),
    ];
    let mut chunks = Chunks::new(Scripted(steps.into()), n(4));
    assert_eq!(chunks.next().await.unwrap().unwrap(), "abcd");
    let error = chunks.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    assert!(chunks.next().await.is_none());
    assert!(chunks.next().await.is_none());
    let (reader, partial) = chunks.into_parts();
    assert_eq!((partial.as_ref(), reader.0.len()), (&b"e"[..], 1));
}

#[tokio::test]
async fn a_huge_chunk_of_a_small_file_takes_little_memory() {
    let mut chunks = Chunks::new(&b"small"[..], n(usize::MAX));
    assert_eq!(chunks.next().await.unwrap().unwrap(), "small");
    assert!(chunks.next().await.is_none());
}
