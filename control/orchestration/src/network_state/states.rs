//! The network states of all nodes: what they share is made once, and a change costs what it changes.
//!
//! [`network_state`](super::network_state) says what each node is to have; this comes to the same, and
//! tests compare the two.

use super::{
    endpoint::{endpoint, endpoint_id, places},
    network, networks_of, node, on_networks,
    ports::{host_ports, is_in_host_mode, removed_services},
    service,
};
use imbl::{OrdMap, ordmap::DiffItem};
use skein_model::{Service, State, Task};
use skein_proto::{
    encoded::encode,
    network::{self as proto, EncodedUpdate, object::Object as Content},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// An object, encoded. Clones share it.
type Encoded = prost::bytes::Bytes;
/// By ID.
type Objects<T> = OrdMap<Arc<str>, T>;

/// What all nodes are to know of one state of the store. Clones share what they have in common.
#[derive(Clone, Debug, Default)]
pub struct NetworkStates {
    state: State,
    /// Those of every node, but for its name.
    settings: proto::Settings,
    nodes: Objects<Encoded>,
    /// Those on networks or with published ports: with all of their networks, of which each node is told
    /// its own.
    services: Objects<Arc<proto::Service>>,
    /// Which of the services are no more: their tasks have not all ended.
    removed: BTreeSet<String>,
    networks: Objects<OnNetwork>,
}

/// What the nodes on one network have.
#[derive(Clone, Debug, Default, PartialEq)]
struct OnNetwork {
    /// `None`: it is not there, or not yet, and so no node has any of this.
    network: Option<Encoded>,
    endpoints: Objects<Encoded>,
}

/// What one node has been told: as little as possible, as there are many nodes.
#[derive(Clone, Debug, Default)]
pub struct Told {
    states: Arc<NetworkStates>,
    /// Those it has, whether they are there or not.
    networks: Arc<BTreeSet<String>>,
}

impl NetworkStates {
    /// Those of a later state of the store, or of any other: only what differs is looked at.
    #[must_use]
    pub fn after(&self, state: &State) -> Self {
        let ingress = super::ingress(state).map(|network| network.id.as_str());
        let mut next = Self {
            state: state.clone(),
            settings: super::settings(state, ""),
            ..self.clone()
        };
        next.take_nodes(&self.state);
        next.take_services(self, ingress);
        next.take_networks(&self.state);
        next.take_endpoints(self);
        next
    }

    /// The Raft index of the state they are made of.
    pub fn index(&self) -> u64 {
        self.state.index()
    }

    /// See [`State::network_index`].
    pub fn network_index(&self) -> u64 {
        self.state.network_index()
    }

    /// Whether no node is to be told anything that it was not told by an earlier one; `false` only says
    /// that one may be.
    pub fn says_nothing_new(&self, before: &Self) -> bool {
        let is_on_networks = |task: &Arc<Task>| !task.networks_attachments.is_empty();
        let mut tasks = self.state.changed_tasks(&before.state);
        self.settings == before.settings
            && is_same(&self.nodes, &before.nodes)
            && is_same(&self.services, &before.services)
            && is_same(&self.networks, &before.networks)
            // Which networks a node has depends on tasks that have no address yet, too.
            && !tasks.any(|(old, new)| old.into_iter().chain(new).any(is_on_networks))
    }

    fn take_nodes(&mut self, before: &State) {
        for (old, new) in self.state.changed_nodes(before) {
            let Some(either) = new.or(old) else { continue };
            let object = new.and_then(|of| node(of)).map(Content::Node);
            set(&mut self.nodes, &either.id, object.map(encode));
        }
    }

    fn take_services(&mut self, before: &Self, ingress: Option<&str>) {
        let made = |of: &Service| {
            let service = service(of, ingress);
            let publishes = !service.ports.is_empty() || service.in_host_mode;
            (publishes || !service.networks.is_empty()).then(|| Arc::new(service))
        };
        if self.settings.ingress_network_id != before.settings.ingress_network_id {
            for service in self.state.services() {
                set(&mut self.services, &service.id, made(service));
            }
        }
        for (old, new) in self.state.changed_services(&before.state) {
            let Some(either) = new.or(old) else { continue };
            set(&mut self.services, &either.id, new.and_then(|of| made(of)));
        }
        let removed = removed_services(&self.state);
        let removed: BTreeMap<String, proto::Service> =
            removed.map(|of| (of.id.clone(), of)).collect();
        let ended = before.removed.iter().filter(|id| {
            let is_present = self.state.service(id).is_some();
            !is_present && !removed.contains_key(*id)
        });
        for id in ended {
            set(&mut self.services, id, None);
        }
        self.removed = removed.keys().cloned().collect();
        for (id, service) in removed {
            set(&mut self.services, &id, Some(Arc::new(service)));
        }
    }

    fn take_networks(&mut self, before: &State) {
        for (old, new) in self.state.changed_networks(before) {
            let Some(either) = new.or(old) else { continue };
            let object = new.and_then(|of| network(of)).map(Content::Network);
            let object = object.map(encode);
            change(&mut self.networks, &either.id, |on| on.network = object);
        }
    }

    fn take_endpoints(&mut self, before: &Self) {
        let ingress = &self.settings.ingress_network_id;
        let changed: Vec<_> = self.state.changed_tasks(&before.state).collect();
        // A port in host mode is one task's of those on its node: of which, a change of any may decide.
        let tasks: Vec<_> = if before.settings.ingress_network_id == *ingress {
            let tasks = changed.iter().flat_map(|(old, new)| [*old, *new]);
            tasks.flatten().collect()
        } else {
            self.state.tasks().collect()
        };
        let publishing = tasks.into_iter().filter(|task| is_in_host_mode(task));
        let nodes: BTreeSet<&str> = publishing.map(|task| task.node_id.as_str()).collect();
        let on_nodes = nodes.iter().flat_map(|id| host_ports(&self.state, id));
        let host_ports: BTreeMap<&str, Vec<_>> = on_nodes.collect();
        let beside = nodes.iter().flat_map(|id| self.state.tasks_of_node(id));
        let beside = beside.filter(|task| is_in_host_mode(task));
        let beside = beside.map(|task| (Some(task), Some(task)));
        for (old, new) in changed.into_iter().chain(beside) {
            let places_now: BTreeMap<&str, _> = new.into_iter().flat_map(|of| places(of)).collect();
            for (task, network_id) in old
                .into_iter()
                .flat_map(|task| places(task).map(move |(network_id, _)| (task, network_id)))
            {
                if !places_now.contains_key(network_id) {
                    let id = endpoint_id(task, network_id);
                    change(&mut self.networks, network_id, |on| {
                        set(&mut on.endpoints, &id, None);
                    });
                }
            }
            let Some(task) = new else { continue };
            for (network_id, address) in places_now {
                let ports = host_ports.get(task.id.as_str());
                let ports = ports.filter(|_| network_id == ingress);
                let ports = ports.cloned().unwrap_or_default();
                let endpoint = endpoint(task, network_id, address, ports);
                let id = endpoint.id.clone();
                let object = Some(encode(Content::Endpoint(endpoint)));
                let known = self.networks.get(network_id);
                // Most changes of tasks are none of their endpoints.
                if known.and_then(|on| on.endpoints.get(id.as_str())) != object.as_ref() {
                    change(&mut self.networks, network_id, |on| {
                        set(&mut on.endpoints, &id, object);
                    });
                }
            }
        }
    }

    /// What a node must be told that has been told something, or nothing yet; `None` if there is no news.
    pub fn update(
        self: &Arc<Self>,
        node_id: &str,
        told: Option<&Told>,
    ) -> (Told, Option<EncodedUpdate>) {
        let networks = match told {
            Some(told) if told.states.has_same_networks(self, node_id) => told.networks.clone(),
            _ => {
                let ids = networks_of(&self.state, node_id).into_iter();
                Arc::new(ids.map(str::to_owned).collect())
            }
        };
        let now = Told {
            states: Arc::clone(self),
            networks,
        };
        let mut news = News::default();
        if told.is_none_or(|told| told.states.settings != self.settings) {
            news.upsert.push(encode(Content::Settings(proto::Settings {
                node_id: node_id.to_owned(),
                ..self.settings.clone()
            })));
        }
        match told {
            Some(told) => news.compare(told, &now),
            None => news.compare(&Told::default(), &now),
        }
        let is_news = told.is_none() || !news.upsert.is_empty() || !news.remove.is_empty();
        let update = is_news.then(|| EncodedUpdate {
            version: self.index(),
            complete: told.is_none(),
            upsert: news.upsert,
            remove: news.remove,
        });
        (now, update)
    }

    /// `false` only says that the node's networks may be others.
    fn has_same_networks(&self, other: &Self, node_id: &str) -> bool {
        let tasks = self.state.group_of_node(node_id);
        self.settings.ingress_network_id == other.settings.ingress_network_id
            && tasks.is_same(&other.state.group_of_node(node_id))
    }
}

impl Told {
    /// The node's networks, of those that are there.
    fn networks(&self) -> BTreeMap<&str, &OnNetwork> {
        let on = |id| self.states.networks.get(id);
        let all = self.networks.iter().map(String::as_str);
        all.filter_map(|id| Some((id, on(id).filter(|on| on.network.is_some())?)))
            .collect()
    }
}

/// What a node is to be told.
#[derive(Default)]
struct News {
    upsert: Vec<Encoded>,
    remove: Vec<proto::ObjectRef>,
}

impl News {
    fn compare(&mut self, before: &Told, now: &Told) {
        let (had, has) = (before.networks(), now.networks());
        self.objects(proto::Kind::Node, &before.states.nodes, &now.states.nodes);
        let (old, new) = (&before.states.services, &now.states.services);
        let mut service = |id: &str, old: Option<&Arc<proto::Service>>, new: Option<&_>| {
            let known = old.and_then(|of| on_networks(of, |id| had.contains_key(id)));
            let wanted =
                new.and_then(|of: &Arc<proto::Service>| on_networks(of, |id| has.contains_key(id)));
            match wanted {
                Some(wanted) if known.as_ref() != Some(&wanted) => {
                    self.upsert.push(encode(Content::Service(wanted)));
                }
                None if known.is_some() => self.remove(proto::Kind::Service, id),
                _ => {}
            }
        };
        for item in old.diff(new) {
            match item {
                DiffItem::Add(id, new) => service(id, None, Some(new)),
                DiffItem::Update { old, new } => service(new.0, Some(old.1), Some(new.1)),
                DiffItem::Remove(id, old) => service(id, Some(old), None),
            }
        }
        if !had.keys().eq(has.keys()) {
            // Of services that are the same the node may have to know more, or less.
            let same = new.iter().filter(|(id, new)| old.get(*id) == Some(*new));
            for (id, of) in same {
                service(id, Some(of), Some(of));
            }
        }
        let nothing = OnNetwork::default();
        for id in had.keys().chain(has.keys()).collect::<BTreeSet<_>>() {
            let old = had.get(id).copied().unwrap_or(&nothing);
            let new = has.get(id).copied().unwrap_or(&nothing);
            match &new.network {
                Some(network) if old.network != new.network => self.upsert.push(network.clone()),
                None => self.remove(proto::Kind::Network, id),
                Some(_) => {}
            }
            self.objects(proto::Kind::Endpoint, &old.endpoints, &new.endpoints);
        }
    }

    fn objects(&mut self, kind: proto::Kind, before: &Objects<Encoded>, now: &Objects<Encoded>) {
        for item in before.diff(now) {
            match item {
                DiffItem::Add(_, new) | DiffItem::Update { new: (_, new), .. } => {
                    self.upsert.push(new.clone());
                }
                DiffItem::Remove(id, _) => self.remove(kind, id),
            }
        }
    }

    fn remove(&mut self, kind: proto::Kind, id: &str) {
        self.remove.push(proto::ObjectRef {
            kind: kind.into(),
            id: id.to_owned(),
        });
    }
}

/// Puts an object, or takes it out. What is there already stays shared.
fn set<T: Clone + PartialEq>(objects: &mut Objects<T>, id: &str, object: Option<T>) {
    match object {
        Some(object) if objects.get(id) != Some(&object) => {
            objects.insert(id.into(), object);
        }
        None if objects.contains_key(id) => drop(objects.remove(id)),
        _ => {}
    }
}

/// Whether nothing was put or taken out between the two. Known at once.
fn is_same<T: Clone>(one: &Objects<T>, other: &Objects<T>) -> bool {
    (one.is_empty() && other.is_empty()) || one.ptr_eq(other)
}

/// Changes what is on a network. Nothing is kept of one on which nothing is.
fn change(networks: &mut Objects<OnNetwork>, id: &str, change: impl FnOnce(&mut OnNetwork)) {
    if let Some(on) = networks.get_mut(id) {
        change(on);
        if *on == OnNetwork::default() {
            networks.remove(id);
        }
    } else {
        let mut on = OnNetwork::default();
        change(&mut on);
        set(
            networks,
            id,
            Some(on).filter(|on| *on != OnNetwork::default()),
        );
    }
}

#[cfg(test)]
mod tests;
