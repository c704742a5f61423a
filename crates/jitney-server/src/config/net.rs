//! The settings of the network: partly said in several places, and resolved.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::keys::Key;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use regex_lite::{Regex, RegexBuilder};

use super::options::{OptionError, milliseconds, time, whole};

/// How the server listens, and what it grants to strangers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetConfig {
    /// Where HTTP/1.1 and HTTP/2 are served. Port 0 takes a free one. Default `127.0.0.1:8080`.
    pub http: SocketAddr,
    /// Where gRPC is served: on the port of HTTP where it is the same address, even with port 0. Default nowhere.
    pub grpc: Option<SocketAddr>,
    /// Threads of the data plane. Default: as many as the machine has cores.
    pub workers: Option<NonZeroUsize>,
    /// Most connections at a time; beyond it only control requests are served. Default 16384.
    pub max_connections: usize,
    /// Most bytes in the body of one request. Default 64 MiB.
    pub max_body_bytes: usize,
    /// Most bytes of request bodies held at a time, all requests together. Default 512 MiB.
    pub max_inflight_bytes: usize,
    /// Most bytes in the head of one request. Default 32 KiB.
    pub max_header_bytes: usize,
    /// Most header lines of one request. Default 100.
    pub max_headers: usize,
    /// Most requests at a time on one HTTP/2 connection. Default 100.
    pub max_streams: u32,
    /// From the first byte of a request's head, or from the connection, to the head's end. Default 10 s.
    pub header_timeout: Duration,
    /// In every such span a body must be finished or grow by at least 1 kB for each second of it. Default 20 s.
    pub body_timeout: Duration,
    /// A connection without a request is closed after this time. Default 120 s.
    pub idle_timeout: Duration,
    /// Longest time a drain waits for requests that were accepted. Default 30 s.
    pub drain: Duration,
    /// Names under which the server may be called, as `host` or `host:port`, beside the loopback names on a loopback address. Without any,
    /// a server on another address answers to every name.
    pub allowed_hosts: Vec<String>,
    /// Origins of web pages that may call the server, such as `https://example.org`, beside its own. Default none.
    pub allowed_origins: Vec<String>,
    /// Who may come in. Where neither these nor a file of keys are said, everybody may who reaches the server.
    pub keys: Vec<Key>,
    /// A file with more keys, which is read again when it changes.
    pub keys_file: Option<PathBuf>,
    /// Whether the server may listen on an address that other machines can reach though it has no keys. Default false.
    pub insecure: bool,
    /// TLS, on every port. Default: none.
    pub tls: Option<TlsConfig>,
    /// Most connections of one client at a time, a client being an address, or in IPv6 a network of 64 bits. Default 1000 for clients on
    /// other machines, and no limit for those on this one.
    pub max_connections_per_client: Option<usize>,
    /// Most requests of one client in a second, a client being a key, or an address where there are no keys. Default: no limit.
    pub max_requests_per_second: Option<NonZeroUsize>,
    /// Which header fields of a request its model is given among the parameters. Default none.
    pub forward_header_pattern: Option<HeaderPattern>,
}

/// The files of TLS, in PEM. They are read again when they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// The server's certificate, and those between it and a root.
    pub cert: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
    /// The roots that clients' certificates must come from. Where none are said, clients need no certificate.
    pub client_ca: Option<PathBuf>,
}

impl NetConfig {
    /// Whether a request must come with a key.
    pub fn has_keys(&self) -> bool {
        self.keys_file.is_some() || !self.keys.is_empty()
    }

    /// Whether the server may listen on this address: on one that other machines can reach it needs keys, or to be told that it needs none.
    pub fn may_listen_on(&self, address: SocketAddr) -> bool {
        self.insecure || self.has_keys() || address.ip().to_canonical().is_loopback()
    }
}

/// A regular expression that is looked for in the names of header fields, whose case does not matter.
#[derive(Clone, Debug)]
pub struct HeaderPattern(Regex);

impl HeaderPattern {
    /// Reads a pattern. It may match anywhere in a name; `^` and `$` bind it to the ends.
    ///
    /// # Errors
    /// What is wrong with it.
    ///
    /// ```
    /// use jitney_server::config::HeaderPattern;
    ///
    /// let pattern = HeaderPattern::parse("^X-Tenant-")?;
    /// assert!(pattern.is_match("x-tenant-id"));
    /// assert!(!pattern.is_match("not-x-tenant-id"));
    /// # Ok::<(), String>(())
    /// ```
    pub fn parse(text: &str) -> Result<HeaderPattern, String> {
        RegexBuilder::new(text)
            .case_insensitive(true)
            .build()
            .map(HeaderPattern)
            .map_err(|error| error.to_string())
    }

    /// Whether fields of that name are passed on.
    pub fn is_match(&self, name: &str) -> bool {
        self.0.is_match(name)
    }

    /// The fields that are passed on: their names in lower case, and their values as far as they are text. The caller's key never is.
    pub(crate) fn fields(&self, headers: &HeaderMap) -> Vec<(String, String)> {
        let matching = headers
            .iter()
            .filter(|(name, _)| self.is_match(name.as_str()) && *name != AUTHORIZATION);
        let text = |value: &HeaderValue| value.to_str().map(str::to_owned).ok();
        matching
            .filter_map(|(name, value)| Some((name.as_str().to_owned(), text(value)?)))
            .collect()
    }
}

impl PartialEq for HeaderPattern {
    fn eq(&self, other: &HeaderPattern) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for HeaderPattern {}

impl Default for NetConfig {
    fn default() -> NetConfig {
        NetConfig {
            http: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            grpc: None,
            workers: None,
            max_connections: 16 * 1024,
            max_body_bytes: 64 * 1024 * 1024,
            max_inflight_bytes: 512 * 1024 * 1024,
            max_header_bytes: 32 * 1024,
            max_headers: 100,
            max_streams: 100,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(120),
            drain: Duration::from_secs(30),
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            keys: Vec::new(),
            keys_file: None,
            insecure: false,
            tls: None,
            max_connections_per_client: None,
            max_requests_per_second: None,
            forward_header_pattern: None,
        }
    }
}

/// The settings of the network as one place says them; `None` where it says nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NetOptions {
    /// Where HTTP is served.
    pub http: Option<SocketAddr>,
    /// Where gRPC is served.
    pub grpc: Option<SocketAddr>,
    /// Threads of the data plane.
    pub workers: Option<usize>,
    /// Most connections at a time.
    pub max_connections: Option<usize>,
    /// Most bytes in the head of one request.
    pub max_header_bytes: Option<usize>,
    /// Most bytes in the body of one request.
    pub max_body_bytes: Option<usize>,
    /// Most bytes of request bodies held at a time.
    pub max_inflight_bytes: Option<usize>,
    /// Milliseconds that the head of a request may take.
    pub header_timeout_ms: Option<f64>,
    /// Milliseconds in which a body must have grown or ended.
    pub body_timeout_ms: Option<f64>,
    /// Milliseconds after which a connection without a request is closed.
    pub idle_timeout_ms: Option<f64>,
    /// Milliseconds that a drain waits for accepted requests.
    pub drain_ms: Option<f64>,
    /// Names under which the server may be called, as `host` or `host:port`.
    pub allowed_hosts: Option<Vec<String>>,
    /// Origins of web pages that may call the server, as `https://host` or `https://host:port`.
    pub allowed_origins: Option<Vec<String>>,
    /// Who may come in.
    pub keys: Option<Vec<Key>>,
    /// A file with more keys.
    pub keys_file: Option<PathBuf>,
    /// Whether the server may be reached from other machines without keys.
    pub insecure: Option<bool>,
    /// The server's certificate.
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key.
    pub tls_key: Option<PathBuf>,
    /// The roots of clients' certificates.
    pub tls_client_ca: Option<PathBuf>,
    /// Most connections of one client at a time.
    pub max_connections_per_client: Option<usize>,
    /// Most requests of one client in a second.
    pub max_requests_per_second: Option<usize>,
    /// A regular expression for the names of header fields that models are given.
    pub forward_header_pattern: Option<String>,
}

const HOUR_MS: f64 = 3_600_000.0;

impl NetOptions {
    /// Checks every value that is said against the range of its setting.
    ///
    /// # Errors
    /// The first setting out of its range, with its value and the range.
    pub fn check(&self) -> Result<(), OptionError> {
        whole("workers", self.workers, 1, 1024)?;
        whole("max_connections", self.max_connections, 1, 1_000_000)?;
        whole("max_header_bytes", self.max_header_bytes, 8192, 1 << 20)?;
        whole("max_body_bytes", self.max_body_bytes, 1, usize::MAX)?;
        whole("max_inflight_bytes", self.max_inflight_bytes, 1, usize::MAX)?;
        milliseconds("header_timeout_ms", self.header_timeout_ms, 1.0, HOUR_MS)?;
        milliseconds("body_timeout_ms", self.body_timeout_ms, 1.0, HOUR_MS)?;
        milliseconds("idle_timeout_ms", self.idle_timeout_ms, 1.0, 24.0 * HOUR_MS)?;
        milliseconds("drain_ms", self.drain_ms, 0.0, 24.0 * HOUR_MS)?;
        whole(
            "max_connections_per_client",
            self.max_connections_per_client,
            1,
            1_000_000,
        )?;
        whole(
            "max_requests_per_second",
            self.max_requests_per_second,
            1,
            1_000_000,
        )?;
        const HOST: &str = "a list of names such as models.example.org or 10.0.0.1:8080";
        each("allowed_hosts", &self.allowed_hosts, is_host, HOST)?;
        const ORIGIN: &str = "a list of origins such as https://example.org";
        each("allowed_origins", &self.allowed_origins, is_origin, ORIGIN)?;
        self.header_pattern().map(drop)
    }

    fn header_pattern(&self) -> Result<Option<HeaderPattern>, OptionError> {
        let pattern = self.forward_header_pattern.as_deref();
        let wrong = |text: &str, error: &str| OptionError {
            key: "forward_header_pattern",
            value: format!("\"{}\" ({error})", text.escape_debug()),
            allowed: "a regular expression such as ^x-tenant-".to_owned(),
        };
        pattern
            .map(|text| HeaderPattern::parse(text).map_err(|error| wrong(text, &error)))
            .transpose()
    }

    /// These options, and the other ones where these say nothing.
    #[must_use]
    pub fn or(self, other: NetOptions) -> NetOptions {
        NetOptions {
            http: self.http.or(other.http),
            grpc: self.grpc.or(other.grpc),
            workers: self.workers.or(other.workers),
            max_connections: self.max_connections.or(other.max_connections),
            max_header_bytes: self.max_header_bytes.or(other.max_header_bytes),
            max_body_bytes: self.max_body_bytes.or(other.max_body_bytes),
            max_inflight_bytes: self.max_inflight_bytes.or(other.max_inflight_bytes),
            header_timeout_ms: self.header_timeout_ms.or(other.header_timeout_ms),
            body_timeout_ms: self.body_timeout_ms.or(other.body_timeout_ms),
            idle_timeout_ms: self.idle_timeout_ms.or(other.idle_timeout_ms),
            drain_ms: self.drain_ms.or(other.drain_ms),
            allowed_hosts: self.allowed_hosts.or(other.allowed_hosts),
            allowed_origins: self.allowed_origins.or(other.allowed_origins),
            keys: self.keys.or(other.keys),
            keys_file: self.keys_file.or(other.keys_file),
            insecure: self.insecure.or(other.insecure),
            tls_cert: self.tls_cert.or(other.tls_cert),
            tls_key: self.tls_key.or(other.tls_key),
            tls_client_ca: self.tls_client_ca.or(other.tls_client_ca),
            max_connections_per_client: self
                .max_connections_per_client
                .or(other.max_connections_per_client),
            max_requests_per_second: self
                .max_requests_per_second
                .or(other.max_requests_per_second),
            forward_header_pattern: self.forward_header_pattern.or(other.forward_header_pattern),
        }
    }

    /// What is said here, and the defaults.
    ///
    /// # Errors
    /// As [`NetOptions::check`].
    pub fn resolve(self) -> Result<NetConfig, OptionError> {
        self.check()?;
        let default = NetConfig::default();
        let forward_header_pattern = self.header_pattern()?;
        let tls = tls(self.tls_cert, self.tls_key, self.tls_client_ca)?;
        Ok(NetConfig {
            forward_header_pattern,
            http: self.http.unwrap_or(default.http),
            grpc: self.grpc,
            workers: self.workers.and_then(NonZeroUsize::new),
            max_connections: self.max_connections.unwrap_or(default.max_connections),
            max_header_bytes: self.max_header_bytes.unwrap_or(default.max_header_bytes),
            max_body_bytes: self.max_body_bytes.unwrap_or(default.max_body_bytes),
            max_inflight_bytes: self
                .max_inflight_bytes
                .unwrap_or(default.max_inflight_bytes),
            header_timeout: time(self.header_timeout_ms, default.header_timeout),
            body_timeout: time(self.body_timeout_ms, default.body_timeout),
            idle_timeout: time(self.idle_timeout_ms, default.idle_timeout),
            drain: time(self.drain_ms, default.drain),
            allowed_hosts: self.allowed_hosts.unwrap_or_default(),
            allowed_origins: self.allowed_origins.unwrap_or_default(),
            keys: self.keys.unwrap_or_default(),
            keys_file: self.keys_file,
            insecure: self.insecure.unwrap_or(default.insecure),
            tls,
            max_connections_per_client: self.max_connections_per_client,
            max_requests_per_second: self.max_requests_per_second.and_then(NonZeroUsize::new),
            ..default
        })
    }

    /// The same with relative paths beginning at this folder.
    #[must_use]
    pub(super) fn beneath(mut self, folder: &Path) -> NetOptions {
        let paths = [
            &mut self.keys_file,
            &mut self.tls_cert,
            &mut self.tls_key,
            &mut self.tls_client_ca,
        ];
        for path in paths.into_iter().flatten() {
            *path = folder.join(&path);
        }
        self
    }
}

/// TLS takes two files, and a third only with them.
fn tls(
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    client_ca: Option<PathBuf>,
) -> Result<Option<TlsConfig>, OptionError> {
    let missing = |key| OptionError {
        key,
        value: "not said".to_owned(),
        allowed: "the name of a file too, since TLS takes both tls_cert and tls_key".to_owned(),
    };
    match (cert, key, client_ca) {
        (Some(cert), Some(key), client_ca) => Ok(Some(TlsConfig {
            cert,
            key,
            client_ca,
        })),
        (None, None, None) => Ok(None),
        (Some(_), None, _) => Err(missing("tls_key")),
        (None, ..) => Err(missing("tls_cert")),
    }
}

fn each(
    key: &'static str,
    said: &Option<Vec<String>>,
    allowed: fn(&str) -> bool,
    words: &str,
) -> Result<(), OptionError> {
    let mut values = said.iter().flatten();
    match values.find(|value| !allowed(value)) {
        Some(wrong) => Err(OptionError {
            key,
            value: format!("\"{}\"", wrong.escape_debug()),
            allowed: words.to_owned(),
        }),
        None => Ok(()),
    }
}

/// Whether it can be what a `Host` header says. No pattern is one: a `*` would be taken for a letter.
fn is_host(text: &str) -> bool {
    let plain = |char: char| char.is_ascii_alphanumeric() || "-._:[]".contains(char);
    !text.is_empty() && text.chars().all(plain)
}

fn is_origin(text: &str) -> bool {
    let host = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    host.is_some_and(is_host)
}

#[cfg(test)]
mod tests {
    use super::super::keys::{Digest, Scope};
    use super::*;

    fn everything() -> NetOptions {
        let text = |text: &str| Some(vec![text.to_owned()]);
        NetOptions {
            http: Some("[::1]:0".parse().unwrap()),
            grpc: Some("[::1]:1".parse().unwrap()),
            workers: Some(1),
            max_connections: Some(2),
            max_header_bytes: Some(8193),
            max_body_bytes: Some(4),
            max_inflight_bytes: Some(5),
            header_timeout_ms: Some(6000.0),
            body_timeout_ms: Some(7000.0),
            idle_timeout_ms: Some(8000.0),
            drain_ms: Some(9000.0),
            allowed_hosts: text("models.example.org"),
            allowed_origins: text("https://example.org"),
            keys: Some(vec![key()]),
            keys_file: Some("k".into()),
            insecure: Some(true),
            tls_cert: Some("c".into()),
            tls_key: Some("p".into()),
            tls_client_ca: Some("r".into()),
            max_connections_per_client: Some(10),
            max_requests_per_second: Some(11),
            forward_header_pattern: Some("^x-tenant-".to_owned()),
        }
    }

    fn key() -> Key {
        Key {
            name: "app".to_owned(),
            digest: Digest::new([1; 32]),
            scopes: vec![Scope::Infer],
            models: None,
        }
    }

    /// None may land in another's field, and what one place says hides what the other says.
    #[test]
    fn every_option_is_passed_on() {
        let nothing = NetOptions::default;
        let second = Duration::from_secs(1);
        let expected = NetConfig {
            http: "[::1]:0".parse().unwrap(),
            grpc: Some("[::1]:1".parse().unwrap()),
            workers: NonZeroUsize::new(1),
            max_connections: 2,
            max_header_bytes: 8193,
            max_body_bytes: 4,
            max_inflight_bytes: 5,
            header_timeout: 6 * second,
            body_timeout: 7 * second,
            idle_timeout: 8 * second,
            drain: 9 * second,
            allowed_hosts: vec!["models.example.org".to_owned()],
            allowed_origins: vec!["https://example.org".to_owned()],
            keys: vec![key()],
            keys_file: Some("k".into()),
            insecure: true,
            tls: Some(TlsConfig {
                cert: "c".into(),
                key: "p".into(),
                client_ca: Some("r".into()),
            }),
            max_connections_per_client: Some(10),
            max_requests_per_second: NonZeroUsize::new(11),
            forward_header_pattern: HeaderPattern::parse("^x-tenant-").ok(),
            ..NetConfig::default()
        };
        for options in [everything().or(nothing()), nothing().or(everything())] {
            assert_eq!(options.resolve().unwrap(), expected);
        }
        assert_eq!(nothing().resolve().unwrap(), NetConfig::default());
        let other = NetOptions {
            workers: Some(3),
            allowed_hosts: Some(Vec::new()),
            ..nothing()
        };
        let first = other.or(everything()).resolve().unwrap();
        assert_eq!(
            (first.workers, first.allowed_hosts),
            (NonZeroUsize::new(3), Vec::new())
        );
    }

    #[test]
    fn tls_takes_two_files_and_a_third_only_with_them() {
        let options = |files: [bool; 3]| {
            let file = |said: bool| said.then(|| PathBuf::from("f"));
            NetOptions {
                tls_cert: file(files[0]),
                tls_key: file(files[1]),
                tls_client_ca: file(files[2]),
                ..NetOptions::default()
            }
        };
        let table = [
            ([false, false, false], Ok(false)),
            ([true, true, false], Ok(true)),
            ([true, true, true], Ok(true)),
            ([true, false, false], Err("tls_key")),
            ([true, false, true], Err("tls_key")),
            ([false, true, false], Err("tls_cert")),
            ([false, false, true], Err("tls_cert")),
        ];
        for (files, expected) in table {
            let resolved = options(files).resolve();
            let resolved = resolved.map(|config| config.tls.is_some());
            assert_eq!(resolved.map_err(|error| error.key), expected, "{files:?}");
        }
    }

    #[test]
    fn other_machines_need_keys() {
        let open = NetConfig::default;
        let insecure = NetConfig {
            insecure: true,
            ..open()
        };
        let keys = NetConfig {
            keys: vec![key()],
            ..open()
        };
        let keys_file = NetConfig {
            keys_file: Some("k".into()),
            ..open()
        };
        for address in [
            "127.0.0.1:1",
            "127.9.9.9:1",
            "[::1]:1",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert!(open().may_listen_on(address.parse().unwrap()), "{address}");
        }
        for address in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[::ffff:10.0.0.1]:1"] {
            let address = address.parse().unwrap();
            assert!(!open().may_listen_on(address), "{address}");
            for config in [&insecure, &keys, &keys_file] {
                assert!(config.may_listen_on(address), "{address}");
            }
        }
    }

    #[test]
    fn a_value_out_of_range_is_named() {
        let wrong =
            |key, value: &str, allowed: &str| format!("{key} must be {allowed}, but is {value}");
        let host = |text: &str| NetOptions {
            allowed_hosts: Some(vec!["a.org".to_owned(), text.to_owned()]),
            ..NetOptions::default()
        };
        let hosts = "a list of names such as models.example.org or 10.0.0.1:8080";
        let origin = |text: &str| NetOptions {
            allowed_origins: Some(vec![text.to_owned()]),
            ..NetOptions::default()
        };
        let origins = "a list of origins such as https://example.org";
        let table = [
            (
                NetOptions {
                    workers: Some(0),
                    ..NetOptions::default()
                },
                wrong("workers", "0", "a whole number from 1 to 1024"),
            ),
            (
                NetOptions {
                    max_header_bytes: Some(100),
                    ..NetOptions::default()
                },
                wrong(
                    "max_header_bytes",
                    "100",
                    "a whole number from 8192 to 1048576",
                ),
            ),
            (host(""), wrong("allowed_hosts", "\"\"", hosts)),
            (
                host("*.a.org"),
                wrong("allowed_hosts", "\"*.a.org\"", hosts),
            ),
            (
                host("http://a.org"),
                wrong("allowed_hosts", "\"http://a.org\"", hosts),
            ),
            (host("a\nb"), wrong("allowed_hosts", "\"a\\nb\"", hosts)),
            (
                origin("a.org"),
                wrong("allowed_origins", "\"a.org\"", origins),
            ),
            (
                origin("https://a.org/"),
                wrong("allowed_origins", "\"https://a.org/\"", origins),
            ),
            (
                origin("null"),
                wrong("allowed_origins", "\"null\"", origins),
            ),
            (
                NetOptions {
                    forward_header_pattern: Some("(".to_owned()),
                    ..NetOptions::default()
                },
                wrong(
                    "forward_header_pattern",
                    "\"(\" (found open group without closing ')')",
                    "a regular expression such as ^x-tenant-",
                ),
            ),
        ];
        for (options, message) in table {
            assert_eq!(options.check().unwrap_err().to_string(), message);
            assert!(options.resolve().is_err());
        }
        for fine in ["a.org", "localhost:80", "[::1]:8080", "10.0.0.1"] {
            assert_eq!(host(fine).check(), Ok(()));
        }
    }
}
