//! The node's certificates and keys on disk.

use super::{
    Identity, IdentityError,
    files::{self, CERT_FILE, KEY_FILE, ROOT_FILE},
    keyfile::{self, KeyFileError, Keys},
    seal::SecretKey,
};
use parking_lot::Mutex;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Where the node's identity is kept, with the keys of its Raft log, sealed with the unlock key where
/// there is one. Clones share it. Everything here blocks.
#[derive(Clone)]
pub struct Vault {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    dir: PathBuf,
    /// `None` until an identity was saved or loaded: then nothing is written.
    identity: Option<Identity>,
    previous: Option<Vec<u8>>,
    data: Option<SecretKey>,
    pending: Option<SecretKey>,
    lock: Option<SecretKey>,
    lock_version: u64,
}

/// The keys that the Raft log may be sealed with.
#[derive(Clone, Debug)]
pub struct LogKeys {
    /// The one in use.
    pub current: SecretKey,
    /// The one that takes its place; a crash leaves the log sealed with either.
    pub pending: Option<SecretKey>,
}

/// What is on disk.
pub enum Stored {
    /// Nothing: the node is in no swarm.
    Nothing,
    /// An identity whose key is sealed. It is of no use but to say whose it is.
    Locked(Identity),
    /// An identity, and where to keep the next.
    Open(Identity, Vault),
}

impl Vault {
    /// A place for an identity that is yet to come.
    pub fn new(dir: PathBuf) -> Self {
        Self::with(Inner {
            dir,
            identity: None,
            previous: None,
            data: None,
            pending: None,
            lock: None,
            lock_version: 0,
        })
    }

    fn with(inner: Inner) -> Self {
        Self {
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    /// Reads what is in the folder; `lock` opens what is sealed.
    ///
    /// # Errors
    /// A file is there but unusable, or `lock` is not its key.
    pub fn load(dir: &Path, lock: Option<&SecretKey>) -> Result<Stored, IdentityError> {
        // Written last: without it there is no membership.
        let Some(cert_pem) = files::read_if_there(&dir.join(CERT_FILE))? else {
            return Ok(Stored::Nothing);
        };
        let root_pem = files::read(&dir.join(ROOT_FILE))?;
        let text = files::read(&dir.join(KEY_FILE))?;
        let keys = match keyfile::decode(&text, lock) {
            Ok(keys) => keys,
            Err(KeyFileError::Locked) => {
                let identity = Identity::new(root_pem, cert_pem, String::new())?;
                return Ok(Stored::Locked(identity));
            }
            Err(error) => return Err(error.into()),
        };
        let sealed = keyfile::decode(&text, None).is_err();
        let with = |key: &[u8]| {
            let key_pem = files::key_pem(key);
            Identity::new(root_pem.clone(), cert_pem.clone(), key_pem)
        };
        let mut identity = with(&keys.tls)?;
        if let Some(previous) = keys.previous.as_deref().filter(|_| !identity.is_whole()) {
            identity = with(previous)?;
        }
        let vault = Self::with(Inner {
            dir: dir.to_owned(),
            identity: Some(identity.clone()),
            previous: None,
            data: keys.data,
            pending: keys.pending,
            lock: lock.filter(|_| sealed).cloned(),
            lock_version: keys.lock_version,
        });
        Ok(Stored::Open(identity, vault))
    }

    /// Puts an identity in place of the one before, each file whole or not at all.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn save(&self, identity: &Identity) -> Result<(), IdentityError> {
        let mut inner = self.inner.lock();
        let replaced = inner.identity.replace(identity.clone());
        inner.previous = replaced.and_then(|old| old.key_der().ok());
        files::create_dir(&inner.dir)?;
        files::write(&inner.dir.join(ROOT_FILE), &identity.root_pem)?;
        inner.write_keys()?;
        files::write(&inner.dir.join(CERT_FILE), &identity.cert_pem)?;
        inner.previous = None;
        inner.write_keys()
    }

    /// The keys of the Raft log; made now if there are none.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn log_keys(&self) -> Result<LogKeys, IdentityError> {
        let mut inner = self.inner.lock();
        let current = match inner.data.clone() {
            Some(current) => current,
            None => {
                let made = SecretKey::generate(&mut rand::rng());
                inner.data = Some(made.clone());
                inner.write_keys()?;
                made
            }
        };
        Ok(LogKeys {
            current,
            pending: inner.pending.clone(),
        })
    }

    /// A new key for the Raft log, or the one that an interrupted change was to. It must be sealed
    /// with it before [`end_rekey`](Self::end_rekey).
    ///
    /// # Errors
    /// The disk refuses.
    pub fn begin_rekey(&self) -> Result<SecretKey, IdentityError> {
        let mut inner = self.inner.lock();
        if let Some(pending) = &inner.pending {
            return Ok(pending.clone());
        }
        let made = SecretKey::generate(&mut rand::rng());
        inner.pending = Some(made.clone());
        inner.write_keys()?;
        Ok(made)
    }

    /// The Raft log is sealed with the new key: the old one is forgotten.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn end_rekey(&self) -> Result<(), IdentityError> {
        let mut inner = self.inner.lock();
        let Some(pending) = inner.pending.take() else {
            return Ok(());
        };
        inner.data = Some(pending);
        inner.write_keys()
    }

    /// The node is no manager any more: it has no Raft log, and is not locked.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn forget_log_keys(&self) -> Result<(), IdentityError> {
        let mut inner = self.inner.lock();
        (inner.data, inner.pending, inner.lock) = (None, None, None);
        inner.lock_version = 0;
        inner.write_keys()
    }

    /// What the keys are sealed with.
    pub fn lock_key(&self) -> Option<SecretKey> {
        self.inner.lock().lock.clone()
    }

    /// The version of the cluster that [`lock_key`](Self::lock_key) is of.
    pub fn lock_version(&self) -> u64 {
        self.inner.lock().lock_version
    }

    /// Whether a change of the Raft log's key was begun and not ended.
    pub fn is_rekeying(&self) -> bool {
        self.inner.lock().pending.is_some()
    }

    /// Seals the keys with another unlock key, or with none, as `version` of the cluster says.
    ///
    /// # Errors
    /// The disk refuses; the old one stays then.
    pub fn set_lock_key(&self, lock: Option<SecretKey>, version: u64) -> Result<(), IdentityError> {
        let mut inner = self.inner.lock();
        let old = (inner.lock.take(), inner.lock_version);
        (inner.lock, inner.lock_version) = (lock, version);
        let written = inner.write_keys();
        if written.is_err() {
            (inner.lock, inner.lock_version) = old;
        }
        written
    }
}

impl Inner {
    fn write_keys(&self) -> Result<(), IdentityError> {
        let Some(identity) = &self.identity else {
            return Ok(());
        };
        let keys = Keys {
            tls: identity.key_der()?,
            previous: self.previous.clone(),
            data: self.data.clone(),
            pending: self.pending.clone(),
            lock_version: self.lock_version,
        };
        let text = keyfile::encode(&keys, self.lock.as_ref());
        files::write(&self.dir.join(KEY_FILE), &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{create_root, key_and_request, sign};
    use skein_model::{NodeRole, Timestamp};
    use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

    fn identity() -> Identity {
        let now = Timestamp::from_unix_nanos(0);
        let root = create_root(now).unwrap();
        let pair = key_and_request().unwrap();
        let node = ("c1", "n1", NodeRole::Manager);
        let day = Duration::from_secs(86_400);
        let cert = sign(&root, &pair.csr_pem, node, day, now).unwrap();
        Identity::new(root.cert_pem, cert, pair.key_pem).unwrap()
    }

    fn open(dir: &Path, lock: Option<&SecretKey>) -> (Identity, Vault) {
        match Vault::load(dir, lock).unwrap() {
            Stored::Open(identity, vault) => (identity, vault),
            _ => panic!("nothing is open in {}", dir.display()),
        }
    }

    #[test]
    fn what_is_saved_is_loaded_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("certificates");
        assert!(matches!(Vault::load(&dir, None).unwrap(), Stored::Nothing));
        let (saved, vault) = (identity(), Vault::new(dir.clone()));
        vault.save(&saved).unwrap();
        let keys = vault.log_keys().unwrap();
        let (loaded, vault) = open(&dir, None);
        assert_eq!(loaded, saved);
        assert_eq!(vault.log_keys().unwrap().current, keys.current);
        let mode = fs::metadata(dir.join(KEY_FILE)).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        fs::write(dir.join(CERT_FILE), "broken").unwrap();
        assert!(Vault::load(&dir, None).is_err());
    }

    #[test]
    fn a_locked_node_is_known_but_has_no_keys() {
        let dir = tempfile::tempdir().unwrap();
        let (saved, vault) = (identity(), Vault::new(dir.path().into()));
        vault.save(&saved).unwrap();
        let data = vault.log_keys().unwrap().current;
        let key = || SecretKey::generate(&mut rand::rng());
        let (lock, other) = (key(), key());
        vault.set_lock_key(Some(lock.clone()), 3).unwrap();
        let Stored::Locked(known) = Vault::load(dir.path(), None).unwrap() else {
            panic!("it is not locked")
        };
        assert_eq!(known.node_id, "n1");
        let wrong = Vault::load(dir.path(), Some(&other)).err().unwrap();
        assert!(matches!(wrong, IdentityError::Key(KeyFileError::WrongKey)));
        let (loaded, vault) = open(dir.path(), Some(&lock));
        assert_eq!(loaded, saved);
        assert_eq!((vault.lock_key(), vault.lock_version()), (Some(lock), 3));
        let next = vault.begin_rekey().unwrap();
        assert_eq!(vault.log_keys().unwrap().current, data);
        vault.end_rekey().unwrap();
        assert_eq!(vault.log_keys().unwrap().current, next);
        vault.forget_log_keys().unwrap();
        let (_, vault) = open(dir.path(), None);
        assert_eq!(vault.lock_key(), None);
        assert_ne!(vault.log_keys().unwrap().current, next);
    }

    #[test]
    fn a_crash_between_key_and_certificate_loses_neither() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (identity(), identity());
        let vault = Vault::new(dir.path().into());
        vault.save(&old).unwrap();
        let certificate = fs::read(dir.path().join(CERT_FILE)).unwrap();
        vault.inner.lock().identity = Some(new.clone());
        vault.inner.lock().previous = old.key_der().ok();
        vault.inner.lock().write_keys().unwrap();
        assert_eq!(fs::read(dir.path().join(CERT_FILE)).unwrap(), certificate);
        assert_eq!(open(dir.path(), None).0, old);
        vault.save(&new).unwrap();
        assert_eq!(open(dir.path(), None).0, new);
    }
}
