//! Sealing what lies on disk: authenticated encryption under keys of 32 random bytes.

use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};
use rand::RngCore;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use std::fmt;
use subtle::ConstantTimeEq;

const KEY_LEN: usize = 32;
const UNLOCK_PREFIX: &str = "SWMKEY-1-";

/// A key that seals.
///
/// Every sealing draws its nonce (96 bits) at random: a thousand million of them under one key
/// collide with a probability of 2^-37, and a busy manager writes fewer in a year.
#[derive(Clone)]
pub struct SecretKey([u8; KEY_LEN]);

/// What was to be opened is sealed with another key, for another purpose, or broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is sealed with another key, or damaged")]
pub struct CannotOpen;

/// The text is not an unlock key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid key string")]
pub struct InvalidUnlockKey;

impl SecretKey {
    /// A new key.
    pub fn generate(rng: &mut impl RngCore) -> Self {
        let mut bytes = [0; KEY_LEN];
        rng.fill_bytes(&mut bytes);
        Self(bytes)
    }

    /// A key of exactly 32 bytes.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Reads what `docker swarm unlock-key` shows.
    ///
    /// # Errors
    /// Another form.
    pub fn parse_unlock(text: &str) -> Result<Self, InvalidUnlockKey> {
        let encoded = text.strip_prefix(UNLOCK_PREFIX).ok_or(InvalidUnlockKey)?;
        let bytes = BASE64_STANDARD_NO_PAD.decode(encoded);
        let bytes = bytes.map_err(|_| InvalidUnlockKey)?;
        Self::from_bytes(&bytes).ok_or(InvalidUnlockKey)
    }

    /// The form that users keep: `SWMKEY-1-…`.
    pub fn to_unlock_text(&self) -> String {
        format!("{UNLOCK_PREFIX}{}", BASE64_STANDARD_NO_PAD.encode(self.0))
    }

    /// Seals `plain`. It opens only with the same key and the same `purpose`.
    pub fn seal(&self, purpose: &[u8], plain: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        rand::rng().fill_bytes(&mut nonce);
        let mut sealed = Vec::with_capacity(NONCE_LEN + plain.len() + CHACHA20_POLY1305.tag_len());
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plain);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self
            .cipher()
            .seal_in_place_separate_tag(nonce, Aad::from(purpose), &mut sealed[NONCE_LEN..])
            .expect("the cipher takes 256 GiB at once");
        sealed.extend_from_slice(tag.as_ref());
        sealed
    }

    /// What [`seal`](Self::seal) was given.
    ///
    /// # Errors
    /// See [`CannotOpen`].
    pub fn open(&self, purpose: &[u8], sealed: &[u8]) -> Result<Vec<u8>, CannotOpen> {
        let (nonce, rest) = sealed.split_first_chunk().ok_or(CannotOpen)?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let mut rest = rest.to_vec();
        let opened = self
            .cipher()
            .open_in_place(nonce, Aad::from(purpose), &mut rest);
        let len = opened.map_err(|_| CannotOpen)?.len();
        rest.truncate(len);
        Ok(rest)
    }

    fn cipher(&self) -> LessSafeKey {
        let key = UnboundKey::new(&CHACHA20_POLY1305, &self.0);
        LessSafeKey::new(key.expect("the key has the cipher's length"))
    }
}

impl PartialEq for SecretKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for SecretKey {}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_key_and_purpose_open() {
        let key = SecretKey::generate(&mut rand::rng());
        let other = SecretKey::generate(&mut rand::rng());
        let sealed = key.seal(b"a", b"plain text");
        assert_eq!(key.open(b"a", &sealed).unwrap(), b"plain text");
        assert!(!sealed.windows(5).any(|bytes| bytes == b"plain"));
        assert_ne!(sealed, key.seal(b"a", b"plain text"));
        assert_eq!(key.open(b"b", &sealed), Err(CannotOpen));
        assert_eq!(other.open(b"a", &sealed), Err(CannotOpen));
        for cut in [0, NONCE_LEN, sealed.len() - 1] {
            assert_eq!(key.open(b"a", &sealed[..cut]), Err(CannotOpen));
        }
    }

    #[test]
    fn unlock_keys_have_swarms_form() {
        let key = SecretKey::generate(&mut rand::rng());
        let text = key.to_unlock_text();
        assert!(
            text.starts_with("SWMKEY-1-") && !text.contains('='),
            "{text}"
        );
        assert_eq!(text.len(), 9 + 43);
        assert_eq!(SecretKey::parse_unlock(&text), Ok(key));
        for bad in ["", "SWMKEY-1-", &text[..text.len() - 2], &text[1..]] {
            assert_eq!(SecretKey::parse_unlock(bad), Err(InvalidUnlockKey), "{bad}");
        }
    }
}
