//! The store at one Raft index, and how it moves to the next.

mod changes;
mod draft;
mod groups;
mod lookup;
mod references;
mod transaction;

pub use changes::Change;
pub use draft::Draft;
pub use groups::{Payloads, TaskGroup};
pub use lookup::LookupError;
pub use transaction::{
    ACTION_BYTES_MAX, Action, Applied, Event, PROPOSAL_ACTIONS_MAX, PROPOSAL_BYTES_MAX, Proposal,
    Rejection, check_size,
};

use crate::{Cluster, Config, Kind, Network, Node, Object, Secret, Service, Task};
use groups::TaskGroups;
use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Everything the cluster knows, at one Raft index. Clones share what did not change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    index: u64,
    /// See [`network_index`](Self::network_index).
    network_index: u64,
    cluster: Option<Arc<Cluster>>,
    nodes: OrdMap<String, Arc<Node>>,
    services: OrdMap<String, Arc<Service>>,
    tasks: OrdMap<String, Arc<Task>>,
    networks: OrdMap<String, Arc<Network>>,
    secrets: OrdMap<String, Arc<Secret>>,
    configs: OrdMap<String, Arc<Config>>,
    /// Lower-case name -> ID.
    names: OrdMap<(Kind, String), String>,
    /// By service ID; attachments are under "".
    tasks_by_service: TaskGroups,
    /// By node ID; tasks without a node are under "".
    tasks_by_node: TaskGroups,
}

impl State {
    /// The Raft index of this state.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The Raft index of the last change of anything that a node's network may depend on. Between two
    /// states with the same one, no node's network differs; most changes are of tasks on no network.
    pub fn network_index(&self) -> u64 {
        self.network_index
    }

    /// The cluster object; `None` only before the cluster is initialised.
    pub fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.cluster.as_ref()
    }

    /// A node by its full ID.
    pub fn node(&self, id: &str) -> Option<&Arc<Node>> {
        self.nodes.get(id)
    }

    /// A service by its full ID.
    pub fn service(&self, id: &str) -> Option<&Arc<Service>> {
        self.services.get(id)
    }

    /// A task by its full ID.
    pub fn task(&self, id: &str) -> Option<&Arc<Task>> {
        self.tasks.get(id)
    }

    /// A network by its full ID; also one that pends its deletion.
    pub fn network(&self, id: &str) -> Option<&Arc<Network>> {
        self.networks.get(id)
    }

    /// A secret by its full ID.
    pub fn secret(&self, id: &str) -> Option<&Arc<Secret>> {
        self.secrets.get(id)
    }

    /// A config by its full ID.
    pub fn config(&self, id: &str) -> Option<&Arc<Config>> {
        self.configs.get(id)
    }

    /// All nodes, by ID.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// All services, by ID.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// All tasks, by ID.
    pub fn tasks(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.values()
    }

    /// All networks, by ID, those that pend their deletion included.
    pub fn networks(&self) -> impl Iterator<Item = &Arc<Network>> {
        self.networks.values()
    }

    /// The networks that there are for users, by ID: those that do not pend their deletion.
    pub fn present_networks(&self) -> impl Iterator<Item = &Arc<Network>> {
        self.networks().filter(|network| !network.pending_deletion)
    }

    /// All secrets, by ID.
    pub fn secrets(&self) -> impl Iterator<Item = &Arc<Secret>> {
        self.secrets.values()
    }

    /// All configs, by ID.
    pub fn configs(&self) -> impl Iterator<Item = &Arc<Config>> {
        self.configs.values()
    }

    /// The tasks of a service, by ID; of "", those that are no service's.
    pub fn tasks_of_service(&self, service_id: &str) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks_by_service.tasks(service_id)
    }

    /// The tasks of a node, by ID; of "", those that have no node yet.
    pub fn tasks_of_node(&self, node_id: &str) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks_by_node.tasks(node_id)
    }

    /// The tasks of a service as a whole; of "", those that are no service's.
    pub fn group_of_service(&self, service_id: &str) -> TaskGroup {
        self.tasks_by_service.of(service_id)
    }

    /// The tasks of a node as a whole; of "", those that have no node yet.
    pub fn group_of_node(&self, node_id: &str) -> TaskGroup {
        self.tasks_by_node.of(node_id)
    }

    /// The IDs of all services that have tasks, in order, those that are no more included; "" for tasks
    /// that are no service's.
    pub fn services_of_tasks(&self) -> impl Iterator<Item = &String> {
        self.tasks_by_service.owners()
    }

    /// Whether a service and its tasks are the same as in another state, where one came of the other.
    /// Known at once; `false` only says that something may have changed.
    pub fn is_same_service(&self, other: &Self, service_id: &str) -> bool {
        let tasks = self.group_of_service(service_id);
        same(self.service(service_id), other.service(service_id))
            && tasks.is_same(&other.group_of_service(service_id))
    }

    /// The same of everything but services and tasks.
    pub fn is_same_but_for_services(&self, other: &Self) -> bool {
        same(self.cluster(), other.cluster())
            && self.nodes.ptr_eq(&other.nodes)
            && self.networks.ptr_eq(&other.networks)
            && self.payloads().is_same(&other.payloads())
    }

    /// All secrets and configs as a whole.
    pub fn payloads(&self) -> Payloads {
        Payloads::new(self.secrets.clone(), self.configs.clone())
    }

    /// The ingress network, if there is one.
    pub fn ingress_network(&self) -> Option<&Arc<Network>> {
        self.present_networks().find(|network| network.spec.ingress)
    }

    fn get(&self, kind: Kind, id: &str) -> Option<Object> {
        match kind {
            Kind::Cluster => self
                .cluster
                .as_ref()
                .filter(|cluster| cluster.id == id)
                .cloned()
                .map(Object::Cluster),
            Kind::Node => self.node(id).cloned().map(Object::Node),
            Kind::Service => self.service(id).cloned().map(Object::Service),
            Kind::Task => self.task(id).cloned().map(Object::Task),
            Kind::Network => self.network(id).cloned().map(Object::Network),
            Kind::Secret => self.secret(id).cloned().map(Object::Secret),
            Kind::Config => self.config(id).cloned().map(Object::Config),
        }
    }

    /// Puts an object in place of the one with its ID, and keeps the indices. Most changes are of
    /// tasks, and leave the indices as they are.
    fn insert(&mut self, object: Object) {
        let id = object.id().to_owned();
        self.note_network(&object);
        if !matches!(object, Object::Task(_)) {
            self.note_name(&object);
        }
        match object {
            Object::Cluster(cluster) => self.cluster = Some(cluster),
            Object::Node(node) => drop(self.nodes.insert(id, node)),
            Object::Service(service) => drop(self.services.insert(id, service)),
            Object::Network(network) => drop(self.networks.insert(id, network)),
            Object::Secret(secret) => drop(self.secrets.insert(id, secret)),
            Object::Config(config) => drop(self.configs.insert(id, config)),
            Object::Task(task) => {
                let before = self.tasks.insert(id.clone(), task.clone());
                if let Some(before) = &before {
                    self.note_network(&Object::Task(before.clone()));
                }
                let before = before.as_deref();
                self.tasks_by_service
                    .put(before, &task, |task| &task.service_id);
                self.tasks_by_node.put(before, &task, |task| &task.node_id);
            }
        }
    }

    /// Takes an object out, and out of the indices.
    fn take(&mut self, kind: Kind, id: &str) -> Option<Object> {
        let object = self.get(kind, id)?;
        self.note_network(&object);
        if let Some(name) = object.unique_name() {
            self.names.remove(&(kind, name.to_lowercase()));
        }
        match &object {
            Object::Cluster(_) => self.cluster = None,
            Object::Node(_) => drop(self.nodes.remove(id)),
            Object::Service(_) => drop(self.services.remove(id)),
            Object::Network(_) => drop(self.networks.remove(id)),
            Object::Secret(_) => drop(self.secrets.remove(id)),
            Object::Config(_) => drop(self.configs.remove(id)),
            Object::Task(task) => {
                self.tasks_by_service.remove(&task.service_id, id);
                self.tasks_by_node.remove(&task.node_id, id);
                self.tasks.remove(id);
            }
        }
        Some(object)
    }

    /// An object is about to be put in place of the one with its ID.
    fn note_name(&mut self, object: &Object) {
        let before = self.get(object.kind(), object.id());
        let before = before.as_ref().and_then(Object::unique_name);
        let name = object.unique_name();
        if before == name {
            return;
        }
        if let Some(before) = before {
            self.names.remove(&(object.kind(), before.to_lowercase()));
        }
        if let Some(name) = name {
            let key = (object.kind(), name.to_lowercase());
            self.names.insert(key, object.id().to_owned());
        }
    }

    /// An object comes, goes or changes, of which this is one side.
    fn note_network(&mut self, object: &Object) {
        let concerns = match object {
            Object::Cluster(_) | Object::Node(_) | Object::Service(_) | Object::Network(_) => true,
            Object::Task(task) => !task.networks_attachments.is_empty(),
            Object::Secret(_) | Object::Config(_) => false,
        };
        if concerns {
            self.network_index = self.index;
        }
    }

    fn objects(&self) -> impl Iterator<Item = Object> + '_ {
        let cluster = self.cluster.iter().cloned().map(Object::Cluster);
        cluster
            .chain(self.nodes.values().cloned().map(Object::Node))
            .chain(self.services.values().cloned().map(Object::Service))
            .chain(self.tasks.values().cloned().map(Object::Task))
            .chain(self.networks.values().cloned().map(Object::Network))
            .chain(self.secrets.values().cloned().map(Object::Secret))
            .chain(self.configs.values().cloned().map(Object::Config))
    }
}

fn same<T>(one: Option<&Arc<T>>, other: Option<&Arc<T>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (one, other) => one.is_none() && other.is_none(),
    }
}

/// What a state is in a snapshot: the indices are made anew.
#[derive(Serialize, Deserialize)]
struct Snapshot {
    index: u64,
    #[serde(default)]
    network_index: u64,
    objects: Vec<Object>,
}

impl Serialize for State {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Snapshot {
            index: self.index,
            network_index: self.network_index,
            objects: self.objects().collect(),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for State {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let snapshot = Snapshot::deserialize(deserializer)?;
        let mut state = Self {
            index: snapshot.index,
            ..Self::default()
        };
        for object in snapshot.objects {
            state.insert(object);
        }
        state.network_index = snapshot.network_index;
        Ok(state)
    }
}

#[cfg(test)]
mod tests;
