//! Calls of gRPC: read like any other body, and handed to the service.

use std::time::{Duration, Instant};

use http::header::CONTENT_TYPE;
use http::{HeaderMap, Response, Version, request};
use hyper::body::Incoming;

use super::body::{self, BodyLimits};
use super::checks;
use super::exchange::Exchange;
use super::payload::Body;
use super::reply::{Refusal, Reply};
use super::router::Call;
use crate::failure::{Code, Failure};
use crate::grpc::{self, Answered, Caller, Channel, Head, Method, Unary};

/// How long a call may take to come in that does not say how long it waits. It must come steadily all the same.
const READING: Duration = Duration::from_secs(24 * 3600);

/// Whether the answer to a request must be one of gRPC, even where it is a refusal.
pub(super) fn is_grpc(head: &request::Parts) -> bool {
    head.version == Version::HTTP_2 && Head::is_grpc(head.headers.get(CONTENT_TYPE))
}

/// Answers a call.
pub(super) async fn answer(
    exchange: Exchange<'_>,
    call: Call<'_>,
    headers: HeaderMap,
    body: Incoming,
) -> Result<Reply, Refusal> {
    let head = Head::read(&headers)?;
    let until = head
        .timeout
        .and_then(|timeout| exchange.started.checked_add(timeout));
    let config = &exchange.peer.net.config;
    let caller = Caller {
        head,
        grant: exchange.grant.clone(),
        started: exchange.started,
        context: checks::context(&headers, config, exchange.grant.number(), until),
    };
    drop(headers);
    match Method::find(call.service, call.method)? {
        Method::Unary(unary) => once(exchange, unary, caller, body).await,
        Method::Stream(channel) => Ok(stream(&exchange, channel, caller, body)),
    }
}

async fn once(
    exchange: Exchange<'_>,
    unary: Unary,
    caller: Caller,
    body: Incoming,
) -> Result<Reply, Refusal> {
    let Exchange {
        peer,
        started,
        record,
        ..
    } = exchange;
    let (net, config) = (&peer.net, &peer.net.config);
    let method = Method::Unary(unary);
    // With its prefix.
    let limit = net.grpc.limit_of(method).saturating_add(5);
    let announced = body::announced(&body, limit)?;
    let mut admitted = match unary.is_inference() {
        true => net.admission.enter(announced)?,
        false => net.admission.enter_to_ask(),
    };
    let limits = BodyLimits {
        bytes: limit,
        timeout: config.body_timeout,
        deadline: caller.context.deadline(started + READING),
    };
    let head = caller.head;
    let mut messages = net.grpc.messages(method, &head);
    body::pieces(body, &mut admitted, limits, |piece| messages.push(piece)).await?;
    let read = Instant::now();
    let message = messages.only()?.open(&mut admitted).await?;
    let answered = net
        .grpc
        .answer(unary, caller, message, &mut admitted, record);
    let Answered { body, ran } = answered.await?;
    if let Some((decoded, ran)) = ran {
        record.decoded(decoded - read);
        record.encoded(ran.elapsed());
    }
    Ok(reply(body.into(), &head))
}

/// The connection counts as used for as long as the stream goes on; but not where somebody only watches, which costs him nothing and has no
/// end.
fn stream(exchange: &Exchange<'_>, channel: Channel, caller: Caller, body: Incoming) -> Reply {
    let net = &exchange.peer.net;
    let messages = net.grpc.messages(Method::Stream(channel), &caller.head);
    let head = caller.head;
    let answers = net.grpc.open(channel, caller, body, messages);
    let answers = match channel {
        Channel::HealthWatch => answers,
        Channel::ModelStreamInfer | Channel::Reflection => {
            answers.holding(exchange.peer.answering())
        }
    };
    reply(exchange.peer.stream(answers.into()), &head)
}

fn reply(body: Body, head: &Head) -> Reply {
    let mut reply = Response::new(body);
    head.describe(reply.headers_mut());
    reply
}

/// The answer that tells of a failure.
pub(super) fn refusal(failure: &Failure) -> Reply {
    grpc::refusal(failure).map(Body::from)
}

/// The refusal of what is not gRPC where nothing else is served, and of gRPC where it is not.
pub(super) fn elsewhere(grpc: bool) -> Failure {
    match grpc {
        true => Failure::new(
            Code::MethodNotAllowed,
            "gRPC is not served on this port: start the server with --grpc and the address of this port, or call the port that it names",
        ),
        false => Failure::new(
            Code::NotFound,
            "this port serves gRPC alone, over HTTP/2: everything else is on the port of --http",
        ),
    }
}

/// The refusal of a method of gRPC that is called in another way.
pub(super) fn not_grpc() -> Failure {
    Failure::new(
        Code::UnsupportedMediaType,
        "this is a method of gRPC: call it over HTTP/2 with content-type: application/grpc",
    )
}

/// The refusal of a call to a path that is no method.
pub(super) fn unknown_method() -> Failure {
    Failure::new(
        Code::MethodNotAllowed,
        "there is no method of this name: a path is /PACKAGE.SERVICE/METHOD",
    )
}
