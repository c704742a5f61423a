//! A `jitney serve` of one test, and as much of an HTTP client as the tests need.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use crate::command::{self, Ended};

/// No answer of a healthy server takes this long on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server. Dropping it kills it.
pub(crate) struct Served {
    child: Child,
    pub(crate) ready_line: String,
    address: String,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

impl Served {
    /// Serves these on a free port, and returns once the server is ready.
    pub(crate) fn start(args: &[&str]) -> Served {
        Served::start_with(args, |_| {})
    }

    /// The same, with a change to the command before it runs.
    pub(crate) fn start_with(args: &[&str], change: impl FnOnce(&mut Command)) -> Served {
        let mut command = command::command();
        command
            .arg("serve")
            .args(args)
            .args(["--http", "127.0.0.1:0"]);
        change(&mut command);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = collect(child.stderr.take().unwrap());
        let (stdout, first) = collect_after_first(child.stdout.take().unwrap());
        let ready_line = first.recv_timeout(PATIENCE).unwrap_or_default();
        let Some(address) = ready_line
            .split(' ')
            .find_map(|word| word.strip_prefix("http="))
        else {
            let _ = child.kill();
            panic!(
                "expected a ready line, got {ready_line:?}; log:\n{}",
                stderr.join().unwrap()
            );
        };
        Served {
            address: address.to_owned(),
            ready_line,
            child,
            stdout: Some(stdout),
            stderr: Some(stderr),
        }
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        self.ask("GET", path, "", "")
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> Response {
        self.ask("POST", path, "", body)
    }

    /// `headers` are whole lines, each with its line end.
    pub(crate) fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Response {
        read_response(self.send(method, path, headers, body))
    }

    /// Sends a request and leaves its answer unread.
    pub(crate) fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{headers}\r\n{body}",
            self.address
        )
        .unwrap();
        stream
    }

    /// Waits until a metric has this value: the way to know what the server does without sleeping.
    pub(crate) fn wait_for_metric(&self, name: &str, value: f64) {
        let start = std::time::Instant::now();
        while start.elapsed() < PATIENCE {
            let metrics = self.get("/metrics").body;
            let mut samples = metrics.lines().filter(|line| line.starts_with(name));
            if samples.any(|line| number_at_end(line) == Some(value)) {
                return;
            }
            std::thread::yield_now();
        }
        panic!("{name} never was {value}");
    }

    /// Sends a signal such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        self.signal_times(name, 1);
    }

    /// Sends it twice, with nothing in between.
    pub(crate) fn signal_twice(&self, name: &str) {
        self.signal_times(name, 2);
    }

    fn signal_times(&self, name: &str, times: usize) {
        let status = Command::new("kill")
            .arg(format!("-{name}"))
            .args(vec![self.child.id().to_string(); times])
            .status();
        assert!(status.unwrap().success());
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits until the server has ended.
    pub(crate) fn wait(mut self) -> Ended {
        let code = self.child.wait().unwrap().code();
        Ended {
            code,
            stdout: self.stdout.take().unwrap().join().unwrap(),
            stderr: self.stderr.take().unwrap().join().unwrap(),
        }
    }

    /// Tells the server to stop and waits until it has.
    pub(crate) fn stop(self) -> Ended {
        self.signal("TERM");
        self.wait()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads the answer to its end; the connection is not used again.
pub(crate) fn read_response(mut stream: TcpStream) -> Response {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    Response {
        status: status.unwrap_or_else(|| panic!("no status: {head}")),
        head: head.to_ascii_lowercase(),
        body: body.to_owned(),
    }
}

/// The value of a sample, which some gauges write with a fraction.
fn number_at_end(sample: &str) -> Option<f64> {
    sample.rsplit(' ').next()?.parse().ok()
}

fn collect(mut stream: impl Read + Send + 'static) -> JoinHandle<String> {
    spawn(move || {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    })
}

/// The first line at once, and everything after it when the stream ends.
fn collect_after_first(
    stream: impl Read + Send + 'static,
) -> (JoinHandle<String>, Receiver<String>) {
    let (sender, first) = sync_channel(1);
    let rest = spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        // The test may have given up.
        let _ = sender.send(line.trim_end().to_owned());
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        rest
    });
    (rest, first)
}

fn spawn(work: impl FnOnce() -> String + Send + 'static) -> JoinHandle<String> {
    std::thread::Builder::new().spawn(work).unwrap()
}
