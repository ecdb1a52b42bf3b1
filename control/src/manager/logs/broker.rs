//! Where readers and agents meet.

use super::{
    LogOptions, LogRecord, LogSelector, LogsError, READER_PATIENCE, READERS_MAX, STREAM_ERROR,
    reading::Reading,
};
use crate::manager::store::Store;
use parking_lot::Mutex;
use skein_model::new_id;
use skein_proto::node as proto;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};
use tokio::sync::{Notify, mpsc};
use tonic::Status;

/// Records that wait for one reader. Agents that send more wait with them.
const READER_QUEUE: usize = 256;

/// A reader, and what it still waits for.
struct Reader {
    records: mpsc::Sender<LogRecord>,
    /// By the ID of the subscription that an agent got: its node and the tasks that have not ended.
    parts: BTreeMap<String, Part>,
    /// Told whenever something comes in.
    progress: Arc<Notify>,
}

struct Part {
    node_id: String,
    unfinished: BTreeSet<String>,
}

/// The way to the agent of a node.
type Agent = mpsc::Sender<Result<proto::LogSubscription, Status>>;

#[derive(Default)]
struct Inner {
    /// By node ID.
    agents: HashMap<String, Agent>,
    /// By reader ID.
    readers: HashMap<String, Reader>,
    /// Subscription ID -> reader ID.
    subscriptions: HashMap<String, String>,
}

/// Where readers and agents meet. Clones share it.
#[derive(Clone, Default)]
pub(in crate::manager) struct Broker {
    inner: Arc<Mutex<Inner>>,
}

impl Broker {
    /// Begins to read. The records end when all there is was sent, or never if they are followed;
    /// dropping the receiver ends the reading.
    pub(in crate::manager) fn read<S: Store>(
        &self,
        store: &S,
        selector: LogSelector,
        options: LogOptions,
    ) -> Result<mpsc::Receiver<LogRecord>, LogsError> {
        if !store.leadership().borrow().is_self {
            return Err(LogsError::NotLeader);
        }
        let (records, receiver) = mpsc::channel(READER_QUEUE);
        let id = new_id(&mut rand::rng());
        let progress = Arc::new(Notify::new());
        {
            let mut inner = self.inner.lock();
            if inner.readers.len() >= READERS_MAX {
                return Err(LogsError::TooMany);
            }
            let reader = Reader {
                records: records.clone(),
                parts: BTreeMap::new(),
                progress: progress.clone(),
            };
            inner.readers.insert(id.clone(), reader);
        }
        let reading = Reading {
            broker: self.clone(),
            store: store.clone(),
            id,
            selector,
            options,
            records,
            asked: BTreeSet::new(),
        };
        tokio::spawn(reading.run(progress));
        Ok(receiver)
    }

    /// Asks the agents of these tasks; the tasks that cannot be had, and why.
    pub(super) fn subscribe(
        &self,
        reader_id: &str,
        tasks: &BTreeMap<String, BTreeSet<String>>,
        options: LogOptions,
    ) -> Vec<String> {
        let mut failures = Vec::new();
        let mut inner = self.inner.lock();
        for (node_id, tasks) in tasks {
            let subscription = proto::LogSubscription {
                id: new_id(&mut rand::rng()),
                close: false,
                task_ids: tasks.iter().cloned().collect(),
                follow: options.follow,
                tail: options.tail,
                since: options.since,
                stdout: options.stdout,
                stderr: options.stderr,
            };
            let id = subscription.id.clone();
            let agent = inner.agents.get(node_id);
            if agent.is_none_or(|agent| agent.try_send(Ok(subscription)).is_err()) {
                failures.push(format!("node {node_id} is not available"));
                continue;
            }
            inner.subscriptions.insert(id.clone(), reader_id.to_owned());
            if let Some(reader) = inner.readers.get_mut(reader_id) {
                let part = Part {
                    node_id: node_id.clone(),
                    unfinished: tasks.clone(),
                };
                reader.parts.insert(id, part);
            }
        }
        failures
    }

    /// Whether nothing more will come for a reader of what it has asked for.
    pub(super) fn is_complete(&self, reader_id: &str) -> bool {
        let inner = self.inner.lock();
        let reader = inner.readers.get(reader_id);
        reader.is_none_or(|reader| reader.parts.values().all(|part| part.unfinished.is_empty()))
    }

    /// Forgets a reader, and tells its agents to stop.
    pub(super) fn close(&self, reader_id: &str) {
        let mut inner = self.inner.lock();
        let Some(reader) = inner.readers.remove(reader_id) else {
            return;
        };
        for (id, part) in reader.parts {
            inner.subscriptions.remove(&id);
            if let Some(agent) = inner.agents.get(&part.node_id) {
                let close = proto::LogSubscription {
                    id,
                    close: true,
                    ..proto::LogSubscription::default()
                };
                // An agent that misses this is told when it publishes the next record.
                let _ = agent.try_send(Ok(close));
            }
        }
    }

    /// A node's agent can be asked.
    pub(super) fn attach(&self, node_id: &str, agent: Agent) {
        self.inner.lock().agents.insert(node_id.to_owned(), agent);
    }

    /// It cannot any more, unless it came back by another way.
    pub(super) fn detach(&self, node_id: &str, agent: &Agent) {
        let mut inner = self.inner.lock();
        let current = inner.agents.get(node_id);
        if current.is_some_and(|current| current.same_channel(agent)) {
            inner.agents.remove(node_id);
        }
    }

    /// The reader of a chunk, if the agent was asked for it.
    fn reader_of(
        &self,
        node_id: &str,
        chunk: &proto::LogChunk,
    ) -> Option<(mpsc::Sender<LogRecord>, Arc<Notify>)> {
        let inner = self.inner.lock();
        let reader_id = inner.subscriptions.get(&chunk.subscription_id)?;
        let reader = inner.readers.get(reader_id)?;
        let part = reader.parts.get(&chunk.subscription_id)?;
        let asked = part.node_id == node_id && part.unfinished.contains(&chunk.task_id);
        asked.then(|| (reader.records.clone(), reader.progress.clone()))
    }

    /// Notes that all of a task was sent.
    fn end_of(&self, chunk: &proto::LogChunk) {
        let mut inner = self.inner.lock();
        let Some(reader_id) = inner.subscriptions.get(&chunk.subscription_id).cloned() else {
            return;
        };
        if let Some(reader) = inner.readers.get_mut(&reader_id)
            && let Some(part) = reader.parts.get_mut(&chunk.subscription_id)
        {
            part.unfinished.remove(&chunk.task_id);
        }
    }

    pub(in crate::manager) async fn publish(
        &self,
        node_id: &str,
        chunk: proto::LogChunk,
    ) -> Result<(), Status> {
        let Some((records, progress)) = self.reader_of(node_id, &chunk) else {
            return Err(Status::cancelled("nobody reads this subscription any more"));
        };
        if chunk.end {
            self.end_of(&chunk);
        }
        if !chunk.data.is_empty() {
            let record = LogRecord {
                task_id: chunk.task_id,
                node_id: node_id.to_owned(),
                stream: u8::try_from(chunk.stream).unwrap_or(STREAM_ERROR),
                timestamp: chunk.timestamp,
                data: chunk.data.into(),
            };
            records
                .send_timeout(record, READER_PATIENCE)
                .await
                .map_err(|_| Status::cancelled("the reader of this subscription is gone"))?;
        }
        progress.notify_one();
        Ok(())
    }
}
