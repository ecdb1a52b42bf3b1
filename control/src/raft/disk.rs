//! What of Raft must outlive a crash, in one redb file, every value of it sealed. A thread of its own
//! seals, writes and syncs it, so that no disk stalls the runtime.

use super::{
    piece::Bytes,
    platform::{Done, Loaded, Storage},
    types::{LogId, SnapshotMeta, Vote},
};
use crate::identity::{LogKeys, SecretKey};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, backends::FileBackend};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};
use tokio::sync::{mpsc, oneshot};

const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

const VOTE: &str = "vote";
const COMMITTED: &str = "committed";
const PURGED: &str = "purged";
const SNAPSHOT_META: &str = "snapshot-meta";
const SNAPSHOT: &str = "snapshot";
/// Sealed like all else, and always there: says which key the file is sealed with.
const PROBE: &str = "probe";
/// Name of a file that is to take the place of the one in use.
const NEXT: &str = "next";

/// Writes that may wait for the thread. openraft sends one at a time and awaits most; more only
/// wait when the disk is slower than the network.
const QUEUE: usize = 256;
/// Writes that share one sync.
const BATCH_MAX: usize = 64;

enum Write {
    Append(Vec<(u64, Vec<u8>)>),
    /// Away with this index and all after it.
    Truncate(u64),
    /// Away with this index and all before it.
    Purge(u64, Vec<u8>),
    Put(&'static str, Vec<u8>),
    /// Unless a newer one is there: a slow build may end after the leader's was installed.
    Snapshot {
        last: Option<LogId>,
        meta: Vec<u8>,
        data: Bytes,
    },
    /// May be lost in a crash: written with the next one.
    Committed(Vec<u8>),
}

struct Job {
    write: Write,
    done: Done,
}

enum Order {
    Write(Job),
    /// Seal all of it with another key.
    Rekey(SecretKey, Done),
}

/// The way to the writing thread, which ends with the last of these.
#[derive(Clone)]
pub struct Disk {
    jobs: mpsc::Sender<Order>,
}

/// The file, and what its values are sealed with.
struct Sealed {
    path: PathBuf,
    database: Database,
    key: SecretKey,
}

impl Disk {
    /// Opens or creates the file and reads all of it. Blocks.
    pub fn open(path: &Path, keys: &LogKeys) -> io::Result<(Self, Loaded)> {
        let sealed = Sealed::open(path, keys)?;
        let loaded = sealed.load()?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        std::thread::Builder::new()
            .name("raft-disk".into())
            .spawn(move || write_all(sealed, queue, sync_folder))?;
        Ok((Self { jobs }, loaded))
    }

    /// Seals all that is on disk, and all that comes, with another key. Nothing that only the old key
    /// opens is in the file then.
    pub async fn rekey(&self, key: SecretKey) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        let done = Box::new(move |result| drop(sender.send(result)));
        let sent = self.jobs.send(Order::Rekey(key, done)).await;
        sent.map_err(|_| stopped())?;
        receiver.await.map_err(|_| stopped())?
    }

    async fn wait(&self, write: Write) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        let done = Box::new(move |result| drop(sender.send(result)));
        self.send(write, done).await?;
        receiver.await.map_err(|_| stopped())?
    }

    async fn send(&self, write: Write, done: Done) -> io::Result<()> {
        let job = Order::Write(Job { write, done });
        self.jobs.send(job).await.map_err(|_| stopped())
    }
}

impl Storage for Disk {
    async fn append(&self, entries: Vec<(u64, Vec<u8>)>, done: Done) -> io::Result<()> {
        self.send(Write::Append(entries), done).await
    }

    async fn truncate(&self, from: u64) -> io::Result<()> {
        self.wait(Write::Truncate(from)).await
    }

    async fn purge(&self, up_to: LogId) -> io::Result<()> {
        self.wait(Write::Purge(up_to.index, encode(&up_to)?)).await
    }

    async fn save_vote(&self, vote: Vote) -> io::Result<()> {
        self.wait(Write::Put(VOTE, encode(&vote)?)).await
    }

    async fn save_committed(&self, committed: Option<LogId>) -> io::Result<()> {
        let write = Write::Committed(encode(&committed)?);
        self.send(write, Box::new(|_| ())).await
    }

    async fn save_snapshot(&self, meta: SnapshotMeta, data: Bytes) -> io::Result<()> {
        let last = meta.last_log_id;
        let meta = encode(&meta)?;
        self.wait(Write::Snapshot { last, meta, data }).await
    }
}

fn stopped() -> io::Error {
    io::Error::other("the Raft log's writer has stopped")
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}

fn encode(value: &impl Serialize) -> io::Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(other)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    serde_json::from_slice(bytes).map_err(other)
}

/// What a value is sealed for, so that none can be put in the place of another.
fn of_entry(index: u64) -> Vec<u8> {
    [b"log:", &index.to_be_bytes()[..]].concat()
}

fn of_meta(name: &str) -> Vec<u8> {
    format!("meta:{name}").into_bytes()
}

impl Sealed {
    fn open(path: &Path, keys: &LogKeys) -> io::Result<Self> {
        let shown = path.display();
        let database = create(path)?;
        let read = database.begin_read().map_err(other)?;
        let probe = match read.open_table(META) {
            Err(redb::TableError::TableDoesNotExist(_)) => None,
            table => table.map_err(other)?.get(PROBE).map_err(other)?,
        };
        let Some(probe) = probe else {
            let log = read.open_table(LOG);
            if log.is_ok_and(|log| log.first().is_ok_and(|first| first.is_some())) {
                return Err(io::Error::other(format!(
                    "the Raft log {shown} is of a version of Skein that did not encrypt it: remove the node from the swarm, \
                     empty its state folder, and join again"
                )));
            }
            drop(read);
            let key = keys.current.clone();
            let sealed = Self::fill(path, database, key, &[], &[])?;
            return Ok(sealed);
        };
        let mut candidates = std::iter::once(&keys.current).chain(&keys.pending);
        let opens = |key: &&SecretKey| key.open(&of_meta(PROBE), probe.value()).is_ok();
        let key = candidates.find(opens).cloned().ok_or_else(|| {
            io::Error::other(format!(
                "the Raft log {shown} is not sealed with the keys of this node: is it another node's?"
            ))
        })?;
        drop(probe);
        Ok(Self {
            path: path.to_owned(),
            database,
            key,
        })
    }

    /// Puts the first content into a new file.
    fn fill(
        path: &Path,
        database: Database,
        key: SecretKey,
        meta: &[(String, Vec<u8>)],
        log: &[(u64, Vec<u8>)],
    ) -> io::Result<Self> {
        let write = database.begin_write().map_err(other)?;
        {
            let mut table = write.open_table(META).map_err(other)?;
            let probe = key.seal(&of_meta(PROBE), b"");
            table.insert(PROBE, &*probe).map_err(other)?;
            for (name, value) in meta {
                let value = key.seal(&of_meta(name), value);
                table.insert(&**name, &*value).map_err(other)?;
            }
            let mut table = write.open_table(LOG).map_err(other)?;
            for (index, value) in log {
                let value = key.seal(&of_entry(*index), value);
                table.insert(index, &*value).map_err(other)?;
            }
        }
        write.commit().map_err(other)?;
        Ok(Self {
            path: path.to_owned(),
            database,
            key,
        })
    }

    /// Makes a file of its own of `meta` and `log`, and puts it in the place of this one. Where that
    /// fails although the key has changed, the file is in place, but a crash may bring the old one back.
    fn replace(
        &mut self,
        key: SecretKey,
        meta: &[(String, Vec<u8>)],
        log: &[(u64, Vec<u8>)],
        sync: SyncFolder,
    ) -> io::Result<()> {
        let next = self.path.with_extension(NEXT);
        match fs::remove_file(&next) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let filled = Self::fill(&self.path, create(&next)?, key, meta, log)?;
        fs::rename(&next, &self.path)?;
        *self = filled;
        sync(self.path.parent().unwrap_or(Path::new(".")))
    }

    fn rekey(&mut self, key: SecretKey, sync: SyncFolder) -> io::Result<()> {
        if key == self.key {
            return Ok(());
        }
        let (meta, log) = (self.meta()?, self.log()?);
        self.replace(key, &meta, &log, sync)
    }

    fn meta(&self) -> io::Result<Vec<(String, Vec<u8>)>> {
        let read = self.database.begin_read().map_err(other)?;
        let table = read.open_table(META).map_err(other)?;
        let rows = table.iter().map_err(other)?.map(|row| {
            let (name, value) = row.map_err(other)?;
            let name = name.value().to_owned();
            let value = self.key.open(&of_meta(&name), value.value());
            Ok((name, value.map_err(other)?))
        });
        rows.collect()
    }

    fn log(&self) -> io::Result<Vec<(u64, Vec<u8>)>> {
        let read = self.database.begin_read().map_err(other)?;
        let table = read.open_table(LOG).map_err(other)?;
        let rows = table.iter().map_err(other)?.map(|row| {
            let (index, value) = row.map_err(other)?;
            let index = index.value();
            let value = self.key.open(&of_entry(index), value.value());
            Ok((index, value.map_err(other)?))
        });
        rows.collect()
    }

    fn load(&self) -> io::Result<Loaded> {
        let load = || {
            let mut meta: BTreeMap<_, _> = self.meta()?.into_iter().collect();
            let data = meta.remove(SNAPSHOT);
            let get = |name| meta.get(name).map(Vec::as_slice);
            let mut loaded = Loaded {
                vote: get(VOTE).map(decode).transpose()?,
                committed: get(COMMITTED).map(decode).transpose()?.flatten(),
                purged: get(PURGED).map(decode).transpose()?,
                ..Loaded::default()
            };
            if let (Some(meta), Some(data)) = (get(SNAPSHOT_META), data) {
                loaded.snapshot = Some((decode(meta)?, Bytes::new(data)));
            }
            loaded.entries = self.log()?.into_iter().collect();
            Ok(loaded)
        };
        load().map_err(|error: io::Error| {
            let path = self.path.display();
            io::Error::other(format!("could not read the Raft log {path}: {error}"))
        })
    }
}

/// Reads a log, and puts one in its place that begins with `snapshot`. Blocks.
pub fn restart_from(
    path: &Path,
    keys: &LogKeys,
    make: impl FnOnce(Loaded) -> io::Result<(Vote, SnapshotMeta, Vec<u8>)>,
) -> io::Result<()> {
    let mut sealed = Sealed::open(path, keys)?;
    let (vote, snapshot, data) = make(sealed.load()?)?;
    let mut meta = vec![
        (VOTE.to_owned(), encode(&vote)?),
        (COMMITTED.to_owned(), encode(&snapshot.last_log_id)?),
        (SNAPSHOT_META.to_owned(), encode(&snapshot)?),
        (SNAPSHOT.to_owned(), data),
    ];
    if let Some(last) = &snapshot.last_log_id {
        meta.push((PURGED.to_owned(), encode(last)?));
    }
    sealed.replace(sealed.key.clone(), &meta, &[], sync_folder)
}

/// Makes what was renamed in a folder outlive a crash.
type SyncFolder = fn(&Path) -> io::Result<()>;

fn sync_folder(folder: &Path) -> io::Result<()> {
    fs::File::open(folder)?.sync_all()
}

fn create(path: &Path) -> io::Result<Database> {
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    Database::builder()
        .create_with_backend(FileBackend::new(file).map_err(other)?)
        .map_err(other)
}

fn write_all(mut sealed: Sealed, mut queue: mpsc::Receiver<Order>, sync: SyncFolder) {
    let mut committed = None;
    // After a failed write nothing more may be acknowledged: the order on disk is unknown.
    let mut broken: Option<String> = None;
    while let Some(first) = queue.blocking_recv() {
        let (mut writes, mut dones, mut rekey) = (Vec::new(), Vec::new(), None);
        let mut next = Some(first);
        while let Some(order) = next.take() {
            match order {
                Order::Write(job) => {
                    writes.push(job.write);
                    dones.push(job.done);
                    if writes.len() < BATCH_MAX {
                        next = queue.try_recv().ok();
                    }
                }
                Order::Rekey(key, done) => rekey = Some((key, done)),
            }
        }
        if broken.is_none() {
            broken = write_batch(&sealed, &writes, &mut committed)
                .err()
                .map(|error| error.to_string());
            if let Some(error) = &broken {
                tracing::error!(%error, "could not write the Raft log: this manager stops");
            }
        }
        let failure = || broken.clone().map(io::Error::other);
        for done in dones {
            done(failure().map_or(Ok(()), Err));
        }
        if let Some((key, done)) = rekey {
            let before = sealed.key.clone();
            let result = failure().map_or_else(|| sealed.rekey(key, sync), Err);
            if let Err(error) = &result
                && sealed.key != before
            {
                // What goes to the new file may be gone after a crash. A failure before that leaves
                // the file as it was.
                tracing::error!(%error, "could not seal the Raft log anew: this manager stops");
                broken = Some(error.to_string());
            }
            done(result);
        }
    }
}

type Meta<'t> = redb::Table<'t, &'static str, &'static [u8]>;

fn put(table: &mut Meta<'_>, key: &SecretKey, name: &str, value: &[u8]) -> io::Result<()> {
    let value = key.seal(&of_meta(name), value);
    table.insert(name, &*value).map(drop).map_err(other)
}

/// The last entry that the snapshot on disk covers.
fn last_in_snapshot(table: &Meta<'_>, key: &SecretKey) -> io::Result<Option<LogId>> {
    let Some(sealed) = table.get(SNAPSHOT_META).map_err(other)? else {
        return Ok(None);
    };
    let opened = key.open(&of_meta(SNAPSHOT_META), sealed.value());
    let meta: SnapshotMeta = decode(&opened.map_err(other)?)?;
    Ok(meta.last_log_id)
}

fn write_batch(
    sealed: &Sealed,
    writes: &[Write],
    committed: &mut Option<Vec<u8>>,
) -> io::Result<()> {
    let mut needs_sync = false;
    for write in writes {
        match write {
            Write::Committed(value) => *committed = Some(value.clone()),
            _ => needs_sync = true,
        }
    }
    if !needs_sync {
        return Ok(());
    }
    let key = &sealed.key;
    let transaction = sealed.database.begin_write().map_err(other)?;
    {
        let mut log = transaction.open_table(LOG).map_err(other)?;
        let mut meta = transaction.open_table(META).map_err(other)?;
        if let Some(value) = committed.take() {
            put(&mut meta, key, COMMITTED, &value)?;
        }
        for write in writes {
            match write {
                Write::Append(entries) => {
                    for (index, entry) in entries {
                        let entry = key.seal(&of_entry(*index), entry);
                        log.insert(index, &*entry).map_err(other)?;
                    }
                }
                Write::Truncate(from) => log.retain_in(*from.., |_, _| false).map_err(other)?,
                Write::Purge(up_to, id) => {
                    log.retain_in(..=*up_to, |_, _| false).map_err(other)?;
                    put(&mut meta, key, PURGED, id)?;
                }
                Write::Put(name, value) => put(&mut meta, key, name, value)?,
                Write::Snapshot {
                    last,
                    meta: described,
                    data,
                } => {
                    if last_in_snapshot(&meta, key)? <= *last {
                        put(&mut meta, key, SNAPSHOT_META, described)?;
                        put(&mut meta, key, SNAPSHOT, data)?;
                    }
                }
                Write::Committed(_) => {}
            }
        }
    }
    transaction.commit().map_err(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_acknowledged_that_is_in_a_file_which_a_crash_may_take_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("raft.redb");
        let key = || SecretKey::generate(&mut rand::rng());
        let keys = LogKeys {
            current: key(),
            pending: None,
        };
        let sealed = Sealed::open(&path, &keys).unwrap();
        let (jobs, queue) = mpsc::channel(QUEUE);
        let fails = |_: &Path| Err(io::Error::other("no space"));
        let writer = std::thread::spawn(move || write_all(sealed, queue, fails));
        let ask = |make: &dyn Fn(Done) -> Order| {
            let (sender, receiver) = oneshot::channel();
            let done = Box::new(move |result| drop(sender.send(result)));
            jobs.blocking_send(make(done)).unwrap();
            receiver.blocking_recv().unwrap()
        };
        let put = |done| {
            let write = Write::Put(VOTE, b"{}".to_vec());
            Order::Write(Job { write, done })
        };
        ask(&put).unwrap();
        let next = key();
        assert!(ask(&|done| Order::Rekey(next.clone(), done)).is_err());
        assert!(ask(&put).is_err());
        assert!(ask(&|done| Order::Rekey(next.clone(), done)).is_err());
        drop(jobs);
        writer.join().unwrap();
    }
}
