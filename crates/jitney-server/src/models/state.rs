//! The life of a model, as a pure state machine.

/// Where a model stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelState {
    /// It is read, checked and warmed up. Next: ready, failed, or closed.
    Loading,
    /// It answers. Next: draining, or failed when its last instance is lost.
    Ready,
    /// It could not be loaded, or not in time, or none of its instances is alive. Next: closed, or ready when the load ends after all, another
    /// load succeeds, or an instance could be made again.
    Failed {
        /// Why, for the operator: it may name files.
        message: String,
    },
    /// It answers what it has accepted and accepts nothing more. Next: closed.
    Draining,
    /// It is gone, for good.
    Closed,
}

/// What can happen to a model.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// It was loaded, or has an instance.
    Alive,
    /// It has no instance any more.
    Broke(String),
    /// It could not be loaded.
    Unloadable(String),
    /// The server wants it to end.
    Close,
    /// Everyone has been answered.
    Emptied,
}

impl ModelState {
    /// The state as a word for status pages and the task tree.
    pub const fn word(&self) -> &'static str {
        match self {
            ModelState::Loading => "loading",
            ModelState::Ready => "ready",
            ModelState::Failed { .. } => "failed",
            ModelState::Draining => "draining",
            ModelState::Closed => "closed",
        }
    }

    /// The state that follows; `None` where the event changes nothing. This is the only place that knows.
    pub(super) fn after(&self, event: Event) -> Option<ModelState> {
        match (self, event) {
            (ModelState::Loading | ModelState::Failed { .. }, Event::Alive) => {
                Some(ModelState::Ready)
            }
            (ModelState::Ready, Event::Broke(message))
            | (ModelState::Loading | ModelState::Failed { .. }, Event::Unloadable(message)) => {
                Some(ModelState::Failed { message })
            }
            // A load cannot be interrupted. Whoever finishes it finds the model closed and drops what was loaded.
            (ModelState::Loading | ModelState::Failed { .. }, Event::Close) => {
                Some(ModelState::Closed)
            }
            (ModelState::Ready, Event::Close) => Some(ModelState::Draining),
            (ModelState::Draining, Event::Emptied) => Some(ModelState::Closed),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions() {
        let failed = ModelState::Failed {
            message: "why".to_owned(),
        };
        let events = [
            Event::Alive,
            Event::Broke("why".to_owned()),
            Event::Unloadable("why".to_owned()),
            Event::Close,
            Event::Emptied,
        ];
        use ModelState::{Closed, Draining, Loading, Ready};
        let table = [
            (
                Loading,
                [Some(Ready), None, Some(failed.clone()), Some(Closed), None],
            ),
            (
                Ready,
                [None, Some(failed.clone()), None, Some(Draining), None],
            ),
            (
                failed.clone(),
                [Some(Ready), None, Some(failed), Some(Closed), None],
            ),
            (Draining, [None, None, None, None, Some(Closed)]),
            (Closed, [None, None, None, None, None]),
        ];
        for (state, expected) in table {
            let after = events.clone().map(|event| state.after(event));
            assert_eq!(after, expected, "{}", state.word());
        }
    }
}
