//! The tasks of this node, and who looks after each.

use super::{host_ports::HostPorts, supervisor::Supervisor};
use crate::agent::{
    dependencies::Dependencies,
    engine::Engine,
    files::Files,
    network::NetworkState,
    reports::Reports,
    store::{Record, Store},
};
use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use skein_model::{NodeDescription, Task, TaskStatus};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::{Notify, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What every task needs of its node.
#[derive(Clone)]
pub struct Environment {
    /// Runs the containers.
    pub engine: Engine,
    /// Remembers the tasks.
    pub store: Store,
    /// Takes their statuses.
    pub reports: Reports,
    /// Knows the networks.
    pub networks: NetworkState,
    /// Knows their secrets and configs.
    pub dependencies: Dependencies,
    /// Keeps the files that containers see those as.
    pub files: Files,
    /// Knows the ports of the node that are theirs.
    pub host_ports: HostPorts,
    /// What the engine last said of the node; `None` until it has.
    pub description: Arc<ArcSwapOption<NodeDescription>>,
}

/// What the managers want of a task.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub task: Arc<Task>,
    /// They no longer know it.
    pub removed: bool,
}

struct Entry {
    wanted: watch::Sender<Wanted>,
    /// Its container may have changed.
    wake: Arc<Notify>,
    /// As its supervisor last had it.
    status: watch::Receiver<TaskStatus>,
}

type Entries = Arc<Mutex<BTreeMap<String, Entry>>>;

/// All tasks of the node, each with a supervisor of its own. Clones share them.
#[derive(Clone)]
pub struct Tasks {
    environment: Environment,
    entries: Entries,
    /// The managers have said which tasks there are.
    complete: Arc<AtomicBool>,
    supervisors: TaskTracker,
    shutdown: CancellationToken,
}

impl Tasks {
    /// Takes up the tasks where an earlier agent left them.
    pub fn resume(
        environment: Environment,
        records: BTreeMap<String, Record>,
        shutdown: CancellationToken,
    ) -> Self {
        let tasks = Self {
            environment,
            entries: Entries::default(),
            complete: Arc::default(),
            supervisors: TaskTracker::new(),
            shutdown,
        };
        // All of them before any task may choose one.
        for record in records.values() {
            tasks.environment.host_ports.keep(&record.task);
        }
        for record in records.into_values() {
            tasks.supervise(record, true);
        }
        tasks
    }

    /// Takes what the managers want. `complete`: what is not in `tasks` is to be removed.
    pub fn assign(&self, complete: bool, tasks: Vec<Task>, removed: &[String]) {
        if complete {
            let named: BTreeSet<&str> = tasks.iter().map(|task| task.id.as_str()).collect();
            let entries = self.entries.lock();
            for (id, entry) in entries.iter() {
                if !named.contains(id.as_str()) {
                    remove(entry);
                }
            }
        }
        for task in tasks {
            let entries = self.entries.lock();
            if let Some(entry) = entries.get(&task.id) {
                entry.wanted.send_replace(Wanted {
                    task: Arc::new(task),
                    removed: false,
                });
                continue;
            }
            drop(entries);
            self.environment.host_ports.keep(&task);
            let record = Record {
                task,
                ..Record::default()
            };
            self.supervise(record, false);
        }
        let entries = self.entries.lock();
        for entry in removed.iter().filter_map(|id| entries.get(id)) {
            remove(entry);
        }
        drop(entries);
        // Last: until all of them are known, any container may be one's.
        if complete {
            self.complete.store(true, Ordering::Release);
        }
    }

    fn supervise(&self, record: Record, stored: bool) {
        let id = record.task.id.clone();
        let (wanted, wants) = watch::channel(Wanted {
            task: Arc::new(record.task.clone()),
            removed: record.removed,
        });
        let (said, status) = watch::channel(record.task.status.clone());
        let wake = Arc::new(Notify::new());
        let entry = Entry {
            wanted,
            wake: wake.clone(),
            status,
        };
        self.entries.lock().insert(id.clone(), entry);
        let environment = self.environment.clone();
        let supervisor = Supervisor::new(environment, record, stored, wants, wake, said);
        let (entries, shutdown) = (self.entries.clone(), self.shutdown.clone());
        self.supervisors.spawn(async move {
            // A step that is cut off is taken anew by the next agent.
            let forgotten = shutdown.run_until_cancelled(supervisor.run()).await;
            if forgotten.is_some() {
                entries.lock().remove(&id);
            }
        });
    }

    /// The container of a task may have changed.
    pub fn wake(&self, task_id: &str) {
        if let Some(entry) = self.entries.lock().get(task_id) {
            entry.wake.notify_one();
        }
    }

    /// The container of every task may have changed.
    pub fn wake_all(&self) {
        for entry in self.entries.lock().values() {
            entry.wake.notify_one();
        }
    }

    /// A leader that may have missed something hears of every task again.
    pub fn report_all(&self) {
        for (id, entry) in self.entries.lock().iter() {
            let status = entry.status.borrow().clone();
            self.environment.reports.push(id, status);
        }
    }

    /// The task as last wanted, with its status; `None` if this node does not have it.
    pub fn get(&self, task_id: &str) -> Option<(Arc<Task>, TaskStatus)> {
        let entries = self.entries.lock();
        let entry = entries.get(task_id)?;
        let task = entry.wanted.borrow().task.clone();
        let status = entry.status.borrow().clone();
        Some((task, status))
    }

    /// Whether a container of a task that this node does not have may go: only once the managers
    /// have said which it has.
    pub fn is_stray(&self, task_id: &str) -> bool {
        self.complete.load(Ordering::Acquire) && !self.entries.lock().contains_key(task_id)
    }

    /// Whether the files of a task may go: it has ended, or this node does not have it.
    pub fn has_no_use_of_files(&self, task_id: &str) -> bool {
        let ended = self
            .get(task_id)
            .map(|(_, status)| status.state.is_terminal());
        ended.unwrap_or_else(|| self.is_stray(task_id))
    }

    /// The networks that tasks which have not ended need.
    pub fn needed_networks(&self) -> BTreeSet<String> {
        let entries = self.entries.lock();
        let live = entries
            .values()
            .filter(|entry| !entry.status.borrow().state.is_terminal());
        live.flat_map(|entry| {
            let task = entry.wanted.borrow().task.clone();
            let ids = task.networks_attachments.iter();
            ids.map(|attachment| attachment.network_id.clone())
                .collect::<Vec<_>>()
        })
        .collect()
    }

    /// Ends once every supervisor has, after a shutdown.
    pub async fn ended(&self) {
        self.supervisors.close();
        self.supervisors.wait().await;
    }
}

fn remove(entry: &Entry) {
    entry.wanted.send_if_modified(|wanted| {
        let news = !wanted.removed;
        wanted.removed = true;
        news
    });
}
