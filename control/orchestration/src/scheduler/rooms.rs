//! The room on all nodes, kept from one pass to the next: a pass reads the tasks of those nodes alone of
//! which something has changed.

use super::room::{Room, host_ports};
use skein_model::State;
use std::collections::{BTreeMap, BTreeSet};

/// What every node has left, by its ID. Nothing depends on what is kept: without it, all is read.
#[derive(Clone, Debug, Default)]
pub(super) struct Rooms {
    rooms: Vec<Room>,
    indices: BTreeMap<String, usize>,
    /// What the rooms were read from.
    of: State,
    /// Those that have been written to since.
    written: BTreeSet<usize>,
}

impl Rooms {
    /// Makes them those of a state.
    pub(super) fn bring_up_to(&mut self, state: &State) {
        let came_or_went = state
            .changed_nodes(&self.of)
            .any(|(before, after)| before.is_some() != after.is_some());
        if came_or_went {
            self.rooms = Room::all(state);
            self.indices = self
                .rooms
                .iter()
                .enumerate()
                .map(|(index, room)| (room.node.id.clone(), index))
                .collect();
        } else {
            let mut stale = std::mem::take(&mut self.written);
            let changed = state.changed_node_ids(&self.of).into_iter();
            let changed = changed.chain(nodes_of_changed_services(state, &self.of));
            stale.extend(changed.filter_map(|id| self.indices.get(id)));
            for index in stale {
                let room = &mut self.rooms[index];
                if let Some(node) = state.node(&room.node.id) {
                    *room = Room::of(state, node);
                }
            }
        }
        self.written.clear();
        self.of.clone_from(state);
        debug_assert_eq!(
            self.rooms,
            Room::all(state),
            "what is kept is what is there"
        );
    }

    /// All of them, by node ID. Their places are their indices.
    pub(super) fn all(&self) -> &[Room] {
        &self.rooms
    }

    /// The index of a node's.
    pub(super) fn index_of(&self, node_id: &str) -> Option<usize> {
        self.indices.get(node_id).copied()
    }

    /// One of them, to write what the pass gives of it.
    pub(super) fn write(&mut self, index: usize) -> &mut Room {
        self.written.insert(index);
        &mut self.rooms[index]
    }
}

/// Where the services have tasks with ports of their nodes that are not what they were: whether such a task
/// is to be replaced is part of its room.
fn nodes_of_changed_services<'a>(
    state: &'a State,
    before: &'a State,
) -> impl Iterator<Item = &'a str> {
    let changed = state.changed_services(before);
    let services = changed.filter_map(|(before, after)| after.or(before));
    let tasks = services.flat_map(|service| state.tasks_of_service(&service.id));
    let with_ports = tasks.filter(|task| !host_ports(task).is_empty());
    with_ports.map(|task| task.node_id.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Fixture;
    use skein_model::{EndpointSpec, PortConfig, PublishMode, TaskState};

    #[test]
    fn what_is_kept_is_what_is_there_whatever_changes() {
        let mut fixture = Fixture::default();
        let mut rooms = Rooms::default();
        let mut check = |fixture: &Fixture| {
            rooms.bring_up_to(&fixture.state);
            assert_eq!(rooms.all(), Room::all(&fixture.state));
            let tasks: Vec<u64> = rooms.all().iter().map(|room| room.tasks).collect();
            // A pass that comes to nothing leaves nothing.
            if let Some(index) = rooms.index_of("n1") {
                rooms.write(index).tasks += 1;
            }
            tasks
        };
        assert_eq!(check(&fixture), [] as [u64; 0]);
        fixture.node("n1", |_| {});
        fixture.node("n3", |_| {});
        assert_eq!(check(&fixture), [0, 0]);
        let place = |fixture: &mut Fixture, id: &str, node: &str| {
            fixture.task(id, |task| {
                task.service_id = "s".into();
                task.node_id = node.into();
                task.status.state = TaskState::Running;
                task.desired_state = TaskState::Running;
                task.endpoint_spec = Some(EndpointSpec {
                    ports: vec![PortConfig {
                        target_port: 80,
                        published_port: 80,
                        publish_mode: PublishMode::Host,
                        ..PortConfig::default()
                    }],
                    ..EndpointSpec::default()
                });
            });
        };
        place(&mut fixture, "a", "n1");
        place(&mut fixture, "b", "n3");
        assert_eq!(check(&fixture), [1, 1]);
        fixture.node("n2", |_| {});
        assert_eq!(check(&fixture), [1, 0, 1]);
        place(&mut fixture, "b", "n2");
        assert_eq!(check(&fixture), [1, 1, 0]);
        // Its tasks are to be replaced from now on.
        fixture.service("s", |_| {});
        assert_eq!(check(&fixture), [1, 1, 0]);
        fixture.node("n2", |node| {
            node.description.resources.nano_cpus = 7;
        });
        assert_eq!(check(&fixture), [1, 1, 0]);
    }
}
