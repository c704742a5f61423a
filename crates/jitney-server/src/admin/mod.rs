//! What a person looks at: the page at `/` and the JSON behind it at `/status`.

pub mod docs;
pub mod page;
pub mod status;
