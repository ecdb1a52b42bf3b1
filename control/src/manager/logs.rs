//! The log broker: asks the agents for logs, and brings what they send to the readers.

use super::{
    sessions::{self, Sessions},
    store::{self, Store},
};
use bytes::Bytes;
use parking_lot::Mutex;
use skein_model::{State, TaskState, new_id};
use skein_proto::node as proto;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

/// Records that wait for one reader. Agents that send more wait with them.
const READER_QUEUE: usize = 256;
/// Requests that wait for one agent.
const AGENT_QUEUE: usize = 64;
/// Readers at a time: each costs an open stream to every agent concerned.
pub const READERS_MAX: usize = 256;
/// How long a reader may take no record before its agents are told to stop.
const READER_PATIENCE: Duration = Duration::from_secs(60);
/// How long agents may send nothing before a reader that does not follow gets what there is.
const AGENT_PATIENCE: Duration = Duration::from_secs(20);
/// The stream of records that tell of the collection itself.
const STREAM_ERROR: u8 = 3;

/// Whose logs are asked for.
#[derive(Clone, Debug, Default)]
pub struct LogSelector {
    /// All tasks of these services (IDs); those that come later too if the logs are followed.
    pub services: Vec<String>,
    /// These tasks (IDs).
    pub tasks: Vec<String>,
}

/// What of the logs is asked for.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// Go on when all there is has been sent.
    pub follow: bool,
    /// The last lines of each task; -1: all.
    pub tail: i64,
    /// Unix seconds; 0: from the start.
    pub since: i64,
    /// Whether standard output is wanted.
    pub stdout: bool,
    /// Whether standard error is wanted.
    pub stderr: bool,
}

/// One line, or part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// The task that wrote it; "" for errors that concern none.
    pub task_id: String,
    /// The node it ran on.
    pub node_id: String,
    /// 1 stdout, 2 stderr, 3 an error of the collection itself.
    pub stream: u8,
    /// RFC 3339, nine fractional digits.
    pub timestamp: String,
    /// The bytes that were written.
    pub data: Bytes,
}

/// Why logs cannot be had.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogsError {
    /// Only the leader knows the agents.
    #[error("this manager is not the leader: ask the leader for logs")]
    NotLeader,
    /// See [`READERS_MAX`].
    #[error("{READERS_MAX} log readers are at work already: end one of them, and try again")]
    TooMany,
}

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

#[derive(Default)]
struct Inner {
    /// By node ID: the way to its agent.
    agents: HashMap<String, mpsc::Sender<Result<proto::LogSubscription, Status>>>,
    /// By reader ID.
    readers: HashMap<String, Reader>,
    /// Subscription ID -> reader ID.
    subscriptions: HashMap<String, String>,
}

/// Where readers and agents meet. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Broker {
    inner: Arc<Mutex<Inner>>,
}

impl Broker {
    /// Begins to read. The records end when all there is was sent, or never if they are followed;
    /// dropping the receiver ends the reading.
    pub(super) fn read<S: Store>(
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
    fn subscribe(
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
    fn is_complete(&self, reader_id: &str) -> bool {
        let inner = self.inner.lock();
        let reader = inner.readers.get(reader_id);
        reader.is_none_or(|reader| reader.parts.values().all(|part| part.unfinished.is_empty()))
    }

    /// Forgets a reader, and tells its agents to stop.
    fn close(&self, reader_id: &str) {
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

    pub(super) async fn publish(
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

/// One reader at work.
struct Reading<S: Store> {
    broker: Broker,
    store: S,
    id: String,
    selector: LogSelector,
    options: LogOptions,
    records: mpsc::Sender<LogRecord>,
    /// The tasks that were asked for.
    asked: BTreeSet<String>,
}

impl<S: Store> Drop for Reading<S> {
    fn drop(&mut self) {
        self.broker.close(&self.id);
    }
}

impl<S: Store> Reading<S> {
    async fn run(mut self, progress: Arc<Notify>) {
        let mut states = self.store.watch();
        let mut leadership = self.store.leadership();
        let state = states.borrow_and_update().clone();
        let mut failures = self.ask(&state, self.options);
        failures.extend(self.without_node(&state));
        loop {
            if !self.options.follow && self.broker.is_complete(&self.id) {
                break;
            }
            let patience = Instant::now() + AGENT_PATIENCE;
            tokio::select! {
                () = progress.notified() => {}
                () = self.records.closed() => return,
                changed = states.changed(), if self.options.follow => {
                    if changed.is_err() {
                        return;
                    }
                    let state = states.borrow_and_update().clone();
                    // Of tasks that come later all is new.
                    let all = LogOptions { tail: -1, since: 0, ..self.options };
                    for failure in self.ask(&state, all) {
                        self.say(&failure).await;
                    }
                }
                () = store::no_leader(&mut leadership) => {
                    self.say("the manager that collected the logs leads no more: ask again").await;
                    return;
                }
                () = sleep_until(patience), if !self.options.follow => {
                    failures.push(format!(
                        "nodes sent nothing for {} seconds",
                        AGENT_PATIENCE.as_secs()
                    ));
                    break;
                }
            }
        }
        if !failures.is_empty() {
            let reasons = failures.join(", ");
            self.say(&format!(
                "warning: incomplete log stream. some logs could not be retrieved for the following \
                 reasons: {reasons}"
            ))
            .await;
        }
    }

    /// Asks for the tasks that were not asked for yet and have a node; what failed.
    fn ask(&mut self, state: &State, options: LogOptions) -> Vec<String> {
        let of_services = self.selector.services.iter();
        let of_services = of_services.flat_map(|service| state.tasks_of_service(service));
        let single = self.selector.tasks.iter().filter_map(|id| state.task(id));
        let mut by_node: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for task in of_services.chain(single) {
            // Without following, a task that never ran has nothing to say.
            let least = if self.options.follow {
                TaskState::Assigned
            } else {
                TaskState::Running
            };
            if task.status.state >= least
                && !task.node_id.is_empty()
                && !self.asked.contains(&task.id)
            {
                let tasks = by_node.entry(task.node_id.clone()).or_default();
                tasks.insert(task.id.clone());
            }
        }
        self.asked.extend(by_node.values().flatten().cloned());
        self.broker.subscribe(&self.id, &by_node, options)
    }

    /// The tasks that were named and run nowhere.
    fn without_node(&self, state: &State) -> Vec<String> {
        let tasks = self.selector.tasks.iter().filter_map(|id| state.task(id));
        tasks
            .filter(|task| task.node_id.is_empty())
            .map(|task| format!("task {} has not been scheduled", task.id))
            .collect()
    }

    /// Tells the reader something of the collection itself.
    async fn say(&self, text: &str) {
        let record = LogRecord {
            task_id: String::new(),
            node_id: String::new(),
            stream: STREAM_ERROR,
            timestamp: self.store.now().to_string(),
            data: Bytes::copy_from_slice(text.as_bytes()),
        };
        // A reader that is gone or stuck does not need to know.
        let _ = timeout(READER_PATIENCE, self.records.send(record)).await;
    }
}

/// The agents' side of the broker.
pub(super) struct Service<S> {
    pub(super) store: S,
    pub(super) sessions: Sessions,
    pub(super) broker: Broker,
}

#[tonic::async_trait]
impl<S: Store> proto::logs_server::Logs for Service<S> {
    type SubscriptionsStream = ReceiverStream<Result<proto::LogSubscription, Status>>;

    async fn subscriptions(
        &self,
        request: Request<proto::SubscriptionsRequest>,
    ) -> Result<Response<Self::SubscriptionsStream>, Status> {
        store::check_leading(&self.store)?;
        let session = self.sessions.of(&request, &request.get_ref().session_id)?;
        let (agent, subscriptions) = mpsc::channel(AGENT_QUEUE);
        let inner = self.broker.inner.clone();
        inner
            .lock()
            .agents
            .insert(session.node_id.clone(), agent.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = session.ended.cancelled() => {}
                () = agent.closed() => {}
            }
            let mut inner = inner.lock();
            let current = inner.agents.get(&session.node_id);
            if current.is_some_and(|current| current.same_channel(&agent)) {
                inner.agents.remove(&session.node_id);
            }
        });
        Ok(Response::new(ReceiverStream::new(subscriptions)))
    }

    async fn publish(
        &self,
        request: Request<Streaming<proto::LogChunk>>,
    ) -> Result<Response<proto::PublishResponse>, Status> {
        store::check_leading(&self.store)?;
        let node_id = sessions::peer(&request)?.node_id;
        let mut chunks = request.into_inner();
        while let Some(chunk) = chunks.next().await {
            self.broker.publish(&node_id, chunk?).await?;
        }
        Ok(Response::new(proto::PublishResponse {}))
    }
}
