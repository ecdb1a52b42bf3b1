//! What tasks take of a node, and what it has left.

use super::stock::Stock;
use skein_model::{Node, PortConfig, PortProtocol, PublishMode, State, Task, TaskState};
use std::{collections::BTreeMap, sync::Arc};

/// A port of a node, as the engine binds it.
pub(crate) type HostPort = (PortProtocol, u16);

/// What a node has left.
pub(super) struct Room {
    pub(super) node: Arc<Node>,
    pub(super) stock: Stock,
    host_ports: BTreeMap<HostPort, Vec<Holder>>,
    /// Wanted tasks on the node.
    pub(super) tasks: u64,
}

/// Who has a port of a node.
struct Holder {
    service_id: String,
    /// It is on its way out.
    stops: bool,
}

impl Room {
    /// The room on every node, by node ID.
    pub(super) fn all(state: &State) -> Vec<Self> {
        let rooms = state.nodes().map(|node| {
            let mut room = Self {
                node: node.clone(),
                stock: Stock::of(node),
                host_ports: BTreeMap::new(),
                tasks: 0,
            };
            for task in state.tasks_of_node(&node.id).filter(|task| counts(task)) {
                room.stock.take(task);
                room.note(task);
            }
            room
        });
        rooms.collect()
    }

    /// Notes a task on the node, apart from its resources.
    pub(super) fn note(&mut self, task: &Task) {
        let stops = task.desired_state > TaskState::Complete;
        for port in host_ports(task) {
            self.host_ports.entry(port).or_default().push(Holder {
                service_id: task.service_id.clone(),
                stops,
            });
        }
        if !stops {
            self.tasks += 1;
        }
    }

    /// Whether a task of the service cannot have the port. One that is held back may share it with
    /// tasks of its own service that stop: it starts after them (see `restart::release`).
    pub(super) fn is_taken(&self, port: &HostPort, service_id: &str, held_back: bool) -> bool {
        self.host_ports.get(port).is_some_and(|holders| {
            let mut holders = holders.iter();
            holders.any(|holder| !(held_back && holder.stops && holder.service_id == service_id))
        })
    }
}

/// Whether the task takes something of its node. One that is bound to the node counts once the
/// scheduler has confirmed it.
pub(super) fn counts(task: &Task) -> bool {
    let placed = task.status.state >= TaskState::Assigned && !task.status.state.is_terminal();
    placed && !task.is_attachment()
}

/// The ports of its node that a task asks for by number.
pub(crate) fn host_ports(task: &Task) -> impl Iterator<Item = HostPort> {
    let is_host =
        |port: &&PortConfig| port.publish_mode == PublishMode::Host && port.published_port != 0;
    let ports = task.endpoint_spec.iter().flat_map(|spec| &spec.ports);
    ports
        .filter(is_host)
        .map(|port| (port.protocol, port.published_port))
}
