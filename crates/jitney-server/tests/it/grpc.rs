//! gRPC over real sockets, by tonic's client.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use http::uri::PathAndQuery;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use jitney_server::config::{ModelOptions, NetConfig};
use jitney_server::grpc::generated::infer_parameter::ParameterChoice;
use jitney_server::grpc::generated::model_infer_request::{
    InferInputTensor, InferRequestedOutputTensor,
};
use jitney_server::grpc::generated::{
    InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse,
    ModelMetadataRequest, ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse,
    ModelStreamInferResponse, ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest,
    ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
};
use prost::Message;
use tokio::sync::mpsc;
use tonic::client::Grpc;
use tonic::codec::{CompressionEncoding, Streaming};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, IntoRequest, Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::support::{Fixture, start_given, start_queued, start_with};

/// Both protocols on one port.
pub(crate) fn same_port(net: &mut NetConfig) {
    net.grpc = Some(net.http);
}

/// gRPC on a port of its own.
fn own_port(net: &mut NetConfig) {
    net.grpc = Some(SocketAddr::from((Ipv6Addr::LOCALHOST, 0)));
}

pub(crate) async fn connect(server: &Fixture) -> Channel {
    connect_to(server.running.grpc_addr().unwrap()).await
}

async fn connect_to(address: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect().await.unwrap()
}

async fn client(channel: &Channel) -> Grpc<Channel> {
    let mut grpc = Grpc::new(channel.clone()).max_decoding_message_size(usize::MAX);
    grpc.ready().await.unwrap();
    grpc
}

fn path(method: &str) -> PathAndQuery {
    let path = match method.contains('/') {
        true => format!("/{method}"),
        false => format!("/inference.GRPCInferenceService/{method}"),
    };
    PathAndQuery::from_str(&path).unwrap()
}

/// One call of a method, of the inference service where no other is named.
pub(crate) async fn call<Q, A>(
    channel: &Channel,
    method: &str,
    request: impl IntoRequest<Q>,
) -> Result<A, Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let mut grpc = client(channel).await;
    let answer = grpc
        .unary(request.into_request(), path(method), ProstCodec::default())
        .await;
    answer.map(Response::into_inner)
}

async fn infer(
    channel: &Channel,
    request: impl IntoRequest<ModelInferRequest>,
) -> Result<ModelInferResponse, Status> {
    call(channel, "ModelInfer", request).await
}

/// Opens a stream.
pub(crate) async fn open<Q, A>(
    channel: &Channel,
    method: &str,
    request: Request<impl Stream<Item = Q> + Send + 'static>,
) -> Result<Streaming<A>, Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let mut grpc = client(channel).await;
    let answer = grpc
        .streaming(request, path(method), ProstCodec::default())
        .await;
    answer.map(Response::into_inner)
}

type Answers = Streaming<ModelStreamInferResponse>;

/// A stream of requests that goes on until the sender is dropped.
async fn converse(channel: &Channel) -> (mpsc::Sender<ModelInferRequest>, Answers) {
    let (sender, requests) = requests();
    (
        sender,
        open(channel, "ModelStreamInfer", Request::new(requests))
            .await
            .unwrap(),
    )
}

fn requests() -> (
    mpsc::Sender<ModelInferRequest>,
    impl Stream<Item = ModelInferRequest> + Send,
) {
    let (sender, receiver) = mpsc::channel(64);
    let next =
        |mut receiver: mpsc::Receiver<_>| async move { Some((receiver.recv().await?, receiver)) };
    (sender, stream::unfold(receiver, next))
}

fn tensor(datatype: &str, shape: &[i64]) -> InferInputTensor {
    InferInputTensor {
        name: "input".to_owned(),
        datatype: datatype.to_owned(),
        shape: shape.to_vec(),
        ..InferInputTensor::default()
    }
}

pub(crate) fn raw(
    model: &str,
    datatype: &str,
    shape: &[i64],
    bytes: impl Into<Bytes>,
) -> ModelInferRequest {
    ModelInferRequest {
        model_name: model.to_owned(),
        inputs: vec![tensor(datatype, shape)],
        raw_input_contents: vec![bytes.into()],
        ..ModelInferRequest::default()
    }
}

fn typed(
    model: &str,
    datatype: &str,
    shape: &[i64],
    contents: InferTensorContents,
) -> ModelInferRequest {
    let contents = Some(contents);
    ModelInferRequest {
        model_name: model.to_owned(),
        inputs: vec![InferInputTensor {
            contents,
            ..tensor(datatype, shape)
        }],
        ..ModelInferRequest::default()
    }
}

/// One row of one number for model `m`.
fn number(value: f32) -> ModelInferRequest {
    raw("m", "FP32", &[1, 1], floats(&[value]))
}

fn floats(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn parameter(choice: ParameterChoice) -> InferParameter {
    InferParameter {
        parameter_choice: Some(choice),
    }
}

fn with(mut request: ModelInferRequest, name: &str, choice: ParameterChoice) -> ModelInferRequest {
    request
        .parameters
        .insert(name.to_owned(), parameter(choice));
    request
}

fn named(id: &str, request: ModelInferRequest) -> ModelInferRequest {
    ModelInferRequest {
        id: id.to_owned(),
        ..request
    }
}

/// What the last answer to a request says about itself.
fn is_final(answer: &ModelStreamInferResponse) -> Option<bool> {
    let answer = answer.infer_response.as_ref()?;
    match answer
        .parameters
        .get("triton_final_response")?
        .parameter_choice
    {
        Some(ParameterChoice::BoolParam(last)) => Some(last),
        _ => None,
    }
}

fn word(status: &Status) -> &str {
    status
        .metadata()
        .get("jitney-code")
        .map_or("", |word| word.to_str().unwrap())
}

#[test]
fn a_model_is_asked_on_either_port() {
    for ports in [same_port, own_port] {
        let server = start_with(&["m=echo:FP32[2]"], ports);
        let answer = server.block_on(async {
            let request = raw("m", "FP32", &[1, 2], floats(&[0.5, -1.0]));
            infer(&connect(&server).await, named("42", request)).await
        });
        let answer = answer.unwrap();
        assert_eq!((&*answer.model_name, &*answer.model_version), ("m", "1"));
        assert_eq!(answer.id, "42");
        assert_eq!(answer.raw_output_contents, [floats(&[0.5, -1.0])]);
        assert_eq!(
            (&*answer.outputs[0].datatype, &answer.outputs[0].shape),
            ("FP32", &vec![1, 2])
        );
        assert_eq!(server.connect().get("/v2/health/live").status, 200);
        assert_eq!(
            server.scrape(
                "jitney_requests_total{model=\"m\",version=\"1\",route=\"grpc\",code=\"ok\"}"
            ),
            Some(1.0)
        );
    }
}

#[test]
fn each_port_serves_its_own() {
    let server = start_with(&["m=echo:FP32[1]"], own_port);
    let mut plain = crate::support::Client::connect(server.running.grpc_addr().unwrap());
    for path in [
        "/v2/health/live",
        "/metrics",
        "/inference.GRPCInferenceService/ModelInfer",
    ] {
        assert_eq!(plain.get(path).status, 404, "{path}");
    }
    let status = server.block_on(async {
        let channel = connect_to(server.address()).await;
        infer(&channel, number(1.0)).await.unwrap_err()
    });
    assert_eq!(status.code(), Code::Unimplemented);
    let status = server.block_on(async {
        let channel = connect(&server).await;
        call::<ServerLiveRequest, ServerLiveResponse>(&channel, "metrics/x", ServerLiveRequest {})
            .await
            .unwrap_err()
    });
    assert_eq!(status.code(), Code::Unimplemented);
}

#[test]
fn every_datatype_travels_raw() {
    let rows = [
        ("BOOL", vec![1, 0]),
        ("UINT8", vec![0, 255]),
        ("INT8", vec![128, 127]),
        ("UINT16", vec![0, 0, 255, 255]),
        ("INT16", vec![0, 128, 255, 127]),
        ("FP16", vec![0, 0x7e, 0, 0x3c]),
        ("BF16", vec![0xc0, 0x7f, 0x80, 0x3f]),
        (
            "UINT32",
            [0, u32::MAX].iter().flat_map(|n| n.to_le_bytes()).collect(),
        ),
        (
            "INT32",
            [i32::MIN, i32::MAX]
                .iter()
                .flat_map(|n| n.to_le_bytes())
                .collect(),
        ),
        ("FP32", floats(&[f32::NAN, f32::NEG_INFINITY])),
        (
            "UINT64",
            [0, u64::MAX].iter().flat_map(|n| n.to_le_bytes()).collect(),
        ),
        (
            "INT64",
            [i64::MIN, i64::MAX]
                .iter()
                .flat_map(|n| n.to_le_bytes())
                .collect(),
        ),
        (
            "FP64",
            [f64::MIN, -0.0]
                .iter()
                .flat_map(|n| n.to_le_bytes())
                .collect(),
        ),
        ("BYTES", b"\x03\0\0\0a\0b\0\0\0\0".to_vec()),
    ];
    let sources: Vec<_> = rows
        .iter()
        .map(|(name, _)| format!("{name}=echo:{name}[2]"))
        .collect();
    let sources: Vec<_> = sources.iter().map(String::as_str).collect();
    let server = start_with(&sources, same_port);
    server.block_on(async {
        let channel = connect(&server).await;
        for (name, bytes) in rows {
            let answer = infer(&channel, raw(name, name, &[1, 2], bytes.clone()))
                .await
                .unwrap();
            assert_eq!(answer.raw_output_contents, [bytes], "{name}");
            assert_eq!(answer.outputs[0].datatype, name);
            assert!(answer.outputs[0].contents.is_none());
        }
    });
}

#[test]
fn every_datatype_with_a_field_travels_typed() {
    let none = InferTensorContents::default;
    let rows = [
        (
            "BOOL",
            InferTensorContents {
                bool_contents: vec![true, false],
                ..none()
            },
        ),
        (
            "UINT8",
            InferTensorContents {
                uint_contents: vec![0, 255],
                ..none()
            },
        ),
        (
            "UINT16",
            InferTensorContents {
                uint_contents: vec![0, 65_535],
                ..none()
            },
        ),
        (
            "UINT32",
            InferTensorContents {
                uint_contents: vec![0, u32::MAX],
                ..none()
            },
        ),
        (
            "UINT64",
            InferTensorContents {
                uint64_contents: vec![0, u64::MAX],
                ..none()
            },
        ),
        (
            "INT8",
            InferTensorContents {
                int_contents: vec![-128, 127],
                ..none()
            },
        ),
        (
            "INT16",
            InferTensorContents {
                int_contents: vec![-32_768, 32_767],
                ..none()
            },
        ),
        (
            "INT32",
            InferTensorContents {
                int_contents: vec![i32::MIN, i32::MAX],
                ..none()
            },
        ),
        (
            "INT64",
            InferTensorContents {
                int64_contents: vec![i64::MIN, i64::MAX],
                ..none()
            },
        ),
        (
            "FP32",
            InferTensorContents {
                fp32_contents: vec![-0.5, f32::MAX],
                ..none()
            },
        ),
        (
            "FP64",
            InferTensorContents {
                fp64_contents: vec![-0.5, f64::MAX],
                ..none()
            },
        ),
        (
            "BYTES",
            InferTensorContents {
                bytes_contents: vec!["a\0b".into(), Bytes::new()],
                ..none()
            },
        ),
    ];
    let sources: Vec<_> = rows
        .iter()
        .map(|(name, _)| format!("{name}=echo:{name}[2]"))
        .collect();
    let sources: Vec<_> = sources.iter().map(String::as_str).collect();
    let server = start_with(&sources, same_port);
    server.block_on(async {
        let channel = connect(&server).await;
        for (name, contents) in rows {
            let request = typed(name, name, &[1, 2], contents.clone());
            let answer = infer(&channel, request).await.unwrap();
            assert_eq!(answer.outputs[0].contents, Some(contents), "{name}");
            assert!(answer.raw_output_contents.is_empty());
        }
    });
}

#[test]
fn requests_that_cannot_be_meant_are_refused_with_words() {
    let none = InferTensorContents::default;
    let floats_of = |values: &[f32]| InferTensorContents {
        fp32_contents: values.to_vec(),
        ..none()
    };
    let ints = |values: &[i32]| InferTensorContents {
        int_contents: values.to_vec(),
        ..none()
    };
    let mut both = number(1.0);
    both.inputs[0].contents = Some(floats_of(&[1.0]));
    let mut too_few = number(1.0);
    too_few.inputs.push(tensor("FP32", &[1, 1]));
    let mut shared = number(1.0);
    let region = parameter(ParameterChoice::StringParam("r".to_owned()));
    shared.inputs[0]
        .parameters
        .insert("shared_memory_region".to_owned(), region);
    let mut unknown_output = number(1.0);
    unknown_output.outputs.push(InferRequestedOutputTensor {
        name: "x".to_owned(),
        ..Default::default()
    });
    let rows = [
        (
            both,
            "inputs[0].contents: expected none beside raw_input_contents",
        ),
        (
            too_few,
            "raw_input_contents: expected as many as there are inputs, 2, got 1",
        ),
        (
            shared,
            "inputs[0].parameters.shared_memory_region: expected a request without this parameter",
        ),
        (
            unknown_output,
            "outputs[0].name: expected one of \"output\", got \"x\"",
        ),
        (
            raw("m", "FP32", &[1, 1], vec![0; 3]),
            "raw_input_contents[0]: expected 4 bytes",
        ),
        (
            raw("m", "FP64", &[1, 1], vec![0; 8]),
            "inputs[0].datatype: expected FP32",
        ),
        (
            raw("m", "FP32", &[1, 2], floats(&[1.0, 2.0])),
            "inputs[0].shape: expected [-1, 1]",
        ),
        (
            raw("m", "FP32", &[-1, 1], floats(&[1.0])),
            "inputs[0].shape[0]: expected a size of 0 or more, got -1",
        ),
        (
            typed("m", "FP32", &[1, 1], ints(&[1])),
            "inputs[0].contents: expected FP32 in fp32_contents, got int_contents",
        ),
        (
            typed("m", "FP32", &[1, 1], floats_of(&[1.0, 2.0])),
            "needs 1 elements of 4 bytes each, but the data has 8 bytes",
        ),
        (
            typed("n8", "INT8", &[1, 1], ints(&[128])),
            "int_contents[0]: expected a number in the range of INT8, got 128",
        ),
        (
            typed("n16", "FP16", &[1, 1], none()),
            "inputs[0].contents: expected FP16 in raw_input_contents",
        ),
        (
            typed("m", "FP32", &[1, 1], none()),
            "inputs[0]: expected elements in contents or in raw_input_contents, got neither",
        ),
        (
            with(number(1.0), "triton_x", ParameterChoice::BoolParam(true)),
            "this parameter: names that begin with triton_ are reserved",
        ),
        (
            with(number(1.0), "timeout", ParameterChoice::DoubleParam(1.0)),
            "parameters.timeout: expected an integer of microseconds, got 1.0",
        ),
        (
            with(number(1.0), "priority", ParameterChoice::Int64Param(-1)),
            "parameters.priority: expected an integer, 1 or more, or 0 for none, got -1",
        ),
        (
            ModelInferRequest {
                inputs: Vec::new(),
                raw_input_contents: Vec::new(),
                ..number(1.0)
            },
            "\"input\" too, but it is missing",
        ),
    ];
    let server = start_with(
        &["m=echo:FP32[1]", "n8=echo:INT8[1]", "n16=echo:FP16[1]"],
        same_port,
    );
    server.block_on(async {
        let channel = connect(&server).await;
        for (request, words) in rows {
            let status = infer(&channel, request).await.unwrap_err();
            assert_eq!(
                (status.code(), word(&status)),
                (Code::InvalidArgument, "invalid_input"),
                "{words}"
            );
            assert!(
                status.message().contains(words),
                "{words}: {}",
                status.message()
            );
        }
        infer(&channel, number(1.0)).await.unwrap();
    });
    assert_eq!(server.stats().received, 1);
}

#[test]
fn failures_have_the_status_of_their_row() {
    let server = start_with(&["m=echo:FP32[1],faulty=true"], |net| {
        same_port(net);
        net.max_body_bytes = 4096;
    });
    let version = |version: &str| ModelInferRequest {
        model_version: version.to_owned(),
        ..number(1.0)
    };
    let rows = [
        (
            raw("x", "FP32", &[1, 1], floats(&[1.0])),
            Code::NotFound,
            "unknown_model",
        ),
        (version("7"), Code::NotFound, "unknown_model"),
        (number(-1.0), Code::Internal, "model_error"),
        (number(-6.0), Code::InvalidArgument, "invalid_input"),
        (
            raw("m", "FP32", &[1, 1], vec![0; 5000]),
            Code::ResourceExhausted,
            "too_large",
        ),
    ];
    server.block_on(async {
        let channel = connect(&server).await;
        for (request, code, name) in rows {
            let status = infer(&channel, request).await.unwrap_err();
            assert_eq!((status.code(), word(&status)), (code, name), "{status:?}");
        }
        let status = call::<_, ServerLiveResponse>(&channel, "Nothing", ServerLiveRequest {})
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);
        let status =
            call::<_, ServerLiveResponse>(&channel, "other.Service/X", ServerLiveRequest {})
                .await
                .unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);
        infer(&channel, version("1")).await.unwrap();
    });
}

#[test]
fn a_full_queue_is_told_when_to_come_back() {
    let server = start_queued(&["m=echo:FP32[1],call_ms=300"], 1, same_port);
    let status = server.block_on(async {
        let channel = connect(&server).await;
        let all = (0..4).map(|_| infer(&channel, number(1.0)));
        let answers = futures_util::future::join_all(all).await;
        answers.into_iter().find_map(Result::err).unwrap()
    });
    assert_eq!(
        (status.code(), word(&status)),
        (Code::ResourceExhausted, "overloaded")
    );
    let pushback = status.metadata().get("grpc-retry-pushback-ms").unwrap();
    assert!(pushback.to_str().unwrap().parse::<u64>().unwrap() > 0);
}

#[test]
fn the_smallest_time_limit_counts() {
    let server = start_with(&["m=echo:FP32[1],call_ms=1000"], same_port);
    let timed = |metadata: Option<&'static str>, micros: Option<i64>| {
        let request = match micros {
            Some(micros) => with(number(1.0), "timeout", ParameterChoice::Int64Param(micros)),
            None => number(1.0),
        };
        let mut request = Request::new(request);
        if let Some(metadata) = metadata {
            request
                .metadata_mut()
                .insert("grpc-timeout", metadata.parse().unwrap());
        }
        request
    };
    let rows = [
        (Some("100m"), None),
        (None, Some(100_000)),
        (Some("100m"), Some(50_000_000)),
        (Some("50S"), Some(100_000)),
    ];
    server.block_on(async {
        let channel = connect(&server).await;
        let busy = infer(&channel, number(0.0));
        let late = async {
            for (metadata, micros) in rows {
                let began = Instant::now();
                let status = infer(&channel, timed(metadata, micros)).await.unwrap_err();
                // What could not be in time is refused at once, as soon as it is known how long the model takes.
                let refused = matches!(
                    (status.code(), word(&status)),
                    (Code::DeadlineExceeded, "deadline_exceeded")
                        | (Code::ResourceExhausted, "overloaded")
                );
                assert!(refused, "{metadata:?} {micros:?} {status:?}");
                assert!(began.elapsed() < Duration::from_millis(900));
            }
        };
        let (busy, ()) = tokio::join!(busy, late);
        busy.unwrap();
        let wrong = infer(&channel, timed(Some("soon"), None))
            .await
            .unwrap_err();
        assert_eq!(wrong.code(), Code::InvalidArgument);
    });
    assert_eq!(server.stats().ok, 1);
}

#[test]
fn a_client_who_leaves_cancels() {
    let server = start_with(&["m=echo:FP32[1],call_ms=300"], same_port);
    server.block_on(async {
        let channel = connect(&server).await;
        let mut running = Box::pin(infer(&channel, number(1.0)));
        while server.stats().running == 0 {
            tokio::select! { _ = running.as_mut() => (), () = tokio::task::yield_now() => () }
        }
        let mut queued = Box::pin(infer(&channel, number(2.0)));
        while server.stats().queued == 0 {
            tokio::select! { _ = queued.as_mut() => (), () = tokio::task::yield_now() => () }
        }
        drop(queued);
        running.await.unwrap();
    });
    let stats = server.stats();
    assert_eq!((stats.ok, stats.cancelled), (1, 1));
}

#[test]
fn outputs_are_chosen_and_classified() {
    let server = start_with(&["m=echo:a=FP32[3],b=INT64[1]"], same_port);
    let mut request = raw("m", "FP32", &[1, 3], floats(&[0.1, 0.7, 0.2]));
    request.inputs[0].name = "a".to_owned();
    request.inputs.push(InferInputTensor {
        name: "b".to_owned(),
        ..tensor("INT64", &[1, 1])
    });
    request
        .raw_input_contents
        .push(vec![7, 0, 0, 0, 0, 0, 0, 0].into());
    server.block_on(async {
        let channel = connect(&server).await;
        let all = infer(&channel, request.clone()).await.unwrap();
        let names: Vec<_> = all
            .outputs
            .iter()
            .map(|output| output.name.as_str())
            .collect();
        let chosen = |name: &str| InferRequestedOutputTensor {
            name: name.to_owned(),
            ..Default::default()
        };
        request.outputs = vec![chosen(names[1])];
        let second = infer(&channel, request.clone()).await.unwrap();
        assert_eq!(
            (second.outputs.len(), second.outputs[0].name.as_str()),
            (1, names[1])
        );
        assert_eq!(second.raw_output_contents[0][0], 7);
        let mut classes = chosen(names[0]);
        let two = parameter(ParameterChoice::Int64Param(2));
        classes.parameters.insert("classification".to_owned(), two);
        request.outputs = vec![classes];
        let top = infer(&channel, request.clone()).await.unwrap();
        assert_eq!(
            (top.outputs[0].datatype.as_str(), &top.outputs[0].shape),
            ("BYTES", &vec![1, 2])
        );
        assert_eq!(
            top.raw_output_contents[0],
            &b"\x05\0\0\x000.7:1\x05\0\0\x000.2:2"[..]
        );
    });
}

#[test]
fn the_server_tells_of_itself_and_its_models() {
    let server = start_with(
        &["m=echo:FP32[2]", "n=echo:FP32[2],fail_load=true"],
        same_port,
    );
    server.block_on(async {
        let channel = connect(&server).await;
        let live: ServerLiveResponse = call(&channel, "ServerLive", ServerLiveRequest {})
            .await
            .unwrap();
        let ready: ServerReadyResponse = call(&channel, "ServerReady", ServerReadyRequest {})
            .await
            .unwrap();
        assert!(live.live && ready.ready);
        for (name, expected) in [("m", true), ("n", false), ("x", false)] {
            let request = ModelReadyRequest {
                name: name.to_owned(),
                ..Default::default()
            };
            let ready: ModelReadyResponse = call(&channel, "ModelReady", request).await.unwrap();
            assert_eq!(ready.ready, expected, "{name}");
        }
        let metadata: ServerMetadataResponse =
            call(&channel, "ServerMetadata", ServerMetadataRequest {})
                .await
                .unwrap();
        assert_eq!(metadata.name, "jitney");
        let request = ModelMetadataRequest {
            name: "m".to_owned(),
            version: "1".to_owned(),
        };
        let model: ModelMetadataResponse = call(&channel, "ModelMetadata", request).await.unwrap();
        assert_eq!(
            (&*model.name, &model.versions),
            ("m", &vec!["1".to_owned()])
        );
        assert_eq!(
            (&*model.inputs[0].datatype, &model.inputs[0].shape),
            ("FP32", &vec![-1, 2])
        );
        let request = ModelMetadataRequest {
            name: "n".to_owned(),
            ..Default::default()
        };
        let status = call::<_, ModelMetadataResponse>(&channel, "ModelMetadata", request)
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
    });
}

/// The messages of the health service, written down here once more.
#[derive(Clone, PartialEq, Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Message)]
struct HealthResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

#[test]
fn health_follows_readiness_and_the_drain() {
    const SERVING: i32 = 1;
    const NOT_SERVING: i32 = 2;
    const SERVICE_UNKNOWN: i32 = 3;
    let server = start_with(
        &[
            "m=echo:FP32[2],call_ms=300",
            "n=echo:FP32[2],fail_load=true",
        ],
        same_port,
    );
    let asked = |service: &str| HealthRequest {
        service: service.to_owned(),
    };
    server.block_on(async {
        let channel = connect(&server).await;
        let check = async |service: &str| {
            let answer: Result<HealthResponse, Status> =
                call(&channel, "grpc.health.v1.Health/Check", asked(service)).await;
            answer
                .map(|answer| answer.status)
                .map_err(|status| status.code())
        };
        let rows = [
            ("", Ok(SERVING)),
            ("inference.GRPCInferenceService", Ok(SERVING)),
            ("m", Ok(SERVING)),
            ("n", Ok(NOT_SERVING)),
            ("x", Err(Code::NotFound)),
        ];
        for (service, expected) in rows {
            assert_eq!(check(service).await, expected, "{service}");
        }
        let watch = async |service: &str| {
            let request = Request::new(stream::iter([asked(service)]));
            open::<_, HealthResponse>(&channel, "grpc.health.v1.Health/Watch", request)
                .await
                .unwrap()
        };
        let mut unknown = watch("x").await;
        assert_eq!(
            unknown.message().await.unwrap().unwrap().status,
            SERVICE_UNKNOWN
        );
        let mut watched = watch("").await;
        assert_eq!(watched.message().await.unwrap().unwrap().status, SERVING);
        let work = raw("m", "FP32", &[1, 2], floats(&[1.0, 2.0]));
        let working = infer(&channel, work);
        let drained = async {
            while server.stats().running == 0 {
                tokio::task::yield_now().await;
            }
            server.running.drain();
            assert_eq!(
                watched.message().await.unwrap().unwrap().status,
                NOT_SERVING
            );
            assert_eq!(
                watched.message().await.unwrap_err().code(),
                Code::Unavailable
            );
        };
        let (working, ()) = tokio::join!(working, drained);
        working.unwrap();
    });
    assert!(server.block_on(server.running.wait()).unwrap().is_clean());
}

/// The messages of reflection as far as they are looked at here.
#[derive(Clone, PartialEq, Message)]
struct Question {
    #[prost(string, optional, tag = "4")]
    symbol: Option<String>,
    #[prost(string, optional, tag = "7")]
    list: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Told {
    #[prost(message, optional, tag = "4")]
    files: Option<Names>,
    #[prost(message, optional, tag = "6")]
    services: Option<Services>,
}

#[derive(Clone, PartialEq, Message)]
struct Names {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    bytes: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
struct Services {
    #[prost(message, repeated, tag = "1")]
    service: Vec<HealthRequest>,
}

#[test]
fn reflection_lists_and_describes_the_services() {
    let server = start_with(&["m=echo:FP32[2]"], same_port);
    server.block_on(async {
        let channel = connect(&server).await;
        for version in ["v1", "v1alpha"] {
            let method = format!("grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
            let questions = [
                Question {
                    list: Some(String::new()),
                    symbol: None,
                },
                Question {
                    symbol: Some("inference.ModelInferRequest".to_owned()),
                    list: None,
                },
            ];
            let request = Request::new(stream::iter(questions));
            let mut told: Streaming<Told> = open(&channel, &method, request).await.unwrap();
            let services = told
                .message()
                .await
                .unwrap()
                .unwrap()
                .services
                .unwrap()
                .service;
            assert!(
                services
                    .iter()
                    .any(|found| found.service == "inference.GRPCInferenceService")
            );
            let files = told.message().await.unwrap().unwrap().files.unwrap().bytes;
            assert!(
                files[0]
                    .windows(16)
                    .any(|found| *found == b"ModelInferRequest"[..16])
            );
            assert!(told.message().await.unwrap().is_none());
        }
    });
}

#[test]
fn requests_share_a_stream_and_their_failures_do_not_end_it() {
    let server = start_with(&["m=echo:FP32[1],faulty=true"], same_port);
    server.block_on(async {
        let (sender, mut answers) = converse(&connect(&server).await).await;
        for (id, value) in [("a", 1.0), ("b", -1.0), ("c", 3.0)] {
            sender.send(named(id, number(value))).await.unwrap();
        }
        sender
            .send(named("d", raw("x", "FP32", &[1, 1], floats(&[1.0]))))
            .await
            .unwrap();
        let mut by_id = HashMap::new();
        for _ in 0..4 {
            let answer = answers.message().await.unwrap().unwrap();
            assert_eq!(is_final(&answer), Some(true));
            let response = answer.infer_response.clone().unwrap();
            by_id.insert(response.id.clone(), (answer.error_message, response));
        }
        assert_eq!(by_id["a"].1.raw_output_contents, [floats(&[1.0])]);
        assert_eq!(by_id["c"].1.raw_output_contents, [floats(&[3.0])]);
        let code = |id: &str| {
            by_id[id].1.parameters["jitney_code"]
                .parameter_choice
                .clone()
        };
        assert_eq!(
            code("b"),
            Some(ParameterChoice::StringParam("model_error".to_owned()))
        );
        assert_eq!(
            code("d"),
            Some(ParameterChoice::StringParam("unknown_model".to_owned()))
        );
        assert!(by_id["b"].0.contains("told to raise") && by_id["a"].0.is_empty());
        sender.send(named("e", number(5.0))).await.unwrap();
        assert_eq!(
            answers
                .message()
                .await
                .unwrap()
                .unwrap()
                .infer_response
                .unwrap()
                .id,
            "e"
        );
        drop(sender);
        assert!(answers.message().await.unwrap().is_none());
    });
}

#[test]
fn a_failure_ends_the_stream_where_the_client_wants_that() {
    let server = start_with(&["m=echo:FP32[1],faulty=true"], same_port);
    server.block_on(async {
        let channel = connect(&server).await;
        let mut request = Request::new(stream::iter([number(-1.0)]).chain(stream::pending()));
        request
            .metadata_mut()
            .insert("triton_grpc_error", "true".parse().unwrap());
        let mut answers: Answers = open(&channel, "ModelStreamInfer", request).await.unwrap();
        let status = answers.message().await.unwrap_err();
        assert_eq!(
            (status.code(), word(&status)),
            (Code::Internal, "model_error")
        );
    });
}

#[test]
fn a_model_that_streams_answers_many_times() {
    let server = start_with(&["m=echo:FP32[1],results=5,faulty=true"], same_port);
    server.block_on(async {
        let channel = connect(&server).await;
        let (sender, mut answers) = converse(&channel).await;
        let asked = ParameterChoice::BoolParam(true);
        let request = with(
            named("a", number(1.0)),
            "triton_enable_empty_final_response",
            asked,
        );
        sender.send(request).await.unwrap();
        for _ in 0..5 {
            let answer = answers.message().await.unwrap().unwrap();
            assert_eq!(is_final(&answer), Some(false));
            assert_eq!(
                answer.infer_response.unwrap().raw_output_contents,
                [floats(&[1.0])]
            );
        }
        let last = answers.message().await.unwrap().unwrap();
        assert_eq!(
            (is_final(&last), last.infer_response.unwrap().outputs.len()),
            (Some(true), 0)
        );
        // Without that wish nothing follows the results, and a failure in the middle is the last answer to its request.
        sender.send(named("b", number(-1.0))).await.unwrap();
        let mut results = 0;
        let failed = loop {
            let answer = answers.message().await.unwrap().unwrap();
            assert_eq!(answer.infer_response.as_ref().unwrap().id, "b");
            if !answer.error_message.is_empty() {
                break answer;
            }
            results += 1;
        };
        assert_eq!((results, is_final(&failed)), (2, Some(true)));
        sender.send(named("c", number(2.0))).await.unwrap();
        drop(sender);
        let rest: Vec<_> = answers
            .map(|answer| is_final(&answer.unwrap()))
            .collect()
            .await;
        assert_eq!(rest, [Some(false); 5]);
        let status = infer(&channel, number(1.0)).await.unwrap_err();
        assert!(status.message().contains("ModelStreamInfer"), "{status:?}");
    });
}

#[test]
fn a_reader_who_does_not_read_holds_nobody_up_and_ends_the_model_when_he_leaves() {
    let server = start_with(&["m=echo:FP32[20000],results=1000000"], same_port);
    server.block_on(async {
        let channel = connect(&server).await;
        let big = || raw("m", "FP32", &[1, 20_000], vec![0; 80_000]);
        let (lazy, unread) = converse(&channel).await;
        lazy.send(big()).await.unwrap();
        let other = connect(&server).await;
        let (eager, mut answers) = converse(&other).await;
        eager.send(big()).await.unwrap();
        for _ in 0..200 {
            assert_eq!(answers.message().await.unwrap().unwrap().error_message, "");
        }
        assert_eq!(server.stats().running, 2);
        // What a stream may have on its way is bounded, so the other one has not come far.
        let streamed = server.scrape("jitney_streamed_results_total{model=\"m\",version=\"1\"}");
        assert!(
            streamed.is_none_or(|streamed| streamed < 400.0),
            "{streamed:?}"
        );
        drop((lazy, unread, eager, answers));
        let ended = || server.stats().cancelled == 2 && server.stats().running == 0;
        while !ended() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
}

#[test]
fn a_reader_who_reads_nothing_for_too_long_is_given_up() {
    let server = start_with(&["m=echo:FP32[20000],results=1000000"], |net| {
        same_port(net);
        net.idle_timeout = Duration::from_millis(300);
    });
    server.block_on(async {
        let channel = connect(&server).await;
        let (sender, unread) = converse(&channel).await;
        let big = raw("m", "FP32", &[1, 20_000], vec![0; 80_000]);
        sender.send(big).await.unwrap();
        while server.stats().cancelled == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop((sender, unread));
    });
}

#[test]
fn a_drain_answers_what_is_on_a_stream_and_then_ends_it() {
    let server = start_with(&["m=echo:FP32[1],call_ms=200"], same_port);
    server.block_on(async {
        let channel = connect(&server).await;
        let (_idle_sender, mut idle) = converse(&channel).await;
        let (sender, mut answers) = converse(&channel).await;
        sender.send(number(1.0)).await.unwrap();
        while server.stats().running == 0 {
            tokio::task::yield_now().await;
        }
        server.running.drain();
        assert_eq!(answers.message().await.unwrap().unwrap().error_message, "");
        for answers in [&mut answers, &mut idle] {
            let status = answers.message().await.unwrap_err();
            assert_eq!(
                (status.code(), word(&status)),
                (Code::Unavailable, "draining")
            );
        }
    });
    assert!(server.block_on(server.running.wait()).unwrap().is_clean());
}

#[test]
fn messages_are_compressed_both_ways() {
    let server = start_with(&["m=echo:FP32[1000]"], same_port);
    server.block_on(async {
        let channel = connect(&server).await;
        for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Deflate] {
            let mut grpc = client(&channel)
                .await
                .send_compressed(encoding)
                .accept_compressed(encoding);
            let request = Request::new(raw("m", "FP32", &[1, 1000], vec![0; 4000]));
            let answer = grpc
                .unary(request, path("ModelInfer"), ProstCodec::default())
                .await;
            let answer: Response<ModelInferResponse> = answer.unwrap();
            let told = answer
                .metadata()
                .get("grpc-encoding")
                .map(|told| told.to_str().unwrap().to_owned());
            assert_eq!(told, Some(encoding.to_string()));
            assert_eq!(answer.into_inner().raw_output_contents[0].len(), 4000);
        }
    });
}

#[test]
fn a_message_that_swells_is_stopped() {
    let server = start_with(&["m=echo:FP32[1]"], |net| {
        same_port(net);
        net.max_body_bytes = 1 << 20;
    });
    server.block_on(async {
        let channel = connect(&server).await;
        let mut grpc = client(&channel)
            .await
            .send_compressed(CompressionEncoding::Gzip);
        let request = Request::new(raw("m", "FP32", &[1, 1], vec![0; 8 << 20]));
        let answer = grpc
            .unary(request, path("ModelInfer"), ProstCodec::default())
            .await;
        let status = answer
            .map(|answer: Response<ModelInferResponse>| answer.into_inner().id)
            .unwrap_err();
        assert_eq!(
            (status.code(), word(&status)),
            (Code::ResourceExhausted, "too_large")
        );
    });
}

#[test]
fn messages_may_be_large() {
    let server = start_with(&["m=echo:FP32[2000000]"], own_port);
    server.block_on(async {
        let channel = connect(&server).await;
        let bytes: Vec<u8> = (0..8_000_000_u32)
            .map(|at| (at % 251) as u8 & 0x3f)
            .collect();
        let answer = infer(&channel, raw("m", "FP32", &[1, 2_000_000], bytes.clone()))
            .await
            .unwrap();
        assert!(answer.raw_output_contents[0] == bytes);
        let (sender, mut answers) = converse(&channel).await;
        sender
            .send(raw("m", "FP32", &[1, 2_000_000], bytes.clone()))
            .await
            .unwrap();
        let answer = answers
            .message()
            .await
            .unwrap()
            .unwrap()
            .infer_response
            .unwrap();
        assert!(answer.raw_output_contents[0] == bytes);
    });
}

/// A message behind its prefix.
fn framed(message: &impl Message) -> Bytes {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], &length[..], &message].concat().into()
}

type Frames = StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

/// A call whose body comes in these frames.
fn frames(
    server: &Fixture,
    method: &str,
    frames: impl Stream<Item = Bytes> + Send + 'static,
) -> http::Request<Frames> {
    let address = server.running.grpc_addr().unwrap();
    http::Request::post(format!("http://{address}{}", path(method)))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(StreamBody::new(
            frames.map(|frame| Ok(Frame::data(frame))).boxed(),
        ))
        .unwrap()
}

/// Runs `client` with a connection that its calls share, on which frames are written as they are given. Of an answer that is not read so
/// many bytes may come.
async fn on_a_connection<T>(
    server: &Fixture,
    window: u32,
    client: impl AsyncFnOnce(http2::SendRequest<Frames>) -> T,
) -> T {
    let address = server.running.grpc_addr().unwrap();
    let socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(window)
        .handshake(TokioIo::new(socket))
        .await
        .unwrap();
    tokio::select! {
        value = client(sender) => value,
        ended = connection => panic!("the connection ended first: {ended:?}"),
    }
}

#[test]
fn thousands_of_tiny_messages_may_wait_on_a_stream() {
    const MESSAGES: usize = 5000;
    let given = ModelOptions {
        max_batch: Some(64),
        ..ModelOptions::default()
    };
    let server = start_given(&["m=echo:FP32[1],call_ms=20"], given, same_port);
    server.block_on(on_a_connection(&server, 1 << 20, async |mut sender| {
        // Each in a frame of its own, and far more of them than are read at a time.
        let messages = stream::iter(vec![framed(&number(1.0)); MESSAGES]);
        let call = frames(&server, "ModelStreamInfer", messages);
        let answers = sender.send_request(call).await.unwrap().into_body();
        let answers = answers.collect().await.unwrap();
        assert_eq!(answers.trailers().unwrap()["grpc-status"], "0");
    }));
    assert_eq!(server.stats().ok, MESSAGES as u64);
}

#[test]
fn streams_that_are_not_read_on_do_not_stop_other_calls() {
    let server = start_with(&["m=echo:FP32[1000]", "n=echo:FP32[1]"], same_port);
    server.block_on(on_a_connection(&server, 1000, async |mut sender| {
        let large = framed(&raw("m", "FP32", &[1, 1000], vec![0; 4000]));
        let ahead = Arc::new(AtomicUsize::new(0));
        let mut waiting = Vec::new();
        for _ in 0..16 {
            let (large, ahead) = (large.clone(), Arc::clone(&ahead));
            let endless = stream::iter(0..).map(move |at: usize| {
                ahead.fetch_add(usize::from(at == 60), Ordering::Relaxed);
                large.clone()
            });
            let call = frames(&server, "ModelStreamInfer", endless);
            waiting.push(sender.send_request(call).await.unwrap());
        }
        // Nobody reads the answers, so no more is read of the requests than what goes on at a time. Until every window is nearly used up:
        while ahead.load(Ordering::Relaxed) < waiting.len() {
            tokio::task::yield_now().await;
        }
        let other = framed(&raw("n", "FP32", &[1, 1], floats(&[1.0])));
        let call = frames(&server, "ModelInfer", stream::iter([other]));
        let answer = sender.send_request(call).await.unwrap().into_body();
        let answer = answer.collect().await.unwrap();
        assert_eq!(answer.trailers().unwrap()["grpc-status"], "0");
        drop(waiting);
    }));
}

#[test]
fn typed_tensors_count_as_they_are_in_memory() {
    const ELEMENTS: usize = 100_000;
    let server = start_with(&["m=echo:INT64[100000]"], |net| {
        same_port(net);
        net.max_inflight_bytes = 500_000;
    });
    // One byte each on the wire.
    let request = typed(
        "m",
        "INT64",
        &[1, 100_000],
        InferTensorContents {
            int64_contents: vec![1; ELEMENTS],
            ..InferTensorContents::default()
        },
    );
    assert!(request.encoded_len() < ELEMENTS + 100);
    server.block_on(async {
        let channel = connect(&server).await;
        let status = infer(&channel, request.clone()).await.unwrap_err();
        assert_eq!(word(&status), "overloaded");
        let (sender, mut answers) = converse(&channel).await;
        sender.send(request).await.unwrap();
        let answer = answers.message().await.unwrap().unwrap();
        assert!(answer.error_message.contains("bytes"), "{answer:?}");
    });
    assert_eq!(server.scrape("jitney_inflight_bytes").unwrap_or(0.0), 0.0);
}

#[test]
fn who_only_watches_does_not_keep_his_connection() {
    let server = start_with(&["m=echo:FP32[1]"], |net| {
        same_port(net);
        net.idle_timeout = Duration::from_millis(200);
    });
    server.block_on(async {
        let asked = HealthRequest {
            service: String::new(),
        };
        let (used, only_watched) = (connect(&server).await, connect(&server).await);
        let (_sender, mut answers) = converse(&used).await;
        let request = Request::new(stream::iter([asked]).chain(stream::pending()));
        let mut watched: Streaming<HealthResponse> =
            open(&only_watched, "grpc.health.v1.Health/Watch", request)
                .await
                .unwrap();
        assert_eq!(watched.message().await.unwrap().unwrap().status, 1);
        assert_ne!(watched.message().await.unwrap_err().code(), Code::Ok);
        let still = tokio::time::timeout(Duration::ZERO, answers.message()).await;
        assert!(still.is_err(), "the other stream goes on: {still:?}");
    });
}

/// Sends these bytes as the body of a call, and gives its status and the code of it.
async fn send(server: &Fixture, method: &str, bytes: Vec<u8>) -> (String, String) {
    let address = server.running.grpc_addr().unwrap();
    let socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
        .await
        .unwrap();
    let request = http::Request::post(format!("http://{address}{}", path(method)))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from(bytes)))
        .unwrap();
    let exchange = async {
        let (head, body) = sender.send_request(request).await.unwrap().into_parts();
        (head, body.collect().await.unwrap().trailers().cloned())
    };
    let (head, trailers) = tokio::select! {
        answered = exchange => answered,
        ended = connection => panic!("the connection ended first: {ended:?}"),
    };
    assert_eq!(head.status, 200);
    let fields = trailers.unwrap_or(head.headers);
    let field = |name: &str| {
        fields
            .get(name)
            .map_or(String::new(), |value| value.to_str().unwrap().to_owned())
    };
    (field("grpc-status"), field("jitney-code"))
}

#[test]
fn frames_that_cannot_be_meant_are_refused_and_cost_nothing() {
    let server = start_with(&["m=echo:FP32[1]"], same_port);
    let whole = number(1.0).encode_to_vec();
    let prefixed = |flag: u8, length: u32, rest: &[u8]| {
        let mut bytes = vec![flag];
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(rest);
        bytes
    };
    let length = u32::try_from(whole.len()).unwrap();
    let message = |bytes: &[u8]| prefixed(0, u32::try_from(bytes.len()).unwrap(), bytes);
    let groups = [0x7b].repeat(100_000);
    // Two bytes each, and hundreds in memory.
    let empty_inputs = [0x2a, 0].repeat(1 << 20);
    let rows = [
        (prefixed(0, length, &whole), "0", ""),
        (prefixed(0, u32::MAX, &whole), "8", "too_large"),
        (prefixed(0, length + 1, &whole), "3", "invalid_input"),
        (prefixed(0, length - 1, &whole), "3", "invalid_input"),
        (prefixed(1, length, &whole), "3", "invalid_input"),
        (prefixed(2, length, &whole), "3", "invalid_input"),
        (vec![0, 0], "3", "invalid_input"),
        (Vec::new(), "3", "invalid_input"),
        (message(&groups), "3", "invalid_input"),
        (message(&empty_inputs), "8", "too_large"),
        (message(b"\xff\xff\xff"), "3", "invalid_input"),
    ];
    for method in ["ModelInfer", "ModelStreamInfer"] {
        for (bytes, status, word) in &rows {
            let (got, code) = server.block_on(send(&server, method, bytes.clone()));
            // A message that is none is an answer on a stream, which goes on; and a stream may have no message at all.
            let in_stream = method == "ModelStreamInfer"
                && (bytes.is_empty() || bytes.starts_with(&[0]) && got == "0");
            assert!(
                in_stream || (&*got, &*code) == (status, word),
                "{method} {status} {word}: {got} {code}"
            );
        }
    }
    let answer = server.block_on(async { infer(&connect(&server).await, number(1.0)).await });
    answer.unwrap();
    assert_eq!(server.scrape("jitney_inflight_bytes").unwrap_or(0.0), 0.0);
}
