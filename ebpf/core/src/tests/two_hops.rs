//! Whatever the nodes believe of each other and remember from before, a client's packet goes from node to
//! node twice at most, by l2 or in VXLAN, and comes to an end, and so does every reply, after one at most.

use super::{cluster::*, node::*, packets::*};
use crate::Packet;
use proptest::{collection::vec, prelude::*, sample::select};
use skein_abi::{
    TCP, UDP, VNI_FORWARD, VNI_REPLY, VNI_SECOND_HOP, flow::*, ingress::*, overlay::Endpoint, port,
};
use std::vec::Vec;

const NODES: usize = 4;
const TASKS: u32 = 3;
/// Nodes that tables and leftovers name: those of the cluster, one that is gone.
const NAMED: usize = NODES + 1;
const CLIENTS: [End; 2] = [CLIENT, (CLIENT.0, 40_001)];
const FLOATING: End = (ip(198, 18, 1, 1), 80);
const CALLED: [End; 4] = [FLOATING, FLOATING, (node_addr(0), 80), (node_addr(1), 80)];

/// What a node believes of the service and of the others.
#[derive(Clone, Debug)]
struct Beliefs {
    table: Vec<usize>,
    previous: Vec<usize>,
    ready: Vec<u32>,
    draining: Vec<u32>,
    members: Vec<Option<u32>>,
    /// Of each node: whether its MAC address is the one that it has, and whether it is sent requests and
    /// replies by l2.
    peers: Vec<(bool, bool, bool)>,
    is_taken: bool,
    is_flooded: bool,
}

/// An entry from before, of one of the flows that are tried.
#[derive(Clone, Debug)]
struct Leftover {
    node: usize,
    flow: Tuple,
    age: u64,
    marks: u8,
    /// Conntrack's, or the node that the flow went to.
    task: Option<u32>,
    named: usize,
}

#[derive(Clone, Debug)]
enum Source {
    Uplink,
    Bridge,
    Host,
    Task(u32),
    /// Whatever a node may send, it may send at any time.
    Tunnel(u32, usize, usize),
    Segment(usize),
}

#[derive(Clone, Debug)]
struct Sent {
    source: Source,
    entry: usize,
    packet: Packet,
}

fn beliefs() -> impl Strategy<Value = Beliefs> {
    let table = || vec(0..NAMED, 0..6);
    let member = select(vec![None, Some(0), Some(MEMBER_UP), Some(MEMBER_UP)]);
    (
        table(),
        table(),
        vec(0..TASKS, 0..3),
        vec(0..TASKS, 0..3),
        vec(member, NODES),
        vec(
            (proptest::bool::weighted(0.9), any::<bool>(), any::<bool>()),
            NODES,
        ),
        proptest::bool::weighted(0.1),
        proptest::bool::weighted(0.1),
    )
        .prop_map(
            |(table, previous, ready, draining, members, peers, is_taken, is_flooded)| Beliefs {
                table,
                previous,
                ready,
                draining,
                members,
                peers,
                is_taken,
                is_flooded,
            },
        )
}

fn client_packet() -> impl Strategy<Value = Packet> {
    let flags = select(vec![SYN, SYN, ACK, ACK, FIN | ACK, RST, SYN | ACK]);
    let (proto, called) = (select(&[TCP, TCP, UDP][..]), select(&CALLED[..]));
    (proto, select(&CLIENTS[..]), called, flags)
        .prop_map(|(proto, client, called, flags)| packet(proto, client, called, flags))
}

fn leftover() -> impl Strategy<Value = Leftover> {
    let age = select(vec![0, 5_000_000_000, 50_000_000_000, 1 << 45]);
    (
        0..NODES,
        client_packet(),
        age,
        0..16_u8,
        proptest::option::of(0..TASKS),
        0..NAMED,
    )
        .prop_map(|(node, packet, age, marks, task, named)| Leftover {
            node,
            flow: packet.tuple,
            age,
            marks,
            task,
            named,
        })
}

fn sent() -> impl Strategy<Value = Sent> {
    let vni = select(vec![0, VNI_FORWARD, VNI_SECOND_HOP, VNI_REPLY, 4, INGRESS]);
    let source = prop_oneof![
        6 => Just(Source::Uplink),
        1 => Just(Source::Bridge),
        1 => Just(Source::Host),
        1 => (0..TASKS).prop_map(Source::Task),
        1 => (vni, 0..NODES, 0..NAMED).prop_map(|(vni, remote, entry)| Source::Tunnel(vni, remote, entry)),
        2 => (0..NODES).prop_map(Source::Segment),
    ];
    let packet = prop_oneof![
        8 => client_packet(),
        1 => Just(ping(CLIENT.0, FLOATING.0, 1)),
        1 => client_packet().prop_map(|packet| error_about(&packet.tuple.reversed(), CLIENT.0)),
        1 => client_packet().prop_map(|packet| sized(&packet, 1_500, true)),
        2 => (client_packet(), 0..2_usize, 0..2_u16)
            .prop_map(|(packet, nth, id)| fragments(&packet, id)[nth]),
        2 => client_packet().prop_map(|packet| answer_to(&packet, SYN | ACK)),
    ];
    (source, 0..NODES, packet).prop_map(|(source, entry, packet)| Sent {
        source,
        entry,
        packet,
    })
}

fn cluster(beliefs: &[Beliefs], leftovers: &[Leftover]) -> Cluster {
    let mut cluster = Cluster::new(NODES);
    cluster.publish(0, FLOATING.1, 8080);
    let mut leases = Vec::new();
    for (n, (node, beliefs)) in cluster.nodes.iter_mut().zip(beliefs).enumerate() {
        node.locals.insert(FLOATING.0);
        let named = |nodes: &[usize]| nodes.iter().map(|n| node_addr(*n)).collect();
        node.set_table(0, false, named(&beliefs.table));
        node.set_table(0, true, named(&beliefs.previous));
        node.ready.insert(0, beliefs.ready.clone());
        node.draining.insert(0, beliefs.draining.clone());
        node.endpoints = (0..TASKS).map(|index| Some(endpoint(n, index))).collect();
        node.members.clear();
        for (other, member) in beliefs.members.iter().enumerate() {
            node.members
                .extend(member.map(|flags| (node_addr(other), flags)));
        }
        for (other, (is_right, requests, replies)) in beliefs.peers.iter().copied().enumerate() {
            if other == n {
                continue;
            }
            node.senders.retain(|_, member| *member != node_addr(other));
            node.meet(n, other, mac_of(if is_right { other } else { NODES }));
            leases.push((n, other, requests && is_right, replies && is_right));
        }
        for published in node.published.values_mut() {
            published.flags = if beliefs.is_taken { PUBLISHED_TAKEN } else { 0 };
        }
        node.is_flooded = beliefs.is_flooded;
        node.config.tunnel_mtu = 1_450;
    }
    for (node, other, requests, replies) in leases {
        cluster.lease(node, other, requests, replies);
    }
    for leftover in leftovers {
        leave(&cluster.nodes[leftover.node], leftover);
    }
    cluster
}

fn endpoint(node: usize, index: u32) -> Endpoint {
    Endpoint {
        ifindex: 1 + index,
        vni: INGRESS,
        addr: ip(10, 0, 1 + node as u8, 1 + index as u8),
        internal: ip(100, 65, 1, index as u8),
        ..Endpoint::default()
    }
}

fn leave(node: &Node, leftover: &Leftover) {
    let Leftover {
        flow,
        marks,
        task,
        named,
        ..
    } = *leftover;
    let seen = node.clock.get() - leftover.age;
    let Some(task) = task else {
        let affinity = Affinity {
            seen,
            node: node_addr(named),
            marks,
            pad: 0,
            meter: 0,
        };
        let table = match marks & ESTABLISHED {
            0 => &node.affinity_opening,
            _ => &node.affinity,
        };
        return table.insert(&flow, &affinity);
    };
    let mut to = flow;
    to.dst = node.endpoints[task as usize].expect("all are there").addr;
    to.dport = port(8080);
    let ct = Ct {
        seen,
        to,
        route: Route::Endpoint,
        endpoint: task,
        return_node: if named == NODES { 0 } else { node_addr(named) },
        marks,
        pad: 0,
        meter: 0,
    };
    node.conntrack.insert(
        &CtKey {
            scope: SCOPE_PUBLISHED,
            tuple: flow,
        },
        &ct,
    );
    let back = Ct {
        to: flow.reversed(),
        route: Route::Reply,
        ..ct
    };
    node.conntrack.insert(
        &CtKey {
            scope: scope_of(task),
            tuple: to.reversed(),
        },
        &back,
    );
}

/// Sends it; also how often it may go on to another node.
fn send(cluster: &Cluster, sent: &Sent) -> (Journey, usize) {
    let Sent {
        source,
        entry,
        packet,
    } = sent;
    let (entry, mut packet) = (*entry, *packet);
    match *source {
        Source::Uplink => (cluster.send(entry, packet), 2),
        Source::Bridge => (cluster.send_by_device(entry, packet, DEVICE_TRANSLATE), 2),
        Source::Host => {
            packet.tuple.dst = LOCAL_ADDR;
            (cluster.send_from_host(entry, packet), 2)
        }
        Source::Task(index) => {
            packet.tuple.src = endpoint(entry, index).addr;
            let task = Task {
                node: entry,
                index,
                addr: packet.tuple.src,
            };
            (cluster.send_from_task(task, packet), 2)
        }
        Source::Tunnel(vni, remote, named) => {
            let left = usize::from(vni == VNI_FORWARD);
            let (remote, named) = (node_addr(remote), node_addr(named));
            (cluster.tunnel(entry, vni, remote, named, packet), left)
        }
        Source::Segment(sender) => {
            let is_known = cluster.nodes[entry].senders.values();
            let is_known = is_known.copied().any(|member| member == node_addr(sender));
            let is_forwarded = is_known && packet.tuple.dst == node_addr(sender);
            let left = if is_forwarded { 1 } else { 2 };
            (cluster.frame(entry, mac_of(sender), packet), left)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_packet_ends_after_two_hops_and_its_reply_after_one(
        beliefs in vec(beliefs(), NODES),
        leftovers in vec(leftover(), 0..8),
        packets in vec(sent(), 1..6),
    ) {
        let cluster = cluster(&beliefs, &leftovers);
        for sent in &packets {
            let (got, hops_left) = send(&cluster, sent);
            let reset_hops = got.reset_hops.unwrap_or(0);
            prop_assert!(got.hops - reset_hops <= hops_left, "{:?}", got);
            prop_assert!(reset_hops <= 1, "{:?}", got);
            // Its stack would send it back, and so on for ever.
            let is_passed_on = got.by_l2 > 0 && matches!(got.end, Fate::Passed(_));
            prop_assert!(!is_passed_on, "{:?}", got);
            if let Fate::Task(_) = got.end
                && got.reset_hops.is_none()
                && got.too_big == 0
                && got.packet.is_error == 0
            {
                let reply = cluster.answer(&got, SYN | ACK);
                prop_assert!(reply.hops <= 1, "{:?}", reply);
            }
        }
    }
}

/// Without this, the search above might never have come across the worst.
#[test]
fn two_nodes_that_name_each_other_bounce_nothing() {
    let (mut cluster, _) = Cluster::serving(3, 80, 8080, &[]);
    cluster.nodes[0].set_table(0, false, vec![node_addr(1)]);
    cluster.nodes[1].set_table(0, false, vec![node_addr(2)]);
    cluster.nodes[2].set_table(0, false, vec![node_addr(1)]);
    let called = (node_addr(0), 80);
    let got = cluster.send(0, syn(CLIENT, called));
    assert_eq!(
        (got.hops, got.reset_hops),
        (3, Some(1)),
        "there, on, and the reset back"
    );
    assert_eq!(got.out_of(0), tuple(TCP, called, CLIENT));
    let got = cluster.send(0, udp(CLIENT, called));
    assert_eq!(got.hops, 2);
    assert!(got.is_dropped(skein_abi::verdict::Counter::DropNoTask));
}
