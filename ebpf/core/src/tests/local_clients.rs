//! Sources that are not unique in the cluster (the node's own sockets, containers on the engine's
//! bridges, tasks that call a node) leave by the node's address and a port of a range of its own.

use super::{cluster::*, node::*, packets::*};
use skein_abi::{TCP, UDP, flow::NAT_HOST, ingress::DEVICE_TRANSLATE, verdict::Counter};
use std::collections::HashSet;

/// A socket of the host, which has left by the local pair.
const SOCKET: End = (DNS_ADDR, 50_000);
const PUBLISHED: End = (LOCAL_ADDR, 80);

fn assert_is_translated(tuple: &skein_abi::flow::Tuple, node: usize) {
    let (address, port) = source(tuple);
    assert_eq!(address, node_addr(node));
    assert!((NAT_PORTS.0..=NAT_PORTS.1).contains(&port), "{port}");
}

#[test]
fn a_host_calls_its_own_published_port() {
    for proto in [TCP, UDP] {
        for at in [0, 1] {
            let (cluster, tasks) = Cluster::serving(2, 80, 8080, &[at]);
            let mut seen = None;
            for flags in [SYN, ACK] {
                let got = cluster.send_from_host(0, packet(proto, SOCKET, PUBLISHED, flags));
                let at_task = got.at(tasks[0]).tuple;
                assert_is_translated(&at_task, 0);
                assert_eq!(
                    *seen.get_or_insert(at_task),
                    at_task,
                    "one port for all of the flow"
                );
                let answer = cluster.answer(&got, SYN | ACK);
                assert_eq!(answer.at_host(0), tuple(proto, PUBLISHED, SOCKET));
            }
            let node = &cluster.nodes[0];
            assert!(node.nat.all().iter().any(|(key, _)| key.scope == NAT_HOST));
            assert_eq!(node.counted(Counter::FromHost), 2);
        }
    }
}

#[test]
fn a_refusal_reaches_the_host() {
    for at in [0, 1] {
        let (mut cluster, tasks) = Cluster::serving(2, 80, 8080, &[at]);
        cluster.remove(tasks[0], 0);
        let refusal = cluster.send_from_host(0, syn(SOCKET, PUBLISHED));
        assert!(refusal.reset_hops.is_some());
        assert_eq!(refusal.at_host(0), tuple(TCP, PUBLISHED, SOCKET));
    }
}

#[test]
fn sockets_with_one_port_do_not_collide() {
    for at in [0, 1] {
        let (mut cluster, tasks) = Cluster::serving(2, 80, 8080, &[at]);
        cluster.publish(0, 81, 8080);
        let calls = [
            syn(SOCKET, PUBLISHED),
            syn(SOCKET, (LOCAL_ADDR, 81)),
            syn((node_addr(0), SOCKET.1), PUBLISHED),
        ];
        let got = calls.map(|call| cluster.send_from_host(0, call));
        let distinct: HashSet<_> = got.iter().map(|got| got.at(tasks[0]).tuple).collect();
        assert_eq!(distinct.len(), calls.len());
        for (call, got) in calls.iter().zip(&got) {
            let answer = cluster.answer(got, SYN | ACK);
            assert_eq!(answer.at_host(0), call.tuple.reversed());
        }
    }
}

fn with_one_port() -> (Cluster, Task) {
    let (mut cluster, tasks) = Cluster::serving(2, 80, 8080, &[1]);
    cluster.nodes[0].config.nat_port_max = NAT_PORTS.0;
    (cluster, tasks[0])
}

const OTHER: End = (DNS_ADDR, 50_001);

#[test]
fn without_a_free_port_nothing_leaves() {
    let (cluster, task) = with_one_port();
    cluster.send_from_host(0, syn(SOCKET, PUBLISHED)).at(task);
    let second = cluster.send_from_host(0, syn(OTHER, PUBLISHED));
    assert!(second.is_dropped(Counter::DropNoPort), "{second:?}");
    // The one that has it keeps it.
    cluster.send_from_host(0, data(SOCKET, PUBLISHED)).at(task);
}

#[test]
fn what_the_host_sends_elsewhere_is_dropped() {
    let (cluster, _) = Cluster::serving(2, 80, 8080, &[0]);
    for to in [(LOCAL_ADDR, 81), (ip(100, 65, 200, 1), 80)] {
        let got = cluster.send_from_host(0, syn(SOCKET, to));
        assert!(got.is_dropped(Counter::DropUnknownAddress), "{got:?}");
    }
}

#[test]
fn the_host_reaches_a_container_by_its_internal_address() {
    let (cluster, tasks) = Cluster::serving(2, 80, 8080, &[0]);
    let internal = cluster.nodes[0].endpoints[0].expect("a task").internal;
    let got = cluster.send_from_host(0, udp((DNS_ADDR, 53), (internal, 40_000)));
    let expected = udp((DNS_ADDR, 53), (tasks[0].addr, 40_000));
    assert_eq!(got.at(tasks[0]).tuple, expected.tuple);
}

#[test]
fn containers_of_the_engine_are_translated() {
    let docker: End = (ip(172, 17, 0, 2), 50_000);
    for at in [0, 1] {
        let (cluster, tasks) = Cluster::serving(2, 80, 8080, &[at]);
        let called = (node_addr(0), 80);
        let got = cluster.send_by_device(0, syn(docker, called), DEVICE_TRANSLATE);
        assert_is_translated(&got.at(tasks[0]).tuple, 0);
        let answer = cluster.answer(&got, SYN | ACK);
        assert_eq!(answer.out_of(0), tuple(TCP, called, docker));
    }
}

#[test]
fn tasks_that_call_a_node_are_translated() {
    for at in [0, 1] {
        let (mut cluster, tasks) = Cluster::serving(2, 80, 8080, &[at]);
        let caller = cluster.ready_task(0, 1);
        let (from, called) = ((caller.addr, 50_000), (node_addr(0), 80));
        let got = cluster.send_from_task(caller, syn(from, called));
        assert_is_translated(&got.at(tasks[0]).tuple, 0);
        let answer = cluster.answer(&got, SYN | ACK);
        assert_eq!(answer.at(caller).tuple, tuple(TCP, called, from));
    }
}

#[test]
fn a_port_is_free_again_when_its_connection_is_over() {
    let (cluster, task) = with_one_port();
    let timeouts = cluster.nodes[0].config.timeouts;
    let got = cluster.send_from_host(0, syn(SOCKET, PUBLISHED));
    cluster.answer(&got, SYN | ACK).at_host(0);
    cluster.send_from_host(0, data(SOCKET, PUBLISHED)).at(task);
    // An open connection keeps it, however still.
    cluster.advance(timeouts.established - 1);
    let early = cluster.send_from_host(0, syn(OTHER, PUBLISHED));
    assert!(early.is_dropped(Counter::DropNoPort));
    cluster
        .send_from_host(0, tcp(SOCKET, PUBLISHED, FIN | ACK))
        .at(task);
    cluster.answer(&got, FIN | ACK).at_host(0);
    cluster.advance(timeouts.closed - 1);
    let early = cluster.send_from_host(0, syn(OTHER, PUBLISHED));
    assert!(
        early.is_dropped(Counter::DropNoPort),
        "late packets may come"
    );
    cluster.advance(1);
    let second = cluster.send_from_host(0, syn(OTHER, PUBLISHED));
    second.at(task);
    assert_eq!(
        cluster.answer(&second, SYN | ACK).at_host(0),
        tuple(TCP, PUBLISHED, OTHER)
    );
}

#[test]
fn a_socket_that_calls_again_from_the_same_port_opens_anew() {
    let (cluster, task) = with_one_port();
    let timeouts = cluster.nodes[0].config.timeouts;
    cluster.send_from_host(0, syn(SOCKET, PUBLISHED)).at(task);
    cluster
        .send_from_host(0, tcp(SOCKET, PUBLISHED, RST))
        .at(task);
    cluster.send_from_host(0, syn(SOCKET, PUBLISHED)).at(task);
    cluster.send_from_host(0, data(SOCKET, PUBLISHED)).at(task);
    cluster.advance(timeouts.closed);
    let second = cluster.send_from_host(0, syn(OTHER, PUBLISHED));
    assert!(
        second.is_dropped(Counter::DropNoPort),
        "the port is in use: {second:?}"
    );
}
