//! Later fragments go where the first one of their datagram went, and nowhere without it.

use super::{cluster::*, packets::*};
use skein_abi::{UDP, config::Timeouts, verdict::Counter};

const CALLED: End = (node_addr(0), 80);
const OTHER: End = (CLIENT.0, 40_001);
const OUTSIDE: End = (ip(192, 0, 2, 80), 53);

/// Every datagram gets a task of its own, if it is looked at alone.
fn cluster() -> Cluster {
    Cluster::serving(3, 80, 8080, &[1, 2, 0, 1, 2]).0
}

#[test]
fn all_fragments_reach_the_task_and_all_of_the_answer_its_client() {
    let cluster = cluster();
    // Two datagrams at once: only the identification tells their later fragments apart.
    let [first, later] = fragments(&udp(CLIENT, CALLED), 1);
    let [other_first, other_later] = fragments(&udp(OTHER, CALLED), 2);
    let got = cluster.send(0, first);
    let other_got = cluster.send(0, other_first);
    for _ in 0..2 {
        assert_eq!(
            cluster.send(0, later).at(got.task()).tuple,
            got.packet.tuple
        );
        let other = cluster.send(0, other_later).at(other_got.task());
        assert_eq!(other.tuple, other_got.packet.tuple);
    }
    let [first, later] = fragments(&answer_to(&got.packet, 0), 1);
    for fragment in [first, later, later] {
        let left = cluster.send_from_task(got.task(), fragment);
        assert_eq!(left.out_of(0), tuple(UDP, CALLED, CLIENT));
    }
}

#[test]
fn a_later_fragment_alone_goes_nowhere() {
    let cluster = cluster();
    let [first, later] = fragments(&udp(CLIENT, CALLED), 1);
    // It may be one of the host's own.
    assert_eq!(cluster.send(0, later).end, Fate::Passed(0));
    let got = cluster.send(0, first);
    let [_, of_another] = fragments(&udp(CLIENT, CALLED), 2);
    assert_eq!(cluster.send(0, of_another).end, Fate::Passed(0));
    let [_, answer] = fragments(&answer_to(&got.packet, 0), 1);
    let lost = cluster.send_from_task(got.task(), answer);
    assert!(lost.is_dropped(Counter::DropFragment), "{lost:?}");
    let forged = forged_reply(&cluster, 0, 1, answer);
    assert!(forged.is_dropped(Counter::DropFragment), "{forged:?}");
}

#[test]
fn fragments_of_the_hosts_own_datagrams_are_the_hosts() {
    let cluster = cluster();
    let [first, later] = fragments(&udp(CLIENT, (node_addr(0), 2049)), 1);
    for fragment in [first, later] {
        assert_eq!(cluster.send(0, fragment).end, Fate::Passed(0));
    }
    assert!(cluster.nodes[0].fragments.borrow().is_empty());
}

#[test]
fn an_identification_that_comes_again_is_another_datagram_s() {
    let cluster = cluster();
    let [first, later] = fragments(&udp(CLIENT, CALLED), 1);
    cluster.send(0, first).task();
    cluster.advance(Timeouts::default().fragment - 1);
    cluster.send(0, later).task();
    cluster.advance(1);
    assert_eq!(cluster.send(0, later).end, Fate::Passed(0));
    let [first, later] = fragments(&udp(OTHER, CALLED), 1);
    let got = cluster.send(0, first);
    assert_eq!(
        cluster.send(0, later).at(got.task()).tuple,
        got.packet.tuple
    );
}

#[test]
fn fragments_leave_by_the_nodes_address_and_come_back() {
    let (cluster, tasks) = Cluster::serving(1, 80, 8080, &[0]);
    let task = tasks[0];
    for whole in [
        udp((task.addr, 40_000), OUTSIDE),
        ping(task.addr, OUTSIDE.0, 7),
    ] {
        let [first, later] = fragments(&whole, 3);
        let left = cluster.send_from_task(task, first);
        left.out_of(0);
        let next = cluster.send_from_task(task, later).out_of(0);
        assert_eq!(next, left.packet.tuple);
        for fragment in fragments(&answer_to(&left.packet, 0), 4) {
            let back = cluster.send(0, fragment).at(task);
            assert_eq!(back.tuple, whole.tuple.reversed());
        }
    }
}
