//! A hyper server that reads a request and answers a constant.

use std::convert::Infallible;
use std::net::Ipv4Addr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use crate::Outcome;

/// As long as the answer of the echo model to sixteen floats, so that both write the same.
const ANSWER: &[u8] = br#"{"model_name":"bench","model_version":"1","outputs":[{"name":"output","datatype":"FP32","shape":[1,16],"data":[0.3238,0.1508,0.6509,0.0724,0.5358,0.3671,0.0582,0.5074,0.0388,0.4404,0.5713,0.2105,0.0711,0.6225,0.9143,0.6612]}]}"#;

pub(crate) fn serve() -> Outcome<()> {
    accept(|stream| {
        hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service_fn(answer))
    })
}

/// Says where it listens, and serves each connection as a task.
pub(crate) fn accept<F>(serve: impl Fn(TcpStream) -> F) -> Outcome<()>
where
    F: Future<Output: Send> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        println!("jitney ready http={}", listener.local_addr()?);
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            connections.spawn(serve(stream));
            while connections.try_join_next().is_some() {}
        }
    })
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    // The body is read as any server must, and thrown away.
    request.into_body().collect().await.ok();
    let mut response = Response::new(Full::new(Bytes::from_static(ANSWER)));
    let json = hyper::header::HeaderValue::from_static("application/json");
    response
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, json);
    Ok(response)
}
