//! Encrypted overlays: nothing of them is taken in the clear, and nothing is sent so.

use super::{cluster::*, node::VXLAN_PORT, packets::*};
use proptest::prelude::*;
use skein_abi::{
    Addr, UDP, VNI_FORWARD, VNI_REPLY, VNI_SECOND_HOP,
    ingress::{MEMBER_SECURE, MEMBER_UP},
    overlay::{Location, NETWORK_ENCRYPTED, NO_KEY, OverlayKey},
    verdict::Counter,
};

const SEALED: u32 = 4_097;
const OPEN: u32 = 4_098;
const CALLER: Addr = ip(10, 1, 1, 1);
const SERVER: Addr = ip(10, 1, 1, 2);
/// A host of the segment that is no node.
const STRANGER: Addr = ip(198, 18, 0, 200);

/// Two overlays with the same addresses, of which one is encrypted: a caller on the first node, a server on the
/// second; and a third node.
fn cluster() -> (Cluster, [Task; 2], [Task; 2]) {
    let mut cluster = Cluster::new(3);
    cluster.network(SEALED, ip(10, 1, 0, 0), NETWORK_ENCRYPTED);
    cluster.network(OPEN, ip(10, 1, 0, 0), 0);
    let mut ends = |vni| {
        [
            cluster.endpoint(0, vni, CALLER),
            cluster.endpoint(1, vni, SERVER),
        ]
    };
    let (sealed, open) = (ends(SEALED), ends(OPEN));
    for node in &mut cluster.nodes {
        let secure = (0..3).map(|n| (secure_addr(n), MEMBER_SECURE));
        node.members.extend(secure);
        for (key, location) in &mut node.locations {
            if key.vni == SEALED && location.node != 0 {
                let of = (0..3).find(|n| node_addr(*n) == location.node);
                location.node = secure_addr(of.expect("a node"));
            }
        }
    }
    (cluster, sealed, open)
}

#[test]
fn what_goes_between_nodes_goes_by_the_secure_device() {
    let (cluster, sealed, open) = cluster();
    for [caller, server] in [sealed, open] {
        let call = syn((caller.addr, 40_000), (server.addr, 80));
        let got = cluster.send_from_task(caller, call);
        assert_eq!(got.at(server).tuple, call.tuple);
        let answer = cluster.answer(&got, SYN | ACK);
        assert_eq!(answer.at(caller).tuple, call.tuple.reversed());
    }
    // (Had it gone to a data path address, the server's node would have dropped it.)
    let call = syn((CALLER, 40_000), (SERVER, 80));
    let in_clear = cluster.tunnel(1, SEALED, node_addr(0), 0, call);
    assert!(in_clear.is_dropped(Counter::DropCleartext));
}

#[test]
fn what_is_injected_reaches_nobody() {
    let (cluster, ..) = cluster();
    let call = syn((CALLER, 40_000), (SERVER, 80));
    for (outer, reason) in [
        (STRANGER, Counter::DropNotMember),
        (node_addr(0), Counter::DropCleartext),
        (node_addr(1), Counter::DropCleartext),
        (secure_addr(0), Counter::DropCleartext),
        (secure_addr(1), Counter::DropCleartext),
        (secure_addr(9), Counter::DropNotMember),
    ] {
        let got = cluster.tunnel(1, SEALED, outer, 0, call);
        assert!(got.is_dropped(reason), "from {outer:#x}: {got:?}");
    }
}

#[test]
fn the_uplink_takes_no_vxlan_from_secure_addresses() {
    let (cluster, ..) = cluster();
    let outer = |from| udp((from, 50_000), (node_addr(1), VXLAN_PORT));
    let passed = cluster.send(1, outer(node_addr(0)));
    assert_eq!(passed.end, Fate::Passed(1));
    let forged = cluster.send(1, outer(secure_addr(0)));
    assert!(forged.is_dropped(Counter::DropCleartext), "{forged:?}");
}

#[test]
fn a_tunnel_carries_encrypted_overlays_alone() {
    let (cluster, [_, server], _) = cluster();
    let call = syn((CALLER, 40_000), (SERVER, 80));
    let by_tunnel = |vni, remote| cluster.secure_tunnel(1, vni, remote, call);
    by_tunnel(SEALED, secure_addr(0)).at(server);
    for (vni, remote, reason) in [
        (OPEN, secure_addr(0), Counter::DropUnknownVni),
        (VNI_FORWARD, secure_addr(0), Counter::DropUnknownVni),
        (VNI_REPLY, secure_addr(0), Counter::DropUnknownVni),
        // Of which the inner source would be the entry.
        (VNI_SECOND_HOP, secure_addr(0), Counter::DropNotMember),
        (SEALED, node_addr(0), Counter::DropNotMember),
        (SEALED, STRANGER, Counter::DropNotMember),
        (OPEN, node_addr(0), Counter::DropNotMember),
    ] {
        let got = by_tunnel(vni, remote);
        assert!(got.is_dropped(reason), "{vni} from {remote:#x}: {got:?}");
    }
}

#[test]
fn nothing_is_sent_to_a_node_without_a_key() {
    let (mut cluster, [caller, _], _) = cluster();
    let key = OverlayKey {
        vni: SEALED,
        addr: SERVER,
    };
    for node in [node_addr(1), secure_addr(1)] {
        let location = Location {
            node,
            endpoint: NO_KEY,
        };
        cluster.nodes[0].locations.insert(key, location);
        let got = cluster.send_from_task(caller, syn((CALLER, 40_000), (SERVER, 80)));
        assert!(got.is_dropped(Counter::DropNoKey), "{got:?}");
        assert_eq!(got.hops, 0);
    }
}

proptest! {
    /// Whatever flags and addresses the outer packet has: only what was decrypted, and came from a member's secure
    /// address, reaches a task of an encrypted overlay; and only what came in the clear, from a member's data path
    /// address, one of another.
    #[test]
    fn each_kind_of_overlay_takes_its_own_kind_of_packet(
        vni in 0_u32..8_192, outer in 0_u8..8, decrypted: bool, proto in prop_oneof![Just(6_u8), Just(UDP)],
    ) {
        let (cluster, ..) = cluster();
        let remote = match outer {
            0..3 => node_addr(outer.into()),
            3..6 => secure_addr(usize::from(outer) - 3),
            6 => STRANGER,
            _ => secure_addr(9),
        };
        for vni in [vni, SEALED, OPEN] {
            let call = packet(proto, (CALLER, 40_000), (SERVER, 80), SYN);
            let got = match decrypted {
                true => cluster.secure_tunnel(1, vni, remote, call),
                false => cluster.tunnel(1, vni, remote, 0, call),
            };
            let flags = cluster.nodes[1].members.get(&remote).copied();
            let expected = match vni {
                SEALED => decrypted && flags == Some(MEMBER_SECURE),
                OPEN => !decrypted && flags == Some(MEMBER_UP),
                _ => false,
            };
            prop_assert_eq!(matches!(got.end, Fate::Task(_)), expected, "{:?}", got);
        }
    }
}
