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

/// What is on disk, or about to be: see [`Inner::change`].
#[derive(Clone)]
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
        files::create_dir(&inner.dir)?;
        let certificate = inner.dir.join(CERT_FILE);
        if let (Some(unfinished), Some(_)) = (&inner.identity, &inner.previous) {
            // Which certificate an earlier attempt left is not known, and there is room for the keys
            // of two.
            files::write(&certificate, &unfinished.cert_pem)?;
        }
        files::write(&inner.dir.join(ROOT_FILE), &identity.root_pem)?;
        inner.change(|next| {
            let replaced = next.identity.replace(identity.clone());
            next.previous = replaced.and_then(|old| old.key_der().ok());
        })?;
        files::write(&certificate, &identity.cert_pem)?;
        inner.change(|next| next.previous = None)
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
                inner.change(|next| next.data = Some(made.clone()))?;
                made
            }
        };
        Ok(LogKeys {
            current,
            pending: inner.pending.clone(),
        })
    }

    /// The key that the Raft log is to be sealed with anew, if any. It must be before
    /// [`end_rekey`](Self::end_rekey).
    pub fn pending_key(&self) -> Option<SecretKey> {
        self.inner.lock().pending.clone()
    }

    /// The Raft log is sealed with the new key: the old one is forgotten.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn end_rekey(&self) -> Result<(), IdentityError> {
        let mut inner = self.inner.lock();
        let Some(pending) = inner.pending.clone() else {
            return Ok(());
        };
        inner.change(|next| (next.data, next.pending) = (Some(pending), None))
    }

    /// The node is no manager any more: it has no Raft log, and is not locked.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn forget_log_keys(&self) -> Result<(), IdentityError> {
        let mut inner = self.inner.lock();
        inner.change(|next| {
            (next.data, next.pending, next.lock) = (None, None, None);
            next.lock_version = 0;
        })
    }

    /// What the keys are sealed with.
    pub fn lock_key(&self) -> Option<SecretKey> {
        self.inner.lock().lock.clone()
    }

    /// The version of the cluster that [`lock_key`](Self::lock_key) is of.
    pub fn lock_version(&self) -> u64 {
        self.inner.lock().lock_version
    }

    /// Seals the keys with another unlock key, or with none, as `version` of the cluster says. If
    /// there was none before, the Raft log is to be sealed with a new key, which is written with the
    /// lock: what was on disk in the clear is to be of no use any more, whenever the node crashes.
    ///
    /// # Errors
    /// The disk refuses; the old one stays then.
    pub fn set_lock_key(&self, lock: Option<SecretKey>, version: u64) -> Result<(), IdentityError> {
        let mut inner = self.inner.lock();
        inner.change(|next| {
            if lock.is_some() && next.lock.is_none() && next.data.is_some() {
                // A change that is under way is not begun anew: the log may be sealed with either.
                let made = || SecretKey::generate(&mut rand::rng());
                next.pending.get_or_insert_with(made);
            }
            (next.lock, next.lock_version) = (lock, version);
        })
    }
}

impl Inner {
    /// Changes what is on disk, and only then what is here: nobody works with a key that the disk
    /// does not have.
    fn change(&mut self, change: impl FnOnce(&mut Self)) -> Result<(), IdentityError> {
        let mut next = self.clone();
        change(&mut next);
        next.write_keys()?;
        *self = next;
        Ok(())
    }

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
        // Written with the lock: a crash in between cannot leave the key that was in the clear in use.
        let next = vault.pending_key().unwrap();
        assert_eq!(vault.log_keys().unwrap().current, data);
        vault.end_rekey().unwrap();
        assert_eq!(vault.log_keys().unwrap().current, next);
        // To another unlock key, or to none, nothing was in the clear.
        vault.set_lock_key(Some(other.clone()), 4).unwrap();
        vault.set_lock_key(None, 5).unwrap();
        assert!(vault.pending_key().is_none());
        vault.forget_log_keys().unwrap();
        let (_, vault) = open(dir.path(), None);
        assert_eq!(vault.lock_key(), None);
        assert_ne!(vault.log_keys().unwrap().current, next);
    }

    #[test]
    fn no_key_is_used_that_the_disk_did_not_take() {
        let dir = tempfile::tempdir().unwrap();
        let vault = Vault::new(dir.path().into());
        vault.save(&identity()).unwrap();
        let file = dir.path().join(KEY_FILE);
        let refuse = || {
            fs::remove_file(&file).unwrap();
            // Nothing can be renamed to the name of a folder.
            fs::create_dir(&file).unwrap();
        };
        let accept = || fs::remove_dir(&file).unwrap();
        refuse();
        assert!(vault.log_keys().is_err() && vault.log_keys().is_err());
        accept();
        let current = vault.log_keys().unwrap().current;

        let lock = || SecretKey::generate(&mut rand::rng());
        refuse();
        assert!(vault.set_lock_key(Some(lock()), 1).is_err());
        assert!(vault.lock_key().is_none() && vault.pending_key().is_none());
        accept();
        let lock = lock();
        vault.set_lock_key(Some(lock.clone()), 2).unwrap();
        let pending = vault.pending_key().unwrap();
        assert_ne!(pending, current);

        refuse();
        assert!(vault.end_rekey().is_err() && vault.end_rekey().is_err());
        assert_eq!(vault.log_keys().unwrap().current, current);
        accept();
        vault.end_rekey().unwrap();
        let keys = open(dir.path(), Some(&lock)).1.log_keys().unwrap();
        assert_eq!((keys.current, keys.pending), (pending, None));
    }

    #[test]
    fn an_identity_that_was_saved_half_stays_whole_when_the_next_is_saved() {
        let dir = tempfile::tempdir().unwrap();
        let (old, half, new) = (identity(), identity(), identity());
        let vault = Vault::new(dir.path().into());
        vault.save(&old).unwrap();
        let file = dir.path().join(CERT_FILE);
        let certificate = fs::read(&file).unwrap();
        let refuse = || {
            fs::remove_file(&file).unwrap();
            fs::create_dir(&file).unwrap();
        };
        let accept = || {
            fs::remove_dir(&file).unwrap();
            fs::write(&file, &certificate).unwrap();
        };
        refuse();
        assert!(vault.save(&half).is_err());
        // The key of the certificate that is on disk is still beside it.
        accept();
        assert_eq!(open(dir.path(), None).0.cert_pem, old.cert_pem);
        assert!(open(dir.path(), None).0.is_whole());
        refuse();
        assert!(vault.save(&new).is_err());
        accept();
        assert!(open(dir.path(), None).0.is_whole());
        vault.save(&new).unwrap();
        assert_eq!(open(dir.path(), None).0, new);
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
