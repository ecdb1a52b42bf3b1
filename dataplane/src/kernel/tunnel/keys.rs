//! The key pair of this node's end of the tunnels. It is made once, and kept: with another one, every node would have
//! to hear of it before anything came through again.

use anyhow::{Context as _, bail};
use boringtun::x25519::{PublicKey, StaticSecret};
use rand::{TryRngCore as _, rngs::OsRng};
use std::{
    fs::{OpenOptions, Permissions},
    io::{ErrorKind, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

/// Name of the file in the dataplane's folder.
pub const FILE: &str = "tunnel-key";
/// For root alone.
const MODE: u32 = 0o600;
/// Bytes of an X25519 key.
const LEN: usize = 32;

/// See the module.
#[derive(Clone)]
pub struct Keys {
    /// Never leaves the node.
    pub secret: StaticSecret,
    /// For all nodes.
    pub public: PublicKey,
}

impl Keys {
    fn of(secret: [u8; LEN]) -> Self {
        let secret = StaticSecret::from(secret);
        let public = PublicKey::from(&secret);
        Self { secret, public }
    }

    /// Those that are kept in a file, or new ones, where there is none. Blocks.
    ///
    /// # Errors
    /// The file cannot be read or written, or has something else in it.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let mut file = match OpenOptions::new().read(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Self::make(path),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot open the key {shown}"));
            }
        };
        // As its owner may have copied it.
        file.set_permissions(Permissions::from_mode(MODE))
            .with_context(|| format!("cannot keep others from the key {shown}"))?;
        let mut secret = Vec::with_capacity(LEN + 1);
        let read = (&mut file).take(LEN as u64 + 1).read_to_end(&mut secret);
        read.with_context(|| format!("cannot read the key {shown}"))?;
        match <[u8; LEN]>::try_from(secret) {
            Ok(secret) => Ok(Self::of(secret)),
            Err(found) => bail!(
                "{shown} holds {} bytes, and a key has {LEN}: remove it, and the node makes a new one, of which \
                 the others hear by the managers",
                found.len()
            ),
        }
    }

    fn make(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let mut secret = [0; LEN];
        OsRng
            .try_fill_bytes(&mut secret)
            .context("the kernel gives no random numbers for a key")?;
        // Written whole under another name, so that a crash leaves no half of one.
        let beside = path.with_extension("new");
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(MODE)
            .open(&beside)
            .and_then(|mut file| {
                file.set_permissions(Permissions::from_mode(MODE))?;
                file.write_all(&secret)?;
                file.sync_all()
            })
            .and_then(|()| std::fs::rename(&beside, path));
        written.with_context(|| format!("cannot write the key {shown}"))?;
        tracing::info!(file = %shown, "made a new key for encrypted networks");
        Ok(Self::of(secret))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_for_root_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let made = Keys::open(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, MODE);
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let again = Keys::open(&path).unwrap();
        assert_eq!(again.public.as_bytes(), made.public.as_bytes());
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, MODE);
        std::fs::remove_file(&path).unwrap();
        let other = Keys::open(&path).unwrap();
        assert_ne!(other.public.as_bytes(), made.public.as_bytes());
        let names = std::fs::read_dir(dir.path()).unwrap();
        assert_eq!(names.count(), 1, "nothing is left beside it");
    }

    #[test]
    fn what_is_no_key_is_neither_used_nor_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        for wrong in [&[7; 31][..], &[7; 33], b""] {
            std::fs::write(&path, wrong).unwrap();
            let refused = Keys::open(&path).err().map(|error| error.to_string());
            assert!(refused.unwrap().contains("a key has 32"));
            assert_eq!(std::fs::read(&path).unwrap(), wrong);
        }
    }
}
