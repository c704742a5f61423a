//! gRPC's own health checks, which follow readiness and the drain.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::watch;

use super::service::{Caller, Service, decode};
use super::standard::health::health_check_response::ServingStatus;
use super::standard::health::{HealthCheckRequest, HealthCheckResponse};
use super::wire::{self, Pieces};
use crate::admit::{Admitted, Phase};
use crate::failure::{Code, Failure};
use crate::models::{Catalog, unknown_model};

/// How soon those who watch hear that a model's processes have ended. Of all else they hear at once.
const LOOK: Duration = Duration::from_millis(250);

/// The services that stand for the server as a whole.
const SERVER: [&str; 2] = ["", "inference.GRPCInferenceService"];

/// Answers what the state is. A service is the server, or a model.
///
/// # Errors
/// `unknown_model` where there is no such service.
pub(super) async fn check(
    service: &Service,
    caller: &Caller,
    message: Bytes,
) -> Result<Pieces, Failure> {
    let HealthCheckRequest { service: name } = decode(message)?;
    match status(service, caller, &name) {
        ServingStatus::ServiceUnknown => Err(unknown_model(&name)),
        status => answer(caller, status).await,
    }
}

/// Answers with the state now, and whenever it has become another. Ends with the server's drain.
pub(super) fn watch(
    service: Service,
    caller: Caller,
    requests: BoxStream<'static, Result<(Bytes, Admitted), Failure>>,
) -> BoxStream<'static, Result<Pieces, Failure>> {
    let first = requests.into_future().map(|(first, rest)| {
        drop(rest);
        let (message, _) =
            first.unwrap_or_else(|| Err(Failure::invalid("expected a message, got none")))?;
        let HealthCheckRequest { service } = decode(message)?;
        Ok(service)
    });
    let answers = first.map(|name| match name {
        Ok(name) => Watch::new(service, caller, name).into_stream(),
        Err(failure) => stream::iter([Err(failure)]).boxed(),
    });
    answers.flatten_stream().boxed()
}

/// Finds out for all who watch whether the models are alive, for as long as somebody does. A model does not tell of that by itself, and
/// those who watch only wait to be told.
pub(crate) async fn look_out(catalog: Catalog) {
    loop {
        catalog.watched().await;
        tokio::time::sleep(LOOK).await;
        catalog.look();
    }
}

/// Somebody who watches.
struct Watch {
    service: Service,
    caller: Caller,
    name: String,
    phase: watch::Receiver<Phase>,
    changes: watch::Receiver<()>,
    told: Option<ServingStatus>,
}

impl Watch {
    fn new(service: Service, caller: Caller, name: String) -> Watch {
        Watch {
            phase: service.admission.watch(),
            changes: service.catalog.changes(),
            service,
            caller,
            name,
            told: None,
        }
    }

    fn into_stream(self) -> BoxStream<'static, Result<Pieces, Failure>> {
        stream::unfold(Some(self), |watch| async move { watch?.step().await }).boxed()
    }

    async fn step(mut self) -> Option<(Result<Pieces, Failure>, Option<Watch>)> {
        loop {
            let draining = self.service.admission.draining();
            // What changes from here on is heard of.
            self.changes.mark_unchanged();
            let status = status(&self.service, &self.caller, &self.name);
            if self.told != Some(status) {
                self.told = Some(status);
                return Some((answer(&self.caller, status).await, Some(self)));
            }
            if draining {
                let failure = Failure::new(Code::Draining, "the server is shutting down");
                return Some((Err(failure), None));
            }
            // However it ends, the state is looked at again.
            tokio::select! {
                _ = self.phase.wait_for(|phase| *phase >= Phase::Draining) => (),
                _ = self.changes.changed() => (),
            }
        }
    }
}

fn status(service: &Service, caller: &Caller, name: &str) -> ServingStatus {
    let ready = if SERVER.contains(&name) {
        service.is_ready()
    } else {
        match service.lane(caller, name, "") {
            Ok(_) => !service.admission.draining(),
            Err(failure) if failure.code == Code::UnknownModel => {
                return ServingStatus::ServiceUnknown;
            }
            Err(_) => false,
        }
    };
    match ready {
        true => ServingStatus::Serving,
        false => ServingStatus::NotServing,
    }
}

async fn answer(caller: &Caller, status: ServingStatus) -> Result<Pieces, Failure> {
    let response = HealthCheckResponse {
        status: status.into(),
    };
    wire::message(&response, &caller.head).await
}
