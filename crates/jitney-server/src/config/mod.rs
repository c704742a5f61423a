//! What the person who runs the server may choose.
//!
//! A setting of a model can be said in five places. What is said for this run comes first, then what is said closest to the model:
//!
//! 1. a flag of the command line,
//! 2. the environment,
//! 3. the model's own `model.toml`,
//! 4. the file given with `--config`,
//! 5. the default.
//!
//! [`Settings::for_model`] is the one place where this is decided. What concerns the server as a whole has the same order without the
//! third place. Models named on the command line replace those named in the file.

mod control;
mod file;
mod keys;
mod load_request;
mod manifest;
mod net;
mod options;
mod source;
mod versions;

pub use control::{AtStart, Control};
pub use file::{ConfigError, ConfigFile};
pub use keys::{Digest, Key, NoDigest, Scope};
pub(crate) use load_request::load_request;
pub use manifest::{Labels, Manifest, Sketch};
pub use net::{HeaderPattern, NetConfig, NetOptions, TlsConfig};
pub use options::{Engine, ModelOptions, ModelSettings, OptionError, RowByRow, Settings};
pub use source::{ModelSource, SourceError, SourceKind, check_name};
pub use versions::{VersionLabels, VersionPolicy};
pub(crate) use versions::{is_version, number};

use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::observe::logging::Levels;

/// Everything a server is started with.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// How it listens.
    pub net: NetConfig,
    /// How its models are served.
    pub settings: Settings,
    /// Its models.
    pub models: Vec<ModelSource>,
    /// The switches of the process's log, where requests of administrators may set them.
    pub levels: Option<Arc<dyn Levels>>,
}

/// Reads a file's text; the error shows the place of the mistake.
fn read_toml<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())
}
