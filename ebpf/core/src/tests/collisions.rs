//! One client port may call a task by several nodes and several published ports at once. To the task
//! those flows stay apart, by the client's port if need be; the client's address never changes.

use super::{cluster::*, packets::*};
use proptest::{collection::btree_set, prelude::*};
use skein_abi::{
    TCP, UDP,
    flow::{Ct, CtKey, Route, scope_of},
};
use std::{collections::HashSet, vec::Vec};

const NODES: usize = 3;
const PUBLISHED: [u16; 2] = [80, 81];
const CLIENTS: [End; 4] = [
    (ip(203, 0, 113, 7), 40_000),
    (ip(203, 0, 113, 7), 40_001),
    (ip(203, 0, 113, 8), 40_000),
    (ip(203, 0, 113, 8), 40_001),
];

/// (client, entry node, published port, protocol)
type Flow = (usize, usize, usize, bool);

fn flows() -> impl Strategy<Value = Vec<Flow>> {
    let flow = (
        0..CLIENTS.len(),
        0..NODES,
        0..PUBLISHED.len(),
        any::<bool>(),
    );
    btree_set(flow, 1..30)
        .prop_map(|flows| flows.into_iter().collect::<Vec<_>>())
        .prop_shuffle()
}

fn sent((client, entry, published, is_tcp): Flow, flags: u8) -> (usize, crate::Packet) {
    let proto = if is_tcp { TCP } else { UDP };
    let called = (node_addr(entry), PUBLISHED[published]);
    (entry, packet(proto, CLIENTS[client], called, flags))
}

proptest! {
    #[test]
    fn flows_stay_apart_and_each_reply_finds_its_way(
        flows in flows(), at in 0..NODES, tasks in 1..3_usize,
    ) {
        let (mut cluster, _) = Cluster::serving(NODES, PUBLISHED[0], 8080, &vec![at; tasks]);
        cluster.publish(0, PUBLISHED[1], 8080);
        let mut got = Vec::new();
        for flow in &flows {
            let (entry, packet) = sent(*flow, SYN);
            let arrived = cluster.send(entry, packet);
            let task = arrived.task();
            prop_assert_eq!(arrived.packet.tuple.src, packet.tuple.src, "the client's own address");
            prop_assert_eq!(arrived.packet.tuple.dst, task.addr);
            got.push((task, arrived));
        }
        let distinct: HashSet<_> =
            got.iter().map(|(task, got)| (task.index, got.packet.tuple)).collect();
        prop_assert_eq!(distinct.len(), flows.len());
        for (flow, (task, first)) in flows.iter().zip(&got) {
            let (entry, packet) = sent(*flow, ACK);
            let answer = cluster.answer(first, SYN | ACK);
            prop_assert_eq!(answer.out_of(entry), packet.tuple.reversed());
            let next = cluster.send(entry, packet);
            prop_assert_eq!(next.task(), *task);
            prop_assert_eq!(next.packet.tuple, first.packet.tuple);
        }
    }
}

/// Two calls that look the same to the only task.
fn collide() -> (Cluster, [crate::Packet; 2]) {
    let (cluster, _) = Cluster::serving(NODES, 80, 8080, &[2]);
    let [a, b] = [0, 1].map(|entry| syn(CLIENT, (node_addr(entry), 80)));
    (cluster, [a, b])
}

#[test]
fn a_port_that_is_free_is_kept() {
    let (cluster, [a, b]) = collide();
    let [a, b] = [cluster.send(0, a), cluster.send(1, b)];
    assert_eq!(source(&a.packet.tuple), CLIENT);
    assert_eq!(b.packet.tuple.src, CLIENT.0);
    assert_ne!(b.packet.tuple.sport, a.packet.tuple.sport);
}

#[test]
fn a_port_is_free_again_when_its_flow_is_over() {
    let (cluster, [a, b]) = collide();
    let first = cluster.send(0, a);
    cluster.send(0, tcp(CLIENT, (node_addr(0), 80), RST));
    cluster.advance(cluster.nodes[2].config.timeouts.closed);
    let second = cluster.send(1, b);
    assert_eq!(source(&second.packet.tuple), CLIENT);
    // The answer to the tuple that both had is the second's.
    let answer = cluster.answer(&first, SYN | ACK);
    assert_eq!(answer.out_of(1), b.tuple.reversed());
}

#[test]
fn another_task_is_better_than_another_port() {
    let (cluster, _) = Cluster::serving(NODES, 80, 8080, &[2, 2]);
    let sent = [0, 1].map(|entry| cluster.send(entry, syn(CLIENT, (node_addr(entry), 80))));
    for got in &sent {
        assert_eq!(source(&got.packet.tuple), CLIENT);
    }
    assert_ne!(sent[0].task(), sent[1].task());
}

/// What a task's answers would be to a flow by another node that another CPU has just begun.
fn taken(cluster: &Cluster, client: End, called: End) -> (CtKey, Ct) {
    let task = cluster.nodes[2].endpoints[0].expect("the task is there");
    let key = CtKey {
        scope: scope_of(0),
        tuple: tuple(TCP, (task.addr, 8080), CLIENT),
    };
    let ct = Ct {
        seen: cluster.nodes[2].clock.get(),
        to: tuple(TCP, called, client),
        route: Route::Reply,
        ..Ct::default()
    };
    (key, ct)
}

#[test]
fn of_two_cpus_that_take_a_tuple_at_once_the_slower_looks_further() {
    let (cluster, [a, _]) = collide();
    let winner = taken(&cluster, CLIENT, (node_addr(1), 80));
    cluster.nodes[2].faster_cpu.set(Some(winner));
    let got = cluster.send(0, a);
    assert_eq!(got.packet.tuple.src, CLIENT.0);
    assert_ne!(source(&got.packet.tuple), CLIENT);
    assert_eq!(
        cluster.answer(&got, SYN | ACK).out_of(0),
        a.tuple.reversed()
    );
    // The faster one's answers are its own still.
    let kept = cluster.nodes[2]
        .conntrack_opening
        .get(&winner.0)
        .expect("kept");
    assert_eq!(kept.to(), winner.1.to);
}

#[test]
fn two_cpus_that_begin_one_flow_agree() {
    let (cluster, [a, _]) = collide();
    let winner = taken(&cluster, CLIENT, (node_addr(0), 80));
    cluster.nodes[2].faster_cpu.set(Some(winner));
    let got = cluster.send(0, a);
    assert_eq!(source(&got.packet.tuple), CLIENT);
    assert_eq!(
        cluster.answer(&got, SYN | ACK).out_of(0),
        a.tuple.reversed()
    );
}
