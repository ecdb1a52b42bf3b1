//! Runs jobs: tasks that are to end by themselves, so many of them or one on each node. Every update
//! of the service begins a new run.

use crate::{
    global,
    settled::Scope,
    slot::{self, SlotKey, Tasks},
    task,
};
use rand::Rng;
use skein_model::{Draft, Kind, NodeState, Service, ServiceMode, Task, TaskState, Version};
use std::{collections::BTreeMap, sync::Arc};

/// Starts what the present run of each job lacks, and ends what is left of earlier ones.
pub(crate) fn run(draft: &mut Draft, scope: &Scope, rng: &mut impl Rng) {
    let services: Vec<Arc<Service>> = scope.services(draft).cloned().collect();
    for service in services {
        let Some(iteration) = service.job_iteration() else {
            continue;
        };
        retire(draft, &service, iteration);
        let mut places = slot::places(draft, &service.id);
        places.retain(|_, tasks| {
            tasks.retain(|task| is_of(task, iteration));
            !tasks.is_empty()
        });
        let parts: BTreeMap<SlotKey, Part> = places
            .into_iter()
            .map(|(place, tasks)| (place, Part::of(&service, tasks)))
            .collect();
        for part in parts.values() {
            part.end_duplicates(draft);
        }
        let missing = match service.spec.mode {
            ServiceMode::ReplicatedJob {
                max_concurrent,
                total_completions,
            } => missing_slots(&parts, max_concurrent, total_completions),
            ServiceMode::GlobalJob {} => {
                leave_nodes(draft, &service, &parts);
                missing_nodes(draft, &service, &parts)
            }
            ServiceMode::Replicated { .. } | ServiceMode::Global {} => continue,
        };
        for place in missing {
            let now = draft.now();
            let desired = TaskState::Complete;
            let task = task::new(&service, &place, desired, now, rng);
            if let Some(Part::Free(tasks)) = parts.get(&place) {
                // One on a node that was lost may be told to be complete at any moment.
                let open = tasks.iter().filter(|task| !task.status.state.is_terminal());
                for earlier in open {
                    draft.rest_on((Kind::Task, &task.id), (Kind::Task, &earlier.id));
                }
            }
            draft.put(task);
        }
    }
}

/// Whether the task is of this run of its job.
fn is_of(task: &Task, iteration: Version) -> bool {
    task.job_iteration == Some(iteration)
}

/// Tasks of earlier runs are to go; those that a replicated job completed stay as history.
fn retire(draft: &mut Draft, service: &Service, iteration: Version) {
    let stay = |task: &Task| {
        let completed = task.status.state == TaskState::Complete;
        is_of(task, iteration) || (completed && !service.spec.mode.is_global())
    };
    let old: Vec<Arc<Task>> = draft
        .tasks_of_service(&service.id)
        .filter(|task| task.desired_state < TaskState::Remove && !stay(task))
        .cloned()
        .collect();
    for task in old {
        task::want(draft, &task, TaskState::Remove);
    }
}

/// One place of a job in its present run.
enum Part {
    /// It is complete; tasks are there that do it once more.
    Complete(Tasks),
    /// A task is on its way.
    Active(Tasks),
    /// Its task ended otherwise, and may have no successor.
    GivenUp,
    /// Nothing is under way; what was there before.
    Free(Tasks),
}

impl Part {
    fn of(service: &Service, tasks: Tasks) -> Self {
        let complete = tasks.iter().any(|task| slot::is_done(task));
        let live: Tasks = tasks.iter().filter(|t| slot::is_live(t)).cloned().collect();
        if complete {
            return Self::Complete(live);
        }
        if !live.is_empty() {
            return Self::Active(live);
        }
        if slot::is_given_up(service, &tasks) {
            Self::GivenUp
        } else {
            Self::Free(tasks)
        }
    }

    /// A node that was lost may have completed its task after all.
    fn end_duplicates(&self, draft: &mut Draft) {
        if let Self::Complete(live) = self {
            for task in live {
                task::want(draft, task, TaskState::Remove);
            }
        }
    }
}

/// The slots in which a task is to be started now.
fn missing_slots(parts: &BTreeMap<SlotKey, Part>, concurrent: u64, total: u64) -> Vec<SlotKey> {
    let is_active = |part: &&Part| matches!(part, Part::Active(_));
    let active = parts.values().filter(is_active).count() as u64;
    let room = concurrent.saturating_sub(active);
    let is_free = |place: &SlotKey| matches!(parts.get(place), None | Some(Part::Free(_)));
    let free = (0..total).map(SlotKey::Slot).filter(is_free);
    free.take(usize::try_from(room).unwrap_or(usize::MAX))
        .collect()
}

/// The nodes on which a task is to be started now.
fn missing_nodes(
    draft: &Draft,
    service: &Service,
    parts: &BTreeMap<SlotKey, Part>,
) -> Vec<SlotKey> {
    let ready = draft
        .nodes()
        .filter(|node| node.status.state == NodeState::Ready);
    ready
        .filter(|node| global::wants_task(draft, service, &node.id))
        .map(|node| SlotKey::Node(node.id.clone()))
        .filter(|place| matches!(parts.get(place), None | Some(Part::Free(_))))
        .collect()
}

/// Tasks on nodes that the job is no longer for are shut down.
fn leave_nodes(draft: &mut Draft, service: &Service, parts: &BTreeMap<SlotKey, Part>) {
    for (place, part) in parts {
        let (SlotKey::Node(node), Part::Active(tasks)) = (place, part) else {
            continue;
        };
        if !global::may_stay(draft, service, node) {
            for task in tasks {
                task::want(draft, task, TaskState::Shutdown);
            }
        }
    }
}
