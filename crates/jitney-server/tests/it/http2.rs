//! HTTP/2 on the same port, without an upgrade.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::resting::large;
use crate::support::{Fixture, start, start_with};

type Sender = SendRequest<Full<Bytes>>;

/// Runs `client` with a connection; its answer, and whether the connection then ended without an error.
pub(crate) async fn with_connection<T>(
    server: &Fixture,
    client: impl AsyncFnOnce(Sender) -> T,
) -> (T, bool) {
    let socket = TcpStream::connect(server.address()).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
        .await
        .unwrap();
    let (ended, value) = tokio::join!(connection, client(sender));
    (value, ended.is_ok())
}

fn post(server: &Fixture, body: &'static str) -> Request<Full<Bytes>> {
    let uri = format!("http://{}/predict/m", server.address());
    let request = Request::post(uri).header("content-type", "application/json");
    request.body(Full::from(body)).unwrap()
}

async fn send(sender: &mut Sender, request: Request<Full<Bytes>>) -> (StatusCode, Bytes) {
    let response = sender.send_request(request).await.unwrap();
    let status = response.status();
    (
        status,
        response.into_body().collect().await.unwrap().to_bytes(),
    )
}

#[test]
fn many_requests_share_a_connection() {
    let server = start(&["m=echo:FP32[1]"]);
    let exchange = with_connection(&server, async |mut sender| {
        let first = sender.send_request(post(&server, "{\"input\":[1]}"));
        let second = sender.send_request(post(&server, "nonsense"));
        let (first, second) = tokio::join!(first, second);
        (first.unwrap().status(), second.unwrap().status())
    });
    let ((first, second), clean) = server.block_on(exchange);
    assert_eq!((first.as_u16(), second.as_u16(), clean), (200, 400, true));
}

#[test]
fn routes_and_names_are_checked_as_in_http1() {
    let server = start(&["m=echo:FP32[1]"]);
    let address = server.address();
    let rows = [
        (format!("http://{address}/v2/health/live"), 200),
        (format!("http://{address}/nowhere"), 404),
        (format!("http://{address}/predict/m"), 405),
        (format!("http://evil.example:{}/v2", address.port()), 421),
    ];
    for (uri, status) in rows {
        let request = Request::get(&uri).body(Full::default()).unwrap();
        let exchange =
            with_connection(&server, async |mut sender| send(&mut sender, request).await);
        let ((got, _), _) = server.block_on(exchange);
        assert_eq!(got.as_u16(), status, "{uri}");
    }
}

#[test]
fn a_refusal_lets_the_body_come_to_its_end() {
    const PIECES: usize = 64;
    let server = start(&["m=echo:FP32[1]"]);
    for (path, status) in [("/nowhere", 404), ("/predict/m", 415)] {
        let sent = Arc::new(AtomicUsize::new(0));
        let pieces = {
            let sent = Arc::clone(&sent);
            stream::iter((0..PIECES).map(move |_| {
                sent.fetch_add(1, Ordering::Relaxed);
                Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[0; 16 * 1024])))
            }))
        };
        let request = Request::post(format!("http://{}{path}", server.address()));
        let request = request.body(StreamBody::new(pieces)).unwrap();
        let answered = server.block_on(async {
            let socket = TcpStream::connect(server.address()).await.unwrap();
            let (mut sender, connection) =
                http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
                    .await
                    .unwrap();
            let exchange = async move { sender.send_request(request).await.unwrap().status() };
            tokio::join!(exchange, connection).0
        });
        assert_eq!(answered.as_u16(), status);
        assert_eq!(sent.load(Ordering::Relaxed), PIECES, "{path}");
    }
}

#[test]
fn heads_beyond_their_limits_are_refused_with_words() {
    let server = start(&["m=echo:FP32[1]"]);
    let get = || Request::get(format!("http://{}/v2", server.address()));
    let many = (0..101).fold(get(), |request, at| request.header(format!("x-{at}"), "y"));
    let long = get().header("x-long", "y".repeat(40_000));
    for (request, what) in [(many, "101 header lines"), (long, "40 kB")] {
        let request = request.body(Full::default()).unwrap();
        let exchange =
            with_connection(&server, async |mut sender| send(&mut sender, request).await);
        let ((status, body), _) = server.block_on(exchange);
        assert_eq!(status.as_u16(), 431, "{what}");
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["code"], "headers_too_large", "{what}");
    }
}

#[test]
fn a_reset_stream_cancels_its_request() {
    let server = start(&["m=echo:FP32[1],call_ms=300"]);
    let exchange = with_connection(&server, async |mut sender| {
        let mut running = Box::pin(sender.send_request(post(&server, "{\"input\":[1]}")));
        while server.stats().running == 0 {
            tokio::select! { _ = running.as_mut() => (), () = tokio::task::yield_now() => () }
        }
        let mut queued = Box::pin(sender.send_request(post(&server, "{\"input\":[2]}")));
        while server.stats().queued == 0 {
            tokio::select! { _ = queued.as_mut() => (), () = tokio::task::yield_now() => () }
        }
        drop(queued);
        running.await.unwrap().status()
    });
    let (status, _) = server.block_on(exchange);
    assert_eq!(status, StatusCode::OK);
    let stats = server.stats();
    assert_eq!((stats.ok, stats.cancelled), (1, 1));
}

#[test]
fn a_drain_answers_the_streams_and_says_goodbye() {
    let server = start(&["m=echo:FP32[1],call_ms=100"]);
    let exchange = with_connection(&server, async |mut sender| {
        let mut running = Box::pin(sender.send_request(post(&server, "{\"input\":[1]}")));
        while server.stats().running == 0 {
            tokio::select! { _ = running.as_mut() => (), () = tokio::task::yield_now() => () }
        }
        server.running.drain();
        let status = running.await.unwrap().status();
        // The sender is kept, so only the server's goodbye can end the connection.
        (status, sender)
    });
    let ((status, _sender), clean) = server.block_on(exchange);
    assert_eq!((status, clean), (StatusCode::OK, true));
    assert!(server.block_on(server.running.wait()).unwrap().is_clean());
}

#[test]
fn a_stream_that_nobody_takes_is_given_up_and_its_connection_is_not() {
    let server = start_with(&["m=echo:FP32[2048],results=1000000000"], |net| {
        net.idle_timeout = Duration::from_millis(300);
    });
    let exchange = with_connection(&server, async |mut sender| {
        let body = format!("{{\"input\":[{}0]}}", "0,".repeat(2047));
        let uri = |path: &str| format!("http://{}{path}", server.address());
        let request =
            Request::post(uri("/predict/m/stream")).header("content-type", "application/json");
        let request = request.body(Full::from(body)).unwrap();
        let unread = sender.send_request(request).await.unwrap();
        assert_eq!(unread.status(), 200);
        // Others on the same connection are served, and keep it.
        while server.stats().cancelled == 0 {
            let request = Request::get(uri("/v2")).body(Full::default()).unwrap();
            assert_eq!(send(&mut sender, request).await.0, 200);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(unread);
    });
    server.block_on(exchange);
    server.wait_stats("it has ended", |stats| stats.running == 0);
}

/// It takes several times as long as a connection may be idle.
#[test]
fn a_large_answer_that_is_read_slowly_is_not_cut() {
    let server = start_with(&["m=echo:FP32[-1]"], |net| {
        net.idle_timeout = Duration::from_millis(600);
    });
    let (body, json) = large();
    let length = body.len();
    let request = Request::post(format!("http://{}/v2/models/m/infer", server.address()))
        .header("content-type", "application/octet-stream")
        .header("inference-header-content-length", json)
        .body(Full::from(body))
        .unwrap();
    let exchange = with_connection(&server, async |mut sender| {
        let mut body = sender.send_request(request).await.unwrap().into_body();
        let (mut came, mut slept) = (0, 0);
        while let Some(frame) = body.frame().await {
            came += frame.unwrap().into_data().unwrap().len();
            if came - slept >= 128 * 1024 {
                slept = came;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        came
    });
    let (came, _) = server.block_on(exchange);
    assert!(came + 1024 > length, "{came} of {length} bytes");
}
