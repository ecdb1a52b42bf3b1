//! ICMP errors go the way of the flow that they are about, translated as its packets are, and are
//! nothing to a flow but that.

use super::{cluster::*, packets::*};
use skein_abi::{
    TCP, UDP, VNI_FORWARD, VNI_REPLY, VNI_SECOND_HOP, addr, config::Timeouts, flow::ESTABLISHED,
    ingress::DEVICE_TRANSLATE, verdict::Counter,
};

const CALLED: End = (node_addr(0), 80);
const OUTSIDE: End = (ip(192, 0, 2, 80), 53);
const ROUTER: skein_abi::Addr = ip(203, 0, 113, 254);

/// What the client's side says of an answer of the service.
fn error() -> crate::Packet {
    error_about(&tuple(TCP, CALLED, CLIENT), ROUTER)
}

#[test]
fn an_error_about_an_answer_reaches_the_task_that_gave_it() {
    // On the client's node, and on another.
    for at in [0, 1] {
        let (cluster, _) = Cluster::serving(3, 80, 8080, &[at, at]);
        let got = cluster.send(0, syn(CLIENT, CALLED));
        let told = cluster.send(0, error());
        let packet = told.at(got.task());
        assert_eq!(
            packet.tuple, got.packet.tuple,
            "what is quoted, turned round"
        );
        assert_eq!(packet.sender, ROUTER);
    }
}

#[test]
fn an_error_of_a_task_reaches_the_client_as_the_service_s() {
    for at in [0, 1] {
        let (cluster, _) = Cluster::serving(3, 80, 8080, &[at]);
        let got = cluster.send(0, udp(CLIENT, CALLED));
        let unreachable = error_about(&got.packet.tuple, got.packet.tuple.dst);
        let left = cluster.send_from_task(got.task(), unreachable);
        assert_eq!(left.out_of(0), tuple(UDP, CALLED, CLIENT));
        assert_eq!(left.packet.sender, CALLED.0);
    }
}

#[test]
fn an_error_begins_no_flow() {
    let (cluster, _) = Cluster::serving(3, 80, 8080, &[1]);
    for at in [0, 1] {
        let stray = error_about(&tuple(TCP, (node_addr(at), 80), CLIENT), ROUTER);
        let lost = cluster.send(at, stray);
        assert!(lost.is_dropped(Counter::DropNoFlow), "{lost:?}");
    }
    for vni in [VNI_FORWARD, VNI_SECOND_HOP, VNI_REPLY] {
        let lost = cluster.tunnel(1, vni, node_addr(0), node_addr(0), error());
        assert!(lost.is_dropped(Counter::DropNoFlow), "{lost:?}");
    }
    let bridge = cluster.send_by_device(0, error(), DEVICE_TRANSLATE);
    assert!(bridge.is_dropped(Counter::DropNoFlow), "{bridge:?}");
    for node in &cluster.nodes {
        assert_eq!(node.conntrack.count() + node.nat.count(), 0);
        assert_eq!(node.affinity.count() + node.affinity_opening.count(), 0);
    }
}

#[test]
fn an_error_neither_opens_nor_closes_a_flow_nor_moves_its_way_back() {
    let (mut cluster, _) = Cluster::serving(3, 80, 8080, &[1]);
    let got = cluster.send(0, syn(CLIENT, CALLED));
    // It may come in by another node, where the client's address for the service is the same.
    cluster.nodes[2].locals.insert(CALLED.0);
    let told = cluster.send(2, error());
    assert_eq!(told.at(got.task()).tuple, got.packet.tuple);
    cluster.send(0, error()).at(got.task());
    for (_, ct) in cluster.nodes[1].conntrack.all() {
        assert_eq!(ct.marks & ESTABLISHED, 0);
    }
    assert_eq!(cluster.nodes[2].affinity.count(), 0);
    assert_eq!(
        cluster.answer(&got, SYN | ACK).out_of(0),
        tuple(TCP, CALLED, CLIENT)
    );
    cluster.advance(Timeouts::default().opening);
    assert!(cluster.send(0, error()).is_dropped(Counter::DropNoFlow));
}

#[test]
fn an_error_about_what_left_by_the_nodes_address_reaches_who_sent_it() {
    let (cluster, tasks) = Cluster::serving(1, 80, 8080, &[0]);
    for sent in [
        udp((tasks[0].addr, 40_000), OUTSIDE),
        ping(tasks[0].addr, OUTSIDE.0, 7),
    ] {
        let left = cluster.send_from_task(tasks[0], sent).out_of(0);
        let told = cluster.send(0, error_about(&left, ROUTER)).at(tasks[0]);
        assert_eq!(told.tuple, sent.tuple.reversed());
    }
    let not_left = error_about(&tuple(UDP, (node_addr(0), 61_001), OUTSIDE), ROUTER);
    assert_eq!(cluster.send(0, not_left).end, Fate::Passed(0));
}

#[test]
fn an_error_from_behind_a_vip_is_the_vip_s() {
    let (cluster, caller, _) = super::overlay::balanced();
    let vip = (super::overlay::VIP, 53);
    let got = cluster.send_from_task(caller, udp((caller.addr, 40_000), vip));
    let unreachable = error_about(&got.packet.tuple, got.packet.tuple.dst);
    let told = cluster.send_from_task(got.task(), unreachable);
    assert_eq!(
        told.at(caller).tuple,
        tuple(UDP, vip, (caller.addr, 40_000))
    );
    assert_eq!(told.packet.sender, vip.0);
    let stray = error_about(&tuple(UDP, vip, (caller.addr, 1)), caller.addr);
    let lost = cluster.send_from_task(caller, stray);
    assert!(lost.is_dropped(Counter::DropNoFlow), "{lost:?}");
}

#[test]
fn other_nodes_own_errors_pass() {
    let (cluster, _) = Cluster::serving(2, 80, 8080, &[1]);
    // About VXLAN: the kernel looks for its own paths' MTU.
    let vxlan = (node_addr(1), super::node::VXLAN_PORT);
    let own = error_about(
        &tuple(UDP, (addr([198, 18, 0, 1].into()), 50_000), vxlan),
        ROUTER,
    );
    assert_eq!(cluster.send(0, own).end, Fate::Passed(0));
}
