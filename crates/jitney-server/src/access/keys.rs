//! The keys that the server knows, and how one is found.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use subtle::ConstantTimeEq;

use super::secret::digest;
use super::watch::Watch;
use crate::config::{ConfigError, Key, NetConfig, Scope};
use crate::observe::logging;

/// A key as requests meet it.
#[derive(Debug)]
pub(crate) struct Known {
    pub(super) key: Key,
    /// Always the same for the same key, whatever other keys there are.
    pub(super) number: u64,
}

/// The keys of a server.
#[derive(Debug)]
pub(crate) struct Keys {
    /// From the server's own settings, which are read once.
    fixed: Vec<Key>,
    file: Option<Watched>,
    known: RwLock<Arc<[Arc<Known>]>>,
}

/// The file that is read again when it changes.
#[derive(Debug)]
struct Watched {
    path: PathBuf,
    watch: Mutex<Watch>,
}

/// Where a server takes its keys from does not work.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file of keys cannot be used.
    #[error(transparent)]
    File(#[from] ConfigError),
    /// The keys cannot be told apart.
    #[error("{0}")]
    Conflict(String),
    /// The file has no key, nor have the settings.
    #[error("{}: there is no key in it\n  hint: make one with `jitney key new --name NAME`, and put what it prints there", path.display())]
    None {
        /// The file.
        path: PathBuf,
    },
}

impl Keys {
    /// The keys that the settings name; `None` where they name none.
    ///
    /// # Errors
    /// When the file cannot be used, or there is no key in the end.
    pub(super) fn new(config: &NetConfig) -> Result<Option<Keys>, KeysError> {
        if !config.has_keys() {
            return Ok(None);
        }
        let keys = Keys {
            fixed: config.keys.clone(),
            file: config.keys_file.clone().map(Watched::new),
            known: RwLock::default(),
        };
        keys.read()?;
        match &keys.file {
            Some(Watched { path, .. }) if keys.known().is_empty() => {
                Err(KeysError::None { path: path.clone() })
            }
            _ => Ok(Some(keys)),
        }
    }

    /// Finds the key that this secret is, in a time that does not depend on how much of it is right.
    pub(super) fn find(&self, secret: &[u8]) -> Option<Arc<Known>> {
        let digest = digest(secret);
        let is_it =
            |known: &&Arc<Known>| bool::from(known.key.digest.as_bytes().ct_eq(digest.as_bytes()));
        let known = self.known();
        // All are compared, wherever it is.
        let found = known.iter().filter(is_it).fold(None, |_, key| Some(key));
        found.cloned()
    }

    /// Whether the key is still known, with the same rights.
    pub(super) fn has(&self, key: &Known) -> bool {
        let known = self.known();
        known.iter().any(|known| known.key == key.key)
    }

    /// Takes the keys that the file has now, if it has changed. Where it cannot be used, those from before stay.
    pub(super) fn refresh(&self) {
        if !self.file.as_ref().is_some_and(Watched::changed) {
            return;
        }
        match self.read() {
            Ok(()) if self.known().is_empty() => {
                tracing::warn!("the file of keys was read again and has none: nobody may come in");
            }
            Ok(()) => tracing::info!(keys = self.known().len(), "the file of keys was read again"),
            Err(error) => tracing::error!(
                error = %logging::one_line(&logging::chain(&error).to_string()),
                "the file of keys has changed and cannot be used; the keys from before stay"
            ),
        }
    }

    fn read(&self) -> Result<(), KeysError> {
        let mut keys = self.fixed.clone();
        if let Some(Watched { path, .. }) = &self.file {
            keys.extend(Key::read_all(path)?);
        }
        Key::check_all(&keys).map_err(KeysError::Conflict)?;
        let known = keys.into_iter().map(Known::new).map(Arc::new).collect();
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
        Ok(())
    }

    fn known(&self) -> Arc<[Arc<Known>]> {
        Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Watched {
    fn new(path: PathBuf) -> Watched {
        Watched {
            watch: Mutex::new(Watch::new(vec![path.clone()])),
            path,
        }
    }

    fn changed(&self) -> bool {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        watch.changed()
    }
}

impl Known {
    pub(super) fn new(key: Key) -> Known {
        let [a, b, c, d, e, f, g, h, ..] = *key.digest.as_bytes();
        Known {
            number: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            key,
        }
    }

    /// Whether the holder may change the server.
    pub(super) fn is_admin(&self) -> bool {
        self.key.scopes.contains(&Scope::Admin)
    }

    /// Whether there is such a model as far as the holder is concerned.
    pub(super) fn sees(&self, model: &str) -> bool {
        let listed = |models: &Vec<String>| models.iter().any(|listed| listed == model);
        self.key.models.as_ref().is_none_or(listed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::secret::Secret;
    use super::*;

    fn key(name: &str, secret: &Secret) -> Key {
        Key {
            name: name.to_owned(),
            digest: secret.digest(),
            scopes: vec![Scope::Infer],
            models: None,
        }
    }

    fn in_toml(key: &Key) -> String {
        let Key { name, digest, .. } = key;
        format!("[[keys]]\nname = \"{name}\"\ndigest = \"{digest}\"\n")
    }

    #[test]
    fn a_key_is_found_by_the_whole_of_it() {
        let [first, second, other] = [(); 3].map(|()| Secret::generate().unwrap());
        let config = NetConfig {
            keys: vec![key("first", &first), key("second", &second)],
            ..NetConfig::default()
        };
        let keys = Keys::new(&config).unwrap().unwrap();
        let name = |secret: &str| {
            let found = keys.find(secret.as_bytes())?;
            Some(found.key.name.clone())
        };
        assert_eq!(name(first.reveal()).as_deref(), Some("first"));
        assert_eq!(name(second.reveal()).as_deref(), Some("second"));
        let shorter = &first.reveal()[..first.reveal().len() - 1];
        let longer = format!("{}a", first.reveal());
        let digest = first.digest().to_string();
        for wrong in ["", other.reveal(), shorter, &longer, &digest] {
            assert_eq!(name(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_file_adds_keys_and_takes_them_back() {
        let [fixed, filed] = [(); 2].map(|()| Secret::generate().unwrap());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        let config = NetConfig {
            keys: vec![key("fixed", &fixed)],
            keys_file: Some(path.clone()),
            ..NetConfig::default()
        };
        assert!(matches!(Keys::new(&config), Err(KeysError::File(_))));
        std::fs::write(&path, "").unwrap();
        let keys = Keys::new(&config).unwrap().unwrap();
        let knows = |secret: &Secret| keys.find(secret.reveal().as_bytes()).is_some();
        assert_eq!([knows(&fixed), knows(&filed)], [true, false]);
        let steps = [
            (in_toml(&key("filed", &filed)), [true, true]),
            // What cannot be used changes nothing.
            ("nonsense".to_owned(), [true, true]),
            (in_toml(&key("fixed", &filed)), [true, true]),
            (String::new(), [true, false]),
        ];
        for (text, expected) in steps {
            std::fs::write(&path, &text).unwrap();
            // A change counts when it was there twice.
            keys.refresh();
            keys.refresh();
            assert_eq!([knows(&fixed), knows(&filed)], expected, "{text}");
        }
    }

    #[test]
    fn a_server_is_not_started_to_let_nobody_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        std::fs::write(&path, "# none yet\n").unwrap();
        let config = NetConfig {
            keys_file: Some(path),
            ..NetConfig::default()
        };
        assert!(matches!(Keys::new(&config), Err(KeysError::None { .. })));
        assert!(Keys::new(&NetConfig::default()).unwrap().is_none());
    }
}
