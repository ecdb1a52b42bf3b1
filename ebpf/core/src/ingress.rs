//! Published ports: the entry node picks a node, the task's node picks the task.
//!
//! Invariant, whatever the tables of the nodes say: a client's packet crosses at most two tunnels.
//! [`uplink`] and [`from_host`] send with `VNI_FORWARD`, [`from_tunnel`] sends what came with that
//! on with `VNI_SECOND_HOP` at most, and never sends on what came with any other.

use crate::{
    Action, Packet, Tables, Verdict,
    conntrack::{self, Client},
    hash, nat, overlay,
    subprogram::subprogram,
};
use skein_abi::{
    Addr, ICMP, UDP, VNI_FORWARD, VNI_OVERLAY_MIN, VNI_REPLY, VNI_SECOND_HOP,
    flow::{Affinity, NAT_HOST, NAT_ROUTED, Tuple, is_closed},
    ingress::{DEVICE_TRANSLATE, MEMBER_UP, Published, PublishedKey},
    verdict::Counter,
};

subprogram! {
    /// A packet that came in by an uplink, or by a bridge of the engine (`device` has its flags).
    pub fn uplink(t, packet: &Packet, device: u32) -> Verdict {
        let tuple = packet.tuple;
        let pass = Verdict::pass(&tuple);
        if !t.is_local(tuple.dst) {
            return pass;
        }
        if tuple.proto == UDP && tuple.dport == t.config().vxlan_port {
            return match t.member(tuple.src) {
                Some(_) => pass,
                None => Verdict::drop(&tuple, Counter::DropNotMember),
            };
        }
        if let Some(back) = nat::untranslate(t, &tuple) {
            return back;
        }
        if published(t, &tuple).is_none() {
            return pass;
        }
        if device & DEVICE_TRANSLATE == 0 {
            return Verdict::enter(&tuple);
        }
        match nat::translate(t, NAT_ROUTED, &tuple, tuple.dst) {
            Some(to) => Verdict::enter(&to),
            None => Verdict::drop(&tuple, Counter::DropNoPort),
        }
    }
}

subprogram! {
    /// A packet that the host itself sends through the local pair: to an endpoint by its internal
    /// address, or to a published port by the reserved address.
    pub fn from_host(t, packet: &Packet) -> Verdict {
        let tuple = packet.tuple;
        if let Some(index) = t.internal(tuple.dst) {
            return match t.endpoint(index) {
                Some(endpoint) => Verdict::endpoint(
                    &Tuple {
                        dst: endpoint.addr,
                        ..tuple
                    },
                    index,
                ),
                None => Verdict::drop(&tuple, Counter::DropUnknownAddress),
            };
        }
        let config = t.config();
        if tuple.dst != config.local_addr || published(t, &tuple).is_none() {
            return Verdict::drop(&tuple, Counter::DropUnknownAddress);
        }
        t.count(Counter::FromHost);
        match nat::translate(t, NAT_HOST, &tuple, config.node_addr) {
            Some(to) => Verdict::enter(&to),
            None => Verdict::drop(&tuple, Counter::DropNoPort),
        }
    }
}

/// What the published port of a packet leads to.
#[inline(always)]
pub fn published<T: Tables>(t: &T, tuple: &Tuple) -> Option<Published> {
    if tuple.proto == ICMP {
        return None;
    }
    t.published(PublishedKey {
        port: tuple.dport,
        proto: tuple.proto,
        pad: 0,
    })
}

/// Goes on where a decision ended with [`Action::Enter`] or [`Action::Begin`].
///
/// In steps, because the stack of a kernel program, calls included, has 512 bytes.
#[inline(always)]
pub fn settle<T: Tables>(t: &T, packet: &Packet, verdict: Verdict) -> Verdict {
    let verdict = match verdict.action {
        Action::Enter => enter(t, packet, &verdict.to),
        _ => verdict,
    };
    if verdict.action != Action::Begin {
        return verdict;
    }
    let client = Client {
        tuple: verdict.to,
        entry: verdict.entry,
    };
    match conntrack::begin(t, packet, &client) {
        Some(new) => {
            t.count(if client.entry == 0 {
                Counter::EntryLocal
            } else {
                Counter::Delivered
            });
            new
        }
        None => elsewhere(t, packet, &verdict),
    }
}

subprogram! {
    /// This node is the one that the client came in by.
    fn enter(t, packet: &Packet, tuple: &Tuple) -> Verdict {
        let Some(published) = published(t, tuple) else {
            return Verdict::pass(tuple);
        };
        let client = Client { tuple: *tuple, entry: 0 };
        if let Some(known) = conntrack::follow(t, packet, &client) {
            t.count(Counter::EntryLocal);
            return known;
        }
        if let Some(node) = follow_affinity(t, packet, tuple) {
            return forward(t, tuple, node);
        }
        if t.host_has(tuple) {
            return Verdict::pass(tuple);
        }
        match pick(t, tuple, &published, false) {
            Some(node) if node != t.config().node_addr => {
                let affinity = Affinity { seen: t.now(), node, marks: packet.marks(true), pad: [0; 3] };
                t.set_affinity(tuple, &affinity, true);
                forward(t, tuple, node)
            }
            _ => Verdict::begin(tuple, 0, 0),
        }
    }

    /// No task of this node takes the flow, though a table named this node.
    ///
    /// A node that the client's packet was forwarded to sends it on once; the entry node asks the
    /// previous table, where a connection may still belong.
    fn elsewhere(t, packet: &Packet, begin: &Verdict) -> Verdict {
        let tuple = &begin.to;
        let own = t.config().node_addr;
        if let Some(published) = published(t, tuple).filter(|_| begin.vni != VNI_SECOND_HOP) {
            let now = pick(t, tuple, &published, false).filter(|node| *node != own);
            let before = match packet.is_mid_stream() {
                true => pick(t, tuple, &published, true).filter(|node| *node != own),
                false => None,
            };
            if let Some(node) = now.or(before) {
                if begin.vni == 0 {
                    return forward(t, tuple, node);
                }
                t.count(Counter::SecondHop);
                return Verdict::tunnel(tuple, node, VNI_SECOND_HOP, begin.entry);
            }
        }
        refuse(t, packet, tuple, begin.entry)
    }
}

/// The node that this flow was sent to before, if it may be sent there again.
#[inline(never)]
fn follow_affinity<T: Tables>(t: &T, packet: &Packet, tuple: &Tuple) -> Option<Addr> {
    let mut affinity = t.affinity(tuple)?;
    let now = t.now();
    let alive = conntrack::is_alive(
        &t.config().timeouts,
        tuple.proto,
        affinity.marks,
        affinity.seen,
        now,
    );
    if !alive
        || packet.is_syn() && is_closed(affinity.marks)
        || t.member(affinity.node)? & MEMBER_UP == 0
    {
        return None;
    }
    affinity.seen = now;
    affinity.marks |= packet.marks(true);
    t.set_affinity(tuple, &affinity, packet.is_syn());
    Some(affinity.node)
}

#[inline(always)]
fn forward<T: Tables>(t: &T, tuple: &Tuple, node: Addr) -> Verdict {
    t.count(Counter::EntryForwarded);
    let entry = t.config().node_addr;
    Verdict::tunnel(tuple, node, VNI_FORWARD, entry)
}

/// The node that a table names for a flow.
#[inline(always)]
fn pick<T: Tables>(t: &T, tuple: &Tuple, published: &Published, previous: bool) -> Option<Addr> {
    let slots = if previous {
        published.old_slots
    } else {
        published.slots
    };
    if slots == 0 {
        return None;
    }
    t.table_node(published.service, hash(tuple) % slots, previous)
}

/// What a tunnelled packet came in.
pub struct Outer {
    /// Network identifier.
    pub vni: u32,
    /// Outer source address.
    pub remote: Addr,
    /// The address in the inner source MAC address, if that has the form of [`skein_abi::mac`]; else 0.
    pub entry: Addr,
}

subprogram! {
    /// A packet that came by the external vxlan device.
    pub fn from_tunnel(t, packet: &Packet, outer: &Outer) -> Verdict {
        let Outer { vni, remote, entry } = *outer;
        if t.member(remote).is_none() {
            return Verdict::drop(&packet.tuple, Counter::DropNotMember);
        }
        match vni {
            VNI_FORWARD => forwarded(t, packet, vni, remote),
            VNI_SECOND_HOP if t.member(entry).is_some() => forwarded(t, packet, vni, entry),
            VNI_SECOND_HOP => Verdict::drop(&packet.tuple, Counter::DropNotMember),
            VNI_REPLY => replied(t, packet),
            VNI_OVERLAY_MIN.. => overlay::arrived(t, packet, vni),
            _ => Verdict::drop(&packet.tuple, Counter::DropUnknownVni),
        }
    }
}

/// A client's packet that came in by the node `entry`.
#[inline(always)]
fn forwarded<T: Tables>(t: &T, packet: &Packet, vni: u32, entry: Addr) -> Verdict {
    let client = Client {
        tuple: packet.tuple,
        entry,
    };
    match conntrack::follow(t, packet, &client) {
        Some(known) => {
            t.count(Counter::Delivered);
            known
        }
        None => Verdict::begin(&packet.tuple, vni, entry),
    }
}

subprogram! {
    /// Nobody takes the flow: TCP is reset, by the node that the client came in by; the rest is dropped.
    fn refuse(t, packet: &Packet, tuple: &Tuple, entry: Addr) -> Verdict {
        if !packet.may_be_reset() {
            return Verdict::drop(tuple, Counter::DropNoTask);
        }
        t.count(Counter::DropNoTask);
        let back = tuple.reversed();
        let answer = match entry {
            0 => out(t, &back),
            node => Verdict::tunnel(&back, node, VNI_REPLY, 0),
        };
        Verdict { reset: 1, ..answer }
    }
}

subprogram! {
    /// A finished answer, back at the node that its client came in by.
    fn replied(t, packet: &Packet) -> Verdict {
        let tuple = packet.tuple;
        let client = tuple.reversed();
        let Some(mut affinity) = t.affinity(&client) else {
            return Verdict::drop(&tuple, Counter::DropNoFlow);
        };
        let opening = affinity.marks & skein_abi::flow::ESTABLISHED == 0;
        affinity.seen = t.now();
        affinity.marks |= packet.marks(false);
        t.set_affinity(&client, &affinity, opening);
        out(t, &tuple)
    }
}

subprogram! {
    /// Sends a finished answer to the client that came in by this node.
    pub fn out(t, tuple: &Tuple) -> Verdict {
        t.count(Counter::ReplyOut);
        if !t.is_local(tuple.dst) {
            return Verdict::out(tuple);
        }
        // The client is on this node: behind a translation, or one of its own sockets.
        nat::untranslate(t, tuple).unwrap_or(Verdict::host(tuple))
    }
}
