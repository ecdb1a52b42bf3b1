//! Flows with a task of this node: both directions, how long they are kept, what happens when two
//! would look the same to the task.

use crate::{Packet, Tables, Verdict, hash, subprogram::subprogram};
use skein_abi::{Addr, ICMP, Port, UDP, config::Timeouts, flow::*, verdict::Counter};

/// Local tasks that are tried for a flow whose tuple is taken at the first one.
const TASK_TRIES: u32 = 4;
/// Client ports that are tried when all of those have the tuple. Each is free with the odds of a
/// port that nobody uses, so a handful does.
const PORT_TRIES: u32 = 16;
/// Replaced client ports are at least this: below are well-known ones (RFC 6335).
const PORT_MIN: u32 = 1024;

/// Whether an entry last seen at `seen` is still to be believed.
#[inline(always)]
pub fn is_alive(timeouts: &Timeouts, proto: u8, marks: u8, seen: u64, now: u64) -> bool {
    let timeout = match proto {
        UDP => timeouts.udp,
        ICMP => timeouts.icmp,
        _ if is_closed(marks) => timeouts.closed,
        _ if marks & ESTABLISHED != 0 => timeouts.established,
        _ => timeouts.opening,
    };
    now.saturating_sub(seen) < timeout
}

/// Where a client's packet came from. (The kernel passes at most five arguments.)
pub struct Client {
    /// The packet's tuple, as it arrived at the node that the client came in by.
    pub tuple: Tuple,
    /// Data path address of that node, 0 for this one.
    pub entry: Addr,
}

subprogram! {
    /// A packet from the client of a published port whose flow is known here.
    pub fn follow(t, packet: &Packet, client: &Client) -> Option<Verdict> {
        let tuple = &client.tuple;
        let key = CtKey {
            scope: SCOPE_PUBLISHED,
            tuple: *tuple,
        };
        let mut ct = t.conntrack(&key)?;
        let now = t.now();
        if !is_alive(&t.config().timeouts, tuple.proto, ct.marks, ct.seen, now)
            || packet.is_syn() && is_closed(ct.marks)
            || t.endpoint(ct.endpoint)?.addr != ct.to.dst
        {
            return None;
        }
        ct.seen = now;
        // A SYN that follows an entry is a retransmission, or the task's to answer (RFC 5961).
        ct.marks |= packet.marks(true);
        ct.return_node = client.entry;
        t.set_conntrack(&key, &ct);
        Some(Verdict::endpoint(&ct.to, ct.endpoint))
    }
}

subprogram! {
    /// Gives a flow to a ready task of this node, or, in mid-stream, to a draining one.
    pub fn begin(t, packet: &Packet, client: &Client) -> Option<Verdict> {
        let published = crate::ingress::published(t, &client.tuple)?;
        let tuple = &client.tuple;
        let hash = hash(tuple);
        let draining = match t.local_backend(published.service, hash, false) {
            Some(_) => false,
            None if packet.is_mid_stream() => true,
            None => return None,
        };
        let mut first = None;
        for attempt in 0..TASK_TRIES {
            let index = t.local_backend(published.service, hash.wrapping_add(attempt), draining)?;
            let to = Tuple {
                dst: t.endpoint(index)?.addr,
                dport: published.target,
                ..*tuple
            };
            if is_free(t, index, &to, tuple) {
                return Some(remember(t, packet.marks(true), client, &to, index));
            }
            first = first.or(Some((index, to)));
        }
        // The same client port came in by another address or published port of the service, and every
        // task tried has it. The client's address is what the task is promised; its port is not.
        let (index, to) = first?;
        for attempt in 0..PORT_TRIES {
            let to = Tuple {
                sport: other_port(hash, attempt),
                ..to
            };
            if is_free(t, index, &to, tuple) {
                return Some(remember(t, packet.marks(true), client, &to, index));
            }
        }
        Some(Verdict::drop(tuple, Counter::DropNoPort))
    }
}

#[inline(always)]
fn other_port(hash: u32, attempt: u32) -> Port {
    // The stride is odd, so that the ports tried differ.
    let spread = hash.wrapping_add(attempt.wrapping_mul(40_503));
    ((PORT_MIN + spread % (65_536 - PORT_MIN)) as u16).to_be()
}

/// Whether answers to `to` would be this flow's alone.
#[inline(never)]
fn is_free<T: Tables>(t: &T, endpoint: u32, to: &Tuple, tuple: &Tuple) -> bool {
    let key = CtKey {
        scope: scope_of(endpoint),
        tuple: to.reversed(),
    };
    let Some(other) = t.conntrack(&key) else {
        return true;
    };
    other.to.reversed() == *tuple
        || !is_alive(
            &t.config().timeouts,
            tuple.proto,
            other.marks,
            other.seen,
            t.now(),
        )
}

#[inline(always)]
fn remember<T: Tables>(t: &T, marks: u8, client: &Client, to: &Tuple, endpoint: u32) -> Verdict {
    let mut ct = Ct {
        seen: t.now(),
        to: *to,
        route: Route::Endpoint,
        endpoint,
        return_node: client.entry,
        marks,
        pad: [0; 3],
    };
    let forward = t.set_conntrack(
        &CtKey {
            scope: SCOPE_PUBLISHED,
            tuple: client.tuple,
        },
        &ct,
    );
    ct.to = client.tuple.reversed();
    ct.route = Route::Reply;
    let back = t.set_conntrack(
        &CtKey {
            scope: scope_of(endpoint),
            tuple: to.reversed(),
        },
        &ct,
    );
    match forward && back {
        true => Verdict::endpoint(to, endpoint),
        false => Verdict::drop(to, Counter::DropTableFull),
    }
}

subprogram! {
    /// A task's answer to the client of a published port: the tuple that the client expects, and the
    /// node it came in by.
    pub fn answer(t, packet: &Packet, key: &CtKey, back: &Ct) -> (Tuple, Addr) {
        let mut back = *back;
        let now = t.now();
        let forward_key = CtKey {
            scope: SCOPE_PUBLISHED,
            tuple: back.to.reversed(),
        };
        if let Some(mut forward) = t.conntrack(&forward_key) {
            forward.marks |= packet.marks(false);
            forward.seen = now;
            back.return_node = forward.return_node;
            back.marks = forward.marks;
            t.set_conntrack(&forward_key, &forward);
        }
        back.seen = now;
        t.set_conntrack(key, &back);
        (back.to, back.return_node)
    }
}
