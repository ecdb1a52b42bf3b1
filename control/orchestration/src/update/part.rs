//! How far an update is in each place of a service, as its tasks tell it.

use super::status::{is_over, was_rolled_back};
use crate::{
    Wake, dirty,
    drain::{BarrierView, Drain},
    restart,
    scheduler::{engine_ports, waits_for_host_port},
    slot::{self, SlotKey, Tasks},
};
use skein_model::{Draft, Service, State, Task, TaskState, Timestamp, UpdateOrder};
use std::{sync::Arc, time::Duration};

/// A place that has an outdated task, or more than one that is wanted.
pub(super) struct Part {
    pub(super) place: SlotKey,
    /// Wanted still, but to go: outdated ones, and all but one of the others.
    pub(super) outdated: Tasks,
    /// What takes their place: what came after the last outdated task, oldest first. After a change
    /// there and back it may be a task that was there before.
    pub(super) successors: Tasks,
}

impl Part {
    /// `None` where the update has nothing to do.
    pub(super) fn of(
        state: &State,
        service: &Service,
        place: SlotKey,
        tasks: &Tasks,
    ) -> Option<Self> {
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
            if !ended_for_good || was_rolled_back(service) {
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
    pub(super) fn runs(&self) -> bool {
        let mut tasks = self.outdated.iter();
        tasks.any(|task| task.status.state == TaskState::Running)
    }

    pub(super) fn waits(&self) -> bool {
        self.successors.is_empty()
    }

    /// Whether the update has something to do here still.
    pub(super) fn is_unfinished(&self) -> bool {
        self.waits() || !self.outdated.is_empty()
    }

    /// When a successor first ran, or ended.
    pub(super) fn reached_at(&self) -> Option<Timestamp> {
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
    pub(super) fn failure(&self, service: &Service, monitor: Duration) -> Option<&Arc<Task>> {
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
    pub(super) fn may_shut(
        &self,
        order: UpdateOrder,
        draft: &Draft,
        drain: &mut Drain,
        known: &BarrierView<'_>,
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
    let status = service.update_status.as_ref();
    let under_way = status.is_some_and(|status| !is_over(status.state));
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
pub(super) fn furthest<'a>(tasks: impl Iterator<Item = &'a Arc<Task>>) -> Option<&'a Arc<Task>> {
    tasks.min_by_key(|task| std::cmp::Reverse(task.status.state))
}
