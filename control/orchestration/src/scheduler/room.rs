use skein_model::{Node, PortConfig, PortProtocol, PublishMode, State, Task, TaskState};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// What a node has left.
pub(super) struct Room {
    pub(super) node: Arc<Node>,
    pub(super) nano_cpus: i64,
    pub(super) memory_bytes: i64,
    pub(super) host_ports: BTreeSet<(PortProtocol, u16)>,
    tasks: u64,
    by_service: BTreeMap<String, u64>,
}

impl Room {
    /// The room on every node, by node ID.
    pub(super) fn all(state: &State) -> Vec<Self> {
        let rooms = state.nodes().map(|node| {
            let mut room = Self {
                node: node.clone(),
                nano_cpus: node.description.resources.nano_cpus,
                memory_bytes: node.description.resources.memory_bytes,
                host_ports: BTreeSet::new(),
                tasks: 0,
                by_service: BTreeMap::new(),
            };
            for task in state.tasks_of_node(&node.id) {
                // A task bound to the node counts once the scheduler has confirmed it.
                if task.status.state >= TaskState::Assigned && !task.status.state.is_terminal() {
                    room.take(task);
                }
            }
            room
        });
        rooms.collect()
    }

    /// Notes a task on the node.
    pub(super) fn take(&mut self, task: &Task) {
        let (nano_cpus, memory_bytes) = reserved(task);
        self.nano_cpus -= nano_cpus;
        self.memory_bytes -= memory_bytes;
        self.host_ports.extend(host_ports(task));
        if task.desired_state <= TaskState::Complete {
            self.tasks += 1;
            *self.by_service.entry(task.service_id.clone()).or_default() += 1;
        }
    }

    pub(super) fn node_id(&self) -> &str {
        &self.node.id
    }

    /// Wanted tasks on the node.
    pub(super) fn tasks(&self) -> u64 {
        self.tasks
    }

    /// Those of one service.
    pub(super) fn tasks_of(&self, service_id: &str) -> u64 {
        self.by_service.get(service_id).copied().unwrap_or(0)
    }
}

/// CPU and memory that a task wants for itself.
pub(super) fn reserved(task: &Task) -> (i64, i64) {
    let resources = task.spec.resources.as_ref();
    let reserved = resources.and_then(|resources| resources.reservations.as_ref());
    reserved.map_or((0, 0), |r| (r.nano_cpus, r.memory_bytes))
}

/// The ports of its node that a task asks for by number.
pub(super) fn host_ports(task: &Task) -> impl Iterator<Item = (PortProtocol, u16)> {
    let is_host =
        |port: &&PortConfig| port.publish_mode == PublishMode::Host && port.published_port != 0;
    let ports = task.endpoint_spec.iter().flat_map(|spec| &spec.ports);
    ports
        .filter(is_host)
        .map(|port| (port.protocol, port.published_port))
}
