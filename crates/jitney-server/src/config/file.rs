//! The file given with `--config`.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::control::Control;
use super::keys::{Key, KeyToml};
use super::net::NetOptions;
use super::options::{Engine, ModelOptions, RowByRow};
use super::source::ModelSource;
use super::versions::VersionPolicy;

/// The content of a configuration file. Relative paths in it begin at its folder.
///
/// ```
/// let file = jitney_server::config::ConfigFile::parse(r#"
///     models = ["digits=examples/digits"]
///     http = "127.0.0.1:9090"
///     max_batch = 16
/// "#)?;
/// assert_eq!(file.options.max_batch, Some(16));
/// # Ok::<(), jitney_server::config::ConfigError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConfigFile {
    /// The models to serve.
    pub models: Vec<ModelSource>,
    /// What concerns the network.
    pub net: NetOptions,
    /// What every model takes that does not say otherwise.
    pub options: ModelOptions,
    /// The Python that runs Python models, and in whose packages ONNX Runtime is looked for.
    pub python: Option<PathBuf>,
    /// When models are loaded and unloaded.
    pub control: Option<Control>,
    /// Which models are loaded at the start, by their names.
    pub load_model: Option<Vec<String>>,
}

/// A configuration file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It could not be read.
    #[error("{} could not be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Its content is wrong.
    #[error("{}: {message}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        message: String,
    },
}

impl ConfigFile {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read or its content is wrong.
    pub fn read(path: &Path) -> Result<ConfigFile, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let file = ConfigFile::understand(&text).map_err(|message| ConfigError::Content {
            path: path.to_owned(),
            message,
        })?;
        Ok(file.beneath(path.parent().unwrap_or(Path::new(""))))
    }

    /// Reads the text of a file; relative paths begin at the working directory.
    ///
    /// # Errors
    /// When the content is wrong: an unknown key, a value of another type, a value out of its range, a model source that is none.
    pub fn parse(text: &str) -> Result<ConfigFile, ConfigError> {
        ConfigFile::understand(text).map_err(|message| ConfigError::Content {
            path: PathBuf::from("config"),
            message,
        })
    }

    fn understand(text: &str) -> Result<ConfigFile, String> {
        let file: ConfigToml = super::read_toml(text)?;
        let file = file.into_config()?;
        file.options.check().map_err(|error| error.to_string())?;
        file.net.check().map_err(|error| error.to_string())?;
        Ok(file)
    }

    fn beneath(mut self, folder: &Path) -> ConfigFile {
        let models = self.models.into_iter();
        self.models = models.map(|model| model.beneath(folder)).collect();
        self.net = self.net.beneath(folder);
        // A bare word is a program to be found on the search path.
        self.python = self.python.map(|python| {
            if python.components().count() > 1 {
                folder.join(python)
            } else {
                python
            }
        });
        self
    }
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigToml {
    #[serde(default)]
    models: Vec<String>,
    python: Option<PathBuf>,
    control: Option<Control>,
    reload: Option<bool>,
    load_model: Option<Vec<String>>,
    http: Option<SocketAddr>,
    grpc: Option<SocketAddr>,
    workers: Option<usize>,
    max_connections: Option<usize>,
    max_header_bytes: Option<usize>,
    max_body_bytes: Option<usize>,
    max_inflight_bytes: Option<usize>,
    header_timeout_ms: Option<f64>,
    body_timeout_ms: Option<f64>,
    idle_timeout_ms: Option<f64>,
    drain_ms: Option<f64>,
    allowed_hosts: Option<Vec<String>>,
    allowed_origins: Option<Vec<String>>,
    keys: Option<Vec<KeyToml>>,
    keys_file: Option<PathBuf>,
    insecure: Option<bool>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    tls_client_ca: Option<PathBuf>,
    max_connections_per_client: Option<usize>,
    max_requests_per_second: Option<usize>,
    forward_header_pattern: Option<String>,
    engine: Option<Engine>,
    max_batch: Option<usize>,
    max_wait_ms: Option<f64>,
    instances: Option<usize>,
    threads: Option<usize>,
    queue: Option<usize>,
    deadline_ms: Option<f64>,
    run_limit_ms: Option<f64>,
    row_by_row: Option<RowByRow>,
    warmup: Option<usize>,
    load_limit_ms: Option<f64>,
    max_concurrency: Option<usize>,
    memory_mb: Option<usize>,
    recycle_after: Option<usize>,
    recycle_above_mb: Option<usize>,
    versions: Option<VersionPolicy>,
}

impl ConfigToml {
    fn into_config(self) -> Result<ConfigFile, String> {
        let models = self.models.iter().map(|text| {
            ModelSource::parse(text)
                .map_err(|error| format!("models: \"{}\": {error}", text.escape_debug()))
        });
        let control = match (self.control, self.reload) {
            (Some(Control::None | Control::Explicit), Some(true)) => {
                return Err(
                    "reload = true is control = \"poll\", but control says otherwise".to_owned(),
                );
            }
            (None, Some(true)) => Some(Control::Poll),
            (said, _) => said,
        };
        Ok(ConfigFile {
            models: models.collect::<Result<_, _>>()?,
            net: NetOptions {
                http: self.http,
                grpc: self.grpc,
                workers: self.workers,
                max_connections: self.max_connections,
                max_header_bytes: self.max_header_bytes,
                max_body_bytes: self.max_body_bytes,
                max_inflight_bytes: self.max_inflight_bytes,
                header_timeout_ms: self.header_timeout_ms,
                body_timeout_ms: self.body_timeout_ms,
                idle_timeout_ms: self.idle_timeout_ms,
                drain_ms: self.drain_ms,
                allowed_hosts: self.allowed_hosts,
                allowed_origins: self.allowed_origins,
                keys: self.keys.map(Key::from_toml).transpose()?,
                keys_file: self.keys_file,
                insecure: self.insecure,
                tls_cert: self.tls_cert,
                tls_key: self.tls_key,
                tls_client_ca: self.tls_client_ca,
                max_connections_per_client: self.max_connections_per_client,
                max_requests_per_second: self.max_requests_per_second,
                forward_header_pattern: self.forward_header_pattern,
            },
            options: ModelOptions {
                engine: self.engine,
                max_batch: self.max_batch,
                max_wait_ms: self.max_wait_ms,
                instances: self.instances,
                threads: self.threads,
                queue: self.queue,
                deadline_ms: self.deadline_ms,
                run_limit_ms: self.run_limit_ms,
                row_by_row: self.row_by_row,
                warmup: self.warmup,
                load_limit_ms: self.load_limit_ms,
                max_concurrency: self.max_concurrency,
                memory_mb: self.memory_mb,
                recycle_after: self.recycle_after,
                recycle_above_mb: self.recycle_above_mb,
                versions: self.versions,
            },
            python: self.python,
            control,
            load_model: self.load_model,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::{Digest, Scope};
    use super::*;

    #[test]
    fn everything_can_be_said() {
        let text = r#"
            models = ["digits=models/digits", "echo:FP32[2]"]
            python = "venv/bin/python"
            control = "explicit"
            load_model = ["digits"]
            http = "[::1]:0"
            grpc = "[::1]:1"
            workers = 15
            max_connections = 1
            max_header_bytes = 16384
            max_body_bytes = 2
            max_inflight_bytes = 3
            header_timeout_ms = 4
            body_timeout_ms = 5
            idle_timeout_ms = 6
            drain_ms = 0
            allowed_hosts = ["a.org", "b.org:80"]
            allowed_origins = ["https://c.org"]
            forward_header_pattern = "^x-tenant-"
            engine = "onnx"
            max_batch = 7
            max_wait_ms = 0
            instances = 8
            threads = 9
            queue = 10
            deadline_ms = 11
            run_limit_ms = 12
            row_by_row = "auto"
            warmup = 13
            load_limit_ms = 14
            max_concurrency = 15
            memory_mb = 16
            recycle_after = 17
            recycle_above_mb = 18
            versions = "all"
            keys_file = "keys.toml"
            insecure = true
            tls_cert = "cert.pem"
            tls_key = "key.pem"
            tls_client_ca = "roots.pem"
            max_connections_per_client = 19
            max_requests_per_second = 20
            [[keys]]
            name = "app"
            digest = "sha256:1111111111111111111111111111111111111111111111111111111111111111"
        "#;
        let expected = ConfigFile {
            models: vec![
                ModelSource::parse("digits=models/digits").unwrap(),
                ModelSource::parse("echo:FP32[2]").unwrap(),
            ],
            net: NetOptions {
                http: Some("[::1]:0".parse().unwrap()),
                grpc: Some("[::1]:1".parse().unwrap()),
                workers: Some(15),
                max_connections: Some(1),
                max_header_bytes: Some(16384),
                max_body_bytes: Some(2),
                max_inflight_bytes: Some(3),
                header_timeout_ms: Some(4.0),
                body_timeout_ms: Some(5.0),
                idle_timeout_ms: Some(6.0),
                drain_ms: Some(0.0),
                allowed_hosts: Some(vec!["a.org".to_owned(), "b.org:80".to_owned()]),
                allowed_origins: Some(vec!["https://c.org".to_owned()]),
                keys: Some(vec![Key {
                    name: "app".to_owned(),
                    digest: Digest::new([0x11; 32]),
                    scopes: vec![Scope::Infer],
                    models: None,
                }]),
                keys_file: Some("keys.toml".into()),
                insecure: Some(true),
                tls_cert: Some("cert.pem".into()),
                tls_key: Some("key.pem".into()),
                tls_client_ca: Some("roots.pem".into()),
                max_connections_per_client: Some(19),
                max_requests_per_second: Some(20),
                forward_header_pattern: Some("^x-tenant-".to_owned()),
            },
            options: ModelOptions {
                engine: Some(Engine::Onnx),
                max_batch: Some(7),
                max_wait_ms: Some(0.0),
                instances: Some(8),
                threads: Some(9),
                queue: Some(10),
                deadline_ms: Some(11.0),
                run_limit_ms: Some(12.0),
                row_by_row: Some(RowByRow::Auto),
                warmup: Some(13),
                load_limit_ms: Some(14.0),
                max_concurrency: Some(15),
                memory_mb: Some(16),
                recycle_after: Some(17),
                recycle_above_mb: Some(18),
                versions: Some(VersionPolicy::All),
            },
            python: Some("venv/bin/python".into()),
            control: Some(Control::Explicit),
            load_model: Some(vec!["digits".to_owned()]),
        };
        assert_eq!(ConfigFile::parse(text).unwrap(), expected);
        assert_eq!(ConfigFile::parse("").unwrap(), ConfigFile::default());
    }

    #[test]
    fn reloading_is_polling() {
        let control = |text: &str| ConfigFile::parse(text).map(|file| file.control);
        assert_eq!(control("reload = true").unwrap(), Some(Control::Poll));
        assert_eq!(control("reload = false").unwrap(), None);
        assert_eq!(control("control = \"none\"").unwrap(), Some(Control::None));
        let both = control("reload = true\ncontrol = \"none\"").unwrap_err();
        assert!(
            both.to_string().contains("control says otherwise"),
            "{both}"
        );
    }

    #[test]
    fn mistakes_name_the_file_and_the_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jitney.toml");
        let table = [
            (
                "queue = 0",
                "queue must be a whole number from 1 to 1000000, but is 0",
            ),
            (
                "drain_ms = -1",
                "drain_ms must be a number of milliseconds from 0 to 86400000, but is -1",
            ),
            (
                "allowed_hosts = [\"*\"]",
                "allowed_hosts must be a list of names such as",
            ),
            (
                "models = [\"a b=m.onnx\"]",
                "models: \"a b=m.onnx\": a model's name has 1 to 128",
            ),
            ("htp = 1", "TOML parse error at line 1, column 1"),
            (
                "http = \"localhost\"",
                "TOML parse error at line 1, column 8",
            ),
        ];
        for (text, expected) in table {
            fs::write(&path, text).unwrap();
            let error = ConfigFile::read(&path).unwrap_err().to_string();
            let expected = format!("{}: {expected}", path.display());
            assert!(error.starts_with(&expected), "{error}");
        }
        let error = ConfigFile::read(&folder.path().join("none.toml")).unwrap_err();
        assert!(error.to_string().ends_with("none.toml could not be read"));
    }

    #[test]
    fn paths_begin_at_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jitney.toml");
        let cases = [
            ("python3", PathBuf::from("python3")),
            ("venv/bin/python", folder.path().join("venv/bin/python")),
        ];
        for (python, expected) in cases {
            fs::write(
                &path,
                format!("models = [\"digits\"]\npython = \"{python}\"\ntls_key = \"key.pem\""),
            )
            .unwrap();
            let file = ConfigFile::read(&path).unwrap();
            assert_eq!(file.net.tls_key, Some(folder.path().join("key.pem")));
            let digits = folder.path().join("digits").display().to_string();
            assert_eq!(file.models[0].origin(), digits);
            assert_eq!(file.python, Some(expected));
        }
    }
}
