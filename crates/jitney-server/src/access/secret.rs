//! The key itself, which the server never keeps.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom, SystemRandom};
use std::fmt;

use crate::config::Digest;

/// What a new key begins with, so that those who look for lost keys can find it.
const PREFIX: &str = "jitney_";

/// A key that was just made. It is shown to whoever will use it, and only its digest is kept.
///
/// ```
/// use jitney_server::access::Secret;
///
/// let secret = Secret::generate()?;
/// assert!(secret.reveal().starts_with("jitney_"));
/// assert!(secret.digest().to_string().starts_with("sha256:"));
/// # Ok::<(), jitney_server::access::NoRandomness>(())
/// ```
pub struct Secret(String);

/// The system gave no random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system gave no random bytes to make a key of")]
pub struct NoRandomness;

impl Secret {
    /// Makes a key of 256 random bits.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn generate() -> Result<Secret, NoRandomness> {
        let mut bytes = [0; 32];
        SystemRandom::new()
            .fill(&mut bytes)
            .map_err(|_| NoRandomness)?;
        Ok(Secret(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))))
    }

    /// The key as a client sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What the server is told of it.
    pub fn digest(&self) -> Digest {
        digest(self.0.as_bytes())
    }
}

/// Not shown by accident.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What the server keeps of a key.
pub(super) fn digest(secret: &[u8]) -> Digest {
    let digest = ring::digest::digest(&ring::digest::SHA256, secret);
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    Digest::new(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_sha_256() {
        let expected = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest(b"abc").to_string(), expected);
    }

    #[test]
    fn keys_are_long_and_different() {
        let [first, second] = [(); 2].map(|()| Secret::generate().unwrap());
        assert_eq!(first.reveal().len(), PREFIX.len() + 43);
        assert_ne!(first.reveal(), second.reveal());
        assert_ne!(first.digest(), second.digest());
        assert_eq!(format!("{first:?}"), "Secret(..)");
    }
}
