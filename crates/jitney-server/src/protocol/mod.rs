//! What travels over the wire, as bytes in and bytes out: no IO, no tasks, and no view of the models beyond their signatures.
//!
//! [`infer`] is the Open Inference Protocol's request and answer, [`predict`] the plain JSON form of the same, [`metadata`] the small
//! documents about servers and models, and [`error`] the body of every refusal.
//!
//! `tensors` checks a request's tensors against a signature whatever form they came in, for all of these and for gRPC, `classes` names
//! the highest numbers of an output, and `parameters` knows which parameters of a request are for the server, and adds header fields to them.
//!
//! # The JSON that is read
//! RFC 8259 in UTF-8 without a byte order mark, with one extension: the words `NaN`, `Infinity` and `-Infinity` stand where a number of a
//! floating-point tensor may stand, bare (as Python writes them) or quoted. Beyond that:
//! - An object that is read may have its keys in any order, each at most once, and at most [`MAX_KEYS`] of them. Keys without a meaning
//!   here are ignored, but their values must be JSON, nested at most [`MAX_NESTING`] deep.
//! - Integers are exact over their datatype's whole range. One with a fraction or an exponent, `1.0` for an `INT64`, is refused rather
//!   than rounded, and so is one out of range.
//! - Floating-point numbers are rounded to the nearest value of the datatype, `FP16` and `BF16` included where they are read; one whose
//!   nearest value is infinite is refused. `BOOL` is `true` or `false`, never 0 or 1.
//! - A tensor is a flat array, or nested exactly as its shape says.
//!
//! The memory a body needs is proportional to its length, whatever shape it claims.
//!
//! # The JSON that is written
//! Strict RFC 8259. Numbers have the shortest digits that read back to the same value. NaN and the infinities are no numbers in it: each is
//! one of the words above in quotes, and `"parameters": {"non_finite": N}` beside the tensor counts them. The elements of a `BYTES` tensor
//! are written as strings when all of them are UTF-8, else all of them in base64 with `"parameters": {"content_type": "base64"}`.

pub mod error;
pub mod extension;
pub mod frames;
pub mod generate;
pub mod infer;
pub mod metadata;
pub(crate) mod openapi;
pub mod predict;
pub mod socket;
pub(crate) mod tensors;

mod binary;
pub(crate) mod classes;
mod data;
mod numbers;
pub(crate) mod parameters;
mod scan;
mod write;

pub(crate) use self::scan::Excerpt;

#[cfg(test)]
mod tests;

/// How deep arrays and objects may be nested in each other.
pub const MAX_NESTING: usize = 100;

/// How many keys an object may have, where the keys are read.
pub const MAX_KEYS: usize = 128;

/// How many dimensions the shape of a tensor may have.
pub const MAX_DIMENSIONS: usize = 32;

/// How many strings one `BYTES` tensor may have. An element in memory is much larger than the shortest string in a body.
pub const MAX_STRINGS: usize = 1 << 20;

/// How many items one request to `/predict/NAME/batch` may have.
pub const MAX_ITEMS: usize = 10_000;
