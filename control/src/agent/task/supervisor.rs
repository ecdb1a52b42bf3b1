//! One task: looks, asks the [`machine`], does, and looks again.

use super::{
    failure::Failure,
    listening,
    machine::{self, Action, Change, Situation, UNHEALTHY},
    preparation::prepare,
    process::Process,
    registry::{Environment, Wanted},
};
use crate::{
    agent::{
        container::{self, Container, Health, LABEL_TASK_ID},
        engine::EngineError,
        store::Record,
    },
    backoff, clock,
};
use bollard::models::ContainerInspectResponse;
use rand::Rng as _;
use skein_model::{ContainerStatus, GivenUp, Nanos, TaskState, TaskStatus};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep},
};

/// A task whose ports are not listened on is taken for ready after this time: its service may well
/// publish a port that it opens on demand.
const LISTEN_PATIENCE: Duration = Duration::from_secs(5);
/// Between looks at a task that is not ready yet.
const LISTEN_POLL: Duration = Duration::from_millis(100);
/// How long the managers may take to end a task whose health check failed: longer than nodes can keep
/// them waiting. A node without managers stops it by itself then.
const GIVEN_UP_PATIENCE: Duration = Duration::from_secs(10);
/// Between looks at a task of which nothing is heard: events may get lost.
const RESYNC: Duration = Duration::from_secs(30);
/// Between looks for an engine that does not answer.
const AWAY_POLL: Duration = Duration::from_secs(1);
/// How long the engine may take to tell how a process ended: as a rule it needs less, and the end is
/// then reported once, with its exit code. Until it is, clients are refused.
const ENGINE_WORD: Duration = Duration::from_millis(50);
/// Between tries of what failed for a passing reason: the first, and the longest.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(5);

pub(super) struct Supervisor {
    environment: Environment,
    record: Record,
    /// The record is on the disk as it is.
    stored: bool,
    wanted: watch::Receiver<Wanted>,
    wake: Arc<Notify>,
    said: watch::Sender<TaskStatus>,
    /// The container's first process, where this agent sees it.
    process: Option<Process>,
    /// When its container was first seen running by this agent.
    running_since: Option<Instant>,
    /// When it was first seen unhealthy by this agent.
    unhealthy_since: Option<Instant>,
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
            process: None,
            running_since: None,
            unhealthy_since: None,
            tries: 0,
        }
    }

    /// Runs until the task has left no trace.
    pub(super) async fn run(mut self) {
        // As it was seen in the step before, where that was a report, which does nothing to a container.
        // What else befalls it wakes the task, at the latest when it waits.
        let mut seen = None;
        loop {
            self.take_wanted().await;
            let container = match seen.take() {
                Some(container) => container,
                None => self.look().await,
            };
            let listening = self.listens(&container).await;
            let patient = self.patience(&container).is_some();
            let task = &self.record.task;
            let action = machine::next(&Situation {
                process_ended: self.process.as_ref().is_some_and(Process::has_ended),
                patient,
                listening,
                ..Situation::of(&self.record, &container)
            });
            match action {
                Action::Wait => self.wait(&container).await,
                Action::Report(change) => {
                    self.report(change).await;
                    seen = Some(container);
                }
                Action::Prepare => seen = self.prepare(&container).await,
                Action::Start => self.start(&container).await,
                Action::GiveUp => self.give_up(&container).await,
                Action::Stop { unhealthy } => self.stop(&container, unhealthy).await,
                Action::Remove => self.remove(&container).await,
                Action::Forget => {
                    self.environment.host_ports.release(&task.id);
                    self.remove_files().await;
                    if let Err(error) = self.environment.store.remove(&task.id).await {
                        tracing::error!("{error:#}");
                    }
                    return;
                }
            }
        }
    }

    async fn take_wanted(&mut self) {
        let wanted = self.wanted.borrow_and_update().clone();
        if wanted.task.desired_state != self.record.task.desired_state {
            self.tries = 0;
        }
        if self.record.take_wanted(&wanted.task, wanted.removed) {
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
        let container = match self.ask_engine().await {
            Some(Ok(Some(inspect))) => {
                let labels = inspect.config.as_ref().and_then(|c| c.labels.as_ref());
                let owner = labels.and_then(|labels| labels.get(LABEL_TASK_ID));
                if owner == Some(&self.record.task.id) {
                    let environment = &self.environment;
                    let ports = environment
                        .host_ports
                        .of(&self.record.task, &environment.networks);
                    container::observe(&inspect, &ports.await)
                } else {
                    Container::Missing
                }
            }
            Some(Ok(None)) => Container::Missing,
            Some(Err(error)) => {
                tracing::debug!(task = self.record.task.id, "{error}");
                Container::Unknown
            }
            None => Container::Unknown,
        };
        match &container {
            Container::Running { status, .. } => {
                self.running_since.get_or_insert_with(Instant::now);
                if self.process.as_ref().map(Process::pid) != Some(status.pid) {
                    self.process = self.watch(status).await;
                }
            }
            Container::Unknown => {}
            _ => (self.running_since, self.process) = (None, None),
        }
        container
    }

    /// `None` if the engine does not answer while the end of the task's process is yet to be reported.
    async fn ask_engine(
        &mut self,
    ) -> Option<Result<Option<ContainerInspectResponse>, EngineError>> {
        let reference = self.reference();
        let answer = self.environment.engine.container(&reference);
        tokio::select! {
            answer = answer => Some(answer),
            () = unreported_end(&self.record, &mut self.process) => None,
        }
    }

    /// An engine may count processes in a namespace of its own: then it alone tells of their ends.
    async fn watch(&self, container: &ContainerStatus) -> Option<Process> {
        let watched = Process::watch(container.pid, &container.container_id).await;
        let task = &self.record.task.id;
        watched
            .inspect_err(|error| tracing::debug!(task, "only the engine tells of its end: {error}"))
            .ok()
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

    /// How long the managers still have to end a task whose health check failed; `None` if they are
    /// not waited for.
    fn patience(&mut self, container: &Container) -> Option<Duration> {
        let Container::Running {
            health: Health::Unhealthy,
            ..
        } = container
        else {
            self.unhealthy_since = None;
            return None;
        };
        let since = *self.unhealthy_since.get_or_insert_with(Instant::now);
        let left = GIVEN_UP_PATIENCE.saturating_sub(since.elapsed());
        let mut attachments = self.record.task.networks_attachments.iter();
        let drains = attachments.any(|attachment| attachment.address.is_some());
        (drains && !left.is_zero()).then_some(left)
    }

    async fn give_up(&mut self, container: &Container) {
        self.record.unhealthy = true;
        let status = &self.record.task.status;
        let change = Change {
            state: status.state,
            message: status.message.clone(),
            err: UNHEALTHY.to_owned(),
            container: container.status().cloned(),
            ports: status.port_status.clone(),
        };
        self.report(change).await;
    }

    async fn wait(&mut self, container: &Container) {
        self.tries = 0;
        let state = self.record.task.status.state;
        let time = match container {
            Container::Unknown => AWAY_POLL,
            _ if self.process.as_ref().is_some_and(Process::has_ended) => AWAY_POLL,
            Container::Running {
                health: Health::None,
                ..
            } if state == TaskState::Starting => LISTEN_POLL,
            _ => self.patience(container).unwrap_or(jittered(RESYNC)),
        };
        self.pause(time).await;
    }

    /// Until something changes, at most this long.
    async fn pause(&mut self, time: Duration) {
        tokio::select! {
            // The other end is kept by the registry for as long as this runs.
            _ = self.wanted.changed() => {}
            () = self.wake.notified() => {}
            () = unreported_end(&self.record, &mut self.process) => {}
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
            given_up: self.record.unhealthy.then_some(GivenUp::Unhealthy),
            ..TaskStatus::default()
        };
        self.stored = false;
        self.keep().await;
        let status = self.record.task.status.clone();
        let ended = status.state.is_terminal();
        self.environment.reports.push(&id, status);
        if ended {
            self.environment.host_ports.release(&id);
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
        let time = backoff::longest(RETRY_MIN, RETRY_MAX, tries);
        self.pause(jittered(time)).await;
    }

    /// Does a step until it is done, or the managers no longer want the task to run.
    async fn unless_unwanted<T>(
        wanted: &mut watch::Receiver<Wanted>,
        step: impl Future<Output = Result<T, Failure>>,
    ) -> Option<Result<T, Failure>> {
        let unwanted = wanted.wait_for(|wanted| wanted.removed || !wanted.task.is_wanted());
        tokio::select! {
            biased;
            _ = unwanted => None,
            result = step => Some(result),
        }
    }

    /// The container, once it is made and reported.
    async fn prepare(&mut self, container: &Container) -> Option<Container> {
        let mut wanted = self.wanted.clone();
        let step = prepare(&self.environment, &self.record, container);
        match Self::unless_unwanted(&mut wanted, step).await? {
            Err(failure) => {
                self.failed(failure, container).await;
                None
            }
            Ok(()) => {
                let container = self.look().await;
                let change = Change {
                    state: TaskState::Ready,
                    message: "prepared".to_owned(),
                    container: Some(container.status()?.clone()),
                    ..Change::default()
                };
                self.report(change).await;
                Some(container)
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

/// Ends when the process of a running task has, and the engine has had the time to tell; never once
/// that is reported.
async fn unreported_end(record: &Record, process: &mut Option<Process>) {
    let task = &record.task;
    let runs = task.status.state == TaskState::Running && task.desired_state < TaskState::Shutdown;
    let reported = task.status.container_status.as_ref();
    match process {
        Some(process)
            if runs && !record.removed && reported.is_some_and(|container| container.pid != 0) =>
        {
            process.ended().await;
            sleep(ENGINE_WORD).await;
        }
        _ => std::future::pending().await,
    }
}

/// Not all tasks of a node at once.
fn jittered(time: Duration) -> Duration {
    time.mul_f64(rand::rng().random_range(0.75..1.25))
}

fn duration(nanos: Nanos) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or_default())
}
