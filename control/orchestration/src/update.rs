//! Rolling updates: replaces tasks that differ from what their service is now, a few at a time.
//!
//! How far an update is can be read from the tasks: a place is in its hands when its last outdated
//! task has a successor. So an update goes on unchanged under a new leader.

use crate::{
    Wake, dirty,
    drain::{Drain, Known, Programmed},
    global,
    restart::{self, nanos},
    scheduler::{engine_ports, waits_for_host_port},
    settled::Scope,
    slot::{self, Place, Tasks},
    task,
};
use rand::Rng;
use skein_model::{
    Draft, FailureAction, Service, ServiceMode, State, Task, TaskState, Timestamp, UpdateConfig,
    UpdateOrder, UpdateState, UpdateStatus, Version,
};
use std::{sync::Arc, time::Duration};

/// How long an update watches its last tasks at least beyond its own delay.
const MONITOR_BEYOND_DELAY: Duration = Duration::from_secs(1);

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
    let known = Known::of(&before, programmed);
    for service in services {
        match service.spec.mode {
            ServiceMode::Replicated { .. } | ServiceMode::Global {} => {
                step(draft, &service, drain, &known, wake, rng);
            }
            ServiceMode::ReplicatedJob { .. } | ServiceMode::GlobalJob {} => {}
        }
    }
}

/// A place that has an outdated task, or more than one that is wanted.
struct Part {
    place: Place,
    /// Wanted still, but to go: outdated ones, and all but one of the others.
    outdated: Tasks,
    /// What takes their place: what came after the last outdated task, oldest first. After a change
    /// there and back it may be a task that was there before.
    successors: Tasks,
}

impl Part {
    /// `None` where the update has nothing to do.
    fn of(state: &State, service: &Service, place: Place, tasks: &Tasks) -> Option<Self> {
        let is_dirty = |task: &Arc<Task>| dirty::is_dirty(state, service, task);
        let last = tasks.iter().rposition(is_dirty);
        let (upto, after) = tasks.split_at(last.map_or(0, |last| last + 1));
        let (mut outdated, earlier): (Tasks, Tasks) = upto
            .iter()
            .filter(|task| slot::is_live(task))
            .cloned()
            .partition(is_dirty);
        let mut successors: Tasks = earlier.into_iter().chain(after.iter().cloned()).collect();
        let live = successors.iter().filter(|task| slot::is_live(task));
        let kept = furthest(live).map(|task| task.id.clone());
        let (surplus, rest) = successors
            .into_iter()
            .partition(|task| slot::is_live(task) && Some(&task.id) != kept.as_ref());
        successors = rest;
        // One that ended under an earlier spec, which happened to be the same, is no answer to this.
        successors
            .retain(|task| slot::is_live(task) || task.spec_version == Some(service.spec_version));
        outdated.extend::<Tasks>(surplus);
        if outdated.is_empty() && last.is_none() {
            return None;
        }
        if outdated.is_empty() && successors.is_empty() {
            // A slot whose task has ended for good is updated as well; a rollback lets it be.
            let newest = tasks.last()?;
            let ended_for_good = is_dirty(newest)
                && newest.desired_state == TaskState::Shutdown
                && !restart::may_restart(service, tasks, newest);
            if !ended_for_good || is_rollback(service) {
                return None;
            }
        }
        Some(Self {
            place,
            outdated,
            successors,
        })
    }

    /// Whether an outdated task has a port that another task waits for: the engine binds it for one only.
    fn holds_a_port_of(&self, task: &Task) -> bool {
        let wanted = engine_ports(task);
        let mut outdated = self.outdated.iter();
        outdated.any(|old| !engine_ports(old).is_disjoint(&wanted))
    }

    /// Whether a task of the place runs.
    fn runs(&self) -> bool {
        let mut tasks = self.outdated.iter();
        tasks.any(|task| task.status.state == TaskState::Running)
    }

    fn waits(&self) -> bool {
        self.successors.is_empty()
    }

    /// When a successor first ran, or ended.
    fn reached_at(&self) -> Option<Timestamp> {
        self.successors.iter().find_map(|task| {
            let status = &task.status;
            if !status.running_since.is_zero() {
                Some(status.running_since)
            } else if status.state.is_terminal() {
                Some(status.applied_at)
            } else {
                None
            }
        })
    }

    /// The successor, if it failed so early that the update is to blame.
    fn failure(&self, service: &Service, monitor: Duration) -> Option<&Arc<Task>> {
        let first = self.successors.first()?;
        let status = &first.status;
        let ended = matches!(
            status.state,
            TaskState::Complete | TaskState::Failed | TaskState::Rejected
        );
        let early = status.running_since.is_zero()
            || status.applied_at.since(status.running_since) <= monitor;
        (ended && early && first.spec_version == Some(service.spec_version)).then_some(first)
    }

    /// Whether the outdated tasks can go: nothing is lost by it, or nothing is to be kept.
    fn may_shut(
        &self,
        order: UpdateOrder,
        draft: &Draft,
        drain: &mut Drain,
        known: &Known<'_>,
        wake: &mut Wake,
    ) -> bool {
        // Where the new task can have its port only after the old one, it is the order that gives.
        let mut live = self.successors.iter().filter(|task| slot::is_live(task));
        if live.any(|task| self.holds_a_port_of(task) && waits_for_host_port(draft, task)) {
            return true;
        }
        let mut live = self.successors.iter().filter(|task| slot::is_live(task));
        match order {
            UpdateOrder::StopFirst => live.next().is_some(),
            // One that ended before it ran, and keeps its place until its delay is over, takes nothing
            // over.
            UpdateOrder::StartFirst => live.any(|task| {
                !task.status.running_since.is_zero() && drain.takes_over(draft, known, task, wake)
            }),
        }
    }
}

/// The tasks by which an update that is under way knows how far it is in a place, by ID: the last outdated one,
/// and the first that took over from it, by which the update is judged.
pub(crate) fn remembers<'a>(state: &State, service: &Service, tasks: &'a Tasks) -> Vec<&'a str> {
    let under_way = service.update_status.as_ref().is_some_and(|status| {
        !matches!(
            status.state,
            UpdateState::Completed | UpdateState::RollbackCompleted
        )
    });
    if !under_way {
        return Vec::new();
    }
    let is_dirty = |task: &Arc<Task>| dirty::is_dirty(state, service, task);
    let Some(last) = tasks.iter().rposition(is_dirty) else {
        return Vec::new();
    };
    let mut after = tasks.iter().skip(last + 1);
    let first = after.find(|task| task.spec_version == Some(service.spec_version));
    let needed = tasks.get(last).into_iter().chain(first);
    needed.map(|task| task.id.as_str()).collect()
}

/// The task that is furthest on its way to RUNNING, and of several the oldest.
fn furthest<'a>(tasks: impl Iterator<Item = &'a Arc<Task>>) -> Option<&'a Arc<Task>> {
    tasks.min_by_key(|task| std::cmp::Reverse(task.status.state))
}

fn is_rollback(service: &Service) -> bool {
    let status = service.update_status.as_ref();
    status.is_some_and(|status| {
        matches!(
            status.state,
            UpdateState::RollbackStarted | UpdateState::RollbackPaused
        )
    })
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
fn takes_tasks(state: &State, service: &Service, place: &Place) -> bool {
    match place {
        Place::Slot(_) => true,
        Place::Node(node) => global::wants_task(state, service, node),
    }
}

fn step(
    draft: &mut Draft,
    service: &Service,
    drain: &mut Drain,
    known: &Known<'_>,
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
    if !underway && parts.iter().any(Part::waits) {
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
            Some(free_at) if now < free_at => {
                busy += 1;
                wake.at(free_at);
            }
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
        let mut task = (**task).clone();
        task.desired_state = TaskState::Shutdown;
        draft.put(task);
    }
}

/// The task because of which the update has failed.
fn verdict<'a>(
    service: &Service,
    parts: &'a [Part],
    config: &UpdateConfig,
    monitor: Duration,
) -> Option<&'a Arc<Task>> {
    if config.failure_action == FailureAction::Continue {
        return None;
    }
    let failures: Vec<_> = parts
        .iter()
        .filter_map(|part| part.failure(service, monitor))
        .collect();
    let ratio = failures.len() as f64 / parts.len().max(1) as f64;
    if ratio > config.max_failure_ratio {
        failures.last().copied()
    } else {
        None
    }
}

fn fail(draft: &mut Draft, service: &Service, config: &UpdateConfig, task: &str) {
    let cause = format!("due to failure or early termination of task {task}");
    let status = |state, message| UpdateStatus {
        state,
        started_at: service.update_status.as_ref().and_then(|s| s.started_at),
        completed_at: None,
        message,
    };
    if is_rollback(service) {
        let message = format!("rollback paused {cause}");
        set_status(draft, service, status(UpdateState::RollbackPaused, message));
        return;
    }
    let previous = match config.failure_action {
        FailureAction::Rollback => service.previous_spec.as_ref(),
        FailureAction::Pause | FailureAction::Continue => None,
    };
    // What only the previous spec names may be gone by now.
    let possible = previous.map(|previous| {
        let present = draft.check_references(Some(&service.spec), previous);
        present.map(|()| previous)
    });
    match possible {
        Some(Ok(previous)) => {
            let mut rolled = service.clone();
            rolled.spec = previous.clone();
            rolled.previous_spec = None;
            rolled.registry_auth = std::mem::take(&mut rolled.previous_registry_auth);
            // A version that no task was made for yet.
            rolled.spec_version = Version {
                index: draft.index(),
            };
            let message = format!("update rolled back {cause}");
            rolled.update_status = Some(status(UpdateState::RollbackStarted, message));
            draft.put(rolled);
        }
        other => {
            let mut message = format!("update paused {cause}");
            if let Some(Err(lack)) = other {
                message += &format!("; it cannot be rolled back: {lack}");
            }
            set_status(draft, service, status(UpdateState::Paused, message));
        }
    }
}

fn finish(
    draft: &mut Draft,
    service: &Service,
    parts: &[Part],
    delay: Duration,
    monitor: Duration,
    wake: &mut Wake,
) {
    let Some(status) = &service.update_status else {
        return;
    };
    let watch = if delay >= monitor {
        delay + MONITOR_BEYOND_DELAY
    } else {
        monitor
    };
    let started = status.started_at.unwrap_or_default();
    let last = parts.iter().filter_map(Part::reached_at).max();
    let end = last.map_or(started, |last| started.max(last + delay)) + watch;
    let now = draft.now();
    if now < end {
        wake.at(end);
        return;
    }
    let (state, message) = if status.state == UpdateState::RollbackStarted {
        (UpdateState::RollbackCompleted, "rollback completed")
    } else {
        (UpdateState::Completed, "update completed")
    };
    let status = UpdateStatus {
        state,
        started_at: status.started_at,
        completed_at: Some(now),
        message: message.into(),
    };
    set_status(draft, service, status);
}

fn set_status(draft: &mut Draft, service: &Service, status: UpdateStatus) {
    let mut service = service.clone();
    service.update_status = Some(status);
    draft.put(service);
}
