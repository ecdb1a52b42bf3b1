//! The node's key file: the TLS key, and the keys of the Raft log in the headers of its PEM block.
//! All of it is sealed with the unlock key where managers are to be locked.

use super::seal::SecretKey;
use base64::{Engine, prelude::BASE64_STANDARD};
use pem::Pem;

const CLEAR_TAG: &str = "PRIVATE KEY";
const SEALED_TAG: &str = "SWARM LOCKED PRIVATE KEY";
const DATA_KEY: &str = "raft-dek";
const PENDING_KEY: &str = "raft-dek-pending";
const LOCK_VERSION: &str = "kek-version";
const PREVIOUS: &str = "previous-key";
const TLS_PURPOSE: &[u8] = b"tls-key";

/// What the file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// The TLS key, PKCS #8.
    pub tls: Vec<u8>,
    /// The TLS key before it, for a crash before the certificate was written that goes with the new.
    pub previous: Option<Vec<u8>>,
    /// What the Raft log is sealed with; a manager's only.
    pub data: Option<SecretKey>,
    /// What the Raft log is being sealed with anew.
    pub pending: Option<SecretKey>,
    /// The version of the cluster that brought the unlock key; in the clear.
    pub lock_version: u64,
}

/// The file gives no keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// An unlock key is needed.
    #[error("the node's key is locked")]
    Locked,
    /// It is not this one.
    #[error("invalid key provided")]
    WrongKey,
    /// It is no key file.
    #[error("the node's key file is unusable: {0}")]
    Invalid(String),
}

/// The file's text.
pub fn encode(keys: &Keys, lock: Option<&SecretKey>) -> String {
    let sealed = |purpose: &[u8], plain: &[u8]| match lock {
        Some(lock) => lock.seal(purpose, plain),
        None => plain.to_vec(),
    };
    let tag = if lock.is_some() {
        SEALED_TAG
    } else {
        CLEAR_TAG
    };
    let mut block = Pem::new(tag, sealed(TLS_PURPOSE, &keys.tls));
    let version = keys.lock_version.to_string();
    let added = block.headers_mut().add(LOCK_VERSION, &version);
    added.expect("neither the name nor a number has a colon");
    let headers = [
        (DATA_KEY, keys.data.as_ref().map(SecretKey::as_bytes)),
        (PENDING_KEY, keys.pending.as_ref().map(SecretKey::as_bytes)),
        (PREVIOUS, keys.previous.as_deref()),
    ];
    for (name, value) in headers {
        if let Some(value) = value {
            let text = BASE64_STANDARD.encode(sealed(name.as_bytes(), value));
            let added = block.headers_mut().add(name, &text);
            added.expect("neither the names nor base64 have a colon");
        }
    }
    pem::encode_config(
        &block,
        pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
    )
}

/// What [`encode`] was given. A file in the clear is read whatever the key.
///
/// # Errors
/// See [`KeyFileError`].
pub fn decode(text: &str, lock: Option<&SecretKey>) -> Result<Keys, KeyFileError> {
    let invalid = |error: &dyn std::fmt::Display| KeyFileError::Invalid(error.to_string());
    let block = pem::parse(text).map_err(|error| invalid(&error))?;
    let lock = match (block.tag(), lock) {
        (CLEAR_TAG, _) => None,
        (SEALED_TAG, Some(lock)) => Some(lock),
        (SEALED_TAG, None) => return Err(KeyFileError::Locked),
        (tag, _) => return Err(invalid(&format_args!("it is a {tag}"))),
    };
    let open = |purpose: &[u8], bytes: &[u8]| match lock {
        Some(lock) => lock
            .open(purpose, bytes)
            .map_err(|_| KeyFileError::WrongKey),
        None => Ok(bytes.to_vec()),
    };
    let header = |name: &str| {
        let Some(text) = block.headers().get(name) else {
            return Ok(None);
        };
        let bytes = BASE64_STANDARD
            .decode(text)
            .map_err(|error| invalid(&error))?;
        open(name.as_bytes(), &bytes).map(Some)
    };
    let key = |name: &str| {
        let wrong = || invalid(&format_args!("{name} is no key"));
        let bytes: Option<Vec<u8>> = header(name)?;
        let key = bytes.map(|bytes| SecretKey::from_bytes(&bytes).ok_or_else(wrong));
        key.transpose()
    };
    Ok(Keys {
        tls: open(TLS_PURPOSE, block.contents())?,
        previous: header(PREVIOUS)?,
        data: key(DATA_KEY)?,
        pending: key(PENDING_KEY)?,
        lock_version: (block.headers().get(LOCK_VERSION))
            .and_then(|version| version.trim().parse().ok())
            .unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_file_opens_with_its_key_alone() {
        let key = || SecretKey::generate(&mut rand::rng());
        let (lock, other) = (key(), key());
        let keys = Keys {
            tls: b"the key of TLS, long enough to be seen in the clear".to_vec(),
            previous: Some(b"older".to_vec()),
            data: Some(key()),
            pending: None,
            lock_version: 7,
        };
        let clear = encode(&keys, None);
        assert!(
            clear.starts_with("-----BEGIN PRIVATE KEY-----\nkek-version: 7\nraft-dek: "),
            "{clear}"
        );
        assert_eq!(decode(&clear, None).unwrap(), keys);
        assert_eq!(decode(&clear, Some(&lock)).unwrap(), keys);
        let sealed = encode(&keys, Some(&lock));
        let data = BASE64_STANDARD.encode(keys.data.as_ref().unwrap().as_bytes());
        let tls = BASE64_STANDARD.encode(&keys.tls);
        assert!(clear.contains(&data) && clear.contains(&tls[..60]));
        assert!(!sealed.contains(&data) && !sealed.contains(&tls[..60]));
        assert_eq!(decode(&sealed, Some(&lock)).unwrap(), keys);
        assert_eq!(decode(&sealed, None), Err(KeyFileError::Locked));
        assert_eq!(decode(&sealed, Some(&other)), Err(KeyFileError::WrongKey));
        assert!(matches!(
            decode("nonsense", None),
            Err(KeyFileError::Invalid(_))
        ));
    }
}
