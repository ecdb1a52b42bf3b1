//! One task per slot is wanted, and per node of a global service: of each version of its spec. A second
//! one is wanted only while an update brings it to take the first one's place.

use super::{InEveryState, is_wanted};
use skein_model::{State, Task};
use std::collections::BTreeMap;

pub(super) const INVARIANT: InEveryState = InEveryState {
    name: "one task per slot is wanted",
    check,
};

/// While an update starts the new task before it stops the old one.
const WANTED_MAX: usize = 2;

fn check(state: &State) -> Result<(), String> {
    let mut places: BTreeMap<(&str, u64, &str), Vec<&Task>> = BTreeMap::new();
    for task in state.tasks().filter(|task| is_wanted(task)) {
        let node = match task.mode.is_global() {
            true => task.node_id.as_str(),
            false => "",
        };
        let place = (task.service_id.as_str(), task.slot, node);
        places.entry(place).or_default().push(task);
    }
    for ((service, slot, node), tasks) in places {
        let same = tasks.iter().enumerate().any(|(n, task)| {
            let mut others = tasks[..n].iter();
            others.any(|other| other.spec_version == task.spec_version)
        });
        if same || tasks.len() > WANTED_MAX {
            let tasks: Vec<_> = tasks
                .iter()
                .map(|task| (&task.id, task.spec_version, task.status.state))
                .collect();
            return Err(format!(
                "service {service}, slot {slot}{node}: {} tasks are wanted: {tasks:?}",
                tasks.len()
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{next, service, task};
    use skein_model::{TaskState, Version};

    #[test]
    fn a_second_task_of_a_slot_is_noticed_unless_it_is_to_take_the_place() {
        let web = service("web");
        let first = task("a", &web, 1);
        let mut second = task("b", &web, 1);
        let other_slot = task("c", &web, 2);
        let state = next(&State::default(), vec![web.clone().into()]);
        let with = |tasks: &[&Task]| {
            let tasks = tasks.iter().map(|task| (*task).clone().into()).collect();
            check(&next(&state, tasks))
        };
        with(&[&first, &other_slot]).unwrap();
        with(&[&first, &second]).unwrap_err();
        second.spec_version = Some(Version { index: 2 });
        with(&[&first, &second]).unwrap();
        let mut third = task("d", &web, 1);
        third.spec_version = Some(Version { index: 3 });
        with(&[&first, &second, &third]).unwrap_err();
        third.desired_state = TaskState::Shutdown;
        with(&[&first, &second, &third]).unwrap();
    }
}
