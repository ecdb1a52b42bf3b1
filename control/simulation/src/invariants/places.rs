//! A network stays as long as a task is on it that has not ended: its connections live on, and what the
//! network has is given to no other.

use super::{InEveryState, has_ended};
use skein_model::State;

pub(super) const INVARIANT: InEveryState = InEveryState {
    name: "no task is on a network that is gone",
    check,
};

fn check(state: &State) -> Result<(), String> {
    for task in state.tasks().filter(|task| !has_ended(task.status.state)) {
        for place in &task.networks_attachments {
            let id = &place.network_id;
            if state.network(id).is_none() {
                return Err(format!("task {} is on network {id}", task.id));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{next, service, task};
    use skein_model::{Network, Object, TaskNetwork, TaskState};

    /// What the store itself would not let happen.
    fn without_networks(state: &State) -> State {
        let mut snapshot = serde_json::to_value(state).unwrap();
        let objects = snapshot["objects"].as_array_mut().unwrap();
        objects.retain(|object| object.get("network").is_none());
        serde_json::from_value(snapshot).unwrap()
    }

    #[test]
    fn a_network_outlasts_its_tasks() {
        let network = |id: &str| -> Object {
            let mut network = Network {
                id: id.into(),
                ..Network::default()
            };
            network.spec.name = id.into();
            network.into()
        };
        let mut on = task("t", &service("web"), 1);
        on.networks_attachments.push(TaskNetwork {
            network_id: "n".into(),
            ..TaskNetwork::default()
        });
        let with = next(&State::default(), vec![network("n"), on.clone().into()]);
        check(&with).unwrap();
        check(&without_networks(&with)).unwrap_err();
        on.status.state = TaskState::Failed;
        let ended = next(&with, vec![on.into()]);
        check(&without_networks(&ended)).unwrap();
    }
}
