//! Where readers and agents meet.

use super::{
    LogOptions, LogRecord, LogSelector, LogsError, READER_PATIENCE, READERS_MAX, STREAM_ERROR,
    reading::Reading,
};
use crate::manager::store::Store;
use parking_lot::Mutex;
use skein_model::{Timestamp, new_id};
use skein_proto::node as proto;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};
use tokio::sync::{Notify, mpsc};
use tonic::Status;

/// Records that wait for one reader. Agents that send more wait with them.
const READER_QUEUE: usize = 256;
/// In a second.
const NANOS: i64 = 1_000_000_000;

/// A reader, and what it still waits for.
struct Reader {
    records: mpsc::Sender<LogRecord>,
    /// By the ID of the subscription that an agent got: its node and the tasks that have not ended.
    parts: BTreeMap<String, Part>,
    /// Of a reader that follows: what is to be asked for again once its node is back, by node and task.
    lost: BTreeMap<String, BTreeMap<String, LogOptions>>,
    /// Of a reader that follows: the timestamp of the last record of each task.
    reached: HashMap<String, String>,
    /// Of a reader that does not: what could not be had, and why, by task or by node.
    failures: BTreeMap<String, String>,
    /// Told whenever something comes in, or can be had again.
    progress: Arc<Notify>,
}

impl Reader {
    /// Notes that the agent of a node publishes nothing any more of what it was asked; the
    /// subscriptions that were. Who does not follow has no more of them.
    fn lose(&mut self, node_id: &str) -> Vec<String> {
        let mut gone = Vec::new();
        let mut is_cut_off = false;
        self.parts.retain(|id, part| {
            if part.node_id != node_id {
                return true;
            }
            if part.options.follow {
                let lost = self.lost.entry(node_id.to_owned()).or_default();
                lost.extend(part.unfinished.iter().map(|id| (id.clone(), part.options)));
            } else {
                is_cut_off |= !part.unfinished.is_empty();
            }
            gone.push(id.clone());
            false
        });
        if is_cut_off {
            let reason = format!("node {node_id} disconnected unexpectedly");
            self.failures.insert(node_id.to_owned(), reason);
            self.progress.notify_one();
        }
        gone
    }
}

struct Part {
    node_id: String,
    unfinished: BTreeSet<String>,
    options: LogOptions,
    /// The agent begins with what the reader has already: of each task, what is up to here.
    until: HashMap<String, String>,
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

impl Inner {
    /// Whose subscription it is; `None` where nobody reads it any more.
    fn reader_mut(&mut self, subscription_id: &str) -> Option<&mut Reader> {
        let reader_id = self.subscriptions.get(subscription_id)?;
        self.readers.get_mut(reader_id)
    }

    /// Asks the agent of a node for tasks; whether it could be. A reader that follows has lost them
    /// otherwise.
    fn subscribe(
        &mut self,
        reader_id: &str,
        node_id: &str,
        tasks: &BTreeSet<String>,
        options: LogOptions,
        until: HashMap<String, String>,
    ) -> bool {
        let subscription = proto::LogSubscription {
            id: new_id(&mut rand::rng()),
            close: false,
            task_ids: tasks.iter().cloned().collect(),
            follow: options.follow,
            tail: options.tail,
            since: options.since.div_euclid(NANOS),
            since_nanos: i32::try_from(options.since.rem_euclid(NANOS)).unwrap_or(0),
            stdout: options.stdout,
            stderr: options.stderr,
        };
        let Some(reader) = self.readers.get_mut(reader_id) else {
            return false;
        };
        let id = subscription.id.clone();
        let agent = self.agents.get(node_id);
        if agent.is_none_or(|agent| agent.try_send(Ok(subscription)).is_err()) {
            if options.follow {
                let lost = reader.lost.entry(node_id.to_owned()).or_default();
                lost.extend(tasks.iter().map(|id| (id.clone(), options)));
            }
            return false;
        }
        let part = Part {
            node_id: node_id.to_owned(),
            unfinished: tasks.clone(),
            options,
            until,
        };
        reader.parts.insert(id.clone(), part);
        self.subscriptions.insert(id, reader_id.to_owned());
        true
    }

    /// A node's agent publishes nothing any more of what it was asked.
    fn lose(&mut self, node_id: &str) {
        for reader in self.readers.values_mut() {
            for id in reader.lose(node_id) {
                self.subscriptions.remove(&id);
            }
        }
    }
}

/// What to ask for again: of tasks with records, from the second on of the last one of that task which
/// is the furthest behind; of others, what was asked for.
fn resumed(
    tasks: &BTreeMap<String, LogOptions>,
    reached: &HashMap<String, String>,
) -> Vec<(LogOptions, BTreeSet<String>)> {
    let second = |task_id: &String| -> Option<i64> {
        let at: Timestamp = reached.get(task_id)?.parse().ok()?;
        let nanos = i64::try_from(at.unix_nanos()).ok()?;
        Some(nanos - nanos.rem_euclid(NANOS))
    };
    let since = tasks.keys().filter_map(second).min();
    let mut asked: Vec<(LogOptions, BTreeSet<String>)> = Vec::new();
    for (task_id, options) in tasks {
        let options = match (second(task_id), since) {
            (Some(_), Some(since)) => LogOptions {
                tail: -1,
                since,
                ..*options
            },
            _ => *options,
        };
        match asked.iter_mut().find(|(other, _)| *other == options) {
            Some((_, tasks)) => {
                tasks.insert(task_id.clone());
            }
            None => asked.push((options, [task_id.clone()].into())),
        }
    }
    asked
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
                lost: BTreeMap::new(),
                reached: HashMap::new(),
                failures: BTreeMap::new(),
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
            let until = HashMap::new();
            if !inner.subscribe(reader_id, node_id, tasks, options, until) {
                failures.push(format!("node {node_id} is not available"));
            }
        }
        failures
    }

    /// Asks again, of nodes that are back, for what a reader that follows has lost: it goes on where it
    /// was.
    pub(super) fn resume(&self, reader_id: &str) {
        let mut inner = self.inner.lock();
        let Inner {
            agents, readers, ..
        } = &mut *inner;
        let Some(reader) = readers.get_mut(reader_id) else {
            return;
        };
        if reader
            .lost
            .keys()
            .all(|node_id| !agents.contains_key(node_id))
        {
            return;
        }
        let (back, away): (BTreeMap<_, _>, _) = std::mem::take(&mut reader.lost)
            .into_iter()
            .partition(|(node_id, _)| agents.contains_key(node_id));
        reader.lost = away;
        let until = reader.reached.clone();
        for (node_id, tasks) in back {
            // Where the agent's queue is full, it is for the next time.
            for (options, tasks) in resumed(&tasks, &until) {
                inner.subscribe(reader_id, &node_id, &tasks, options, until.clone());
            }
        }
    }

    /// Whether nothing more will come for a reader of what it has asked for.
    pub(super) fn is_complete(&self, reader_id: &str) -> bool {
        let inner = self.inner.lock();
        let reader = inner.readers.get(reader_id);
        reader.is_none_or(|reader| reader.parts.values().all(|part| part.unfinished.is_empty()))
    }

    /// What a reader that does not follow has not got, and why: of all that it asked for and could be asked for.
    pub(super) fn failures(&self, reader_id: &str) -> Vec<String> {
        let inner = self.inner.lock();
        let reader = inner.readers.get(reader_id);
        let failures = reader
            .into_iter()
            .flat_map(|reader| reader.failures.values());
        failures.cloned().collect()
    }

    /// The nodes that a reader still waits for.
    pub(super) fn awaited(&self, reader_id: &str) -> BTreeSet<String> {
        let inner = self.inner.lock();
        let reader = inner.readers.get(reader_id);
        let parts = reader.into_iter().flat_map(|reader| reader.parts.values());
        let awaited = parts.filter(|part| !part.unfinished.is_empty());
        awaited.map(|part| part.node_id.clone()).collect()
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

    /// A node's agent can be asked. What it was asked before, in another session, it has forgotten.
    pub(super) fn attach(&self, node_id: &str, agent: Agent) {
        let mut inner = self.inner.lock();
        inner.lose(node_id);
        inner.agents.insert(node_id.to_owned(), agent);
        for reader in inner.readers.values() {
            if reader.lost.contains_key(node_id) {
                reader.progress.notify_one();
            }
        }
    }

    /// It cannot any more, unless it came back by another way.
    pub(super) fn detach(&self, node_id: &str, agent: &Agent) {
        let mut inner = self.inner.lock();
        let current = inner.agents.get(node_id);
        if current.is_some_and(|current| current.same_channel(agent)) {
            inner.agents.remove(node_id);
            inner.lose(node_id);
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

    /// Whether a reader has not had a chunk yet; notes that it has now.
    fn is_new(&self, chunk: &proto::LogChunk) -> bool {
        let mut inner = self.inner.lock();
        let Some(reader) = inner.reader_mut(&chunk.subscription_id) else {
            return false;
        };
        let Some(part) = reader.parts.get(&chunk.subscription_id) else {
            return false;
        };
        if chunk.timestamp.is_empty() || !part.options.follow {
            return true;
        }
        // Timestamps are all of one length.
        let had = part.until.get(&chunk.task_id);
        if had.is_some_and(|had| chunk.timestamp <= *had) {
            return false;
        }
        match reader.reached.get_mut(&chunk.task_id) {
            Some(reached) => reached.clone_from(&chunk.timestamp),
            None => {
                let (task, at) = (chunk.task_id.clone(), chunk.timestamp.clone());
                reader.reached.insert(task, at);
            }
        }
        true
    }

    /// Whether a chunk says why the log of a task cannot be had, to a reader who is told of it at the end: that is
    /// noted. Clients take the first such word for the end, and there may be other tasks' logs to come. (Who
    /// follows would wait for that end for ever.)
    fn is_noted(&self, chunk: &proto::LogChunk) -> bool {
        if chunk.stream != u32::from(STREAM_ERROR) {
            return false;
        }
        let mut inner = self.inner.lock();
        let Some(reader) = inner.reader_mut(&chunk.subscription_id) else {
            return false;
        };
        let part = reader.parts.get(&chunk.subscription_id);
        if part.is_none_or(|part| part.options.follow) {
            return false;
        }
        let reason = String::from_utf8_lossy(&chunk.data).trim_end().to_owned();
        reader.failures.insert(chunk.task_id.clone(), reason);
        true
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
        let is_to_send = !self.is_noted(&chunk) && self.is_new(&chunk);
        if chunk.end {
            self.end_of(&chunk);
        }
        if is_to_send && !chunk.data.is_empty() {
            let record = LogRecord {
                task_id: chunk.task_id,
                node_id: node_id.to_owned(),
                stream: u8::try_from(chunk.stream).unwrap_or(STREAM_ERROR),
                timestamp: chunk.timestamp,
                details: chunk.details,
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
