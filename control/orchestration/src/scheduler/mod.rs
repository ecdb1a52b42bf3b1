//! Places tasks on nodes: filters say where a task can run, and of those nodes it goes where its
//! service has the fewest tasks.

mod constraint;
mod filter;
mod room;

pub use constraint::{Constraint, ConstraintError};

use filter::{Demand, Refusals};
use room::Room;
use skein_model::{Draft, Task, TaskSpec, TaskState, Timestamp, Version};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// How long a node is blamed for a task that failed on it.
const BLAME_TIME: Duration = Duration::from_secs(300);
/// Failures of one service on a node within that time that make it the last choice.
const BLAME_MIN: usize = 5;
/// Failures remembered per service and node: more change nothing.
const BLAME_MAX: usize = 64;

/// The constraints of a task.
pub(crate) fn constraints_of(spec: &TaskSpec) -> Result<Vec<Constraint>, ConstraintError> {
    spec.placement
        .as_ref()
        .map_or(Ok(Vec::new()), |p| Constraint::parse_all(&p.constraints))
}

/// A service as it was at one version, on one node.
type Blame = (String, Option<Version>, String);

/// The scheduler's memory between steps: where tasks failed of late. The store forgets them earlier.
#[derive(Debug, Default)]
pub struct Scheduler {
    failures: BTreeMap<Blame, BTreeMap<String, Timestamp>>,
}

impl Scheduler {
    /// Gives PENDING tasks a node, or says why none is suitable.
    pub fn run(&mut self, draft: &mut Draft) {
        self.remember(draft);
        let mut pending: Vec<Arc<Task>> = draft
            .tasks()
            .filter(|task| task.status.state == TaskState::Pending)
            .filter(|task| task.desired_state <= TaskState::Running)
            .cloned()
            .collect();
        if pending.is_empty() {
            return;
        }
        let mut rooms = Room::all(draft);
        // Those that are bound to a node first, then service by service.
        pending.sort_by(|a, b| {
            let key = |task: &Task| {
                (
                    task.node_id.is_empty(),
                    task.service_id.clone(),
                    task.spec_version,
                    task.slot,
                )
            };
            key(a).cmp(&key(b))
        });
        let mut hopeless: Option<(String, Option<Version>, String)> = None;
        for task in pending {
            if !task.node_id.is_empty() {
                confirm(draft, &mut rooms, &task);
                continue;
            }
            // What does not fit once fits no better the next time.
            if let Some((service, version, error)) = &hopeless
                && (service, version) == (&task.service_id, &task.spec_version)
            {
                refuse(draft, &task, error.clone());
                continue;
            }
            match self.choose(draft, &mut rooms, &task) {
                Ok(()) => hopeless = None,
                Err(error) => {
                    refuse(draft, &task, error.clone());
                    hopeless = Some((task.service_id.clone(), task.spec_version, error));
                }
            }
        }
    }

    fn choose(&self, draft: &mut Draft, rooms: &mut [Room], task: &Task) -> Result<(), String> {
        let demand = Demand::of(task);
        let mut refusals = Refusals::default();
        let best = rooms
            .iter_mut()
            .filter(|room| refusals.admits(&demand, room))
            .min_by_key(|room| {
                let failures = self.failures_at(task, room.node_id());
                let failures = if failures >= BLAME_MIN { failures } else { 0 };
                (failures, room.tasks_of(&task.service_id), room.tasks())
            });
        let Some(room) = best else {
            return Err(refusals.explain());
        };
        room.take(task);
        assign(
            draft,
            task,
            room.node_id(),
            "scheduler assigned task to node",
        );
        Ok(())
    }

    fn failures_at(&self, task: &Task, node_id: &str) -> usize {
        let blame = (
            task.service_id.clone(),
            task.spec_version,
            node_id.to_owned(),
        );
        self.failures.get(&blame).map_or(0, BTreeMap::len)
    }

    fn remember(&mut self, draft: &Draft) {
        let recent = |at: Timestamp| draft.now().since(at) < BLAME_TIME;
        for task in draft.tasks() {
            let status = &task.status;
            let failed = matches!(status.state, TaskState::Failed | TaskState::Rejected);
            if !failed || !recent(status.applied_at) {
                continue;
            }
            let blame = (
                task.service_id.clone(),
                task.spec_version,
                task.node_id.clone(),
            );
            let failures = self.failures.entry(blame).or_default();
            if failures.len() < BLAME_MAX {
                failures.insert(task.id.clone(), status.applied_at);
            }
        }
        self.failures.retain(|_, failures| {
            failures.retain(|_, at| recent(*at));
            !failures.is_empty()
        });
    }
}

/// Lets a task that is bound to a node go on, if the node can take it.
fn confirm(draft: &mut Draft, rooms: &mut [Room], task: &Task) {
    let Some(room) = rooms.iter_mut().find(|r| r.node_id() == task.node_id) else {
        return;
    };
    let mut refusals = Refusals::default();
    if refusals.admits(&Demand::of(task), room) {
        room.take(task);
        let message = "scheduler confirmed task can run on preassigned node";
        assign(draft, task, room.node_id(), message);
    } else {
        refuse(draft, task, refusals.reasons());
    }
}

fn assign(draft: &mut Draft, task: &Task, node_id: &str, message: &str) {
    let mut task = task.clone();
    task.node_id = node_id.to_owned();
    task.status.state = TaskState::Assigned;
    task.status.message = message.into();
    task.status.err.clear();
    task.status.timestamp = draft.now();
    task.status.applied_at = draft.now();
    draft.put(task);
}

fn refuse(draft: &mut Draft, task: &Task, error: String) {
    let mut task = task.clone();
    task.status.err = error;
    draft.put(task);
}

#[cfg(test)]
mod tests;
