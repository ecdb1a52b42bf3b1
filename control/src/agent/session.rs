//! In touch with the leader: register, heartbeats, assignments, network state, reports.
//!
//! Whatever ends a session, another is opened at once; the tasks do not notice.

use super::{
    Orders, RaftSeat,
    attachments::Attachments,
    logs,
    task::{Environment, Tasks},
};
use crate::{
    backoff,
    rpc::{Managers, RemoteManager},
};
use skein_model::{Node, NodeDescription, NodeRole, Task};
use skein_proto::{
    network::NetworkUpdate,
    node::{
        AssignmentsMessage, AssignmentsRequest, DescribeRequest, HeartbeatRequest, NetworkRequest,
        ReportNetworkRequest, SessionMessage, SessionRequest, TaskStatusUpdate,
        UpdateTaskStatusRequest, dispatcher_client::DispatcherClient,
    },
};
use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tonic::{Code, Response, Status, Streaming, transport::Channel};

/// Between sessions: the first time, and the longest. Jittered, as all nodes lose a leader at once.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(3);
/// A session that lasted as long as this had begun well.
const SETTLED: Duration = Duration::from_secs(5);
/// For the node to be registered, which the leader puts into its store.
const REGISTER_DEADLINE: Duration = Duration::from_secs(10);
/// A leader that does not answer a heartbeat within this time is given up.
const HEARTBEAT_DEADLINE: Duration = Duration::from_secs(3);
/// Between looks at what the engine says of the node: Swarm's time.
const DESCRIBE_INTERVAL: Duration = Duration::from_secs(20);
/// Between looks whether the engine answers.
const ENGINE_LOOK: Duration = Duration::from_secs(3);
/// An engine that has not answered for this long is gone: longer than it takes to be started again, with an
/// upgrade between.
const ENGINE_PATIENCE: Duration = Duration::from_secs(15);
/// For reports, which the leader puts into its store.
const REPORT_DEADLINE: Duration = Duration::from_secs(15);
/// Statuses that come within this time go in one call.
const REPORT_COALESCE: Duration = Duration::from_millis(20);
/// Statuses in one call.
const REPORT_BATCH: usize = 500;
/// Heartbeats are not to come more often than this, whatever the leader says.
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);
/// The largest message: all of the network state of a large cluster.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

type Client = DispatcherClient<Channel>;
type Ended = Result<Infallible, Status>;

/// The node's side of its sessions.
pub struct Session {
    /// The way to the leader.
    pub managers: Managers,
    /// Where tasks get what they need.
    pub environment: Environment,
    /// The tasks.
    pub tasks: Tasks,
    /// The places of containers that are no task's.
    pub attachments: Attachments,
    /// See [`Config`](super::Config::data_path_addr).
    pub data_path_addr: watch::Receiver<String>,
    /// See [`Config`](super::Config::orders).
    pub orders: watch::Sender<Orders>,
}

/// What a message says: which managers there are, and what of the node's own membership.
pub fn heard(message: SessionMessage) -> (Vec<RemoteManager>, Orders) {
    let managers = message.managers.into_iter();
    let managers: Vec<RemoteManager> = managers.map(RemoteManager::from).collect();
    let node = serde_json::from_slice::<Node>(&message.node).ok();
    let place = node.as_ref().map(|node| RaftSeat {
        is_manager: (node.role, node.spec.role) == (NodeRole::Manager, NodeRole::Manager),
        raft_id: message.raft_id,
        is_member: managers.iter().any(|manager| manager.node_id == node.id),
        index: message.index,
    });
    let orders = Orders {
        role: node.map(|node| node.role),
        place: place.unwrap_or_default(),
        root_pem: message.root_pem,
        issuer_key: message.issuer_key,
        renew: message.renew,
        removed: false,
    };
    (managers, orders)
}

impl Session {
    /// Keeps the node registered for ever.
    pub async fn run(&self) {
        let mut failures = 0;
        loop {
            let begun = Instant::now();
            let Err(status) = self.run_once().await;
            self.managers.redirect(&status);
            if status.code() == Code::PermissionDenied {
                self.order(|orders| orders.removed = true);
            }
            if begun.elapsed() >= SETTLED {
                failures = 0;
            }
            let reason = status.message();
            match failures {
                0 => tracing::info!("the session with the managers ended: {reason}"),
                5 => tracing::warn!("no manager takes this node: {reason}; its tasks go on"),
                _ => tracing::debug!("no session with the managers: {reason}"),
            }
            let delay = backoff::pause(RETRY_MIN, RETRY_MAX, failures);
            sleep(delay).await;
            failures += 1;
        }
    }

    async fn run_once(&self) -> Ended {
        let alive = self.environment.engine.ping().await;
        alive.map_err(|error| Status::failed_precondition(error.to_string()))?;
        let description = match self.environment.description.load_full() {
            Some(description) => description,
            // Not of use before its engine is.
            None => {
                let described = self.environment.engine.describe().await;
                Arc::new(described.map_err(|error| Status::failed_precondition(error.to_string()))?)
            }
        };
        let credentials = self.managers.credentials();
        let mut renewed = credentials.generation();
        renewed.mark_unchanged();
        let mut description = (*description).clone();
        description.tls_info = credentials
            .identity()
            .tls_info()
            .map_err(|error| Status::internal(error.to_string()))?;
        let channel = self.managers.leader().await;
        let channel = channel.map_err(|error| Status::unavailable(error.to_string()))?;
        let client = Client::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut data_path_addr = self.data_path_addr.clone();
        let request = SessionRequest {
            description: serde_json::to_vec(&description)
                .map_err(|error| Status::internal(error.to_string()))?,
            data_path_address: data_path_addr.borrow_and_update().clone(),
        };
        let mut registering = client.clone();
        let begun = async {
            let mut messages = registering.session(request).await?.into_inner();
            let first = messages.message().await?.ok_or_else(ended)?;
            Ok((messages, first))
        };
        let (messages, first) = within(REGISTER_DEADLINE, "to register", begun).await?;
        let id = first.session_id.clone();
        let (periods, period) = watch::channel(period_of(&first));
        self.take(first);
        tracing::info!(session = id, "registered with the managers");
        // What earlier sessions may not have delivered.
        self.tasks.report_all();
        self.attachments.report_all();
        let never = tokio::try_join!(
            self.follow(messages, periods),
            heartbeats(client.clone(), &id, period),
            self.assignments(client.clone(), &id),
            self.network(client.clone(), &id),
            self.report(client.clone(), &id),
            self.report_network(client.clone(), &id),
            self.describe(client, &id, description),
            self.await_engine_gone(),
            logs::serve(&self.environment.engine, &self.tasks, channel, &id),
            async {
                // The managers must see the new certificate, and who now calls.
                drop(renewed.changed().await);
                Err::<Infallible, _>(Status::aborted("the node has another certificate"))
            },
            async {
                if data_path_addr.changed().await.is_err() {
                    // The node ends, and so will this.
                    std::future::pending::<()>().await;
                }
                Err::<Infallible, _>(Status::aborted("the node has another address"))
            },
        );
        never.map(|(never, ..)| never)
    }

    fn take(&self, message: SessionMessage) {
        let (managers, orders) = heard(message);
        self.managers.update(managers);
        self.order(|known| *known = orders);
    }

    fn order(&self, change: impl FnOnce(&mut Orders)) {
        self.orders.send_if_modified(|known| {
            let before = known.clone();
            change(known);
            *known != before
        });
    }

    async fn follow(
        &self,
        mut messages: Streaming<SessionMessage>,
        periods: watch::Sender<Duration>,
    ) -> Ended {
        while let Some(message) = messages.message().await? {
            periods.send_replace(period_of(&message));
            self.take(message);
        }
        Err(ended())
    }

    async fn assignments(&self, mut client: Client, id: &str) -> Ended {
        let request = AssignmentsRequest {
            session_id: id.to_owned(),
        };
        let opened = client.assignments(request);
        let opened = within(REGISTER_DEADLINE, "for the node's tasks", opened).await?;
        let mut messages = opened.into_inner();
        let mut gathering = Gathering::default();
        self.environment.dependencies.begin();
        while let Some(message) = messages.message().await? {
            let tasks = gathering.take(message.complete, tasks_of(&message)?);
            let dependencies = &self.environment.dependencies;
            dependencies.take(&message, &tasks).map_err(|error| {
                Status::internal(format!("a secret or config cannot be read: {error}"))
            })?;
            let (complete, removed) = (message.complete, &message.removed_task_ids);
            let (attachments, tasks) = tasks.into_iter().partition(Task::is_attachment);
            self.attachments.assign(complete, attachments, removed);
            self.tasks.assign(complete, tasks, removed);
            if !message.secrets.is_empty() {
                // Some may wait for it.
                self.tasks.wake_all();
            }
        }
        Err(ended())
    }

    async fn network(&self, mut client: Client, id: &str) -> Ended {
        let request = NetworkRequest {
            session_id: id.to_owned(),
        };
        let opened = client.network(request);
        let opened = within(REGISTER_DEADLINE, "for the node's network", opened).await?;
        let mut updates = opened.into_inner();
        while let Some(update) = updates.message().await? {
            let update = NetworkUpdate::try_from(update).map_err(|error| {
                Status::internal(format!("a network state cannot be read: {error}"))
            })?;
            self.environment.networks.take(update);
        }
        Err(ended())
    }

    /// Tells what the node is whenever it is another than was `told`.
    async fn describe(&self, mut client: Client, id: &str, mut told: NodeDescription) -> Ended {
        let environment = &self.environment;
        loop {
            sleep(DESCRIBE_INTERVAL).await;
            // An engine that is away is what it was.
            let Ok(now) = environment.engine.describe().await else {
                continue;
            };
            environment.description.store(Some(Arc::new(now.clone())));
            let now = NodeDescription {
                tls_info: told.tls_info.clone(),
                ..now
            };
            if now == told {
                continue;
            }
            let request = DescribeRequest {
                session_id: id.to_owned(),
                description: serde_json::to_vec(&now)
                    .map_err(|error| Status::internal(error.to_string()))?,
            };
            let call = client.describe(request);
            within(REPORT_DEADLINE, "to take what the node is", call).await?;
            tracing::info!("the managers know what the node has become");
            told = now;
        }
    }

    /// Ends once the engine is gone: what the node is told to run it cannot run, and what has ended it cannot
    /// tell. Without a session the managers count it as down, and its tasks are wanted elsewhere.
    async fn await_engine_gone(&self) -> Ended {
        let mut answered = Instant::now();
        loop {
            sleep(ENGINE_LOOK).await;
            match self.environment.engine.ping().await {
                Ok(()) => answered = Instant::now(),
                Err(_) if answered.elapsed() < ENGINE_PATIENCE => {}
                Err(error) => return Err(Status::failed_precondition(error.to_string())),
            }
        }
    }

    async fn report(&self, mut client: Client, id: &str) -> Ended {
        let reports = &self.environment.reports;
        loop {
            let mut batch = reports.take(REPORT_BATCH).await;
            sleep(REPORT_COALESCE).await;
            reports.put_back(batch);
            batch = reports.take(REPORT_BATCH).await;
            let updates = batch.iter().filter_map(|(task_id, status)| {
                Some(TaskStatusUpdate {
                    task_id: task_id.clone(),
                    status: serde_json::to_vec(status).ok()?,
                })
            });
            let request = UpdateTaskStatusRequest {
                session_id: id.to_owned(),
                updates: updates.collect(),
            };
            let call = client.update_task_status(request);
            match within(REPORT_DEADLINE, "to take the status of tasks", call).await {
                Ok(_) => {}
                // It has taken those of the node's own tasks that it can read, and would refuse the
                // others again.
                Err(status) if is_refusal(&status) => {
                    tracing::warn!(
                        "the leader refused the status of tasks: {}",
                        status.message()
                    );
                }
                Err(status) => {
                    reports.put_back(batch);
                    return Err(status);
                }
            }
        }
    }

    async fn report_network(&self, mut client: Client, id: &str) -> Ended {
        let mut answers = self.environment.networks.answers();
        loop {
            let programmed = answers.borrow_and_update().clone();
            if let Some(programmed) = programmed {
                let request = ReportNetworkRequest {
                    session_id: id.to_owned(),
                    programmed: Some(programmed),
                };
                let call = client.report_network(request);
                within(REPORT_DEADLINE, "to take the state of the network", call).await?;
            }
            if answers.changed().await.is_err() {
                return Err(ended());
            }
        }
    }
}

/// Whether the leader has taken all statuses of a call but some, which it names.
fn is_refusal(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::PermissionDenied | Code::InvalidArgument
    )
}

/// The tasks of the messages that make up the first, complete list.
#[derive(Default)]
struct Gathering {
    complete: bool,
    tasks: Vec<Task>,
}

impl Gathering {
    /// Which tasks to assign once a message has come with `tasks`: none while the list grows, all of
    /// them with the message that completes it, and then those of each message.
    fn take(&mut self, complete: bool, tasks: Vec<Task>) -> Vec<Task> {
        if self.complete && !complete {
            return tasks;
        }
        self.tasks.extend(tasks);
        self.complete |= complete;
        if !self.complete {
            return Vec::new();
        }
        std::mem::take(&mut self.tasks)
    }
}

/// How often the managers want to hear of the node.
fn period_of(message: &SessionMessage) -> Duration {
    Duration::from_millis(message.heartbeat_period_ms.into()).max(HEARTBEAT_MIN)
}

/// `told` is the period that the session says: one that becomes shorter holds at once, not after the longer one.
async fn heartbeats(mut client: Client, id: &str, mut told: watch::Receiver<Duration>) -> Ended {
    let mut period = *told.borrow_and_update();
    loop {
        let sent = Instant::now();
        while sent.elapsed() < period {
            tokio::select! {
                () = sleep(period.saturating_sub(sent.elapsed())) => {}
                changed = told.changed() => {
                    if changed.is_err() {
                        return Err(ended());
                    }
                    period = *told.borrow_and_update();
                }
            }
        }
        let request = HeartbeatRequest {
            session_id: id.to_owned(),
        };
        let call = client.heartbeat(request);
        let answer: Response<_> = within(HEARTBEAT_DEADLINE, "a heartbeat", call).await?;
        let asked = Duration::from_millis(answer.into_inner().period_ms.into());
        period = asked.max(HEARTBEAT_MIN);
    }
}

#[allow(clippy::result_large_err, reason = "tonic's error type")]
fn tasks_of(message: &AssignmentsMessage) -> Result<Vec<Task>, Status> {
    let tasks = message.tasks.iter().map(|json| {
        serde_json::from_slice(json)
            .map_err(|error| Status::internal(format!("a task cannot be read: {error}")))
    });
    tasks.collect()
}

/// A call with a deadline.
async fn within<T>(
    deadline: Duration,
    what: &str,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    timeout(deadline, call).await.unwrap_or_else(|_| {
        let seconds = deadline.as_secs();
        Err(Status::deadline_exceeded(format!(
            "the manager did not answer {what} in {seconds} s"
        )))
    })
}

fn ended() -> Status {
    Status::unavailable("the manager ended it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_assigned_once_all_of_them_are_there() {
        let ids = |tasks: Vec<Task>| tasks.into_iter().map(|task| task.id).collect::<Vec<_>>();
        let task = |id: &str| Task {
            id: id.into(),
            ..Task::default()
        };
        let mut gathering = Gathering::default();
        assert!(gathering.take(false, vec![task("a")]).is_empty());
        assert!(gathering.take(false, Vec::new()).is_empty());
        assert_eq!(ids(gathering.take(true, vec![task("b")])), ["a", "b"]);
        assert_eq!(ids(gathering.take(false, vec![task("c")])), ["c"]);
        assert!(gathering.take(false, Vec::new()).is_empty());
    }

    #[test]
    fn a_broken_task_is_an_error() {
        let message = |json: &str| AssignmentsMessage {
            tasks: vec![json.as_bytes().to_vec()],
            ..AssignmentsMessage::default()
        };
        let tasks = tasks_of(&message(r#"{"ID":"t1","X-Skein-Mode":{"Replicated":{}}}"#));
        assert_eq!(tasks.unwrap()[0].id, "t1");
        assert!(tasks_of(&message("{")).is_err());
    }
}
