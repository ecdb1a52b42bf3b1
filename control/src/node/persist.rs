//! What a member keeps on disk.

use super::{NodeError, RemoteManager, address::Addresses};
use crate::{
    blocking::blocking,
    identity::{Vault, write_private},
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use skein_model::Availability;
use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

const STATE_FILE: &str = "node.json";
/// What a node joins, until it has its certificate. With the token: nobody else may read it.
const JOINING_FILE: &str = "joining.json";

/// What of a membership is neither in the certificate nor in the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Saved {
    pub listen: SocketAddr,
    /// `None`: what the managers see it call from.
    pub advertise: Option<SocketAddr>,
    pub data_path: Option<IpAddr>,
    /// The interface that has what is advertised: where it gets another address, that one is.
    #[serde(default)]
    pub interface: Option<String>,
    /// Of a manager that is part of the Raft group.
    pub raft_id: Option<u64>,
    pub managers: Vec<RemoteManager>,
}

/// A swarm that the node is about to join.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Joining {
    /// `host:port` of the manager that is asked.
    pub remote: String,
    /// The join token.
    pub token: String,
    pub availability: Availability,
    pub addresses: Addresses,
}

/// The node's folder. Clones are handles of the same.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// How often what is in it was forgotten. Held by whoever writes.
    forgotten: Arc<Mutex<u64>>,
}

impl Folder {
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            forgotten: Arc::default(),
        }
    }

    pub fn create(&self) -> Result<(), NodeError> {
        for dir in [&self.path, &self.raft_dir()] {
            let created = fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir);
            created.map_err(|error| failed("create", dir, &error))?;
        }
        Ok(())
    }

    pub fn certificates(&self) -> PathBuf {
        self.path.join("certificates")
    }

    pub fn raft_file(&self) -> PathBuf {
        self.raft_dir().join("raft.redb")
    }

    /// Whether there is a Raft log, be it one that nobody needs any more.
    pub fn has_raft_log(&self) -> bool {
        self.raft_file().exists()
    }

    fn raft_dir(&self) -> PathBuf {
        self.path.join("raft")
    }

    /// Where the agent keeps what is its own.
    pub fn agent(&self) -> PathBuf {
        self.path.join("agent")
    }

    pub fn load(&self) -> Result<Saved, NodeError> {
        let path = self.path.join(STATE_FILE);
        let text = fs::read(&path).map_err(|error| failed("read", &path, &error))?;
        serde_json::from_slice(&text).map_err(|error| failed("read", &path, &error))
    }

    pub fn save(&self, saved: &Saved) -> Result<(), NodeError> {
        let path = self.path.join(STATE_FILE);
        let text = serde_json::to_vec_pretty(saved).map_err(|e| failed("write", &path, &e))?;
        write_private(&path, &text).map_err(|error| failed("write", &path, &error))
    }

    /// Notes that the node joins a swarm: it goes on with that after a restart, until
    /// [`joined`](Self::joined), or until all is forgotten.
    pub fn save_joining(&self, joining: &Joining) -> Result<(), NodeError> {
        self.create()?;
        let path = self.path.join(JOINING_FILE);
        let text = serde_json::to_vec(joining).map_err(|e| failed("write", &path, &e))?;
        write_private(&path, &text).map_err(|error| failed("write", &path, &error))
    }

    /// The swarm that the node was about to join when it ended.
    pub fn joining(&self) -> Result<Option<Joining>, NodeError> {
        let path = self.path.join(JOINING_FILE);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(|error| failed("read", &path, &error))?,
        };
        let joining = serde_json::from_slice(&text);
        joining
            .map(Some)
            .map_err(|error| failed("read", &path, &error))
    }

    /// The node has its certificate.
    pub fn joined(&self) -> Result<(), NodeError> {
        let path = self.path.join(JOINING_FILE);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &path, &error))
            }
            _ => Ok(()),
        }
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

    /// Removes all that is in the folder for good: waits for whoever writes for a membership, and keeps
    /// those of it that come later from writing.
    pub fn forget(&self) -> Result<(), NodeError> {
        let mut forgotten = self.forgotten.lock();
        *forgotten += 1;
        self.wipe()
    }

    /// Removes all that is in the folder. The certificates go first: what a crash leaves is then not
    /// taken for a membership.
    pub fn wipe(&self) -> Result<(), NodeError> {
        self.wipe_but(None)
    }

    /// The same, but for what the node is about to join.
    pub fn wipe_but_joining(&self) -> Result<(), NodeError> {
        self.wipe_but(Some(JOINING_FILE))
    }

    fn wipe_but(&self, kept: Option<&str>) -> Result<(), NodeError> {
        let certificates = self.certificates();
        match fs::remove_dir_all(&certificates) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &certificates, &error));
            }
            _ => {}
        }
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(|error| failed("list", &self.path, &error))?,
        };
        for entry in entries.flatten() {
            let path = entry.path();
            if kept.is_some_and(|kept| entry.file_name() == kept) {
                continue;
            }
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
    /// What the folder's count was when the membership began.
    began: u64,
}

impl Kept {
    /// What a membership keeps that begins now.
    pub fn new(folder: Folder, vault: Vault, saved: Saved) -> Self {
        let began = *folder.forgotten.lock();
        Self {
            folder,
            vault,
            saved: Arc::new(Mutex::new(saved)),
            began,
        }
    }

    pub fn saved(&self) -> Saved {
        self.saved.lock().clone()
    }

    /// Does what blocks. Nobody may be waiting for it any more when it is done, and the node may have
    /// left the swarm meanwhile: nothing is written then.
    pub async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, NodeError> + Send + 'static,
    ) -> Result<T, NodeError> {
        let kept = self.clone();
        let write = move || {
            let forgotten = kept.folder.forgotten.lock();
            if *forgotten != kept.began {
                return Err(NodeError::not_member());
            }
            work(&kept)
        };
        blocking(write).await
    }

    /// Changes what is saved, on disk and only then here.
    pub async fn change(
        &self,
        change: impl FnOnce(&mut Saved) + Send + 'static,
    ) -> Result<(), NodeError> {
        self.write(|kept| {
            // Under the lock, so that what is written last is what came last.
            let mut saved = kept.saved.lock();
            let mut next = saved.clone();
            change(&mut next);
            kept.folder.save(&next)?;
            *saved = next;
            Ok(())
        })
        .await
    }

    /// Works with the vault.
    pub async fn with_vault<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Vault) -> Result<T, crate::identity::IdentityError> + Send + 'static,
    ) -> Result<T, NodeError> {
        let work =
            |kept: &Self| work(&kept.vault).map_err(|error| NodeError::internal(error.to_string()));
        self.write(work).await
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
            interface: Some("eth0".into()),
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

    #[test]
    fn what_is_joined_is_kept_until_the_node_has_joined_or_forgets_it() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(dir.path().join("control"));
        assert!(folder.joining().unwrap().is_none());
        folder.joined().unwrap();
        let joining = Joining {
            remote: "10.0.0.1:2377".into(),
            token: "SWMTKN-1-x-y".into(),
            availability: Availability::Drain,
            addresses: Addresses {
                listen: "0.0.0.0:2377".parse().unwrap(),
                advertise: None,
                data_path: Some("10.0.0.2".parse().unwrap()),
                interface: Some("eth0".into()),
            },
        };
        let keep = || folder.save_joining(&joining).unwrap();
        keep();
        let mode = fs::metadata(folder.path.join(JOINING_FILE)).unwrap();
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o77,
            0
        );
        fs::write(folder.raft_file(), "x").unwrap();
        folder.wipe_but_joining().unwrap();
        assert!(!folder.raft_file().exists());
        assert!(folder.joining().unwrap() == Some(joining.clone()));
        folder.joined().unwrap();
        assert!(folder.joining().unwrap().is_none());
        keep();
        folder.forget().unwrap();
        assert!(folder.joining().unwrap().is_none());
        keep();
        fs::write(folder.path.join(JOINING_FILE), "half").unwrap();
        assert!(folder.joining().is_err());
    }

    #[tokio::test]
    async fn nothing_is_written_for_a_membership_that_was_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(dir.path().join("control"));
        let saved = Saved {
            listen: "0.0.0.0:2377".parse().unwrap(),
            advertise: None,
            data_path: None,
            interface: None,
            raft_id: None,
            managers: Vec::new(),
        };
        let vault = Vault::new(folder.certificates());
        let kept = Kept::new(folder.clone(), vault, saved.clone());
        // A join that writes while the node leaves: nobody waits for it any more.
        let (begun, begins) = tokio::sync::oneshot::channel();
        let (go_on, goes_on) = std::sync::mpsc::sync_channel::<()>(1);
        let certificate = folder.certificates().join("swarm-node.crt");
        let file = certificate.clone();
        let writing = kept.clone();
        let join = tokio::spawn(async move {
            let work = move |kept: &Kept| {
                begun.send(()).unwrap();
                goes_on.recv().unwrap();
                kept.folder.create()?;
                fs::create_dir(kept.folder.certificates()).unwrap();
                fs::write(file, "x").unwrap();
                Ok(())
            };
            writing.write(work).await
        });
        begins.await.unwrap();
        join.abort();
        let leaving = folder.clone();
        let leave = tokio::task::spawn_blocking(move || leaving.forget());
        go_on.send(()).unwrap();
        leave.await.unwrap().unwrap();
        assert!(!certificate.exists());

        // And one that has yet to begin to write.
        let late = kept.change(|saved| saved.raft_id = Some(1)).await;
        assert_eq!(late.unwrap_err().message, NodeError::not_member().message);
        assert!(folder.load().is_err());
        folder.create().unwrap();
        let next = Kept::new(folder.clone(), kept.vault.clone(), saved);
        next.change(|saved| saved.raft_id = Some(2)).await.unwrap();
        assert_eq!(folder.load().unwrap().raft_id, Some(2));
    }
}
