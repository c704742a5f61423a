#[cfg(feature = "python")]
mod closing;
mod explicit;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use jitney::batch::Surroundings;
use jitney::tree::Tree;
use jitney_engine::{BatchAxis, DataType, Dim, RunError, Tensor};

use super::discover::Card;
use super::probe::Probe;
use super::*;
use crate::call::Call;
use crate::config::{ModelOptions, ModelSettings, RowByRow};

const LONG: Duration = Duration::from_secs(60);

/// The first of the models that are served.
fn first_entry(catalog: &Catalog) -> Arc<Entry> {
    Arc::clone(&catalog.0.roster.load().entries[0])
}

/// A catalog of these sources, all loaded.
async fn catalog(sources: &[&str]) -> (Catalog, Metrics, Tree) {
    let (catalog, metrics, tree) = loading(sources, &Settings::default());
    catalog.wait_loaded().await;
    // From here on nobody but the test looks after the lanes.
    while !catalog.0.keeper.is_over() {
        tokio::task::yield_now().await;
    }
    (catalog, metrics, tree)
}

fn loading(sources: &[&str], settings: &Settings) -> (Catalog, Metrics, Tree) {
    let sources: Vec<ModelSource> = sources
        .iter()
        .map(|text| ModelSource::parse(text).unwrap())
        .collect();
    let (metrics, tree) = (Metrics::new(), Tree::new("test"));
    let catalog = Catalog::start(&sources, settings, &metrics, &tree.root(), None).unwrap();
    (catalog, metrics, tree)
}

fn call(rows: &[[f32; 2]]) -> Call {
    let values = rows.iter().flatten().copied().collect();
    Call::new(
        vec![Tensor::from_f32([rows.len(), 2], values).unwrap()],
        Instant::now() + Duration::from_secs(20),
    )
}

fn values(outcome: &crate::call::Outcome) -> Vec<f32> {
    outcome.outputs[0].to_vec().unwrap()
}

#[tokio::test]
async fn a_loaded_model_answers() {
    let (catalog, metrics, tree) = catalog(&["e=echo:FP32[2],op=sum"]).await;
    assert!(catalog.is_ready());
    let lane = catalog.model("e", None).unwrap();
    let outcome = lane.infer(call(&[[1.0, 2.0], [3.0, 4.0]])).await.unwrap();
    assert_eq!(values(&outcome), [3.0, 7.0]);
    let text = metrics.encode();
    let ok = r#"jitney_ended_items_total{model="e",version="1",outcome="ok"} 1"#;
    assert!(text.contains(ok), "{text}");
    let shown = tree.snapshot().to_string();
    for part in ["model e version 1", "batcher e", "instance 0 [idle]"] {
        assert!(shown.contains(part), "{shown}");
    }
    let status = &catalog.statuses()[0];
    assert_eq!(
        (status.state.clone(), status.default),
        (ModelState::Ready, true)
    );
    assert_eq!(status.loaded.as_ref().unwrap().engine, "echo");
}

#[tokio::test]
async fn a_broken_model_fails_alone() {
    let (catalog, metrics, _tree) = catalog(&[
        "good=echo:FP32[2]",
        "told=echo:fail_load=true",
        "absent=no/such/file.onnx",
        "odd=echo:wrong=1",
    ])
    .await;
    assert!(catalog.is_ready(), "one broken model is no outage");
    let states: Vec<(String, &str)> = catalog
        .statuses()
        .into_iter()
        .map(|status| (status.name, status.state.word()))
        .collect();
    let expected = [
        ("absent", "failed"),
        ("good", "ready"),
        ("odd", "failed"),
        ("told", "failed"),
    ];
    assert_eq!(states, expected.map(|(name, word)| (name.to_owned(), word)));
    let lane = catalog.model("good", Some("1")).unwrap();
    assert!(lane.infer(call(&[[1.0, 2.0]])).await.is_ok());
    let failure = catalog.model("absent", None).unwrap_err();
    assert_eq!(
        (failure.code, &*failure.message),
        (
            Code::Failed,
            "version 1 of model \"absent\" could not be loaded"
        )
    );
    assert!(failure.retry_after.is_some());
    let told = catalog.statuses().remove(3).state;
    let ModelState::Failed { message } = told else {
        panic!("{told:?}");
    };
    assert!(message.contains("told to fail"), "{message}");
    let text = metrics.encode();
    assert!(
        text.contains(r#"jitney_model_ready{model="told",version="1"} 0"#),
        "{text}"
    );
    assert!(
        text.contains(r#"jitney_model_ready{model="good",version="1"} 1"#),
        "{text}"
    );
    assert!(!text.contains("no/such"), "{text}");
}

#[tokio::test]
async fn unknown_models_are_named_safely() {
    let (catalog, ..) = catalog(&["e=echo"]).await;
    let table = [
        ("other", None, "there is no model \"other\""),
        ("..", None, "there is no model \"..\""),
        (
            "a\r\nb\u{1b}[2J",
            None,
            r#"there is no model "a\r\nb\u{1b}[2J""#,
        ),
        ("e", Some("2"), "model \"e\" has no version \"2\"; it has 1"),
        (
            "e",
            Some("-1"),
            "model \"e\" has no version \"-1\"; it has 1",
        ),
        (
            "e",
            Some("01"),
            "model \"e\" has no version \"01\"; it has 1",
        ),
    ];
    for (name, version, message) in table {
        let failure = catalog.model(name, version).unwrap_err();
        assert_eq!(
            (failure.code, &*failure.message),
            (Code::UnknownModel, message)
        );
        assert!(catalog.metrics(name, version).is_none());
    }
}

#[tokio::test]
async fn the_highest_version_is_the_default() {
    let repository = tempfile::tempdir().unwrap();
    let model = repository.path().join("e");
    for version in ["2", "10", "9"] {
        std::fs::create_dir_all(model.join(version)).unwrap();
        std::fs::write(model.join(version).join("model.onnx"), "").unwrap();
    }
    std::fs::write(model.join("model.toml"), "versions = \"all\"\n[echo]").unwrap();
    let source = repository.path().display().to_string();
    let (catalog, ..) = catalog(&[&source]).await;
    assert_eq!(catalog.versions("e"), ["2", "9", "10"]);
    assert_eq!(catalog.model("e", None).unwrap().version(), "10");
    assert_eq!(catalog.model("e", Some("9")).unwrap().version(), "9");
    let defaults: Vec<bool> = catalog
        .statuses()
        .iter()
        .map(|status| status.default)
        .collect();
    assert_eq!(defaults, [false, false, true]);
}

#[tokio::test]
async fn until_it_is_loaded_a_model_is_not_ready() {
    let (catalog, ..) = loading(&["slow=echo:load_ms=300"], &Settings::default());
    let failure = catalog.model("slow", None).unwrap_err();
    assert_eq!(failure.code, Code::NotReady);
    assert!(failure.retry_after.is_some());
    assert!(!catalog.is_ready());
    catalog.wait_loaded().await;
    assert!(catalog.model("slow", None).is_ok());
}

#[tokio::test]
async fn closing_does_not_wait_for_a_load() {
    let (catalog, ..) = loading(&["slow=echo:load_ms=60000"], &Settings::default());
    catalog.close();
    tokio::time::timeout(Duration::from_secs(10), async {
        catalog.wait_loaded().await;
        catalog.wait_closed().await;
    })
    .await
    .unwrap();
    assert_eq!(
        catalog.model("slow", None).unwrap_err().code,
        Code::Draining
    );
    assert_eq!(catalog.statuses()[0].state, ModelState::Closed);
}

#[tokio::test]
async fn closing_answers_what_was_accepted() {
    let (catalog, ..) = catalog(&["e=echo:FP32[2],call_ms=50"]).await;
    let lane = catalog.model("e", None).unwrap();
    let mut accepted = std::pin::pin!(lane.infer(call(&[[1.0, 2.0]])));
    // The first poll queues the call.
    let pending = std::future::poll_fn(|context| {
        std::task::Poll::Ready(accepted.as_mut().poll(context).is_pending())
    });
    assert!(pending.await);
    catalog.close();
    assert_eq!(catalog.statuses()[0].state, ModelState::Draining);
    assert_eq!(catalog.model("e", None).unwrap_err().code, Code::Draining);
    assert_eq!(
        lane.infer(call(&[[1.0, 2.0]])).await.unwrap_err().code,
        Code::Draining
    );
    let (outcome, ()) = tokio::join!(accepted, catalog.wait_closed());
    assert_eq!(values(&outcome.unwrap()), [1.0, 2.0]);
    assert_eq!(catalog.statuses()[0].state, ModelState::Closed);
}

#[tokio::test]
async fn a_load_beyond_its_limit_has_failed_until_it_ends_after_all() {
    let mut settings = Settings::default();
    settings.given.load_limit_ms = Some(20.0);
    let (catalog, ..) = loading(&["slow=echo:load_ms=300"], &settings);
    catalog.wait_loaded().await;
    let state = catalog.statuses().remove(0).state;
    let ModelState::Failed { message } = state else {
        panic!("{state:?}");
    };
    assert!(
        message.starts_with("slow: it was not loaded within 20ms"),
        "{message}"
    );
    assert_eq!(catalog.model("slow", None).unwrap_err().code, Code::Failed);
    while !catalog.is_ready() {
        tokio::task::yield_now().await;
    }
    assert!(catalog.model("slow", None).is_ok());
}

/// A catalog whose only model panics on negative numbers, and the flag by which it gets no more instances.
async fn fragile() -> (Catalog, Metrics, Arc<AtomicBool>) {
    let (catalog, metrics, _tree) = catalog(&["e=echo:FP32[2]"]).await;
    let shape = [Dim::Any, Dim::Fixed(2)];
    let probe = Probe::new(DataType::Fp32, &shape, BatchAxis::Free, |inputs| {
        assert!(inputs[0].to_vec::<f32>().unwrap()[0] >= 0.0, "a bad value");
        Ok(inputs.to_vec())
    });
    let lost = Arc::clone(&probe.lost);
    let measured = metrics.model("e", "1");
    let lane = Lane::start(
        "e",
        "1",
        &ModelSettings::default(),
        measured,
        Surroundings::default(),
        || Ok(Box::new(probe)),
    );
    first_entry(&catalog).slot().lane = Some(Arc::new(lane.unwrap()));
    (catalog, metrics, lost)
}

#[tokio::test]
async fn a_model_without_instances_has_failed_until_there_is_one_again() {
    let (catalog, metrics, lost) = fragile().await;
    let lane = catalog.model("e", None).unwrap();
    lost.store(true, Ordering::SeqCst);
    let failure = lane.infer(call(&[[-1.0, 0.0]])).await.unwrap_err();
    assert_eq!(failure.code, Code::WorkerCrashed);
    while catalog.is_ready() {
        tokio::task::yield_now().await;
    }
    let message = "the device is lost".to_owned();
    assert_eq!(catalog.statuses()[0].state, ModelState::Failed { message });
    let failure = catalog.model("e", None).unwrap_err();
    assert_eq!(
        (failure.code, &*failure.message),
        (Code::Failed, "no instance of the model is alive")
    );
    let not_ready = r#"jitney_model_ready{model="e",version="1"} 0"#;
    assert!(metrics.encode().contains(not_ready));

    lost.store(false, Ordering::SeqCst);
    while !catalog.is_ready() {
        tokio::task::yield_now().await;
    }
    let lane = catalog.model("e", None).unwrap();
    assert!(lane.infer(call(&[[1.0, 2.0]])).await.is_ok());
}

#[tokio::test]
async fn whoever_waits_for_a_change_is_told_of_it() {
    let (catalog, _, lost) = fragile().await;
    assert!(catalog.watched().now_or_never().is_none());
    let mut changes = catalog.changes();
    catalog.watched().await;
    catalog.look();
    assert!(!changes.has_changed().unwrap(), "nothing has happened");
    let lane = catalog.model("e", None).unwrap();
    lost.store(true, Ordering::SeqCst);
    lane.infer(call(&[[-1.0, 0.0]])).await.unwrap_err();
    for ready in [false, true] {
        lost.store(!ready, Ordering::SeqCst);
        while !changes.has_changed().unwrap() {
            catalog.look();
            tokio::task::yield_now().await;
        }
        changes.mark_unchanged();
        assert_eq!(catalog.is_ready(), ready);
    }
    catalog.close();
    assert!(changes.has_changed().unwrap());
    drop(changes);
    assert!(catalog.watched().now_or_never().is_none());
}

#[tokio::test]
async fn where_only_requests_look_at_a_model_they_notice_that_it_is_lost() {
    let (catalog, _, lost) = fragile().await;
    lost.store(true, Ordering::SeqCst);
    while let Ok(lane) = catalog.model("e", None) {
        assert!(lane.infer(call(&[[-1.0, 0.0]])).await.is_err());
    }
    assert_eq!(catalog.model("e", None).unwrap_err().code, Code::Failed);
}

/// A catalog whose only model is this one, at its lane.
async fn with_probe(probe: &Probe) -> (Catalog, Metrics, Tree, Arc<Lane>) {
    let (catalog, metrics, tree) = catalog(&["e=echo:FP32[2]"]).await;
    replace(&catalog, &metrics, probe, 1);
    let lane = catalog.model("e", None).unwrap();
    (catalog, metrics, tree, lane)
}

fn replace(catalog: &Catalog, metrics: &Metrics, probe: &Probe, number: u64) {
    let measured = metrics.model("e", "1");
    let probe = Box::new(probe.clone());
    let lane = Lane::start(
        "e",
        "1",
        &ModelSettings::default(),
        measured,
        Surroundings::default(),
        || Ok(probe),
    );
    let card = Card::default();
    first_entry(catalog).replace(lane.unwrap(), card, number);
}

fn item(text: &'static str) -> Call {
    Call::new(
        vec![Tensor::from_bytes([1], vec![text.into()]).unwrap()],
        Instant::now() + Duration::from_secs(20),
    )
}

#[tokio::test]
async fn a_model_of_json_values_is_run_on_nothing_made_up() {
    let probe = Probe::json(|_| Ok(()));
    let (_catalog, _metrics, _tree, lane) = with_probe(&probe).await;
    assert!(probe.seen().is_empty());
    let outcome = lane.infer(item("[1]")).await.unwrap();
    assert_eq!(&*outcome.outputs[0].byte_elements().unwrap()[0], b"[1]");
}

#[tokio::test]
async fn what_crashes_or_hangs_alone_is_put_into_quarantine() {
    let probe = Probe::json(|item| match item {
        "crash" => Err(RunError::Crashed("signal 9".to_owned())),
        "hang" => Err(RunError::RunLimit(Duration::from_secs(1))),
        "raise" => Err(RunError::Failed("ValueError: no".to_owned())),
        _ => Ok(()),
    });
    let (_catalog, metrics, _tree, lane) = with_probe(&probe).await;
    let table = [
        ("crash", Code::WorkerCrashed, 2),
        ("hang", Code::DeadlineExceeded, 1),
        ("raise", Code::ModelError, 1),
    ];
    for (text, code, runs) in table {
        let before = probe.seen().len();
        assert_eq!(lane.infer(item(text)).await.unwrap_err().code, code);
        assert_eq!(probe.seen().len() - before, runs, "{text}");
    }
    let before = probe.seen().len();
    for (text, code) in [
        ("crash", Code::WorkerCrashed),
        ("hang", Code::DeadlineExceeded),
    ] {
        let failure = lane.infer(item(text)).await.unwrap_err();
        assert_eq!(failure.code, code);
        assert!(failure.message.contains("was not run"), "{failure}");
    }
    assert_eq!(probe.seen().len(), before);
    // What the model is asked for beside the input is part of the guilt.
    let mut modest = item("crash");
    modest.meta.parameters = Some(r#"{"max_tokens":1}"#.to_owned());
    lane.infer(modest).await.unwrap_err();
    assert_eq!(probe.seen().len(), before + 2);
    assert!(lane.infer(item("good")).await.is_ok());
    let failure = lane.infer(item("raise")).await.unwrap_err();
    assert_eq!(failure.message, "ValueError: no");
    let counted = r#"jitney_quarantined_items_total{model="e",version="1"} 2"#;
    assert!(metrics.encode().contains(counted));
}

/// Its neighbours were in the same process when it died, and a process may die by somebody else's hand.
#[tokio::test]
async fn neither_neighbours_nor_survivors_are_put_into_quarantine() {
    let killed = AtomicBool::new(false);
    let probe = Probe::json(move |item| match item {
        "crash" => Err(RunError::Crashed("signal 9".to_owned())),
        "killed once" if !killed.swap(true, Ordering::SeqCst) => {
            Err(RunError::Crashed("signal 9".to_owned()))
        }
        _ => Ok(()),
    });
    let (_catalog, _metrics, _tree, lane) = with_probe(&probe).await;
    assert!(lane.infer(item("killed once")).await.is_ok());
    let answers = tokio::join!(
        lane.infer(item("a")),
        lane.infer(item("b")),
        lane.infer(item("crash")),
        lane.infer(item("c")),
    );
    assert!(answers.0.is_ok() && answers.1.is_ok() && answers.3.is_ok());
    assert_eq!(answers.2.unwrap_err().code, Code::WorkerCrashed);
    for text in ["a", "b", "c", "killed once"] {
        assert!(lane.infer(item(text)).await.is_ok(), "{text}");
    }
}

#[tokio::test]
async fn a_model_that_allows_no_second_run_gets_none() {
    let mut probe = Probe::json(|item| match item {
        "crash" => Err(RunError::Crashed("signal 9".to_owned())),
        _ => Ok(()),
    });
    probe.idempotent = false;
    let (_catalog, _metrics, _tree, lane) = with_probe(&probe).await;
    for runs in 1..=3 {
        let failure = lane.infer(item("crash")).await.unwrap_err();
        assert_eq!(failure.code, Code::Failed);
        assert!(failure.retry_after.is_some());
        assert_eq!(probe.seen().len(), runs);
    }
}

/// Whatever their order, they are run by their priority: 1 first, and one that says nothing before one of 200.
#[tokio::test]
async fn the_urgent_are_run_first() {
    let (open, gate) = std::sync::mpsc::sync_channel::<()>(1);
    let (write, read) = std::sync::mpsc::sync_channel(8);
    let gate = std::sync::Mutex::new(gate);
    let probe = Probe::json(move |item| {
        write.send(item.to_owned()).unwrap();
        if item == "gate" {
            gate.lock().unwrap().recv().unwrap();
        }
        Ok(())
    });
    let settings = ModelSettings {
        row_by_row: RowByRow::Yes,
        ..ModelSettings::default()
    };
    let metrics = Metrics::new().model("e", "1");
    let load = || Ok(Box::new(probe) as Box<dyn jitney_engine::Model>);
    let lane = Lane::start("e", "1", &settings, metrics, Surroundings::default(), load).unwrap();
    let run = |text, priority| {
        let mut call = item(text);
        call.meta.priority = priority;
        lane.infer(call)
    };
    let (held, last, third, second, first, ()) = tokio::join!(
        run("gate", 0),
        // What comes now waits until the gate opens.
        async { assert_eq!(read.recv().unwrap(), "gate") }.then(|()| run("last", 200)),
        run("third", 0),
        run("second", 2),
        run("first", 1),
        async { open.send(()).unwrap() },
    );
    for answer in [held, last, third, second, first] {
        answer.unwrap();
    }
    let order: Vec<String> = read.try_iter().collect();
    assert_eq!(order, ["first", "second", "third", "last"]);
}

#[tokio::test]
async fn a_model_whose_processes_fail_has_failed_until_they_come_up() {
    let probe = Probe::json(|_| Ok(()));
    let (catalog, metrics, _tree, _lane) = with_probe(&probe).await;
    assert!(catalog.is_ready());
    probe.failed.store(true, Ordering::SeqCst);
    assert!(!catalog.is_ready());
    let message = "its processes do not come up".to_owned();
    assert_eq!(catalog.statuses()[0].state, ModelState::Failed { message });
    let failure = catalog.model("e", None).unwrap_err();
    assert_eq!(failure.code, Code::Failed);
    assert!(failure.retry_after.is_some());
    assert!(!failure.message.contains("come up"), "{failure}");
    let not_ready = r#"jitney_model_ready{model="e",version="1"} 0"#;
    assert!(metrics.encode().contains(not_ready));
    probe.failed.store(false, Ordering::SeqCst);
    assert!(catalog.is_ready());
    assert!(catalog.model("e", None).is_ok());
}

#[tokio::test]
async fn processes_are_shown() {
    let probe = Probe::json(|_| Ok(()));
    let (catalog, metrics, tree, _lane) = with_probe(&probe).await;
    let workers = catalog.statuses().remove(0).loaded.unwrap().workers;
    assert_eq!((workers[0].pid, workers[0].state), (Some(7), "idle"));
    let text = metrics.encode();
    assert!(text.contains(r#"jitney_restarted_workers_total{model="e",version="1"} 1"#));
    catalog.show_workers();
    let shown = tree.snapshot().to_string();
    assert!(
        shown.contains("worker 0") && shown.contains("process 7"),
        "{shown}"
    );
}

#[tokio::test]
async fn a_replaced_lane_lives_as_long_as_somebody_holds_it() {
    let (first, second) = (Probe::json(|_| Ok(())), Probe::json(|_| Ok(())));
    let (catalog, metrics, _tree, held) = with_probe(&first).await;
    replace(&catalog, &metrics, &second, 2);
    let entry = first_entry(&catalog);
    // The model of the catalog before the first probe was held by nobody.
    assert_eq!(entry.abandoned(LONG).len(), 1);
    let lane = catalog.model("e", None).unwrap();
    assert!(!Arc::ptr_eq(&lane, &held));
    assert!(held.infer(item("late")).await.is_ok());
    assert_eq!((first.seen().len(), second.seen().len()), (1, 0));
    assert!(entry.abandoned(LONG).is_empty());
    drop(held);
    assert_eq!(entry.abandoned(LONG).len(), 1);
    assert!(lane.infer(item("new")).await.is_ok());
    assert_eq!(second.seen().len(), 1);
    let reloads = r#"jitney_model_reloads_total{model="e",version="1",outcome="ok"} 2"#;
    assert!(metrics.encode().contains(reloads));
}

#[tokio::test]
async fn closing_reaches_lanes_that_were_replaced() {
    let (first, second) = (Probe::json(|_| Ok(())), Probe::json(|_| Ok(())));
    let (catalog, metrics, _tree, held) = with_probe(&first).await;
    replace(&catalog, &metrics, &second, 2);
    catalog.close();
    let refused = held.infer(item("late")).await.unwrap_err();
    assert_eq!(refused.code, Code::Draining);
    catalog.wait_closed().await;
    replace(&catalog, &metrics, &second, 3);
    assert_eq!(catalog.statuses()[0].state, ModelState::Closed);
}

#[tokio::test]
async fn of_two_loads_the_one_that_began_last_counts() {
    let (newer, older) = (Probe::json(|_| Ok(())), Probe::json(|_| Ok(())));
    let (catalog, metrics, _tree) = catalog(&["e=echo:FP32[2]"]).await;
    let entry = first_entry(&catalog);
    replace(&catalog, &metrics, &newer, 2);
    replace(&catalog, &metrics, &older, 1);
    entry.unloadable("an old mistake".to_owned(), 1);
    assert_eq!(catalog.statuses()[0].reload_failure, None);
    let lane = catalog.model("e", None).unwrap();
    lane.infer(item("1")).await.unwrap();
    assert_eq!((newer.seen().len(), older.seen().len()), (1, 0));

    entry.unloadable("a new mistake".to_owned(), 3);
    let status = catalog.statuses().remove(0);
    assert_eq!(status.state, ModelState::Ready);
    assert_eq!(status.reload_failure.as_deref(), Some("a new mistake"));
    replace(&catalog, &metrics, &newer, 4);
    assert_eq!(catalog.statuses()[0].reload_failure, None);
}

#[tokio::test]
async fn rows_that_depend_on_each_other_are_run_alone() {
    let (catalog, ..) = catalog(&["e=echo:FP32[2],rows_independent=false"]).await;
    let lane = catalog.model("e", None).unwrap();
    assert_eq!(lane.max_batch(), 1);
    let rows = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]];
    let outcome = lane.infer(call(&rows)).await.unwrap();
    assert_eq!(values(&outcome), rows.concat());
    assert_eq!(outcome.trip.rows, 1);
}

#[tokio::test]
async fn too_many_rows_are_the_callers_mistake() {
    for source in ["e=echo:FP32[2]", "e=echo:FP32[2],rows_independent=false"] {
        let (catalog, metrics, _tree) = catalog(&[source]).await;
        let lane = catalog.model("e", None).unwrap();
        let failure = lane.infer(call(&[[0.0; 2]; 33])).await.unwrap_err();
        let expected = "the request has 33 rows, but the model takes at most 32 in one request";
        assert_eq!(
            (failure.code, &*failure.message),
            (Code::InvalidInput, expected)
        );
        assert!(lane.infer(call(&[[0.0; 2]; 32])).await.is_ok());
        // It never reached the batcher, so it is in neither of two numbers that must agree.
        let refused = r#"jitney_refused_items_total{model="e",version="1",cause="too_large"} 1"#;
        assert!(!metrics.encode().contains(refused));
        assert_eq!((lane.stats().received, lane.stats().refused), (1, 0));
    }
}

#[tokio::test]
async fn faults_of_a_model_reach_the_wire_with_their_code() {
    let (catalog, ..) = catalog(&["e=echo:FP32[2],faulty=true"]).await;
    let lane = catalog.model("e", None).unwrap();
    let table = [
        (-1.0, Code::ModelError),
        (-2.0, Code::WorkerCrashed),
        (-3.0, Code::OutputMismatch),
        (-4.0, Code::OutputMismatch),
        (-6.0, Code::InvalidInput),
    ];
    for (fault, code) in table {
        let failure = lane.infer(call(&[[fault, 0.0]])).await.unwrap_err();
        assert_eq!(failure.code, code, "{fault}: {failure}");
    }
    assert!(lane.infer(call(&[[1.0, 0.0]])).await.is_ok());
}

#[tokio::test]
async fn a_hanging_model_is_given_up_at_its_limit() {
    let mut settings = Settings::default();
    settings.given.run_limit_ms = Some(50.0);
    let (catalog, ..) = loading(&["e=echo:FP32[2],faulty=true,hang_ms=2000"], &settings);
    catalog.wait_loaded().await;
    let lane = catalog.model("e", None).unwrap();
    let failure = lane.infer(call(&[[-5.0, 0.0]])).await.unwrap_err();
    assert_eq!(failure.code, Code::DeadlineExceeded);
    assert!(failure.message.contains("its limit of 50ms"), "{failure}");
}

#[tokio::test]
async fn the_warm_up_teaches_what_batching_gains() {
    // Long enough that a busy machine adds little to it.
    let (catalog, ..) = catalog(&["e=echo:FP32[2],call_ms=30"]).await;
    let lane = catalog.model("e", None).unwrap();
    let batching = lane.batching();
    assert!(
        batching.contains("times the throughput of one row"),
        "{batching}"
    );
    let stats = lane.stats();
    assert_eq!(stats.received, 0, "a warm-up is no request");
    assert!(stats.gain > 1.2, "{stats:?}");
}

#[tokio::test]
async fn without_a_warm_up_nothing_is_run() {
    let settings = Settings {
        given: ModelOptions {
            warmup: Some(0),
            ..ModelOptions::default()
        },
        ..Settings::default()
    };
    let (catalog, ..) = loading(&["e=echo:FP32[2],call_ms=20000"], &settings);
    tokio::time::timeout(Duration::from_secs(10), catalog.wait_loaded())
        .await
        .unwrap();
    let lane = catalog.model("e", None).unwrap();
    assert_eq!(
        lane.batching(),
        "what batching gains is not known before the model has run"
    );
}

#[test]
fn two_models_of_one_name_are_an_error() {
    let sources = ["e=echo", "e=echo:FP32[2]"].map(|text| ModelSource::parse(text).unwrap());
    let tree = Tree::new("test");
    let error = Catalog::start(
        &sources,
        &Settings::default(),
        &Metrics::new(),
        &tree.root(),
        None,
    );
    assert!(matches!(error, Err(SourceError::Duplicate { .. })));
}

#[tokio::test]
async fn readiness_waits_for_the_last_model_and_needs_one_that_works() {
    let (catalog, ..) = loading(
        &["slow=echo:load_ms=300", "broken=echo:fail_load=true"],
        &Settings::default(),
    );
    assert!(!catalog.is_ready());
    catalog.wait_loaded().await;
    assert!(catalog.is_ready());
    let (none, ..) = self::catalog(&["broken=echo:fail_load=true"]).await;
    assert!(!none.is_ready());
}

#[test]
fn a_catalog_of_nothing_is_not_ready() {
    let (catalog, ..) = loading(&[], &Settings::default());
    assert!(!catalog.is_ready());
}

/// A real model from its folder: found, loaded, warmed up, called.
#[tokio::test]
async fn the_digits_example_is_served() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/digits");
    let mut settings = Settings::default();
    settings.given.engine = Some(crate::config::Engine::Onnx);
    let (catalog, ..) = loading(&[folder], &settings);
    catalog.wait_loaded().await;
    let status = catalog.statuses().remove(0);
    assert_eq!(status.state, ModelState::Ready);
    assert_eq!(status.labels.len(), 10);
    assert_eq!(status.sketch.unwrap().input.as_deref(), Some("pixels"));
    let lane = catalog.model("digits", None).unwrap();
    assert!(!lane.stats().costs.is_empty(), "it was not warmed up");
    let blank = Call::new(
        vec![Tensor::from_f32([3, 64], vec![0.0; 192]).unwrap()],
        Instant::now() + Duration::from_secs(20),
    );
    let outcome = lane.infer(blank).await.unwrap();
    assert_eq!(outcome.outputs[0].shape(), [3, 10]);
}

/// What the files alone do not say is found by running them.
#[tokio::test]
async fn real_models_share_batches_where_that_changes_nothing() {
    let folder = std::env::var_os("JITNEY_TEST_MODELS")
        .expect("JITNEY_TEST_MODELS is not set: run `cargo xtask test`, which prepares the models");
    let mut settings = Settings::default();
    settings.given.engine = Some(crate::config::Engine::Onnx);
    let table = [
        ("magika", true),
        ("ocr_cls", true),
        ("convolution", true),
        ("matmul", true),
        ("gather", true),
        ("fixed_batch", true),
        ("dynamic_quantization", false),
        ("centred", false),
        ("reversed_rows", false),
    ];
    for (name, together) in table {
        let file = PathBuf::from(&folder).join(format!("{name}.onnx"));
        let (catalog, ..) = loading(&[file.to_str().unwrap()], &settings);
        catalog.wait_loaded().await;
        let lane = catalog.model(name, None).unwrap();
        let shares = matches!(lane.sharing(), Sharing::Together { .. });
        assert_eq!(shares, together, "{name}: {:?}", lane.sharing());
    }
}
