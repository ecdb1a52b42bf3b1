//! The network state that the managers want on this node, as last received. Pure but for its file.

use ipnet::Ipv4Net;
use prost::Message as _;
use skein_proto::network::{
    Endpoint, Kind, Network, NetworkUpdate, Node, Object, ObjectRef, Service, Settings,
    object::Object as Kinds,
};
use std::{collections::BTreeMap, net::Ipv4Addr, path::Path};

/// A subnet of an overlay, and its gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    #[allow(missing_docs, reason = "the name says it")]
    pub net: Ipv4Net,
    /// An address in it.
    pub gateway: Ipv4Addr,
}

impl TryFrom<&skein_proto::network::Subnet> for Subnet {
    type Error = String;

    fn try_from(wanted: &skein_proto::network::Subnet) -> Result<Self, String> {
        match (wanted.subnet.parse(), wanted.gateway.parse()) {
            (Ok(net), Ok(gateway)) => Ok(Self { net, gateway }),
            _ => {
                let (subnet, gateway) = (&wanted.subnet, &wanted.gateway);
                Err(format!(
                    "subnet {subnet:?} with gateway {gateway:?} is not IPv4"
                ))
            }
        }
    }
}

/// The subnets of a network that can be read: of those that cannot, the plan of the kernel's maps says so.
pub fn subnets(network: &Network) -> impl Iterator<Item = Subnet> {
    network.subnets.iter().filter_map(|s| s.try_into().ok())
}

/// The subnet of a network that an address is in.
pub fn subnet_of(network: &Network, address: Ipv4Addr) -> Option<Subnet> {
    subnets(network).find(|subnet| subnet.net.contains(&address))
}

/// See the module. Objects by their IDs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// The Raft index of the state; 0: none was received yet.
    pub version: u64,
    /// What holds for the whole node; `None`: it is not a member.
    pub settings: Option<Settings>,
    #[allow(missing_docs, reason = "the names say it")]
    pub nodes: BTreeMap<String, Node>,
    #[allow(missing_docs, reason = "the names say it")]
    pub networks: BTreeMap<String, Network>,
    #[allow(missing_docs, reason = "the names say it")]
    pub services: BTreeMap<String, Service>,
    #[allow(missing_docs, reason = "the names say it")]
    pub endpoints: BTreeMap<String, Endpoint>,
}

impl Desired {
    /// The state after an update.
    ///
    /// # Errors
    /// As of [`Self::take`].
    pub fn after(&self, update: &NetworkUpdate) -> Result<Self, String> {
        let mut next = self.clone();
        next.take(update)?;
        Ok(next)
    }

    /// Makes it the state after an update.
    ///
    /// # Errors
    /// The update is older than what is there, or an object has no kind: nothing may be made of what it is then.
    pub fn take(&mut self, update: &NetworkUpdate) -> Result<(), String> {
        if update.complete {
            *self = Self::default();
        } else if update.version < self.version {
            let (new, old) = (update.version, self.version);
            return Err(format!("version {new} came after {old}"));
        }
        self.version = update.version;
        // In this order, as `skein_proto::view` has it.
        for object in &update.remove {
            self.remove(object);
        }
        for object in &update.upsert {
            let object = object.object.clone();
            self.put(object.ok_or("an object has no kind: is the manager newer than this node?")?);
        }
        Ok(())
    }

    fn put(&mut self, object: Kinds) {
        match object {
            Kinds::Settings(settings) => self.settings = Some(settings),
            Kinds::Node(node) => drop(self.nodes.insert(node.id.clone(), node)),
            Kinds::Network(network) => drop(self.networks.insert(network.id.clone(), network)),
            Kinds::Service(service) => drop(self.services.insert(service.id.clone(), service)),
            Kinds::Endpoint(endpoint) => {
                self.endpoints.insert(endpoint.id.clone(), endpoint);
            }
        }
    }

    fn remove(&mut self, object: &ObjectRef) {
        match object.kind() {
            Kind::Settings => self.settings = None,
            Kind::Node => drop(self.nodes.remove(&object.id)),
            Kind::Network => drop(self.networks.remove(&object.id)),
            Kind::Service => drop(self.services.remove(&object.id)),
            Kind::Endpoint => drop(self.endpoints.remove(&object.id)),
            Kind::Unspecified => {}
        }
    }

    /// The whole state as one update.
    pub fn to_update(&self) -> NetworkUpdate {
        let objects = (self.settings.iter().cloned().map(Kinds::Settings))
            .chain(self.nodes.values().cloned().map(Kinds::Node))
            .chain(self.networks.values().cloned().map(Kinds::Network))
            .chain(self.services.values().cloned().map(Kinds::Service))
            .chain(self.endpoints.values().cloned().map(Kinds::Endpoint));
        NetworkUpdate {
            version: self.version,
            complete: true,
            upsert: objects
                .map(|object| Object {
                    object: Some(object),
                })
                .collect(),
            remove: Vec::new(),
        }
    }

    /// What was stored last; nothing if nothing was, or if it cannot be read (the managers send it
    /// again).
    pub fn load(path: &Path) -> Self {
        let Ok(bytes) = std::fs::read(path) else {
            return Self::default();
        };
        let update = NetworkUpdate::decode(&bytes[..]);
        let state = update
            .map_err(|error| error.to_string())
            .and_then(|update| Self::default().after(&update));
        state.unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), error, "stored network state is unreadable");
            Self::default()
        })
    }

    /// Stores the state so that a crash leaves the old or the new one whole.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn store(&self, path: &Path) -> anyhow::Result<()> {
        crate::files::replace(path, &self.to_update().encode_to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str) -> Object {
        Object {
            object: Some(Kinds::Node(Node {
                id: id.into(),
                ..Node::default()
            })),
        }
    }

    fn update(version: u64, complete: bool, upsert: Vec<Object>) -> NetworkUpdate {
        NetworkUpdate {
            version,
            complete,
            upsert,
            remove: Vec::new(),
        }
    }

    #[test]
    fn a_complete_update_replaces_and_a_later_one_adds_and_removes() {
        let first = update(5, true, vec![node("a"), node("b")]);
        let state = Desired::default().after(&first).unwrap();
        let mut second = update(6, false, vec![node("c")]);
        second.remove.push(ObjectRef {
            kind: Kind::Node.into(),
            id: "a".into(),
        });
        let state = state.after(&second).unwrap();
        assert_eq!(state.nodes.keys().collect::<Vec<_>>(), ["b", "c"]);
        assert!(state.after(&update(5, false, vec![])).is_err(), "older");
        let state = state.after(&update(4, true, vec![node("d")])).unwrap();
        assert_eq!(state.nodes.len(), 1, "a new cluster counts anew");
    }

    #[test]
    fn what_is_stored_is_read_back_and_rubbish_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("desired");
        assert_eq!(Desired::load(&path), Desired::default());
        let state = Desired::default()
            .after(&update(5, true, vec![node("a")]))
            .unwrap();
        state.store(&path).unwrap();
        assert_eq!(Desired::load(&path), state);
        std::fs::write(&path, b"rubbish").unwrap();
        assert_eq!(Desired::load(&path), Desired::default());
    }
}
