//! One task: looks, asks the [`machine`], does, and looks again.

use super::{
    listening,
    machine::{self, Action, Change, Situation},
    registry::{Environment, Wanted},
};
use crate::{
    agent::{
        container::{self, Container, Endpoint, File, FilesError, Health, LABEL_TASK_ID, Plan},
        engine::{EngineError, TwinSpec},
        store::{CREDENTIALS_WITHHELD, Record},
    },
    clock,
};
use rand::Rng as _;
use skein_model::{Nanos, Task, TaskState, TaskStatus};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep},
};

/// How long an endpoint drains before its task is told to end. The managers mark the endpoint at the
/// same moment as the task, and every node has that in its kernel well within this time; what comes
/// late is sent on by the second hop.
const DRAIN_DELAY: Duration = Duration::from_secs(1);
/// A task whose ports are not listened on is taken for ready after this time: its service may well
/// publish a port that it opens on demand.
const LISTEN_PATIENCE: Duration = Duration::from_secs(5);
/// Between looks at a task that is not ready yet.
const LISTEN_POLL: Duration = Duration::from_millis(100);
/// Between looks at a task of which nothing is heard: events may get lost.
const RESYNC: Duration = Duration::from_secs(30);
/// Between looks for an engine that does not answer.
const AWAY_POLL: Duration = Duration::from_secs(1);
/// Between tries of what failed for a passing reason: the first, and the longest.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// A step that did not work.
enum Failure {
    /// Worth another try.
    Passing(String),
    /// The end of the task.
    Final(String),
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        if error.is_passing() {
            Self::Passing(error.to_string())
        } else {
            Self::Final(error.to_string())
        }
    }
}

pub(super) struct Supervisor {
    environment: Environment,
    record: Record,
    /// The record is on the disk as it is.
    stored: bool,
    wanted: watch::Receiver<Wanted>,
    wake: Arc<Notify>,
    said: watch::Sender<TaskStatus>,
    /// When its container was first seen running by this agent.
    running_since: Option<Instant>,
    /// When its endpoint began to drain.
    draining_since: Option<Instant>,
    /// Tries of the present step that failed for a passing reason.
    tries: u32,
}

impl Supervisor {
    pub(super) fn new(
        environment: Environment,
        record: Record,
        stored: bool,
        wanted: watch::Receiver<Wanted>,
        wake: Arc<Notify>,
        said: watch::Sender<TaskStatus>,
    ) -> Self {
        Self {
            environment,
            record,
            stored,
            wanted,
            wake,
            said,
            running_since: None,
            draining_since: None,
            tries: 0,
        }
    }

    /// Runs until the task has left no trace.
    pub(super) async fn run(mut self) {
        loop {
            self.take_wanted().await;
            let container = self.look().await;
            let listening = self.listens(&container).await;
            let task = &self.record.task;
            let action = machine::next(&Situation {
                desired: task.desired_state,
                removed: self.record.removed,
                state: task.status.state,
                message: &task.status.message,
                container: &container,
                unhealthy: self.record.unhealthy,
                listening,
            });
            match action {
                Action::Wait => self.wait(&container).await,
                Action::Report(change) => self.report(change).await,
                Action::Prepare => self.prepare(&container).await,
                Action::Start => self.start(&container).await,
                Action::Stop { unhealthy } => self.stop(&container, unhealthy).await,
                Action::Remove => self.remove(&container).await,
                Action::Forget => {
                    self.remove_files().await;
                    if let Err(error) = self.environment.store.remove(&task.id).await {
                        tracing::error!("{error:#}");
                    }
                    return;
                }
            }
        }
    }

    /// Takes over what the managers want. What the node itself has seen of the task stays, unless
    /// the managers know that it has ended.
    async fn take_wanted(&mut self) {
        let wanted = self.wanted.borrow_and_update().clone();
        let own = &self.record.task.status;
        let theirs = &wanted.task.status;
        let status = if theirs.state > own.state {
            theirs.clone()
        } else {
            own.clone()
        };
        let task = Task {
            status,
            ..(*wanted.task).clone()
        };
        if self.record.task != task || self.record.removed != wanted.removed {
            if task.desired_state != self.record.task.desired_state {
                self.tries = 0;
            }
            self.record.task = task;
            self.record.removed = wanted.removed;
            self.stored = false;
        }
        self.keep().await;
    }

    async fn keep(&mut self) {
        if self.stored {
            return;
        }
        // A node whose disk is full goes on: only a restart of the agent would lose this, and the
        // managers and the engine know enough to make it up.
        match self.environment.store.put(&self.record).await {
            Ok(()) => self.stored = true,
            Err(error) => tracing::error!("{error:#}"),
        }
        self.said.send_replace(self.record.task.status.clone());
    }

    /// ID of the container once it is known, its name before.
    fn reference(&self) -> String {
        let known = self.record.task.status.container_status.as_ref();
        match known.filter(|container| !container.container_id.is_empty()) {
            Some(container) => container.container_id.clone(),
            None => self.record.task.name(),
        }
    }

    async fn look(&mut self) -> Container {
        let found = self.environment.engine.container(&self.reference()).await;
        let container = match found {
            Ok(Some(inspect)) => {
                let labels = inspect.config.as_ref().and_then(|c| c.labels.as_ref());
                let owner = labels.and_then(|labels| labels.get(LABEL_TASK_ID));
                if owner == Some(&self.record.task.id) {
                    container::observe(&inspect, &self.record.task.ports)
                } else {
                    Container::Missing
                }
            }
            Ok(None) => Container::Missing,
            Err(error) => {
                tracing::debug!(task = self.record.task.id, "{error}");
                Container::Unknown
            }
        };
        match container {
            Container::Running { .. } => drop(self.running_since.get_or_insert_with(Instant::now)),
            Container::Unknown => {}
            _ => self.running_since = None,
        }
        container
    }

    /// Whether the task takes connections, or has had the time to.
    async fn listens(&self, container: &Container) -> bool {
        let Container::Running {
            status,
            health: Health::None,
            ..
        } = container
        else {
            return false;
        };
        if self.record.task.status.state != TaskState::Starting {
            return true;
        }
        let patient = self
            .running_since
            .is_some_and(|since| since.elapsed() < LISTEN_PATIENCE);
        if !patient {
            return true;
        }
        let (pid, ports) = (status.pid, self.record.task.ports.clone());
        let listen = tokio::task::spawn_blocking(move || listening::all_listen(pid, &ports));
        // What broke is asked again.
        listen.await.unwrap_or(false)
    }

    async fn wait(&mut self, container: &Container) {
        self.tries = 0;
        let state = self.record.task.status.state;
        let time = match container {
            Container::Unknown => AWAY_POLL,
            Container::Running {
                health: Health::None,
                ..
            } if state == TaskState::Starting => LISTEN_POLL,
            _ => jittered(RESYNC),
        };
        self.pause(time).await;
    }

    /// Until something changes, at most this long.
    async fn pause(&mut self, time: Duration) {
        tokio::select! {
            // The other end is kept by the registry for as long as this runs.
            _ = self.wanted.changed() => {}
            () = self.wake.notified() => {}
            () = sleep(time) => {}
        }
    }

    async fn report(&mut self, change: Change) {
        self.tries = 0;
        let task = &mut self.record.task;
        let (id, name) = (task.id.clone(), task.name());
        if change.state.is_terminal() && change.state > TaskState::Shutdown {
            tracing::warn!(task = id, name, state = %change.state, "{}", change.err);
        } else {
            tracing::debug!(task = id, name, state = %change.state, "{}", change.message);
        }
        task.status = TaskStatus {
            timestamp: clock::now(),
            state: change.state,
            message: change.message,
            err: change.err,
            container_status: change
                .container
                .or_else(|| task.status.container_status.take()),
            port_status: change.ports,
            ..TaskStatus::default()
        };
        self.stored = false;
        self.keep().await;
        let status = self.record.task.status.clone();
        let ended = status.state.is_terminal();
        self.environment.reports.push(&id, status);
        if ended {
            self.remove_files().await;
        }
    }

    /// What is left is found by the clearing up.
    async fn remove_files(&self) {
        let id = &self.record.task.id;
        if let Err(error) = self.environment.files.remove(id).await {
            tracing::warn!(task = id, "the task's secrets and configs stay: {error}");
        }
    }

    /// A step failed: ends the task, or tells why it is not further and tries again later.
    async fn failed(&mut self, failure: Failure, container: &Container) {
        let status = &self.record.task.status;
        let reason = match failure {
            Failure::Final(err) => {
                let change = machine::failed(status.state, &status.message, err, container);
                return self.report(change).await;
            }
            Failure::Passing(reason) => reason,
        };
        let tries = self.tries;
        if status.err != reason {
            tracing::warn!(task = self.record.task.id, "trying again: {reason}");
            let change = Change {
                state: status.state,
                message: status.message.clone(),
                err: reason,
                container: status.container_status.clone(),
                ports: status.port_status.clone(),
            };
            self.report(change).await;
        }
        self.tries = tries.saturating_add(1);
        let time = RETRY_MIN.saturating_mul(1 << tries.min(4)).min(RETRY_MAX);
        self.pause(jittered(time)).await;
    }

    /// Does a step until it is done, or the managers no longer want the task to run.
    async fn unless_unwanted<T>(
        wanted: &mut watch::Receiver<Wanted>,
        step: impl Future<Output = Result<T, Failure>>,
    ) -> Option<Result<T, Failure>> {
        let unwanted = wanted
            .wait_for(|wanted| wanted.removed || wanted.task.desired_state > TaskState::Complete);
        tokio::select! {
            biased;
            _ = unwanted => None,
            result = step => Some(result),
        }
    }

    async fn prepare(&mut self, container: &Container) {
        let mut wanted = self.wanted.clone();
        let step = prepare(&self.environment, &self.record, container);
        match Self::unless_unwanted(&mut wanted, step).await {
            None => {}
            Some(Err(failure)) => self.failed(failure, container).await,
            Some(Ok(())) => {
                let container = self.look().await;
                if let Some(status) = container.status() {
                    let change = Change {
                        state: TaskState::Ready,
                        message: "prepared".to_owned(),
                        container: Some(status.clone()),
                        ..Change::default()
                    };
                    self.report(change).await;
                }
            }
        }
    }

    async fn start(&mut self, container: &Container) {
        let mut wanted = self.wanted.clone();
        let (engine, id) = (self.environment.engine.clone(), self.reference());
        let step = async move {
            engine.start(&id).await.map_err(|error| match error.into() {
                Failure::Final(reason) => {
                    Failure::Final(format!("starting container failed: {reason}"))
                }
                passing @ Failure::Passing(_) => passing,
            })
        };
        if let Some(Err(failure)) = Self::unless_unwanted(&mut wanted, step).await {
            self.failed(failure, container).await;
        }
    }

    async fn stop(&mut self, container: &Container, unhealthy: bool) {
        let task = &self.record.task;
        let on_network = task
            .networks_attachments
            .iter()
            .any(|a| a.address.is_some());
        if !unhealthy && on_network && task.status.state == TaskState::Running {
            let since = *self.draining_since.get_or_insert_with(Instant::now);
            let left = DRAIN_DELAY.saturating_sub(since.elapsed());
            if !left.is_zero() {
                return self.pause(left).await;
            }
        }
        if unhealthy && !self.record.unhealthy {
            self.record.unhealthy = true;
            self.stored = false;
            self.keep().await;
        }
        let spec = &self.record.task.spec.container_spec;
        let grace = spec.stop_grace_period.map(duration);
        let stopped = self.environment.engine.stop(&self.reference(), grace).await;
        if let Err(error) = stopped {
            let unstoppable = Failure::Passing(format!("cannot stop the container: {error}"));
            self.failed(unstoppable, container).await;
        }
    }

    async fn remove(&mut self, container: &Container) {
        if let Err(error) = self.environment.engine.remove(&self.reference()).await {
            let unremovable = Failure::Passing(format!("cannot remove the container: {error}"));
            self.failed(unremovable, container).await;
        }
    }
}

/// Not all tasks of a node at once.
fn jittered(time: Duration) -> Duration {
    time.mul_f64(rand::rng().random_range(0.75..1.25))
}

fn duration(nanos: Nanos) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or_default())
}

/// Makes image, networks and container. What is there already is taken as it is, but for a container
/// that never ran: whether it has all of its networks is not known.
async fn prepare(
    environment: &Environment,
    record: &Record,
    container: &Container,
) -> Result<(), Failure> {
    let engine = &environment.engine;
    let task = &record.task;
    match container {
        Container::Unknown | Container::Missing => {}
        Container::Created { status } => engine.remove(&status.container_id).await?,
        Container::Running { .. } | Container::Exited { .. } => return Ok(()),
    }
    let node = match environment.description.load_full() {
        Some(node) => node,
        None => Arc::new(engine.describe().await?),
    };
    // What cannot be made is found out before anything is pulled or made.
    let plan_on = |endpoints: &[Endpoint]| {
        container::plan(
            task,
            &node,
            endpoints,
            &[skein_abi::addresses::DNS_ADDRESS.into()],
        )
        .map_err(|error| Failure::Final(error.to_string()))
    };
    let named: Vec<Endpoint> = task
        .networks_attachments
        .iter()
        .map(|attachment| Endpoint {
            network: if attachment.local_network.is_empty() {
                attachment.network_id.clone()
            } else {
                attachment.local_network.clone()
            },
            address: attachment.address.map(|address| address.addr()),
        })
        .collect();
    check_bind_sources(&plan_on(&named)?).await?;
    let files = files_of(environment, task)?;
    let image = &task.spec.container_spec.image;
    if task.registry_auth == CREDENTIALS_WITHHELD && !engine.has_image(image).await? {
        return Err(Failure::Passing(
            "waiting for a manager to tell the registry's credentials again".to_owned(),
        ));
    }
    engine.ensure_image(image, &task.registry_auth).await?;

    let mut endpoints = Vec::with_capacity(named.len());
    for (attachment, endpoint) in task.networks_attachments.iter().zip(named) {
        let network = if attachment.local_network.is_empty() {
            twin(environment, &attachment.network_id).await?
        } else {
            endpoint.network
        };
        endpoints.push(Endpoint {
            network,
            ..endpoint
        });
    }
    let mut plan = plan_on(&endpoints)?;
    if !files.is_empty() {
        plan.mount(write_files(environment, task, files).await?);
    }
    match engine.create(&plan).await {
        // An earlier try whose answer was lost has made it.
        Err(error) if error.is_conflict() => {
            let found = engine.container(&plan.name).await?;
            let labels = found
                .as_ref()
                .and_then(|c| c.config.as_ref()?.labels.as_ref());
            let owner = labels.and_then(|labels| labels.get(LABEL_TASK_ID));
            if owner == Some(&task.id) {
                Err(Failure::Passing(error.to_string()))
            } else {
                Err(Failure::Final(error.to_string()))
            }
        }
        other => Ok(other?),
    }
}

/// The task's secrets and configs, as files of its container.
fn files_of(environment: &Environment, task: &Task) -> Result<Vec<File>, Failure> {
    let dependencies = &environment.dependencies;
    // Asked first: what comes between the two is no loss.
    let complete = dependencies.are_complete();
    container::files(task, &dependencies.of(task)).map_err(|error| match error {
        // An agent that was started anew knows its tasks, and no secrets yet.
        FilesError::Unknown { .. } if !complete => Failure::Passing(format!(
            "waiting for a manager to tell of it again: {error}"
        )),
        error => Failure::Final(error.to_string()),
    })
}

/// Puts the files where the engine finds them; how it is told of them.
async fn write_files(
    environment: &Environment,
    task: &Task,
    files: Vec<File>,
) -> Result<Vec<bollard::models::Mount>, Failure> {
    let written = environment.files.write(&task.id, files.clone()).await;
    let paths = written
        .map_err(|error| Failure::Passing(format!("cannot write secrets and configs: {error}")))?;
    Ok(container::file_mounts(&files, &paths))
}

/// The engine's own ID of the twin of a network of the swarm.
async fn twin(environment: &Environment, network_id: &str) -> Result<String, Failure> {
    if let Some(network) = environment.networks.network(network_id) {
        let spec = TwinSpec::from(&network);
        return Ok(environment.engine.ensure_twin(&spec).await?);
    }
    // The managers tell of tasks and of networks in streams of their own.
    let twin = environment.engine.twin(network_id).await?;
    twin.ok_or_else(|| {
        Failure::Passing(format!(
            "waiting for a manager to tell what network {network_id} is"
        ))
    })
}

async fn check_bind_sources(plan: &Plan) -> Result<(), Failure> {
    for source in &plan.bind_sources {
        if !tokio::fs::try_exists(source).await.unwrap_or(false) {
            return Err(Failure::Final(format!(
                "invalid bind mount source, source path not found: {}",
                source.display()
            )));
        }
    }
    Ok(())
}
