//! Where a model comes from, as a person writes it.

use std::path::{Path, PathBuf};
use std::str::FromStr;

/// `[NAME=]SOURCE`, read but not yet looked up on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSource {
    /// The name that was given.
    pub name: Option<String>,
    /// The source.
    pub kind: SourceKind,
}

/// The kinds of sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// `FILE.onnx`.
    Onnx(PathBuf),
    /// `echo` or `echo:...`, the fake model; the text is kept whole.
    Echo(String),
    /// `FILE.py:Class` or `FILE.py`.
    Python {
        /// The file.
        file: PathBuf,
        /// The class in it; where none is named, the only one that is a model.
        class: Option<String>,
    },
    /// A model's folder or a repository of such folders: which of the two, the disk says.
    Folder(PathBuf),
}

/// A source cannot be what was meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The text says nothing.
    #[error("expected a model: FILE.onnx, FILE.py:Class, a folder, or echo:..., got nothing")]
    Empty,
    /// The name is not one.
    #[error("{0}")]
    Name(String),
    /// A model that shall be loaded at the start is in no source.
    #[error(
        "there is no model \"{name}\" to load; the sources hold {known}\n  hint: --load-model takes a name, * or none"
    )]
    Absent {
        /// The name.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// Two sources give models of the same name.
    #[error(
        "two models are named \"{name}\": {first} and {second}\n  hint: name one of them otherwise, as in OTHER={second}"
    )]
    Duplicate {
        /// The name of both.
        name: String,
        /// Where the one comes from.
        first: String,
        /// Where the other comes from.
        second: String,
    },
}

impl ModelSource {
    /// Reads `[NAME=]SOURCE`. What stands before the first `=` is a name unless it has a `/`, a `\` or a `:` in it, so that paths and
    /// `echo:FP32[16],op=sum` need no quoting. Looks at no file.
    ///
    /// # Errors
    /// When there is no source, or the name has characters that a name cannot have.
    ///
    /// ```
    /// use jitney_server::config::{ModelSource, SourceKind};
    ///
    /// let source = ModelSource::parse("digits=models/v2.onnx")?;
    /// assert_eq!(source.name.as_deref(), Some("digits"));
    /// assert_eq!(source.kind, SourceKind::Onnx("models/v2.onnx".into()));
    /// # Ok::<(), jitney_server::config::SourceError>(())
    /// ```
    pub fn parse(text: &str) -> Result<ModelSource, SourceError> {
        let (name, source) = match text.split_once('=') {
            Some((name, source)) if !name.contains(['/', '\\', ':']) => (Some(name), source),
            _ => (None, text),
        };
        if source.is_empty() {
            return Err(SourceError::Empty);
        }
        if let Some(name) = name {
            check_name(name).map_err(SourceError::Name)?;
        }
        Ok(ModelSource {
            name: name.map(str::to_owned),
            kind: SourceKind::parse(source),
        })
    }

    /// The source as it was written, without the name.
    pub fn origin(&self) -> String {
        match &self.kind {
            SourceKind::Onnx(path) | SourceKind::Folder(path) => path.display().to_string(),
            SourceKind::Echo(text) => text.clone(),
            SourceKind::Python { file, class: None } => file.display().to_string(),
            SourceKind::Python {
                file,
                class: Some(class),
            } => format!("{}:{class}", file.display()),
        }
    }

    /// The source with its relative paths beginning at this folder.
    #[must_use]
    pub fn beneath(mut self, folder: &Path) -> ModelSource {
        match &mut self.kind {
            SourceKind::Onnx(path)
            | SourceKind::Folder(path)
            | SourceKind::Python { file: path, .. } => *path = folder.join(&path),
            SourceKind::Echo(_) => {}
        }
        self
    }
}

impl FromStr for ModelSource {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<ModelSource, SourceError> {
        ModelSource::parse(text)
    }
}

impl SourceKind {
    /// Where it lies on the disk, which the fake model does not.
    pub fn path(&self) -> Option<&Path> {
        match self {
            SourceKind::Onnx(path)
            | SourceKind::Folder(path)
            | SourceKind::Python { file: path, .. } => Some(path),
            SourceKind::Echo(_) => None,
        }
    }

    fn parse(source: &str) -> SourceKind {
        if source == "echo" || source.starts_with("echo:") {
            return SourceKind::Echo(source.to_owned());
        }
        if let Some((file, class)) = source.rsplit_once(".py:") {
            return SourceKind::Python {
                file: PathBuf::from(format!("{file}.py")),
                class: Some(class.to_owned()),
            };
        }
        let path = PathBuf::from(source);
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("onnx") => SourceKind::Onnx(path),
            Some("py") => SourceKind::Python {
                file: path,
                class: None,
            },
            _ => SourceKind::Folder(path),
        }
    }
}

/// Checks the name of a model: 1 to 128 letters, digits, `.`, `_` and `-` of ASCII, and not `.` or `..`.
///
/// # Errors
/// A sentence that shows the name, its control characters escaped, and says what is allowed.
pub fn check_name(name: &str) -> Result<(), String> {
    let plain = |char: char| char.is_ascii_alphanumeric() || matches!(char, '.' | '_' | '-');
    let sized = (1..=128).contains(&name.len());
    if sized && name.chars().all(plain) && name != "." && name != ".." {
        return Ok(());
    }
    let shown: String = name.escape_debug().take(130).collect();
    Err(format!(
        "a model's name has 1 to 128 characters out of A-Z a-z 0-9 . _ - and is not . or .., got \"{shown}\"\n  hint: name it with NAME=SOURCE"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_apart() {
        let onnx = |path: &str| SourceKind::Onnx(path.into());
        let folder = |path: &str| SourceKind::Folder(path.into());
        let echo = |text: &str| SourceKind::Echo(text.into());
        let python = |file: &str, class: Option<&str>| SourceKind::Python {
            file: file.into(),
            class: class.map(str::to_owned),
        };
        let table = [
            ("digits.onnx", None, onnx("digits.onnx")),
            ("d=digits.onnx", Some("d"), onnx("digits.onnx")),
            ("./a=b.onnx", None, onnx("./a=b.onnx")),
            ("a=b=c.onnx", Some("a"), onnx("b=c.onnx")),
            ("models", None, folder("models")),
            ("examples/digits", None, folder("examples/digits")),
            ("x.y-z_1=models", Some("x.y-z_1"), folder("models")),
            ("echo", None, echo("echo")),
            ("echo:FP32[16],op=sum", None, echo("echo:FP32[16],op=sum")),
            ("e=echo:FP32[2]", Some("e"), echo("echo:FP32[2]")),
            ("echo=echo", Some("echo"), echo("echo")),
            ("echoes", None, folder("echoes")),
            ("m.py:Digits", None, python("m.py", Some("Digits"))),
            (
                "d=dir/m.py:Digits",
                Some("d"),
                python("dir/m.py", Some("Digits")),
            ),
            ("m.py", None, python("m.py", None)),
            ("model.ONNX", None, folder("model.ONNX")),
        ];
        for (text, name, kind) in table {
            let source = ModelSource::parse(text).unwrap();
            assert_eq!(
                (source.name.as_deref(), source.kind),
                (name, kind),
                "{text}"
            );
        }
    }

    #[test]
    fn bad_sources_are_refused() {
        let long = format!("{}=m.onnx", "n".repeat(129));
        for text in [
            "",
            "digits=",
            "=m.onnx",
            ".=m.onnx",
            "..=m.onnx",
            "a b=m.onnx",
            "ä=m.onnx",
            "a\n=m",
            &long,
        ] {
            assert!(ModelSource::parse(text).is_err(), "{text:?}");
        }
        let error = ModelSource::parse("a\r\u{1b}[2J=m.onnx")
            .unwrap_err()
            .to_string();
        assert!(error.contains(r#"got "a\r\u{1b}[2J""#), "{error}");
    }

    #[test]
    fn names_have_a_length() {
        assert_eq!(check_name(&"n".repeat(128)), Ok(()));
        assert!(check_name(&"n".repeat(129)).is_err());
        assert!(check_name("").is_err());
        assert_eq!(check_name("..."), Ok(()));
    }

    #[test]
    fn a_source_can_begin_elsewhere() {
        let beneath = |text: &str| {
            ModelSource::parse(text)
                .unwrap()
                .beneath(Path::new("/etc/jitney"))
                .origin()
        };
        let table = [
            ("m.onnx", "/etc/jitney/m.onnx"),
            ("/m.onnx", "/m.onnx"),
            ("models", "/etc/jitney/models"),
            ("m.py:A", "/etc/jitney/m.py:A"),
            ("m.py", "/etc/jitney/m.py"),
            ("echo:FP32[1]", "echo:FP32[1]"),
        ];
        for (text, expected) in table {
            assert_eq!(beneath(text), expected);
        }
    }
}
