//! The task sees the client's own address and port. The reply reaches the client from exactly the
//! address and port that it called, by the node that it called.

use super::{cluster::*, packets::*};
use skein_abi::{TCP, UDP};

const FIRST: u8 = SYN;
const NODES: usize = 3;

/// A flow that comes in by node 0, both ways, twice.
#[track_caller]
fn converse(cluster: &Cluster, proto: u8, called: End, task: Task) {
    for (flags, answer_flags) in [(FIRST, SYN | ACK), (ACK, ACK)] {
        let got = cluster.send(0, packet(proto, CLIENT, called, flags));
        assert_eq!(got.at(task).tuple, tuple(proto, CLIENT, (task.addr, 8080)));
        let answer = cluster.answer(&got, answer_flags);
        assert_eq!(answer.out_of(0), tuple(proto, called, CLIENT));
    }
}

#[test]
fn both_ends_see_each_other_whatever_the_node_of_the_task() {
    for proto in [TCP, UDP] {
        for at in 0..NODES {
            let (cluster, tasks) = Cluster::serving(NODES, 80, 8080, &[at]);
            converse(&cluster, proto, (node_addr(0), 80), tasks[0]);
        }
    }
}

#[test]
fn any_address_of_a_node_can_be_called() {
    let (mut cluster, tasks) = Cluster::serving(NODES, 80, 8080, &[1]);
    let second = ip(192, 0, 2, 1);
    let got = cluster.send(0, syn(CLIENT, (second, 80)));
    assert_eq!(got.end, Fate::Passed(0), "not this node's");
    cluster.nodes[0].locals.insert(second);
    converse(&cluster, TCP, (second, 80), tasks[0]);
}

#[test]
fn other_ports_and_protocols_are_not_skeins() {
    let (cluster, _) = Cluster::serving(NODES, 80, 8080, &[0]);
    let mine = node_addr(0);
    for packet in [syn(CLIENT, (mine, 81)), ping(CLIENT.0, mine, 80)] {
        let got = cluster.send(0, packet);
        assert_eq!(got.end, Fate::Passed(0));
        assert_eq!(got.packet.tuple, packet.tuple);
    }
}

#[test]
fn a_reply_over_a_second_hop_goes_straight_to_the_entry() {
    for proto in [TCP, UDP] {
        let (mut cluster, tasks) = Cluster::serving(NODES, 80, 8080, &[2]);
        // The entry does not know yet that the task has moved from node 1 to node 2.
        cluster.nodes[0].set_table(0, false, vec![node_addr(1)]);
        let called = (node_addr(0), 80);
        let got = cluster.send(0, packet(proto, CLIENT, called, SYN));
        assert_eq!(got.hops, 2);
        assert_eq!(
            got.at(tasks[0]).tuple,
            tuple(proto, CLIENT, (tasks[0].addr, 8080))
        );
        let answer = cluster.answer(&got, SYN | ACK);
        assert_eq!(answer.hops, 1);
        assert_eq!(answer.out_of(0), tuple(proto, called, CLIENT));
    }
}

#[test]
fn a_refusal_comes_from_the_address_that_was_called() {
    for refuser in [0, 1] {
        let (mut cluster, tasks) = Cluster::serving(NODES, 80, 8080, &[refuser]);
        cluster.remove(tasks[0], 0);
        let called = (node_addr(0), 80);
        let refusal = cluster.send(0, syn(CLIENT, called));
        assert_eq!(refusal.out_of(0), tuple(TCP, called, CLIENT));
        assert!(refusal.reset_hops.is_some());
        // Resets are not answered, nor has UDP any.
        for silent in [tcp(CLIENT, called, RST), udp(CLIENT, called)] {
            let reason = skein_abi::verdict::Counter::DropNoTask;
            assert!(cluster.send(0, silent).is_dropped(reason));
        }
    }
}

#[test]
fn only_members_are_believed_to_bring_replies() {
    use skein_abi::{VNI_REPLY, verdict::Counter};
    let (cluster, tasks) = Cluster::serving(NODES, 80, 8080, &[1]);
    let called = (node_addr(0), 80);
    let got = cluster.send(0, syn(CLIENT, called));
    got.at(tasks[0]);
    let reply = tcp(called, CLIENT, SYN | ACK);
    let stranger = ip(203, 0, 113, 66);
    let forged = cluster.tunnel(0, VNI_REPLY, stranger, 0, reply);
    assert!(forged.is_dropped(Counter::DropNotMember));
    let unasked = tcp((ip(192, 0, 2, 9), 80), CLIENT, SYN | ACK);
    let unasked = cluster.tunnel(0, VNI_REPLY, node_addr(1), 0, unasked);
    assert!(unasked.is_dropped(Counter::DropNoFlow));
}

#[test]
fn what_only_the_previous_table_knows_is_answered_too() {
    let (mut cluster, tasks) = Cluster::serving(NODES, 80, 8080, &[1]);
    let called = (node_addr(0), 80);
    cluster.send(2, syn(CLIENT, called));
    // The address moved here in mid-stream, and the table names this node before its task is ready.
    let moved = data(CLIENT, called);
    cluster.nodes[0].set_table(0, false, vec![node_addr(0)]);
    cluster.nodes[0].set_table(0, true, vec![node_addr(1)]);
    let got = cluster.send(0, moved);
    assert_eq!(
        got.at(tasks[0]).tuple,
        tuple(TCP, CLIENT, (tasks[0].addr, 8080))
    );
    let answer = cluster.answer(&got, ACK);
    assert_eq!(answer.out_of(0), tuple(TCP, called, CLIENT));
}
