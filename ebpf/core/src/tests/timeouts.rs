//! How long a flow is known after its last packet, by the state it is in.

use super::{cluster::*, node::*, packets::*};
use crate::conntrack::is_alive;
use skein_abi::{ICMP, TCP, UDP, config::Timeouts, flow::*, verdict::Counter};

const SECOND: u64 = 1_000_000_000;
const CALLED: End = (node_addr(0), 80);

#[test]
fn an_idle_connection_outlives_the_kernels_keepalive() {
    assert!(Timeouts::default().established >= (2 * 3600 + 15 * 60) * SECOND);
}

#[test]
fn each_state_has_its_own() {
    let timeouts = Timeouts {
        established: 50,
        opening: 40,
        closed: 30,
        udp: 20,
        icmp: 10,
        fragment: 5,
    };
    for (proto, marks, lifetime) in [
        (TCP, 0, 40),
        (TCP, SERVER_FIN, 40),
        (TCP, ESTABLISHED, 50),
        (TCP, ESTABLISHED | CLIENT_FIN, 50),
        (TCP, ESTABLISHED | CLIENT_FIN | SERVER_FIN, 30),
        (TCP, ESTABLISHED | RESET, 30),
        (UDP, ESTABLISHED, 20),
        (ICMP, ESTABLISHED, 10),
    ] {
        assert!(
            is_alive(&timeouts, proto, marks, 100, 100 + lifetime - 1),
            "{proto} {marks}"
        );
        assert!(
            !is_alive(&timeouts, proto, marks, 100, 100 + lifetime),
            "{proto} {marks}"
        );
        // Another CPU's clock may be ahead.
        assert!(is_alive(&timeouts, proto, marks, 100, 90));
    }
}

/// What a client has sent, and how long the flow is known then.
fn states() -> [(u8, &'static [u8], u64); 4] {
    let timeouts = Timeouts::default();
    [
        (TCP, &[SYN], timeouts.opening),
        (TCP, &[SYN, ACK], timeouts.established),
        (TCP, &[SYN, ACK, RST], timeouts.closed),
        (UDP, &[0], timeouts.udp),
    ]
}

/// A flow in that state to a task, which another has replaced since.
fn replaced(at: [usize; 2], proto: u8, sent: &[u8]) -> (Cluster, [Task; 2]) {
    let (mut cluster, tasks) = Cluster::serving(3, 80, 8080, &at[..1]);
    for flags in sent {
        cluster
            .send(0, packet(proto, CLIENT, CALLED, *flags))
            .at(tasks[0]);
    }
    cluster.drain(tasks[0], 0);
    let new = cluster.ready_task(at[1], 0);
    cluster.set_tables(0, &at[1..]);
    (cluster, [tasks[0], new])
}

#[test]
fn flows_are_known_that_long_and_no_longer() {
    // Known by the task's node; by the entry node, too.
    for at in [[0, 0], [1, 2]] {
        for (proto, sent, lifetime) in states() {
            let probe = packet(proto, CLIENT, CALLED, ACK);
            let (cluster, [old, _]) = replaced(at, proto, sent);
            cluster.advance(lifetime - 1);
            cluster.send(0, probe).at(old);

            let (cluster, [_, new]) = replaced(at, proto, sent);
            cluster.advance(lifetime);
            cluster.send(0, probe).at(new);
        }
    }
}

#[test]
fn every_packet_of_either_side_counts() {
    let udp_lifetime = Timeouts::default().udp;
    for at in [[0, 0], [1, 2]] {
        let (cluster, [old, _]) = replaced(at, UDP, &[0]);
        for _ in 0..3 {
            cluster.advance(udp_lifetime - 1);
            cluster.send(0, udp(CLIENT, CALLED)).at(old);
        }
        let answer = udp((old.addr, 8080), CLIENT);
        for _ in 0..3 {
            cluster.advance(udp_lifetime - 1);
            cluster.send_from_task(old, answer).out_of(0);
        }
        cluster.advance(udp_lifetime - 1);
        cluster.send(0, udp(CLIENT, CALLED)).at(old);
    }
}

#[test]
fn a_reply_to_a_forgotten_flow_is_no_reply() {
    let (cluster, [old, _]) = replaced([0, 0], UDP, &[0]);
    cluster.advance(Timeouts::default().udp);
    // It leaves as whatever else a container sends: by the node's address, not the called port.
    let stray = cluster
        .send_from_task(old, udp((old.addr, 8080), CLIENT))
        .out_of(0);
    assert_ne!(source(&stray), CALLED);
}

#[test]
fn an_expired_translation_does_not_keep_its_port() {
    let outside: End = (ip(192, 0, 2, 80), 53);
    let (mut cluster, tasks) = Cluster::serving(1, 80, 8080, &[0]);
    cluster.nodes[0].config.nat_port_max = NAT_PORTS.0;
    let first = udp((tasks[0].addr, 40_000), outside);
    let second = udp((tasks[0].addr, 40_001), outside);
    cluster.send_from_task(tasks[0], first).out_of(0);
    assert!(
        cluster
            .send_from_task(tasks[0], second)
            .is_dropped(Counter::DropNoPort)
    );
    cluster.advance(Timeouts::default().udp);
    let left = cluster.send_from_task(tasks[0], second);
    let got = cluster.send(0, answer_to(&left.packet, 0));
    assert_eq!(got.at(tasks[0]).tuple, second.tuple.reversed());
    // The first has lost it.
    assert!(
        cluster
            .send_from_task(tasks[0], first)
            .is_dropped(Counter::DropNoPort)
    );
}

#[test]
fn a_translated_source_is_known_as_long() {
    let outside: End = (ip(192, 0, 2, 80), 53);
    let lifetime = Timeouts::default().udp;
    let (cluster, tasks) = Cluster::serving(1, 80, 8080, &[0]);
    let sent = udp((tasks[0].addr, 40_000), outside);
    let left = cluster.send_from_task(tasks[0], sent);
    let answer = answer_to(&left.packet, 0);
    cluster.advance(lifetime - 1);
    cluster.send(0, answer).at(tasks[0]);
    cluster.advance(lifetime - 1);
    cluster.send(0, answer).at(tasks[0]);
    cluster.advance(lifetime);
    let late = cluster.send(0, answer);
    assert_eq!(late.end, Fate::Passed(0), "nobody expects it any more");
}
