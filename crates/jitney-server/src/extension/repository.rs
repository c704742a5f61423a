//! Which models there are, and loading and unloading them on request.

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
///
/// # Errors
/// Those of [`Catalog::index`].
///
/// # Cancel safety
/// It only waits.
pub(crate) async fn index(
    catalog: &Catalog,
    wish: Wish,
    sees: impl Fn(&str) -> bool,
) -> Result<Vec<IndexLine>, Failure> {
    let rows = catalog.index().await?.into_iter();
    let lines = rows
        .filter(|row| sees(&row.name))
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
        });
    Ok(lines.collect())
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
