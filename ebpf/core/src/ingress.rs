//! Published ports, on the way in: the entry node picks a node, the task's node picks the task.
//!
//! Invariant, whatever the tables of the nodes say: a client's packet goes to another node at most twice.
//! [`uplink`] and [`from_host`] send with `VNI_FORWARD`, in VXLAN or by l2; what came so is sent on with
//! `VNI_SECOND_HOP` at most, always in VXLAN, and what came with any other never: see [`forward`], which
//! nothing reaches that came with `VNI_SECOND_HOP`.

use crate::{
    Action, FIRST_FRAGMENT, Tables, Verdict, Work, answers, conntrack, fragments, hash, nat,
    path_mtu, segment, subprogram::subprogram,
};
use skein_abi::{
    Addr, ICMP, UDP, VNI_FORWARD, VNI_SECOND_HOP,
    flow::{
        Affinity, ESTABLISHED, NAT_HOST, NAT_ROUTED, PLACE_HOST, PLACE_UPLINK, Tuple, may_open_anew,
    },
    ingress::{
        BoundKey, DEVICE_TRANSLATE, MEMBER_SECURE, MEMBER_UP, PUBLISHED_AFFINE, PUBLISHED_BOUND,
        PUBLISHED_LIMITED, PUBLISHED_TAKEN, Published, PublishedKey, Source,
    },
    verdict::Counter,
};

subprogram! {
    /// A packet that came in by an uplink, or by a bridge of the engine: the device `ifindex`, with the flags
    /// `device`.
    pub fn uplink(t, w, ifindex: u32, device: u32) -> bool {
        let (dst, proto) = (w.packet.tuple.dst, w.packet.tuple.proto);
        w.verdict = Verdict::pass(&w.packet.tuple);
        let is_local = t.is_local(dst);
        let may_be_forwarded = !is_local || w.packet.tuple.src == t.config().node_addr;
        if may_be_forwarded {
            if segment::from_segment(t, w, ifindex) {
                return true;
            }
            w.verdict = Verdict::pass(&w.packet.tuple);
        }
        // A fragment that follows none of Skein's may follow one of the host's: that, too, is passed on.
        if !is_local || !fragments::complete(t, w, PLACE_UPLINK) {
            return true;
        }
        // (Of a verdict alone what differs is written: a whole one is a loop over bytes in the kernel.)
        w.verdict.to = w.packet.tuple;
        let dport = w.packet.tuple.dport;
        if proto == UDP && dport == t.config().vxlan_port {
            match t.member(w.packet.tuple.src) {
                Some(flags) if flags & MEMBER_SECURE == 0 => {}
                // Only tunnels have such a source, and those end elsewhere.
                Some(_) => w.verdict = Verdict::drop(&w.packet.tuple, Counter::DropCleartext),
                None => w.verdict = Verdict::drop(&w.packet.tuple, Counter::DropNotMember),
            }
            return true;
        }
        w.to = w.packet.tuple;
        if nat::untranslate(t, w) || offered(t, &w.packet.tuple).is_none() {
            return true;
        }
        if device & DEVICE_TRANSLATE == 0 {
            w.verdict.action = Action::Enter;
            return true;
        }
        w.verdict = match nat::translate(t, w, NAT_ROUTED, dst) {
            true => Verdict::enter(&w.to),
            false => Verdict::drop(&w.packet.tuple, nat::refusal(&w.packet)),
        };
        true
    }

    /// A packet that the host itself sends through the local pair: to an endpoint by its internal
    /// address, or to a published port by the reserved address.
    pub fn from_host(t, w) -> bool {
        let dst = w.packet.tuple.dst;
        if !fragments::complete(t, w, PLACE_HOST) {
            w.verdict = Verdict::drop(&w.packet.tuple, Counter::DropFragment);
            return true;
        }
        if let Some(index) = t.internal(dst) {
            w.to = w.packet.tuple;
            w.verdict = match t.endpoint(index) {
                Some(endpoint) => {
                    w.to.dst = endpoint.addr;
                    Verdict::endpoint(&w.to, index)
                }
                None => Verdict::drop(&w.to, Counter::DropUnknownAddress),
            };
            return true;
        }
        // By which of its addresses the port was called, whoever called it was asked already.
        if dst != t.config().local_addr || taken_by_mesh(t, &w.packet.tuple).is_none() {
            w.verdict = Verdict::drop(&w.packet.tuple, Counter::DropUnknownAddress);
            return true;
        }
        t.count(Counter::FromHost);
        w.verdict = match nat::translate(t, w, NAT_HOST, t.config().node_addr) {
            true => Verdict::enter(&w.to),
            false => Verdict::drop(&w.packet.tuple, nat::refusal(&w.packet)),
        };
        true
    }
}

/// What the published port of a packet leads to.
#[inline(always)]
pub fn published<T: Tables>(t: &T, tuple: &Tuple) -> Option<Published> {
    if tuple.proto == ICMP {
        return None;
    }
    t.published(key(tuple))
}

#[inline(always)]
fn key(tuple: &Tuple) -> PublishedKey {
    PublishedKey {
        port: tuple.dport,
        proto: tuple.proto,
        pad: 0,
    }
}

/// The same, if no program of this node has the port.
#[inline(always)]
fn taken_by_mesh<T: Tables>(t: &T, tuple: &Tuple) -> Option<Published> {
    published(t, tuple).filter(|published| published.flags & PUBLISHED_TAKEN == 0)
}

/// What the published port of a packet leads to, if this node takes clients by the address that it is sent to.
#[inline(always)]
pub fn offered<T: Tables>(t: &T, tuple: &Tuple) -> Option<Published> {
    let published = taken_by_mesh(t, tuple)?;
    if published.flags & PUBLISHED_BOUND != 0 {
        let bound = BoundKey {
            addr: tuple.dst,
            port: key(tuple),
        };
        if !t.is_bound(bound) {
            return None;
        }
    }
    Some(published)
}

/// The hash by which node and task are picked for a flow of a published port.
#[inline(always)]
pub fn hash_of(published: &Published, client: &Tuple) -> u32 {
    if published.flags & PUBLISHED_AFFINE == 0 {
        return hash(client);
    }
    hash(&Tuple {
        src: client.src,
        dst: 0,
        sport: 0,
        dport: 0,
        proto: client.proto,
        pad: [0; 3],
    })
}

/// Goes on where a decision ended with [`Action::Enter`], [`Action::Forwarded`] or [`Action::Begin`].
///
/// In steps, because the stack of a kernel program, calls included, has 512 bytes.
#[inline(always)]
pub fn settle<T: Tables>(t: &T, w: &mut Work) {
    go_on(t, w);
    path_mtu::fit(t, w);
    segment::choose(t, w);
    // Later fragments of what the host's own stack gets are the stack's, too.
    if w.packet.fragment == FIRST_FRAGMENT
        && w.verdict.action != Action::Pass
        && w.verdict.action != Action::Drop
    {
        fragments::remember(t, w);
    }
}

#[inline(always)]
fn go_on<T: Tables>(t: &T, w: &mut Work) {
    if w.verdict.action == Action::Enter {
        w.client = w.verdict.to;
        w.entry = 0;
        w.vni = 0;
        enter(t, w);
    }
    if w.verdict.action == Action::Forwarded {
        arrived(t, w);
    }
    if w.verdict.action != Action::Begin {
        return;
    }
    if conntrack::begin(t, w) {
        t.count(match w.vni {
            0 => Counter::EntryLocal,
            _ => Counter::Delivered,
        });
    } else {
        elsewhere(t, w);
    }
}

subprogram! {
    /// This node is the one that the client came in by.
    fn enter(t, w) -> bool {
        if conntrack::follow(t, w) {
            t.count(Counter::EntryLocal);
            return true;
        }
        if follow_affinity(t, w) {
            return true;
        }
        if t.host_has(&w.client) {
            w.verdict = Verdict::pass(&w.client);
            return true;
        }
        let node = pick(t, w, false);
        let is_here = node == 0 || node == t.config().node_addr;
        if w.packet.is_error() {
            // It came in by another node than its flow: the table may know.
            match is_here {
                true => w.verdict = Verdict::drop(&w.client, Counter::DropNoFlow),
                false => forward(t, w, node),
            }
            return true;
        }
        if !may_begin(t, w) {
            w.verdict = Verdict::drop(&w.client, Counter::DropSource);
            return true;
        }
        if is_here {
            w.verdict = Verdict::begin(&w.client);
            return true;
        }
        forward_first(t, w, node)
    }

    /// Whether the service takes the client, by the address that it has where the packet is seen. The host's own
    /// programs may call all that there is.
    fn may_begin(t, w) -> bool {
        let Some(published) = published(t, &w.client) else {
            return true;
        };
        if published.flags & PUBLISHED_LIMITED == 0 || w.packet.tuple.dst == t.config().local_addr {
            return true;
        }
        t.is_source(Source { service: published.service, addr: w.packet.tuple.src })
    }

    /// Another node (`entry`) is the one that the client came in by; it sent the packet here, as with `vni`.
    fn arrived(t, w) -> bool {
        if conntrack::follow(t, w) {
            t.count(Counter::Delivered);
        } else if w.vni == VNI_SECOND_HOP || !follow_affinity(t, w) {
            w.verdict = match w.packet.is_error() {
                true => Verdict::drop(&w.client, Counter::DropNoFlow),
                false => Verdict::begin(&w.client),
            };
        }
        true
    }

    /// Sends on a flow that was not sent to `node` before, and remembers that it was: only so are its
    /// replies let out, and do its next packets reach the task that had its first.
    fn forward_first(t, w, node: Addr) -> bool {
        w.told.opens();
        w.affinity = Affinity {
            seen: t.now(),
            node,
            marks: w.packet.marks(true),
            pad: 0,
            meter: w.told.meter,
        };
        t.insert_affinity(&w.client, &w.affinity, w.affinity.marks & ESTABLISHED == 0);
        forward(t, w, node);
        true
    }

    /// No task of this node takes the flow, though a table named this node.
    ///
    /// A node that the client's packet was forwarded to sends it on once; the entry node asks the
    /// previous table, where a connection may still belong.
    fn elsewhere(t, w) -> bool {
        let own = t.config().node_addr;
        let mut node = 0;
        if w.vni != VNI_SECOND_HOP {
            node = pick(t, w, false);
            if node == own || node == 0 {
                node = match w.packet.is_mid_stream() {
                    true => pick(t, w, true),
                    false => 0,
                };
            }
        }
        if node == 0 || node == own {
            return answers::refuse(t, w);
        }
        forward_first(t, w, node)
    }

    /// Decided if this flow was sent to a node before, and may be sent there again. One that another node
    /// forwards here is asked about in mid-stream: without this, a task that drains here would take, and
    /// reset, a connection that was sent on. What opens may have a task here by now.
    fn follow_affinity(t, w) -> bool {
        let Some(affinity) = t.affinity(&w.client) else {
            return false;
        };
        let now = t.now();
        let (node, before) = (affinity.node(), affinity.marks());
        let timeouts = &t.config().timeouts;
        if !conntrack::is_alive(timeouts, w.client.proto, before, affinity.seen(), now)
            || w.packet.is_syn() && (may_open_anew(before) || w.vni != 0)
            || t.member(node).unwrap_or(0) & MEMBER_UP == 0
        {
            return false;
        }
        let marks = before | w.packet.marks(true);
        affinity.set_seen(now);
        affinity.set_marks(marks);
        w.told.ends(before, marks);
        w.told.meter = affinity.meter();
        if (before ^ marks) & ESTABLISHED != 0 {
            // Out of the table of flows that only opened, before a flood evicts it there.
            w.affinity = Affinity {
                seen: now,
                node,
                marks,
                pad: 0,
                meter: w.told.meter,
            };
            t.insert_affinity(&w.client, &w.affinity, false);
        }
        forward(t, w, node);
        true
    }
}

#[inline(always)]
fn forward<T: Tables>(t: &T, w: &mut Work, node: Addr) {
    let (counter, vni, entry) = match w.vni {
        0 => (Counter::EntryForwarded, VNI_FORWARD, t.config().node_addr),
        _ => (Counter::SecondHop, VNI_SECOND_HOP, w.entry),
    };
    t.count(counter);
    w.verdict = Verdict::tunnel(&w.client, node, vni, entry);
}

/// The node that a table names for a flow; 0: none.
#[inline(always)]
fn pick<T: Tables>(t: &T, w: &mut Work, previous: bool) -> Addr {
    let Some(published) = published(t, &w.client) else {
        return 0;
    };
    w.told.meter = published.meter as u16;
    let slots = match previous {
        true => published.old_slots,
        false => published.slots,
    };
    if slots == 0 {
        return 0;
    }
    let slot = hash_of(&published, &w.client) % slots;
    let node = t.table_node(published.service, slot, previous);
    node.unwrap_or(0)
}
