//! One simulated node: it joins with a token, and keeps a session with the leader.

use super::{
    engine::{DELAY, Engine},
    told::{PROBE, Told},
};
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use skein_control::{
    identity::JoinToken,
    node::obtain_identity,
    rpc::{Credentials, Managers, RemoteManager},
};
use skein_model::{
    Availability, EngineDescription, NodeDescription, NodeResources, Platform, Task, TaskState,
};
use skein_proto::{
    network::{EncodedUpdate, Programmed},
    node::{
        AssignmentsMessage, AssignmentsRequest, HeartbeatRequest, LogSubscription, NetworkRequest,
        ReportNetworkRequest, SessionMessage, SessionRequest, SubscriptionsRequest,
        TaskStatusUpdate, UpdateTaskStatusRequest, dispatcher_client::DispatcherClient,
        logs_client::LogsClient,
    },
};
use std::{
    convert::Infallible,
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, Semaphore, mpsc},
    time::{Instant, interval_at, sleep, timeout_at},
};
use tonic::{Status, Streaming, transport::Channel};

type Ended = Result<Infallible, Status>;

/// Between sessions, at least; as much again at random.
const RETRY: Duration = Duration::from_millis(500);
/// As an agent has it: all of the network state of a large cluster.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Processors and memory of a node: more than its tasks reserve.
const NANO_CPUS: i64 = 64_000_000_000;
const MEMORY_BYTES: i64 = 256 << 30;

/// A node.
pub struct Node {
    /// Its host name.
    pub name: String,
    /// Its data path address.
    pub address: Ipv4Addr,
    /// The manager that it joins by.
    pub manager: String,
    /// What it joins with.
    pub token: Arc<JoinToken>,
    /// The way to whoever started this.
    pub told: mpsc::Sender<Told>,
    /// Of its engine's delays.
    pub rng: ChaCha8Rng,
}

impl Node {
    /// Joins once `joining` lets it, and takes tasks for ever.
    pub async fn run(mut self, joining: Arc<Semaphore>) {
        let joined = {
            // Never closed.
            let _turn = joining.acquire().await;
            self.join().await
        };
        let managers = match joined {
            Ok(managers) => managers,
            Err(error) => {
                let reason = format!("{}: {error:#}", self.name);
                return self.tell(Told::Refused { reason }).await;
            }
        };
        self.tell(Told::Joined).await;
        loop {
            let Err(status) = self.session(&managers).await;
            managers.redirect(&status);
            let reason = status.message().to_owned();
            self.tell(Told::Ended { reason }).await;
            sleep(RETRY.mul_f64(1.0 + self.rng.random::<f64>())).await;
        }
    }

    async fn tell(&self, told: Told) {
        // Without a reader the process is about to end.
        let _ = self.told.send(told).await;
    }

    async fn join(&self) -> anyhow::Result<Managers> {
        // The swarm of a benchmark has no authority but its own.
        let waits = |_: &str| {};
        let active = Availability::Active;
        let identity = obtain_identity(&self.manager, &self.token, active, waits).await?;
        let known = vec![RemoteManager {
            node_id: String::new(),
            address: self.manager.clone(),
        }];
        Ok(Managers::new(Credentials::new(identity)?, known))
    }

    /// One session with the leader, as an agent keeps it: nothing waits for anything else.
    async fn session(&mut self, managers: &Managers) -> Ended {
        let channel = managers.leader().await;
        let channel = channel.map_err(|error| Status::unavailable(error.to_string()))?;
        let opened = Streams::open(channel, self.description(managers)?, self.address).await?;
        let (call, streams) = opened;
        take_managers(managers, &streams.first);
        self.tell(Told::Registered).await;
        let tasks = Tasks {
            engine: Mutex::default(),
            news: Notify::new(),
            begun: Instant::now(),
        };
        let period = Duration::from_millis(streams.first.heartbeat_period_ms.into());
        // Not all at the same moment.
        let offset = period.mul_f64(self.rng.random());
        let never = tokio::try_join!(
            follow(streams.sessions, managers),
            heartbeats(call.clone(), offset, period),
            self.assignments(streams.assignments, &tasks),
            report(call.clone(), &tasks),
            network(call, streams.network),
            subscriptions(streams.subscriptions),
        );
        never.map(|(never, ..)| never)
    }

    async fn assignments(
        &mut self,
        mut messages: Streaming<AssignmentsMessage>,
        tasks: &Tasks,
    ) -> Ended {
        let mut complete = false;
        while let Some(message) = messages.message().await? {
            let told = message
                .tasks
                .iter()
                .map(|json| serde_json::from_slice(json));
            let told = told.collect::<Result<Vec<Task>, _>>();
            let told = told.map_err(|error| Status::internal(error.to_string()))?;
            complete |= message.complete;
            for task in told.iter().filter(|_| complete) {
                self.arrived(task).await;
            }
            {
                let mut engine = tasks.engine.lock().unwrap_or_else(PoisonError::into_inner);
                for id in &message.removed_task_ids {
                    engine.remove(id);
                }
                for task in &told {
                    let delay = self.rng.random_range(DELAY.0..DELAY.1);
                    engine.assign(task, tasks.begun.elapsed(), delay);
                }
            }
            tasks.news.notify_one();
        }
        Err(ended())
    }

    async fn arrived(&self, task: &Task) {
        if task.service_name.starts_with(PROBE) {
            let service = task.service_name.clone();
            let runs = task.desired_state <= TaskState::Running;
            self.tell(Told::Arrived { service, runs }).await;
        }
    }

    #[allow(clippy::result_large_err, reason = "tonic's error type")]
    fn description(&self, managers: &Managers) -> Result<NodeDescription, Status> {
        let identity = managers.credentials().identity();
        Ok(NodeDescription {
            hostname: self.name.clone(),
            platform: Platform {
                architecture: "x86_64".into(),
                os: "linux".into(),
            },
            resources: NodeResources {
                nano_cpus: NANO_CPUS,
                memory_bytes: MEMORY_BYTES,
                generic_resources: Vec::new(),
            },
            engine: EngineDescription {
                engine_version: "20.10.24".into(),
                ..EngineDescription::default()
            },
            tls_info: identity
                .tls_info()
                .map_err(|error| Status::internal(error.to_string()))?,
        })
    }
}

/// The tasks of a session.
struct Tasks {
    engine: Mutex<Engine>,
    news: Notify,
    /// What the engine's times are since.
    begun: Instant,
}

/// The way to the leader in a session.
#[derive(Clone)]
struct Call {
    client: DispatcherClient<Channel>,
    session_id: String,
}

/// What the leader sends in a session.
struct Streams {
    first: SessionMessage,
    sessions: Streaming<SessionMessage>,
    assignments: Streaming<AssignmentsMessage>,
    network: Streaming<EncodedUpdate>,
    subscriptions: Streaming<LogSubscription>,
}

impl Streams {
    async fn open(
        channel: Channel,
        description: NodeDescription,
        address: Ipv4Addr,
    ) -> Result<(Call, Self), Status> {
        let client = DispatcherClient::new(channel.clone());
        let mut client = client.max_decoding_message_size(MESSAGE_BYTES_MAX);
        let request = SessionRequest {
            description: serde_json::to_vec(&description)
                .map_err(|error| Status::internal(error.to_string()))?,
            data_path_address: address.to_string(),
        };
        let mut sessions = client.session(request).await?.into_inner();
        let first = sessions.message().await?.ok_or_else(ended)?;
        let session_id = first.session_id.clone();
        let id = || session_id.clone();
        let assignments = client.assignments(AssignmentsRequest { session_id: id() });
        let assignments = assignments.await?.into_inner();
        let network = client.network(NetworkRequest { session_id: id() });
        let network = network.await?.into_inner();
        let mut logs = LogsClient::new(channel);
        let subscriptions = logs.subscriptions(SubscriptionsRequest { session_id: id() });
        let subscriptions = subscriptions.await?.into_inner();
        let streams = Self {
            first,
            sessions,
            assignments,
            network,
            subscriptions,
        };
        Ok((Call { client, session_id }, streams))
    }
}

async fn follow(mut messages: Streaming<SessionMessage>, managers: &Managers) -> Ended {
    while let Some(message) = messages.message().await? {
        take_managers(managers, &message);
    }
    Err(ended())
}

/// Nobody asks for logs.
async fn subscriptions(mut messages: Streaming<LogSubscription>) -> Ended {
    while messages.message().await?.is_some() {}
    Err(ended())
}

async fn heartbeats(mut call: Call, offset: Duration, period: Duration) -> Ended {
    let mut beats = interval_at(Instant::now() + offset, period);
    loop {
        beats.tick().await;
        let session_id = call.session_id.clone();
        call.client
            .heartbeat(HeartbeatRequest { session_id })
            .await?;
    }
}

/// Says of every update that all of it is in the kernel.
async fn network(mut call: Call, mut updates: Streaming<EncodedUpdate>) -> Ended {
    while let Some(update) = updates.message().await? {
        let programmed = Programmed {
            version: update.version,
            problems: Vec::new(),
            tunnel: None,
        };
        let request = ReportNetworkRequest {
            session_id: call.session_id.clone(),
            programmed: Some(programmed),
        };
        call.client.report_network(request).await?;
    }
    Err(ended())
}

/// Reports what tasks come to, when they do.
async fn report(mut call: Call, tasks: &Tasks) -> Ended {
    loop {
        let (reports, next) = {
            let mut engine = tasks.engine.lock().unwrap_or_else(PoisonError::into_inner);
            (engine.take_due(tasks.begun.elapsed()), engine.next_due())
        };
        if reports.is_empty() {
            match next {
                // Whichever is first.
                Some(due) => drop(timeout_at(tasks.begun + due, tasks.news.notified()).await),
                None => tasks.news.notified().await,
            }
            continue;
        }
        let updates = reports.iter().map(|(task_id, status)| {
            let status = serde_json::to_vec(status);
            Ok(TaskStatusUpdate {
                task_id: task_id.clone(),
                status: status.map_err(|error| Status::internal(error.to_string()))?,
            })
        });
        let request = UpdateTaskStatusRequest {
            session_id: call.session_id.clone(),
            updates: updates.collect::<Result<_, Status>>()?,
        };
        call.client.update_task_status(request).await?;
    }
}

fn take_managers(managers: &Managers, message: &SessionMessage) {
    let known = message.managers.iter().map(|manager| RemoteManager {
        node_id: manager.node_id.clone(),
        address: manager.address.clone(),
    });
    managers.update(known.collect());
}

fn ended() -> Status {
    Status::unavailable("the manager ended it")
}
