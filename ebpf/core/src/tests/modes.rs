//! The return modes beside `symmetric`: `dsr`, where the task's node answers the client itself, and `snat`, where
//! the task sees the node that the client called in its place. Neither is anything to the wire between nodes.

use super::{cluster::*, node::*, packets::*};
use skein_abi::{
    TCP, UDP,
    flow::{Ct, CtKey, ESTABLISHED, NAT_HOST, Route, SCOPE_PUBLISHED, Tuple, scope_of},
    ingress::{DEVICE_TRANSLATE, PUBLISHED_DSR, PUBLISHED_SNAT},
    verdict::Counter,
};
use std::vec::Vec;

const CALLED: End = (node_addr(0), 80);
const FLOATING: End = (ip(198, 18, 1, 1), 80);
const ROUTER: skein_abi::Addr = ip(203, 0, 113, 254);
/// Another client that calls from the same port.
const OTHER: End = (ip(203, 0, 113, 8), CLIENT.1);

/// Three nodes with a task on each of `at`, whose service has the mode; by VXLAN, or by l2.
fn serving(mode: u16, at: &[usize], by_l2: bool) -> (Cluster, Vec<Task>) {
    let (mut cluster, tasks) = Cluster::serving(3, 80, 8080, at);
    cluster.set_mode(mode);
    if by_l2 {
        cluster.use_l2();
    }
    (cluster, tasks)
}

/// Of a packet that its task has: who it is from, as the task sees it.
fn seen(got: &Journey) -> End {
    source(&got.packet.tuple)
}

#[test]
fn by_dsr_a_task_s_node_answers_the_client() {
    for (proto, by_l2) in [(TCP, false), (UDP, false), (TCP, true), (UDP, true)] {
        let (cluster, tasks) = serving(PUBLISHED_DSR, &[1], by_l2);
        for flags in [SYN, ACK, ACK] {
            let got = cluster.send(0, packet(proto, CLIENT, CALLED, flags));
            got.at(tasks[0]);
            assert_eq!(seen(&got), CLIENT);
            assert_eq!(got.by_l2, usize::from(by_l2));
            let answer = cluster.answer(&got, SYN | ACK);
            assert_eq!(answer.out_of(1), tuple(proto, CALLED, CLIENT));
            assert_eq!(answer.hops, 0);
        }
        let [entry, of_task] = [&cluster.nodes[0], &cluster.nodes[1]];
        assert_eq!(entry.counted(Counter::ReplyOut), 0);
        assert_eq!(of_task.counted(Counter::ReplyDirect), 3);
        assert_eq!(of_task.counted(Counter::ReplySent), 0);
    }
}

#[test]
fn by_dsr_a_task_on_the_client_s_node_answers_as_ever() {
    let (cluster, tasks) = serving(PUBLISHED_DSR, &[0], false);
    let got = cluster.send(0, syn(CLIENT, CALLED));
    got.at(tasks[0]);
    let answer = cluster.answer(&got, SYN | ACK);
    assert_eq!(answer.out_of(0), tuple(TCP, CALLED, CLIENT));
    assert_eq!(answer.mss, 0, "nothing is narrow");
    assert_eq!(cluster.nodes[0].counted(Counter::ReplyOut), 1);
}

#[test]
fn by_dsr_the_second_of_two_hops_answers() {
    for by_l2 in [false, true] {
        let (mut cluster, tasks) = serving(PUBLISHED_DSR, &[2], by_l2);
        cluster.nodes[0].set_table(0, false, vec![node_addr(1)]);
        for flags in [SYN, ACK] {
            let got = cluster.send(0, tcp(CLIENT, CALLED, flags));
            got.at(tasks[0]);
            assert_eq!(got.hops, 2);
            let answer = cluster.answer(&got, ACK);
            assert_eq!(answer.out_of(2), tuple(TCP, CALLED, CLIENT));
        }
    }
}

#[test]
fn by_dsr_an_address_may_move_in_mid_flow() {
    let (mut cluster, tasks) = serving(PUBLISHED_DSR, &[2], false);
    for node in &mut cluster.nodes {
        node.locals.insert(FLOATING.0);
    }
    let mut flags = SYN;
    for entry in [2, 0, 1, 2] {
        let got = cluster.send(entry, tcp(CLIENT, FLOATING, flags));
        got.at(tasks[0]);
        let answer = cluster.answer(&got, ACK);
        assert_eq!(answer.out_of(2), tuple(TCP, FLOATING, CLIENT));
        flags = ACK;
    }
}

#[test]
fn by_dsr_members_and_who_is_translated_are_answered_by_the_node_that_they_called() {
    let (mut cluster, tasks) = serving(PUBLISHED_DSR, &[1], false);
    // A program of the task's node, by a second address of that, or of a third node.
    let second = (ip(198, 18, 2, 1), 40_000);
    cluster.nodes[1].locals.insert(second.0);
    for client in [(node_addr(1), 40_000), second, (node_addr(2), 40_000)] {
        let got = cluster.send(0, syn(client, CALLED));
        got.at(tasks[0]);
        let answer = cluster.answer(&got, SYN | ACK);
        assert_eq!(answer.out_of(0), tuple(TCP, CALLED, client));
    }
    // A program of the called node, a container of its engine, a task.
    let socket = (DNS_ADDR, 50_000);
    let got = cluster.send_from_host(0, syn(socket, (LOCAL_ADDR, 80)));
    got.at(tasks[0]);
    let answer = cluster.answer(&got, SYN | ACK);
    assert_eq!(answer.at_host(0), tuple(TCP, (LOCAL_ADDR, 80), socket));
    let docker = (ip(172, 17, 0, 2), 50_000);
    let got = cluster.send_by_device(0, syn(docker, CALLED), DEVICE_TRANSLATE);
    got.at(tasks[0]);
    let answer = cluster.answer(&got, SYN | ACK);
    assert_eq!(answer.out_of(0), tuple(TCP, CALLED, docker));
    let caller = cluster.ready_task(0, 1);
    let from = (caller.addr, 50_000);
    let got = cluster.send_from_task(caller, syn(from, CALLED));
    got.at(tasks[0]);
    let answer = cluster.answer(&got, SYN | ACK);
    assert_eq!(answer.at(caller).tuple, tuple(TCP, CALLED, from));
    assert_eq!(cluster.nodes[1].counted(Counter::ReplyDirect), 0);
}

#[test]
fn by_dsr_both_ends_hear_of_the_narrow_way_and_of_the_client_s_own() {
    for by_l2 in [false, true] {
        let (mut cluster, tasks) = serving(PUBLISHED_DSR, &[1], by_l2);
        for node in &mut cluster.nodes {
            node.config.tunnel_mtu = 1_450;
        }
        let got = cluster.send(0, syn(CLIENT, CALLED));
        assert_eq!(got.mss, 1_410);
        let answer = cluster.answer(&got, SYN | ACK);
        answer.out_of(1);
        assert_eq!(answer.mss, 1_410, "the client's segments go by the entry");
        assert_eq!(cluster.answer(&got, ACK).mss, 0);
        // What the task's own way to the client does not carry, the task hears from its node.
        cluster.nodes[1].out_mtu = 1_280;
        let long = sized(&answer_to(&got.packet, ACK), 1_281, true);
        let told = cluster.send_from_task(tasks[0], long);
        assert_eq!(told.at(tasks[0]).tuple, got.packet.tuple);
        assert_eq!(told.too_big, 1_280);
    }
}

#[test]
fn by_dsr_the_called_node_sends_errors_about_answers_on() {
    for (proto, by_l2) in [(TCP, false), (UDP, false), (TCP, true), (UDP, true)] {
        let (cluster, tasks) = serving(PUBLISHED_DSR, &[1], by_l2);
        let got = cluster.send(0, packet(proto, CLIENT, CALLED, SYN));
        let answer = cluster.answer(&got, SYN | ACK).out_of(1);
        // Of a router, and of the client itself: neither knows any node but the called one.
        for sender in [ROUTER, CLIENT.0] {
            let told = cluster.send(0, error_about(&answer, sender));
            assert_eq!(told.at(tasks[0]).tuple, got.packet.tuple);
            assert_eq!(told.packet.sender, sender);
        }
        // The task's own go the way of its answers.
        let refused = error_about(&got.packet.tuple, tasks[0].addr);
        let told = cluster.send_from_task(tasks[0], refused);
        assert_eq!(told.out_of(1), tuple(proto, CALLED, CLIENT));
        assert_eq!(told.packet.sender, CALLED.0);
    }
}

#[test]
fn by_dsr_fragments_of_answers_leave_together() {
    let (cluster, tasks) = serving(PUBLISHED_DSR, &[1], false);
    let got = cluster.send(0, udp(CLIENT, CALLED));
    for part in fragments(&answer_to(&got.packet, 0), 9) {
        let answer = cluster.send_from_task(tasks[0], part);
        assert_eq!(answer.out_of(1), tuple(UDP, CALLED, CLIENT));
    }
}

#[test]
fn by_dsr_a_refusal_comes_by_the_called_node() {
    let (mut cluster, _) = serving(PUBLISHED_DSR, &[], false);
    cluster.set_tables(0, &[1]);
    let refused = cluster.send(0, syn(CLIENT, CALLED));
    assert_eq!(refused.reset_hops, Some(1));
    assert_eq!(refused.out_of(0), tuple(TCP, CALLED, CLIENT));
}

/// A connection by dsr whose task drains since; another one, on a third node, takes what is new.
fn replaced() -> (Cluster, Journey, [Task; 2]) {
    let (mut cluster, tasks) = serving(PUBLISHED_DSR, &[1], false);
    let got = cluster.send(0, syn(CLIENT, CALLED));
    cluster.answer(&got, SYN | ACK).out_of(1);
    cluster.send(0, data(CLIENT, CALLED)).at(tasks[0]);
    cluster.drain(tasks[0], 0);
    let new = cluster.ready_task(2, 0);
    cluster.set_tables(0, &[2]);
    (cluster, got, [tasks[0], new])
}

#[test]
fn by_dsr_a_connection_is_over_for_the_called_node_when_its_client_closes() {
    let (cluster, got, [old, new]) = replaced();
    let timeouts = cluster.nodes[0].config.timeouts;
    // Open, a SYN is the old task's to answer (RFC 5961).
    cluster.send(0, syn(CLIENT, CALLED)).at(old);
    // Half closed, the task goes on to send, and the client to acknowledge it, however seldom.
    cluster.send(0, tcp(CLIENT, CALLED, FIN | ACK)).at(old);
    cluster.advance(timeouts.established - 1);
    cluster.answer(&got, ACK).out_of(1);
    cluster.send(0, data(CLIENT, CALLED)).at(old);
    cluster.answer(&got, FIN | ACK).out_of(1);
    cluster.send(0, data(CLIENT, CALLED)).at(old);
    let again = cluster.send(0, syn(CLIENT, CALLED));
    again.at(new);
    assert_eq!(
        again.hops, 1,
        "picked anew, and not sent on by the old node"
    );
    let answer = cluster.answer(&again, SYN | ACK);
    assert_eq!(answer.out_of(2), tuple(TCP, CALLED, CLIENT));
}

#[test]
fn by_dsr_a_connection_lives_as_long_as_its_client_sends() {
    let (cluster, _, [old, _]) = replaced();
    let timeouts = cluster.nodes[0].config.timeouts;
    for _ in 0..3 {
        cluster.advance(timeouts.established - 1);
        cluster.send(0, data(CLIENT, CALLED)).at(old);
    }
}

#[test]
fn by_snat_a_task_sees_the_node_that_the_client_called() {
    for (proto, by_l2) in [(TCP, false), (UDP, false), (TCP, true), (UDP, true)] {
        let (mut cluster, tasks) = serving(PUBLISHED_SNAT, &[1], by_l2);
        for node in &mut cluster.nodes {
            node.locals.insert(FLOATING.0);
        }
        for entry in [0, 1, 2] {
            for to in [(node_addr(entry), 80), FLOATING] {
                let client = (CLIENT.0, CLIENT.1 + entry as u16);
                for flags in [SYN, ACK] {
                    let got = cluster.send(entry, packet(proto, client, to, flags));
                    got.at(tasks[0]);
                    assert_eq!(seen(&got).0, node_addr(entry));
                    let answer = cluster.answer(&got, SYN | ACK);
                    assert_eq!(answer.out_of(entry), tuple(proto, to, client));
                    let is_l2 = by_l2 && entry != 1 && to != FLOATING;
                    assert_eq!(got.by_l2 + answer.by_l2, 2 * usize::from(is_l2));
                }
            }
        }
        // The mesh's own translation is for who has no address of his own in the cluster.
        assert!(cluster.nodes.iter().all(|node| node.nat.count() == 0));
    }
}

#[test]
fn by_snat_a_task_sees_the_first_of_two_nodes() {
    let (mut cluster, tasks) = serving(PUBLISHED_SNAT, &[2], false);
    cluster.nodes[0].set_table(0, false, vec![node_addr(1)]);
    let got = cluster.send(0, syn(CLIENT, CALLED));
    got.at(tasks[0]);
    assert_eq!((got.hops, seen(&got).0), (2, node_addr(0)));
    let answer = cluster.answer(&got, SYN | ACK);
    assert_eq!(answer.out_of(0), tuple(TCP, CALLED, CLIENT));
}

#[test]
fn by_snat_clients_with_one_port_stay_apart() {
    let (cluster, tasks) = serving(PUBLISHED_SNAT, &[1], false);
    let got = [CLIENT, OTHER].map(|client| cluster.send(0, syn(client, CALLED)));
    assert_eq!(
        seen(&got[0]),
        (node_addr(0), CLIENT.1),
        "what is free is kept"
    );
    assert_ne!(seen(&got[1]), seen(&got[0]));
    for (client, first) in [CLIENT, OTHER].into_iter().zip(&got) {
        let answer = cluster.answer(first, SYN | ACK);
        assert_eq!(answer.out_of(0), tuple(TCP, CALLED, client));
        let next = cluster.send(0, data(client, CALLED));
        assert_eq!(next.at(tasks[0]).tuple, first.packet.tuple);
    }
}

#[test]
fn by_snat_the_programs_of_a_node_keep_apart_from_its_clients() {
    let (cluster, tasks) = serving(PUBLISHED_SNAT, &[1], false);
    let socket = (DNS_ADDR, 50_000);
    let local = cluster.send_from_host(0, syn(socket, (LOCAL_ADDR, 80)));
    local.at(tasks[0]);
    assert_eq!(seen(&local).0, node_addr(0));
    assert!(
        cluster.nodes[0]
            .nat
            .all()
            .iter()
            .any(|(key, _)| key.scope == NAT_HOST)
    );
    // A client happens to call from the port that the program was given.
    let client = (CLIENT.0, seen(&local).1);
    let got = cluster.send(0, syn(client, CALLED));
    got.at(tasks[0]);
    assert_ne!(seen(&got), seen(&local));
    assert_eq!(
        cluster.answer(&got, ACK).out_of(0),
        tuple(TCP, CALLED, client)
    );
    let answer = cluster.answer(&local, ACK);
    assert_eq!(answer.at_host(0), tuple(TCP, (LOCAL_ADDR, 80), socket));
}

#[test]
fn by_snat_a_flow_for_which_no_port_is_left_is_refused() {
    let (mut cluster, tasks) = serving(PUBLISHED_SNAT, &[1], false);
    let task = tasks[0];
    cluster.nodes[1].conntrack = super::flows::Flows::with_room_for(70_000);
    let now = crate::Tables::now(&cluster.nodes[1]);
    for port in 1_024..=u16::MAX {
        let key = CtKey {
            scope: scope_of(task.index),
            tuple: tuple(TCP, (task.addr, 8080), (node_addr(0), port)),
        };
        let ct = Ct {
            seen: now,
            to: tuple(TCP, CALLED, (OTHER.0, port)),
            route: Route::Reply,
            marks: ESTABLISHED,
            ..Ct::default()
        };
        cluster.nodes[1].conntrack.insert(&key, &ct);
    }
    let refused = cluster.send(0, syn(CLIENT, CALLED));
    assert!(refused.is_dropped(Counter::DropNoPort), "{refused:?}");
    // Another node's clients have ports of their own.
    let got = cluster.send(2, syn(CLIENT, (node_addr(2), 80)));
    got.at(task);
    // And these are free again once their flows are forgotten.
    cluster.advance(cluster.nodes[1].config.timeouts.established);
    cluster.send(0, syn(CLIENT, CALLED)).at(task);
}

#[test]
fn by_snat_errors_are_translated_as_the_flow_is() {
    for (proto, by_l2) in [(TCP, false), (UDP, false), (TCP, true)] {
        let (cluster, tasks) = serving(PUBLISHED_SNAT, &[1], by_l2);
        cluster.send(0, packet(proto, OTHER, CALLED, SYN));
        let got = cluster.send(0, packet(proto, CLIENT, CALLED, SYN));
        let answer = cluster.answer(&got, SYN | ACK).out_of(0);
        let told = cluster.send(0, error_about(&answer, ROUTER));
        assert_eq!(told.at(tasks[0]).tuple, got.packet.tuple);
        assert_eq!(told.packet.sender, ROUTER);
        let told = cluster.send(0, error_about(&answer, CLIENT.0));
        told.at(tasks[0]);
        assert_eq!(told.packet.sender, node_addr(0), "the client is not shown");
        let refused = error_about(&got.packet.tuple, tasks[0].addr);
        let told = cluster.send_from_task(tasks[0], refused);
        assert_eq!(told.out_of(0), tuple(proto, CALLED, CLIENT));
        assert_eq!(told.packet.sender, CALLED.0);
    }
}

#[test]
fn by_snat_fragments_follow_their_first_one_both_ways() {
    let (cluster, tasks) = serving(PUBLISHED_SNAT, &[1], false);
    cluster.send(0, udp(OTHER, CALLED));
    let got: Vec<Tuple> = fragments(&udp(CLIENT, CALLED), 7)
        .into_iter()
        .map(|part| cluster.send(0, part).at(tasks[0]).tuple)
        .collect();
    assert_eq!(got[0], got[1]);
    assert_ne!(source(&got[0]).1, CLIENT.1);
    let answer = udp(source(&got[0].reversed()), source(&got[0]));
    for part in fragments(&answer, 9) {
        let left = cluster.send_from_task(tasks[0], part);
        assert_eq!(left.out_of(0), tuple(UDP, CALLED, CLIENT));
    }
}

#[test]
fn a_flow_keeps_the_mode_that_it_began_with() {
    const MODES: [u16; 3] = [0, PUBLISHED_DSR, PUBLISHED_SNAT];
    for (before, after) in MODES.into_iter().flat_map(|a| MODES.map(|b| (a, b))) {
        let (mut cluster, tasks) = serving(before, &[1], false);
        let leaves = |mode| usize::from(mode == PUBLISHED_DSR);
        let shown = |mode, client: End| match mode {
            PUBLISHED_SNAT => node_addr(0),
            _ => client.0,
        };
        let first = cluster.send(0, syn(CLIENT, CALLED));
        cluster.set_mode(after);
        // Before its handshake is through, and after.
        for flags in [SYN, ACK, ACK] {
            let got = cluster.send(0, tcp(CLIENT, CALLED, flags));
            assert_eq!(got.at(tasks[0]).tuple, first.packet.tuple);
            assert_eq!(seen(&got).0, shown(before, CLIENT));
            let answer = cluster.answer(&got, ACK);
            assert_eq!(answer.out_of(leaves(before)), tuple(TCP, CALLED, CLIENT));
        }
        let got = cluster.send(0, syn(OTHER, CALLED));
        got.at(tasks[0]);
        assert_eq!(seen(&got).0, shown(after, OTHER));
        let answer = cluster.answer(&got, ACK);
        assert_eq!(answer.out_of(leaves(after)), tuple(TCP, CALLED, OTHER));
        let known = CtKey {
            scope: SCOPE_PUBLISHED,
            tuple: tuple(TCP, CLIENT, CALLED),
        };
        assert!(cluster.nodes[1].conntrack.get(&known).is_some());
    }
}

#[test]
fn nodes_may_disagree_on_the_mode() {
    // Each decides what it does itself by its own tables: the task's node alone.
    for (entry, of_task, leaves) in [(0, PUBLISHED_DSR, 1), (PUBLISHED_DSR, 0, 0)] {
        let (mut cluster, tasks) = serving(entry, &[1], false);
        cluster.nodes[1].set_mode(of_task);
        for flags in [SYN, ACK, FIN | ACK] {
            let got = cluster.send(0, tcp(CLIENT, CALLED, flags));
            got.at(tasks[0]);
            let answer = cluster.answer(&got, ACK);
            assert_eq!(answer.out_of(leaves), tuple(TCP, CALLED, CLIENT));
        }
    }
}
