//! The routes that change the server, or ask it something with a body.

use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;

use super::Net;
use super::body::{self, Arriving, BodyLimits, Manner};
use super::checks::{self, Media};
use super::coding;
use super::exchange::Exchange;
use super::reply::{self, JSON, Refusal, Reply};
use super::router::{Form, Order, Repository};
use crate::admit::Admitted;
use crate::extension::repository::{self, Wish};
use crate::extension::{logging, trace};
use crate::failure::Failure;
use crate::protocol::extension::repository::{IndexRequest, LoadRequest, Loaded, Unloaded};
use crate::protocol::extension::{self as documents, Document, repository as wire, settings};

/// Does what a request says, and answers when it is done.
///
/// Cancel safety: a load or an unload that has begun is finished when the client leaves; nothing else waits.
pub(crate) async fn answer(
    exchange: Exchange<'_>,
    order: Order<'_>,
    headers: HeaderMap,
    body: &mut Arriving,
) -> Result<Reply, Refusal> {
    let net = &exchange.peer.net;
    let (body, _admitted) = read(net, exchange.started, &headers, body).await?;
    Ok(match order {
        Order::Index(repository) => {
            named(repository)?;
            let wish = Wish {
                ready: IndexRequest::read(&body)?.ready,
                reasons: net.is_private() && exchange.grant.is_admin(),
            };
            let sees = |model: &str| exchange.grant.sees(model);
            json(&repository::index(&net.catalog, wish, sees).await?)
        }
        Order::Load(repository, name) => {
            named(repository)?;
            let request = LoadRequest::read(&body)?;
            repository::load(&net.catalog, name, &request, net.is_private()).await?;
            json(&Loaded { name, load: true })
        }
        Order::Unload(repository, name) => {
            named(repository)?;
            wire::read_unload(&body)?;
            net.catalog.unload(name).await?;
            json(&Unloaded { name, unload: true })
        }
        Order::Logging => json(&logging::set(net.levels(), &settings::read_log(&body)?)?),
        Order::Tracing(model) => {
            if let Some(model) = model {
                net.catalog.known(model)?;
            }
            json(&trace::set(
                &net.metrics,
                model,
                &settings::read_trace(&body)?,
            )?)
        }
    })
}

fn named(repository: Repository<'_>) -> Result<(), Failure> {
    repository.map_or(Ok(()), repository::check_repository)
}

fn json(document: &impl Document) -> Reply {
    reply::ok(JSON, documents::body(document))
}

/// Reads a body that may be empty. Clients of Triton do not say what it is, and nor does anybody have to whom no browser lends a hand.
async fn read(
    net: &Net,
    started: Instant,
    headers: &HeaderMap,
    body: &mut Arriving,
) -> Result<(Bytes, Admitted), Refusal> {
    let (Media::Json | Media::Unsaid) = checks::media(headers, Form::Protocol)? else {
        return Err(checks::only_json().into());
    };
    let manner = Manner {
        coding: coding::of_request(headers)?,
        tensors: 0,
    };
    let announced = body::announced(body, body::FIXED_MAX)?;
    let mut admitted = net.admission.enter(announced)?;
    let limits = BodyLimits {
        bytes: body::FIXED_MAX.min(net.config.max_body_bytes),
        timeout: net.config.body_timeout,
        deadline: started + net.config.body_timeout * 2,
    };
    let body = body::read(body, manner, &mut admitted, limits).await?;
    Ok((body, admitted))
}
