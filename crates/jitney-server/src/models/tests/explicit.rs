//! Models that are loaded and unloaded on request.

use std::fs;
use std::future::poll_fn;
use std::path::Path;
use std::pin::{Pin, pin};
use std::task::Poll;

use tempfile::TempDir;

use super::*;
use crate::config::AtStart;

const ECHO: &str = "[echo]\ninputs = [\"FP32[2]\"]";

fn repository(files: &[(&str, &str)]) -> TempDir {
    let disk = tempfile::tempdir().unwrap();
    for (file, text) in files {
        write(disk.path(), file, text);
    }
    disk
}

fn write(folder: &Path, file: &str, text: &str) {
    let path = folder.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

async fn explicit(disk: &TempDir, at_start: AtStart) -> Catalog {
    let settings = Settings {
        control: Control::Explicit,
        at_start,
        ..Settings::default()
    };
    let (catalog, ..) = loading(&[disk.path().to_str().unwrap()], &settings);
    catalog.wait_loaded().await;
    catalog
}

fn none() -> AtStart {
    AtStart::of(vec!["none".to_owned()])
}

/// The index as lines of words.
async fn index(catalog: &Catalog) -> Vec<String> {
    let rows = catalog.index().await.unwrap().into_iter();
    rows.map(|row| {
        let version = row.version.unwrap_or_default();
        let reason = row.reason.lines().next().unwrap_or_default().to_owned();
        let line = format!("{} {version} {} {reason}", row.name, row.state.word());
        line.trim_end().to_owned()
    })
    .collect()
}

/// Polls once, and says whether it waits.
async fn is_pending<F: Future>(mut future: Pin<&mut F>) -> bool {
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_pending())).await
}

#[tokio::test]
async fn a_model_is_loaded_and_unloaded() {
    let disk = repository(&[("a/model.toml", ECHO), ("b/model.toml", "queue = 0")]);
    let catalog = explicit(&disk, none()).await;
    assert!(catalog.explicit());
    assert!(catalog.is_ready(), "having nothing to serve is no failure");
    assert_eq!(catalog.statuses().len(), 0);
    let before = index(&catalog).await;
    assert_eq!(before[0], "a 1 UNAVAILABLE it is not loaded");
    assert!(before[1].starts_with("b 1 UNAVAILABLE "), "{before:?}");
    assert!(
        before[1].contains("queue must be a whole number"),
        "{before:?}"
    );
    assert_eq!(
        catalog.model("a", None).unwrap_err().code,
        Code::UnknownModel
    );

    catalog.load("a", None).await.unwrap();
    assert_eq!(index(&catalog).await[0], "a 1 READY");
    let lane = catalog.model("a", None).unwrap();
    assert!(lane.infer(call(&[[1.0, 2.0]])).await.is_ok());
    drop(lane);

    let failure = catalog.load("b", None).await.unwrap_err();
    assert_eq!(failure.code, Code::Failed);
    assert!(failure.message.contains("queue must be"), "{failure}");
    assert_eq!(catalog.model("b", None).unwrap_err().code, Code::Failed);

    catalog.unload("a").await.unwrap();
    assert_eq!(
        catalog.model("a", None).unwrap_err().code,
        Code::UnknownModel
    );
    assert_eq!(index(&catalog).await[0], "a 1 UNAVAILABLE it is not loaded");
    catalog.unload("a").await.unwrap();
    catalog.load("a", None).await.unwrap();
    assert!(catalog.model("a", None).is_ok());
    catalog.close();
    assert_eq!(
        catalog.load("a", None).await.unwrap_err().code,
        Code::Draining
    );
}

#[tokio::test]
async fn only_what_is_named_is_loaded_at_the_start() {
    let disk = repository(&[("a/model.toml", ECHO), ("b/model.toml", ECHO)]);
    let catalog = explicit(&disk, AtStart::of(vec!["b".to_owned()])).await;
    assert_eq!(
        index(&catalog).await,
        ["a 1 UNAVAILABLE it is not loaded", "b 1 READY"]
    );
    let settings = Settings {
        control: Control::Explicit,
        at_start: AtStart::of(vec!["c".to_owned()]),
        ..Settings::default()
    };
    let source = [ModelSource::parse(disk.path().to_str().unwrap()).unwrap()];
    let tree = Tree::new("test");
    let error = Catalog::start(&source, &settings, &Metrics::new(), &tree.root(), None);
    let error = error.unwrap_err().to_string();
    assert!(
        error.starts_with("there is no model \"c\" to load; the sources hold a, b"),
        "{error}"
    );
}

#[tokio::test]
async fn names_never_reach_the_disk() {
    let disk = repository(&[("models/a/model.toml", ECHO), ("secret/model.toml", ECHO)]);
    let settings = Settings {
        control: Control::Explicit,
        ..Settings::default()
    };
    let source = disk.path().join("models").display().to_string();
    let (catalog, ..) = loading(&[&source], &settings);
    let long = "n".repeat(300);
    for name in [
        "..",
        "../secret",
        "a/../../secret",
        "a/1",
        "",
        ".",
        "a\0",
        "/etc/passwd",
        "a\\b",
        "%2e%2e%2fsecret",
        "\u{202e}a",
        "$(id)",
        &long,
    ] {
        let failure = catalog.load(name, None).await.unwrap_err();
        assert_eq!(failure.code, Code::UnknownModel, "{name}");
        let failure = catalog.unload(name).await.unwrap_err();
        assert_eq!(failure.code, Code::UnknownModel, "{name}");
    }
    assert_eq!(catalog.index().await.unwrap().len(), 1);
}

#[tokio::test]
async fn without_explicit_control_requests_change_nothing() {
    for control in [Control::None, Control::Poll] {
        let settings = Settings {
            control,
            ..Settings::default()
        };
        let (catalog, ..) = loading(&["a=echo"], &settings);
        catalog.wait_loaded().await;
        assert!(!catalog.explicit());
        for result in [catalog.load("a", None).await, catalog.unload("a").await] {
            assert_eq!(result.unwrap_err().code, Code::Forbidden);
        }
        assert_eq!(index(&catalog).await, ["a 1 READY"]);
    }
}

#[tokio::test]
async fn a_load_has_settings_of_its_own() {
    let disk = repository(&[
        ("a/model.toml", ECHO),
        ("a/1/model.onnx", ""),
        ("a/2/model.onnx", ""),
    ]);
    let catalog = explicit(&disk, AtStart::All).await;
    assert_eq!(catalog.versions("a"), ["2"]);
    let config = r#"{"max_batch_size": 3, "version_policy": {"specific": {"versions": [1]}}}"#;
    catalog.load("a", Some(config)).await.unwrap();
    // Version 2 is let go when version 1 is ready, and that is when the load has ended.
    assert_eq!(catalog.versions("a"), ["1"]);
    assert_eq!(catalog.model("a", None).unwrap().max_batch(), 3);
    catalog.load("a", None).await.unwrap();
    assert_eq!(catalog.versions("a"), ["2"]);
    assert_eq!(catalog.model("a", None).unwrap().max_batch(), 32);

    let config = r#"{"max_batch_size": 3, "platform": "x"}"#;
    let failure = catalog.load("a", Some(config)).await.unwrap_err();
    assert_eq!(failure.code, Code::InvalidInput);
    assert!(failure.message.contains("`platform`"), "{failure}");
    assert_eq!(catalog.model("a", None).unwrap().max_batch(), 32);
}

#[tokio::test]
async fn a_load_that_fails_leaves_the_one_before() {
    let disk = repository(&[("a/model.toml", ECHO)]);
    let catalog = explicit(&disk, AtStart::All).await;
    write(disk.path(), "a/model.toml", "[echo]\nfail_load = true");
    let failure = catalog.load("a", None).await.unwrap_err();
    assert_eq!(failure.code, Code::Failed);
    assert!(failure.message.contains("told to fail"), "{failure}");
    let row = catalog.index().await.unwrap().remove(0);
    assert_eq!(row.state, IndexState::Ready);
    assert!(row.reason.contains("told to fail"), "{row:?}");
    let lane = catalog.model("a", None).unwrap();
    assert!(lane.infer(call(&[[1.0, 2.0]])).await.is_ok());
    drop(lane);

    // The same for a model that is gone from the disk, and for a version that takes its place.
    fs::remove_dir_all(disk.path().join("a")).unwrap();
    write(disk.path(), "b/model.toml", ECHO);
    let failure = catalog.load("a", None).await.unwrap_err();
    assert_eq!(failure.code, Code::UnknownModel);
    assert!(catalog.model("a", None).is_ok());
    write(disk.path(), "a/2/model.py", "nothing");
    assert_eq!(
        catalog.load("a", None).await.unwrap_err().code,
        Code::Failed
    );
    assert_eq!(catalog.model("a", None).unwrap().version(), "1");
    write(disk.path(), "a/model.toml", ECHO);
    catalog.load("a", None).await.unwrap();
    assert_eq!(catalog.versions("a"), ["2"]);
}

#[tokio::test]
async fn unloading_waits_for_what_was_accepted() {
    let disk = repository(&[("a/model.toml", &format!("{ECHO}\ncall_ms = 50"))]);
    let catalog = explicit(&disk, AtStart::All).await;
    let lane = catalog.model("a", None).unwrap();
    let weak = Arc::downgrade(&lane);
    let accepted = async move { lane.infer(call(&[[1.0, 2.0]])).await };
    let mut accepted = pin!(accepted);
    assert!(is_pending(accepted.as_mut()).await);
    let mut unloaded = pin!(catalog.unload("a"));
    assert!(is_pending(unloaded.as_mut()).await);
    while catalog.model("a", None).is_ok() {
        tokio::task::yield_now().await;
    }
    let gone = catalog.model("a", None).unwrap_err();
    assert_eq!(gone.code, Code::UnknownModel);
    assert_eq!(index(&catalog).await, ["a 1 UNLOADING"]);
    assert!(is_pending(unloaded.as_mut()).await);
    // Who holds it goes on, and the unloading ends when nobody does.
    let outcome = accepted.await.unwrap();
    assert_eq!(values(&outcome), [1.0, 2.0]);
    unloaded.await.unwrap();
    assert_eq!(weak.strong_count(), 0, "it was not freed");
}

#[tokio::test]
async fn of_orders_for_one_model_each_waits_for_the_one_before() {
    let disk = repository(&[("a/model.toml", ECHO), ("b/model.toml", ECHO)]);
    let catalog = explicit(&disk, none()).await;
    let (first, second, third, other) = tokio::join!(
        catalog.load("a", None),
        catalog.unload("a"),
        catalog.load("a", Some(r#"{"max_batch_size": 2}"#)),
        catalog.load("b", None),
    );
    assert_eq!(
        (first, second, third, other),
        (Ok(()), Ok(()), Ok(()), Ok(()))
    );
    assert_eq!(catalog.model("a", None).unwrap().max_batch(), 2);
    assert_eq!(index(&catalog).await, ["a 1 READY", "b 1 READY"]);
}

/// Nobody who is away for long keeps an order from being carried out, or others from giving theirs.
#[tokio::test]
async fn orders_that_nobody_waits_for_are_carried_out() {
    let disk = repository(&[("a/model.toml", ECHO)]);
    let catalog = explicit(&disk, none()).await;
    let mut given = Box::pin(catalog.load("a", None));
    assert!(is_pending(given.as_mut()).await);
    drop(given);
    while catalog.model("a", None).is_err() {
        tokio::task::yield_now().await;
    }
    assert_eq!(index(&catalog).await, ["a 1 READY"]);
}

#[tokio::test]
async fn loads_that_fail_leave_nothing_behind() {
    let disk = repository(&[("a/model.toml", ECHO), ("a/1/model.onnx", "")]);
    let catalog = explicit(&disk, AtStart::All).await;
    for version in 2..10 {
        let config =
            format!(r#"{{"version_policy": {{"specific": {{"versions": [{version}]}}}}}}"#);
        let failure = catalog.load("a", Some(&config)).await.unwrap_err();
        assert_eq!(failure.code, Code::Failed);
        assert_eq!(catalog.model("a", None).unwrap().version(), "1");
    }
    // The one that serves, and the one that was asked for last.
    assert_eq!(catalog.statuses().len(), 2);
    catalog.load("a", None).await.unwrap();
    assert_eq!(catalog.statuses().len(), 1);
}
