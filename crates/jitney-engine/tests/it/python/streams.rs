//! Streams of real worker processes.

use std::future::Future;
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use jitney_engine::python::PythonOptions;
use jitney_engine::{Model, Request, Results, RunError, StreamTerms, Tensor, stack};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::support::{items, load, load_with, options};

const FILE: &str = "streams.py";
/// Both ways to step streams.
const BOTH: [&str; 2] = ["Plain", "Loop"];
const LIMIT: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(500);
/// What may be computed ahead of a reader.
const AHEAD: u64 = 16;

/// A model's streams.
struct Source(Box<dyn Model>);

impl Source {
    fn load(class: &str) -> Source {
        Source(load(FILE, class))
    }

    fn with(class: &str, options: &PythonOptions) -> Source {
        Source(load_with(FILE, class, options).unwrap())
    }

    async fn open(&self, item: &Value) -> Results {
        self.open_within(item, LIMIT).await
    }

    async fn open_within(&self, item: &Value, limit: Duration) -> Results {
        self.try_open(&[items(&[&item.to_string()])], limit)
            .await
            .unwrap()
    }

    async fn try_open(&self, inputs: &[Tensor], limit: Duration) -> Result<Results, stack::Error> {
        let request = Request {
            inputs,
            id: Some("r1"),
            parameters: Some(r#"{"k":1}"#),
        };
        let streaming = self.0.streaming().unwrap();
        streaming.open(&request, StreamTerms::new(limit)).await
    }

    /// What the model has noted.
    async fn state(&self) -> Value {
        next(&mut self.open(&json!("state")).await).await
    }

    async fn steps(&self, name: &str) -> u64 {
        self.state().await["steps"][name].as_u64().unwrap_or(0)
    }

    async fn has_ended(&self, name: &str) -> bool {
        let ended = self.state().await["ended"].clone();
        ended.as_array().unwrap().contains(&json!(name))
    }

    fn restarts(&self) -> u64 {
        self.0.workers()[0].restarts
    }

    fn pid(&self) -> u32 {
        self.0.workers()[0].pid.unwrap()
    }
}

fn text(outputs: &[Tensor]) -> Value {
    let elements = outputs[0].byte_elements().unwrap();
    assert_eq!(elements.len(), 1);
    serde_json::from_slice(&elements[0]).unwrap()
}

async fn next(results: &mut Results) -> Value {
    text(&within(results.next()).await.unwrap().unwrap())
}

/// All results, and how the stream ended.
async fn all(results: Results) -> (Vec<Value>, Option<stack::Error>) {
    let (mut values, mut error) = (Vec::new(), None);
    let mut results = results;
    while let Some(result) = within(results.next()).await {
        assert!(error.is_none(), "something follows an error");
        match result {
            Ok(outputs) => values.push(text(&outputs)),
            Err(what) => error = Some(what),
        }
    }
    (values, error)
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    timeout(LIMIT, work).await.unwrap()
}

async fn eventually<F: Future<Output = bool>>(condition: impl Fn() -> F) {
    let check = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    within(check).await;
}

fn counted(name: &str, count: u64) -> Vec<Value> {
    (0..count).map(|number| json!([name, number])).collect()
}

fn kill(pid: u32) {
    let status = std::process::Command::new("kill")
        .args(["-9", &pid.to_string()])
        .status();
    assert!(status.unwrap().success());
}

#[track_caller]
fn unavailable(error: Option<stack::Error>) {
    match error {
        Some(stack::Error::Run(RunError::Unavailable(why))) => {
            assert!(why.contains("can be sent again"), "{why}");
        }
        other => panic!("expected that it can be sent again, got {other:?}"),
    }
}

#[tokio::test]
async fn many_streams_of_one_worker_come_each_in_order() {
    for class in BOTH {
        let source = Source::load(class);
        let names: Vec<String> = (0..60).map(|number| format!("s{number}")).collect();
        let source = &source;
        let read = names.iter().map(|name| async move {
            let results = source.open(&json!({"name": name, "count": 50})).await;
            assert_eq!(all(results).await, (counted(name, 50), None));
        });
        futures_util::future::join_all(read).await;
        assert_eq!(source.0.workers()[0].served, 60, "{class}");
    }
}

#[tokio::test]
async fn a_thousand_streams_go_on_at_a_time_in_one_worker() {
    let source = Source::load("Loop");
    assert_eq!(source.0.streaming().unwrap().places().get(), 1024);
    let mut streams = Vec::new();
    for number in 0..1000 {
        let name = format!("s{number}");
        let mut results = source.open(&json!({"name": name, "count": 20})).await;
        assert_eq!(next(&mut results).await, json!([name, 0]));
        streams.push((name, results));
    }
    assert_eq!(source.state().await["ended"], json!([]));
    let read = streams.into_iter().map(|(name, results)| async move {
        assert_eq!(all(results).await, (counted(&name, 20)[1..].to_vec(), None));
    });
    futures_util::future::join_all(read).await;
}

#[tokio::test]
async fn a_slow_reader_pauses_its_own_stream_alone() {
    for class in BOTH {
        let source = Source::load(class);
        let slow = source.open(&json!({"name": "slow", "count": 500})).await;
        let quick = source.open(&json!({"name": "quick", "count": 5000})).await;
        assert_eq!(all(quick).await, (counted("quick", 5000), None));
        assert_eq!(source.steps("slow").await, AHEAD, "{class}");
        let (values, error) = all(slow).await;
        assert_eq!((values, error), (counted("slow", 500), None));
    }
}

#[tokio::test]
async fn a_departed_reader_ends_the_generator_at_its_next_step() {
    for class in BOTH {
        let source = Source::load(class);
        let mut results = source.open(&json!({"name": "left"})).await;
        assert_eq!(next(&mut results).await, json!(["left", 0]));
        drop(results);
        eventually(|| source.has_ended("left")).await;
        assert!(source.steps("left").await <= AHEAD + 1);
        // One that waits for its reader, and one that was never read.
        let paused = source.open(&json!({"name": "paused"})).await;
        eventually(|| async { source.steps("paused").await == AHEAD }).await;
        drop(paused);
        eventually(|| source.has_ended("paused")).await;
        drop(source.open(&json!({"name": "unread"})).await);
        assert_eq!(source.restarts(), 0);
    }
}

#[tokio::test]
async fn a_step_can_see_that_its_reader_has_left() {
    for class in BOTH {
        let source = Source::load(class);
        let folder = tempfile::tempdir().unwrap();
        let begun = folder.path().join("begun");
        let item = json!({"name": "busy", "at": 1, "do": "until cancelled", "file": begun});
        let mut results = source.open(&item).await;
        assert_eq!(next(&mut results).await, json!(["busy", 0]));
        eventually(|| async { begun.exists() }).await;
        drop(results);
        eventually(|| source.has_ended("busy")).await;
        assert_eq!((source.restarts(), source.steps("busy").await), (0, 2));
    }
}

#[tokio::test]
async fn a_stream_that_awaits_ends_when_its_reader_leaves() {
    let source = Source::load("Loop");
    let mut results = source
        .open(&json!({"name": "waits", "at": 1, "do": "wait"}))
        .await;
    assert_eq!(next(&mut results).await, json!(["waits", 0]));
    drop(results);
    eventually(|| source.has_ended("waits")).await;
}

#[tokio::test]
async fn what_is_raised_comes_last() {
    for class in BOTH {
        let source = Source::load(class);
        let other = source.open(&json!({"name": "other", "count": 100})).await;
        let table = [
            ("raise", "ValueError: told to"),
            ("leave", "SystemExit: 3"),
            (
                "set",
                "TypeError: expected a value that JSON can say, got set",
            ),
        ];
        for (what, expected) in table {
            let results = source
                .open(&json!({"name": what, "at": 3, "do": what}))
                .await;
            let error = RunError::Failed(expected.to_owned());
            assert_eq!(
                all(results).await,
                (counted(what, 3), Some(error.into())),
                "{class}"
            );
            eventually(|| source.has_ended(what)).await;
        }
        assert_eq!(all(other).await, (counted("other", 100), None));
        assert_eq!(source.restarts(), 0);
    }
}

#[tokio::test]
async fn a_death_costs_the_stream_that_was_at_work_and_the_others_can_be_sent_again() {
    for class in BOTH {
        let source = Source::load(class);
        let mut innocent = source.open(&json!({"name": "innocent"})).await;
        assert_eq!(next(&mut innocent).await, json!(["innocent", 0]));
        let guilty = source
            .open(&json!({"name": "guilty", "at": 2, "do": "kill"}))
            .await;
        let (values, error) = all(guilty).await;
        assert!(values.len() <= 2, "what was not sent may be lost");
        assert!(
            matches!(&error, Some(stack::Error::Run(RunError::Crashed(_)))),
            "{class}: {error:?}"
        );
        let (values, error) = all(innocent).await;
        assert_eq!(values, counted("innocent", 1 + values.len() as u64)[1..]);
        unavailable(error);
        assert_eq!(source.steps("guilty").await, 0, "it is another process");
        assert_eq!(source.restarts(), 1);
    }
}

#[tokio::test]
async fn a_kill_from_outside_is_nobodys_fault() {
    for class in BOTH {
        let source = Source::load(class);
        let mut streams = Vec::new();
        for number in 0..20 {
            let mut results = source.open(&json!({"name": number})).await;
            next(&mut results).await;
            streams.push(results);
        }
        // Now every stream waits for its reader.
        let paused = || async {
            let state = source.state().await;
            let steps = state["steps"].as_object().unwrap();
            steps.values().all(|steps| steps.as_u64() >= Some(AHEAD))
        };
        eventually(paused).await;
        kill(source.pid());
        for results in streams {
            unavailable(all(results).await.1);
        }
        assert_eq!(source.state().await["steps"], json!({}));
    }
}

#[tokio::test]
async fn what_had_not_begun_goes_to_another_process() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("now");
    let source = Source::load("Plain");
    let item = json!({"name": "guilty", "at": 1, "do": "kill when told", "file": file});
    let mut guilty = source.open(&item).await;
    assert_eq!(next(&mut guilty).await, json!(["guilty", 0]));
    // It was sent to the process that is at work on the other, and does not listen.
    let next_one = source.open(&json!({"name": "next", "count": 3})).await;
    std::fs::write(&file, "").unwrap();
    assert_eq!(all(next_one).await, (counted("next", 3), None));
    let (_, error) = all(guilty).await;
    assert!(matches!(
        error,
        Some(stack::Error::Run(RunError::Crashed(_)))
    ));
    assert_eq!(source.restarts(), 1);
}

#[tokio::test]
async fn a_step_without_an_end_is_ended() {
    for class in BOTH {
        let source = Source::load(class);
        let mut innocent = source
            .open_within(&json!({"name": "innocent"}), SHORT)
            .await;
        next(&mut innocent).await;
        let start = Instant::now();
        let item = json!({"name": "guilty", "at": 1, "do": "loop"});
        let (_, error) = all(source.open_within(&item, SHORT).await).await;
        assert_eq!(error, Some(RunError::RunLimit(SHORT).into()), "{class}");
        assert!(start.elapsed() >= SHORT && start.elapsed() < Duration::from_secs(10));
        unavailable(all(innocent).await.1);
        assert_eq!(source.state().await["ended"], json!([]));
    }
}

#[tokio::test]
async fn a_stream_that_awaits_for_too_long_ends_alone() {
    let source = Source::load("Loop");
    let mut other = source.open_within(&json!({"name": "other"}), SHORT).await;
    let item = json!({"name": "waits", "at": 1, "do": "wait"});
    let start = Instant::now();
    let (values, error) = all(source.open_within(&item, SHORT).await).await;
    assert_eq!(values, counted("waits", 1));
    assert_eq!(error, Some(RunError::RunLimit(SHORT).into()));
    assert!(start.elapsed() >= SHORT);
    eventually(|| source.has_ended("waits")).await;
    for number in 0..100 {
        assert_eq!(next(&mut other).await, json!(["other", number]));
    }
    assert_eq!(source.restarts(), 0);
}

#[tokio::test]
async fn what_is_given_after_the_end_harms_nobody() {
    let source = Source::load("Reluctant");
    let late = source.open_within(&json!({"name": "late"}), SHORT).await;
    let mut other = source.open(&json!({"name": "other"})).await;
    assert_eq!(next(&mut other).await, json!(1));
    let ended = (vec![json!(1)], Some(RunError::RunLimit(SHORT).into()));
    assert_eq!(all(late).await, ended);
    eventually(|| source.has_ended("late")).await;
    drop(other);
    eventually(|| source.has_ended("other")).await;
    assert_eq!(source.restarts(), 0);
}

/// Who has no room for results is not stuck, however long that lasts.
#[tokio::test]
async fn a_paused_stream_has_no_limit() {
    for class in BOTH {
        let source = Source::load(class);
        let limit = Duration::from_millis(50);
        let results = source
            .open_within(&json!({"name": "slow", "count": 40}), limit)
            .await;
        tokio::time::sleep(limit * 60).await;
        assert_eq!(all(results).await, (counted("slow", 40), None));
        assert_eq!(source.restarts(), 0, "{class}");
    }
}

#[tokio::test]
async fn streams_end_with_their_model() {
    for class in BOTH {
        let options = PythonOptions {
            close_limit: SHORT,
            ..options()
        };
        let source = Source::with(class, &options);
        let mut open = source.open(&json!({"name": "open"})).await;
        next(&mut open).await;
        let start = Instant::now();
        drop(source);
        assert!(start.elapsed() < Duration::from_secs(10));
        let (_, error) = all(open).await;
        assert_eq!(
            error,
            Some(RunError::Unavailable("the pool of workers was closed".to_owned()).into())
        );
    }
}

#[tokio::test]
async fn a_process_is_replaced_when_its_streams_have_ended() {
    for class in BOTH {
        let options = PythonOptions {
            recycle_after: Some(3),
            ..options()
        };
        let source = Source::with(class, &options);
        let first = source.state().await["pid"].clone();
        let mut long = source.open(&json!({"name": "long", "count": 200})).await;
        next(&mut long).await;
        eventually(|| async { source.state().await["pid"] != first }).await;
        let (values, error) = all(long).await;
        assert_eq!((values.len(), error), (199, None), "it was left to finish");
        assert_eq!(source.restarts(), 0);
    }
}

#[tokio::test]
async fn endless_streams_do_not_keep_a_process_that_is_to_be_replaced() {
    for class in BOTH {
        let options = PythonOptions {
            recycle_after: Some(3),
            retire_limit: SHORT,
            ..options()
        };
        let source = Source::with(class, &options);
        let first = source.state().await["pid"].clone();
        let folder = tempfile::tempdir().unwrap();
        let mark = |name: &str| folder.path().join(name);
        let endless = |name: &str| json!({"name": name, "mark": mark(name)});
        let mut read = source.open(&endless("read")).await;
        next(&mut read).await;
        let unread = source.open(&endless("unread")).await;
        eventually(|| async { source.state().await["pid"] != first }).await;
        let replaced = |error: &stack::Error| error.to_string().contains("is replaced");
        while let Some(result) = within(read.next()).await {
            assert!(result.err().is_none_or(|error| replaced(&error)));
        }
        let (values, error) = all(unread).await;
        assert_eq!(values, counted("unread", AHEAD), "what was ready is read");
        assert!(replaced(&error.unwrap()));

        // It was told to go, and not killed.
        let process = Path::new("/proc").join(first.to_string());
        eventually(|| async { !process.exists() }).await;
        assert!(mark("read").exists() && mark("unread").exists());
        assert_eq!(source.restarts(), 0);
        next(&mut source.open(&json!({"name": "later"})).await).await;
    }
}

#[tokio::test]
async fn results_of_any_size_come_in_order() {
    for class in BOTH {
        let source = Source::load(class);
        for (size, count) in [(10_000, 40), (100_000, 40), (1_100_000, 8), (5 << 20, 4)] {
            let item = json!({"name": "large", "size": size, "count": count});
            let mut results = source.open(&item).await;
            for _ in 0..count {
                let value = next(&mut results).await;
                assert_eq!(value.as_str().unwrap().len(), size);
            }
            assert!(results.next().await.is_none());
        }
        // A large result takes all the room there is.
        let item = json!({"name": "paused", "size": 2 << 20});
        let _paused = source.open(&item).await;
        eventually(|| async { source.steps("paused").await == 1 }).await;
        drop(source.open(&json!({"name": "other", "count": 1})).await);
        assert_eq!(source.steps("paused").await, 1);
    }
}

#[tokio::test]
async fn large_requests_arrive_whole() {
    for class in BOTH {
        let source = Source::load(class);
        for size in [40_000, 3 << 20] {
            let item = json!({"name": "n".repeat(size), "count": 2});
            let (values, error) = all(source.open(&item).await).await;
            assert_eq!(error, None);
            assert_eq!(values[1][0].as_str().unwrap().len(), size);
        }
    }
}

#[tokio::test]
async fn typed_streams_give_a_row_at_a_time() {
    let source = Source::load("Typed");
    assert_eq!(source.0.streaming().unwrap().places().get(), 3);
    let inputs = |count: i64| {
        [
            Tensor::from_f32([1, 2], vec![1.0, 2.0]).unwrap(),
            Tensor::from_vec([1, 1], vec![count]).unwrap(),
        ]
    };
    let mut results = source.try_open(&inputs(3), LIMIT).await.unwrap();
    for number in 0..3_u8 {
        let outputs = within(results.next()).await.unwrap().unwrap();
        assert_eq!(outputs[0].shape(), [1, 2]);
        let first = f32::from(number) + 1.0;
        assert_eq!(outputs[0].to_vec::<f32>().unwrap(), [first, first + 1.0]);
        assert_eq!(
            outputs[1].byte_elements().unwrap(),
            [number.to_string().as_bytes()]
        );
    }
    assert!(within(results.next()).await.is_none());
    let mut results = source.try_open(&inputs(9), LIMIT).await.unwrap();
    for _ in 0..5 {
        assert!(within(results.next()).await.unwrap().is_ok());
    }
    let error = within(results.next()).await.unwrap().unwrap_err();
    let expected = "the model answered wrongly: expected a dict of 2 outputs by name, got ndarray";
    assert_eq!(error, stack::Error::Mismatch(expected.to_owned()));
    assert!(within(results.next()).await.is_none());
}

#[tokio::test]
async fn a_stream_knows_its_caller() {
    let source = Source::load("Told");
    let streaming = source.0.streaming().unwrap();
    let inputs = [items(&["1"])];
    for (deadline, expected) in [(None, false), (Some(Instant::now() + LIMIT), true)] {
        let request = Request {
            inputs: &inputs,
            id: Some("r1"),
            parameters: Some(r#"{"k":1}"#),
        };
        let terms = StreamTerms {
            deadline,
            ..StreamTerms::new(LIMIT)
        };
        let results = streaming.open(&request, terms).await.unwrap();
        let said = json!(["r1", {"k": 1}, expected, false]);
        assert_eq!(all(results).await, (vec![said], None));
    }
}

#[tokio::test]
async fn anything_that_can_be_iterated_over_is_a_stream() {
    let source = Source::load("Odd");
    let table = [
        ("list", vec![json!(1), json!(2)], None),
        ("stop", vec![], None),
        ("none", vec![], Some("got None")),
        ("number", vec![], Some("got int")),
    ];
    for (item, values, error) in table {
        let (got, failed) = all(source.open(&json!(item)).await).await;
        assert_eq!(got, values);
        match (failed, error) {
            (None, None) => {}
            (Some(stack::Error::Run(RunError::Failed(failed))), Some(part)) => {
                assert!(
                    failed.contains("TypeError") && failed.contains(part),
                    "{failed}"
                );
            }
            (failed, _) => panic!("{item}: {failed:?}"),
        }
    }
    let (values, error) = all(source.open(&json!("unknown")).await).await;
    assert_eq!(
        (values, error),
        (
            vec![],
            Some(RunError::Failed("KeyError: 'unknown'".to_owned()).into())
        )
    );
}

#[tokio::test]
async fn warming_up_reads_the_first_results() {
    let source = Source::load("Warm");
    let (values, error) = all(source.open(&json!("state")).await).await;
    assert_eq!((values, error), (vec![json!(2)], None));
    let error = load_with(FILE, "Cold", &options()).err().unwrap();
    assert!(
        error
            .to_string()
            .contains("the warm-up failed: KeyError: 'lost'"),
        "{error}"
    );
}

#[tokio::test]
async fn a_generator_that_clings_to_life_is_let_go() {
    let source = Source::load("Clinging");
    for _ in 0..3 {
        let mut results = source.open(&json!(0)).await;
        assert_eq!(next(&mut results).await, json!(1));
    }
    assert_eq!(source.restarts(), 0);
}

#[tokio::test]
async fn plain_generators_of_an_async_model_are_streams_too() {
    let source = Source::load("Closing");
    let (one, two) = (
        source.open(&json!(100)).await,
        source.open(&json!(100)).await,
    );
    let expected: Vec<Value> = (0..100).map(Value::from).collect();
    let (one, two) = futures_util::join!(all(one), all(two));
    assert_eq!((one, two), ((expected.clone(), None), (expected, None)));
}

#[tokio::test]
async fn nan_becomes_a_word_and_is_counted() {
    let source = Source::load("Plain");
    let mut results = source
        .open(&json!({"name": "n", "nan": 1, "count": 2}))
        .await;
    for _ in 0..2 {
        let outputs = within(results.next()).await.unwrap().unwrap();
        assert_eq!(text(&outputs), "NaN");
        assert_eq!(outputs[1].to_vec::<i64>().unwrap(), [1]);
    }
}

#[test]
fn a_model_that_streams_has_no_instances() {
    let source = Source::load("Plain");
    assert_eq!(source.0.streaming().unwrap().places().get(), 64);
    assert!(source.0.instance().is_err());
}
