//! What a fuzzer reaches: messages out of the bytes of a call, requests out of messages, and answers.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body::Frame;
use http_body_util::StreamBody;
use jitney_engine::{Spec, Tensor};

use super::coding::Encoding;
use super::generated::ModelInferRequest;
use super::head::Head;
use super::infer::{self, Asked, Model};
use super::service::{self, RAW};
use super::wire::{Messages, Parts, Requests};
use crate::admit::Admission;
use crate::failure::Failure;

/// More than any messages here need, so that nothing is refused for want of it.
const ROOM: usize = 1 << 40;
/// Nothing here waits.
const PATIENCE: Duration = Duration::from_secs(3600);

/// The messages of a stream whose bytes come in these pieces, and the failure that it ends with. `encoding` is what its metadata says of
/// compressed messages.
///
/// # Panics
/// Where a message is given without its room, or room is not given back.
pub async fn messages(
    encoding: Option<&str>,
    pieces: Vec<Bytes>,
    limit: usize,
) -> (Vec<Bytes>, Option<Failure>) {
    let admission = Admission::new(ROOM);
    let frames = pieces.into_iter().map(Frame::data);
    let body = StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>)));
    let messages = Messages::new(&head(encoding), limit);
    let requests = Requests::new(body, messages, Arc::clone(&admission), PATIENCE);
    let mut requests = requests.into_stream();
    let (mut came, mut rooms, mut failed) = (Vec::new(), Vec::new(), None);
    while let Some(next) = requests.next().await {
        assert!(failed.is_none(), "a failure is the last thing");
        match next {
            Ok((message, room)) => {
                came.push(message);
                rooms.push(room);
            }
            Err(failure) => failed = Some(failure),
        }
        assert!(admission.bytes_held() >= came.iter().map(Bytes::len).sum());
    }
    drop((requests, rooms));
    assert_eq!((admission.bytes_held(), admission.in_flight()), (0, 0));
    (came, failed)
}

/// The message of a call that takes one.
///
/// # Errors
/// Where there is not exactly one, and as for the messages of a stream.
pub async fn message(
    encoding: Option<&str>,
    pieces: Vec<Bytes>,
    limit: usize,
) -> Result<Bytes, Failure> {
    let mut room = Admission::new(ROOM).enter(0)?;
    let mut messages = Messages::new(&head(encoding), limit);
    for piece in pieces {
        room.take(piece.len())?;
        messages.push(piece)?;
    }
    messages.only()?.open(&mut room).await
}

/// Reads a request without looking at a model.
///
/// # Errors
/// Where it is none, or has too much in it.
pub fn read(message: Bytes) -> Result<ModelInferRequest, Failure> {
    let mut room = Admission::new(ROOM).enter(0)?;
    service::infer_request(message, &mut room)
}

/// A request that is checked against a model's signature.
#[derive(Debug)]
pub struct Request(Asked);

impl Request {
    /// Checks a request.
    ///
    /// # Errors
    /// Where it does not fit.
    pub fn check(request: ModelInferRequest, spec: &Spec) -> Result<Request, Failure> {
        infer::decode(request, spec).map(Request)
    }

    /// Its tensors.
    pub fn inputs(&self) -> &[Tensor] {
        &self.0.inputs
    }

    /// The bytes of the answer of a model that gives its inputs back, compressed as `encoding` says.
    ///
    /// # Errors
    /// Where it has no form in a message.
    pub async fn echo(&self, spec: &Spec, encoding: Option<&str>) -> Result<Bytes, Failure> {
        let Asked { meta, inputs, form } = &self.0;
        let model = Model {
            name: "m",
            version: "1",
            spec,
            labels: &[],
        };
        let mut outputs = inputs.clone();
        let answer = infer::encode(model, meta.id.as_deref(), form, &mut outputs, None)?;
        let (response, raw) = answer;
        let parts = Parts {
            wrapper: None,
            message: &response,
            raw: (RAW, &raw),
        };
        let pieces = parts.write(&head(encoding)).await?;
        Ok(pieces.into_iter().flatten().collect())
    }
}

fn head(encoding: Option<&str>) -> Head {
    let encoding = encoding.and_then(|name| Encoding::from_name(name.as_bytes()));
    Head {
        encoding,
        answers: encoding,
        ..Head::default()
    }
}
