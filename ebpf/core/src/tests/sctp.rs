//! SCTP to published ports: associations are followed as TCP's connections are, by their chunks.

use super::{cluster::*, packets::*};
use crate::{Packet, sctp};
use skein_abi::{SCTP, ingress::PUBLISHED_DSR, port, verdict::Counter};
use std::vec::Vec;

const CALLED: End = (node_addr(0), 80);
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const DATA: u8 = 0;
const ABORT: u8 = 6;
const SHUTDOWN_COMPLETE: u8 = 14;

fn chunk(from: End, to: End, chunk: u8) -> Packet {
    Packet {
        tcp_flags: sctp::flags_of(chunk),
        ..packet(SCTP, from, to, 0)
    }
}

/// Two nodes and a service with its tasks on `at`, on port 80 of SCTP.
fn serving(at: &[usize]) -> (Cluster, Vec<Task>) {
    let (mut cluster, tasks) = Cluster::serving(2, 80, 8080, at);
    for node in &mut cluster.nodes {
        let (key, published) = node
            .published
            .iter()
            .next()
            .map(|(key, of)| (*key, *of))
            .expect("a port");
        let key = skein_abi::ingress::PublishedKey { proto: SCTP, ..key };
        node.published = [(key, published)].into();
    }
    (cluster, tasks)
}

#[test]
fn an_association_keeps_its_task_until_it_ends() {
    for at in [0, 1] {
        let (mut cluster, tasks) = serving(&[at]);
        for kind in [INIT, DATA, DATA] {
            let got = cluster.send(0, chunk(CLIENT, CALLED, kind));
            assert_eq!(source(&got.at(tasks[0]).tuple), CLIENT);
            assert_eq!(got.packet.tuple.dport, port(8080));
            let answer = cluster.answer(&got, sctp::flags_of(INIT_ACK));
            assert_eq!(answer.out_of(0), tuple(SCTP, CALLED, CLIENT));
            assert_eq!(answer.mss, 0, "there is none in SCTP");
        }
        // More tasks change nothing for it; one that has ended begins anew.
        let (first, second) = (tasks[0], cluster.ready_task(at, 0));
        cluster.drain(first, 0);
        cluster.send(0, chunk(CLIENT, CALLED, DATA)).at(first);
        cluster.send(0, chunk(CLIENT, CALLED, INIT)).at(first);
        for end in [ABORT, SHUTDOWN_COMPLETE] {
            cluster.send(0, chunk(CLIENT, CALLED, end));
            cluster.send(0, chunk(CLIENT, CALLED, INIT)).at(second);
        }
    }
}

#[test]
fn what_nobody_answers_is_dropped_and_not_reset() {
    let (mut cluster, tasks) = serving(&[1]);
    cluster.remove(tasks[0], 0);
    cluster.set_tables(0, &[]);
    let got = cluster.send(0, chunk(CLIENT, CALLED, INIT));
    assert!(got.is_dropped(Counter::DropNoTask), "{got:?}");
}

#[test]
fn by_dsr_an_association_is_answered_by_the_task_s_node() {
    let (mut cluster, tasks) = serving(&[1]);
    cluster.set_mode(PUBLISHED_DSR);
    for kind in [INIT, DATA] {
        let got = cluster.send(0, chunk(CLIENT, CALLED, kind));
        got.at(tasks[0]);
        assert_eq!(
            cluster.answer(&got, 0).out_of(1),
            tuple(SCTP, CALLED, CLIENT)
        );
    }
}
