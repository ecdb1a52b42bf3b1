//! A node's agent: the real decisions on tasks and the real queue of reports, on a simulated engine; it
//! talks to the real dispatcher over the simulated network.

use crate::{
    engine::Engine,
    executor::{self, Random},
    history::{History, Seen},
    member::{Managers, wall_clock},
    membership::{Kept, Membership},
    network::{Host, Network},
    route::Route,
};
use futures::FutureExt as _;
use parking_lot::Mutex;
use rand::Rng as _;
use skein_control::agent::{
    Orders,
    container::Container,
    reports::Reports,
    session::heard,
    store::Record,
    task::machine::{self, Action, Change, Situation},
};
use skein_model::{EngineDescription, NodeDescription, NodeResources, Task, TaskState, TaskStatus};
use skein_proto::{
    network::{EncodedUpdate, NetworkUpdate, Programmed, TunnelEnd},
    node::{
        AssignmentsMessage, AssignmentsRequest, HeartbeatRequest, NetworkRequest,
        ReportNetworkRequest, SessionMessage, SessionRequest, TaskStatusUpdate,
        UpdateTaskStatusRequest, dispatcher_server::Dispatcher as _,
    },
    view::View,
};
use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};
use tokio::sync::{mpsc, watch};
use tonic::{Code, Request, Status};

/// What it calls.
const DISPATCHER: &str = "/skein.node.Dispatcher/";
/// As the real agent's.
const REGISTER_DEADLINE: Duration = Duration::from_secs(10);
const HEARTBEAT_DEADLINE: Duration = Duration::from_secs(3);
const REPORT_DEADLINE: Duration = Duration::from_secs(15);
const REPORT_COALESCE: Duration = Duration::from_millis(20);
const REPORT_BATCH: usize = 500;
const RESYNC: Duration = Duration::from_secs(30);
/// Between sessions.
const RETRY_MS: (u64, u64) = (100, 2_000);
/// How long the kernel takes to be programmed, as a rule; and now and then, which is longer than a leader
/// waits for a node.
const PROGRAM_MS: (u64, u64) = (1, 50);
const PROGRAM_SLOWLY_MS: (u64, u64) = (500, 7_000);
/// How likely it is so slow, or refuses what it is to have; and when that is tried again.
const SLOW: f64 = 0.02;
const REFUSES: f64 = 0.04;
const PROGRAM_AGAIN_MS: (u64, u64) = (100, 1_500);
/// How long a record takes to be on the disk.
const STORE_MS: (u64, u64) = (1, 10);
/// What every node has to give.
pub(crate) const NANO_CPUS: i64 = 64_000_000_000;
const MEMORY_BYTES: i64 = 64 << 30;

/// What an agent remembers over a crash. Clones share it.
pub type Records = Arc<Mutex<BTreeMap<String, Record>>>;

/// What the node's kernel has of the network state. It outlives the agent. Clones share it.
pub type Kernel = Arc<Mutex<View>>;

/// What an agent needs of its host.
#[derive(Clone)]
pub struct Agent {
    /// Where it runs.
    pub host: Host,
    /// Whose tasks it runs.
    pub node_id: String,
    /// How far its wall clock is ahead.
    pub skew: Duration,
    /// What runs the containers.
    pub engine: Engine,
    /// What it remembers.
    pub records: Records,
    /// What its dataplane programs.
    pub kernel: Kernel,
    /// What carries its messages.
    pub network: Network,
    /// Whom they reach.
    pub managers: Managers,
    /// What its host keeps: its certificate, and the managers that it knows.
    pub membership: Membership,
    /// Sees what happens.
    pub history: History,
}

/// What the managers want of a task, and that they no longer know it.
type Wanted = (Arc<Task>, bool);

type Ended = Result<Infallible, Status>;

struct Entry {
    wanted: watch::Sender<Wanted>,
    status: watch::Receiver<TaskStatus>,
}

/// One run of an agent.
struct Run {
    agent: Agent,
    reports: Reports,
    entries: Mutex<BTreeMap<String, Entry>>,
    route: Route,
    /// What the managers say of the node's membership.
    orders: watch::Sender<Orders>,
}

/// Runs an agent until its process dies. What the managers say of the node's membership goes to `orders`.
pub async fn run(agent: Agent, orders: watch::Sender<Orders>) {
    let (network, managers) = (agent.network.clone(), agent.managers.clone());
    let route = Route::new(agent.host, network, managers, agent.membership.clone());
    let records: Vec<Record> = agent.records.lock().values().cloned().collect();
    let run = Arc::new(Run {
        agent,
        reports: Reports::default(),
        entries: Mutex::default(),
        route,
        orders,
    });
    for record in records {
        run.clone().supervise(record);
    }
    loop {
        let Err(status) = run.session().await;
        let host = run.agent.host;
        let line = format!("{host:?}: {}", status.message());
        run.agent.history.tell("session-ended", line);
        run.route.redirect(&status);
        if status.code() == Code::PermissionDenied {
            run.orders.send_modify(|orders| orders.removed = true);
        }
        pause(RETRY_MS).await;
    }
}

async fn pause((least, most): (u64, u64)) {
    executor::sleep(Duration::from_millis(Random.random_range(least..=most))).await;
}

impl Run {
    fn request<T>(&self, message: T) -> impl Fn() -> Request<T> + Send + Sync + 'static
    where
        T: Clone + Send + Sync + 'static,
    {
        let caller = self.agent.membership.identity();
        move || {
            let mut request = Request::new(message.clone());
            if let Some(caller) = caller.clone() {
                request.extensions_mut().insert(caller);
            }
            request
        }
    }

    async fn session(self: &Arc<Self>) -> Ended {
        let to = self.route.target()?;
        let certified = self.agent.membership.identity();
        let (host, network) = (self.agent.host, self.agent.network.clone());
        let description = NodeDescription {
            hostname: self.agent.node_id.clone(),
            resources: NodeResources {
                nano_cpus: NANO_CPUS,
                memory_bytes: MEMORY_BYTES,
                ..NodeResources::default()
            },
            engine: EngineDescription::default(),
            ..NodeDescription::default()
        };
        let request = self.request(SessionRequest {
            description: serde_json::to_vec(&description).unwrap_or_default(),
            data_path_address: crate::ip_of(host),
        });
        let opening = self
            .route
            .call(to, DISPATCHER, REGISTER_DEADLINE, move |manager| {
                let (request, network) = (request(), network.clone());
                async move {
                    let messages = manager.dispatcher().session(request).await?;
                    Ok(network.carry(to, host, messages.into_inner()))
                }
                .boxed()
            });
        let mut messages: mpsc::Receiver<Result<SessionMessage, Status>> = opening.await?;
        let first = executor::timeout(REGISTER_DEADLINE, messages.recv()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no first message"))?;
        let first = first.ok_or_else(ended)??;
        let id = first.session_id.clone();
        let period = Duration::from_millis(first.heartbeat_period_ms.into());
        self.take(first);
        self.report_all();
        let renewed = async {
            let mut kept = self.agent.membership.watch();
            let is_new = |now: &Option<Kept>| {
                let role = now.as_ref().map(|kept| kept.certified);
                role != certified.as_ref().map(|certified| certified.role)
            };
            // The managers must see the new certificate, and who now calls.
            drop(kept.wait_for(is_new).await);
            Err(Status::aborted("the node has another certificate"))
        };
        let never = futures::future::try_join(
            futures::future::try_join5(
                self.follow(messages),
                self.heartbeats(to, &id, period),
                self.assignments(to, &id),
                self.report(to, &id),
                self.program(to, &id),
            ),
            renewed,
        );
        never.await.map(|(_, never)| never)
    }

    fn take(&self, message: SessionMessage) {
        let (managers, orders) = heard(message);
        self.agent.membership.hear_of(managers);
        self.orders.send_replace(orders);
    }

    /// A leader that may have missed something hears of every task again.
    fn report_all(&self) {
        for (id, entry) in self.entries.lock().iter() {
            let status = entry.status.borrow().clone();
            self.reports.push(id, status);
        }
    }

    async fn follow(&self, mut messages: mpsc::Receiver<Result<SessionMessage, Status>>) -> Ended {
        while let Some(message) = messages.recv().await {
            self.take(message?);
        }
        Err(ended())
    }

    async fn heartbeats(&self, to: Host, id: &str, period: Duration) -> Ended {
        let request = self.request(HeartbeatRequest {
            session_id: id.to_owned(),
        });
        let request = Arc::new(request);
        loop {
            executor::sleep(period).await;
            let request = request.clone();
            self.route
                .call(to, DISPATCHER, HEARTBEAT_DEADLINE, move |manager| {
                    let request = request();
                    async move { manager.dispatcher().heartbeat(request).await }.boxed()
                })
                .await?;
        }
    }

    async fn assignments(self: &Arc<Self>, to: Host, id: &str) -> Ended {
        let (host, network) = (self.agent.host, self.agent.network.clone());
        let request = self.request(AssignmentsRequest {
            session_id: id.to_owned(),
        });
        let opening = self
            .route
            .call(to, DISPATCHER, REGISTER_DEADLINE, move |manager| {
                let (request, network) = (request(), network.clone());
                async move {
                    let messages = manager.dispatcher().assignments(request).await?;
                    Ok(network.carry(to, host, messages.into_inner()))
                }
                .boxed()
            });
        let mut messages: mpsc::Receiver<Result<AssignmentsMessage, Status>> = opening.await?;
        while let Some(message) = messages.recv().await {
            self.assign(&message?)?;
        }
        Err(ended())
    }

    fn assign(self: &Arc<Self>, message: &AssignmentsMessage) -> Result<(), Status> {
        let tasks = message.tasks.iter().map(|json| {
            serde_json::from_slice::<Task>(json).map_err(|e| Status::internal(e.to_string()))
        });
        let tasks = tasks.collect::<Result<Vec<_>, _>>()?;
        for task in &tasks {
            if task.desired_state > TaskState::Complete {
                self.agent.history.told_to_stop(task);
            }
        }
        if message.complete {
            let named = |id: &str| tasks.iter().any(|task| task.id == id);
            for (id, entry) in self.entries.lock().iter() {
                if !named(id) {
                    entry.wanted.send_modify(|wanted| wanted.1 = true);
                }
            }
            self.clear_up(&named);
        }
        for task in tasks {
            let entries = self.entries.lock();
            if let Some(entry) = entries.get(&task.id) {
                entry.wanted.send_replace((Arc::new(task), false));
                continue;
            }
            drop(entries);
            self.clone().supervise(Record {
                task,
                ..Record::default()
            });
        }
        let entries = self.entries.lock();
        let removed = message.removed_task_ids.iter();
        for entry in removed.filter_map(|id| entries.get(id)) {
            entry.wanted.send_modify(|wanted| wanted.1 = true);
        }
        Ok(())
    }

    /// Containers of tasks that neither this node nor the managers know.
    fn clear_up(&self, named: &impl Fn(&str) -> bool) {
        for id in self.agent.engine.known() {
            if !named(&id) && !self.entries.lock().contains_key(&id) {
                let engine = self.agent.engine.clone();
                executor::spawn(async move {
                    engine.stop(&id).await;
                    engine.remove(&id).await;
                });
            }
        }
    }

    async fn report(&self, to: Host, id: &str) -> Ended {
        loop {
            let batch = self.reports.take(REPORT_BATCH).await;
            executor::sleep(REPORT_COALESCE).await;
            self.reports.put_back(batch);
            let batch = self.reports.take(REPORT_BATCH).await;
            let updates = batch.iter().map(|(task_id, status)| TaskStatusUpdate {
                task_id: task_id.clone(),
                status: serde_json::to_vec(status).unwrap_or_default(),
            });
            let request = self.request(UpdateTaskStatusRequest {
                session_id: id.to_owned(),
                updates: updates.collect(),
            });
            let reporting = self
                .route
                .call(to, DISPATCHER, REPORT_DEADLINE, move |manager| {
                    let request = request();
                    async move { manager.dispatcher().update_task_status(request).await }.boxed()
                });
            match reporting.await {
                Ok(_) => {}
                Err(status) if status.code() == Code::PermissionDenied => {}
                Err(status) => {
                    self.reports.put_back(batch);
                    return Err(status);
                }
            }
        }
    }

    /// Takes the network state, and says that the kernel has it.
    async fn program(&self, to: Host, id: &str) -> Ended {
        let (host, network) = (self.agent.host, self.agent.network.clone());
        let session_id = id.to_owned();
        let request = self.request(NetworkRequest { session_id });
        let opening = self
            .route
            .call(to, DISPATCHER, REGISTER_DEADLINE, move |manager| {
                let (request, network) = (request(), network.clone());
                async move {
                    let updates = manager.dispatcher().network(request).await?;
                    Ok(network.carry(to, host, updates.into_inner()))
                }
                .boxed()
            });
        let mut updates: mpsc::Receiver<Result<EncodedUpdate, Status>> = opening.await?;
        let mut told = View::default();
        while let Some(update) = updates.recv().await {
            let update = NetworkUpdate::try_from(update?);
            told = told.after(update.expect("what managers send can be read"));
            if Random.random_bool(REFUSES) {
                self.report_network(to, id).await?;
                pause(PROGRAM_AGAIN_MS).await;
            }
            let is_slow = Random.random_bool(SLOW);
            pause(if is_slow {
                PROGRAM_SLOWLY_MS
            } else {
                PROGRAM_MS
            })
            .await;
            self.agent.kernel.lock().clone_from(&told);
            self.agent.history.see(&Seen::Programmed {
                node_id: &self.agent.node_id,
                kernel: &told,
            });
            self.report_network(to, id).await?;
        }
        Err(ended())
    }

    /// Says what the kernel has.
    async fn report_network(&self, to: Host, id: &str) -> Result<(), Status> {
        let version = self.agent.kernel.lock().version;
        let request = self.request(ReportNetworkRequest {
            session_id: id.to_owned(),
            programmed: Some(Programmed {
                version,
                tunnel: Some(TunnelEnd {
                    public_key: vec![self.agent.host.0 as u8; 32],
                    port: 4793,
                    ..TunnelEnd::default()
                }),
                ..Programmed::default()
            }),
        });
        self.route
            .call(to, DISPATCHER, REPORT_DEADLINE, move |manager| {
                let request = request();
                async move { manager.dispatcher().report_network(request).await }.boxed()
            })
            .await?;
        Ok(())
    }

    /// Looks after a task for as long as there is anything of it.
    fn supervise(self: Arc<Self>, record: Record) {
        let id = record.task.id.clone();
        let (wanted, wants) = watch::channel((Arc::new(record.task.clone()), record.removed));
        let (said, status) = watch::channel(record.task.status.clone());
        let entry = Entry { wanted, status };
        self.entries.lock().insert(id, entry);
        executor::spawn(async move {
            let supervisor = Supervisor {
                run: self,
                record,
                wants,
                said,
            };
            supervisor.run().await;
        });
    }
}

fn ended() -> Status {
    Status::unavailable("the manager ended it")
}

struct Supervisor {
    run: Arc<Run>,
    record: Record,
    wants: watch::Receiver<Wanted>,
    said: watch::Sender<TaskStatus>,
}

impl Supervisor {
    async fn run(mut self) {
        let engine = self.run.agent.engine.clone();
        let mut changes = engine.changes();
        loop {
            let (task, removed) = self.wants.borrow_and_update().clone();
            if self.record.take_wanted(&task, removed) {
                self.keep().await;
            }
            changes.mark_unchanged();
            let task = &self.record.task;
            let container = engine.look(&task.id);
            let action = machine::next(&Situation {
                process_ended: engine.process_ended(&task.id),
                ..Situation::of(&self.record, &container)
            });
            match action {
                // No container here has a health check: nothing is given up.
                Action::Wait | Action::GiveUp => {
                    tokio::select! {
                        biased;
                        _ = self.wants.changed() => {}
                        _ = changes.changed() => {}
                        () = executor::sleep(RESYNC) => {}
                    }
                }
                Action::Report(change) => self.report(change).await,
                Action::Prepare => match container {
                    Container::Missing => {
                        let made = engine.create(task).await;
                        self.after(made, TaskState::Ready).await;
                    }
                    _ => self.after(Ok(()), TaskState::Ready).await,
                },
                Action::Start => {
                    if let failed @ Err(_) = engine.start(task).await {
                        self.after(failed, TaskState::Starting).await;
                    }
                }
                Action::Stop { .. } => engine.stop(&task.id).await,
                Action::Remove => engine.remove(&task.id).await,
                Action::Forget => {
                    pause(STORE_MS).await;
                    let id = &self.record.task.id;
                    self.run.agent.records.lock().remove(id);
                    self.run.entries.lock().remove(id);
                    return;
                }
            }
        }
    }

    /// What comes of a step.
    async fn after(&mut self, step: Result<(), String>, next: TaskState) {
        let status = self.record.task.status.clone();
        let container = self.run.agent.engine.look(&self.record.task.id);
        let change = match step {
            Ok(()) => Change {
                state: next,
                message: "prepared".to_owned(),
                container: container.status().cloned(),
                ..Change::default()
            },
            Err(error) => machine::failed(status.state, &status.message, error, &container),
        };
        self.report(change).await;
    }

    async fn report(&mut self, change: Change) {
        let task = &mut self.record.task;
        task.status = TaskStatus {
            timestamp: wall_clock(self.run.agent.skew),
            state: change.state,
            message: change.message,
            err: change.err,
            container_status: change.container,
            port_status: change.ports,
            ..TaskStatus::default()
        };
        self.keep().await;
        let task = &self.record.task;
        self.run.reports.push(&task.id, task.status.clone());
    }

    /// On the disk before anybody hears of it.
    async fn keep(&mut self) {
        pause(STORE_MS).await;
        let task = &self.record.task;
        let mut records = self.run.agent.records.lock();
        records.insert(task.id.clone(), self.record.clone());
        drop(records);
        self.said.send_replace(task.status.clone());
    }
}
