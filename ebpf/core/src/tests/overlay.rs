//! What containers send to each other, to VIPs, and to the world outside.

use super::{cluster::*, node::*, packets::*};
use skein_abi::{Addr, ICMP, TCP, UDP, VNI_SECOND_HOP, flow::Tuple, overlay::*, verdict::Counter};
use std::{collections::HashSet, vec::Vec};

const RED: u32 = 4097;
const BLUE: u32 = 4098;
const NET: Addr = ip(10, 1, 0, 0);
pub const VIP: Addr = ip(10, 1, 0, 100);
const OUTSIDE: End = (ip(192, 0, 2, 80), 443);

const fn host(nth: u8) -> Addr {
    NET | ip(0, 0, 1, nth)
}

/// Three nodes with an overlay, and a caller on the first.
fn red(flags: u32) -> (Cluster, Task) {
    let mut cluster = Cluster::new(3);
    cluster.network(RED, NET, flags);
    let caller = cluster.endpoint(0, RED, host(1));
    (cluster, caller)
}

/// Puts backends behind a VIP, on every node.
fn set_vip(cluster: &mut Cluster, vni: u32, list: u32, tasks: &[Task]) {
    for node in &mut cluster.nodes {
        let vip = Vip {
            meter: 0,
            list,
            edition: 1,
            len: tasks.len() as u32,
        };
        node.vips.insert(OverlayKey { vni, addr: VIP }, vip);
        for (slot, task) in tasks.iter().enumerate() {
            let slot = VipSlot {
                list,
                edition: 1,
                slot: slot as u32,
            };
            node.vip_backends.insert(slot, task.addr);
        }
    }
}

/// A caller, and servers behind the VIP, one per node.
pub fn balanced() -> (Cluster, Task, Vec<Task>) {
    let (mut cluster, caller) = red(0);
    let servers: Vec<Task> = (0..3)
        .map(|n| cluster.endpoint(n, RED, host(10 + n as u8)))
        .collect();
    set_vip(&mut cluster, RED, 0, &servers);
    (cluster, caller, servers)
}

#[test]
fn tasks_reach_each_other_untranslated() {
    let (mut cluster, caller) = red(0);
    for at in [0, 1] {
        let peer = cluster.endpoint(at, RED, host(2 + at as u8));
        let sent = syn((caller.addr, 40_000), (peer.addr, 80));
        let got = cluster.send_from_task(caller, sent);
        assert_eq!(got.at(peer).tuple, sent.tuple);
        assert_eq!(
            cluster.answer(&got, SYN | ACK).at(caller).tuple,
            sent.tuple.reversed()
        );
        let sent = ping(caller.addr, peer.addr, 7);
        let got = cluster.send_from_task(caller, sent);
        assert_eq!(got.at(peer).tuple, sent.tuple);
        assert_eq!(
            cluster.answer(&got, 0).at(caller).tuple,
            sent.tuple.reversed()
        );
    }
}

#[test]
fn a_vip_shows_the_server_its_caller_and_the_caller_the_vip() {
    let (cluster, caller, servers) = balanced();
    for proto in [TCP, UDP] {
        let mut picked = HashSet::new();
        for port in 40_000..40_064 {
            let sent = packet(proto, (caller.addr, port), (VIP, 80), SYN);
            let got = cluster.send_from_task(caller, sent);
            let server = got.task();
            assert!(servers.contains(&server));
            assert_eq!(
                got.packet.tuple,
                tuple(proto, (caller.addr, port), (server.addr, 80))
            );
            assert_eq!(
                cluster.answer(&got, SYN | ACK).at(caller).tuple,
                sent.tuple.reversed()
            );
            let next = packet(proto, (caller.addr, port), (VIP, 80), ACK);
            cluster.send_from_task(caller, next).at(server);
            picked.insert(server.index + 100 * server.node as u32);
        }
        assert_eq!(picked.len(), servers.len(), "all of them take their share");
    }
}

#[test]
fn fragments_reach_a_vip_and_their_answer_comes_from_it() {
    let (cluster, caller, _) = balanced();
    let whole = udp((caller.addr, 40_000), (VIP, 53));
    let [first, later] = fragments(&whole, 5);
    let got = cluster.send_from_task(caller, first);
    let next = cluster.send_from_task(caller, later).at(got.task());
    assert_eq!(next.tuple, got.packet.tuple);
    for fragment in fragments(&answer_to(&got.packet, 0), 6) {
        let back = cluster.send_from_task(got.task(), fragment).at(caller);
        assert_eq!(back.tuple, whole.tuple.reversed());
    }
    // The VIP itself answers a ping of any size.
    for fragment in fragments(&ping(caller.addr, VIP, 1), 7) {
        assert_eq!(cluster.send_from_task(caller, fragment).end, Fate::Echo(0));
    }
}

/// A connection to the VIP, and the backends that it has from then on: others.
fn moved() -> (Cluster, Task, Task, Vec<Task>) {
    let (mut cluster, caller, servers) = balanced();
    let call = syn((caller.addr, 40_000), (VIP, 80));
    let got = cluster.send_from_task(caller, call);
    cluster.answer(&got, SYN | ACK);
    cluster.send_from_task(caller, data((caller.addr, 40_000), (VIP, 80)));
    let old = got.task();
    let others: Vec<Task> = servers
        .into_iter()
        .filter(|server| *server != old)
        .collect();
    set_vip(&mut cluster, RED, 0, &others);
    (cluster, caller, old, others)
}

#[test]
fn flows_to_a_vip_outlive_a_change_of_its_backends() {
    let (cluster, caller, old, _) = moved();
    let call = |flags| cluster.send_from_task(caller, tcp((caller.addr, 40_000), (VIP, 80), flags));
    call(ACK).at(old);
    call(SYN).at(old);
    let got = call(FIN | ACK);
    call(SYN).at(old);
    cluster.answer(&got, FIN | ACK).at(caller);
    assert_ne!(call(SYN).task(), old, "both sides have closed");
}

#[test]
fn flows_to_a_vip_leave_a_backend_that_is_gone_and_end_in_time() {
    let (mut cluster, caller, old, _) = moved();
    cluster.remove(old, 0);
    let call = data((caller.addr, 40_000), (VIP, 80));
    assert_ne!(cluster.send_from_task(caller, call).task(), old);

    let (cluster, caller, old, _) = moved();
    cluster.advance(cluster.nodes[0].config.timeouts.established - 1);
    cluster.send_from_task(caller, call).at(old);
    cluster.advance(cluster.nodes[0].config.timeouts.established);
    assert_ne!(cluster.send_from_task(caller, call).task(), old);
}

#[test]
fn a_task_reaches_itself_by_its_own_vip() {
    let (mut cluster, caller) = red(0);
    set_vip(&mut cluster, RED, 0, &[caller]);
    let sent = syn((caller.addr, 40_000), (VIP, 80));
    let got = cluster.send_from_task(caller, sent);
    assert_eq!(
        got.at(caller).tuple,
        tuple(TCP, (VIP, 40_000), (caller.addr, 80))
    );
    assert_eq!(
        cluster.answer(&got, SYN | ACK).at(caller).tuple,
        sent.tuple.reversed()
    );
}

#[test]
fn a_vip_without_backends_refuses() {
    let (mut cluster, caller) = red(0);
    set_vip(&mut cluster, RED, 0, &[]);
    let call = (caller.addr, 40_000);
    let refusal = cluster.send_from_task(caller, syn(call, (VIP, 80)));
    assert!(refusal.reset_hops.is_some());
    assert_eq!(refusal.at(caller).tuple, tuple(TCP, (VIP, 80), call));
    for silent in [udp(call, (VIP, 80)), tcp(call, (VIP, 80), RST)] {
        assert!(
            cluster
                .send_from_task(caller, silent)
                .is_dropped(Counter::DropNoTask)
        );
    }
}

#[test]
fn an_address_that_nobody_has_is_nowhere() {
    let (cluster, caller) = red(0);
    for to in [VIP, host(99)] {
        let got = cluster.send_from_task(caller, syn((caller.addr, 40_000), (to, 80)));
        assert!(got.is_dropped(Counter::DropUnknownAddress), "{got:?}");
    }
}

#[test]
fn vips_and_gateways_answer_pings() {
    let (cluster, caller, _) = balanced();
    for to in [VIP, NET | ip(0, 0, 0, 1)] {
        let sent = ping(caller.addr, to, 7);
        let got = cluster.send_from_task(caller, sent);
        assert_eq!(got.end, Fate::Echo(0));
        assert_eq!(got.packet.tuple, sent.tuple.reversed());
    }
}

#[test]
fn an_overlay_may_have_several_subnets() {
    let (mut cluster, caller) = red(0);
    let second = ip(10, 7, 0, 0);
    cluster.subnet(RED, second);
    for at in [0, 1] {
        let peer = cluster.endpoint(at, RED, second | ip(0, 0, 1, at as u8));
        let sent = syn((caller.addr, 40_000), (peer.addr, 80));
        let got = cluster.send_from_task(caller, sent);
        assert_eq!(got.at(peer).tuple, sent.tuple, "as it was sent");
        let answer = cluster.answer(&got, SYN | ACK).at(caller).tuple;
        assert_eq!(answer, sent.tuple.reversed());
    }
    // Both gateways are there from either subnet; an address that nobody has is not looked for outside.
    for to in [NET, second] {
        let gateway = ping(caller.addr, to | ip(0, 0, 0, 1), 7);
        assert_eq!(cluster.send_from_task(caller, gateway).end, Fate::Echo(0));
        let nobody = syn((caller.addr, 40_000), (to | ip(0, 0, 9, 9), 80));
        let got = cluster.send_from_task(caller, nobody);
        assert!(got.is_dropped(Counter::DropUnknownAddress), "{got:?}");
    }
    let outside = syn((caller.addr, 40_000), OUTSIDE);
    cluster.send_from_task(caller, outside).out_of(0);
}

#[test]
fn overlays_may_overlap() {
    let (mut cluster, caller) = red(0);
    cluster.network(BLUE, NET, 0);
    let twin = cluster.endpoint(0, BLUE, caller.addr);
    // One address on two nodes, one VIP with two backends.
    let peers = [
        cluster.endpoint(1, RED, host(2)),
        cluster.endpoint(2, BLUE, host(2)),
    ];
    set_vip(&mut cluster, RED, 0, &peers[..1]);
    set_vip(&mut cluster, BLUE, 1, &peers[1..]);
    for to in [host(2), VIP] {
        let sent = syn((caller.addr, 40_000), (to, 80));
        let got = [caller, twin].map(|task| cluster.send_from_task(task, sent));
        for ((got, peer), task) in got.iter().zip(peers).zip([caller, twin]) {
            got.at(peer);
            assert_eq!(
                cluster.answer(got, SYN | ACK).at(task).tuple,
                sent.tuple.reversed()
            );
        }
    }
}

/// A packet from one task of an overlay to another, as it comes through a tunnel to node 0.
fn arrives(cluster: &Cluster, vni: u32, remote: Addr, to: Task) -> Journey {
    cluster.tunnel(0, vni, remote, 0, syn((host(9), 40_000), (to.addr, 80)))
}

#[test]
fn only_members_are_listened_to_and_only_about_networks_of_this_node() {
    let (mut cluster, task) = red(0);
    arrives(&cluster, RED, node_addr(1), task).at(task);
    let stranger = arrives(&cluster, RED, ip(203, 0, 113, 66), task);
    assert!(stranger.is_dropped(Counter::DropNotMember));
    for vni in [0, 4, BLUE] {
        let got = arrives(&cluster, vni, node_addr(1), task);
        assert!(got.is_dropped(Counter::DropUnknownVni), "{got:?}");
    }
    // Nor does a node that has a network pass on for others.
    let remote = cluster.endpoint(1, RED, host(2));
    let got = arrives(&cluster, RED, node_addr(2), remote);
    assert!(got.is_dropped(Counter::DropUnknownAddress));
}

#[test]
fn a_second_hop_names_a_member_as_its_entry() {
    let (cluster, tasks) = Cluster::serving(2, 80, 8080, &[0]);
    let sent = syn(CLIENT, (node_addr(1), 80));
    for (entry, is_believed) in [(node_addr(1), true), (0, false), (CLIENT.0, false)] {
        let got = cluster.tunnel(0, VNI_SECOND_HOP, node_addr(1), entry, sent);
        match is_believed {
            true => assert_eq!(got.at(tasks[0]).tuple.src, CLIENT.0),
            false => assert!(got.is_dropped(Counter::DropNotMember), "{got:?}"),
        }
    }
}

#[test]
fn the_uplink_takes_tunnels_from_members_alone() {
    let cluster = Cluster::new(2);
    let to = (node_addr(0), VXLAN_PORT);
    let member = cluster.send(0, udp((node_addr(1), 50_000), to));
    assert_eq!(member.end, Fate::Passed(0));
    let stranger = cluster.send(0, udp((CLIENT.0, 50_000), to));
    assert!(stranger.is_dropped(Counter::DropNotMember));
}

#[test]
fn what_leaves_is_the_nodes_and_its_answers_come_back() {
    let (mut cluster, caller) = red(0);
    cluster.network(BLUE, NET, 0);
    let twin = cluster.endpoint(0, BLUE, caller.addr);
    for proto in [TCP, UDP, ICMP] {
        let mut seen: HashSet<Tuple> = HashSet::new();
        for task in [caller, twin] {
            let sent = match proto {
                ICMP => ping(task.addr, OUTSIDE.0, 7),
                _ => packet(proto, (task.addr, 40_000), OUTSIDE, SYN),
            };
            let left = cluster.send_from_task(task, sent);
            let out = left.out_of(0);
            assert_eq!((out.src, out.dst), (node_addr(0), OUTSIDE.0));
            assert!(seen.insert(out), "two tasks look the same outside");
            assert_eq!(
                cluster.send_from_task(task, sent).out_of(0),
                out,
                "one port for the flow"
            );
            let got = cluster.send(0, answer_to(&left.packet, SYN | ACK));
            assert_eq!(got.at(task).tuple, sent.tuple.reversed());
        }
    }
}

#[test]
fn answers_that_nobody_asked_for_do_not_come_in() {
    let (cluster, caller) = red(0);
    let left = cluster.send_from_task(caller, udp((caller.addr, 40_000), OUTSIDE));
    let mut other = answer_to(&left.packet, 0);
    other.tuple.src = CLIENT.0;
    assert_eq!(cluster.send(0, other).end, Fate::Passed(0));
}

#[test]
fn an_answer_for_a_task_that_is_gone_reaches_nobody_else() {
    let (mut cluster, caller) = red(0);
    let left = cluster.send_from_task(caller, udp((caller.addr, 40_000), OUTSIDE));
    let endpoint = &mut cluster.nodes[0].endpoints[caller.index as usize];
    endpoint.as_mut().expect("it is there").addr = host(77);
    let got = cluster.send(0, answer_to(&left.packet, 0));
    assert!(got.is_dropped(Counter::DropNoFlow), "{got:?}");
}

#[test]
fn an_internal_network_has_no_way_out_but_names() {
    let (mut cluster, caller) = red(NETWORK_INTERNAL);
    cluster.publish(0, 80, 8080);
    let from = (caller.addr, 40_000);
    for to in [
        OUTSIDE,
        (node_addr(0), 80),
        (node_addr(0), 22),
        (LOCAL_ADDR, 80),
    ] {
        let got = cluster.send_from_task(caller, syn(from, to));
        assert!(got.is_dropped(Counter::DropInternal), "{to:?}: {got:?}");
    }
    let internal = cluster.nodes[0].endpoints[caller.index as usize]
        .expect("it is there")
        .internal;
    let asked = cluster.send_from_task(caller, udp(from, (DNS_ADDR, 53)));
    assert_eq!(
        asked.at_host(0),
        tuple(UDP, (internal, 40_000), (DNS_ADDR, 53))
    );
    let peer = cluster.endpoint(1, RED, host(2));
    cluster
        .send_from_task(caller, syn(from, (peer.addr, 80)))
        .at(peer);
}

#[test]
fn the_node_knows_a_task_by_its_internal_address() {
    let (cluster, caller) = red(0);
    let internal = cluster.nodes[0].endpoints[caller.index as usize]
        .expect("it is there")
        .internal;
    let sent = syn((caller.addr, 40_000), (node_addr(0), 22));
    let got = cluster.send_from_task(caller, sent).at_host(0);
    assert_eq!(got, tuple(TCP, (internal, 40_000), (node_addr(0), 22)));
}

#[test]
fn nothing_but_transports_and_pings_leaves() {
    let (cluster, caller) = red(0);
    let mut strange = udp((caller.addr, 0), (OUTSIDE.0, 0));
    strange.tuple.proto = 47; // GRE
    assert!(
        cluster
            .send_from_task(caller, strange)
            .is_dropped(Counter::DropNoRoute)
    );
}
