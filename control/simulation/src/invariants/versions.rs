//! Versions only grow: the state's index, that of every object, of specs, of the runs of jobs; and how
//! far a task is.

use super::Invariant;
use crate::{history::Seen, network::Host};
use skein_model::{Meta, State};
use std::collections::BTreeMap;

#[derive(Default)]
pub struct Versions {
    /// The index that each run of a member has applied last.
    applied: BTreeMap<(Host, u32), u64>,
}

fn grows(what: &str, before: &Meta, after: &Meta, same: bool) -> Result<(), String> {
    let (old, new) = (before.version.index, after.version.index);
    if new < old {
        return Err(format!("{what} went from version {old} to {new}"));
    }
    if new == old && !same {
        return Err(format!("{what} changed, and still has version {old}"));
    }
    if after.created_at != before.created_at {
        return Err(format!("{what} was made anew under the same ID"));
    }
    Ok(())
}

fn check(before: &State, after: &State) -> Result<(), String> {
    let (old, new) = (before.index(), after.index());
    if new <= old {
        return Err(format!("the state went from index {old} to {new}"));
    }
    for now in after.services() {
        let Some(was) = before.service(&now.id) else {
            continue;
        };
        let what = format!("service {}", now.id);
        grows(&what, &was.meta, &now.meta, was == now)?;
        if now.spec_version < was.spec_version || now.job_iteration() < was.job_iteration() {
            return Err(format!("the spec of {what} went back"));
        }
    }
    for now in after.tasks() {
        let Some(was) = before.task(&now.id) else {
            continue;
        };
        let what = format!("task {}", now.id);
        grows(&what, &was.meta, &now.meta, was == now)?;
        if now.status.state < was.status.state {
            let (was, now) = (was.status.state, now.status.state);
            return Err(format!("{what} went back from {was} to {now}"));
        }
        if now.desired_state < was.desired_state
            && was.desired_state > skein_model::TaskState::Complete
        {
            return Err(format!("{what} was to end, and is wanted again"));
        }
    }
    for now in after.nodes() {
        if let Some(was) = before.node(&now.id) {
            grows(
                &format!("node {}", now.id),
                &was.meta,
                &now.meta,
                was == now,
            )?;
        }
    }
    for now in after.networks() {
        if let Some(was) = before.network(&now.id) {
            let what = format!("network {}", now.id);
            grows(&what, &was.meta, &now.meta, was == now)?;
        }
    }
    if let (Some(was), Some(now)) = (before.cluster(), after.cluster()) {
        grows("the cluster", &was.meta, &now.meta, was == now)?;
        if now.next_raft_id < was.next_raft_id {
            return Err("Raft IDs are given again".into());
        }
    }
    Ok(())
}

impl Invariant for Versions {
    fn name(&self) -> &'static str {
        "versions never go back"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        let (host, run, index) = match seen {
            Seen::Changed { before, after, .. } => return check(before, after),
            Seen::Applied {
                host, run, index, ..
            } => (*host, *run, *index),
            Seen::Installed {
                host, run, state, ..
            } => (*host, *run, state.index()),
            _ => return Ok(()),
        };
        let Some(before) = self.applied.insert((host, run), index) else {
            return Ok(());
        };
        if index < before || (index == before && matches!(seen, Seen::Applied { .. })) {
            return Err(format!("{host:?} went from index {before} to {index}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{changed, next, service, task};
    use skein_model::{TaskState, Version};
    use std::time::Duration;

    fn see(before: &State, after: &State) -> Result<(), String> {
        Versions::default().see(&changed(Duration::ZERO, before, after))
    }

    #[test]
    fn states_and_objects_that_go_back_are_noticed() {
        let web = service("web");
        let one = next(&State::default(), vec![web.clone().into()]);
        let mut later = web.clone();
        later.spec_version = Version { index: 5 };
        let two = next(&one, vec![later.into()]);
        see(&one, &two).unwrap();
        see(&two, &one).unwrap_err();
        let three = next(&two, vec![web.into()]);
        let went_back = see(&two, &three).unwrap_err();
        assert!(went_back.contains("spec"), "{went_back}");
    }

    #[test]
    fn tasks_go_forward_only() {
        let web = service("web");
        let mut running = task("a", &web, 1);
        let one = next(&State::default(), vec![running.clone().into()]);
        let mut back = running.clone();
        back.status.state = TaskState::Ready;
        let two = next(&one, vec![back.into()]);
        see(&one, &two).unwrap_err();
        running.desired_state = TaskState::Shutdown;
        let ending = next(&one, vec![running.clone().into()]);
        see(&one, &ending).unwrap();
        running.desired_state = TaskState::Running;
        let wanted_again = next(&ending, vec![running.into()]);
        see(&ending, &wanted_again).unwrap_err();
    }

    #[test]
    fn a_member_that_goes_back_within_a_run_is_noticed() {
        let applied = |run, index| Seen::Applied {
            host: Host(1),
            run,
            index,
            entry: 0,
        };
        let mut invariant = Versions::default();
        invariant.see(&applied(0, 5)).unwrap();
        invariant.see(&applied(1, 1)).unwrap();
        invariant.see(&applied(0, 5)).unwrap_err();
    }
}
