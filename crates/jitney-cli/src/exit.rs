//! How the command ends: with 0, or with a message that says what to change.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

/// Why the command could not do what was asked.
#[derive(Debug)]
pub(crate) struct Problem {
    kind: Kind,
    message: String,
    hint: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Failure,
    Usage,
}

impl Problem {
    /// Something failed: exit code 1.
    pub(crate) fn failure(message: impl fmt::Display) -> Problem {
        Problem::new(Kind::Failure, message)
    }

    /// What was asked makes no sense: exit code 2.
    pub(crate) fn usage(message: impl fmt::Display) -> Problem {
        Problem::new(Kind::Usage, message)
    }

    /// Says what to change.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Problem {
        self.hint = Some(hint.into());
        self
    }

    /// The same problem, with what it is about in front.
    pub(crate) fn within(&self, subject: &str) -> Problem {
        Problem {
            kind: self.kind,
            message: format!("{subject}: {}", self.message),
            hint: self.hint.clone(),
        }
    }

    /// Tells the person at the terminal, and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        // Nobody is left to tell when standard error is gone.
        let _ = writeln!(io::stderr(), "{self}");
        match self.kind {
            Kind::Failure => ExitCode::FAILURE,
            Kind::Usage => ExitCode::from(2),
        }
    }

    /// The engines' errors carry their hint in a line of their own, which is taken apart here.
    fn new(kind: Kind, message: impl fmt::Display) -> Problem {
        let text = message.to_string();
        let (message, hint) = match text.split_once("\n  hint: ") {
            Some((message, hint)) => (message.to_owned(), Some(hint.to_owned())),
            None => (text, None),
        };
        Problem {
            kind,
            message,
            hint,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_inside_the_message_gets_its_own_line() {
        let problem = Problem::failure("cannot load\n  hint: install it");
        assert_eq!(problem.to_string(), "error: cannot load\nhint: install it");
    }
}
