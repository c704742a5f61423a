use std::num::NonZeroUsize;

use futures_util::future::{BoxFuture, ready};
use futures_util::poll;
use jitney::batch::Surroundings;
use jitney_engine::echo::Echo;
use jitney_engine::{Instance, LoadError, Model};
use tokio::sync::mpsc;

use super::*;
use crate::observe::metrics::Metrics;

const S: Duration = Duration::from_secs(1);

type Given = Result<Vec<Tensor>, stack::Error>;

/// A model whose streams give what the test sends, in the order in which they are opened.
struct Scripted {
    spec: Spec,
    places: usize,
    scripts: Mutex<Vec<mpsc::Receiver<Given>>>,
}

struct Opener(Arc<Scripted>);

impl Model for Opener {
    fn spec(&self) -> &Spec {
        &self.0.spec
    }

    fn engine(&self) -> &'static str {
        "scripted"
    }

    fn platform(&self) -> &'static str {
        "scripted"
    }

    fn streaming(&self) -> Option<Arc<dyn Streaming>> {
        Some(Arc::clone(&self.0) as Arc<dyn Streaming>)
    }

    fn instance(&self) -> Result<Box<dyn Instance>, LoadError> {
        Err(LoadError::new("it streams"))
    }
}

impl Streaming for Scripted {
    fn places(&self) -> NonZeroUsize {
        NonZeroUsize::new(self.places).unwrap()
    }

    fn open(
        &self,
        _: &Request<'_>,
        _: StreamTerms,
    ) -> BoxFuture<'static, Result<Results, stack::Error>> {
        let script = self.scripts.lock().unwrap().remove(0);
        let results = stream::unfold(script, |mut script| async move {
            Some((script.recv().await?, script))
        });
        ready(Ok(results.boxed())).boxed()
    }
}

fn scripted(spec: Spec, places: usize, streams: usize) -> (Arc<Lane>, Vec<mpsc::Sender<Given>>) {
    let (senders, scripts) = (0..streams).map(|_| mpsc::channel(16)).unzip();
    let model = Scripted {
        spec,
        places,
        scripts: Mutex::new(scripts),
    };
    (start(Box::new(Opener(Arc::new(model)))), senders)
}

fn start(model: Box<dyn Model>) -> Arc<Lane> {
    let settings = ModelSettings {
        queue: NonZeroUsize::MIN,
        ..ModelSettings::default()
    };
    let metrics = Metrics::new().model("m", "1");
    let surroundings = Surroundings::default();
    Arc::new(Lane::start("m", "1", &settings, metrics, surroundings, || Ok(model)).unwrap())
}

fn echo(source: &str) -> Arc<Lane> {
    start(Box::new(Echo::parse(source).unwrap()))
}

fn json(text: &'static str) -> Vec<Tensor> {
    vec![Tensor::from_bytes([1], vec![text.into()]).unwrap()]
}

fn call(inputs: Vec<Tensor>) -> Call {
    Call::new(inputs, now() + S * 20)
}

fn row(first: f32) -> Vec<Tensor> {
    vec![Tensor::from_f32([1, 2], vec![first, 1.0]).unwrap()]
}

async fn all(answers: Answers) -> Vec<Result<Vec<Tensor>, Failure>> {
    answers.collect().await
}

/// The stats but for what a lane of streams has none of.
fn counts(lane: &Lane) -> [u64; 8] {
    let stats = lane.stats();
    let [queued, running] = [stats.queued, stats.running].map(|count| count as u64);
    let ended = [stats.ok, stats.failed, stats.expired, stats.cancelled];
    assert_eq!(
        stats.received,
        ended.iter().sum::<u64>() + stats.refused + queued + running
    );
    let [ok, failed, expired, cancelled] = ended;
    [
        stats.received,
        ok,
        failed,
        stats.refused,
        expired,
        cancelled,
        queued,
        running,
    ]
}

/// A guard that it kept while it waits would keep it from being sent, and whoever ends the streams from doing so.
#[test]
fn who_waits_for_a_closed_lane_keeps_no_lock() {
    fn sent(_: &impl Send) {}
    let lane = echo("echo:FP32[2],results=3");
    let crate::models::lane::Work::Streams(streams) = &lane.work else {
        panic!("it does not stream");
    };
    sent(&streams.wait_closed());
}

#[tokio::test(start_paused = true)]
async fn results_come_one_after_another() {
    let lane = echo("echo:FP32[2],results=3,every_ms=1000");
    assert!(lane.streams());
    let began = Moment::now();
    let answers = all(lane.stream(call(row(5.0))).await.unwrap()).await;
    assert_eq!(answers, [Ok(row(5.0)), Ok(row(5.0)), Ok(row(5.0))]);
    assert_eq!(began.elapsed().as_secs(), 3);
    assert_eq!(counts(&lane), [1, 1, 0, 0, 0, 0, 0, 0]);
}

#[tokio::test]
async fn a_model_of_one_result_is_a_stream_of_one() {
    let lane = echo("echo:FP32[2]");
    assert!(!lane.streams());
    let answers = all(lane.stream(call(row(5.0))).await.unwrap()).await;
    assert_eq!(answers, [Ok(row(5.0))]);
    lane.close();
    let refused = lane.stream(call(row(5.0))).await.err().unwrap();
    assert_eq!(refused.code, Code::Draining);
}

#[tokio::test(start_paused = true)]
async fn what_goes_wrong_in_mid_stream_comes_last() {
    let lane = echo("echo:FP32[2],results=4,faulty=true,hang_ms=100000");
    let table = [
        (-1.0, Code::ModelError, "EchoError: told to raise"),
        (
            -2.0,
            Code::WorkerCrashed,
            "the model crashed while it computed this request",
        ),
        (
            -3.0,
            Code::OutputMismatch,
            "the model answered wrongly: output \"output\": expected 1 rows, got 0",
        ),
        (
            -4.0,
            Code::OutputMismatch,
            "the model answered wrongly: output \"output\": expected 1 rows, got 2",
        ),
        (
            -5.0,
            Code::DeadlineExceeded,
            "the model ran longer than its limit of 30s",
        ),
    ];
    for (first, code, message) in table {
        let mut answers = all(lane.stream(call(row(first))).await.unwrap()).await;
        let failure = answers.pop().unwrap().unwrap_err();
        assert_eq!((failure.code, &*failure.message), (code, message));
        assert_eq!(answers, [Ok(row(first)), Ok(row(first))]);
    }
    let refused = lane.stream(call(row(-6.0))).await.err().unwrap();
    assert_eq!(refused.code, Code::InvalidInput);
    assert_eq!(counts(&lane), [6, 0, 5, 0, 1, 0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_counts_to_the_first_result_unless_the_request_asked_for_it() {
    // Milliseconds each result takes, whether the request asked => results before the deadline of 20 s, whether all came.
    let table = [
        (8_000, false, 4, true),
        (8_000, true, 2, false),
        (30_000, false, 0, false),
        (4_000, true, 4, true),
    ];
    for (every, whole, expected, complete) in table {
        let lane = echo(&format!("echo:FP32[2],results=4,every_ms={every}"));
        let call = Call {
            whole,
            ..call(row(1.0))
        };
        let answers = all(lane.stream(call).await.unwrap()).await;
        let good = answers.iter().filter(|answer| answer.is_ok()).count();
        let code = answers
            .last()
            .and_then(|last| Some(last.as_ref().err()?.code));
        assert_eq!(
            (good, code.is_none()),
            (expected, complete),
            "{every} {whole}"
        );
        assert!(complete || code == Some(Code::DeadlineExceeded));
    }
}

#[tokio::test(start_paused = true)]
async fn calls_wait_for_a_place_in_a_queue_with_a_bound() {
    let (lane, scripts) = scripted(Spec::json(), 1, 3);
    let first = lane.stream(call(json("1"))).await.unwrap();
    let mut second = Box::pin(lane.stream(call(json("2"))));
    assert!(poll!(&mut second).is_pending());
    let refused = lane.stream(call(json("3"))).await.err().unwrap();
    assert_eq!(refused.code, Code::Overloaded);
    assert!(refused.retry_after.is_some());
    assert_eq!(counts(&lane), [3, 0, 0, 1, 0, 0, 1, 1]);
    drop(second);
    assert_eq!(counts(&lane), [3, 0, 0, 1, 0, 1, 0, 1]);
    let mut third = Box::pin(lane.stream(call(json("4"))));
    assert!(poll!(&mut third).is_pending());
    drop(first);
    assert!(
        scripts[0].is_closed(),
        "whoever leaves takes the stream with him"
    );
    let mut third = third.await.unwrap();
    scripts[1].send(Ok(json("5"))).await.unwrap();
    assert_eq!(third.next().await, Some(Ok(json("5"))));
    drop(third);
    assert_eq!(counts(&lane), [4, 0, 0, 1, 0, 3, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_place_leaves_at_the_deadline() {
    let (lane, _scripts) = scripted(Spec::json(), 1, 2);
    let _first = lane.stream(call(json("1"))).await.unwrap();
    let late = lane.stream(call(json("2"))).await.err().unwrap();
    assert_eq!(late.code, Code::DeadlineExceeded);
    assert_eq!(counts(&lane), [2, 0, 0, 0, 1, 0, 0, 1]);
}

#[tokio::test(start_paused = true)]
async fn streams_of_a_closed_lane_have_some_time_and_then_end() {
    let (lane, scripts) = scripted(Spec::json(), 2, 2);
    let mut answers = lane.stream(call(json("1"))).await.unwrap();
    let mut ending = lane.stream(call(json("2"))).await.unwrap();
    scripts[0].send(Ok(json("1"))).await.unwrap();
    lane.close();
    let refused = lane.stream(call(json("3"))).await.err().unwrap();
    assert_eq!(refused.code, Code::Draining);
    let mut closed = Box::pin(lane.wait_closed());
    assert!(poll!(&mut closed).is_pending());
    assert_eq!(answers.next().await, Some(Ok(json("1"))));
    let began = Moment::now();
    let last = answers.next().await.unwrap().unwrap_err();
    assert_eq!(
        (last.code, began.elapsed().as_secs()),
        (Code::Draining, 30),
        "it is the time that a request may take"
    );
    assert_eq!(answers.next().await, None);
    assert!(poll!(&mut closed).is_pending());
    assert!(matches!(ending.next().await, Some(Err(last)) if last.code == Code::Draining));
    closed.await;
}

#[tokio::test(start_paused = true)]
async fn cut_streams_end_at_once_though_results_are_there() {
    let lane = echo("echo:FP32[2],results=1000000");
    let mut answers = lane.stream(call(row(1.0))).await.unwrap();
    assert!(answers.next().await.unwrap().is_ok());
    assert_eq!(lane.cut_streams(), 1);
    let last = answers.next().await.unwrap().unwrap_err();
    assert_eq!(last.code, Code::Draining);
    assert_eq!(answers.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_reader_who_does_not_read_holds_up_no_closing() {
    let lane = echo("echo:FP32[2],results=10,every_ms=1");
    let _unread = lane.stream(call(row(1.0))).await.unwrap();
    lane.close();
    lane.wait_closed().await;
}

#[tokio::test(start_paused = true)]
async fn the_streams_of_a_lane_keep_it() {
    let lane = echo("echo:FP32[2],results=2,every_ms=1");
    let answers = lane.stream(call(row(1.0))).await.unwrap();
    let weak = Arc::downgrade(&lane);
    drop(lane);
    assert_eq!(all(answers).await.len(), 2);
    assert!(weak.upgrade().is_none());
}

#[tokio::test(start_paused = true)]
async fn one_answer_is_made_of_a_stream() {
    let (lane, scripts) = scripted(Spec::json(), 1, 3);
    for (script, results) in scripts.iter().zip([vec!["1", "[2]"], vec![]]) {
        for result in results {
            script.send(Ok(json(result))).await.unwrap();
        }
    }
    drop(scripts);
    for expected in ["[1,[2]]", "[]", "[]"] {
        let outcome = lane.infer(call(json("0"))).await.unwrap();
        assert_eq!(outcome.outputs, json(expected));
    }
}

#[tokio::test(start_paused = true)]
async fn one_result_is_exactly_one() {
    let table = [
        ("results=0", 7.0, Err(Code::InvalidInput)),
        ("results=1", 7.0, Ok(())),
        ("results=2", 7.0, Err(Code::InvalidInput)),
        // It fails behind the first.
        ("results=2,faulty=true", -1.0, Err(Code::ModelError)),
    ];
    for (results, value, expected) in table {
        let lane = echo(&format!("echo:FP32[2],{results}"));
        let infer = async { Ok(lane.infer(call(row(value))).await?.outputs) };
        for result in [infer.await, lane.only(call(row(value))).await] {
            match (result, expected) {
                (Ok(outputs), Ok(())) => assert_eq!(outputs, row(value)),
                (Err(failure), Err(code)) => {
                    assert_eq!(failure.code, code, "{results}");
                    let advice = failure.message.contains("/v2/models/m/stream");
                    assert_eq!(advice, code == Code::InvalidInput, "{failure}");
                }
                (result, _) => panic!("{results}: {result:?}"),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_endless_stream_makes_no_answer() {
    let lane = echo("echo:FP32[2],results=18446744073709551615");
    let failure = lane.infer(call(row(7.0))).await.unwrap_err();
    assert_eq!(failure.code, Code::InvalidInput);
    let (lane, mut scripts) = scripted(Spec::json(), 1, 1);
    let script = scripts.remove(0);
    let text: &'static str = Box::leak("7".repeat(1 << 20).into_boxed_str());
    let feed = async { while script.send(Ok(json(text))).await.is_ok() {} };
    let (failure, ()) = tokio::join!(lane.infer(call(json("0"))), feed);
    assert!(
        failure.unwrap_err().message.contains("64 MiB"),
        "it is bounded"
    );
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_of_one_row() {
    let lane = echo("echo:FP32[2],results=2");
    let two = vec![Tensor::from_f32([2, 2], vec![0.0; 4]).unwrap()];
    let refused = lane.stream(call(two)).await.err().unwrap();
    assert_eq!(
        (refused.code, &*refused.message),
        (
            Code::InvalidInput,
            "the request has 2 rows, but each stream of results answers one"
        )
    );
}

#[tokio::test(start_paused = true)]
async fn inputs_that_crash_the_model_twice_are_not_run_a_third_time() {
    let (lane, scripts) = scripted(Spec::json(), 1, 5);
    let errors = [
        RunError::Crashed("it was killed".to_owned()),
        RunError::RunLimit(S),
        RunError::Crashed("it was killed".to_owned()),
    ];
    for (script, error) in scripts.iter().zip(errors) {
        script.send(Err(error.into())).await.unwrap();
    }
    for (item, code) in [
        ("guilty", Code::WorkerCrashed),
        ("other", Code::DeadlineExceeded),
        ("guilty", Code::WorkerCrashed),
    ] {
        let answers = all(lane.stream(call(json(item))).await.unwrap()).await;
        assert_eq!(answers[0].as_ref().unwrap_err().code, code);
    }
    let refused = lane.stream(call(json("guilty"))).await.err().unwrap();
    assert_eq!(refused.code, Code::WorkerCrashed);
    assert!(refused.message.contains("was not run"), "{refused}");
    assert!(lane.stream(call(json("other"))).await.is_ok());
    // What the model is asked for beside the input is part of the guilt.
    let mut modest = call(json("guilty"));
    modest.meta.parameters = Some(r#"{"max_tokens":1}"#.to_owned());
    assert!(lane.stream(modest).await.is_ok());
}
