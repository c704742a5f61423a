//! TLS on the wire, with certificates that stand beside this file: `first` and `second` for the server, `client` of the same root, and
//! `stranger` of none.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::SinkExt;
use http::{Request, Version};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use jitney_server::access::Secret;
use jitney_server::config::{Key, NetConfig, Scope, TlsConfig};
use jitney_server::server::{Server, StartError};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Fixture, start_with};

const MODEL: &[&str] = &["m=echo:FP32[-1]"];
const VERSIONS: &[&SupportedProtocolVersion] = &[&version::TLS12, &version::TLS13];

fn file(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/tls");
    folder.join(format!("{name}.pem"))
}

fn certificate(name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(file(name)).unwrap()
}

fn first() -> TlsConfig {
    TlsConfig {
        cert: file("first-cert"),
        key: file("first-key"),
        client_ca: None,
    }
}

fn serve(adjust: impl FnOnce(&mut NetConfig, &mut TlsConfig)) -> Fixture {
    start_with(MODEL, |net| {
        let mut tls = first();
        adjust(net, &mut tls);
        net.tls = Some(tls);
    })
}

/// A client that trusts the root, with a certificate of its own if that has a name.
fn client(versions: &[&'static SupportedProtocolVersion], own: Option<&str>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(certificate("roots")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    match own {
        None => config.with_no_client_auth(),
        Some(name) => {
            let key = PrivateKeyDer::from_pem_file(file(&format!("{name}-key"))).unwrap();
            let certificates = vec![certificate(&format!("{name}-cert"))];
            config.with_client_auth_cert(certificates, key).unwrap()
        }
    }
}

async fn connect<S>(config: ClientConfig, socket: S) -> io::Result<TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let name = ServerName::try_from("localhost").unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, socket).await
}

async fn agree(server: &Fixture, config: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(server.address()).await?;
    socket.set_nodelay(true)?;
    connect(config, socket).await
}

fn request(server: &Fixture, method: &str, path: &str, body: &str) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", server.address().to_string())
        .header("content-type", "application/json")
        .body(Full::from(body.to_owned()))
        .unwrap()
}

/// A connection of HTTP/1.1 for one request after the other.
struct Kept(http1::SendRequest<Full<Bytes>>);

impl Kept {
    async fn new<S>(stream: S) -> Kept
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        hyper::rt::Executor::execute(&TokioExecutor::new(), async {
            let _ = connection.await;
        });
        Kept(sender)
    }

    async fn ask(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<(u16, Bytes)> {
        self.0.ready().await?;
        let answer = self.0.send_request(request).await?;
        let status = answer.status().as_u16();
        Ok((status, answer.into_body().collect().await?.to_bytes()))
    }
}

#[test]
fn both_versions_of_tls_serve_both_planes_on_one_connection() {
    let server = serve(|_, _| ());
    server.block_on(async {
        for version in VERSIONS {
            // The first request decides which thread the connection goes to.
            for begins in ["/v2/health/live", "/v2"] {
                let stream = agree(&server, client(&[version], None)).await.unwrap();
                let mut kept = Kept::new(stream).await;
                let begun = kept.ask(request(&server, "GET", begins, "")).await.unwrap();
                assert_eq!(begun.0, 200, "{begins}");
                let item = format!("{{\"input\":[{}0]}}", "0,".repeat(200_000));
                let large = kept
                    .ask(request(&server, "POST", "/predict/m", &item))
                    .await;
                let (status, body) = large.unwrap();
                assert_eq!((status, body.len() > 400_000), (200, true), "{begins}");
                let tree = kept.ask(request(&server, "GET", "/debug/tree", "")).await;
                assert_eq!(tree.unwrap().0, 200);
            }
        }
    });
}

#[test]
fn http2_is_agreed_on() {
    let server = serve(|_, _| ());
    server.block_on(async {
        let mut config = client(VERSIONS, None);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let stream = agree(&server, config).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let io = TokioIo::new(stream);
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        let uri = format!("https://{}/v2", server.address());
        let asked = async move {
            let request = Request::get(uri).body(Full::<Bytes>::default()).unwrap();
            let answer = sender.send_request(request).await.unwrap();
            (answer.status().as_u16(), answer.version())
        };
        let (_, answer) = tokio::join!(connection, asked);
        assert_eq!(answer, (200, Version::HTTP_2));
    });
}

#[test]
fn what_is_no_tls_is_closed_and_costs_nobody_else_anything() {
    let server = serve(|net, _| net.header_timeout = Duration::from_millis(300));
    let mut plain = server.connect();
    plain.begin("GET", "/v2/health/live", "", "");
    assert!(plain.answer().is_none(), "plain HTTP");
    // The head of a record that does not go on.
    let mut slow = server.connect();
    slow.send([22, 3, 1, 2, 0, 1]);
    assert!(slow.is_closed(), "a handshake that takes too long");
    server.block_on(async {
        let silent = agree(&server, client(VERSIONS, None)).await.unwrap();
        let mut kept = Kept::new(silent).await;
        tokio::time::sleep(Duration::from_millis(400)).await;
        let late = kept.ask(request(&server, "GET", "/v2", "")).await;
        assert!(late.is_err(), "a first request that takes too long");
        let stream = agree(&server, client(VERSIONS, None)).await.unwrap();
        let mut kept = Kept::new(stream).await;
        let answer = kept.ask(request(&server, "GET", "/v2", "")).await;
        assert_eq!(answer.unwrap().0, 200);
    });
}

/// Writes one byte at a time.
struct Dribble(TcpStream);

impl AsyncRead for Dribble {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buf)
    }
}

impl AsyncWrite for Dribble {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let first = &bytes[..bytes.len().min(1)];
        Pin::new(&mut self.0).poll_write(context, first)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[test]
fn a_handshake_in_pieces_is_read() {
    let server = serve(|_, _| ());
    server.block_on(async {
        let socket = TcpStream::connect(server.address()).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let mut small_records = client(VERSIONS, None);
        small_records.max_fragment_size = Some(40);
        let stream = connect(small_records, Dribble(socket)).await.unwrap();
        let mut kept = Kept::new(stream).await;
        let answer = kept.ask(request(&server, "GET", "/v2", "")).await;
        assert_eq!(answer.unwrap().0, 200);
    });
}

async fn shown(server: &Fixture) -> CertificateDer<'static> {
    let stream = agree(server, client(VERSIONS, None)).await.unwrap();
    let (_, session) = stream.get_ref();
    session.peer_certificates().unwrap()[0].clone()
}

#[test]
fn certificates_are_exchanged_while_connections_live() {
    let folder = tempfile::tempdir().unwrap();
    let own = |name: &str| folder.path().join(name);
    let put = |name: &str| {
        std::fs::copy(file(&format!("{name}-cert")), own("cert")).unwrap();
        std::fs::copy(file(&format!("{name}-key")), own("key")).unwrap();
    };
    put("first");
    let server = serve(|_, tls| (tls.cert, tls.key) = (own("cert"), own("key")));
    server.block_on(async {
        assert_eq!(shown(&server).await, certificate("first-cert"));
        let stream = agree(&server, client(VERSIONS, None)).await.unwrap();
        let mut kept = Kept::new(stream).await;
        let ask = || request(&server, "GET", "/v2", "");
        assert_eq!(kept.ask(ask()).await.unwrap().0, 200);
        put("second");
        while shown(&server).await != certificate("second-cert") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(kept.ask(ask()).await.unwrap().0, 200);
        // A key that does not fit: what was before stays, and the next change counts again.
        std::fs::copy(file("first-key"), own("key")).unwrap();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert_eq!(shown(&server).await, certificate("second-cert"));
        put("first");
        while shown(&server).await != certificate("first-cert") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(kept.ask(ask()).await.unwrap().0, 200);
    });
}

#[test]
fn clients_need_certificates_where_that_is_asked() {
    let server = serve(|_, tls| tls.client_ca = Some(file("roots")));
    server.block_on(async {
        for version in VERSIONS {
            for (own, expected) in [
                (Some("client"), true),
                (Some("stranger"), false),
                // A certificate of the root that is not for clients.
                (Some("second"), false),
                (None, false),
            ] {
                let answered = async {
                    // In TLS 1.3 the client has agreed before the server has.
                    let stream = agree(&server, client(&[version], own)).await.ok()?;
                    let mut kept = Kept::new(stream).await;
                    let answer = kept.ask(request(&server, "GET", "/v2", "")).await;
                    Some(answer.ok()?.0)
                };
                let answered = answered.await;
                assert_eq!(answered.is_some(), expected, "{own:?} {version:?}");
            }
        }
    });
}

/// A certificate says that a client is known; what it may do is still the key's to say.
#[test]
fn a_certificate_is_no_key() {
    let secret = Secret::generate().unwrap();
    let key = Key {
        name: "app".to_owned(),
        digest: secret.digest(),
        scopes: vec![Scope::Infer],
        models: None,
    };
    let server = serve(|net, tls| {
        tls.client_ca = Some(file("roots"));
        net.keys = vec![key];
    });
    server.block_on(async {
        let stream = agree(&server, client(VERSIONS, Some("client")))
            .await
            .unwrap();
        let mut kept = Kept::new(stream).await;
        let mut with_key = request(&server, "GET", "/v2", "");
        let value = format!("Bearer {}", secret.reveal());
        with_key
            .headers_mut()
            .insert("authorization", value.parse().unwrap());
        let without = kept.ask(request(&server, "GET", "/v2", "")).await.unwrap();
        assert_eq!((without.0, kept.ask(with_key).await.unwrap().0), (401, 200));
    });
}

#[test]
fn files_that_do_not_fit_are_named() {
    let with = |cert: &str, key: &str, client_ca: Option<&str>| TlsConfig {
        cert: file(cert),
        key: file(key),
        client_ca: client_ca.map(file),
    };
    let table = [
        (with("none", "first-key", None), "none.pem"),
        (with("first-cert", "none", None), "none.pem"),
        (with("first-cert", "second-key", None), "first-cert.pem"),
        (with("first-key", "first-key", None), "found none"),
        (
            with("first-cert", "first-cert", None),
            "a private key in PEM",
        ),
        (
            with("first-cert", "first-key", Some("first-key")),
            "found none",
        ),
    ];
    for (tls, expected) in table {
        let mut config = jitney_server::config::Config::default();
        config.net.http = "127.0.0.1:0".parse().unwrap();
        config.net.tls = Some(tls);
        let error = Server::start(config).unwrap_err();
        assert!(matches!(error, StartError::Tls(_)), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

/// TLS has taken the bytes that the client does not take.
#[test]
fn a_client_of_a_websocket_that_does_not_read_is_given_up() {
    let server = start_with(&["m=echo:FP32[2048],results=1000000000"], |net| {
        net.tls = Some(first());
        net.idle_timeout = Duration::from_secs(2);
    });
    let socket = server.block_on(async {
        let stream = agree(&server, client(VERSIONS, None)).await.unwrap();
        let url = format!("wss://{}/v2/models/m/stream", server.address());
        let (mut socket, _) = client_async(url, stream).await.unwrap();
        let request = json!({"id": "a", "item": vec![0.123_456_789; 2048]});
        let message = Message::text(request.to_string());
        socket.send(message).await.unwrap();
        socket
    });
    server.wait_stats("it is given up", |stats| stats.cancelled == 1);
    drop(socket);
}

/// The client is told by TLS itself that nothing was cut off.
#[test]
fn a_connection_that_rests_wakes_and_is_closed_in_good_order() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let server = serve(|net, _| net.idle_timeout = Duration::from_secs(2));
    let text = format!("GET /v2 HTTP/1.1\r\nhost: {}\r\n\r\n", server.address());
    for &version in VERSIONS {
        server.block_on(async {
            let mut stream = agree(&server, client(&[version], None)).await.unwrap();
            for _ in 0..2 {
                stream.write_all(text.as_bytes()).await.unwrap();
                let mut piece = [0; 4096];
                let count = stream.read(&mut piece).await.unwrap();
                assert!(piece[..count].starts_with(b"HTTP/1.1 200"), "{version:?}");
                // Nothing shows from the outside that a connection rests.
                tokio::time::sleep(Duration::from_millis(1300)).await;
            }
            let mut rest = Vec::new();
            let end = stream.read_to_end(&mut rest).await;
            assert!(matches!(end, Ok(0)), "{version:?}: {end:?}");
        });
    }
}
