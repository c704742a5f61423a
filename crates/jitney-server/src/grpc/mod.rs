//! The face that speaks gRPC: the Open Inference Protocol's service with Triton's extensions.

#[expect(
    missing_docs,
    clippy::all,
    clippy::allow_attributes,
    unused_qualifications,
    reason = "generated from spec/proto/inference.proto, where the documentation is"
)]
pub mod generated {
    include!("generated/inference.rs");
}
