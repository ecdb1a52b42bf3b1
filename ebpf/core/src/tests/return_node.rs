//! Replies go to the node that the client's last packet came in by: an address may move from node to
//! node in mid-flow.

use super::{cluster::*, packets::*};
use skein_abi::{TCP, UDP};

/// An address that nodes have in turns.
const FLOATING: End = (ip(198, 18, 1, 1), 80);

fn floating(at: usize) -> (Cluster, Task) {
    let (mut cluster, tasks) = Cluster::serving(4, 80, 8080, &[at]);
    for node in &mut cluster.nodes {
        node.locals.insert(FLOATING.0);
    }
    (cluster, tasks[0])
}

#[test]
fn replies_follow_an_address_that_moves() {
    for proto in [TCP, UDP] {
        let (cluster, task) = floating(2);
        let mut flags = SYN;
        // By the task's own node, too, and back.
        for entry in [0, 1, 2, 3, 2, 0] {
            let got = cluster.send(entry, packet(proto, CLIENT, FLOATING, flags));
            assert_eq!(source(&got.at(task).tuple), CLIENT);
            let answer = cluster.answer(&got, ACK);
            assert_eq!(answer.out_of(entry), tuple(proto, FLOATING, CLIENT));
            assert_eq!(answer.hops, usize::from(entry != 2));
            flags = ACK;
        }
    }
}

#[test]
fn the_middle_of_two_hops_is_nobodys_way_back() {
    let (mut cluster, task) = floating(2);
    for entry in [0, 3] {
        cluster.nodes[entry].set_table(0, false, vec![node_addr(1)]);
    }
    let mut flags = SYN;
    for entry in [0, 3, 0] {
        let got = cluster.send(entry, tcp(CLIENT, FLOATING, flags));
        assert_eq!(got.hops, 2);
        got.at(task);
        cluster.answer(&got, ACK).out_of(entry);
        flags = ACK;
    }
}
