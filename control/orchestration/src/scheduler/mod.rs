//! Places tasks on nodes: filters say where a task can run, and of those nodes it goes where its
//! service has the fewest tasks.

mod constraint;
mod filter;
mod room;
mod rooms;
mod stock;
mod tree;

pub use constraint::{Constraint, ConstraintError};
pub(crate) use room::engine_ports;
pub(crate) use stock::Stock;

use crate::{
    occupancy::{may_run, takes_room},
    settled::Scope,
    slot::SlotKey,
    task,
};
use filter::{Demand, Refusals};
use room::Room;
use rooms::Rooms;
use skein_model::{Draft, State, Task, TaskSpec, TaskState, Timestamp, Version};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use stock::reserved;
use tree::{Candidate, Spread, Tree};

/// How long a node is blamed for a task that failed on it.
const BLAME_TIME: Duration = Duration::from_secs(300);
/// Failures of one service on a node within that time that make it the last choice.
const BLAME_MIN: usize = 5;
/// Failures remembered per service and node: more change nothing.
const BLAME_MAX: usize = 64;

/// What is said of a task that was given a node.
const ASSIGNED: &str = "scheduler assigned task to node";

/// The constraints of a task.
pub(crate) fn constraints_of(spec: &TaskSpec) -> Result<Vec<Constraint>, ConstraintError> {
    spec.placement
        .as_ref()
        .map_or(Ok(Vec::new()), |p| Constraint::parse_all(&p.constraints))
}

/// A service as it was at one version, on one node.
type Blame = (String, Option<Version>, String);

/// The scheduler's memory between steps.
#[derive(Clone, Debug, Default)]
pub struct Scheduler {
    /// Where tasks failed of late. The store forgets them earlier.
    failures: BTreeMap<Blame, BTreeMap<String, Timestamp>>,
    rooms: Rooms,
}

impl Scheduler {
    /// Gives PENDING tasks a node, or says why none is suitable.
    pub fn run(&mut self, draft: &mut Draft) {
        let scope = Scope::all(draft);
        self.run_within(draft, &scope);
    }

    /// The same, for the tasks of some services.
    pub(crate) fn run_within(&mut self, draft: &mut Draft, scope: &Scope) {
        self.remember(draft, scope);
        let mut pending: Vec<Arc<Task>> = scope
            .tasks(draft)
            .filter(|task| task.status.state == TaskState::Pending)
            .filter(|task| task.is_wanted())
            .cloned()
            .collect();
        if pending.is_empty() {
            return;
        }
        self.rooms.bring_up_to(draft);
        // Those that are bound to a node first.
        let bound = pending.iter().filter(|task| !task.node_id.is_empty());
        for task in bound {
            if let Some(index) = self.rooms.index_of(&task.node_id) {
                confirm(draft, self.rooms.write(index), task);
            }
        }
        pending.retain(|task| task.node_id.is_empty());
        pending.sort_by(|a, b| {
            let key = |task: &Task| (task.spec_version, task.desired_state, task.slot);
            let (of_a, of_b) = (&a.service_id, &b.service_id);
            of_a.cmp(of_b).then_with(|| key(a).cmp(&key(b)))
        });
        for group in pending.chunk_by(|a, b| are_alike(a, b)) {
            self.place(draft, group);
        }
    }

    /// Places tasks that ask for the same.
    fn place(&mut self, draft: &mut Draft, group: &[Arc<Task>]) {
        let first = &group[0];
        let demand = Demand::of(draft, first);
        let failures = self.failures_of(first);
        let rooms = &mut self.rooms;
        let mut of_service = vec![0; rooms.all().len()];
        for task in draft.tasks_of_service(&first.service_id) {
            let wanted = takes_room(task) && task.is_wanted();
            if let Some(index) = wanted.then(|| rooms.index_of(&task.node_id)).flatten() {
                of_service[index] += 1;
            }
        }
        let mut rest = Vec::with_capacity(group.len());
        for task in group {
            let kept = predecessors_of(draft, task, &demand).into_iter();
            let mut rooms_kept = kept.filter_map(|node| rooms.index_of(&node));
            let admits = |index: &usize| {
                let of_service = of_service[*index];
                failures[*index] == 0
                    && Refusals::default().admits(&demand, &rooms.all()[*index], of_service)
            };
            match rooms_kept.find(admits) {
                Some(index) => {
                    of_service[index] += 1;
                    assign(draft, rooms.write(index), task, ASSIGNED);
                }
                None => rest.push(task),
            }
        }
        let spreads = Spread::all(&first.spec);
        let mut refusals = Refusals::default();
        let mut tree = Tree::default();
        for (index, room) in rooms.all().iter().enumerate() {
            let of_service = of_service[index];
            let candidate = refusals
                .admits(&demand, room, of_service)
                .then_some(Candidate {
                    failures: failures[index],
                    of_service,
                    tasks: room.tasks,
                    room: index,
                });
            tree.add(&spreads, &room.node, of_service, candidate);
        }
        for task in rest {
            let chosen = tree
                .next(&mut |c| refusals.still_admits(&demand, &rooms.all()[c.room], c.of_service));
            match chosen {
                Some(index) => assign(draft, rooms.write(index), task, ASSIGNED),
                // What does not fit once fits no better the next time.
                None => refuse(draft, task, refusals.explain()),
            }
        }
    }

    /// How much each node is to blame for failures of the task's service.
    fn failures_of(&self, task: &Task) -> Vec<usize> {
        let mut failures = vec![0; self.rooms.all().len()];
        let start = (task.service_id.clone(), task.spec_version, String::new());
        let of_task = self
            .failures
            .range(start..)
            .take_while(|((of, at, _), _)| *of == task.service_id && *at == task.spec_version);
        for ((_, _, node), failed) in of_task.filter(|(_, failed)| failed.len() >= BLAME_MIN) {
            if let Some(index) = self.rooms.index_of(node) {
                failures[index] = failed.len();
            }
        }
        failures
    }

    fn remember(&mut self, draft: &Draft, scope: &Scope) {
        let recent = |at: Timestamp| draft.now().since(at) < BLAME_TIME;
        for task in scope.tasks(draft) {
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

/// The nodes of the tasks whose place a task takes, if it has ports of its node: whoever calls that node
/// calls the same service before and after an update.
fn predecessors_of(state: &State, task: &Task, demand: &Demand<'_>) -> Vec<String> {
    if !demand.has_host_ports() {
        return Vec::new();
    }
    let place = SlotKey::of(task);
    let of_service = state.tasks_of_service(&task.service_id);
    let before = of_service.filter(|old| may_run(state, old) && SlotKey::of(old) == place);
    before.map(|old| old.node_id.clone()).collect()
}

/// Whether what holds for the one holds for the other. Tasks of no known version are each their own.
fn are_alike(a: &Task, b: &Task) -> bool {
    a.spec_version.is_some()
        && a.spec_version == b.spec_version
        && a.service_id == b.service_id
        && a.desired_state == b.desired_state
}

/// Lets a task that is bound to a node go on, if the node can take it.
fn confirm(draft: &mut Draft, room: &mut Room, task: &Task) {
    let demand = Demand::of(draft, task);
    let of_service = of_service_on(draft, &demand, task, &room.node.id);
    let mut refusals = Refusals::default();
    if refusals.admits(&demand, room, of_service) {
        let message = "scheduler confirmed task can run on preassigned node";
        assign(draft, room, task, message);
    } else {
        refuse(draft, task, refusals.reasons());
    }
}

/// Wanted tasks of the task's service on a node, if it matters how many there are.
fn of_service_on(state: &State, demand: &Demand<'_>, task: &Task, node_id: &str) -> u64 {
    if !demand.counts_service() {
        return 0;
    }
    let there = state.tasks_of_node(node_id).filter(|other| {
        other.service_id == task.service_id && takes_room(other) && other.is_wanted()
    });
    there.count() as u64
}

/// Whether the task has no node because others have its ports: no node can take it, and one could, had it
/// the ports to give.
pub(crate) fn waits_for_host_port(state: &State, task: &Task) -> bool {
    let demand = Demand::of(state, task);
    if task.status.state != TaskState::Pending || !demand.has_host_ports() {
        return false;
    }
    let mut nodes = state
        .nodes()
        .filter(|node| task.node_id.is_empty() || task.node_id == node.id);
    let mut refusals = Refusals::default();
    let finds_room = nodes.any(|node| {
        let of_service = of_service_on(state, &demand, task, &node.id);
        refusals.admits(&demand, &Room::of(state, node), of_service)
    });
    !finds_room && refusals.are_of_host_ports()
}

fn assign(draft: &mut Draft, room: &mut Room, task: &Task, message: &str) {
    let mut task = task.clone();
    task.generic_resources = room.stock.choose(reserved(&task));
    room.stock.take(&task);
    room.note(draft, &task);
    task.node_id.clone_from(&room.node.id);
    task::say(&mut task.status, TaskState::Assigned, message, draft.now());
    task.status.err.clear();
    draft.put(task);
}

fn refuse(draft: &mut Draft, task: &Task, error: String) {
    if task.status.err == error {
        return;
    }
    let mut task = task.clone();
    task.status.err = error;
    draft.put(task);
}

#[cfg(test)]
mod tests;
