//! To whom a published port is offered, and by which addresses: what labels of a service narrow.

use super::{cluster::*, node::*, packets::*};
use skein_abi::{
    TCP, UDP,
    ingress::{
        BoundKey, DEVICE_TRANSLATE, PUBLISHED_AFFINE, PUBLISHED_BOUND, PUBLISHED_LIMITED,
        PublishedKey, Source,
    },
    port,
    verdict::Counter,
};
use std::{collections::HashSet, vec::Vec};

const CALLED: End = (node_addr(0), 80);
const FLOATING: skein_abi::Addr = ip(198, 18, 1, 1);
const STRANGER: End = (ip(192, 0, 2, 77), 40_000);

/// Three nodes, with tasks on `at`, whose ports have a flag.
fn flagged(flag: u16, at: &[usize]) -> (Cluster, Vec<Task>) {
    let (mut cluster, tasks) = Cluster::serving(3, 80, 8080, at);
    for node in &mut cluster.nodes {
        node.published.values_mut().for_each(|of| of.flags |= flag);
    }
    (cluster, tasks)
}

fn bind(node: &mut Node, addr: skein_abi::Addr) {
    for proto in [TCP, UDP] {
        let port = PublishedKey {
            port: port(80),
            proto,
            pad: 0,
        };
        node.bound.insert(BoundKey { addr, port });
    }
}

/// Takes clients of one range.
fn take(node: &mut Node, addr: skein_abi::Addr, len: u8) {
    let service = node.published.values().next().expect("a port").service;
    node.sources.push((Source { service, addr }, len));
}

#[test]
fn a_port_is_bound_to_no_more_than_was_asked_for() {
    for at in [0, 1] {
        let (mut cluster, tasks) = flagged(PUBLISHED_BOUND, &[at]);
        cluster.nodes[0].locals.insert(FLOATING);
        bind(&mut cluster.nodes[0], FLOATING);
        for proto in [TCP, UDP] {
            let got = cluster.send(0, packet(proto, CLIENT, (FLOATING, 80), SYN));
            got.at(tasks[0]);
            let answer = cluster.answer(&got, SYN | ACK);
            assert_eq!(answer.out_of(0), tuple(proto, (FLOATING, 80), CLIENT));
            // By its other address it is not there: the node's own stack says so.
            for called in [0, 1] {
                let packet = packet(proto, CLIENT, (node_addr(called), 80), SYN);
                let got = cluster.send(called, packet);
                assert_eq!(got.end, Fate::Passed(called));
            }
        }
    }
}

#[test]
fn what_is_bound_to_loopback_is_for_the_node_s_own_programs() {
    let (mut cluster, tasks) = flagged(PUBLISHED_BOUND, &[1]);
    bind(&mut cluster.nodes[0], ip(127, 0, 0, 1));
    let got = cluster.send_from_host(0, syn((DNS_ADDR, 50_000), (LOCAL_ADDR, 80)));
    got.at(tasks[0]);
    let got = cluster.send(0, syn(CLIENT, CALLED));
    assert_eq!(got.end, Fate::Passed(0));
    // A task that calls its node calls the node's stack.
    let caller = cluster.ready_task(0, 1);
    let got = cluster.send_from_task(caller, syn((caller.addr, 50_000), CALLED));
    assert!(matches!(got.end, Fate::Host(0)), "{got:?}");
}

#[test]
fn clients_that_a_service_does_not_take_are_dropped_where_they_come_in() {
    for at in [0, 1] {
        let (mut cluster, tasks) = flagged(PUBLISHED_LIMITED, &[at]);
        take(&mut cluster.nodes[0], ip(203, 0, 113, 0), 24);
        for proto in [TCP, UDP] {
            cluster
                .send(0, packet(proto, CLIENT, CALLED, SYN))
                .at(tasks[0]);
            let got = cluster.send(0, packet(proto, STRANGER, CALLED, SYN));
            assert!(got.is_dropped(Counter::DropSource), "{got:?}");
            assert_eq!(got.hops, 0);
            // In mid-stream neither.
            let got = cluster.send(0, packet(proto, STRANGER, CALLED, ACK));
            assert!(got.is_dropped(Counter::DropSource), "{got:?}");
        }
    }
}

#[test]
fn a_range_may_be_everybody_or_one() {
    let (mut cluster, tasks) = flagged(PUBLISHED_LIMITED, &[1]);
    take(&mut cluster.nodes[0], STRANGER.0, 32);
    cluster.send(0, syn(STRANGER, CALLED)).at(tasks[0]);
    assert!(
        cluster
            .send(0, syn(CLIENT, CALLED))
            .is_dropped(Counter::DropSource)
    );
    take(&mut cluster.nodes[0], 0, 0);
    cluster.send(0, syn(CLIENT, CALLED)).at(tasks[0]);
}

#[test]
fn a_flow_that_has_begun_goes_on_when_its_client_is_taken_no_more() {
    for at in [0, 1] {
        let (mut cluster, tasks) = flagged(0, &[at]);
        for flags in [SYN, ACK] {
            cluster.send(0, tcp(CLIENT, CALLED, flags)).at(tasks[0]);
        }
        for node in &mut cluster.nodes {
            let published = node.published.values_mut();
            published.for_each(|of| of.flags |= PUBLISHED_LIMITED);
        }
        cluster.send(0, tcp(CLIENT, CALLED, ACK)).at(tasks[0]);
        let next = (CLIENT.0, CLIENT.1 + 1);
        assert!(
            cluster
                .send(0, syn(next, CALLED))
                .is_dropped(Counter::DropSource)
        );
    }
}

#[test]
fn the_host_s_own_programs_are_always_taken_and_its_containers_by_their_own_address() {
    let (mut cluster, tasks) = flagged(PUBLISHED_LIMITED, &[1]);
    let got = cluster.send_from_host(0, syn((DNS_ADDR, 50_000), (LOCAL_ADDR, 80)));
    got.at(tasks[0]);
    let container = (ip(172, 17, 0, 9), 50_000);
    let send =
        |cluster: &Cluster| cluster.send_by_device(0, syn(container, CALLED), DEVICE_TRANSLATE);
    assert!(send(&cluster).is_dropped(Counter::DropSource));
    take(&mut cluster.nodes[0], ip(172, 17, 0, 0), 16);
    send(&cluster).at(tasks[0]);
}

#[test]
fn all_flows_of_a_client_come_to_one_task() {
    let reached = |flag: u16| {
        let (cluster, _) = flagged(flag, &[0, 1, 1, 2, 2, 2]);
        let mut tasks = HashSet::new();
        for (entry, sport) in (0..3).flat_map(|entry| (0..50).map(move |n| (entry, 40_000 + n))) {
            let client = (CLIENT.0, sport);
            let got = cluster.send(entry, syn(client, (node_addr(entry), 80)));
            tasks.insert(got.packet.tuple.dst);
        }
        tasks.len()
    };
    assert_eq!(reached(PUBLISHED_AFFINE), 1);
    assert_eq!(reached(0), 6);
}

#[test]
fn clients_are_spread_over_the_tasks_all_the_same() {
    let (cluster, _) = flagged(PUBLISHED_AFFINE, &[0, 1, 2]);
    let mut tasks = HashSet::new();
    for host in 1..60 {
        let client = (ip(203, 0, 113, host), 40_000);
        let got = cluster.send(0, syn(client, CALLED));
        tasks.insert(got.packet.tuple.dst);
    }
    assert_eq!(tasks.len(), 3);
}
