//! What a member keeps on disk.

use super::{NodeError, RemoteManager};
use crate::identity::{Vault, write_private};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

const STATE_FILE: &str = "node.json";

/// What of a membership is neither in the certificate nor in the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Saved {
    pub listen: SocketAddr,
    /// `None`: what the managers see it call from.
    pub advertise: Option<SocketAddr>,
    pub data_path: Option<IpAddr>,
    /// Of a manager that is part of the Raft group.
    pub raft_id: Option<u64>,
    pub managers: Vec<RemoteManager>,
}

/// The node's folder.
#[derive(Clone, Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub fn create(&self) -> Result<(), NodeError> {
        for dir in [&self.0, &self.raft_dir()] {
            let created = fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir);
            created.map_err(|error| failed("create", dir, &error))?;
        }
        Ok(())
    }

    pub fn certificates(&self) -> PathBuf {
        self.0.join("certificates")
    }

    pub fn raft_file(&self) -> PathBuf {
        self.raft_dir().join("raft.redb")
    }

    fn raft_dir(&self) -> PathBuf {
        self.0.join("raft")
    }

    /// Where the agent keeps what is its own.
    pub fn agent(&self) -> PathBuf {
        self.0.join("agent")
    }

    pub fn load(&self) -> Result<Saved, NodeError> {
        let path = self.0.join(STATE_FILE);
        let text = fs::read(&path).map_err(|error| failed("read", &path, &error))?;
        serde_json::from_slice(&text).map_err(|error| failed("read", &path, &error))
    }

    pub fn save(&self, saved: &Saved) -> Result<(), NodeError> {
        let path = self.0.join(STATE_FILE);
        let text = serde_json::to_vec_pretty(saved).map_err(|e| failed("write", &path, &e))?;
        write_private(&path, &text).map_err(|error| failed("write", &path, &error))
    }

    /// Removes the Raft log: the node is no manager any more.
    pub fn wipe_raft(&self) -> Result<(), NodeError> {
        let dir = self.raft_dir();
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &dir, &error));
            }
            _ => {}
        }
        self.create()
    }

    /// Removes all that is in the folder. The certificates go first: what a crash leaves is then not
    /// taken for a membership.
    pub fn wipe(&self) -> Result<(), NodeError> {
        let certificates = self.certificates();
        match fs::remove_dir_all(&certificates) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &certificates, &error));
            }
            _ => {}
        }
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(|error| failed("list", &self.0, &error))?,
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let removed = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.map_err(|error| failed("remove", &path, &error))?;
        }
        Ok(())
    }
}

/// All that a member keeps on disk. Clones share it.
#[derive(Clone)]
pub(super) struct Kept {
    pub folder: Folder,
    pub vault: Vault,
    saved: Arc<Mutex<Saved>>,
}

impl Kept {
    pub fn new(folder: Folder, vault: Vault, saved: Saved) -> Self {
        Self {
            folder,
            vault,
            saved: Arc::new(Mutex::new(saved)),
        }
    }

    pub fn saved(&self) -> Saved {
        self.saved.lock().clone()
    }

    /// Changes what is saved, here and on disk.
    pub async fn change(
        &self,
        change: impl FnOnce(&mut Saved) + Send + 'static,
    ) -> Result<(), NodeError> {
        let (folder, saved) = (self.folder.clone(), self.saved.clone());
        // Under the lock, so that what is written last is what came last.
        let write = move || {
            let mut saved = saved.lock();
            change(&mut saved);
            folder.save(&saved)
        };
        let written = tokio::task::spawn_blocking(write).await;
        written.map_err(|error| NodeError::internal(error.to_string()))?
    }

    /// Works with the vault, which blocks.
    pub async fn with_vault<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Vault) -> Result<T, crate::identity::IdentityError> + Send + 'static,
    ) -> Result<T, NodeError> {
        let vault = self.vault.clone();
        let done = tokio::task::spawn_blocking(move || work(&vault)).await;
        done.map_err(|error| NodeError::internal(error.to_string()))?
            .map_err(|error| NodeError::internal(error.to_string()))
    }
}

fn failed(what: &str, path: &Path, error: &dyn std::fmt::Display) -> NodeError {
    NodeError::internal(format!("could not {what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_until_it_is_wiped() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(dir.path().join("control"));
        folder.wipe().unwrap();
        folder.create().unwrap();
        let saved = Saved {
            listen: "0.0.0.0:2377".parse().unwrap(),
            advertise: None,
            data_path: Some("10.0.0.1".parse().unwrap()),
            raft_id: Some(3),
            managers: vec![RemoteManager {
                node_id: "n1".into(),
                address: "10.0.0.2:2377".into(),
            }],
        };
        folder.save(&saved).unwrap();
        assert_eq!(folder.load().unwrap(), saved);
        fs::write(folder.raft_file(), "x").unwrap();
        folder.wipe().unwrap();
        assert!(folder.load().is_err() && !folder.raft_file().exists());
    }
}
