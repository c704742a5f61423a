//! The load: keep-alive connections that send one prepared request again and again, in a closed or an open loop.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Outcome;

/// What came of a load.
#[derive(Default)]
pub(crate) struct Result {
    pub(crate) seconds: f64,
    /// Latencies in milliseconds by status; 0 stands for a broken connection.
    pub(crate) latencies: BTreeMap<u16, Vec<f64>>,
}

impl Result {
    pub(crate) fn count(&self, status: u16) -> usize {
        self.latencies.get(&status).map_or(0, Vec::len)
    }

    pub(crate) fn total(&self) -> usize {
        self.latencies.values().map(Vec::len).sum()
    }

    pub(crate) fn rate(&self) -> f64 {
        self.count(200) as f64 / self.seconds
    }

    /// Answers of 200 within that many milliseconds, per second.
    pub(crate) fn goodput(&self, within: f64) -> f64 {
        let good = self
            .latencies
            .get(&200)
            .map_or(0, |all| all.iter().filter(|ms| **ms <= within).count());
        good as f64 / self.seconds
    }

    /// A percentile of the latencies with that status, in milliseconds.
    pub(crate) fn percentile(&self, status: u16, percent: f64) -> f64 {
        let mut all = self.latencies.get(&status).cloned().unwrap_or_default();
        all.sort_by(f64::total_cmp);
        let index = (all.len() as f64 * percent / 100.0) as usize;
        all.get(index.min(all.len().saturating_sub(1)))
            .copied()
            .unwrap_or(f64::NAN)
    }

    fn record(&mut self, status: u16, since: Instant) {
        self.latencies
            .entry(status)
            .or_default()
            .push(since.elapsed().as_secs_f64() * 1e3);
    }
}

/// So many clients, each of whom asks again when it has its answer. What is answered in the first `warm` is not counted.
pub(crate) fn closed(
    address: SocketAddr,
    request: &[u8],
    clients: usize,
    warm: f64,
    seconds: f64,
) -> Outcome<Result> {
    let request: Rc<[u8]> = request.into();
    block_on(async move {
        let begin = Instant::now() + Duration::from_secs_f64(warm);
        let end = begin + Duration::from_secs_f64(seconds);
        let mut tasks = Vec::new();
        for _ in 0..clients {
            let request = request.clone();
            tasks.push(tokio::task::spawn_local(async move {
                let mut result = Result::default();
                let mut connection = Connection::open(address).await?;
                loop {
                    let sent = Instant::now();
                    if sent >= end {
                        return Ok::<_, io::Error>(result);
                    }
                    let status = connection.exchange(&request).await?;
                    if sent >= begin {
                        result.record(status, sent);
                    }
                }
            }));
        }
        let mut whole = Result {
            seconds,
            ..Result::default()
        };
        for task in tasks {
            for (status, latencies) in task.await??.latencies {
                whole.latencies.entry(status).or_default().extend(latencies);
            }
        }
        Ok(whole)
    })
}

/// Requests at random moments, independent of the answers, so many a second on average. Latency counts from the moment a request was
/// due.
pub(crate) fn open(
    address: SocketAddr,
    request: &[u8],
    per_second: f64,
    seconds: f64,
) -> Outcome<Result> {
    let request: Rc<[u8]> = request.into();
    block_on(async move {
        let result = Rc::new(RefCell::new(Result {
            seconds,
            ..Result::default()
        }));
        let idle: Rc<RefCell<Vec<Connection>>> = Rc::default();
        let mut tasks = Vec::new();
        let mut random = 7u64;
        let mut due = Instant::now();
        let end = due + Duration::from_secs_f64(seconds);
        while due < end {
            sleep_until(due).await;
            let (request, idle, result) = (request.clone(), idle.clone(), result.clone());
            tasks.push(tokio::task::spawn_local(async move {
                let status = exchange_on_any(address, &request, &idle).await.unwrap_or(0);
                result.borrow_mut().record(status, due);
            }));
            due += exponential(&mut random, per_second);
        }
        for task in tasks {
            task.await?;
        }
        Ok(result.take())
    })
}

/// One request after another on one connection: their latencies in milliseconds.
pub(crate) fn lone(address: SocketAddr, request: &[u8], times: usize) -> Outcome<Vec<f64>> {
    let request: Rc<[u8]> = request.into();
    block_on(async move {
        let mut connection = Connection::open(address).await?;
        let mut latencies = Vec::new();
        for _ in 0..times {
            let sent = Instant::now();
            connection.exchange(&request).await?;
            latencies.push(sent.elapsed().as_secs_f64() * 1e3);
        }
        Ok(latencies)
    })
}

/// Connections that have each had one answer, and are kept until this is dropped.
pub(crate) struct Kept {
    _connections: Vec<std::net::TcpStream>,
}

/// Opens so many connections, asks once on each, and keeps them.
pub(crate) fn keep(address: SocketAddr, request: &[u8], count: usize) -> Outcome<Kept> {
    block_on(async {
        let mut connections = Vec::with_capacity(count);
        for _ in 0..count {
            let mut connection = Connection::open(address).await?;
            if connection.exchange(request).await? != 200 {
                return Err("a connection got no answer of 200".into());
            }
            connections.push(connection.stream.into_std()?);
        }
        Ok(Kept {
            _connections: connections,
        })
    })
}

pub(crate) fn block_on<T>(future: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    tokio::task::LocalSet::new().block_on(&runtime, future)
}

/// The runtime's timer rounds to milliseconds; the rest is spent letting others run.
async fn sleep_until(due: Instant) {
    let coarse = due.checked_sub(Duration::from_millis(2)).unwrap_or(due);
    if coarse > Instant::now() {
        tokio::time::sleep_until(coarse.into()).await;
    }
    while Instant::now() < due {
        tokio::task::yield_now().await;
    }
}

fn exponential(random: &mut u64, per_second: f64) -> Duration {
    *random = random
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    let uniform = ((*random >> 11) as f64 + 1.0) / (1u64 << 53) as f64;
    Duration::from_secs_f64(-uniform.ln() / per_second)
}

async fn exchange_on_any(
    address: SocketAddr,
    request: &[u8],
    idle: &RefCell<Vec<Connection>>,
) -> io::Result<u16> {
    let kept = idle.borrow_mut().pop();
    let mut connection = match kept {
        Some(connection) => connection,
        None => Connection::open(address).await?,
    };
    let status = connection.exchange(request).await?;
    idle.borrow_mut().push(connection);
    Ok(status)
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(address: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection {
            stream,
            buffer: Vec::with_capacity(4096),
        })
    }

    /// Sends the request and reads the whole answer, whose status it returns.
    async fn exchange(&mut self, request: &[u8]) -> io::Result<u16> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some((status, length)) = whole(&self.buffer)
                && self.buffer.len() >= length
            {
                return Ok(status);
            }
        }
    }
}

/// The status and the whole length of an answer whose head is complete.
fn whole(buffer: &[u8]) -> Option<(u16, usize)> {
    let head = buffer.windows(4).position(|end| end == b"\r\n\r\n")?;
    let text = std::str::from_utf8(&buffer[..head]).ok()?;
    let status = text.get(9..12)?.parse().ok()?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().ok())?
    })?;
    Some((status, head + 4 + length))
}
