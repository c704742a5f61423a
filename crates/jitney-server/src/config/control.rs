//! Who decides which models are loaded while a server runs.

use std::str::FromStr;

use serde::Deserialize;

/// When models are loaded and unloaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Control {
    /// Once, when the server starts.
    #[default]
    None,
    /// And whenever files change: models and versions that come, change or go are picked up.
    Poll,
    /// And whenever a request says so.
    Explicit,
}

/// Which models are loaded when a server starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AtStart {
    /// Every one.
    #[default]
    All,
    /// Those of these names. The others wait for a request to load them.
    Only(Vec<String>),
}

impl AtStart {
    /// What a list of names means, in which `*` is every model and `none` is no model.
    pub fn of(names: Vec<String>) -> AtStart {
        if names.iter().any(|name| name == "*") {
            return AtStart::All;
        }
        AtStart::Only(names.into_iter().filter(|name| name != "none").collect())
    }

    /// Whether a model of that name is among them.
    pub fn includes(&self, name: &str) -> bool {
        match self {
            AtStart::All => true,
            AtStart::Only(names) => names.iter().any(|known| known == name),
        }
    }
}

impl FromStr for Control {
    type Err = String;

    fn from_str(text: &str) -> Result<Control, String> {
        match text {
            "none" => Ok(Control::None),
            "poll" => Ok(Control::Poll),
            "explicit" => Ok(Control::Explicit),
            _ => Err(format!(
                "expected none, poll or explicit, got \"{}\"",
                text.escape_debug()
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_at_the_start() {
        let of = |names: &[&str]| AtStart::of(names.iter().map(|&name| name.into()).collect());
        assert_eq!(of(&["*"]), AtStart::All);
        assert_eq!(of(&["a", "*"]), AtStart::All);
        assert_eq!(of(&["none"]), AtStart::Only(vec![]));
        assert!(of(&["a", "b"]).includes("b"));
        assert!(!of(&["a", "b"]).includes("c"));
        assert!(!of(&["none"]).includes("none"));
    }
}
