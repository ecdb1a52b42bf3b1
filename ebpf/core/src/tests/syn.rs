//! A SYN on a known flow picks anew only if that is over or its task is gone; otherwise it follows,
//! and the task answers it (RFC 5961). Whatever is in mid-stream follows.

use super::{cluster::*, packets::*};
use crate::Packet;
use skein_abi::{
    flow::{CtKey, ESTABLISHED, SCOPE_PUBLISHED},
    ingress::MEMBER_UP,
};

const CALLED: End = (node_addr(0), 80);

/// A connection to a task that drains since; another one takes what is new.
struct Replaced {
    cluster: Cluster,
    old: Task,
    new: Task,
    got: Journey,
}

impl Replaced {
    /// The tasks on the entry node, on another, or each on one of its own.
    fn everywhere() -> [Self; 5] {
        [[0, 0], [0, 1], [1, 0], [1, 1], [1, 2]].map(|[old, new]| Self::on(old, new))
    }

    fn on(old: usize, new: usize) -> Self {
        let (mut cluster, tasks) = Cluster::serving(3, 80, 8080, &[old]);
        let got = cluster.send(0, syn(CLIENT, CALLED));
        cluster.answer(&got, SYN | ACK);
        cluster.send(0, data(CLIENT, CALLED)).at(tasks[0]);
        cluster.drain(tasks[0], 0);
        let new = cluster.ready_task(new, 0);
        cluster.set_tables(0, &[new.node]);
        Self {
            cluster,
            old: tasks[0],
            new,
            got,
        }
    }

    fn client(&self, flags: u8) -> Journey {
        self.cluster.send(0, tcp(CLIENT, CALLED, flags))
    }

    fn server(&self, flags: u8) -> Journey {
        self.cluster.answer(&self.got, flags)
    }
}

#[test]
fn a_retransmitted_syn_follows() {
    for flow in Replaced::everywhere() {
        let again = flow.client(SYN);
        assert_eq!(again.at(flow.old).tuple, flow.got.packet.tuple);
    }
}

#[test]
fn mid_stream_packets_follow_a_draining_task() {
    for flow in Replaced::everywhere() {
        flow.client(ACK).at(flow.old);
        flow.client(FIN | ACK).at(flow.old);
        flow.server(FIN | ACK).out_of(0);
        flow.client(ACK).at(flow.old);
    }
}

#[test]
fn a_syn_follows_while_one_side_is_open() {
    for flow in Replaced::everywhere() {
        flow.client(FIN | ACK);
        flow.client(SYN).at(flow.old);
    }
    for flow in Replaced::everywhere() {
        flow.server(FIN | ACK);
        flow.client(SYN).at(flow.old);
    }
}

#[test]
fn a_syn_picks_anew_when_the_connection_is_over() {
    type Ending = fn(&Replaced);
    let endings: [Ending; 3] = [
        |flow| {
            flow.client(FIN | ACK);
            flow.server(FIN | ACK);
        },
        |flow| {
            flow.client(RST);
        },
        |flow| {
            flow.server(RST);
        },
    ];
    for end in endings {
        for flow in Replaced::everywhere() {
            end(&flow);
            let again = flow.client(SYN);
            again.at(flow.new);
            // That one is a flow like any other: it is open, and followed.
            flow.client(ACK).at(flow.new);
            flow.client(SYN).at(flow.new);
            assert_eq!(flow.cluster.answer(&again, ACK).out_of(0).dst, CLIENT.0);
        }
    }
}

#[test]
fn a_syn_picks_anew_when_its_task_is_gone() {
    for mut flow in Replaced::everywhere() {
        flow.cluster.remove(flow.old, 0);
        flow.client(SYN).at(flow.new);
    }
}

#[test]
fn an_endpoint_that_another_task_has_now_is_not_the_flows() {
    let mut flow = Replaced::on(0, 1);
    let endpoint = &mut flow.cluster.nodes[0].endpoints[flow.old.index as usize];
    endpoint.as_mut().expect("it is there").addr = ip(10, 0, 9, 9);
    flow.cluster.nodes[0].draining.clear();
    flow.client(SYN).at(flow.new);
}

#[test]
fn a_syn_picks_anew_when_its_node_does_not_answer() {
    let mut flow = Replaced::on(1, 2);
    flow.client(SYN).at(flow.old);
    *flow.cluster.nodes[0]
        .members
        .get_mut(&node_addr(1))
        .expect("a member") &= !MEMBER_UP;
    flow.client(SYN).at(flow.new);
}

#[test]
fn a_draining_task_takes_mid_stream_packets_that_nobody_knows() {
    let (mut cluster, tasks) = Cluster::serving(2, 80, 8080, &[1]);
    cluster.drain(tasks[0], 0);
    let unknown: Packet = data(CLIENT, CALLED);
    cluster.send(0, unknown).at(tasks[0]);
    let new = cluster.send(0, syn((CLIENT.0, 40_001), CALLED));
    assert!(new.reset_hops.is_some(), "a new flow is refused: {new:?}");
}

/// The entry node still names the node of a task that drains; that one names another.
fn late_entry() -> (Cluster, Task, Task) {
    let (mut cluster, tasks) = Cluster::serving(3, 80, 8080, &[1]);
    cluster.drain(tasks[0], 0);
    let new = cluster.ready_task(2, 0);
    cluster.nodes[1].set_table(0, false, std::vec![node_addr(2)]);
    (cluster, tasks[0], new)
}

#[test]
fn a_connection_that_was_sent_on_stays_where_it_was_sent() {
    let (mut cluster, old, new) = late_entry();
    let got = cluster.send(0, syn(CLIENT, CALLED));
    got.at(new);
    assert_eq!(got.hops, 2);
    assert_eq!(cluster.answer(&got, SYN | ACK).out_of(0).dst, CLIENT.0);
    // Neither the task that drains there takes it, nor one that is ready since.
    cluster.send(0, tcp(CLIENT, CALLED, ACK)).at(new);
    let ready = cluster.ready_task(1, 0);
    cluster.send(0, data(CLIENT, CALLED)).at(new);
    cluster.send(0, tcp(CLIENT, CALLED, FIN | ACK)).at(new);
    // The next connection from the same port is another one.
    cluster.answer(&got, FIN | ACK).out_of(0);
    cluster.send(0, tcp(CLIENT, CALLED, ACK)).at(new);
    cluster.send(0, syn(CLIENT, CALLED)).at(ready);
    cluster.send(0, data(CLIENT, CALLED)).at(ready);
    assert_ne!(ready, old);
}

#[test]
fn datagrams_that_were_sent_on_stay_there_too() {
    let (mut cluster, _, new) = late_entry();
    let datagram = udp(CLIENT, CALLED);
    cluster.send(0, datagram).at(new);
    cluster.ready_task(1, 0);
    cluster.send(0, datagram).at(new);
}

#[test]
fn late_packets_of_the_old_task_leave_the_new_connection_alone() {
    for flow in Replaced::everywhere() {
        flow.client(FIN | ACK);
        flow.server(FIN | ACK);
        flow.client(SYN).at(flow.new);
        flow.client(ACK).at(flow.new);
        // The client's last ACK was lost.
        flow.server(FIN | ACK);
        flow.server(RST);
        let key = CtKey {
            scope: SCOPE_PUBLISHED,
            tuple: data(CLIENT, CALLED).tuple,
        };
        let node = &flow.cluster.nodes[flow.new.node];
        let ct = node.conntrack.get(&key).expect("a known flow");
        assert_eq!(ct.marks(), ESTABLISHED);
    }
}
