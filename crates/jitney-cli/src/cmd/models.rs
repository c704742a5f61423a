//! The models of a source, loaded without a server around them.

use std::sync::Arc;

use jitney::tree::Tree;
use jitney_server::config::{ModelSource, Settings};
use jitney_server::models::{Catalog, Lane, ModelState, ModelStatus};
use jitney_server::observe::metrics::Metrics;

use crate::exit::Problem;

/// Loaded models, and those that could not be.
pub(crate) struct Models(Catalog);

impl Models {
    /// Loads everything that the source holds.
    pub(crate) async fn load(source: &ModelSource, settings: &Settings) -> Result<Models, Problem> {
        let root = Tree::new("jitney").root();
        let sources = std::slice::from_ref(source);
        let catalog = Catalog::start(sources, settings, &Metrics::new(), &root, None)
            .map_err(Problem::usage)?;
        catalog.wait_loaded().await;
        Ok(Models(catalog))
    }

    /// Every version of every model.
    pub(crate) fn statuses(&self) -> Vec<ModelStatus> {
        self.0.statuses()
    }

    /// A model that can be called.
    pub(crate) fn lane(&self, status: &ModelStatus) -> Result<Arc<Lane>, Problem> {
        match &status.state {
            ModelState::Failed { message } => Err(Problem::failure(message)),
            _ => self
                .0
                .model(&status.name, Some(&status.version))
                .map_err(|failure| Problem::failure(failure.message)),
        }
    }

    /// The one model of the source, at its highest version.
    pub(crate) fn only(&self) -> Result<Arc<Lane>, Problem> {
        let statuses = self.statuses();
        let mut models = statuses.iter().filter(|status| status.default);
        match (models.next(), models.count()) {
            (Some(model), 0) => self.lane(model),
            (None, _) => Err(Problem::failure("the source holds no model")),
            (Some(_), others) => Err(Problem::failure(format!(
                "the source holds {} models",
                others + 1
            ))
            .hint("name the folder of one of them")),
        }
    }
}
