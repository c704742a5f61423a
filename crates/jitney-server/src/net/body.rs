//! Reading the body of a request: bounded in bytes, in time, and in what all bodies together may hold.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http_body::Body;
use http_body_util::BodyExt;

use super::reply::Refusal;
use crate::admit::Admitted;
use crate::failure::{Code, Failure};

/// Memory that is set aside for a body on its word alone; beyond it memory follows what has arrived.
const TRUSTED_BYTES: usize = 64 * 1024;

/// The limits of one body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyLimits {
    pub(crate) bytes: usize,
    pub(crate) timeout: Duration,
    pub(crate) deadline: Instant,
}

/// How many bytes the body is announced to have; 0 when that is not known. Refuses it before any byte is read when they are too many.
pub(crate) fn announced(body: &impl Body, limit: usize) -> Result<usize, Refusal> {
    let length = body.size_hint().lower();
    match usize::try_from(length) {
        Ok(length) if length <= limit => Ok(length),
        _ => Err(too_large(limit)),
    }
}

/// Reads the whole body. One that comes in one piece is not copied.
///
/// Cancel safety: what was read is lost, and its bytes are given back when `admitted` is dropped.
pub(crate) async fn read<B>(
    mut body: B,
    admitted: &mut Admitted,
    limits: BodyLimits,
) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut pace = Pace::new(limits);
    let Some(first) = pace.next(&mut body, admitted).await? else {
        return Ok(Bytes::new());
    };
    if body.is_end_stream() {
        return Ok(first);
    }
    let expected = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let mut whole = BytesMut::with_capacity(first.len() + expected.min(TRUSTED_BYTES));
    whole.extend_from_slice(&first);
    while let Some(more) = pace.next(&mut body, admitted).await? {
        whole.extend_from_slice(&more);
    }
    Ok(whole.freeze())
}

/// Watches how much came, and how fast.
struct Pace {
    limits: BodyLimits,
    read: usize,
    window_end: Instant,
    read_before_window: usize,
}

impl Pace {
    fn new(limits: BodyLimits) -> Pace {
        Pace {
            limits,
            read: 0,
            window_end: Instant::now() + limits.timeout,
            read_before_window: 0,
        }
    }

    async fn next<B>(
        &mut self,
        body: &mut B,
        admitted: &mut Admitted,
    ) -> Result<Option<Bytes>, Refusal>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        loop {
            let until = self.window_end.min(self.limits.deadline);
            // What is there already needs no timer: most bodies come with their heads.
            let there = body.frame().now_or_never();
            let frame = match there {
                Some(frame) => Ok(frame),
                None => tokio::time::timeout_at(until.into(), body.frame()).await,
            };
            let Ok(frame) = frame else {
                self.late(Instant::now())?;
                continue;
            };
            match frame {
                None => return Ok(None),
                Some(Err(_)) => return Err(broken_off()),
                Some(Ok(frame)) => {
                    // Trailers say nothing that is wanted here.
                    if let Ok(data) = frame.into_data() {
                        self.count(data.len(), admitted)?;
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    fn count(&mut self, bytes: usize, admitted: &mut Admitted) -> Result<(), Refusal> {
        self.read += bytes;
        if self.read > self.limits.bytes {
            return Err(too_large(self.limits.bytes));
        }
        admitted.take(bytes).map_err(Refusal::closing)
    }

    /// Opens the next window when enough came in this one.
    fn late(&mut self, now: Instant) -> Result<(), Refusal> {
        if now >= self.limits.deadline {
            return Err(Refusal::closing(Failure::new(
                Code::DeadlineExceeded,
                "the deadline passed while the body was read",
            )));
        }
        // A byte for each millisecond is 1 kB for each second.
        let came = (self.read - self.read_before_window) as u128;
        if came < self.limits.timeout.as_millis() {
            return Err(Refusal::closing(Failure::new(
                Code::RequestTimeout,
                "the body came too slowly; send at least 1 kB in each second",
            )));
        }
        self.window_end = now + self.limits.timeout;
        self.read_before_window = self.read;
        Ok(())
    }
}

fn too_large(limit: usize) -> Refusal {
    Refusal::closing(Failure::new(
        Code::TooLarge,
        format!(
            "the body is larger than the limit of {limit} bytes; send less at a time, or raise max_body_bytes"
        ),
    ))
}

/// The body broke off: the client has left, unless the connection's fault says something else.
fn broken_off() -> Refusal {
    Refusal::closing(Failure::new(
        Code::Cancelled,
        "the client left before the body's end",
    ))
}
