//! The ends of the tunnels, of this node and of the others, from the state that the managers want. Pure.

use crate::desired::Desired;
use skein_proto::network::Node;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddrV4},
};

/// What this node's end is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Where it listens: the node's data path address.
    pub node: Ipv4Addr,
    /// Its address inside.
    pub address: Ipv4Addr,
    /// The other ends, by their addresses inside.
    pub peers: BTreeMap<Ipv4Addr, Peer>,
}

/// Another node's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// X25519.
    pub key: [u8; 32],
    /// Where it listens: nobody moves it by sending from elsewhere.
    pub endpoint: SocketAddrV4,
    /// It has tasks on an encrypted overlay of this node: packets are to be expected.
    pub is_busy: bool,
}

/// A node's end: its address inside, and the rest.
fn end_of(node: &Node) -> Option<(Ipv4Addr, Peer)> {
    let end = node.tunnel.as_ref()?;
    let port = u16::try_from(end.port).ok().filter(|port| *port != 0)?;
    let peer = Peer {
        key: end.public_key.as_slice().try_into().ok()?,
        endpoint: SocketAddrV4::new(node.address.parse().ok()?, port),
        is_busy: false,
    };
    Some((end.address.parse().ok()?, peer))
}

/// The address of a node's end inside, if it has one.
pub fn address_of(node: &Node) -> Option<Ipv4Addr> {
    end_of(node).map(|(address, _)| address)
}

/// `None`: this node has no encrypted overlay, or no end yet.
pub fn ends(desired: &Desired) -> Option<Ends> {
    let encrypted = desired.networks.values().filter(|of| of.encrypted);
    let encrypted: BTreeSet<&str> = encrypted.map(|network| network.id.as_str()).collect();
    if encrypted.is_empty() {
        return None;
    }
    let own = desired.nodes.get(&desired.settings.as_ref()?.node_id)?;
    let (address, end) = end_of(own)?;
    let places = desired.endpoints.values();
    let places = places.filter(|place| encrypted.contains(place.network_id.as_str()));
    let busy: BTreeSet<&str> = places.map(|place| place.node_id.as_str()).collect();
    let others = desired.nodes.values().filter(|node| node.id != own.id);
    let peers = others.filter_map(|node| {
        let (address, peer) = end_of(node)?;
        let is_busy = busy.contains(node.id.as_str());
        Some((address, Peer { is_busy, ..peer }))
    });
    let peers = peers.filter(|(of, _)| *of != address).collect();
    Some(Ends {
        node: *end.endpoint.ip(),
        address,
        peers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_proto::network::{Endpoint, Network, Settings, TunnelEnd};

    fn node(id: &str, last: u8, tunnel: Option<TunnelEnd>) -> (String, Node) {
        let node = Node {
            id: id.to_owned(),
            address: format!("198.18.0.{last}"),
            tunnel,
            ..Node::default()
        };
        (id.to_owned(), node)
    }

    fn end(last: u8) -> Option<TunnelEnd> {
        Some(TunnelEnd {
            public_key: vec![last; 32],
            port: 4793,
            address: format!("100.66.0.{last}"),
        })
    }

    fn desired(encrypted: bool) -> Desired {
        let network = Network {
            id: "n".into(),
            encrypted,
            ..Network::default()
        };
        let place = Endpoint {
            network_id: "n".into(),
            node_id: "b".into(),
            ..Endpoint::default()
        };
        Desired {
            settings: Some(Settings {
                node_id: "a".into(),
                ..Settings::default()
            }),
            nodes: [
                node("a", 1, end(1)),
                node("b", 2, end(2)),
                node("c", 3, end(3)),
                node("old", 4, None),
                // What no manager says.
                node(
                    "odd",
                    5,
                    end(5).map(|end| TunnelEnd {
                        port: 65_536,
                        ..end
                    }),
                ),
            ]
            .into(),
            networks: [("n".to_owned(), network)].into(),
            endpoints: [("e".to_owned(), place)].into(),
            ..Desired::default()
        }
    }

    #[test]
    fn a_node_has_tunnels_to_all_nodes_with_keys() {
        let ends = ends(&desired(true)).unwrap();
        assert_eq!(ends.node, Ipv4Addr::new(198, 18, 0, 1));
        assert_eq!(ends.address, Ipv4Addr::new(100, 66, 0, 1));
        let peers: Vec<_> = ends
            .peers
            .iter()
            .map(|(a, p)| (a.octets()[3], p.is_busy))
            .collect();
        assert_eq!(peers, [(2, true), (3, false)]);
        let peer = ends.peers[&Ipv4Addr::new(100, 66, 0, 2)];
        assert_eq!(peer.key, [2; 32]);
        assert_eq!(peer.endpoint.to_string(), "198.18.0.2:4793");
    }

    #[test]
    fn a_node_has_none_without_need_or_without_an_end_of_its_own() {
        assert_eq!(ends(&desired(false)), None);
        let mut without = desired(true);
        without.nodes.get_mut("a").unwrap().tunnel = None;
        assert_eq!(ends(&without), None);
        without.settings = None;
        assert_eq!(ends(&without), None);
    }
}
