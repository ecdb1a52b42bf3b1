//! What the agent must remember over a restart: its tasks, and how far each of them is.
//!
//! One thread writes; what waits while it does goes into its next transaction together.

use anyhow::Context as _;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use skein_model::Task;
use std::{collections::BTreeMap, path::Path};
use tokio::sync::{mpsc, oneshot};

/// Task ID -> [`Record`] as JSON.
const TASKS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("tasks");
/// Under [`NODE`]: whose tasks these are.
const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");
const NODE: &str = "node";
/// Changes that wait for the disk. A task that finds no room waits with its next step.
const QUEUE: usize = 1024;
/// What a task that was read from the disk has for its registry's credentials, if it had any: those
/// never come there. No header can be the same, as this is no base64.
pub const CREDENTIALS_WITHHELD: &str = "(withheld)";

/// A task as its node knows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// As the managers sent it, with the status that this node last reported.
    pub task: Task,
    /// The managers no longer know it.
    #[serde(default)]
    pub removed: bool,
    /// Its container is stopped because the health check failed, or the managers were told so.
    #[serde(default)]
    pub unhealthy: bool,
}

impl Record {
    /// Takes over what the managers want; whether that is news. What the node itself has seen of the
    /// task stays, unless the managers know that it has ended.
    pub fn take_wanted(&mut self, wanted: &Task, removed: bool) -> bool {
        let (own, theirs) = (&self.task.status, &wanted.status);
        let newer = if theirs.state > own.state {
            theirs
        } else {
            own
        };
        let task = Task {
            status: newer.clone(),
            ..wanted.clone()
        };
        let is_news = self.task != task || self.removed != removed;
        self.task = task;
        self.removed = removed;
        is_news
    }
}

/// A change and who waits for it; `None` removes the record.
struct Write {
    id: String,
    record: Option<Vec<u8>>,
    done: oneshot::Sender<Result<(), String>>,
}

/// The way to the disk. Clones share it.
#[derive(Clone)]
pub struct Store {
    writes: mpsc::Sender<Write>,
}

impl Store {
    /// Opens the store in `directory`, which is made if need be. What it holds of another node's
    /// tasks is forgotten.
    ///
    /// # Errors
    /// The directory cannot be used, or an earlier agent has not let go of it yet.
    pub async fn open(
        directory: &Path,
        node_id: &str,
    ) -> anyhow::Result<(Self, BTreeMap<String, Record>)> {
        let path = directory.join("tasks.redb");
        let node_id = node_id.to_owned();
        let opening = tokio::task::spawn_blocking(move || {
            if let Some(directory) = path.parent() {
                std::fs::create_dir_all(directory)
                    .with_context(|| format!("cannot make {}", directory.display()))?;
            }
            let database = Database::create(&path)
                .with_context(|| format!("cannot open {}", path.display()))?;
            let records = load(&database, &node_id)
                .with_context(|| format!("cannot read {}", path.display()))?;
            anyhow::Ok((database, records))
        });
        let (database, records) = opening.await??;
        let (writes, queue) = mpsc::channel(QUEUE);
        tokio::task::spawn_blocking(move || write_all(&database, queue));
        Ok((Self { writes }, records))
    }

    /// Keeps a record. It is on the disk when this returns.
    ///
    /// # Errors
    /// What the disk said.
    pub async fn put(&self, record: &Record) -> anyhow::Result<()> {
        let json = if record.task.registry_auth.is_empty() {
            serde_json::to_vec(record)?
        } else {
            let mut bare = record.clone();
            bare.task.registry_auth = CREDENTIALS_WITHHELD.to_owned();
            serde_json::to_vec(&bare)?
        };
        self.write(&record.task.id, Some(json)).await
    }

    /// Forgets a task.
    ///
    /// # Errors
    /// What the disk said.
    pub async fn remove(&self, task_id: &str) -> anyhow::Result<()> {
        self.write(task_id, None).await
    }

    async fn write(&self, id: &str, record: Option<Vec<u8>>) -> anyhow::Result<()> {
        let (done, written) = oneshot::channel();
        let write = Write {
            id: id.to_owned(),
            record,
            done,
        };
        let sent = self.writes.send(write).await;
        sent.ok().context("the agent's store has ended")?;
        let result = written.await.context("the agent's store has ended")?;
        result.map_err(|reason| anyhow::anyhow!("cannot keep task {id}: {reason}"))
    }
}

fn load(database: &Database, node_id: &str) -> anyhow::Result<BTreeMap<String, Record>> {
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        let same = meta
            .get(NODE)?
            .is_some_and(|owner| owner.value() == node_id);
        if !same {
            meta.insert(NODE, node_id)?;
            transaction.delete_table(TASKS)?;
        }
        transaction.open_table(TASKS)?;
    }
    transaction.commit()?;
    let mut records = BTreeMap::new();
    for entry in database.begin_read()?.open_table(TASKS)?.iter()? {
        let (id, json) = entry?;
        let record = serde_json::from_slice(json.value())
            .with_context(|| format!("the record of task {} is broken", id.value()))?;
        records.insert(id.value().to_owned(), record);
    }
    Ok(records)
}

fn write_all(database: &Database, mut queue: mpsc::Receiver<Write>) {
    let mut batch = Vec::new();
    while let Some(first) = queue.blocking_recv() {
        batch.push(first);
        while let Ok(next) = queue.try_recv() {
            batch.push(next);
        }
        let written = commit(database, &batch).map_err(|error| format!("{error:#}"));
        for write in batch.drain(..) {
            // Whoever no longer waits needs no answer.
            let _ = write.done.send(written.clone());
        }
    }
}

fn commit(database: &Database, batch: &[Write]) -> anyhow::Result<()> {
    let transaction = database.begin_write()?;
    {
        let mut tasks = transaction.open_table(TASKS)?;
        for write in batch {
            match &write.record {
                Some(json) => drop(tasks.insert(write.id.as_str(), json.as_slice())?),
                None => drop(tasks.remove(write.id.as_str())?),
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_model::TaskState;
    use std::time::Duration;

    fn record(id: &str) -> Record {
        let mut record = Record::default();
        record.task.id = id.into();
        record.task.status.state = TaskState::Running;
        record.unhealthy = true;
        record
    }

    /// The writer lets go of the file shortly after the last handle is gone.
    async fn reopen(directory: &Path, node_id: &str) -> (Store, BTreeMap<String, Record>) {
        for _ in 0..100 {
            if let Ok(opened) = Store::open(directory, node_id).await {
                return opened;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the store stays locked");
    }

    #[test]
    fn what_the_node_has_seen_stays_unless_the_managers_know_of_an_end() {
        let mut known = record("a");
        let mut wanted = known.task.clone();
        assert!(!known.take_wanted(&wanted, false));
        wanted.status.state = TaskState::Assigned;
        wanted.desired_state = TaskState::Shutdown;
        assert!(known.take_wanted(&wanted, false));
        assert_eq!(known.task.status.state, TaskState::Running);
        assert_eq!(known.task.desired_state, TaskState::Shutdown);
        wanted.status.state = TaskState::Orphaned;
        assert!(known.take_wanted(&wanted, true) && known.removed);
        assert_eq!(known.task.status.state, TaskState::Orphaned);
    }

    #[tokio::test]
    async fn credentials_never_come_to_the_disk() {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(directory.path(), "n1").await.unwrap();
        let mut secretive = record("a");
        secretive.task.registry_auth = "aHVudGVyMg".into();
        store.put(&secretive).await.unwrap();
        store.put(&record("b")).await.unwrap();
        drop(store);
        let (_store, records) = reopen(directory.path(), "n1").await;
        assert_eq!(records["a"].task.registry_auth, CREDENTIALS_WITHHELD);
        assert_eq!(records["b"].task.registry_auth, "");
        let bytes = std::fs::read(directory.path().join("tasks.redb")).unwrap();
        let text = secretive.task.registry_auth.as_bytes();
        assert!(!bytes.windows(text.len()).any(|window| window == text));
    }

    #[tokio::test]
    async fn records_outlive_the_agent_but_not_the_membership() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent");
        let (store, records) = Store::open(&path, "n1").await.unwrap();
        assert!(records.is_empty());
        let writes = ["a", "b", "c"].map(|id| {
            let store = store.clone();
            async move { store.put(&record(id)).await }
        });
        for written in futures::future::join_all(writes).await {
            written.unwrap();
        }
        store.remove("b").await.unwrap();
        drop(store);

        let (store, records) = reopen(&path, "n1").await;
        assert_eq!(records.keys().collect::<Vec<_>>(), ["a", "c"]);
        assert_eq!(records["a"], record("a"));
        drop(store);

        let (_store, records) = reopen(&path, "n2").await;
        assert!(records.is_empty());
    }
}
