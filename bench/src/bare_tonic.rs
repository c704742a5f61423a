//! A tonic server that echoes the tensors of a message: the mark for gRPC.

use std::convert::Infallible;
use std::future::{Ready, ready};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use jitney_server::grpc::generated::{
    ModelInferRequest, ModelInferResponse, model_infer_response::InferOutputTensor,
};
use tonic::body::Body;
use tonic::server::{Grpc, UnaryService};
use tonic_prost::ProstCodec;

use crate::{Outcome, bare};

pub(crate) fn serve() -> Outcome<()> {
    bare::accept(|stream| {
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service_fn(answer))
    })
}

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let mut grpc = Grpc::new(ProstCodec::<ModelInferResponse, ModelInferRequest>::default());
    Ok(grpc.unary(Echo, request).await)
}

struct Echo;

impl UnaryService<ModelInferRequest> for Echo {
    type Response = ModelInferResponse;
    type Future = Ready<Result<tonic::Response<ModelInferResponse>, tonic::Status>>;

    fn call(&mut self, request: tonic::Request<ModelInferRequest>) -> Self::Future {
        let request = request.into_inner();
        let echo =
            |input: jitney_server::grpc::generated::model_infer_request::InferInputTensor| {
                InferOutputTensor {
                    name: input.name,
                    datatype: input.datatype,
                    shape: input.shape,
                    ..Default::default()
                }
            };
        ready(Ok(tonic::Response::new(ModelInferResponse {
            model_name: request.model_name,
            model_version: "1".to_owned(),
            outputs: request.inputs.into_iter().map(echo).collect(),
            raw_output_contents: request.raw_input_contents,
            ..Default::default()
        })))
    }
}
