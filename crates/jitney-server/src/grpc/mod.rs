//! The face that speaks gRPC: the Open Inference Protocol's service with Triton's extensions, health checks and reflection.
//!
//! The way of a call: `net` lets it in like any request and reads it; `wire` takes messages out of its bytes and puts answers into
//! bytes, `coding` where they are compressed; `head` knows what its metadata says. `service` finds the method. Of the methods that
//! run models, `infer` translates between messages and tensors, behind `guard`, and `stream` carries many on one call. `status`
//! says how it ended.

mod coding;
mod extensions;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod guard;
mod head;
mod health;
mod infer;
mod reflection;
mod service;
mod status;
mod stream;
mod wire;

pub(crate) use self::head::Head;
pub(crate) use self::health::look_out;
pub(crate) use self::service::{Answered, Caller, Channel, Method, Service, Unary};
pub(crate) use self::status::refusal;
pub(crate) use self::wire::Body;

/// The messages, generated from the descriptions in `spec/proto`, where their documentation is.
pub mod generated {
    pub use self::inference::*;

    #[expect(
        missing_docs,
        clippy::all,
        reason = "generated from spec/proto/inference.proto"
    )]
    mod inference {
        include!("generated/inference.rs");
    }
}

/// The messages of the services that every server of gRPC has.
#[expect(
    clippy::all,
    unreachable_pub,
    reason = "generated from spec/proto/grpc"
)]
mod standard {
    pub(super) mod health {
        include!("generated/grpc.health.v1.rs");
    }
    pub(super) mod reflection {
        include!("generated/grpc.reflection.v1.rs");
    }
}
