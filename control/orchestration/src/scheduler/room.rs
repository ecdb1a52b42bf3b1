//! What tasks take of a node, and what it has left.

use super::stock::Stock;
use crate::{dirty, occupancy::takes_room};
use skein_model::{Node, PortConfig, PortProtocol, PublishMode, State, Task};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A port of a node that is published in host mode.
pub(crate) type HostPort = (PortProtocol, u16);

/// What a node has left.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Room {
    pub(super) node: Arc<Node>,
    pub(super) stock: Stock,
    host_ports: BTreeMap<HostPort, Vec<Holder>>,
    /// Wanted tasks on the node.
    pub(super) tasks: u64,
}

/// Who has a port of a node.
#[derive(Clone, Debug, PartialEq)]
struct Holder {
    service_id: String,
    /// It is on its way out.
    stops: bool,
    /// Its service is being updated: another is to take its place.
    outdated: bool,
}

/// Who wants a port of a node.
pub(super) struct Claimant<'a> {
    pub(super) service_id: &'a str,
    /// It starts only after those that it replaces have stopped (see `restart::release`).
    pub(super) held_back: bool,
    /// It is itself to be replaced.
    pub(super) outdated: bool,
}

impl Claimant<'_> {
    /// Whether the port can be the task's and the holder's at once. While one task of a service takes
    /// another's place, the mesh serves both; the engine can only serve one after the other.
    fn shares(&self, port: &HostPort, holder: &Holder) -> bool {
        let same_service = holder.service_id == self.service_id;
        let goes = if is_of_engine(port) {
            self.held_back && holder.stops
        } else {
            holder.stops || holder.outdated && !self.outdated
        };
        same_service && goes
    }
}

impl Room {
    /// The room on every node, by node ID.
    pub(super) fn all(state: &State) -> Vec<Self> {
        state.nodes().map(|node| Self::of(state, node)).collect()
    }

    /// The room on a node.
    pub(super) fn of(state: &State, node: &Arc<Node>) -> Self {
        let mut room = Self {
            node: node.clone(),
            stock: Stock::of(node),
            host_ports: BTreeMap::new(),
            tasks: 0,
        };
        let tasks = state.tasks_of_node(&node.id);
        for task in tasks.filter(|task| takes_room(task)) {
            room.stock.take(task);
            room.note(state, task);
        }
        room
    }

    /// Notes a task on the node, apart from its resources.
    pub(super) fn note(&mut self, state: &State, task: &Task) {
        let stops = !task.is_wanted();
        let ports = host_ports(task);
        let outdated = !ports.is_empty() && is_outdated(state, task);
        for port in ports {
            self.host_ports.entry(port).or_default().push(Holder {
                service_id: task.service_id.clone(),
                stops,
                outdated,
            });
        }
        if !stops {
            self.tasks += 1;
        }
    }

    /// Whether a task cannot have the port.
    pub(super) fn is_taken(&self, port: &HostPort, by: &Claimant<'_>) -> bool {
        let mut holders = self.host_ports.get(port).into_iter().flatten();
        holders.any(|holder| !by.shares(port, holder))
    }
}

/// Whether the task is to be replaced by another, as its service is something else by now.
pub(super) fn is_outdated(state: &State, task: &Task) -> bool {
    let service = state.service(&task.service_id);
    service.is_some_and(|service| dirty::is_dirty(state, service, task))
}

fn is_of_engine((protocol, published_port): &HostPort) -> bool {
    PortConfig {
        protocol: *protocol,
        published_port: *published_port,
        publish_mode: PublishMode::Host,
        ..PortConfig::default()
    }
    .is_of_engine()
}

/// The ports of its node that a task asks for by number, and those that its node has chosen for it.
pub(super) fn host_ports(task: &Task) -> BTreeSet<HostPort> {
    let asked = task.endpoint_spec.iter().flat_map(|spec| &spec.ports);
    let ports = asked.chain(&task.status.port_status.ports);
    let on_host =
        |port: &&PortConfig| port.publish_mode == PublishMode::Host && port.published_port != 0;
    ports
        .filter(on_host)
        .map(|port| (port.protocol, port.published_port))
        .collect()
}

/// Those of them that the engine publishes: for one container at a time.
pub(crate) fn engine_ports(task: &Task) -> BTreeSet<HostPort> {
    host_ports(task).into_iter().filter(is_of_engine).collect()
}
