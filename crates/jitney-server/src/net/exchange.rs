//! One request and its one answer, whatever happens in between.

use std::any::Any;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use futures_util::future::Either;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version, request};
use hyper::body::Incoming;
use tokio::sync::oneshot;

use super::body::{Arriving, Rest};
use super::checks::{self, X_REQUEST_ID};
use super::connection::{Peer, Plane};
use super::cors::{Cors, Origin};
use super::framing::Fault;
use super::reply::{self, Refusal, Reply};
use super::router::{self, Form, NoRoute, Route, View};
use super::screen::REFUSED;
use super::{body, control, infer, manage, rpc, stream, websocket};
use crate::access::{Grant, Need};
use crate::failure::{Code, Failure};
use crate::observe::record::Record;
use crate::observe::{logging, metrics};

/// A request on its way through the handlers.
pub(crate) struct Exchange<'a> {
    pub(crate) peer: &'a Arc<Peer>,
    pub(crate) started: Instant,
    /// What the caller may do.
    pub(crate) grant: Grant,
    pub(crate) record: &'a mut Record,
}

/// A request before it is known whether it may come in.
struct Approach<'a> {
    peer: &'a Arc<Peer>,
    started: Instant,
    record: &'a mut Record,
}

impl<'a> Approach<'a> {
    /// The one place where it is decided who may do what. A path that leads nowhere is a secret like any other.
    fn authorised(
        self,
        head: &request::Parts,
        route: Option<Route<'_>>,
    ) -> Result<Exchange<'a>, Failure> {
        let Approach {
            peer,
            started,
            record,
        } = self;
        let need = route.map_or(Need::Look, Route::need);
        let model = route.and_then(Route::model);
        let grant = peer.net.access.authorise(head, peer.from, need, model)?;
        if need.is_admin() {
            log_order(head, &grant);
        }
        Ok(Exchange {
            peer,
            started,
            grant,
            record,
        })
    }
}

/// What is remembered of a request's head when it is let go. The fields of a head share the memory that the connection reads into, which
/// can be used again only when none of them is left.
struct Brief {
    version: Version,
    method: Method,
    path: String,
    grpc: bool,
    request_id: Option<HeaderValue>,
    origin: Origin,
}

impl Brief {
    fn of(head: &request::Parts, cors: &Cors) -> Brief {
        let request_id = checks::request_id(&head.headers);
        Brief {
            version: head.version,
            method: head.method.clone(),
            path: head.uri.path().to_owned(),
            origin: cors.origin(&head.headers),
            grpc: rpc::is_grpc(head),
            request_id: request_id.and_then(|id| HeaderValue::from_bytes(id.as_bytes()).ok()),
        }
    }

    fn request_id(&self) -> Option<&str> {
        self.request_id.as_ref()?.to_str().ok()
    }
}

/// Answers a request. Never fails: what goes wrong is an answer too.
///
/// Cancel safety: dropping it cancels the request wherever it is and records it as cancelled. hyper does so when the client leaves.
pub(crate) async fn serve(
    peer: Arc<Peer>,
    request: Request<Incoming>,
) -> Result<Reply, Infallible> {
    let started = Instant::now();
    let _active = peer.begin_request();
    let (head, body) = request.into_parts();
    let brief = Brief::of(&head, &peer.net.cors);
    let path = router::plain(&brief.path);
    let route = match &path {
        Ok(path) => router::route(&brief.method, path),
        Err(none) => Err(*none),
    };
    let mut record = Record::begin(&peer.net.metrics, metrics_route(route.ok()));
    let approach = Approach {
        peer: &peer,
        started,
        record: &mut record,
    };
    // On the heap, because it is large and every layer around it would copy it when it is made.
    let answered = guarded(Box::pin(answer(approach, route, head, body))).await;
    record.finish(
        answered
            .as_ref()
            .map(|_| ())
            .map_err(|refusal| refusal.failure.code),
    );
    Ok(finish(&peer, &brief, answered))
}

/// Answers, and leaves the connection as its next request needs it.
async fn answer(
    approach: Approach<'_>,
    route: Result<Route<'_>, NoRoute>,
    head: request::Parts,
    body: Incoming,
) -> Result<Reply, Refusal> {
    let (peer, version) = (approach.peer, head.version);
    let mut body = Arriving::new(&head, body);
    let answered = match enter(approach, route, &head) {
        // The messages of a stream come while it is answered.
        Ok(Entered::Call(exchange, Route::Grpc(call))) => {
            return Box::pin(rpc::answer(exchange, call, head.headers, body.into_inner())).await;
        }
        Ok(Entered::Call(exchange, route)) => dispatch(exchange, route, head, &mut body).await,
        Ok(Entered::Answered(reply)) => Ok(reply),
        Err(refusal) => Err(refusal),
    };
    let answered = answered.map_err(|refusal| match peer.signs.fault() {
        // The body broke off because of what was found in it, not because the client left.
        Some(fault) if refusal.failure.code == Code::Cancelled => fault_refusal(fault, peer),
        _ => refusal,
    });
    clear(version, answered, &mut body).await
}

/// Takes what nobody has read of a body out of the way of the answer, and of the next request.
async fn clear(
    version: Version,
    answered: Result<Reply, Refusal>,
    body: &mut Arriving,
) -> Result<Reply, Refusal> {
    let refusal = answered.as_ref().err();
    if version == Version::HTTP_2 {
        let slow = |refusal: &Refusal| {
            let code = refusal.failure.code;
            matches!(code, Code::DeadlineExceeded | Code::RequestTimeout)
        };
        if !refusal.is_some_and(slow) {
            body::pass_over(body, Rest::HTTP2).await;
        }
        return answered;
    }
    if refusal.is_some_and(|refusal| refusal.close) {
        return answered;
    }
    // To pass over what is held back would be to ask for it.
    if !body.is_held_back() && body::pass_over(body, Rest::HTTP1).await {
        return answered;
    }
    match answered {
        Ok(mut reply) => {
            reply::close(reply.headers_mut());
            Ok(reply)
        }
        Err(refusal) => Err(Refusal {
            close: true,
            ..refusal
        }),
    }
}

/// What became of a request when its head was checked.
enum Entered<'a, 'r> {
    /// Nothing else is wanted.
    Answered(Reply),
    /// It may have what it asks for.
    Call(Exchange<'a>, Route<'r>),
}

/// Decides by the head of a request whether it may come in. No byte of its body is read before that.
fn enter<'a, 'r>(
    approach: Approach<'a>,
    route: Result<Route<'r>, NoRoute>,
    head: &request::Parts,
) -> Result<Entered<'a, 'r>, Refusal> {
    let peer = approach.peer;
    if head.method.as_str() == REFUSED
        && let Some(fault) = peer.signs.fault()
    {
        return Err(fault_refusal(fault, peer));
    }
    checks::size(head, &peer.net.config)?;
    peer.door.sites.check(head)?;
    if let Some(reply) = peer.net.cors.preflight(head) {
        return Ok(Entered::Answered(reply));
    }
    let exchange = approach.authorised(head, route.ok())?;
    let grpc = rpc::is_grpc(head);
    if !peer.door.serves.includes(grpc) {
        return Err(rpc::elsewhere(grpc).into());
    }
    let route = match route {
        Ok(Route::Grpc(_)) if !grpc => return Err(rpc::not_grpc().into()),
        Ok(route @ Route::Grpc(_)) => route,
        _ if grpc => return Err(rpc::unknown_method().into()),
        route => route.map_err(no_route)?,
    };
    Ok(Entered::Call(exchange, route))
}

/// Hands a request to what answers it.
async fn dispatch(
    exchange: Exchange<'_>,
    route: Route<'_>,
    head: request::Parts,
    body: &mut Arriving,
) -> Result<Reply, Refusal> {
    match route {
        Route::Control(view) => {
            control::answer(&exchange.peer.net, &exchange.grant, view).map_err(Refusal::from)
        }
        Route::Infer(form, model) => {
            infer::answer(exchange, form, model, headers(head), body).await
        }
        // The rest is on the heap by itself, since its room would be set aside for every inference too.
        Route::Stream(channel, model) => {
            Box::pin(stream::events(
                exchange,
                channel,
                model,
                headers(head),
                body,
            ))
            .await
        }
        Route::WebSocket(model) => websocket::answer(exchange, model, head, body),
        Route::Manage(order) => {
            Box::pin(manage::answer(exchange, order, headers(head), body)).await
        }
        // It has been handed over before.
        Route::Grpc(_) => Err(no_route(NoRoute::NotFound)),
    }
}

/// All that is needed of a head whose route is known. The rest is let go.
fn headers(head: request::Parts) -> HeaderMap {
    head.headers
}

/// What is the same for every answer.
fn finish(peer: &Peer, brief: &Brief, answered: Result<Reply, Refusal>) -> Reply {
    let close = match &answered {
        Ok(_) => false,
        Err(refusal) => {
            log_failure(brief, &refusal.failure);
            refusal.close
        }
    };
    let mut reply = answered.unwrap_or_else(|refusal| match brief.grpc {
        true => rpc::refusal(&refusal.failure),
        false => reply::refusal(&refusal, &peer.net.jitter),
    });
    if let Some(id) = &brief.request_id {
        reply.headers_mut().insert(X_REQUEST_ID, id.clone());
    }
    peer.net.cors.mark(&brief.origin, reply.headers_mut());
    let upgraded = reply.status() == StatusCode::SWITCHING_PROTOCOLS;
    let last = !upgraded && (close || peer.net.admission.draining());
    if brief.version != Version::HTTP_2 && last {
        reply::close(reply.headers_mut());
    }
    if brief.method == Method::HEAD {
        reply::without_body(reply)
    } else {
        reply
    }
}

/// Who changes the server, or looks into it, is on record.
fn log_order(head: &request::Parts, grant: &Grant) {
    tracing::info!(
        key = grant.name(),
        method = %head.method,
        path = %logging::escaped(head.uri.path()),
        "an order with the rights of an administrator"
    );
}

/// The server's own failures are worth a line; the clients' are only of interest to who looks for them, and must cost nothing otherwise:
/// there are many of them when the server is overloaded.
fn log_failure(brief: &Brief, failure: &Failure) {
    if failure.code == Code::Internal {
        tracing::error!(
            code = failure.code.word(),
            method = %brief.method,
            path = %logging::escaped(&brief.path),
            request_id = brief.request_id(),
            "{}", logging::one_line(&failure.message)
        );
    } else {
        tracing::debug!(
            code = failure.code.word(),
            method = %brief.method,
            path = %logging::escaped(&brief.path),
            request_id = brief.request_id(),
            "{}", logging::one_line(&failure.message)
        );
    }
}

/// A panic of a handler costs its request an answer, and nobody else anything.
async fn guarded(answer: impl Future<Output = Result<Reply, Refusal>>) -> Result<Reply, Refusal> {
    let answered = AssertUnwindSafe(answer).catch_unwind().await;
    answered.unwrap_or_else(|panic| Err(panicked(panic.as_ref())))
}

fn panicked(panic: &(dyn Any + Send)) -> Refusal {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    tracing::error!(panic = %logging::one_line(message), "a handler panicked");
    Failure::new(Code::Internal, "the server failed to handle the request").into()
}

fn fault_refusal(fault: Fault, peer: &Peer) -> Refusal {
    let config = &peer.net.config;
    Refusal::closing(match fault {
        Fault::Malformed(text) => {
            Failure::invalid(format!("the request is not valid HTTP/1.1: {text}"))
        }
        Fault::HeadTooLarge => checks::head_too_large(config),
        Fault::HeadTooSlow => Failure::new(
            Code::RequestTimeout,
            format!(
                "the request's head did not come within {:?}",
                config.header_timeout
            ),
        ),
    })
}

fn no_route(no_route: NoRoute) -> Refusal {
    match no_route {
        NoRoute::NotFound => Failure::new(
            Code::NotFound,
            "there is nothing under this path; models are served under /predict/NAME and /v2/models/NAME/infer",
        )
        .into(),
        NoRoute::Slash => Failure::new(
            Code::NotFound,
            "there is nothing under this path, but there is without the slash at its end",
        )
        .into(),
        NoRoute::Escapes => Failure::new(
            Code::NotFound,
            "there is nothing under this path: its escapes must be % with two hexadecimal digits, UTF-8 together, and none a slash",
        )
        .into(),
        NoRoute::Method { allow } => Refusal {
            allow: Some(allow),
            ..Failure::new(Code::MethodNotAllowed, format!("this path allows {allow} only")).into()
        },
    }
}

const fn metrics_route(route: Option<Route<'_>>) -> metrics::Route {
    match route {
        Some(Route::Infer(Form::Predict, _)) => metrics::Route::Predict,
        Some(Route::Infer(Form::PredictBatch, _)) => metrics::Route::PredictBatch,
        Some(Route::Infer(Form::Protocol, _)) => metrics::Route::Infer,
        Some(Route::Infer(Form::Generate, _)) => metrics::Route::Generate,
        Some(Route::Stream(..) | Route::WebSocket(_)) => metrics::Route::Stream,
        Some(Route::Grpc(_)) => metrics::Route::Grpc,
        Some(Route::Manage(_)) => metrics::Route::Admin,
        Some(Route::Control(view)) => match view {
            View::Live | View::Ready | View::ModelReady(_) => metrics::Route::Health,
            View::Server
            | View::Models
            | View::Model(_)
            | View::Configuration(_)
            | View::OpenApi => metrics::Route::Metadata,
            View::Page
            | View::Docs
            | View::Status
            | View::Metrics
            | View::DebugTree
            | View::Statistics(_)
            | View::Logging
            | View::Tracing(_) => metrics::Route::Admin,
        },
        None => metrics::Route::Other,
    }
}

/// Answers on the data plane, whichever thread the connection lives on.
///
/// A connection that began with a health check lives on the control thread; that thread must never parse a large body or encode a large
/// answer. Dropping the returned future cancels the request there too: the task sees that nobody waits for it.
pub(crate) fn on_data_plane(
    peer: Arc<Peer>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Reply, Infallible>> + Send {
    let is_work = |request: &Request<Incoming>| {
        let path = router::plain(request.uri().path());
        path.is_ok_and(|path| router::route(request.method(), &path).is_ok_and(Route::is_work))
    };
    let needs_move = peer.plane == Plane::Control && is_work(&request);
    match needs_move {
        false => Either::Left(serve(peer, request)),
        true => Either::Right(Box::pin(serve_elsewhere(peer, request))),
    }
}

async fn serve_elsewhere(peer: Arc<Peer>, request: Request<Incoming>) -> Result<Reply, Infallible> {
    // The other thread is done with the request before its answer is here.
    let _answering = peer.answering();
    let (mut sender, receiver) = oneshot::channel();
    let moved = Arc::clone(&peer);
    peer.net.spawn(Plane::Data, "request", async move {
        tokio::select! {
            answered = serve(moved, request) => drop(sender.send(answered)),
            () = sender.closed() => (),
        }
    });
    receiver
        .await
        .unwrap_or_else(|_| Ok(reply::refusal(&lost(), &peer.net.jitter)))
}

/// The task was dropped, which happens only when the server was told to stop at once.
fn lost() -> Refusal {
    Refusal::closing(Failure::new(Code::Draining, "the server is shutting down"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_answer() {
        let refusal = guarded(async { panic!("inside") }).await.unwrap_err();
        assert_eq!(refusal.failure.code, Code::Internal);
        assert!(!refusal.failure.message.contains("inside"));
    }

    #[test]
    fn what_every_layer_around_an_answer_copies_stays_small() {
        fn bytes<A, B, F>(_: impl Fn(A, B) -> F) -> usize {
            size_of::<F>()
        }
        assert!(size_of::<Reply>() <= 160);
        assert!(bytes(on_data_plane) <= 1024);
    }
}
