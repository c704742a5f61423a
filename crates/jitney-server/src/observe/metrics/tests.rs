use std::collections::{HashMap, HashSet};

use jitney::batch::Reason;

use super::*;

#[test]
fn words_stand_at_their_own_place() {
    for (place, route) in Route::ALL.into_iter().enumerate() {
        assert_eq!(route as usize, place, "{route:?}");
    }
    for (place, phase) in Phase::ALL.into_iter().enumerate() {
        assert_eq!(phase as usize, place, "{phase:?}");
    }
    for (place, cause) in Cause::ALL.into_iter().enumerate() {
        assert_eq!(cause as usize, place, "{}", cause.word());
    }
    for (place, reload) in Reload::ALL.into_iter().enumerate() {
        assert_eq!(reload as usize, place, "{reload:?}");
    }
}

#[test]
fn requests_are_counted_by_route_and_answer() {
    let metrics = Metrics::new();
    let digits = metrics.model("digits", "1");
    digits.request(Route::Infer, Ok(times(3)));
    digits.request(Route::Infer, Ok(times(3)));
    digits.request(Route::Predict, Err("overloaded"));
    digits.request(Route::Infer, Err("overloaded"));
    digits.request(Route::Predict, Err("overloaded"));
    metrics
        .without_model()
        .request_untimed(Route::Other, Err("unknown_model"));
    let samples = samples(&metrics);
    let of = |model: &str, version: &str, route: &str, code: &str| {
        let labels =
            format!(r#"model="{model}",version="{version}",route="{route}",code="{code}""#);
        samples[&format!("jitney_requests_total{{{labels}}}")]
    };
    assert_eq!(of("digits", "1", "infer", "ok"), 2.0);
    assert_eq!(of("digits", "1", "predict", "overloaded"), 2.0);
    assert_eq!(of("", "", "other", "unknown_model"), 1.0);
    assert_eq!(
        samples[r#"jitney_request_seconds_count{model="digits",version="1"}"#],
        2.0
    );
    let decode = r#"jitney_request_phase_seconds_sum{model="digits",version="1",phase="decode"}"#;
    assert_eq!(samples[decode], 0.006);
}

#[test]
fn trips_and_refusals_are_counted() {
    let metrics = Metrics::new();
    let digits = metrics.model("digits", "1");
    let trip = Trip {
        queued: Duration::from_millis(1),
        held: Duration::from_millis(2),
        run: Duration::from_millis(4),
        rows: 3,
        reason: Reason::Gain,
    };
    digits.answered(&trip, 2, None);
    digits.refused(&Refused::Closed);
    let samples = samples(&metrics);
    for (phase, sum) in [
        ("queue", 0.001),
        ("hold", 0.002),
        ("run", 0.004),
        ("encode", 0.0),
    ] {
        let labels = format!(r#"model="digits",version="1",phase="{phase}""#);
        let name = format!("jitney_request_phase_seconds_sum{{{labels}}}");
        assert_eq!(samples[&name], sum, "{phase}");
    }
    let closed = r#"jitney_refused_items_total{model="digits",version="1",cause="closed"}"#;
    assert_eq!(samples[closed], 1.0);
}

#[test]
fn totals_add_up_what_was_recorded() {
    let metrics = Metrics::new();
    let digits = metrics.model("digits", "1");
    assert_eq!(digits.totals(), Totals::default());
    let trip = Trip {
        queued: Duration::from_millis(1),
        held: Duration::from_millis(2),
        run: Duration::from_millis(4),
        rows: 3,
        reason: Reason::Gain,
    };
    assert!(
        digits.called(Instant::now(), None).is_none(),
        "nothing is traced"
    );
    digits.answered(&trip, 2, None);
    digits.answered(&trip, 1, None);
    digits.failed(Duration::from_millis(5));
    digits.keep(&vec![(1, Duration::from_millis(7))]);
    digits.keep(&vec![
        (1, Duration::from_millis(1)),
        (2, Duration::from_millis(9)),
    ]);
    let sum = |count, millis| Sum {
        count,
        time: Duration::from_millis(millis),
    };
    let totals = digits.totals();
    assert!(totals.last.is_some());
    let expected = Totals {
        last: totals.last,
        rows: 3,
        failed: sum(1, 5),
        queue: sum(2, 6),
        run: sum(2, 8),
        batches: vec![(2, Duration::from_millis(8)), (2, Duration::from_millis(9))],
        ..Totals::default()
    };
    assert_eq!(totals, expected);
}

#[test]
fn a_model_that_comes_later_is_traced_as_was_said() {
    let metrics = Metrics::new();
    let change = TraceChange {
        on: Some(Some(true)),
        rate: Some(Some(1)),
        count: Some(Some(Some(1))),
    };
    metrics.change_traces(None, &change);
    let digits = metrics.model("digits", "1");
    assert!(digits.called(Instant::now(), None).is_some());
    assert!(digits.called(Instant::now(), None).is_none());
    assert_eq!(metrics.traces(Some("digits")).count, Some(0));
}

#[test]
fn a_scrape_asks_the_models() {
    let metrics = Metrics::new();
    metrics.watch_models(|| {
        vec![
            reading("digits", true, Some(stats())),
            reading("bad", false, None),
        ]
    });
    let samples = samples(&metrics);
    let table = [
        (r#"jitney_model_ready{model="digits",version="1"}"#, 1.0),
        (r#"jitney_model_ready{model="bad",version="1"}"#, 0.0),
        (
            r#"jitney_received_items_total{model="digits",version="1"}"#,
            10.0,
        ),
        (
            r#"jitney_ended_items_total{model="digits",version="1",outcome="expired"}"#,
            2.0,
        ),
        (
            r#"jitney_batches_total{model="digits",version="1",reason="gain"}"#,
            3.0,
        ),
        (r#"jitney_batch_rows_sum{model="digits",version="1"}"#, 7.0),
        (
            r#"jitney_batch_rows_bucket{le="1.0",model="digits",version="1"}"#,
            1.0,
        ),
        (
            r#"jitney_batch_rows_bucket{le="+Inf",model="digits",version="1"}"#,
            4.0,
        ),
        (
            r#"jitney_oldest_item_seconds{model="digits",version="1"}"#,
            0.5,
        ),
        (
            r#"jitney_batch_gain_ratio{model="digits",version="1"}"#,
            2.5,
        ),
    ];
    for (name, expected) in table {
        assert_eq!(samples.get(name), Some(&expected), "{name}");
    }
    assert!(
        !samples
            .keys()
            .any(|name| name.contains("instances") && name.contains("bad"))
    );
}

#[test]
fn the_same_model_has_the_same_metrics() {
    let metrics = Metrics::new();
    let first = metrics.model("digits", "1");
    assert!(Arc::ptr_eq(&first, &metrics.model("digits", "1")));
    assert!(!Arc::ptr_eq(&first, &metrics.model("digits", "2")));
}

/// Reads the text as a scraper does, and holds the documentation's table against it in both directions.
#[test]
fn every_metric_on_the_page_is_in_the_table_and_the_reverse() {
    let metrics = Metrics::new();
    metrics
        .model("digits", "1")
        .request(Route::Infer, Ok(times(1)));
    metrics.watch_models(|| {
        let worker = WorkerReading {
            alive: true,
            restarts: 2,
            resident: Some(100),
        };
        let lost = WorkerReading {
            alive: false,
            resident: None,
            ..worker
        };
        vec![ModelReading {
            workers: vec![worker, lost],
            ..reading("digits", true, Some(stats()))
        }]
    });
    let of_workers = [
        ("jitney_workers", 1.0),
        ("jitney_restarted_workers_total", 4.0),
        ("jitney_workers_resident_bytes", 100.0),
    ];
    for (name, expected) in of_workers {
        let sample = format!(r#"{name}{{model="digits",version="1"}}"#);
        assert_eq!(samples(&metrics).get(&sample), Some(&expected), "{name}");
    }
    let text = metrics.encode();
    let mut documented = HashMap::new();
    for metric in names::ALL {
        documented.insert(metric.name, metric);
    }
    let mut typed = HashSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(documented[name].kind.as_str(), kind);
            assert!(typed.insert(name), "{name} stands twice");
        } else if let Some(rest) = line.strip_prefix("# UNIT ") {
            let (name, unit) = rest.split_once(' ').unwrap();
            assert_eq!(documented[name].unit.word(), unit);
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap();
            let stem = ["_total", "_bucket", "_sum", "_count", "_info"]
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix))
                .filter(|stem| documented.contains_key(stem))
                .unwrap_or(name);
            assert!(typed.contains(stem), "{line} stands under no type");
            for label in labels(line) {
                let known = documented[stem].labels.contains(&label) || label == "le";
                assert!(known, "{stem} has an undocumented label {label}");
            }
        }
    }
    assert_eq!(typed.len(), names::ALL.len());
    assert!(text.ends_with("# EOF\n"));
}

fn labels(line: &str) -> Vec<&str> {
    let Some((_, rest)) = line.split_once('{') else {
        return Vec::new();
    };
    let (inside, _) = rest.split_once('}').unwrap();
    inside
        .split("\",")
        .map(|pair| pair.split_once('=').unwrap().0)
        .collect()
}

/// Every sample by its name with labels.
fn samples(metrics: &Metrics) -> HashMap<String, f64> {
    metrics
        .encode()
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

fn times(millis: u64) -> Times {
    Times {
        decode: Duration::from_millis(millis),
        encode: Duration::from_millis(millis),
        total: Duration::from_millis(3 * millis),
    }
}

fn reading(model: &str, ready: bool, stats: Option<Stats>) -> ModelReading {
    ModelReading {
        model: model.to_owned(),
        version: "1".to_owned(),
        ready,
        stats,
        workers: Vec::new(),
    }
}

fn stats() -> Stats {
    Stats {
        received: 10,
        expired: 2,
        oldest: Some(Duration::from_millis(500)),
        batches: [0, 1, 3, 0, 0],
        batch_rows: vec![1, 3],
        gain: 2.5,
        ..Stats::default()
    }
}
