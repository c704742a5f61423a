//! The methods: which there are, and those that answer once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jitney_engine::TensorSpec;
use prost::Message;

use super::extensions::{self, Extension};
use super::generated::model_metadata_response::TensorMetadata;
use super::generated::{
    ModelInferRequest, ModelMetadataRequest, ModelMetadataResponse, ModelReadyRequest,
    ModelReadyResponse, ServerLiveResponse, ServerMetadataResponse, ServerReadyResponse,
};
use super::head::Head;
use super::infer::{self, Model};
use super::reflection::Registry;
use super::wire::{self, Body, Messages, Parts, Pieces, Requests};
use super::{guard, health, reflection, stream};
use crate::access::Grant;
use crate::admit::{Admission, Admitted};
use crate::context::Context;
use crate::extension;
use crate::failure::{Code, Failure};
use crate::models::{Catalog, Lane};
use crate::observe::logging::Levels;
use crate::observe::metrics::Metrics;
use crate::observe::record::Record;

pub(super) const NAME: &str = "jitney";
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Most bytes of a message to a method that takes no tensors.
const SMALL: usize = 1 << 20;
/// The field of the raw tensors in a `ModelInferResponse`.
pub(super) const RAW: u32 = 6;

/// What the methods stand on. Cloning it gives another handle.
#[derive(Clone)]
pub(crate) struct Service {
    pub(super) catalog: Catalog,
    /// Whether only programs of this machine can reach the server, so that it may speak of files.
    pub(super) private: bool,
    pub(super) admission: Arc<Admission>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) registry: Arc<Registry>,
    /// The switches of the process's log, where the server may set them.
    pub(super) levels: Option<Arc<dyn Levels>>,
    /// Most bytes of a message with tensors.
    limit: usize,
    /// How long a message of a stream may pause within itself.
    patience: Duration,
}

/// Who calls, when, and with what metadata.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) head: Head,
    /// What the caller may do.
    pub(crate) grant: Grant,
    pub(crate) started: Instant,
    pub(crate) context: Context,
}

/// A method of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Unary(Unary),
    Stream(Channel),
}

/// A method that takes one message and answers with one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unary {
    ServerLive,
    ServerReady,
    ModelReady,
    ServerMetadata,
    ModelMetadata,
    ModelInfer,
    Extension(Extension),
    HealthCheck,
}

/// A method that answers with many messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Channel {
    ModelStreamInfer,
    HealthWatch,
    Reflection,
}

/// The answer of a method that answers once.
pub(crate) struct Answered {
    pub(crate) body: Body,
    /// When a model's inputs were there, and when its outputs were; `None` where none ran.
    pub(crate) ran: Option<(Instant, Instant)>,
}

impl Method {
    /// The method of that name.
    ///
    /// # Errors
    /// `method_not_allowed`, which is `UNIMPLEMENTED`.
    pub(crate) fn find(service: &str, method: &str) -> Result<Method, Failure> {
        let found = match service {
            "inference.GRPCInferenceService" => Method::inference(method),
            "grpc.health.v1.Health" => match method {
                "Check" => Some(Method::Unary(Unary::HealthCheck)),
                "Watch" => Some(Method::Stream(Channel::HealthWatch)),
                _ => None,
            },
            "grpc.reflection.v1.ServerReflection" | "grpc.reflection.v1alpha.ServerReflection" => {
                (method == "ServerReflectionInfo").then_some(Method::Stream(Channel::Reflection))
            }
            _ => None,
        };
        found.ok_or_else(|| {
            let message =
                "this method is not served; see the services by reflection, or spec/proto";
            Failure::new(Code::MethodNotAllowed, message)
        })
    }

    fn inference(method: &str) -> Option<Method> {
        let unary = match method {
            "ModelInfer" => Unary::ModelInfer,
            "ServerLive" => Unary::ServerLive,
            "ServerReady" => Unary::ServerReady,
            "ModelReady" => Unary::ModelReady,
            "ServerMetadata" => Unary::ServerMetadata,
            "ModelMetadata" => Unary::ModelMetadata,
            "ModelStreamInfer" => return Some(Method::Stream(Channel::ModelStreamInfer)),
            other => Unary::Extension(Extension::find(other)?),
        };
        Some(Method::Unary(unary))
    }
}

impl Unary {
    /// Whether it runs a model, so that it is not let in while the server drains.
    pub(crate) fn is_inference(self) -> bool {
        self == Unary::ModelInfer
    }
}

impl Service {
    pub(crate) fn new(
        catalog: Catalog,
        private: bool,
        admission: Arc<Admission>,
        metrics: Arc<Metrics>,
        levels: Option<Arc<dyn Levels>>,
        limit: usize,
        patience: Duration,
    ) -> Service {
        Service {
            catalog,
            private,
            admission,
            metrics,
            registry: Arc::new(Registry::new()),
            levels,
            limit,
            patience,
        }
    }

    /// What takes the messages to a method out of its bytes.
    pub(crate) fn messages(&self, method: Method, head: &Head) -> Messages {
        Messages::new(head, self.limit_of(method))
    }

    /// Most bytes of a message to a method.
    pub(crate) fn limit_of(&self, method: Method) -> usize {
        match method {
            Method::Unary(Unary::ModelInfer) | Method::Stream(Channel::ModelStreamInfer) => {
                self.limit
            }
            Method::Unary(_) | Method::Stream(_) => self.limit.min(SMALL),
        }
    }

    /// Answers a message, in whose room what it becomes is counted too. The record is that of its model as soon as it is known which that is.
    ///
    /// Cancel safety: dropping it cancels the call.
    pub(crate) async fn answer(
        &self,
        method: Unary,
        caller: Caller,
        message: Bytes,
        room: &mut Admitted,
        record: &mut Record,
    ) -> Result<Answered, Failure> {
        let pieces = match method {
            Unary::ModelInfer => return self.infer(caller, message, room, record).await,
            Unary::ServerLive => {
                wire::message(&ServerLiveResponse { live: true }, &caller.head).await
            }
            Unary::ServerReady => {
                let ready = self.is_ready();
                wire::message(&ServerReadyResponse { ready }, &caller.head).await
            }
            Unary::ModelReady => self.model_ready(&caller, message).await,
            Unary::ServerMetadata => wire::message(&self.server_metadata(), &caller.head).await,
            Unary::ModelMetadata => self.model_metadata(&caller, message).await,
            Unary::Extension(extension) => {
                extensions::answer(self, &caller, extension, message).await
            }
            Unary::HealthCheck => health::check(self, &caller, message).await,
        };
        Ok(Answered {
            body: Body::whole(pieces?),
            ran: None,
        })
    }

    /// Answers the messages of a stream as they come.
    ///
    /// Dropping the answer cancels what goes on for it.
    pub(crate) fn open<B>(
        &self,
        channel: Channel,
        caller: Caller,
        body: B,
        messages: Messages,
    ) -> Body
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    {
        let admission = Arc::clone(&self.admission);
        let requests = Requests::new(body, messages, admission, self.patience).into_stream();
        Body::stream(match channel {
            Channel::ModelStreamInfer => stream::open(self.clone(), caller, requests),
            Channel::HealthWatch => health::watch(self.clone(), caller, requests),
            Channel::Reflection => reflection::open(self, caller.head, requests),
        })
    }

    /// Whether the server takes requests.
    pub(super) fn is_ready(&self) -> bool {
        !self.admission.draining() && self.catalog.is_ready()
    }

    /// The lane of a model that the caller may see.
    pub(super) fn lane(
        &self,
        caller: &Caller,
        name: &str,
        version: &str,
    ) -> Result<Arc<Lane>, Failure> {
        caller.grant.check(Some(name))?;
        self.catalog.model(name, named(version))
    }

    /// The lane that a request names, and where it is recorded.
    pub(super) fn called(
        &self,
        caller: &Caller,
        request: &ModelInferRequest,
        record: &mut Record,
    ) -> Result<Arc<Lane>, Failure> {
        let (name, version) = (&request.model_name, &request.model_version);
        caller.grant.check(Some(name))?;
        self.catalog.called(name, named(version), record)
    }

    async fn infer(
        &self,
        caller: Caller,
        message: Bytes,
        room: &mut Admitted,
        record: &mut Record,
    ) -> Result<Answered, Failure> {
        let request = infer_request(message, room)?;
        let lane = self.called(&caller, &request, record)?;
        let infer::Asked { meta, inputs, form } = infer::decode(request, lane.spec())?;
        let id = meta.id.clone();
        let context = caller.context;
        let call = context.call(inputs, meta, caller.started, lane.deadline());
        let decoded = Instant::now();
        let mut outputs = lane.infer(call).await?.outputs;
        let ran = Instant::now();
        let (response, raw) =
            infer::encode(model(&lane), id.as_deref(), &form, &mut outputs, None)?;
        let parts = Parts {
            wrapper: None,
            message: &response,
            raw: (RAW, &raw),
        };
        Ok(Answered {
            body: Body::whole(parts.write(&caller.head).await?),
            ran: Some((decoded, ran)),
        })
    }

    fn server_metadata(&self) -> ServerMetadataResponse {
        let served = extension::served(self.levels.as_deref());
        ServerMetadataResponse {
            name: NAME.to_owned(),
            version: VERSION.to_owned(),
            extensions: served.into_iter().map(str::to_owned).collect(),
        }
    }

    async fn model_ready(&self, caller: &Caller, message: Bytes) -> Result<Pieces, Failure> {
        let ModelReadyRequest { name, version } = decode(message)?;
        // Whether there is such a model is no part of the question: clients wait for one that may be on its way.
        let ready = !self.admission.draining() && self.lane(caller, &name, &version).is_ok();
        wire::message(&ModelReadyResponse { ready }, &caller.head).await
    }

    async fn model_metadata(&self, caller: &Caller, message: Bytes) -> Result<Pieces, Failure> {
        let ModelMetadataRequest { name, version } = decode(message)?;
        let lane = self.lane(caller, &name, &version)?;
        let metadata = ModelMetadataResponse {
            name: lane.name().to_owned(),
            versions: self.catalog.versions(&name),
            platform: lane.platform().to_owned(),
            inputs: lane.spec().inputs.iter().map(tensor_metadata).collect(),
            outputs: lane.spec().outputs.iter().map(tensor_metadata).collect(),
            properties: std::collections::HashMap::new(),
        };
        wire::message(&metadata, &caller.head).await
    }
}

/// Reads a message.
///
/// # Errors
/// `invalid_input` where it is none of that kind.
pub(super) fn decode<M: Message + Default>(message: Bytes) -> Result<M, Failure> {
    M::decode(message).map_err(|error| {
        Failure::invalid(format!("the message is not what the method takes: {error}"))
    })
}

/// Reads a request with tensors, of which a small message could claim to have many, and which can be larger than the message.
///
/// # Errors
/// As [`decode`]; `too_large` for what no request has so much of; `overloaded` where there is no room for its tensors.
pub(super) fn infer_request(
    message: Bytes,
    room: &mut Admitted,
) -> Result<ModelInferRequest, Failure> {
    let tensors = guard::check(&message)?;
    if tensors > 0 {
        room.grow_to(message.len().saturating_add(tensors))?;
    }
    decode(message)
}

/// What answers say of their model.
pub(super) fn model(lane: &Lane) -> Model<'_> {
    Model {
        name: lane.name(),
        version: lane.version(),
        spec: lane.spec(),
        labels: lane.labels(),
    }
}

/// A version as messages name it; empty where they name none.
pub(super) fn named(version: &str) -> Option<&str> {
    (!version.is_empty()).then_some(version)
}

fn tensor_metadata(spec: &TensorSpec) -> TensorMetadata {
    TensorMetadata {
        name: spec.name.clone(),
        datatype: spec.datatype.name().to_owned(),
        shape: spec.protocol_shape(),
    }
}
