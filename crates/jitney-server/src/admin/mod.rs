//! What a person looks at: the page at `/` and the JSON behind it at `/status`.

pub mod page;
pub mod status;
