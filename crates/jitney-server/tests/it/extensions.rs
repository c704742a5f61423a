//! Triton's extensions over real sockets.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use jitney_server::config::{Config, Control};
use jitney_server::grpc::generated::log_settings_request::setting_value::ParameterChoice as LogChoice;
use jitney_server::grpc::generated::model_repository_parameter::ParameterChoice;
use jitney_server::grpc::generated::{
    LogSettingsRequest, LogSettingsResponse, ModelConfigRequest, ModelConfigResponse,
    ModelRepositoryParameter, ModelStatisticsRequest, ModelStatisticsResponse,
    RepositoryIndexRequest, RepositoryIndexResponse, RepositoryModelLoadRequest,
    RepositoryModelLoadResponse, RepositoryModelUnloadRequest, RepositoryModelUnloadResponse,
    ServerMetadataRequest, ServerMetadataResponse, TraceSettingRequest, TraceSettingResponse,
    log_settings_request, trace_setting_request,
};
use jitney_server::observe::logging::{Level, Levels};
use serde_json::{Value, json};
use tonic::Code;

use crate::grpc::{call, connect, same_port};
use crate::support::{Fixture, start, start_config, start_with, wait_until};

/// Batches of up to four rows that leave when they are full, and an item that fails.
const BATCHING: &[&str] = &["m=echo:FP32[2]"];

fn batching() -> Fixture {
    start_config(BATCHING, |config| {
        config.settings.given.max_batch = Some(4);
        config.settings.given.max_wait_ms = Some(1.0);
    })
}

fn get(server: &Fixture, path: &str) -> Value {
    let answer = server.connect().get(path);
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer.json()
}

fn post(server: &Fixture, path: &str, body: &str) -> Value {
    let answer = server.connect().post(path, body);
    assert_eq!(answer.status, 200, "{path} {body}: {answer:?}");
    answer.json()
}

fn infer(server: &Fixture, rows: usize) -> u16 {
    let data = vec!["1"; rows * 2].join(",");
    let body = format!(
        r#"{{"inputs":[{{"name":"input","datatype":"FP32","shape":[{rows},2],"data":[{data}]}}]}}"#
    );
    server.connect().post("/v2/models/m/infer", &body).status
}

#[test]
fn statistics_count_rows_requests_and_batches_once() {
    let server = batching();
    let fresh = get(&server, "/v2/models/m/stats");
    assert_eq!(fresh["model_stats"][0]["last_inference"], json!(0));
    assert_eq!(fresh["model_stats"][0]["batch_stats"], json!([]));
    for rows in [1, 3, 3] {
        assert_eq!(infer(&server, rows), 200);
    }
    assert_eq!(infer(&server, 5), 400, "more rows than a request may have");
    let all = get(&server, "/v2/models/stats");
    let of_model = &all["model_stats"][0];
    assert_eq!(of_model["name"], "m");
    assert_eq!(of_model["version"], "1");
    assert_eq!(of_model["inference_count"], json!(7));
    assert_eq!(of_model["execution_count"], json!(3));
    let counts = |name: &str| of_model["inference_stats"][name]["count"].as_u64();
    for name in [
        "success",
        "queue",
        "compute_input",
        "compute_infer",
        "compute_output",
    ] {
        assert_eq!(counts(name), Some(3), "{name}: {of_model}");
    }
    assert_eq!((counts("fail"), counts("cache_hit")), (Some(0), Some(0)));
    let ns = |name: &str| of_model["inference_stats"][name]["ns"].as_u64().unwrap();
    let parts = ["queue", "compute_input", "compute_infer", "compute_output"];
    assert_eq!(ns("success"), parts.into_iter().map(ns).sum::<u64>());
    let sizes = of_model["batch_stats"].as_array().unwrap().iter();
    let sizes: Vec<_> = sizes
        .map(|size| {
            let count = size["compute_infer"]["count"].as_u64();
            (size["batch_size"].as_u64().unwrap(), count.unwrap())
        })
        .collect();
    assert_eq!(sizes, [(1, 1), (3, 2)]);
    let now = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap()
        .as_millis();
    let last = u128::from(of_model["last_inference"].as_u64().unwrap());
    assert!((now - 60_000..=now).contains(&last), "{last} at {now}");
    let versioned = get(&server, "/v2/models/m/versions/1/stats");
    assert_eq!(versioned["model_stats"][0], *of_model);
}

#[test]
fn failures_are_counted_apart() {
    let server = start(&["m=echo:FP32[1],faulty=true"]);
    for (input, status) in [("1", 200), ("-1", 500), ("\"x\"", 400)] {
        let item = format!(r#"{{"input":[{input}]}}"#);
        assert_eq!(server.connect().post("/predict/m", &item).status, status);
    }
    let stats = get(&server, "/v2/models/m/stats");
    let of_model = &stats["model_stats"][0];
    assert_eq!(of_model["inference_stats"]["success"]["count"], json!(1));
    assert_eq!(of_model["inference_stats"]["fail"]["count"], json!(1));
    assert_eq!(of_model["inference_count"], json!(1));
}

#[test]
fn a_model_that_streams_is_counted_by_its_streams() {
    let server = start(&["m=echo:FP32[2],results=1"]);
    assert_eq!(infer(&server, 1), 200);
    let stats = get(&server, "/v2/models/m/stats");
    let of_model = &stats["model_stats"][0];
    assert_eq!(of_model["execution_count"], json!(1));
    assert_eq!(of_model["inference_count"], json!(1));
    assert_eq!(of_model["batch_stats"], json!([]));
    let config = get(&server, "/v2/models/m/config");
    assert_eq!(
        config["model_transaction_policy"],
        json!({"decoupled": true})
    );
    assert_eq!(config.get("dynamic_batching"), None);
}

#[test]
fn the_configuration_says_how_a_model_is_served() {
    let server = batching();
    let config = get(&server, "/v2/models/m/config");
    let expected = json!({
        "name": "m", "platform": "jitney_echo", "backend": "echo",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": 4,
        "input": [{"name": "input", "data_type": "TYPE_FP32", "format": "FORMAT_NONE", "dims": [2],
            "is_shape_tensor": false, "allow_ragged_batch": false, "optional": false}],
        "output": [{"name": "output", "data_type": "TYPE_FP32", "dims": [2], "label_filename": "", "is_shape_tensor": false}],
        "instance_group": [{"name": "m_0", "kind": "KIND_CPU", "count": config["instance_group"][0]["count"], "gpus": []}],
        "default_model_filename": "",
        "dynamic_batching": {
            "preferred_batch_size": config["dynamic_batching"]["preferred_batch_size"],
            "max_queue_delay_microseconds": 1000,
        },
        "model_transaction_policy": {"decoupled": false},
        "parameters": {"deadline_ms": {"string_value": "30000"}, "threads": {"string_value": "1"}},
    });
    assert_eq!(config, expected);
    assert_eq!(get(&server, "/v2/models/m/versions/1/config"), config);
    for path in [
        "/v2/models/x/config",
        "/v2/models/m/versions/2/config",
        "/v2/models/x/stats",
    ] {
        assert_eq!(server.connect().get(path).code(), "unknown_model", "{path}");
    }
}

#[test]
fn the_index_lists_what_there_is() {
    let server = start(&["m=echo:FP32[2]", "n=echo:", "broken=echo:op=nonsense"]);
    let all = post(&server, "/v2/repository/index", "");
    let names = |index: &Value| -> Vec<(String, String)> {
        let lines = index.as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        lines
            .map(|line| (text(&line["name"]), text(&line["state"])))
            .collect()
    };
    let expect = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        let pairs = pairs.iter();
        pairs
            .map(|(name, state)| ((*name).to_owned(), (*state).to_owned()))
            .collect()
    };
    let (broken, m, n) = (("broken", "UNAVAILABLE"), ("m", "READY"), ("n", "READY"));
    let sorted = |index| {
        let mut names = names(index);
        names.sort();
        names
    };
    assert_eq!(sorted(&all), expect(&[broken, m, n]));
    let ready = post(&server, "/v2/repository/index", r#"{"ready":true}"#);
    assert_eq!(sorted(&ready), expect(&[m, n]));
    // Triton's clients name no content type.
    let plain = server
        .connect()
        .request("POST", "/v2/repository/index", "", "{}");
    assert_eq!(plain.status, 200);
}

#[test]
fn orders_are_refused_by_name() {
    let server = start(&["m=echo:FP32[2]"]);
    let form = "content-type: application/x-www-form-urlencoded\r\n";
    let json = "content-type: application/json\r\n";
    let rows = [
        (
            "/v2/repository/index",
            json,
            r#"{"ready":1}"#,
            400,
            "invalid_input",
        ),
        (
            "/v2/repository/index",
            form,
            "{}",
            415,
            "unsupported_media_type",
        ),
        ("/v2/repository/other/index", json, "{}", 404, "not_found"),
        ("/v2/repository/models/m/load", json, "", 403, "forbidden"),
        ("/v2/repository/models/m/unload", json, "", 403, "forbidden"),
        (
            "/v2/repository/models/m/load",
            json,
            r#"{"parameters":{"file:1/model.onnx":"AAAA"}}"#,
            403,
            "forbidden",
        ),
        (
            "/v2/logging",
            json,
            r#"{"log_info":true}"#,
            404,
            "not_found",
        ),
        (
            "/v2/trace/setting",
            json,
            r#"{"trace_file":"/etc/x"}"#,
            403,
            "forbidden",
        ),
        (
            "/v2/models/none/trace/setting",
            json,
            "{}",
            404,
            "unknown_model",
        ),
        (
            "/v2/systemsharedmemory/region/x/register",
            json,
            "{}",
            404,
            "not_found",
        ),
    ];
    for (path, fields, body, status, code) in rows {
        let answer = server.connect().request("POST", path, fields, body);
        assert_eq!(
            (answer.status, &*answer.code()),
            (status, code),
            "{path} {body}"
        );
    }
    let long = format!("{{\"ready\":true{}}}", " ".repeat(1 << 20));
    let answer = server.connect().post("/v2/repository/index", &long);
    assert_eq!(answer.code(), "too_large");
    // No setting raises this limit.
    assert!(!answer.text().contains("max_body_bytes"), "{answer:?}");
}

#[test]
fn traces_are_set_for_the_server_and_for_models() {
    let server = start(&["m=echo:FP32[2]"]);
    let off = json!({"trace_file": "", "trace_level": ["OFF"], "trace_rate": "1000", "trace_count": "-1", "log_frequency": "0"});
    assert_eq!(get(&server, "/v2/trace/setting"), off);
    let on = r#"{"trace_level":["TIMESTAMPS"],"trace_rate":"1","trace_count":"2"}"#;
    let set = post(&server, "/v2/models/m/trace/setting", on);
    assert_eq!(set["trace_level"], json!(["TIMESTAMPS"]));
    assert_eq!(get(&server, "/v2/trace/setting"), off);
    for _ in 0..3 {
        assert_eq!(infer(&server, 1), 200);
    }
    let left = get(&server, "/v2/models/m/trace/setting");
    assert_eq!(left["trace_count"], json!("0"));
    let clear = r#"{"trace_level":null,"trace_rate":null,"trace_count":null}"#;
    assert_eq!(post(&server, "/v2/models/m/trace/setting", clear), off);
}

#[derive(Debug)]
struct Switches(Mutex<Level>);

impl Levels for Switches {
    fn get(&self) -> Level {
        *self.0.lock().unwrap()
    }

    fn set(&self, level: Level) {
        *self.0.lock().unwrap() = level;
    }
}

#[test]
fn the_log_is_set_where_the_process_lets_it() {
    let level = Level {
        error: true,
        warning: true,
        info: true,
        verbose: 0,
    };
    let server = start_config(&["m=echo:FP32[2]"], |config| {
        config.levels = Some(Arc::new(Switches(Mutex::new(level))));
    });
    let before = json!({
        "log_file": "", "log_info": true, "log_warning": true, "log_error": true, "log_verbose_level": 0, "log_format": "default",
    });
    assert_eq!(get(&server, "/v2/logging"), before);
    let set = post(
        &server,
        "/v2/logging",
        r#"{"log_info":false,"log_verbose_level":1}"#,
    );
    assert_eq!(set["log_info"], json!(false));
    assert_eq!(get(&server, "/v2/logging"), set);
    let extensions = get(&server, "/v2")["extensions"].clone();
    assert!(extensions.as_array().unwrap().contains(&json!("logging")));
    let without = get(&start(&["m=echo:FP32[2]"]), "/v2")["extensions"].clone();
    assert!(!without.as_array().unwrap().contains(&json!("logging")));
}

/// A server that loads a model when it is told to.
fn explicit(config: &mut Config) {
    config.settings.control = Control::Explicit;
}

#[test]
fn models_are_loaded_and_unloaded_when_told_to() {
    let server = start_config(&["m=echo:FP32[2]"], explicit);
    let states = |server: &Fixture| -> Vec<Value> {
        let index = post(server, "/v2/repository/index", "");
        let lines = index.as_array().unwrap().iter();
        lines.map(|line| line["state"].clone()).collect()
    };
    let load = "/v2/repository/models/m/load";
    let loaded = post(&server, load, r#"{"parameters":{}}"#);
    assert_eq!(loaded, json!({"name": "m", "load": true}));
    assert_eq!(states(&server), ["READY"]);
    assert_eq!(infer(&server, 1), 200);
    let wider = r#"{"parameters":{"config":"{\"max_batch_size\":3}"}}"#;
    post(&server, load, wider);
    assert_eq!(
        get(&server, "/v2/models/m/config")["max_batch_size"],
        json!(3)
    );
    assert_eq!(infer(&server, 2), 200);
    let stats = || get(&server, "/v2/models/m/stats")["model_stats"][0].clone();
    assert_eq!(stats()["inference_count"], json!(3));
    // The lane of the first load is counted again when it has ended.
    wait_until(
        || stats()["execution_count"] == json!(2),
        || format!("the batches of both loads: {}", stats()),
    );
    let unloaded = post(
        &server,
        "/v2/repository/models/m/unload",
        r#"{"parameters":{"unload_dependents":true}}"#,
    );
    assert_eq!(unloaded, json!({"name": "m", "unload": true}));
    assert_eq!(states(&server), ["UNAVAILABLE"]);
    assert_ne!(infer(&server, 1), 200);
    for (path, code) in [
        ("/v2/repository/models/none/load", "unknown_model"),
        ("/v2/repository/r/models/m/load", "not_found"),
    ] {
        assert_eq!(server.connect().post(path, "").code(), code, "{path}");
    }
}

#[test]
fn the_same_facts_travel_over_grpc() {
    let server = start_with(&["m=echo:FP32[2]"], same_port);
    assert_eq!(infer(&server, 1), 200);
    server.block_on(async {
        let channel = connect(&server).await;
        let named = |name: &str| (name.to_owned(), String::new());
        let (name, version) = named("m");
        let answer: ModelConfigResponse = call(
            &channel,
            "ModelConfig",
            ModelConfigRequest { name, version },
        )
        .await
        .unwrap();
        let config = answer.config.unwrap();
        assert_eq!((&*config.name, config.max_batch_size), ("m", 1));
        assert_eq!(config.input[0].data_type().as_str_name(), "TYPE_FP32");
        assert_eq!(config.input[0].dims, [2]);
        assert_eq!(config.parameters["deadline_ms"].string_value, "30000");

        let (name, version) = named("");
        let answer: ModelStatisticsResponse = call(
            &channel,
            "ModelStatistics",
            ModelStatisticsRequest { name, version },
        )
        .await
        .unwrap();
        let stats = &answer.model_stats[0];
        assert_eq!((stats.inference_count, stats.execution_count), (1, 1));
        let inference = stats.inference_stats.as_ref().unwrap();
        assert_eq!(inference.success.unwrap().count, 1);
        assert_eq!(stats.batch_stats[0].batch_size, 1);

        let (name, version) = named("none");
        let unknown = call::<_, ModelStatisticsResponse>(
            &channel,
            "ModelStatistics",
            ModelStatisticsRequest { name, version },
        );
        assert_eq!(unknown.await.unwrap_err().code(), Code::NotFound);

        let index: RepositoryIndexResponse = call(
            &channel,
            "RepositoryIndex",
            RepositoryIndexRequest::default(),
        )
        .await
        .unwrap();
        assert_eq!(
            (&*index.models[0].name, &*index.models[0].state),
            ("m", "READY")
        );

        let load = RepositoryModelLoadRequest {
            model_name: "m".to_owned(),
            ..RepositoryModelLoadRequest::default()
        };
        let refused = call::<_, RepositoryModelLoadResponse>(&channel, "RepositoryModelLoad", load);
        assert_eq!(refused.await.unwrap_err().code(), Code::PermissionDenied);

        let metadata: ServerMetadataResponse =
            call(&channel, "ServerMetadata", ServerMetadataRequest {})
                .await
                .unwrap();
        let rest = get(&server, "/v2")["extensions"].clone();
        assert_eq!(json!(metadata.extensions), rest);
    });
}

#[test]
fn settings_travel_over_grpc() {
    let level = Level {
        error: true,
        warning: true,
        info: true,
        verbose: 0,
    };
    let server = start_config(&["m=echo:FP32[2]"], |config| {
        same_port(&mut config.net);
        config.levels = Some(Arc::new(Switches(Mutex::new(level))));
    });
    server.block_on(async {
        let channel = connect(&server).await;
        let value = |choice| log_settings_request::SettingValue {
            parameter_choice: Some(choice),
        };
        let set = |name: &str, choice| LogSettingsRequest {
            settings: HashMap::from([(name.to_owned(), value(choice))]),
        };
        let quiet = set("log_info", LogChoice::BoolParam(false));
        let answer: LogSettingsResponse = call(&channel, "LogSettings", quiet).await.unwrap();
        assert_eq!(answer.settings.len(), 6);
        assert_eq!(get(&server, "/v2/logging")["log_info"], json!(false));
        let file = set("log_file", LogChoice::StringParam("/tmp/x".to_owned()));
        let refused = call::<_, LogSettingsResponse>(&channel, "LogSettings", file).await;
        assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);

        let setting = |texts: &[&str]| trace_setting_request::SettingValue {
            value: texts.iter().map(|text| (*text).to_owned()).collect(),
        };
        let trace = |settings: Vec<(&str, trace_setting_request::SettingValue)>| {
            let settings = settings.into_iter();
            TraceSettingRequest {
                settings: settings
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect(),
                model_name: "m".to_owned(),
            }
        };
        let on = trace(vec![("trace_level", setting(&["TIMESTAMPS"]))]);
        let answer: TraceSettingResponse = call(&channel, "TraceSetting", on).await.unwrap();
        assert_eq!(answer.settings["trace_level"].value, ["TIMESTAMPS"]);
        let cleared = trace(vec![("trace_level", setting(&[]))]);
        let answer: TraceSettingResponse = call(&channel, "TraceSetting", cleared).await.unwrap();
        assert_eq!(answer.settings["trace_level"].value, ["OFF"]);
    });
}

#[test]
fn the_clients_of_both_families_load_over_grpc() {
    let server = start_config(&["m=echo:FP32[2]"], |config| {
        same_port(&mut config.net);
        explicit(config);
    });
    server.block_on(async {
        let channel = connect(&server).await;
        let triton = RepositoryModelLoadRequest {
            model_name: "m".to_owned(),
            ..RepositoryModelLoadRequest::default()
        };
        // KServe's messages have the model's name where Triton's have the repository's.
        let kserve = RepositoryModelLoadRequest {
            repository_name: "m".to_owned(),
            ..RepositoryModelLoadRequest::default()
        };
        for request in [triton, kserve.clone()] {
            let answer: RepositoryModelLoadResponse =
                call(&channel, "RepositoryModelLoad", request)
                    .await
                    .unwrap();
            assert_eq!((&*answer.model_name, answer.is_loaded), ("m", true));
        }
        let bytes = ModelRepositoryParameter {
            parameter_choice: Some(ParameterChoice::BytesParam("x".into())),
        };
        let file = RepositoryModelLoadRequest {
            parameters: HashMap::from([("file:1/model.onnx".to_owned(), bytes)]),
            ..kserve
        };
        let refused = call::<_, RepositoryModelLoadResponse>(&channel, "RepositoryModelLoad", file);
        assert_eq!(refused.await.unwrap_err().code(), Code::PermissionDenied);
        let unload = RepositoryModelUnloadRequest {
            repository_name: "m".to_owned(),
            ..RepositoryModelUnloadRequest::default()
        };
        let answer: RepositoryModelUnloadResponse = call(&channel, "RepositoryModelUnload", unload)
            .await
            .unwrap();
        assert!(answer.is_unloaded);
        assert_ne!(server.connect().get("/v2/models/m/ready").status, 200);
    });
}

#[test]
fn the_document_describes_what_is_served() {
    let server = start(&[
        "m=echo:FP32[2]",
        "n=echo:BYTES",
        "broken=echo:fail_load=true",
    ]);
    let document = get(&server, "/openapi.json");
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().unwrap();
    for path in [
        "/predict/m",
        "/predict/n/batch",
        "/predict/{name}",
        "/v2/models/{name}/infer",
    ] {
        assert!(paths.contains_key(path), "{path}");
    }
    assert!(!paths.contains_key("/predict/broken"));
    let body = &paths["/predict/m"]["post"]["requestBody"]["content"]["application/json"];
    let example = body["example"].to_string();
    assert_eq!(server.connect().post("/predict/m", &example).status, 200);
    let body =
        &paths["/v2/models/{name}/infer"]["post"]["requestBody"]["content"]["application/json"];
    let example = body["example"].to_string();
    assert_eq!(
        server.connect().post("/v2/models/m/infer", &example).status,
        200
    );
    // Every reference leads somewhere.
    let text = document.to_string();
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(
            document["components"]["schemas"].get(name).is_some(),
            "{name}"
        );
    }
    let page = server.connect().get("/docs");
    assert_eq!(page.field("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.text().contains("openapi.json"));
}

#[test]
fn what_sagemaker_asks_is_answered() {
    assert_eq!(
        start(&["m=echo:FP32[2]"]).connect().get("/ping").status,
        200
    );
}
