//! gRPC's reflection: clients without a description of the services ask the server for it.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use prost::Message;

use super::head::Head;
use super::service::{Service, decode};
use super::standard::reflection::server_reflection_request::MessageRequest;
use super::standard::reflection::server_reflection_response::MessageResponse;
use super::standard::reflection::{
    ErrorResponse, FileDescriptorResponse, ListServiceResponse, ServerReflectionRequest,
    ServerReflectionResponse, ServiceResponse,
};
use super::wire::{self, Pieces};
use crate::admit::{Admitted, Phase};
use crate::failure::{Code, Failure};

const DESCRIPTORS: &[u8] = include_bytes!("generated/descriptors.bin");

/// What can be asked for. None of the files imports another, so each is an answer by itself.
#[derive(Debug, Default)]
pub(super) struct Registry {
    services: Vec<String>,
    files: HashMap<String, Bytes>,
    /// The full names of services, methods, messages and enums, each with its file.
    symbols: HashMap<String, Bytes>,
}

/// Answers questions as they come, until the server drains.
pub(super) fn open(
    service: &Service,
    head: Head,
    requests: BoxStream<'static, Result<(Bytes, Admitted), Failure>>,
) -> BoxStream<'static, Result<Pieces, Failure>> {
    let registry = Arc::clone(&service.registry);
    let mut phase = service.admission.watch();
    // Somebody who has nothing more to ask may leave the stream open.
    let drain = async move {
        let _ = phase.wait_for(|phase| *phase >= Phase::Draining).await;
    };
    let answer = move |request: Result<(Bytes, Admitted), Failure>| {
        let registry = Arc::clone(&registry);
        async move {
            let (message, _room) = request?;
            let request: ServerReflectionRequest = decode(message)?;
            let response = ServerReflectionResponse {
                valid_host: request.host.clone(),
                message_response: Some(registry.answer(request.message_request.as_ref())),
                original_request: Some(request),
            };
            wire::message(&response, &head).await
        }
    };
    requests.take_until(Box::pin(drain)).then(answer).boxed()
}

impl Registry {
    pub(super) fn new() -> Registry {
        // The descriptors are part of the program and checked by a test; without them there would be nothing to tell.
        let files = Files::decode(DESCRIPTORS).unwrap_or_default();
        let mut registry = Registry::default();
        for bytes in files.file {
            if let Ok(file) = File::decode(bytes.clone()) {
                registry.add(file, &bytes);
            }
        }
        registry.services.sort_unstable();
        registry
    }

    fn add(&mut self, file: File, bytes: &Bytes) {
        for service in file.service {
            let name = format!("{}.{}", file.package, service.name);
            for method in service.method {
                self.symbol(format!("{name}.{}", method.name), bytes);
            }
            self.symbol(name.clone(), bytes);
            self.services.push(name);
        }
        for message in file.message_type {
            self.message(&file.package, message, bytes);
        }
        for named in file.enum_type {
            self.symbol(format!("{}.{}", file.package, named.name), bytes);
        }
        self.files.insert(file.name, bytes.clone());
    }

    fn message(&mut self, around: &str, message: MessageType, bytes: &Bytes) {
        let name = format!("{around}.{}", message.name);
        for nested in message.nested_type {
            self.message(&name, nested, bytes);
        }
        for named in message.enum_type {
            self.symbol(format!("{name}.{}", named.name), bytes);
        }
        self.symbol(name, bytes);
    }

    fn symbol(&mut self, name: String, bytes: &Bytes) {
        self.symbols.insert(name, bytes.clone());
    }

    fn answer(&self, request: Option<&MessageRequest>) -> MessageResponse {
        match request {
            Some(MessageRequest::ListServices(_)) => {
                let services = self.services.iter().cloned();
                MessageResponse::ListServicesResponse(ListServiceResponse {
                    service: services.map(|name| ServiceResponse { name }).collect(),
                })
            }
            Some(MessageRequest::FileByFilename(name)) => file(self.files.get(name)),
            Some(MessageRequest::FileContainingSymbol(name)) => file(self.symbols.get(name)),
            // The services extend nothing.
            Some(
                MessageRequest::FileContainingExtension(_)
                | MessageRequest::AllExtensionNumbersOfType(_),
            ) => file(None),
            None => error(Code::InvalidInput, "expected a question, got none"),
        }
    }
}

fn file(bytes: Option<&Bytes>) -> MessageResponse {
    match bytes {
        Some(bytes) => MessageResponse::FileDescriptorResponse(FileDescriptorResponse {
            file_descriptor_proto: vec![bytes.clone()],
        }),
        None => error(Code::NotFound, "there is nothing of this name"),
    }
}

fn error(code: Code, message: &str) -> MessageResponse {
    MessageResponse::ErrorResponse(ErrorResponse {
        error_code: code.grpc_status().into(),
        error_message: message.to_owned(),
    })
}

/// The part of `google.protobuf.FileDescriptorSet` and its messages that is needed to find names. The files stay as they are written.
#[derive(Clone, PartialEq, Message)]
struct Files {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    file: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
struct File {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    package: String,
    #[prost(message, repeated, tag = "4")]
    message_type: Vec<MessageType>,
    #[prost(message, repeated, tag = "5")]
    enum_type: Vec<Named>,
    #[prost(message, repeated, tag = "6")]
    service: Vec<ServiceType>,
}

#[derive(Clone, PartialEq, Message)]
struct MessageType {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "3")]
    nested_type: Vec<MessageType>,
    #[prost(message, repeated, tag = "4")]
    enum_type: Vec<Named>,
}

#[derive(Clone, PartialEq, Message)]
struct ServiceType {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    method: Vec<Named>,
}

#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::Method;

    #[test]
    fn services_and_what_they_are_made_of_are_found() {
        let registry = Registry::new();
        let services = [
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
            "inference.GRPCInferenceService",
        ];
        assert_eq!(registry.services, services);
        for symbol in [
            "inference.GRPCInferenceService",
            "inference.GRPCInferenceService.ModelInfer",
            "inference.ModelInferRequest",
            "inference.ModelInferRequest.InferInputTensor",
            "inference.DataType",
            "inference.ModelInstanceGroup.Kind",
            "grpc.health.v1.HealthCheckResponse.ServingStatus",
        ] {
            assert!(registry.symbols.contains_key(symbol), "{symbol}");
        }
        let unknown = MessageRequest::FileContainingSymbol("inference.Nothing".to_owned());
        let MessageResponse::ErrorResponse(error) = registry.answer(Some(&unknown)) else {
            panic!("an answer to {unknown:?}");
        };
        assert_eq!(error.error_code, 5);
    }

    /// What is described is served, and nothing else.
    #[test]
    fn every_method_that_is_described_is_found() {
        for bytes in Files::decode(DESCRIPTORS).unwrap().file {
            let file = File::decode(bytes).unwrap();
            for service in file.service {
                let name = format!("{}.{}", file.package, service.name);
                for method in service.method {
                    assert!(
                        Method::find(&name, &method.name).is_ok(),
                        "{name}/{method:?}"
                    );
                }
                assert!(Method::find(&name, "Nothing").is_err());
            }
        }
        assert!(Method::find("inference.Nothing", "ModelInfer").is_err());
    }
}
