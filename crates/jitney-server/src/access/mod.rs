//! Who may do what: one place that is asked before any handler runs.

use http::request;

use crate::failure::Failure;
use crate::models::unknown_model;

/// What it takes to be let in to a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing: whoever balances load must know whether the server lives.
    Nothing,
    /// To look at the server and at the models that one may see.
    Look,
    /// To run a model.
    Infer,
    /// To change the server.
    Admin,
}

/// Who may come in.
#[derive(Debug)]
pub(crate) struct Access;

/// What a caller may do. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Grant;

impl Access {
    /// Whether callers need a key.
    pub(crate) fn keyed(&self) -> bool {
        false
    }

    /// Decides about a request by its head. `model` is the one that its path names.
    ///
    /// # Errors
    /// `unauthenticated`, `forbidden`, and `unknown_model` for a model that the caller may not see.
    pub(crate) fn authorise(
        &self,
        _head: &request::Parts,
        _need: Need,
        model: Option<&str>,
    ) -> Result<Grant, Failure> {
        let grant = Grant;
        grant.check(model)?;
        Ok(grant)
    }
}

impl Grant {
    /// Whether the caller may know that there is a model of this name.
    pub(crate) fn sees(&self, _model: &str) -> bool {
        true
    }

    /// Says of a model that the caller may not see what is said of one that does not exist.
    ///
    /// # Errors
    /// `unknown_model`.
    pub(crate) fn check(&self, model: Option<&str>) -> Result<(), Failure> {
        match model {
            Some(name) if !self.sees(name) => Err(unknown_model(name)),
            _ => Ok(()),
        }
    }
}
