//! A server in the test's process, and a client that sends exactly the bytes it is told to.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use jitney::batch::Stats;
use jitney_server::config::{Config, ModelOptions, ModelSource, NetConfig, Settings};
use jitney_server::server::{Running, Server};
use serde_json::Value;

/// Longest time anything may take here. Far beyond what it does take, so that a slow machine fails no test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Fixture {
    pub(crate) running: Running,
    runtime: tokio::runtime::Runtime,
}

/// A server with these models, such as `"m=echo:FP32[2]"`, whose batches have at most one row.
pub(crate) fn start(models: &[&str]) -> Fixture {
    start_with(models, |_| ())
}

pub(crate) fn start_with(models: &[&str], adjust: impl FnOnce(&mut NetConfig)) -> Fixture {
    start_queued(models, 256, adjust)
}

pub(crate) fn start_queued(
    models: &[&str],
    queue: usize,
    adjust: impl FnOnce(&mut NetConfig),
) -> Fixture {
    start_config(models, |config| {
        config.settings.given.queue = Some(queue);
        adjust(&mut config.net);
    })
}

pub(crate) fn start_given(
    models: &[&str],
    given: ModelOptions,
    adjust: impl FnOnce(&mut NetConfig),
) -> Fixture {
    start_config(models, |config| {
        config.settings.given = given;
        adjust(&mut config.net);
    })
}

/// A server whose settings are changed as a whole before it starts.
pub(crate) fn start_config(models: &[&str], adjust: impl FnOnce(&mut Config)) -> Fixture {
    let net = NetConfig {
        http: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        ..NetConfig::default()
    };
    let models = models
        .iter()
        .map(|source| ModelSource::parse(source).unwrap())
        .collect();
    let given = ModelOptions {
        max_batch: Some(1),
        ..ModelOptions::default()
    };
    let settings = Settings {
        given,
        ..Settings::default()
    };
    let mut config = Config {
        net,
        settings,
        models,
        levels: None,
    };
    adjust(&mut config);
    let running = Server::start(config).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(running.wait_ready());
    Fixture { running, runtime }
}

impl Fixture {
    pub(crate) fn address(&self) -> SocketAddr {
        self.running.http_addr()
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.address())
    }

    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        let limited = async { tokio::time::timeout(PATIENCE, future).await };
        self.runtime.block_on(limited).expect("this took too long")
    }

    /// The counts of the first model's batcher.
    pub(crate) fn stats(&self) -> Stats {
        let status = self.running.catalog().statuses().remove(0);
        status.loaded.expect("the model is loaded").stats
    }

    /// Waits until the first model's counts are like this.
    pub(crate) fn wait_stats(&self, what: &str, wanted: impl Fn(&Stats) -> bool) {
        wait_until(
            || wanted(&self.stats()),
            || format!("{what}, but {:?}", self.stats()),
        );
    }

    /// The value of a metric's first line that begins so, as it is scraped.
    pub(crate) fn scrape(&self, line: &str) -> Option<f64> {
        let text = self.connect().get("/metrics").text();
        let rest = text.lines().find_map(|found| found.strip_prefix(line))?;
        rest.trim().parse().ok()
    }
}

/// Looks again and again until it is so. For what happens in other threads and has no event to wait for.
pub(crate) fn wait_until(so: impl Fn() -> bool, otherwise: impl Fn() -> String) {
    let by = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < by, "waited too long for: {}", otherwise());
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// One connection.
pub(crate) struct Client {
    socket: TcpStream,
    read: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Client {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_nodelay(true).unwrap();
        Client {
            socket,
            read: Vec::new(),
        }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Client {
        // The server may close before it has read everything, which the answer tells.
        let _ = self.socket.write_all(bytes.as_ref());
        self
    }

    fn host(&self) -> SocketAddr {
        self.socket.peer_addr().unwrap()
    }

    pub(crate) fn get(&mut self, path: &str) -> Answer {
        self.request("GET", path, "", "")
    }

    pub(crate) fn post(&mut self, path: &str, body: &str) -> Answer {
        self.request("POST", path, "content-type: application/json\r\n", body)
    }

    pub(crate) fn request(&mut self, method: &str, path: &str, fields: &str, body: &str) -> Answer {
        self.begin(method, path, fields, body);
        self.answer_to(method).expect("an answer")
    }

    /// Sends a request and does not wait for its answer.
    pub(crate) fn begin(&mut self, method: &str, path: &str, fields: &str, body: &str) {
        let host = self.host();
        let length = match (method, fields.to_ascii_lowercase()) {
            (_, fields)
                if fields.contains("transfer-encoding") || fields.contains("content-length:") =>
            {
                String::new()
            }
            ("POST", _) => format!("content-length: {}\r\n", body.len()),
            _ => String::new(),
        };
        self.send(format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\n{length}{fields}\r\n{body}"
        ));
    }

    pub(crate) fn begin_post(&mut self, path: &str, body: &str) {
        self.begin("POST", path, "content-type: application/json\r\n", body);
    }

    /// The next answer; `None` when the server closed the connection instead.
    pub(crate) fn answer(&mut self) -> Option<Answer> {
        self.answer_to("")
    }

    pub(crate) fn answer_to(&mut self, method: &str) -> Option<Answer> {
        let end = loop {
            match find(&self.read, b"\r\n\r\n") {
                Some(end) => break end + 4,
                None if !self.fill() => return None,
                None => (),
            }
        };
        let head = String::from_utf8(self.read.drain(..end).collect()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = field(&head, "content-length").map_or(0, |length| length.parse().unwrap());
        let length = if method == "HEAD" { 0 } else { length };
        while self.read.len() < length {
            assert!(self.fill(), "the answer is cut off: {head}");
        }
        let body = self.read.drain(..length).collect();
        Some(Answer { status, head, body })
    }

    /// The connection, and what has been read of it behind the last answer.
    pub(crate) fn into_parts(self) -> (TcpStream, Vec<u8>) {
        (self.socket, self.read)
    }

    /// Whether the server has closed the connection and sent nothing more.
    pub(crate) fn is_closed(&mut self) -> bool {
        !self.fill() && self.read.is_empty()
    }

    fn fill(&mut self) -> bool {
        let mut piece = [0; 16 * 1024];
        match self.socket.read(&mut piece) {
            Ok(0) => false,
            Ok(count) => {
                self.read.extend_from_slice(&piece[..count]);
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("the server neither answered nor closed: {error}"),
        }
    }
}

impl Answer {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The stable word of a failure, whose body is checked to be one.
    pub(crate) fn code(&self) -> String {
        let json = self.json();
        let (error, code) = (json["error"].as_str(), json["code"].as_str());
        assert!(error.is_some_and(|error| !error.is_empty()), "{self:?}");
        assert_eq!(
            self.field("content-type"),
            Some("application/json"),
            "{self:?}"
        );
        code.expect("a code").to_owned()
    }
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}
