//! What is too long for VXLAN is not sent, if it must not be fragmented, and its sender learns why.

use super::{cluster::*, node::LOCAL_ADDR, packets::*};
use crate::path_mtu::clamped;
use skein_abi::{ICMP, UDP, port, verdict::Counter};

const CALLED: End = (node_addr(0), 80);
const MTU: u16 = 1450;
const MSS: u32 = 1410;

/// A service with a task on node `at` of two.
fn serving(at: usize) -> Cluster {
    let (mut cluster, _) = Cluster::serving(2, 80, 8080, &[at]);
    for node in &mut cluster.nodes {
        node.config.tunnel_mtu = MTU;
    }
    cluster
}

#[test]
fn a_client_is_told_of_what_does_not_fit() {
    let cluster = serving(1);
    let sent = udp(CLIENT, CALLED);
    let told = cluster.send(0, sized(&sent, MTU + 1, true));
    assert_eq!((told.end, told.too_big), (Fate::Out(0), MTU.into()));
    assert_eq!(told.packet.tuple, sent.tuple.reversed(), "it is quoted");
    assert_eq!(told.packet.sender, CALLED.0);
    assert_eq!(cluster.nodes[0].counted(Counter::DropTooBig), 1);
    // What fits goes on, and what may be fragmented.
    cluster.send(0, sized(&sent, MTU, true)).task();
    cluster.send(0, sized(&sent, MTU + 1, false)).task();
    // A task of the client's own node has no VXLAN before it.
    serving(0).send(0, sized(&sent, MTU + 1, true)).task();
    // Until the node knows its MTU it refuses nothing.
    let (unknowing, _) = Cluster::serving(2, 80, 8080, &[1]);
    unknowing.send(0, sized(&sent, MTU + 1, true)).task();
}

#[test]
fn clients_on_the_node_are_told_as_well() {
    let mut cluster = serving(1);
    let local = udp((LOCAL_ADDR, 40_000), (LOCAL_ADDR, 80));
    let told = cluster.send_from_host(0, sized(&local, MTU + 1, true));
    assert_eq!((told.end, told.too_big), (Fate::Host(0), MTU.into()));
    assert_eq!(told.packet.tuple, local.tuple.reversed());
    let task = cluster.endpoint(0, INGRESS, ip(10, 0, 9, 9));
    let sent = udp((task.addr, 40_000), CALLED);
    let told = cluster.send_from_task(task, sized(&sent, MTU + 1, true));
    assert_eq!((told.end, told.too_big), (Fate::Task(task), MTU.into()));
    assert_eq!(told.packet.tuple, sent.tuple.reversed());
}

#[test]
fn a_task_is_told_of_answers_that_its_clients_side_does_not_carry() {
    for at in [0, 1] {
        let mut cluster = serving(at);
        cluster.nodes[0].out_mtu = 1280;
        let got = cluster.send(0, udp(CLIENT, CALLED));
        let answer = answer_to(&got.packet, 0);
        let told = cluster.send_from_task(got.task(), sized(&answer, 1281, true));
        assert_eq!((told.end, told.too_big), (Fate::Task(got.task()), 1280));
        assert_eq!(told.packet.tuple, got.packet.tuple);
        let left = cluster.send_from_task(got.task(), sized(&answer, 1280, true));
        assert_eq!(left.out_of(0), tuple(UDP, CALLED, CLIENT));
    }
}

#[test]
fn errors_are_not_answered_by_errors() {
    let cluster = serving(1);
    let got = cluster.send(0, udp(CLIENT, CALLED));
    let error = error_about(&tuple(UDP, CALLED, CLIENT), CLIENT.0);
    cluster.send(0, sized(&error, MTU + 1, true)).at(got.task());
}

#[test]
fn both_ends_of_a_connection_hear_of_the_narrow_way() {
    let cluster = serving(1);
    let got = cluster.send(0, syn(CLIENT, CALLED));
    assert_eq!(got.mss, MSS);
    assert_eq!(cluster.answer(&got, SYN | ACK).mss, MSS);
    let next = cluster.send(0, data(CLIENT, CALLED));
    assert_eq!(next.mss, 0);
    assert_eq!(cluster.answer(&next, ACK).mss, 0);
    // Nothing is narrow without VXLAN; the task's own device speaks for itself.
    let cluster = serving(0);
    let got = cluster.send(0, syn(CLIENT, CALLED));
    assert_eq!((got.mss, cluster.answer(&got, SYN | ACK).mss), (0, 0));
}

#[test]
fn an_mss_is_lowered_and_never_raised() {
    assert_eq!(clamped(port(1460), 1410), Some(port(1410)));
    assert_eq!(clamped(port(1410), 1410), None);
    assert_eq!(clamped(port(536), 1410), None);
}

#[test]
fn the_message_is_icmp() {
    let (cluster, _) = Cluster::serving(2, 80, 8080, &[1]);
    let mut work = crate::Work::new(sized(&udp(CLIENT, CALLED), MTU + 1, true));
    crate::uplink(&cluster.nodes[0], &mut work, SEGMENT, 0);
    crate::settle(&cluster.nodes[0], &mut work);
    crate::path_mtu::too_big(&cluster.nodes[0], &mut work, MTU.into());
    assert_eq!(work.verdict.to, tuple(ICMP, (CALLED.0, 0), (CLIENT.0, 0)));
}
