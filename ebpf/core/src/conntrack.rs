//! Flows with a task of this node: both directions, how long they are kept, what happens when two
//! would look the same to the task.

use crate::{Live, Tables, Verdict, Work, ingress, subprogram::subprogram};
use skein_abi::{
    Addr, ICMP, Port, UDP,
    config::Timeouts,
    flow::*,
    ingress::{PUBLISHED_AFFINE, PUBLISHED_DSR, PUBLISHED_SNAT},
    verdict::Counter,
};

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

/// The entry of one direction of a flow, if it is to be believed.
#[inline(always)]
pub fn alive<T: Tables>(t: &T, key: &CtKey, now: u64) -> Option<Live<Ct>> {
    let ct = t.conntrack(key)?;
    let timeouts = &t.config().timeouts;
    is_alive(timeouts, key.tuple.proto, ct.marks(), ct.seen(), now).then_some(ct)
}

subprogram! {
    /// A packet from the client of a published port (`client`, `entry`): decided if its flow is known
    /// here.
    pub fn follow(t, w) -> bool {
        w.key.scope = SCOPE_PUBLISHED;
        w.key.tuple = w.client;
        let now = t.now();
        let Some(ct) = alive(t, &w.key, now) else {
            return false;
        };
        let (marks, index) = (ct.marks(), ct.endpoint());
        if w.packet.is_syn() && is_closed(marks) {
            // The client calls again. Should another node get that connection, its next packets must not
            // be taken for the old one's, nor what the old task still says for an answer to them.
            ct.set_to(Tuple::default());
            return false;
        }
        w.to = ct.to();
        let Some(endpoint) = t.endpoint(index) else {
            return false;
        };
        if endpoint.addr != w.to.dst {
            return false;
        }
        let before = marks;
        let marks = before | w.packet.marks(true);
        ct.set_seen(now);
        // A SYN that follows an entry is a retransmission, or the task's to answer (RFC 5961).
        ct.set_marks(marks);
        w.told.request(ct.meter(), before, marks);
        if !w.packet.is_error() {
            ct.set_return_node(w.entry);
        }
        if (before ^ marks) & ESTABLISHED != 0 {
            // Out of the table of flows that only opened, before a flood evicts it there.
            return remember(t, w, index, marks);
        }
        w.verdict = Verdict::endpoint(&w.to, index);
        true
    }

    /// Gives a flow (`client`, `entry`) to a ready task of this node, or, in mid-stream, to a draining
    /// one. Not decided: there is none.
    pub fn begin(t, w) -> bool {
        let Some(published) = ingress::published(t, &w.client) else {
            return false;
        };
        w.told.meter = published.meter as u16;
        let hash = ingress::hash_of(&published, &w.client);
        let draining = match t.local_backend(published.service, hash, false) {
            Some(_) => false,
            None if w.packet.is_mid_stream() => true,
            None => return false,
        };
        w.to = w.client;
        w.to.dport = published.target;
        if published.flags & PUBLISHED_SNAT != 0 {
            w.to.src = match w.entry {
                0 => t.config().node_addr,
                entry => entry,
            };
        }
        let marks = w.packet.marks(true)
            | match published.flags & PUBLISHED_DSR != 0 && may_be_answered_by_any(t, w.client.src) {
                true => DIRECT,
                false => 0,
            };
        // Where a client's flows are to come to one task, its port gives way before that.
        let tries = match published.flags & PUBLISHED_AFFINE {
            0 => TASK_TRIES,
            _ => 1,
        };
        for attempt in 0..tries {
            let nth = hash.wrapping_add(attempt);
            let Some(index) = t.local_backend(published.service, nth, draining) else {
                return false;
            };
            let Some(endpoint) = t.endpoint(index) else {
                return false;
            };
            w.to.dst = endpoint.addr;
            if is_free(t, w, index) && claim(t, w, index, marks) {
                return open(t, w, index, marks);
            }
        }
        // The same client port came in by another address or published port of the service, or from another
        // client that the task is to see as the same node; and every task tried has it. The address is what the
        // task is promised; the port is not.
        let Some(index) = t.local_backend(published.service, hash, draining) else {
            return false;
        };
        let Some(endpoint) = t.endpoint(index) else {
            return false;
        };
        w.to.dst = endpoint.addr;
        for attempt in 0..PORT_TRIES {
            w.to.sport = other_port(crate::hash(&w.client), attempt);
            if is_free(t, w, index) && claim(t, w, index, marks) {
                return open(t, w, index, marks);
            }
        }
        w.verdict = Verdict::drop(&w.client, Counter::DropNoPort);
        true
    }

    /// Whether answers to `to` from a task would be this flow's alone.
    fn is_free(t, w, endpoint: u32) -> bool {
        w.key.scope = scope_of(endpoint);
        w.key.tuple = w.to.reversed();
        let Some(other) = t.conntrack(&w.key) else {
            return true;
        };
        if other.to() == w.client.reversed() {
            return true;
        }
        if is_answered(t, w, &other, t.now()) {
            return false;
        }
        w.key.scope = scope_of(endpoint);
        w.key.tuple = w.to.reversed();
        t.remove_conntrack(&w.key);
        true
    }

    /// Takes what `is_free` has found so. False: another CPU has given it to another flow since. (Of two
    /// that find the same dead entry in the way, the slower may still remove what the faster has put there:
    /// then one of two flows begins anew, as after its end.)
    fn claim(t, w, endpoint: u32, marks: u8) -> bool {
        w.ct = Ct {
            seen: t.now(),
            to: w.client.reversed(),
            route: Route::Reply,
            endpoint,
            return_node: w.entry,
            marks,
            pad: 0,
            meter: 0,
        };
        w.key.scope = scope_of(endpoint);
        w.key.tuple = w.to.reversed();
        if t.claim_conntrack(&w.key, &w.ct, marks & ESTABLISHED == 0) {
            return true;
        }
        // It may have been this very flow. That there is no room is said by whoever remembers it.
        t.conntrack(&w.key)
            .is_none_or(|winner| winner.to() == w.client.reversed())
    }

    /// Makes both entries of the flow from `client` to the task that is `to` at `endpoint`.
    fn remember(t, w, endpoint: u32, marks: u8) -> bool {
        let opening = marks & ESTABLISHED == 0;
        w.ct = Ct {
            seen: t.now(),
            to: w.to,
            route: Route::Endpoint,
            endpoint,
            return_node: w.entry,
            marks,
            pad: 0,
            meter: w.told.meter,
        };
        w.key.scope = SCOPE_PUBLISHED;
        w.key.tuple = w.client;
        let forward = t.insert_conntrack(&w.key, &w.ct, opening);
        w.ct.meter = 0;
        w.ct.to = w.client.reversed();
        w.ct.route = Route::Reply;
        w.key.scope = scope_of(endpoint);
        w.key.tuple = w.to.reversed();
        let back = t.insert_conntrack(&w.key, &w.ct, opening);
        w.verdict = match forward && back {
            true => Verdict::endpoint(&w.to, endpoint),
            false => Verdict::drop(&w.to, Counter::DropTableFull),
        };
        true
    }
}

/// Makes both entries of a flow that was not known. Part of its caller: the chain of calls has no stack to spare.
#[inline(always)]
fn open<T: Tables>(t: &T, w: &mut Work, endpoint: u32, marks: u8) -> bool {
    w.told.opens_here();
    remember(t, w, endpoint, marks)
}

/// Whether a client takes its answers from whichever node. Members do not: theirs come back by the node that was
/// called, which alone knows whom it has translated to its own address, and which other members expect nothing
/// from in its name. Nor do this node's own addresses, to which nothing leads out of it.
#[inline(always)]
fn may_be_answered_by_any<T: Tables>(t: &T, client: Addr) -> bool {
    t.member(client).is_none() && !t.is_local(client)
}

#[inline(always)]
fn other_port(hash: u32, attempt: u32) -> Port {
    // The stride is odd, so that the ports tried differ.
    let spread = hash.wrapping_add(attempt.wrapping_mul(40_503));
    ((PORT_MIN + spread % (65_536 - PORT_MIN)) as u16).to_be()
}

/// Whether the flow of which `back`, at `key`, is the task's direction is to be believed. Clients may send for
/// long without an answer (UDP), so either direction will do.
#[inline(always)]
fn is_answered<T: Tables>(t: &T, w: &mut Work, back: &Live<Ct>, now: u64) -> bool {
    let to_task = w.key.tuple.reversed();
    w.key.scope = SCOPE_PUBLISHED;
    w.key.tuple = back.to().reversed();
    let (mut marks, mut seen) = (back.marks(), back.seen());
    if let Some(forward) = t.conntrack(&w.key) {
        if forward.to() != to_task {
            // The client has called again since, and another task has that connection.
            return false;
        }
        marks |= forward.marks();
        seen = seen.max(forward.seen());
    }
    is_alive(&t.config().timeouts, w.key.tuple.proto, marks, seen, now)
}

/// A task's answer to the client of a published port, by its entry `back`: fills in `to`, the tuple
/// that the client expects, and `entry`, the node that it came in by. False: the flow is over.
#[inline(always)]
pub fn answer<T: Tables>(t: &T, w: &mut Work, back: &Live<Ct>, now: u64) -> bool {
    if !is_answered(t, w, back, now) {
        return false;
    }
    w.to = back.to();
    w.entry = back.return_node();
    // `key` is the forward direction's, from above.
    if let Some(forward) = t.conntrack(&w.key) {
        let before = forward.marks();
        let marks = before | w.packet.marks(false);
        forward.set_marks(marks);
        forward.set_seen(now);
        w.told.answer(forward.meter(), before, marks);
        w.entry = forward.return_node();
        back.set_marks(marks);
    }
    back.set_seen(now);
    true
}

/// An answer, `to`, from behind a VIP, by its entry `back`: puts the VIP's tuple in its place, if the
/// flow is to be believed.
#[inline(always)]
pub fn answer_of_vip<T: Tables>(t: &T, w: &mut Work, back: &Live<Ct>) {
    w.key.tuple = back.to().reversed();
    let now = t.now();
    if let Some(forward) = alive(t, &w.key, now) {
        let before = forward.marks();
        let marks = before | w.packet.marks(false);
        forward.set_marks(marks);
        forward.set_seen(now);
        w.told.answer(forward.meter(), before, marks);
        back.set_seen(now);
        w.to = back.to();
    }
}
