//! Mistakes with a batcher that cannot be made, because they do not compile. The others are in `tests/it/defects.rs`.
//!
//! A mapping is not a list of results, whose keys could be taken for answers:
//! ```compile_fail,E0308
//! use std::collections::HashMap;
//! use jitney::batch::{Context, Model};
//!
//! struct Scores;
//! impl Model for Scores {
//!     type In = u32;
//!     type Out = u32;
//!     type Error = ();
//!     fn run(&mut self, _: &[u32], _: &Context<'_>) -> Result<Vec<Result<u32, ()>>, ()> {
//!         Ok(HashMap::from([("labels", 1), ("logits", 2)]))
//!     }
//! }
//! ```
//!
//! A model is not a coroutine that nobody awaits:
//! ```compile_fail,E0053
//! use jitney::batch::{Context, Model};
//!
//! struct Scores;
//! impl Model for Scores {
//!     type In = u32;
//!     type Out = u32;
//!     type Error = ();
//!     fn run(&mut self, _: &[u32], _: &Context<'_>) -> impl Future<Output = Result<Vec<Result<u32, ()>>, ()>> {
//!         async { Ok(Vec::new()) }
//!     }
//! }
//! ```
//!
//! There is no batcher that has not been started, and none can be started twice: [`Batcher::start`](super::Batcher::start) makes it.
//! ```compile_fail,E0599
//! # use jitney::batch::{Batcher, Model};
//! fn twice<M: Model>(batcher: &Batcher<M>) {
//!     batcher.start();
//! }
//! ```
//!
//! No batch is of no rows, and no wait is negative:
//! ```compile_fail,E0308
//! # use jitney::batch::Batching;
//! let none = Batching { max_batch: 0, ..Batching::default() };
//! ```
//! ```compile_fail,E0600
//! # use jitney::batch::Batching;
//! # use std::time::Duration;
//! let early = Batching { max_wait: -Duration::from_millis(1), ..Batching::default() };
//! ```
