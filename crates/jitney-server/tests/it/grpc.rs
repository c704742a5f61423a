//! gRPC over real sockets, by tonic's client.

use std::collections::HashMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::str::FromStr;

use bytes::Bytes;
use http::uri::PathAndQuery;
use jitney_server::config::NetConfig;
use jitney_server::grpc::generated::model_infer_request::InferInputTensor;
use jitney_server::grpc::generated::{
    InferTensorContents, ModelInferRequest, ModelInferResponse, ModelMetadataRequest,
    ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse, ServerLiveRequest,
    ServerLiveResponse, ServerMetadataRequest, ServerMetadataResponse, ServerReadyRequest,
    ServerReadyResponse,
};
use prost::Message;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::support::{Fixture, start_with};

/// Both protocols on one port.
fn same_port(net: &mut NetConfig) {
    net.grpc = Some(net.http);
}

/// gRPC on a port of its own.
fn own_port(net: &mut NetConfig) {
    net.grpc = Some(SocketAddr::from((Ipv6Addr::LOCALHOST, 0)));
}

async fn connect(server: &Fixture) -> Channel {
    let address = server.running.grpc_addr().unwrap();
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect().await.unwrap()
}

/// One call of a method of the inference service.
async fn call<Q, A>(
    channel: &Channel,
    method: &str,
    request: impl tonic::IntoRequest<Q>,
) -> Result<A, Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let mut grpc = Grpc::new(channel.clone()).max_decoding_message_size(usize::MAX);
    grpc.ready().await.unwrap();
    let path =
        PathAndQuery::from_str(&format!("/inference.GRPCInferenceService/{method}")).unwrap();
    let answer = grpc
        .unary(request.into_request(), path, ProstCodec::default())
        .await;
    answer.map(tonic::Response::into_inner)
}

async fn infer(
    channel: &Channel,
    request: impl tonic::IntoRequest<ModelInferRequest>,
) -> Result<ModelInferResponse, Status> {
    call(channel, "ModelInfer", request).await
}

fn input(datatype: &str, shape: &[i64]) -> InferInputTensor {
    InferInputTensor {
        name: "input".to_owned(),
        datatype: datatype.to_owned(),
        shape: shape.to_vec(),
        ..InferInputTensor::default()
    }
}

fn raw(datatype: &str, shape: &[i64], bytes: impl Into<Bytes>) -> ModelInferRequest {
    ModelInferRequest {
        model_name: "m".to_owned(),
        id: "42".to_owned(),
        inputs: vec![input(datatype, shape)],
        raw_input_contents: vec![bytes.into()],
        ..ModelInferRequest::default()
    }
}

fn floats(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

#[test]
fn a_model_is_asked_on_either_port() {
    for ports in [same_port, own_port] {
        let server = start_with(&["m=echo:FP32[2]"], ports);
        let answer = server.block_on(async {
            let channel = connect(&server).await;
            infer(&channel, raw("FP32", &[1, 2], floats(&[0.5, -1.0]))).await
        });
        let answer = answer.unwrap();
        assert_eq!(
            (answer.model_name.as_str(), answer.model_version.as_str()),
            ("m", "1")
        );
        assert_eq!(answer.id, "42");
        assert_eq!(answer.raw_output_contents, [floats(&[0.5, -1.0])]);
        assert_eq!(answer.outputs[0].shape, [1, 2]);
        assert_eq!(server.connect().get("/v2/health/live").status, 200);
    }
}
