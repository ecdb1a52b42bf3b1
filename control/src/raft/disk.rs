//! What of Raft must outlive a crash, in one redb file. A thread of its own writes and syncs it, so
//! that no disk stalls the runtime.

use super::types::{Entry, LogId, SnapshotMeta, Vote};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, backends::FileBackend};
use serde::{Serialize, de::DeserializeOwned};
use std::{collections::BTreeMap, fs, io, os::unix::fs::OpenOptionsExt, path::Path};
use tokio::sync::{mpsc, oneshot};

const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

const VOTE: &str = "vote";
const COMMITTED: &str = "committed";
const PURGED: &str = "purged";
const SNAPSHOT_META: &str = "snapshot-meta";
const SNAPSHOT: &str = "snapshot";

/// Writes that may wait for the thread. openraft sends one at a time and awaits most; more only
/// wait when the disk is slower than the network.
const QUEUE: usize = 256;
/// Writes that share one sync.
const BATCH_MAX: usize = 64;

/// What happens once a write is on disk, or failed.
type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

enum Write {
    Append(Vec<(u64, Vec<u8>)>),
    /// Away with this index and all after it.
    Truncate(u64),
    /// Away with this index and all before it.
    Purge(u64, Vec<u8>),
    Put(Vec<(&'static str, Vec<u8>)>),
    /// May be lost in a crash: written with the next one.
    Committed(Vec<u8>),
}

struct Job {
    write: Write,
    done: Done,
}

/// The way to the writing thread, which ends with the last of these.
#[derive(Clone)]
pub struct Disk {
    jobs: mpsc::Sender<Job>,
}

/// What was on disk.
#[derive(Default)]
pub struct Loaded {
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    pub entries: BTreeMap<u64, Entry>,
    pub snapshot: Option<(SnapshotMeta, Vec<u8>)>,
}

impl Disk {
    /// Opens or creates the file and reads all of it. Blocks.
    pub fn open(path: &Path) -> io::Result<(Self, Loaded)> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        let database = Database::builder()
            .create_with_backend(FileBackend::new(file).map_err(other)?)
            .map_err(other)?;
        let loaded = load(&database).map_err(|error| {
            let path = path.display();
            io::Error::other(format!("could not read the Raft log {path}: {error}"))
        })?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        std::thread::Builder::new()
            .name("raft-disk".into())
            .spawn(move || write_all(&database, queue))?;
        Ok((Self { jobs }, loaded))
    }

    /// Appends entries; `done` is called from the writing thread once they are on disk.
    pub async fn append(
        &self,
        entries: &[Entry],
        done: impl FnOnce(io::Result<()>) + Send + 'static,
    ) -> io::Result<()> {
        let encoded = entries
            .iter()
            .map(|entry| Ok((entry.log_id.index, encode(entry)?)))
            .collect::<io::Result<_>>()?;
        self.send(Write::Append(encoded), Box::new(done)).await
    }

    pub async fn truncate(&self, from: u64) -> io::Result<()> {
        self.wait(Write::Truncate(from)).await
    }

    pub async fn purge(&self, up_to: &LogId) -> io::Result<()> {
        self.wait(Write::Purge(up_to.index, encode(up_to)?)).await
    }

    pub async fn save_vote(&self, vote: &Vote) -> io::Result<()> {
        self.wait(Write::Put(vec![(VOTE, encode(vote)?)])).await
    }

    /// Saves how far the log is committed, together with whatever is written next.
    pub async fn save_committed(&self, committed: &Option<LogId>) -> io::Result<()> {
        let write = Write::Committed(encode(committed)?);
        self.send(write, Box::new(|_| ())).await
    }

    pub async fn save_snapshot(&self, meta: &SnapshotMeta, data: Vec<u8>) -> io::Result<()> {
        let meta = encode(meta)?;
        self.wait(Write::Put(vec![(SNAPSHOT_META, meta), (SNAPSHOT, data)]))
            .await
    }

    async fn wait(&self, write: Write) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        let done = Box::new(move |result| drop(sender.send(result)));
        self.send(write, done).await?;
        receiver.await.map_err(|_| stopped())?
    }

    async fn send(&self, write: Write, done: Done) -> io::Result<()> {
        let job = Job { write, done };
        self.jobs.send(job).await.map_err(|_| stopped())
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

fn load(database: &Database) -> io::Result<Loaded> {
    // Creates the tables of a new file.
    let write = database.begin_write().map_err(other)?;
    write.open_table(LOG).map_err(other)?;
    write.open_table(META).map_err(other)?;
    write.commit().map_err(other)?;

    let read = database.begin_read().map_err(other)?;
    let meta = read.open_table(META).map_err(other)?;
    let get = |key| meta.get(key).map_err(other);
    let mut loaded = Loaded {
        vote: get(VOTE)?.map(|v| decode(v.value())).transpose()?,
        committed: get(COMMITTED)?
            .map(|v| decode(v.value()))
            .transpose()?
            .flatten(),
        purged: get(PURGED)?.map(|v| decode(v.value())).transpose()?,
        ..Loaded::default()
    };
    if let (Some(meta), Some(data)) = (get(SNAPSHOT_META)?, get(SNAPSHOT)?) {
        loaded.snapshot = Some((decode(meta.value())?, data.value().to_vec()));
    }
    let log = read.open_table(LOG).map_err(other)?;
    for row in log.iter().map_err(other)? {
        let (index, entry) = row.map_err(other)?;
        loaded.entries.insert(index.value(), decode(entry.value())?);
    }
    Ok(loaded)
}

fn write_all(database: &Database, mut queue: mpsc::Receiver<Job>) {
    let mut committed = None;
    // After a failed write nothing more may be acknowledged: the order on disk is unknown.
    let mut broken: Option<String> = None;
    while let Some(job) = queue.blocking_recv() {
        let mut batch = vec![job];
        while batch.len() < BATCH_MAX {
            match queue.try_recv() {
                Ok(job) => batch.push(job),
                Err(_) => break,
            }
        }
        let (writes, dones): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|job| (job.write, job.done)).unzip();
        if broken.is_none() {
            broken = write_batch(database, &writes, &mut committed)
                .err()
                .map(|error| error.to_string());
            if let Some(error) = &broken {
                tracing::error!(%error, "could not write the Raft log: this manager stops");
            }
        }
        for done in dones {
            done(broken.clone().map_or(Ok(()), |e| Err(io::Error::other(e))));
        }
    }
}

fn write_batch(
    database: &Database,
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
    let transaction = database.begin_write().map_err(other)?;
    {
        let mut log = transaction.open_table(LOG).map_err(other)?;
        let mut meta = transaction.open_table(META).map_err(other)?;
        if let Some(value) = committed.take() {
            meta.insert(COMMITTED, &*value).map_err(other)?;
        }
        for write in writes {
            match write {
                Write::Append(entries) => {
                    for (index, entry) in entries {
                        log.insert(index, &**entry).map_err(other)?;
                    }
                }
                Write::Truncate(from) => log.retain_in(*from.., |_, _| false).map_err(other)?,
                Write::Purge(up_to, id) => {
                    log.retain_in(..=*up_to, |_, _| false).map_err(other)?;
                    meta.insert(PURGED, &**id).map_err(other)?;
                }
                Write::Put(values) => {
                    for (key, value) in values {
                        meta.insert(key, &**value).map_err(other)?;
                    }
                }
                Write::Committed(_) => {}
            }
        }
    }
    transaction.commit().map_err(other)
}
