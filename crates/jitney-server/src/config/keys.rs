//! Who may come in, as a file says it: names, digests of keys, and what each key is good for.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::Deserialize;

use super::file::ConfigError;
use super::source::check_name;

/// A key that opens the server, without the key itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// What the log calls whoever has the key. No two keys have the same.
    pub name: String,
    /// What is known of the key.
    pub digest: Digest,
    /// What it is good for. Default: to run models.
    pub scopes: Vec<Scope>,
    /// The models that it is good for; all where nothing is said. To its holder there are no others.
    pub models: Option<Vec<String>>,
}

/// What a key is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// To run models, and to look at them and at the server.
    Infer,
    /// To change the server too.
    Admin,
}

/// The SHA-256 of a key, written `sha256:` and 64 hexadecimal digits.
///
/// A password needs a slow digest, because people choose passwords that can be guessed. A key has 256 random bits, which nobody guesses
/// however quick a guess is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

/// A text is no digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected sha256: and 64 hexadecimal digits, as `jitney key new` prints them")]
pub struct NoDigest;

/// A key as it is written. The digest is read later, since an error of the reader of files shows the line, and the line may have the key
/// itself where its digest should be.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyToml {
    name: String,
    digest: String,
    #[serde(default = "only_infer")]
    scopes: Vec<Scope>,
    models: Option<Vec<String>>,
}

/// A file that has keys and nothing else.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysToml {
    #[serde(default)]
    keys: Vec<KeyToml>,
}

impl Key {
    /// Reads the file given with `--keys-file`: `[[keys]]` and nothing else. It may have none, so that the last key can be taken back.
    ///
    /// # Errors
    /// When it cannot be read or its content is wrong.
    pub fn read_all(path: &Path) -> Result<Vec<Key>, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let keys = toml::from_str(&text)
            .map_err(|error| without_the_line(&text, &error))
            .and_then(|KeysToml { keys }| Key::from_toml(keys));
        keys.map_err(|message| ConfigError::Content {
            path: path.to_owned(),
            message,
        })
    }

    pub(super) fn from_toml(keys: Vec<KeyToml>) -> Result<Vec<Key>, String> {
        let keys: Vec<Key> = keys
            .into_iter()
            .map(KeyToml::into_key)
            .collect::<Result<_, _>>()?;
        Key::check_all(&keys)?;
        Ok(keys)
    }

    /// Checks each key by itself, and that they can be told apart.
    ///
    /// # Errors
    /// A sentence that names the first key that is wrong.
    pub fn check_all<'a>(keys: impl IntoIterator<Item = &'a Key>) -> Result<(), String> {
        let (mut names, mut digests) = (HashSet::new(), HashSet::new());
        for key in keys {
            key.check()?;
            if !names.insert(&key.name) {
                return Err(format!("keys: two keys have the name \"{}\"", key.name));
            }
            if !digests.insert(key.digest) {
                return Err(format!(
                    "keys: \"{}\" has the digest of another key; make one for each with `jitney key new`",
                    key.name
                ));
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        if check_name(&self.name).is_err() {
            return Err(format!(
                "keys: a key's name has 1 to 128 characters out of A-Z a-z 0-9 . _ - and is not . or .., got \"{}\"",
                self.name.escape_debug()
            ));
        }
        let within = |what: &str| format!("keys: \"{}\": {what}", self.name);
        if self.scopes.is_empty() {
            return Err(within("scopes must be \"infer\", \"admin\" or both"));
        }
        let Some(models) = &self.models else {
            return Ok(());
        };
        if models.is_empty() {
            return Err(within("models must name a model; leave it out for all"));
        }
        let wrong = models.iter().find_map(|model| check_name(model).err());
        wrong.map_or(Ok(()), |error| Err(within(&error)))
    }
}

impl KeyToml {
    fn into_key(self) -> Result<Key, String> {
        let digest = self.digest.parse();
        Ok(Key {
            digest: digest.map_err(|NoDigest| {
                format!("keys: \"{}\": digest: {NoDigest}", self.name.escape_debug())
            })?,
            name: self.name,
            scopes: self.scopes,
            models: self.models,
        })
    }
}

impl Digest {
    /// The digest with these bytes.
    pub const fn new(bytes: [u8; 32]) -> Digest {
        Digest(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Not shown: it is of no use to a reader, and settings are shown in more places than one thinks of.
impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(..)")
    }
}

impl FromStr for Digest {
    type Err = NoDigest;

    fn from_str(text: &str) -> Result<Digest, NoDigest> {
        let digits = text.strip_prefix("sha256:").ok_or(NoDigest)?.as_bytes();
        let mut bytes = [0; 32];
        if digits.len() != 2 * bytes.len() {
            return Err(NoDigest);
        }
        for (byte, digits) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = hexadecimal(digits[0])? << 4 | hexadecimal(digits[1])?;
        }
        Ok(Digest(bytes))
    }
}

fn hexadecimal(digit: u8) -> Result<u8, NoDigest> {
    let value = char::from(digit).to_digit(16).ok_or(NoDigest)?;
    u8::try_from(value).map_err(|_| NoDigest)
}

/// Where the mistake is and what it is. The line itself may have a key in it.
fn without_the_line(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start));
    let line = before.map_or(1, |before| before.matches('\n').count() + 1);
    format!("line {line}: {}", error.message())
}

fn only_infer() -> Vec<Scope> {
    vec![Scope::Infer]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(digit: char) -> String {
        format!("sha256:{}", digit.to_string().repeat(64))
    }

    fn read(text: &str) -> Result<Vec<Key>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        std::fs::write(&path, text).unwrap();
        let shown = path.display().to_string();
        Key::read_all(&path).map_err(|error| {
            let error = error.to_string();
            error.strip_prefix(&shown).unwrap().to_owned()
        })
    }

    #[test]
    fn digests_are_written_as_they_are_read() {
        let text = format!("sha256:{}", "0123456789abcdef".repeat(4));
        let digest: Digest = text.parse().unwrap();
        assert_eq!(digest.to_string(), text);
        let upper: Digest = text
            .to_ascii_uppercase()
            .replace("SHA", "sha")
            .parse()
            .unwrap();
        assert_eq!(upper, digest);
        for wrong in [
            "",
            "sha256:",
            &text[7..],
            &text[..70],
            "sha256:+1",
            "md5:00",
        ] {
            assert_eq!(wrong.parse::<Digest>(), Err(NoDigest), "{wrong}");
        }
        let signs = format!("sha256:{}", "+1".repeat(32));
        assert_eq!(signs.parse::<Digest>(), Err(NoDigest));
    }

    #[test]
    fn a_file_may_say_everything_or_little() {
        let (a, b) = (digest('a'), digest('b'));
        let text = format!(
            "[[keys]]\nname = \"app\"\ndigest = \"{a}\"\n[[keys]]\nname = \"ops\"\ndigest = \"{b}\"\nscopes = [\"infer\", \"admin\"]\nmodels = [\"m\"]\n"
        );
        let expected = [
            Key {
                name: "app".to_owned(),
                digest: a.parse().unwrap(),
                scopes: vec![Scope::Infer],
                models: None,
            },
            Key {
                name: "ops".to_owned(),
                digest: b.parse().unwrap(),
                scopes: vec![Scope::Infer, Scope::Admin],
                models: Some(vec!["m".to_owned()]),
            },
        ];
        assert_eq!(read(&text).unwrap(), expected);
        assert_eq!(read("").unwrap(), []);
    }

    #[test]
    fn mistakes_are_named_and_keys_not_repeated() {
        let key = |name: &str, digit, more: &str| {
            let digest = digest(digit);
            format!("[[keys]]\nname = \"{name}\"\ndigest = \"{digest}\"\n{more}\n")
        };
        let table = [
            (key("", 'a', ""), "a key's name has 1 to 128"),
            (key("a b", 'a', ""), "got \"a b\""),
            (
                key("a", 'a', "") + &key("a", 'b', ""),
                "two keys have the name \"a\"",
            ),
            (
                key("a", 'a', "") + &key("b", 'a', ""),
                "\"b\" has the digest of another",
            ),
            (key("a", 'a', "scopes = []"), "\"a\": scopes must be"),
            (key("a", 'a', "scopes = [\"root\"]"), "unknown variant"),
            (key("a", 'a', "models = []"), "\"a\": models must name"),
            (
                key("a", 'a', "models = [\"../x\"]"),
                "\"a\": a model's name",
            ),
            (key("a", 'a', "model = [\"x\"]"), "unknown field `model`"),
            (
                "[[keys]]\nname = \"a\"\n".to_owned(),
                "missing field `digest`",
            ),
            (
                "[[keys]]\nname = \"a\"\ndigest = \"jitney_secret\"".to_owned(),
                ": keys: \"a\": digest: expected sha256:",
            ),
            (
                "[[keys]]\nname = \"a\"\ndigest = jitney_secret".to_owned(),
                ": line 3: ",
            ),
            ("[[key]]\nname = \"a\"\n".to_owned(), "unknown field `key`"),
        ];
        for (text, expected) in table {
            let error = read(&text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("secret"), "{text}: {error}");
        }
    }
}
