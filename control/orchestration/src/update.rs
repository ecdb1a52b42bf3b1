//! Rolling updates: replaces tasks that differ from what their service is now, a few at a time.
//!
//! How far an update is can be read from the tasks: a place is in its hands when its last outdated
//! task has a successor. So an update goes on unchanged under a new leader.

mod part;
mod status;

pub(crate) use part::remembers;

use crate::{
    Wake,
    drain::{BarrierView, Drain, Programmed},
    global,
    restart::nanos,
    settled::Scope,
    slot::{self, SlotKey, Tasks},
    task,
};
use part::{Part, furthest};
use rand::Rng;
use skein_model::{
    Draft, Service, ServiceMode, State, TaskState, UpdateConfig, UpdateOrder, UpdateState,
    UpdateStatus,
};
use status::{fail, finish, is_over, is_rollback, set_status, verdict};
use std::sync::Arc;

pub(crate) fn run(
    draft: &mut Draft,
    scope: &Scope,
    drain: &mut Drain,
    programmed: &Programmed,
    wake: &mut Wake,
    rng: &mut impl Rng,
) {
    let services: Vec<Arc<Service>> = scope.services(draft).cloned().collect();
    // What an update changes is on no network yet, or stays on those that it is on.
    let before = draft.state().clone();
    let known = BarrierView::of(&before, programmed);
    for service in services {
        match service.spec.mode {
            ServiceMode::Replicated { .. } | ServiceMode::Global {} => {
                step(draft, &service, drain, &known, wake, rng);
            }
            ServiceMode::ReplicatedJob { .. } | ServiceMode::GlobalJob {} => {}
        }
    }
}

fn config_of(service: &Service) -> UpdateConfig {
    let config = if is_rollback(service) {
        &service.spec.rollback_config
    } else {
        &service.spec.update_config
    };
    config
        .clone()
        .unwrap_or_else(crate::validate::default_update_config)
}

/// Whether a task that is made for a place can come to run there. A paused node keeps what it has of a
/// global service and gets nothing new, as with Swarm, until it is active again.
fn takes_tasks(state: &State, service: &Service, place: &SlotKey) -> bool {
    match place {
        SlotKey::Slot(_) => true,
        SlotKey::Node(node) => global::wants_task(state, service, node),
    }
}

fn step(
    draft: &mut Draft,
    service: &Service,
    drain: &mut Drain,
    known: &BarrierView<'_>,
    wake: &mut Wake,
    rng: &mut impl Rng,
) {
    let state = service.update_status.as_ref().map(|status| status.state);
    if matches!(
        state,
        Some(UpdateState::Paused | UpdateState::RollbackPaused)
    ) {
        return;
    }
    let parts: Vec<Part> = slot::places(draft, &service.id)
        .into_iter()
        .filter(|(place, _)| takes_tasks(draft, service, place))
        .filter_map(|(place, tasks)| Part::of(draft, service, place, &tasks))
        .collect();
    let config = config_of(service);
    if service.spec.mode.is_global() && state.is_some_and(is_over) {
        for part in &parts {
            catch_up(draft, service, part, config.order, drain, known, wake, rng);
        }
        return;
    }
    let delay = nanos(config.delay);
    let monitor = nanos(config.monitor.unwrap_or(crate::validate::MONITOR_DEFAULT));
    let underway = matches!(
        state,
        Some(UpdateState::Updating | UpdateState::RollbackStarted)
    );
    if underway && let Some(task) = verdict(service, &parts, &config, monitor) {
        let task = task.id.clone();
        fail(draft, service, &config, &task);
        return;
    }
    // The first pass of an update that another one was in the way of may find all of its tasks made, by that
    // one, and waiting for a node beside those that they replace.
    if !underway && parts.iter().any(Part::is_unfinished) {
        set_status(
            draft,
            service,
            UpdateStatus {
                state: UpdateState::Updating,
                started_at: Some(draft.now()),
                completed_at: None,
                message: "update in progress".into(),
            },
        );
    }

    let now = draft.now();
    let mut busy = 0;
    let mut unfinished = false;
    for part in parts.iter().filter(|part| !part.waits()) {
        if part.may_shut(config.order, draft, drain, known, wake) {
            shut(draft, &part.outdated);
        } else if part.successors.iter().any(|task| slot::is_live(task)) {
            unfinished |= !part.outdated.is_empty();
        }
        match part.reached_at().map(|at| at + delay) {
            None => busy += 1,
            Some(free_at) if wake.waits(now, free_at, delay) => busy += 1,
            Some(_) => {}
        }
    }
    let workers = match usize::try_from(config.parallelism) {
        Ok(0) | Err(_) => usize::MAX,
        Ok(workers) => workers,
    };
    unfinished |= busy > 0;
    // Those first that are down, or in the hands of an earlier update: so it is never more of them
    // than there are workers.
    let mut waiting: Vec<_> = parts.iter().filter(|part| part.waits()).collect();
    waiting.sort_by_key(|part| (part.runs(), part.outdated.len() < 2));
    for part in waiting {
        unfinished = true;
        if busy >= workers {
            break;
        }
        busy += 1;
        begin(draft, service, part, config.order, rng);
    }
    if underway && !unfinished {
        finish(draft, service, &parts, delay, monitor, wake);
    }
}

/// Brings a node up to date that was paused during an update. As with Swarm that is no update: it is not
/// shown, waits for no other node, and what fails is not blamed on the service.
#[expect(clippy::too_many_arguments, reason = "what a pass has, and the place")]
fn catch_up(
    draft: &mut Draft,
    service: &Service,
    part: &Part,
    order: UpdateOrder,
    drain: &mut Drain,
    known: &BarrierView<'_>,
    wake: &mut Wake,
    rng: &mut impl Rng,
) {
    if part.waits() {
        begin(draft, service, part, order, rng);
    } else if part.may_shut(order, draft, drain, known, wake) {
        shut(draft, &part.outdated);
    }
}

/// Replaces the task of one place.
fn begin(
    draft: &mut Draft,
    service: &Service,
    part: &Part,
    order: UpdateOrder,
    rng: &mut impl Rng,
) {
    let now = draft.now();
    let desired = match order {
        UpdateOrder::StopFirst => {
            shut(draft, &part.outdated);
            TaskState::Ready
        }
        UpdateOrder::StartFirst => {
            // Of several updates in a row, one task is enough to keep.
            let kept = furthest(part.outdated.iter()).map(|task| task.id.as_str());
            let others = part.outdated.iter();
            let others = others.filter(|task| Some(task.id.as_str()) != kept);
            shut(draft, &others.cloned().collect());
            TaskState::Running
        }
    };
    draft.put(task::new(service, &part.place, desired, now, rng));
}

fn shut(draft: &mut Draft, tasks: &Tasks) {
    for task in tasks {
        task::want(draft, task, TaskState::Shutdown);
    }
}
