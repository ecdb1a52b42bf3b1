//! The network state of this node, as last heard from the leader.
//!
//! It outlives sessions: a new leader's complete state is compared with it, so that the dataplane
//! only hears of what is new.

use skein_model::PortProtocol;
use skein_proto::{
    network::{
        Kind, Network, NetworkUpdate, Problem, Programmed, Transport, object::Object as Content,
    },
    view::View,
};
use std::{collections::BTreeSet, sync::Arc};
use tokio::sync::watch;

/// What the settings of a node are called, which are one object.
const SETTINGS_ID: &str = "settings";

/// Where sessions, dataplane and tasks meet over the network state. Clones share it.
#[derive(Clone)]
pub struct NetworkState {
    /// `None` until a leader has told.
    view: watch::Sender<Option<Arc<View>>>,
    /// What the dataplane last answered.
    programmed: watch::Sender<Option<Programmed>>,
}

impl Default for NetworkState {
    /// Nothing is known yet.
    fn default() -> Self {
        Self {
            view: watch::Sender::new(None),
            programmed: watch::Sender::new(None),
        }
    }
}

impl NetworkState {
    /// Takes an update of the leader's.
    pub fn take(&self, update: NetworkUpdate) {
        self.view.send_modify(|view| {
            let before = view.take().unwrap_or_default();
            *view = Some(Arc::new(before.after(update)));
        });
    }

    /// The state, and its changes.
    pub fn watch(&self) -> watch::Receiver<Option<Arc<View>>> {
        self.view.subscribe()
    }

    /// A network of the swarm, if this node has been told of it.
    pub fn network(&self, id: &str) -> Option<Network> {
        self.view.borrow().as_ref()?.network(id).cloned()
    }

    /// The ports that are published on every node, as far as this node has been told.
    pub fn published_ports(&self) -> BTreeSet<(PortProtocol, u16)> {
        let view = self.view.borrow();
        let objects = view.iter().flat_map(|view| view.objects.values());
        let ports = objects.flat_map(|object| match &object.object {
            Some(Content::Service(service)) => &service.ports[..],
            _ => &[],
        });
        let keys = ports.filter_map(|port| {
            let protocol = match port.transport() {
                Transport::Tcp => PortProtocol::Tcp,
                Transport::Udp => PortProtocol::Udp,
                Transport::Sctp => PortProtocol::Sctp,
                Transport::Unspecified => return None,
            };
            Some((protocol, u16::try_from(port.published).ok()?))
        });
        keys.collect()
    }

    /// The dataplane has answered.
    pub fn answered(&self, programmed: Programmed) {
        self.programmed.send_replace(Some(programmed));
    }

    /// The dataplane has not answered for long: that is a problem of the node, until it does.
    pub fn unanswered(&self, message: String) {
        self.programmed.send_modify(|programmed| {
            let problem = Problem {
                kind: Kind::Settings.into(),
                id: SETTINGS_ID.to_owned(),
                message,
            };
            programmed.get_or_insert_default().problems.push(problem);
        });
    }

    /// The dataplane's answers.
    pub fn answers(&self) -> watch::Receiver<Option<Programmed>> {
        self.programmed.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_proto::network::{Object, PublishedPort, Service};

    #[test]
    fn overlays_begin_above_the_identifiers_that_the_mesh_keeps_for_itself() {
        use skein_orchestration::allocator;
        assert_eq!(allocator::VNI_MIN, skein_abi::VNI_OVERLAY_MIN);
        let subnets = skein_abi::limits::SUBNETS_OF_NETWORK_MAX as usize;
        assert_eq!(allocator::SUBNETS_MAX, subnets);
        let internal = allocator::INTERNAL_NET;
        assert_eq!(internal.network(), skein_abi::addresses::INTERNAL_NET);
        assert_eq!(internal.prefix_len(), skein_abi::addresses::INTERNAL_PREFIX);
        let secure = allocator::SECURE_NET;
        assert_eq!(secure.network(), skein_abi::addresses::SECURE_NET);
        assert_eq!(secure.prefix_len(), skein_abi::addresses::SECURE_PREFIX);
    }

    #[test]
    fn networks_are_found_by_id() {
        let state = NetworkState::default();
        assert!(state.network("n").is_none());
        let network = Network {
            id: "n".into(),
            name: "front".into(),
            ..Network::default()
        };
        state.take(NetworkUpdate {
            version: 1,
            complete: true,
            upsert: vec![Object {
                object: Some(Content::Network(network)),
            }],
            remove: Vec::new(),
        });
        assert_eq!(state.network("n").unwrap().name, "front");
        assert!(state.network("a").is_none());
    }

    #[test]
    fn published_ports_are_those_of_all_services() {
        let state = NetworkState::default();
        assert!(state.published_ports().is_empty());
        let port = |transport: Transport, published| PublishedPort {
            transport: transport.into(),
            published,
            target: 1,
        };
        let service = |id: &str, ports: &[PublishedPort]| Object {
            object: Some(Content::Service(Service {
                id: id.into(),
                ports: ports.to_vec(),
                ..Service::default()
            })),
        };
        state.take(NetworkUpdate {
            version: 1,
            complete: true,
            upsert: vec![
                service("a", &[port(Transport::Tcp, 80), port(Transport::Sctp, 81)]),
                service("b", &[port(Transport::Udp, 80)]),
            ],
            remove: Vec::new(),
        });
        let expected = [
            (PortProtocol::Tcp, 80),
            (PortProtocol::Udp, 80),
            (PortProtocol::Sctp, 81),
        ];
        assert_eq!(state.published_ports(), expected.into());
    }
}
