//! Replaces tasks that ended or lost their node, as the restart policy of the service says.

use crate::{
    Wake, node_failure,
    occupancy::may_run,
    scheduler::engine_ports,
    settled::Scope,
    slot::{self, SlotKey},
    task,
};
use rand::Rng;
use skein_model::{Draft, RestartCondition, Service, State, Task, TaskSpec, TaskState};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// How long a replacement waits at most for its predecessor to stop.
const OLD_TASK_STOP_MAX: Duration = Duration::from_secs(60);

/// The delay before a task is started in place of one that ended.
fn delay(spec: &TaskSpec) -> Duration {
    let delay = spec.restart_policy.as_ref().and_then(|policy| policy.delay);
    nanos(delay.unwrap_or(crate::validate::RESTART_DELAY_DEFAULT))
}

pub(crate) fn nanos(nanos: i64) -> Duration {
    Duration::from_nanos(nanos.try_into().unwrap_or(0))
}

/// Whether the newest task of a place may have a successor, by the policy that it was made with: a change of
/// the service is no restart, and is the updater's to carry out. `tasks` are all of the place.
pub(crate) fn may_restart(service: &Service, tasks: &[Arc<Task>], ended: &Task) -> bool {
    let policy = ended.spec.restart_policy.clone().unwrap_or_default();
    if service.spec.mode.is_job() && ended.status.state == TaskState::Complete {
        return false;
    }
    match policy.condition {
        RestartCondition::None => return false,
        RestartCondition::OnFailure if ended.status.state == TaskState::Complete => return false,
        RestartCondition::OnFailure | RestartCondition::Any => {}
    }
    if policy.max_attempts == 0 {
        return true;
    }
    let window = nanos(policy.window.unwrap_or(0));
    let ended_at = if ended.status.applied_at.is_zero() {
        ended.status.timestamp
    } else {
        ended.status.applied_at
    };
    // The first task of the place is no restart. The reaper keeps as many as are counted here.
    let of_spec: Vec<_> = tasks
        .iter()
        .filter(|task| task.spec_version == ended.spec_version)
        .collect();
    let restarts = of_spec.windows(2).filter(|pair| {
        // A node that was lost or drained, and has its task again, has restarted nothing.
        let is_restart = !service.spec.mode.is_global() || ended_by_itself(pair[0]);
        let is_recent = window.is_zero() || ended_at.since(pair[1].meta.created_at) < window;
        is_restart && is_recent
    });
    (restarts.count() as u64) < policy.max_attempts
}

/// Whether a task has ended without having been told to.
pub(crate) fn ended_by_itself(task: &Task) -> bool {
    use TaskState::{Complete, Failed, Rejected};
    matches!(task.status.state, Complete | Failed | Rejected)
}

/// Shuts down the tasks that ended by themselves or must leave their node, and creates successors.
///
/// One that failed while it was held back (no image, say) keeps its place until its own delay is over:
/// else successors would follow each other as fast as they fail.
pub(crate) fn replace(draft: &mut Draft, scope: &Scope, wake: &mut Wake, rng: &mut impl Rng) {
    let lost: Vec<Arc<Task>> = scope
        .tasks(draft)
        .filter(|task| slot::is_live(task) && !task.is_attachment() && is_lost(draft, task))
        .cloned()
        .collect();
    let mut places = Places::default();
    for old in lost {
        if old.desired_state == TaskState::Ready
            && old.status.state.is_terminal()
            && wake.waits(draft.now(), old.not_before, delay(&old.spec))
        {
            continue;
        }
        task::want(draft, &old, TaskState::Shutdown);
        let Some(service) = draft.service(&old.service_id).cloned() else {
            continue;
        };
        // An earlier run of a job is over.
        if old.job_iteration != service.job_iteration() {
            continue;
        }
        // Which nodes have tasks of a global service is not the restart policy's to say.
        let place = SlotKey::of(&old);
        if let SlotKey::Node(node) = &place
            && !crate::global::wants_task(draft, &service, node)
        {
            continue;
        }
        let tasks = places.tasks_at(draft, &service.id, &place);
        let mut after = tasks.iter().skip_while(|task| task.id != old.id).skip(1);
        let newer = after.any(|task| slot::is_live(task));
        // One that its node was away with, and that was taken for lost.
        let done = tasks
            .iter()
            .any(|task| slot::is_done(task) && task.job_iteration == old.job_iteration);
        if newer || done || !may_restart(&service, &tasks, &old) {
            continue;
        }
        let mut next = task::new(&service, &place, TaskState::Ready, draft.now(), rng);
        let drained = !node_failure::is_gone(draft, &old.node_id)
            && node_failure::must_leave(draft, &old.node_id);
        if !drained {
            next.not_before = draft.now() + delay(&service.spec.task_template);
        }
        places.add(&next);
        draft.put(next);
    }
}

/// The tasks of places, of services that were asked for: a node that goes has tasks of many places, and
/// to search all tasks of a service for each would take long.
#[derive(Default)]
struct Places(BTreeMap<String, BTreeMap<SlotKey, Vec<String>>>);

impl Places {
    /// The tasks of a place as they are now, oldest first.
    fn tasks_at(&mut self, state: &State, service_id: &str, place: &SlotKey) -> slot::Tasks {
        let places = self.0.entry(service_id.to_owned()).or_insert_with(|| {
            let id = |task: &Arc<Task>| task.id.clone();
            let places = slot::places(state, service_id).into_iter();
            places
                .map(|(place, tasks)| (place, tasks.iter().map(id).collect()))
                .collect()
        });
        let ids = places.get(place).into_iter().flatten();
        let mut tasks = ids.filter_map(|id| state.task(id)).cloned().collect();
        slot::sort(&mut tasks);
        tasks
    }

    /// Notes a new task of a service that was asked for.
    fn add(&mut self, task: &Task) {
        if let Some(places) = self.0.get_mut(&task.service_id) {
            let ids = places.entry(SlotKey::of(task)).or_default();
            ids.push(task.id.clone());
        }
    }
}

fn is_lost(state: &State, task: &Task) -> bool {
    task.status.state.is_terminal()
        || task.status.given_up.is_some()
        || (!task.node_id.is_empty() && node_failure::must_leave(state, &task.node_id))
}

/// Lets tasks start that were held back until their delay was over and their predecessors stopped.
pub(crate) fn release(draft: &mut Draft, scope: &Scope, wake: &mut Wake) {
    let now = draft.now();
    let held: Vec<Arc<Task>> = scope
        .tasks(draft)
        .filter(|task| task.desired_state == TaskState::Ready && !task.status.state.is_terminal())
        .cloned()
        .collect();
    let stopping = stopping_places(draft, &held);
    for task in held {
        if wake.waits(now, task.not_before, delay(&task.spec)) {
            continue;
        }
        // The engine would refuse to start it.
        if ports_are_held(draft, &task) {
            continue;
        }
        let patience_ends = task.meta.created_at + OLD_TASK_STOP_MAX;
        let place = (task.service_id.clone(), SlotKey::of(&task));
        if stopping.contains(&place) && wake.waits(now, patience_ends, OLD_TASK_STOP_MAX) {
            continue;
        }
        let mut task = (*task).clone();
        task.desired_state = if task.mode.is_job() {
            TaskState::Complete
        } else {
            TaskState::Running
        };
        draft.put(task);
    }
}

/// Where tasks stop of the services of some others.
fn stopping_places(state: &State, of: &[Arc<Task>]) -> BTreeSet<(String, SlotKey)> {
    let services: BTreeSet<&str> = of.iter().map(|task| task.service_id.as_str()).collect();
    services
        .into_iter()
        .flat_map(|id| state.tasks_of_service(id))
        .filter(|task| !slot::is_live(task) && may_run(state, task))
        .map(|task| (task.service_id.clone(), SlotKey::of(task)))
        .collect()
}

/// Whether a task that stops on the same node still has one of the task's ports, and the engine publishes
/// it: the mesh does for both.
fn ports_are_held(state: &State, task: &Task) -> bool {
    let ports = engine_ports(task);
    if ports.is_empty() || task.node_id.is_empty() {
        return false;
    }
    state.tasks_of_node(&task.node_id).any(|other| {
        !slot::is_live(other) && may_run(state, other) && !engine_ports(other).is_disjoint(&ports)
    })
}
