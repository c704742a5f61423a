//! The names of log fields, and how text that came from outside is written into a line.

use std::fmt;

/// Which lines the process writes to its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Errors.
    pub error: bool,
    /// Warnings.
    pub warning: bool,
    /// What is of interest to whoever runs the server.
    pub info: bool,
    /// 0; 1 with lines for debugging; 2 with all that there are.
    pub verbose: u32,
}

/// The switches of the log, which belongs to the process and not to the server.
pub trait Levels: fmt::Debug + Send + Sync {
    /// How they stand.
    fn get(&self) -> Level;

    /// Sets them, for lines from now on.
    fn set(&self, level: Level);
}

/// The field that names a model.
pub const MODEL: &str = "model";
/// The field that names a model's version.
pub const VERSION: &str = "version";
/// The field with the stable word of a failure.
pub const CODE: &str = "code";
/// The field with a request's id, always [`escaped`].
pub const REQUEST_ID: &str = "request_id";
/// The field with an error and its causes.
pub const ERROR: &str = "error";

/// Longest text from a request that a log line takes, in characters.
const LONGEST: usize = 256;
/// Longest message of the server's own, hints included, in characters.
const LONGEST_MESSAGE: usize = 4096;

/// Text from outside, made safe for one line of a log: control characters and characters that reorder or hide text are escaped, and
/// what is longer than 256 characters is cut.
///
/// ```
/// let id = "7\r\nERROR forged \u{1b}[31m";
/// assert_eq!(jitney_server::observe::logging::escaped(id).to_string(), r"7\r\nERROR forged \u{1b}[31m");
/// ```
pub fn escaped(text: &str) -> impl fmt::Display + use<> {
    Escaped(text.to_owned(), LONGEST)
}

/// A message of the server's own, made safe in the same way, since it may quote a file. Its line breaks become spaces, and `; ` before a hint.
pub fn one_line(message: &str) -> impl fmt::Display + use<> {
    let lines: Vec<&str> = message.lines().map(str::trim).collect();
    Escaped(
        lines.join(" ").replace(" hint: ", "; hint: "),
        LONGEST_MESSAGE,
    )
}

/// Whether a character can stand in a log line as it is: it is neither a control character nor one of the invisible ones that turn the
/// reading direction or take no room.
pub fn is_plain(char: char) -> bool {
    let reorders_or_hides = matches!(
        char,
        '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
    );
    !char.is_control() && !reorders_or_hides
}

/// An error followed by its causes, from the outermost to the root.
pub fn chain<'a>(error: &'a (dyn std::error::Error + 'static)) -> impl fmt::Display + 'a {
    Chain(error)
}

struct Escaped(String, usize);

impl fmt::Display for Escaped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.chars();
        for char in rest.by_ref().take(self.1) {
            if is_plain(char) && char != '\\' {
                fmt::Write::write_char(f, char)?;
            } else {
                write!(f, "{}", char.escape_default())?;
            }
        }
        if rest.next().is_some() {
            f.write_str("…")?;
        }
        Ok(())
    }
}

struct Chain<'a>(&'a (dyn std::error::Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_escapes_its_line() {
        let table = [
            ("digits", "digits"),
            ("größer ü", "größer ü"),
            ("a\nb", r"a\nb"),
            ("a\\nb", r"a\\nb"),
            ("\u{1b}[2J", r"\u{1b}[2J"),
            ("\u{9b}2J", r"\u{9b}2J"),
            ("\0", r"\u{0}"),
            ("\u{202e}txt.exe", r"\u{202e}txt.exe"),
            ("\u{2028}", r"\u{2028}"),
        ];
        for (text, expected) in table {
            assert_eq!(escaped(text).to_string(), expected);
        }
    }

    #[test]
    fn long_text_is_cut() {
        let shown = escaped(&"x".repeat(300)).to_string();
        assert_eq!(shown.chars().count(), 257);
        assert!(shown.ends_with('…'));
        assert_eq!(escaped(&"x".repeat(256)).to_string(), "x".repeat(256));
    }

    #[test]
    fn a_message_stays_on_its_line() {
        let message = "no operator Fo\u{1b}o\n  hint: use --engine ort";
        let expected = r"no operator Fo\u{1b}o; hint: use --engine ort";
        assert_eq!(one_line(message).to_string(), expected);
    }

    #[test]
    fn a_chain_names_every_cause() {
        #[derive(Debug, thiserror::Error)]
        #[error("the model could not be loaded")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("disk on fire"));
        assert_eq!(
            chain(&error).to_string(),
            "the model could not be loaded: disk on fire"
        );
    }
}
