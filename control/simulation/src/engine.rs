//! A node's container engine, as far as the agent can tell. It outlives the agent.

use crate::{
    executor::{self, Random, WORLD},
    faults::Spells,
    history::{History, Seen},
    network::Host,
};
use parking_lot::Mutex;
use rand::Rng as _;
use skein_control::agent::container::{Container, Health};
use skein_model::{ContainerStatus, PortStatus, Task};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;

/// Images whose containers end by themselves, with success, begin with this.
pub const JOB_IMAGE: &str = "job";
/// How long they take.
const JOB_MS: (u64, u64) = (100, 4_000);
/// How long a container takes to be made, to start, and to stop.
const STEP_MS: (u64, u64) = (10, 400);
/// When a container fails that is to fail.
const FAILURE_MS: (u64, u64) = (10, 8_000);
/// How likely the end of a process is seen before the engine tells of it, and how much.
const TELLS_LATE: f64 = 0.3;
const LATE_MS: (u64, u64) = (50, 3_000);
/// Exit code of a process that was killed.
const KILLED: i64 = 137;

/// Clones are ways to the same engine.
#[derive(Clone)]
pub struct Engine {
    host: Host,
    history: History,
    containers: Arc<Mutex<BTreeMap<String, Container>>>,
    /// The tasks whose processes have ended, while the engine says that their containers run.
    ended: Arc<Mutex<BTreeSet<String>>>,
    /// Changes whenever any container does.
    changes: Arc<watch::Sender<u64>>,
    flakiness: Arc<Mutex<Spells<f64>>>,
}

impl Engine {
    /// The engine of a host.
    pub fn new(host: Host, history: History) -> Self {
        Self {
            host,
            history,
            containers: Arc::default(),
            ended: Arc::default(),
            changes: Arc::new(watch::Sender::new(0)),
            flakiness: Arc::default(),
        }
    }

    /// How likely each of its steps fails from now on, and each of its containers.
    pub fn begin_flakiness(&self, flakiness: f64) {
        self.flakiness.lock().begin(flakiness);
    }

    /// That passes.
    pub fn end_flakiness(&self, flakiness: f64) {
        self.flakiness.lock().end(flakiness);
    }

    /// Nothing fails any more.
    pub fn heal(&self) {
        *self.flakiness.lock() = Spells::default();
    }

    /// Changes whenever any container does.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The container of a task.
    pub fn look(&self, task_id: &str) -> Container {
        let containers = self.containers.lock();
        containers
            .get(task_id)
            .cloned()
            .unwrap_or(Container::Missing)
    }

    /// Whether the process of a task has ended, while the engine says that its container runs.
    pub fn process_ended(&self, task_id: &str) -> bool {
        self.ended.lock().contains(task_id)
    }

    /// The tasks whose containers run.
    pub fn running(&self) -> BTreeSet<String> {
        let containers = self.containers.lock();
        let running = containers.iter();
        let running = running.filter(|(_, c)| matches!(c, Container::Running { .. }));
        running.map(|(id, _)| id.clone()).collect()
    }

    /// The tasks that have a container.
    pub fn known(&self) -> Vec<String> {
        self.containers.lock().keys().cloned().collect()
    }

    /// Makes a task's container.
    ///
    /// # Errors
    /// The engine is flaky.
    pub async fn create(&self, task: &Task) -> Result<(), String> {
        self.step("cannot pull the image").await?;
        let status = status(task, 0);
        self.put(&task.id, Container::Created { status });
        Ok(())
    }

    /// Starts a task's container.
    ///
    /// # Errors
    /// The engine is flaky.
    pub async fn start(&self, task: &Task) -> Result<(), String> {
        self.step("cannot start the container").await?;
        let (host, id) = (self.host, task.id.as_str());
        let name = task.name();
        self.history.tell("started", format!("{name} on {host:?}"));
        self.history.see(&Seen::Started { host, task });
        let running = Container::Running {
            status: status(task, 0),
            health: Health::None,
            ports: PortStatus::default(),
        };
        self.put(id, running);
        let (engine, task) = (self.clone(), task.clone());
        let fails = Random.random_bool(self.flakiness());
        let is_job = task.spec.container_spec.image.starts_with(JOB_IMAGE);
        let (within, code) = match (fails, is_job) {
            (true, _) => (FAILURE_MS, 1),
            (false, true) => (JOB_MS, 0),
            (false, false) => return Ok(()),
        };
        executor::spawn_in(WORLD, async move {
            pause(within).await;
            if Random.random_bool(TELLS_LATE) {
                engine.ended.lock().insert(task.id.clone());
                let (host, task_id) = (engine.host, task.id.as_str());
                engine.history.see(&Seen::Ended { host, task_id });
                engine.changed();
                pause(LATE_MS).await;
            }
            engine.end(&task.id, code);
        });
        Ok(())
    }

    /// Ends a task's container.
    pub async fn stop(&self, task_id: &str) {
        pause(STEP_MS).await;
        self.end(task_id, 0);
    }

    /// Removes a task's container.
    pub async fn remove(&self, task_id: &str) {
        pause(STEP_MS).await;
        self.containers.lock().remove(task_id);
        self.changed();
    }

    /// All that is of a swarm is taken away.
    pub fn clear(&self) {
        self.lose_power();
        self.containers.lock().clear();
        self.changed();
    }

    /// The host loses its power: nothing runs any more.
    pub fn lose_power(&self) {
        for task_id in self.running() {
            self.end(&task_id, KILLED);
        }
    }

    fn end(&self, task_id: &str, exit_code: i64) {
        self.ended.lock().remove(task_id);
        let ended = match self.look(task_id) {
            Container::Running { status, .. } => Container::Exited {
                status: ContainerStatus {
                    exit_code,
                    ..status
                },
                error: String::new(),
            },
            _ => return,
        };
        let host = self.host;
        self.history
            .tell("ended", format!("{task_id} on {host:?}: {exit_code}"));
        self.history.see(&Seen::Ended { host, task_id });
        self.put(task_id, ended);
    }

    fn put(&self, task_id: &str, container: Container) {
        self.containers.lock().insert(task_id.to_owned(), container);
        self.changed();
    }

    fn flakiness(&self) -> f64 {
        self.flakiness.lock().now()
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    async fn step(&self, failure: &str) -> Result<(), String> {
        pause(STEP_MS).await;
        match Random.random_bool(self.flakiness()) {
            true => Err(failure.to_owned()),
            false => Ok(()),
        }
    }
}

fn status(task: &Task, exit_code: i64) -> ContainerStatus {
    ContainerStatus {
        container_id: format!("of-{}", task.id),
        pid: 1,
        exit_code,
        ..ContainerStatus::default()
    }
}

async fn pause((least, most): (u64, u64)) {
    executor::sleep(Duration::from_millis(Random.random_range(least..=most))).await;
}
