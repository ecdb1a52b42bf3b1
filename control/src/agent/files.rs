//! Where the files of tasks are that containers see as their secrets and configs: in memory only.

use super::container::File;
use crate::blocking::blocking;
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{FsType, TMPFS_MAGIC, statfs},
};
use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Below this each node has a folder with one for each of its tasks.
const ROOT: &str = "/run/skein/tasks";
/// Of `ROOT` and all folders below it: what is for a container comes to it as a mount.
const FOLDER_MODE: u32 = 0o700;
/// While a file is written.
const UNFINISHED_MODE: u32 = 0o600;
/// Another file system in memory, which statfs(2) names, and nix does not.
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);

/// The files of one node's tasks. Clones share them.
#[derive(Clone)]
pub struct Files {
    /// Must be in memory.
    root: Arc<Path>,
    folder: Arc<Path>,
}

impl Files {
    /// Those of the tasks of a node.
    pub fn of(node_id: &str) -> Self {
        Self::below(Path::new(ROOT), node_id)
    }

    fn below(root: &Path, node_id: &str) -> Self {
        Self {
            root: root.into(),
            folder: root.join(node_id).into(),
        }
    }

    /// Writes the files of a task in place of those that it had; their paths, in the same order.
    ///
    /// # Errors
    /// There is no place in memory for them, or what the system said.
    pub async fn write(&self, task_id: &str, files: Vec<File>) -> io::Result<Vec<PathBuf>> {
        let folder = self.folder_of(task_id)?;
        let root = self.root.clone();
        blocking(move || {
            make_folder(&root)?;
            keep_in_memory(&root)?;
            remove(&folder)?;
            make_folder(&folder)?;
            let paths = (0..files.len()).map(|n| folder.join(n.to_string()));
            let paths: Vec<PathBuf> = paths.collect();
            for (file, path) in files.iter().zip(&paths) {
                write_file(file, path)?;
            }
            Ok(paths)
        })
        .await
    }

    /// Removes the files of a task. One without any is fine.
    ///
    /// # Errors
    /// What the system said.
    pub async fn remove(&self, task_id: &str) -> io::Result<()> {
        let folder = self.folder_of(task_id)?;
        blocking(move || remove(&folder)).await
    }

    /// Removes the files of all tasks.
    ///
    /// # Errors
    /// What the system said.
    pub async fn remove_all(&self) -> io::Result<()> {
        let folder = self.folder.clone();
        blocking(move || remove(&folder)).await
    }

    /// The tasks that have files.
    ///
    /// # Errors
    /// What the system said.
    pub async fn tasks(&self) -> io::Result<Vec<String>> {
        let folder = self.folder.clone();
        blocking(move || {
            let entries = match fs::read_dir(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                entries => entries?,
            };
            let name = |entry: fs::DirEntry| entry.file_name().into_string().ok();
            let names = entries.map(|entry| Ok(name(entry?)));
            Ok(names
                .collect::<io::Result<Vec<_>>>()?
                .into_iter()
                .flatten()
                .collect())
        })
        .await
    }

    /// IDs come from the managers, but are never to lead elsewhere.
    fn folder_of(&self, task_id: &str) -> io::Result<PathBuf> {
        if task_id.is_empty() || !task_id.bytes().all(|c| c.is_ascii_alphanumeric()) {
            let message = format!("'{task_id}' is no ID of a task");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        Ok(self.folder.join(task_id))
    }
}

fn make_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(FOLDER_MODE)
        .create(path)
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Mounts a file system in memory on a folder that is on a disk.
fn keep_in_memory(root: &Path) -> io::Result<()> {
    let found = statfs(root)?.filesystem_type();
    if found == TMPFS_MAGIC || found == RAMFS_MAGIC {
        return Ok(());
    }
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID;
    let mode = format!("mode={FOLDER_MODE:o}");
    let mounted = mount(
        Some("tmpfs"),
        root,
        Some("tmpfs"),
        flags,
        Some(mode.as_str()),
    );
    mounted.map_err(|error| {
        io::Error::other(format!(
            "{} is on a disk, where secrets may not be, and no tmpfs can be mounted there: {error}; \
             mount one",
            root.display()
        ))
    })
}

fn write_file(file: &File, path: &Path) -> io::Result<()> {
    let mut written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(UNFINISHED_MODE)
        .open(path)?;
    written.write_all(&file.data)?;
    // The owner first: a change of it takes bits off the mode.
    fchown(&written, Some(file.uid), Some(file.gid))?;
    written.set_permissions(fs::Permissions::from_mode(file.mode))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::{getegid, geteuid};
    use std::os::unix::fs::MetadataExt as _;

    fn file(text: &str, mode: u32) -> File {
        File {
            target: "/x".into(),
            data: text.into(),
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
            mode,
        }
    }

    #[tokio::test]
    async fn files_come_and_go_with_their_task() {
        // Always in memory, so that nothing is mounted.
        let root = tempfile::tempdir_in("/dev/shm").unwrap();
        let files = Files::below(&root.path().join("tasks"), "n1");
        assert!(files.tasks().await.unwrap().is_empty());
        let written = vec![file("one", 0o444), file("two", 0o400)];
        let paths = files.write("t1", written).await.unwrap();
        assert_eq!(paths.len(), 2);
        assert_eq!(fs::read_to_string(&paths[1]).unwrap(), "two");
        let modes = paths
            .iter()
            .map(|p| fs::metadata(p).unwrap().mode() & 0o7777);
        assert_eq!(modes.collect::<Vec<_>>(), [0o444, 0o400]);
        let folder = paths[0].parent().unwrap();
        assert_eq!(fs::metadata(folder).unwrap().mode() & 0o777, 0o700);

        let paths = files.write("t1", vec![file("new", 0o444)]).await.unwrap();
        assert_eq!(fs::read_to_string(&paths[0]).unwrap(), "new");
        assert_eq!(fs::read_dir(folder).unwrap().count(), 1);
        files.write("t2", vec![file("x", 0o444)]).await.unwrap();

        files.remove("t1").await.unwrap();
        files.remove("t1").await.unwrap();
        assert_eq!(files.tasks().await.unwrap(), ["t2"]);
        files.remove_all().await.unwrap();
        assert!(files.tasks().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn an_id_never_leads_elsewhere() {
        let root = tempfile::tempdir_in("/dev/shm").unwrap();
        let files = Files::below(root.path(), "n1");
        for id in ["", "..", "../n2", "/etc"] {
            assert!(files.remove(id).await.is_err(), "{id}");
            assert!(files.write(id, Vec::new()).await.is_err(), "{id}");
        }
    }
}
