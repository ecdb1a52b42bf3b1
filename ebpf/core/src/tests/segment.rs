//! Forwarding by l2: what goes in frames of its own between nodes on one segment, and what does not.

use super::{cluster::*, packets::*};
use crate::Packet;
use skein_abi::{
    TCP, UDP, VNI_FORWARD, VNI_REPLY,
    segment::{PEER_ANSWERED, PROBE_ADDR},
    verdict::Counter,
};

const CALLED: End = (node_addr(0), 80);
const FLOATING: End = (ip(198, 18, 1, 1), 80);
/// A host that is no member, on the nodes' segment.
const STRANGER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 99];

/// Three nodes on one segment, by l2, with a task on the second.
fn cluster() -> (Cluster, Task) {
    let (mut cluster, tasks) = Cluster::serving(3, 80, 8080, &[1]);
    cluster.use_l2();
    (cluster, tasks[0])
}

#[track_caller]
fn all_by_l2(journey: &Journey) {
    assert_eq!(journey.by_l2, journey.hops, "{journey:?}");
}

#[test]
fn requests_and_answers_go_by_l2() {
    for proto in [TCP, UDP] {
        let (cluster, task) = cluster();
        for flags in [SYN, ACK, ACK] {
            let got = cluster.send(0, packet(proto, CLIENT, CALLED, flags));
            assert_eq!(source(&got.at(task).tuple), CLIENT);
            assert_eq!(got.by_l2, 1);
            let answer = cluster.answer(&got, SYN | ACK);
            assert_eq!(answer.out_of(0), tuple(proto, CALLED, CLIENT));
            assert_eq!(answer.by_l2, 1);
        }
        assert_eq!(cluster.nodes[1].counted(Counter::Delivered), 3);
        assert_eq!(cluster.nodes[0].counted(Counter::ReplyOut), 3);
    }
}

#[test]
fn a_second_hop_is_in_vxlan() {
    let (mut cluster, task) = cluster();
    cluster.nodes[0].set_table(0, false, vec![node_addr(2)]);
    let got = cluster.send(0, syn(CLIENT, CALLED));
    got.at(task);
    assert_eq!((got.hops, got.by_l2), (2, 1));
    let answer = cluster.answer(&got, SYN | ACK);
    assert_eq!((answer.hops, answer.by_l2), (1, 1), "straight back");
    answer.out_of(0);
}

#[test]
fn a_flow_survives_any_change_of_forwarding() {
    let (mut cluster, task) = cluster();
    let mut flags = SYN;
    for (requests, replies) in [(true, true), (false, false), (true, false), (false, true)] {
        cluster.lease(0, 1, requests, false);
        cluster.lease(1, 0, false, replies);
        let got = cluster.send(0, tcp(CLIENT, CALLED, flags));
        got.at(task);
        assert_eq!(got.by_l2, usize::from(requests));
        let answer = cluster.answer(&got, SYN | ACK);
        answer.out_of(0);
        assert_eq!(answer.by_l2, usize::from(replies));
        flags = ACK;
    }
}

#[test]
fn a_lease_ends_by_itself() {
    let (mut cluster, task) = cluster();
    let now = crate::Tables::now(&cluster.nodes[0]);
    for lease in cluster.nodes[0].leases.values_mut() {
        lease.requests_until = now + 10;
    }
    for (age, by_l2) in [(0, 1), (9, 1), (1, 0)] {
        cluster.advance(age);
        let got = cluster.send(0, data(CLIENT, CALLED));
        got.at(task);
        assert_eq!(got.by_l2, by_l2);
    }
}

#[test]
fn refusals_come_back_by_l2() {
    let (mut cluster, tasks) = Cluster::serving(2, 80, 8080, &[]);
    assert!(tasks.is_empty());
    cluster.use_l2();
    cluster.set_tables(0, &[1]);
    let got = cluster.send(0, syn(CLIENT, CALLED));
    assert_eq!((got.hops, got.reset_hops), (2, Some(1)));
    all_by_l2(&got);
    assert_eq!(got.out_of(0), tuple(TCP, CALLED, CLIENT));
}

#[test]
fn what_was_not_tried_goes_in_vxlan() {
    let (mut cluster, task) = cluster();
    for node in &mut cluster.nodes {
        node.locals.insert(FLOATING.0);
    }
    // An address that several nodes may have.
    let got = cluster.send(0, syn(CLIENT, FLOATING));
    got.at(task);
    let answer = cluster.answer(&got, SYN | ACK);
    answer.out_of(0);
    assert_eq!((got.by_l2, answer.by_l2), (0, 0));
    // A node's own programs: source and destination would be the same address.
    let mut call = syn((super::node::DNS_ADDR, 5), CALLED);
    call.tuple.dst = super::node::LOCAL_ADDR;
    let got = cluster.send_from_host(0, call);
    got.at(task);
    let answer = cluster.answer(&got, SYN | ACK);
    answer.at_host(0);
    assert_eq!((got.by_l2, answer.by_l2), (0, 0));
    // What the device does not carry in one piece.
    for (len, by_l2) in [(1_500, 1), (1_501, 0)] {
        let long = sized(&udp(CLIENT, CALLED), len, false);
        let got = cluster.send(0, long);
        got.at(task);
        assert_eq!(got.by_l2, by_l2, "{len}");
    }
}

#[test]
fn l2_is_as_narrow_as_vxlan() {
    let (mut cluster, task) = cluster();
    for node in &mut cluster.nodes {
        node.config.tunnel_mtu = 1_450;
    }
    let got = cluster.send(0, syn(CLIENT, CALLED));
    got.at(task);
    assert_eq!((got.by_l2, got.mss), (1, 1_410));
    let answer = cluster.answer(&got, SYN | ACK);
    assert_eq!((answer.by_l2, answer.mss), (1, 1_410));
    let long = sized(&data(CLIENT, CALLED), 1_451, true);
    let told = cluster.send(0, long);
    assert_eq!(told.too_big, 1_450);
    told.out_of(0);
}

#[test]
fn a_client_may_be_a_node() {
    for client in [1, 2] {
        let (cluster, task) = cluster();
        let client = (node_addr(client), 40_000);
        let got = cluster.send(0, syn(client, CALLED));
        assert_eq!(source(&got.at(task).tuple), client);
        all_by_l2(&got);
        let answer = cluster.answer(&got, SYN | ACK);
        assert_eq!(answer.out_of(0), tuple(TCP, CALLED, client));
        all_by_l2(&answer);
        // By the wire, to the client's own stack.
        let last = cluster.frame(1, mac_of(0), answer.packet);
        assert_eq!(last.end, Fate::Passed(1));
    }
}

#[test]
fn fragments_follow_their_first_one_by_either_way() {
    let (mut cluster, task) = cluster();
    let [first, later] = fragments(&udp(CLIENT, CALLED), 7);
    let got = cluster.send(0, first);
    got.at(task);
    all_by_l2(&got);
    cluster.lease(0, 1, false, false);
    let got = cluster.send(0, later);
    got.at(task);
    assert_eq!(got.by_l2, 0);
    for part in fragments(&answer_to(&udp(CLIENT, (task.addr, 8080)), 0), 9) {
        let answer = cluster.send_from_task(task, part);
        assert_eq!(answer.out_of(0), tuple(UDP, CALLED, CLIENT));
        assert_eq!(answer.by_l2, 1);
    }
    let [_, stray] = fragments(&udp(CLIENT, CALLED), 8);
    assert!(
        cluster
            .frame(1, mac_of(0), stray)
            .is_dropped(Counter::DropFragment)
    );
    let [_, stray] = fragments(&udp(CALLED, CLIENT), 8);
    assert!(
        cluster
            .frame(0, mac_of(1), stray)
            .is_dropped(Counter::DropFragment)
    );
}

#[test]
fn errors_reach_the_task_and_the_client_by_l2() {
    let (cluster, task) = cluster();
    let router = ip(203, 0, 113, 1);
    let got = cluster.send(0, syn(CLIENT, CALLED));
    got.at(task);
    let answer = cluster.answer(&got, SYN | ACK);
    let about = error_about(&answer.out_of(0), router);
    let told = cluster.send(0, about);
    assert_eq!(told.at(task).sender, router);
    all_by_l2(&told);
    let refused = error_about(&got.packet.tuple, task.addr);
    let told = cluster.send_from_task(task, refused);
    assert_eq!(told.out_of(0), tuple(TCP, CALLED, CLIENT));
    all_by_l2(&told);
}

#[test]
fn who_is_no_member_forwards_nothing() {
    let (cluster, task) = cluster();
    let frame = |to, packet| cluster.frame(to, STRANGER_MAC, packet);
    // What a node forwards; the stack would send it to that node, which would forward it here again.
    let forged = frame(1, syn(CLIENT, CALLED));
    assert!(forged.is_dropped(Counter::DropForged), "{forged:?}");
    // An answer, to a flow that there is.
    cluster.send(0, syn(CLIENT, CALLED)).at(task);
    let forged = frame(0, tcp(CALLED, CLIENT, SYN | ACK));
    assert!(forged.is_dropped(Counter::DropForged), "{forged:?}");
    // A member's MAC address, but from another segment.
    let elsewhere = cluster.frame_by(1, OTHER_SEGMENT, mac_of(0), syn(CLIENT, CALLED));
    assert_eq!(elsewhere.end, Fate::Passed(1), "a router passes it on");
    assert_eq!(
        cluster
            .frame_by(0, OTHER_SEGMENT, mac_of(1), tcp(CALLED, CLIENT, SYN | ACK))
            .end,
        Fate::Dropped(0, Counter::DropForged)
    );
    // For another host, which this one only overhears.
    let overheard = Packet {
        macs: [STRANGER_MAC, mac_of(0)],
        ..syn(CLIENT, CALLED)
    };
    let passed = cluster.frame_of(1, SEGMENT, overheard);
    assert_eq!(passed.end, Fate::Passed(1));
    // One member in the name of another.
    let forged = cluster.frame(1, mac_of(2), syn(CLIENT, CALLED));
    assert!(forged.is_dropped(Counter::DropForged), "{forged:?}");
}

#[test]
fn a_member_answers_for_flows_alone_that_were_sent_to_one() {
    let (cluster, task) = cluster();
    let answer = tcp(CALLED, CLIENT, SYN | ACK);
    let early = cluster.frame(0, mac_of(1), answer);
    assert!(early.is_dropped(Counter::DropNoFlow), "{early:?}");
    cluster.send(0, syn(CLIENT, CALLED)).at(task);
    cluster.frame(0, mac_of(1), answer).out_of(0);
}

#[test]
fn what_a_node_routes_for_others_is_left_alone() {
    let (cluster, _) = cluster();
    let web = (ip(192, 0, 2, 80), 80);
    // By this node, which is the gateway of that one; and by that one, which is this one's.
    for packet in [
        syn((node_addr(0), 50_000), web),
        tcp(web, (node_addr(1), 50_000), SYN | ACK),
        syn(CLIENT, (node_addr(0), 81)),
        ping(CLIENT.0, node_addr(0), 1),
    ] {
        let passed = cluster.frame(1, STRANGER_MAC, packet);
        assert_eq!(passed.end, Fate::Passed(1), "{packet:?}");
    }
    let passed = cluster.frame(1, mac_of(0), syn((node_addr(0), 50_000), web));
    assert_eq!(passed.end, Fate::Passed(1));
    let got = cluster.frame(1, mac_of(0), syn(CLIENT, (node_addr(1), 80)));
    assert_eq!(got.task().node, 1, "a client behind a node that routes");
}

fn probe(from: usize, port: u16) -> Packet {
    udp(
        (PROBE_ADDR, port),
        (node_addr(from), super::node::VXLAN_PORT),
    )
}

#[test]
fn probes_are_answered_in_place_and_noted_by_both() {
    let (cluster, _) = cluster();
    let [asks, answers] = [0, 1];
    let heard = |node: usize, other: usize| {
        let index = cluster.nodes[node].peers[&node_addr(other)].index;
        cluster.nodes[node]
            .heard
            .get(&index)
            .expect("it has a place")
    };
    let answer = cluster.frame(answers, mac_of(asks), probe(asks, 777));
    assert_eq!(answer.end, Fate::Echo(answers));
    assert_eq!(answer.packet.tuple, probe(asks, 777).tuple.reversed());
    assert_eq!(heard(answers, asks).asked_port(), 777_u16.to_be());
    assert_ne!(heard(answers, asks).asked(), 0);
    assert_eq!(heard(asks, answers).answered(), 0);
    let end = cluster.frame(asks, mac_of(answers), answer.packet);
    assert!(end.is_dropped(Counter::L2Probe), "{end:?}");
    assert_eq!(heard(asks, answers).answered_port(), 777_u16.to_be());
    assert_ne!(heard(asks, answers).answered(), 0);
    assert_eq!(heard(asks, answers).asked(), 0);
}

#[test]
fn probes_of_strangers_and_to_who_wants_none_are_not_answered() {
    let (mut cluster, _) = cluster();
    let forged = cluster.frame(1, STRANGER_MAC, probe(0, 777));
    assert_eq!(forged.end, Fate::Passed(1));
    for peer in cluster.nodes[1].peers.values_mut() {
        peer.flags &= !PEER_ANSWERED;
    }
    let silent = cluster.frame(1, mac_of(0), probe(0, 777));
    assert!(silent.is_dropped(Counter::L2Probe), "{silent:?}");
    let index = cluster.nodes[1].peers[&node_addr(0)].index;
    let heard = cluster.nodes[1].heard.get(&index).expect("it has a place");
    assert_eq!(heard.asked(), 0);
}

#[test]
fn vxlan_is_taken_beside_l2() {
    let (cluster, task) = cluster();
    let got = cluster.tunnel(
        1,
        VNI_FORWARD,
        node_addr(0),
        node_addr(0),
        syn(CLIENT, CALLED),
    );
    got.at(task);
    cluster.send(0, syn(CLIENT, CALLED)).at(task);
    let answer = tcp(CALLED, CLIENT, SYN | ACK);
    cluster
        .tunnel(0, VNI_REPLY, node_addr(1), 0, answer)
        .out_of(0);
}
