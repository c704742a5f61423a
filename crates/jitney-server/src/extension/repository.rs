//! Which models there are, and loading and unloading them on request.

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task;

use crate::failure::{Code, Failure};
use crate::models::{Catalog, IndexState};
use crate::observe::logging;
use crate::protocol::extension::repository::{IndexLine, LoadRequest};

/// What the caller may know of the repository.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    /// Only models that can be called.
    pub(crate) ready: bool,
    /// Whether reasons are told: they may name files, which is nobody's business on a network.
    pub(crate) reasons: bool,
}

/// The index of the models that the caller sees.
pub(crate) fn index(catalog: &Catalog, wish: Wish, sees: impl Fn(&str) -> bool) -> Vec<IndexLine> {
    let rows = aside(|| catalog.index()).into_iter();
    rows.filter(|row| sees(&row.name))
        .filter(|row| !wish.ready || row.state == IndexState::Ready)
        .map(|row| IndexLine {
            name: row.name,
            version: row.version,
            state: row.state.word(),
            reason: if wish.reasons {
                row.reason
            } else {
                String::new()
            },
        })
        .collect()
}

/// Does what may read folders without keeping the tasks of its thread from going on.
fn aside<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => task::block_in_place(work),
        _ => work(),
    }
}

/// Loads a model and waits for it. Why it could not be loaded is told where `reasons` may be.
///
/// # Errors
/// Those of [`Catalog::load`].
///
/// # Cancel safety
/// A load that has begun goes on when this is dropped.
pub(crate) async fn load(
    catalog: &Catalog,
    name: &str,
    request: &LoadRequest,
    reasons: bool,
) -> Result<(), Failure> {
    let loaded = catalog.load(name, request.config.as_deref()).await;
    loaded.map_err(|failure| match failure.code {
        Code::Failed if !reasons => without_reason(name, &failure),
        _ => failure,
    })
}

/// The log says what the caller is not told.
fn without_reason(name: &str, failure: &Failure) -> Failure {
    let name = logging::escaped(name);
    let error = logging::one_line(&failure.message);
    tracing::warn!(model = %name, %error, "a load that was asked for failed");
    Failure::new(
        Code::Failed,
        format!("model \"{name}\" could not be loaded: the server's log says why"),
    )
}

/// Checks the name of a repository: there is one, and it has none.
///
/// # Errors
/// `not_found`.
pub(crate) fn check_repository(name: &str) -> Result<(), Failure> {
    if name.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        Code::NotFound,
        format!(
            "there is no repository \"{}\": the server's models are one repository without a name",
            logging::escaped(name)
        ),
    ))
}
