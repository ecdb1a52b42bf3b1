//! A flood of SYNs takes nobody's connection away: flows of which nothing but a SYN was seen are
//! remembered apart, and above a rate not at all.

use super::node::CT_OPENING_MAX;
use super::{cluster::*, node::OPENING_MAX, packets::*};
use skein_abi::{TCP, flow::ESTABLISHED, verdict::Counter};

const CALLED: End = (node_addr(0), 80);
/// Far more than any table of a node holds.
const FLOOD: u32 = 10_000;

fn flooder(nth: u32) -> End {
    (
        ip(192, 0, (nth >> 8) as u8, nth as u8),
        1024 + (nth >> 16) as u16,
    )
}

/// A node forwards an open connection; then the table names another node.
fn open() -> (Cluster, [Task; 2]) {
    let (mut cluster, tasks) = Cluster::serving(3, 80, 8080, &[1]);
    let got = cluster.send(0, syn(CLIENT, CALLED));
    cluster.answer(&got, SYN | ACK).out_of(0);
    cluster.send(0, data(CLIENT, CALLED)).at(tasks[0]);
    let new = cluster.ready_task(2, 0);
    cluster.set_tables(0, &[2]);
    (cluster, [tasks[0], new])
}

#[test]
fn an_open_connection_outlives_a_flood() {
    let (cluster, [old, new]) = open();
    for nth in 0..FLOOD {
        cluster.send(0, syn(flooder(nth), CALLED)).at(new);
    }
    let node = &cluster.nodes[0];
    assert_eq!(node.affinity_opening.count(), OPENING_MAX);
    assert_eq!(node.affinity.count(), 1, "the open one");
    cluster.send(0, data(CLIENT, CALLED)).at(old);
}

#[test]
fn a_flow_is_remembered_in_one_table_at_a_time() {
    let (cluster, _) = open();
    let node = &cluster.nodes[0];
    assert_eq!(
        (node.affinity_opening.count(), node.affinity.count()),
        (0, 1)
    );
    cluster.send(0, syn(flooder(0), CALLED));
    assert_eq!(
        (node.affinity_opening.count(), node.affinity.count()),
        (1, 1)
    );
    cluster.send(0, data(flooder(0), CALLED));
    assert_eq!(
        (node.affinity_opening.count(), node.affinity.count()),
        (0, 2)
    );
    // It is over, and its client calls again.
    cluster.send(0, tcp(flooder(0), CALLED, RST));
    cluster.send(0, syn(flooder(0), CALLED));
    assert_eq!(
        (node.affinity_opening.count(), node.affinity.count()),
        (1, 1)
    );
}

#[test]
fn a_reply_that_no_client_can_have_asked_for_is_dropped() {
    let (mut cluster, _) = open();
    let client = flooder(0);
    for (is_flooded, from) in [
        (false, CALLED),
        (true, (node_addr(0), 81)),
        (true, (node_addr(1), 80)),
    ] {
        cluster.nodes[0].is_flooded = is_flooded;
        let forged = forged_reply(&cluster, 0, 1, tcp(from, client, SYN | ACK));
        assert!(forged.is_dropped(Counter::DropNoFlow), "{forged:?}");
    }
}

#[test]
fn in_a_flood_the_hash_alone_decides_and_clients_are_served() {
    let (mut cluster, [old, new]) = open();
    cluster.nodes[0].is_flooded = true;
    let client = flooder(0);
    for (flags, answer_flags) in [(SYN, SYN | ACK), (SYN, SYN | ACK), (ACK, ACK)] {
        let got = cluster.send(0, tcp(client, CALLED, flags));
        got.at(new);
        let answer = cluster.answer(&got, answer_flags);
        assert_eq!(answer.out_of(0), tuple(TCP, CALLED, client));
    }
    assert_eq!(cluster.nodes[0].affinity.count(), 2, "it is open now");
    cluster.send(0, data(CLIENT, CALLED)).at(old);
}

#[test]
fn an_open_connection_outlives_a_flood_at_its_task() {
    // On the client's node, and on another; and of a task to a VIP.
    for at in [0, 1] {
        let (mut cluster, tasks) = Cluster::serving(3, 80, 8080, &[at]);
        let got = cluster.send(0, syn(CLIENT, CALLED));
        cluster.answer(&got, SYN | ACK).out_of(0);
        cluster.send(0, data(CLIENT, CALLED)).at(tasks[0]);
        // Without its entry, the connection would be this one's.
        let new = cluster.ready_task(at, 0);
        for nth in 0..FLOOD {
            cluster.send(0, syn(flooder(nth), CALLED)).task();
        }
        let node = &cluster.nodes[at];
        assert_eq!(node.conntrack_opening.count(), CT_OPENING_MAX);
        assert_eq!(node.conntrack.count(), 2, "the open one");
        assert_ne!(tasks[0], new);
        let next = cluster.send(0, data(CLIENT, CALLED));
        assert_eq!(next.at(tasks[0]).tuple, got.packet.tuple);
        let answer = cluster.answer(&next, ACK);
        assert_eq!(answer.out_of(0), tuple(TCP, CALLED, CLIENT));
    }
}

#[test]
fn an_open_connection_to_a_vip_outlives_a_flood() {
    let (cluster, caller, _) = super::overlay::balanced();
    let vip = (super::overlay::VIP, 80);
    let own = (caller.addr, 40_000);
    let got = cluster.send_from_task(caller, syn(own, vip));
    cluster.answer(&got, SYN | ACK);
    let next = cluster.send_from_task(caller, data(own, vip));
    for nth in 0..FLOOD as u16 {
        let from = (caller.addr, 50_000 + nth);
        cluster.send_from_task(caller, syn(from, vip)).task();
    }
    let node = &cluster.nodes[0];
    assert_eq!(node.conntrack_opening.count(), CT_OPENING_MAX);
    assert_eq!(node.conntrack.count(), 2, "the open one");
    let answer = cluster.answer(&next, ACK);
    assert_eq!(answer.at(caller).tuple, tuple(TCP, vip, own));
}

#[test]
fn a_flow_at_its_task_is_remembered_in_one_table_at_a_time() {
    let (cluster, _) = Cluster::serving(1, 80, 8080, &[0]);
    let node = &cluster.nodes[0];
    let lens = || (node.conntrack_opening.count(), node.conntrack.count());
    let got = cluster.send(0, syn(CLIENT, CALLED));
    assert_eq!(lens(), (2, 0));
    // A client's SYN sent again, and its task's answer, open nothing.
    cluster.send(0, syn(CLIENT, CALLED)).at(got.task());
    cluster.answer(&got, SYN | ACK).out_of(0);
    assert_eq!(lens(), (2, 0));
    cluster.send(0, data(CLIENT, CALLED)).at(got.task());
    assert_eq!(lens(), (0, 2));
    assert!(
        node.conntrack
            .all()
            .iter()
            .all(|(_, ct)| ct.marks & ESTABLISHED != 0)
    );
    cluster.send(0, tcp(CLIENT, CALLED, RST));
    cluster.send(0, syn(CLIENT, CALLED)).at(got.task());
    assert_eq!(lens(), (2, 0));
    // What has no handshake is open at once.
    cluster.send(0, udp(CLIENT, CALLED));
    assert_eq!(lens(), (2, 2));
}
