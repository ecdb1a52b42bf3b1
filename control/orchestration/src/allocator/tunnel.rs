//! Addresses of the nodes in the tunnels between them, by which encrypted overlays go.

use ipnet::Ipv4Net;
use skein_model::{Draft, Node, State};
use std::{collections::BTreeSet, net::Ipv4Addr};

/// What the nodes' addresses in the tunnels are of; see `SECURE_NET` of `skein-abi`.
pub const SECURE_NET: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(100, 66, 0, 0), 16);

/// Gives each node that has said its key an address, unless it has one. It keeps it for as long as it is a node.
pub(super) fn allocate(draft: &mut Draft) {
    let waiting = |node: &Node| node.tunnel.is_some_and(|end| end.address.is_none());
    let waiting: Vec<_> = draft
        .nodes()
        .filter(|node| waiting(node))
        .cloned()
        .collect();
    if waiting.is_empty() {
        return;
    }
    let taken = taken(draft);
    // (There is room for more nodes than a cluster has.)
    let free = SECURE_NET
        .hosts()
        .filter(|address| !taken.contains(address));
    for (node, address) in waiting.iter().zip(free) {
        let mut node = Node::clone(node);
        if let Some(end) = &mut node.tunnel {
            end.address = Some(address);
        }
        draft.put(node);
    }
}

fn taken(state: &State) -> BTreeSet<Ipv4Addr> {
    let addresses = state.nodes().filter_map(|node| node.tunnel?.address);
    addresses.collect()
}

#[cfg(test)]
mod tests {
    use super::super::Allocator;
    use crate::testing::Fixture;
    use skein_model::{Kind, TunnelEnd};
    use std::net::Ipv4Addr;

    fn says_its_key(fixture: &mut Fixture, node: &str) {
        fixture.node(node, |node| {
            node.tunnel = Some(TunnelEnd {
                public_key: [7; 32],
                port: 4793,
                address: None,
            });
        });
    }

    fn allocated(fixture: &mut Fixture, nodes: &[&str]) -> Vec<Option<Ipv4Addr>> {
        let mut draft = fixture.draft();
        Allocator::default().run(&mut draft);
        fixture.commit(draft);
        let of = |node: &&str| fixture.state.node(node).unwrap().tunnel?.address;
        nodes.iter().map(of).collect()
    }

    #[test]
    fn every_node_with_a_key_has_an_address_of_its_own_and_keeps_it() {
        let address = |last| Some(Ipv4Addr::new(100, 66, 0, last));
        let mut fixture = Fixture::default();
        fixture.node("old", |_| {});
        for node in ["a", "b"] {
            says_its_key(&mut fixture, node);
        }
        let given = allocated(&mut fixture, &["a", "b", "old"]);
        assert_eq!(given, [address(1), address(2), None]);
        // Another leader's allocator, and a node more.
        says_its_key(&mut fixture, "0");
        let given = allocated(&mut fixture, &["0", "a", "b"]);
        assert_eq!(given, [address(3), address(1), address(2)]);
        let mut draft = fixture.draft();
        draft.remove(Kind::Node, "a");
        fixture.commit(draft);
        says_its_key(&mut fixture, "c");
        assert_eq!(allocated(&mut fixture, &["c"]), [address(1)], "it is free");
    }
}
