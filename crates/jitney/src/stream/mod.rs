//! Streams: [`producer`]s that work while their consumer does, tables read [page by page](paginate), and bytes in [`Chunks`].

mod chunks;
mod paginate;
mod producer;

pub use chunks::Chunks;
pub use paginate::{Page, Pages, paginate};
pub use producer::{ConsumerGone, ProducerError, Records, Sender, Slot, producer};
