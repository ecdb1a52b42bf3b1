//! A published port that a program of the host listens on stays the program's on that node. To the
//! rest of the cluster the node's tasks answer all the same.

use super::{cluster::*, node::*, packets::*};
use skein_abi::{ingress::PUBLISHED_TAKEN, verdict::Counter};

const TAKEN: usize = 0;

/// Two nodes; a program listens on the published port of one, where the only task is.
fn taken() -> (Cluster, Task) {
    let (mut cluster, tasks) = Cluster::serving(2, 80, 8080, &[TAKEN]);
    for published in cluster.nodes[TAKEN].published.values_mut() {
        published.flags |= PUBLISHED_TAKEN;
    }
    (cluster, tasks[0])
}

#[test]
fn its_own_clients_reach_the_program() {
    let (cluster, _) = taken();
    for packet in [
        syn(CLIENT, (node_addr(TAKEN), 80)),
        udp(CLIENT, (node_addr(TAKEN), 80)),
    ] {
        let got = cluster.send(TAKEN, packet);
        assert_eq!(got.end, Fate::Passed(TAKEN));
        assert_eq!(got.packet.tuple, packet.tuple);
    }
}

#[test]
fn clients_of_other_nodes_reach_the_task() {
    let (cluster, task) = taken();
    let called = (node_addr(1), 80);
    let got = cluster.send(1, syn(CLIENT, called));
    assert_eq!(source(&got.at(task).tuple), CLIENT);
    let answer = cluster.answer(&got, SYN | ACK);
    assert_eq!(answer.out_of(1), tuple(skein_abi::TCP, called, CLIENT));
}

#[test]
fn what_it_forwards_for_others_is_delivered_too() {
    let (mut cluster, tasks) = Cluster::serving(3, 80, 8080, &[2]);
    for published in cluster.nodes[TAKEN].published.values_mut() {
        published.flags |= PUBLISHED_TAKEN;
    }
    cluster.nodes[1].set_table(0, false, vec![node_addr(TAKEN)]);
    let got = cluster.send(1, syn(CLIENT, (node_addr(1), 80)));
    got.at(tasks[0]);
    assert_eq!(got.hops, 2);
}

#[test]
fn the_balancer_takes_nothing_of_the_host_there() {
    let (mut cluster, _) = taken();
    let got = cluster.send_from_host(TAKEN, syn((DNS_ADDR, 50_000), (LOCAL_ADDR, 80)));
    assert!(got.is_dropped(Counter::DropUnknownAddress), "{got:?}");
    // A task that calls the node reaches the program, as the host knows the task.
    let caller = cluster.ready_task(TAKEN, 1);
    let internal = cluster.nodes[TAKEN].endpoints[caller.index as usize]
        .expect("it is there")
        .internal;
    let called = (node_addr(TAKEN), 80);
    let got = cluster.send_from_task(caller, syn((caller.addr, 50_000), called));
    assert_eq!(
        got.at_host(TAKEN),
        tuple(skein_abi::TCP, (internal, 50_000), called)
    );
}

#[test]
fn a_connection_that_a_host_socket_has_is_left_to_it() {
    let (mut cluster, tasks) = Cluster::serving(2, 80, 8080, &[0]);
    let called = (node_addr(0), 80);
    cluster.nodes[0]
        .sockets
        .insert(tuple(skein_abi::TCP, CLIENT, called));
    let got = cluster.send(0, data(CLIENT, called));
    assert_eq!(got.end, Fate::Passed(0));
    cluster
        .send(0, syn((CLIENT.0, 40_001), called))
        .at(tasks[0]);
}
