//! The models that there are, and loading and unloading them: Triton's repository extension, and KServe's answers.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::read;
use crate::failure::{Code, Failure};

/// A line of the index, which is an array of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IndexLine {
    /// The model's name.
    pub name: String,
    /// The version, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// `READY`, `UNAVAILABLE`, `LOADING`, `UNLOADING` or `UNKNOWN`.
    pub state: &'static str,
    /// Why.
    pub reason: String,
}

/// What the index is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexRequest {
    /// Only models that can be called.
    #[serde(default)]
    pub ready: bool,
}

/// How a model is to be loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadRequest {
    /// A model configuration as JSON.
    pub config: Option<String>,
}

/// The answer to a load, as KServe gives it. Triton's is empty, and its clients do not read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Loaded<'a> {
    /// The model's name.
    pub name: &'a str,
    /// True.
    pub load: bool,
}

/// The answer to an unload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Unloaded<'a> {
    /// The model's name.
    pub name: &'a str,
    /// True.
    pub unload: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameterized {
    #[serde(default)]
    parameters: Map<String, Value>,
}

impl IndexRequest {
    /// Reads the body, which may be empty.
    ///
    /// # Errors
    /// `invalid_input`.
    pub fn read(body: &[u8]) -> Result<IndexRequest, Failure> {
        read(body)
    }
}

impl LoadRequest {
    /// Reads the body, which may be empty.
    ///
    /// # Errors
    /// `invalid_input`, and `forbidden` for files.
    ///
    /// ```
    /// use jitney_server::protocol::extension::repository::LoadRequest;
    ///
    /// let body = br#"{"parameters": {"config": "{\"max_batch_size\": 8}"}}"#;
    /// assert_eq!(LoadRequest::read(body)?.config.as_deref(), Some(r#"{"max_batch_size": 8}"#));
    /// let body = br#"{"parameters": {"file:1/model.onnx": "AAAA"}}"#;
    /// assert!(LoadRequest::read(body).is_err());
    /// # Ok::<(), jitney_server::failure::Failure>(())
    /// ```
    pub fn read(body: &[u8]) -> Result<LoadRequest, Failure> {
        let Parameterized { parameters } = read(body)?;
        let mut request = LoadRequest::default();
        for (name, value) in parameters {
            match value {
                Value::String(text) => request.set(&name, Some(text))?,
                _ => request.set(&name, None)?,
            }
        }
        Ok(request)
    }

    /// Takes a parameter, whose value is `None` where it is no text.
    ///
    /// # Errors
    /// `invalid_input` for what is not understood, and `forbidden` for files.
    pub fn set(&mut self, name: &str, value: Option<String>) -> Result<(), Failure> {
        match (name, value) {
            ("config", Some(config)) => self.config = Some(config),
            ("config", None) => {
                return Err(Failure::invalid(
                    "parameters.config: expected the text of a JSON object, as a string",
                ));
            }
            (file, _) if file.starts_with("file:") => {
                return Err(Failure::new(
                    Code::Forbidden,
                    "models are loaded from the server's own folders, never from files that a request brings",
                ));
            }
            (name, _) => return Err(unknown("config", name)),
        }
        Ok(())
    }
}

/// Reads the body of an unload, which may be empty. `unload_dependents` changes nothing: no model depends on another.
///
/// # Errors
/// `invalid_input`.
pub fn read_unload(body: &[u8]) -> Result<(), Failure> {
    let Parameterized { parameters } = read(body)?;
    for (name, value) in parameters {
        unload_parameter(&name, value.is_boolean())?;
    }
    Ok(())
}

/// Checks a parameter of an unload.
///
/// # Errors
/// `invalid_input`.
pub fn unload_parameter(name: &str, is_bool: bool) -> Result<(), Failure> {
    match name {
        "unload_dependents" if is_bool => Ok(()),
        "unload_dependents" => Err(Failure::invalid(
            "parameters.unload_dependents: expected true or false",
        )),
        name => Err(unknown("unload_dependents", name)),
    }
}

fn unknown(known: &str, name: &str) -> Failure {
    Failure::invalid(format!(
        "parameters: expected nothing but \"{known}\", got \"{}\"",
        crate::observe::logging::escaped(name)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_read_or_refused() {
        let loads: [(&str, Result<Option<&str>, Code>); 9] = [
            ("", Ok(None)),
            (" \n", Ok(None)),
            ("{}", Ok(None)),
            (r#"{"parameters":{}}"#, Ok(None)),
            (r#"{"parameters":{"config":"{}"}}"#, Ok(Some("{}"))),
            (r#"{"parameters":{"config":{}}}"#, Err(Code::InvalidInput)),
            (
                r#"{"parameters":{"config":"{}","file:1/m":"QQ=="}}"#,
                Err(Code::Forbidden),
            ),
            (
                r#"{"parameters":{"url":"http://x"}}"#,
                Err(Code::InvalidInput),
            ),
            (r#"{"parameter":{}}"#, Err(Code::InvalidInput)),
        ];
        for (body, expected) in loads {
            let read = LoadRequest::read(body.as_bytes());
            let read = read.as_ref().map(|request| request.config.as_deref());
            assert_eq!(read.map_err(|failure| failure.code), expected, "{body}");
        }
        let indices = [
            ("", Some(false)),
            (r#"{"ready":true}"#, Some(true)),
            (r#"{"ready":false}"#, Some(false)),
            (r#"{"ready":1}"#, None),
            (r#"{"ready":true,"ready":false}"#, None),
            ("[]", None),
        ];
        for (body, expected) in indices {
            let read = IndexRequest::read(body.as_bytes());
            assert_eq!(read.ok().map(|request| request.ready), expected, "{body}");
        }
        let unloads = [
            ("", true),
            (r#"{"parameters":{"unload_dependents":true}}"#, true),
            (r#"{"parameters":{"unload_dependents":"yes"}}"#, false),
            (r#"{"parameters":{"config":"{}"}}"#, false),
        ];
        for (body, ok) in unloads {
            assert_eq!(read_unload(body.as_bytes()).is_ok(), ok, "{body}");
        }
    }
}
