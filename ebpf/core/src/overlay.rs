//! What containers send: to each other, to VIPs, to their node, to the world outside.

use crate::{
    Tables, Verdict, Work, answers, conntrack, fragments, hash, ingress, nat,
    subprogram::subprogram,
};
use skein_abi::{
    Addr, ICMP, SCTP, TCP, UDP, VNI_REPLY,
    flow::{Ct, DIRECT, ESTABLISHED, Route, is_closed, scope_of},
    limits::SUBNETS_OF_NETWORK_MAX,
    overlay::{
        Endpoint, Location, NETWORK_ENCRYPTED, NETWORK_INTERNAL, NO_KEY, Network, OverlayKey,
        SubnetKey, Vip, VipSlot,
    },
    verdict::Counter,
};

subprogram! {
    /// A packet that the container behind the local endpoint `index` sends. Its source is its own: the
    /// hook has checked address and MAC address.
    pub fn from_container(t, w, index: u32, endpoint: &Endpoint) -> bool {
        w.told.sender = index + 1;
        if !fragments::complete(t, w, scope_of(index)) {
            return dropped(w, Counter::DropFragment);
        }
        // Known flows come before anything else: a client of a published port may well have an address
        // that the overlay has, too.
        if follow(t, w, index, endpoint.vni) {
            return true;
        }
        let dst = w.packet.tuple.dst;
        let vni = endpoint.vni;
        let Some(network) = t.network(vni) else {
            return dropped(w, Counter::DropUnknownVni);
        };
        w.to = w.packet.tuple;
        if let Some(vip) = t.vip(OverlayKey { vni, addr: dst }) {
            return match w.packet.is_echo_request() {
                true => echo(w),
                false if w.packet.is_error() => dropped(w, Counter::DropNoFlow),
                false => balance(t, w, index, endpoint, &vip),
            };
        }
        if let Some(gateway) = gateway_for(t, endpoint, &network, dst) {
            return match w.packet.is_echo_request() && dst == gateway {
                true => echo(w),
                false => route(t, w, vni),
            };
        }
        let to_published = t.is_local(dst) && ingress::offered(t, &w.to).is_some();
        if dst == t.config().dns_addr
            || t.is_local(dst) && !to_published && network.flags & NETWORK_INTERNAL == 0
        {
            w.to.src = endpoint.internal;
            w.verdict = Verdict::host(&w.to);
            return true;
        }
        if network.flags & NETWORK_INTERNAL != 0 {
            return dropped(w, Counter::DropInternal);
        }
        if !matches!(w.to.proto, TCP | UDP | SCTP) && !w.packet.is_echo_request() {
            return dropped(w, Counter::DropNoRoute);
        }
        if !nat::translate(t, w, scope_of(index), dst) {
            return dropped(w, nat::refusal(&w.packet));
        }
        w.verdict = match to_published {
            true => Verdict::enter(&w.to),
            false => {
                t.count(Counter::Egress);
                Verdict::out(&w.to)
            }
        };
        true
    }
}

/// The gateway of the subnet of the endpoint's overlay that an address is in; `None`: it is outside.
#[inline(always)]
fn gateway_for<T: Tables>(t: &T, from: &Endpoint, network: &Network, dst: Addr) -> Option<Addr> {
    if (dst ^ from.addr) & from.mask == 0 {
        return Some(from.gateway);
    }
    if network.subnets <= 1 {
        return None;
    }
    for nth in 0..SUBNETS_OF_NETWORK_MAX {
        let key = SubnetKey { vni: from.vni, nth };
        let subnet = t.subnet(key)?;
        if dst & subnet.mask == subnet.net {
            return Some(subnet.gateway);
        }
    }
    None
}

#[inline(always)]
fn dropped(w: &mut Work, reason: Counter) -> bool {
    w.verdict = Verdict::drop(&w.packet.tuple, reason);
    true
}

#[inline(always)]
fn echo(w: &mut Work) -> bool {
    w.verdict = Verdict::echo(&w.packet.tuple.reversed());
    true
}

subprogram! {
    /// Decided if the packet's flow is known at this endpoint: an answer to the client of a published
    /// port, or a flow to a VIP.
    fn follow(t, w, index: u32, vni: u32) -> bool {
        w.key.scope = scope_of(index);
        w.key.tuple = w.packet.tuple;
        let now = t.now();
        let Some(ct) = t.conntrack(&w.key) else {
            return false;
        };
        let (marks, known, endpoint) = (ct.marks(), ct.route(), ct.endpoint());
        if known == Route::Reply {
            return conntrack::answer(t, w, &ct, now) && reply(t, w, u32::from(marks & DIRECT));
        }
        let timeouts = &t.config().timeouts;
        if !conntrack::is_alive(timeouts, w.key.tuple.proto, marks, ct.seen(), now) {
            return false;
        }
        w.to = ct.to();
        let key = OverlayKey { vni, addr: w.to.dst };
        if w.packet.is_syn() && is_closed(marks) || t.location(key).is_none() {
            return false;
        }
        let before = marks;
        let marks = before | w.packet.marks(true);
        ct.set_seen(now);
        ct.set_marks(marks);
        w.told.request(ct.meter(), before, marks);
        if (before ^ marks) & ESTABLISHED != 0 {
            // As with published ports: see `conntrack::follow`.
            w.ct = Ct {
                seen: now,
                to: w.to,
                route: known,
                endpoint,
                return_node: 0,
                marks,
                pad: 0,
                meter: w.told.meter,
            };
            if !remember(t, w, index) {
                return dropped(w, Counter::DropTableFull);
            }
        }
        if known == Route::Endpoint {
            w.verdict = Verdict::endpoint(&w.to, endpoint);
            return true;
        }
        route(t, w, vni)
    }

    /// Sends the finished answer `to` by the node `entry`, or straight to the client, if it is `direct`.
    fn reply(t, w, direct: u32) -> bool {
        if w.entry == 0 {
            return answers::out(t, w);
        }
        if direct != 0 {
            t.count(Counter::ReplyDirect);
            w.verdict = Verdict::out(&w.to);
            return true;
        }
        t.count(Counter::ReplySent);
        w.verdict = Verdict::tunnel(&w.to, w.entry, VNI_REPLY, 0);
        true
    }

    /// A new flow to a VIP. The server sees the address of the task that calls.
    fn balance(t, w, index: u32, endpoint: &Endpoint, vip: &Vip) -> bool {
        w.told.meter = vip.meter as u16;
        let backend = pick(t, w, vip);
        if backend == 0 {
            if !w.packet.may_be_reset() {
                return dropped(w, Counter::DropNoTask);
            }
            t.count(Counter::DropNoTask);
            w.to = w.packet.tuple.reversed();
            w.verdict = Verdict::endpoint(&w.to, index);
            w.verdict.reset = 1;
            return true;
        }
        t.count(Counter::VipPicked);
        let to_itself = backend == endpoint.addr;
        w.to = w.packet.tuple;
        w.to.dst = backend;
        if to_itself {
            // A task that reaches itself sees the VIP as its peer: its answer must come by here again.
            w.to.src = w.packet.tuple.dst;
        }
        w.ct = Ct {
            seen: t.now(),
            to: w.to,
            route: match to_itself {
                true => Route::Endpoint,
                false => Route::Overlay,
            },
            endpoint: index,
            return_node: 0,
            marks: w.packet.marks(true),
            pad: 0,
            meter: vip.meter as u16,
        };
        w.told.opens_here();
        if !remember(t, w, index) {
            return dropped(w, Counter::DropTableFull);
        }
        if to_itself {
            w.verdict = Verdict::endpoint(&w.to, index);
            return true;
        }
        route(t, w, endpoint.vni)
    }

    /// Makes both entries of the flow to the backend that is `to`, of which `ct` is the first.
    fn remember(t, w, index: u32) -> bool {
        let opening = w.ct.marks & ESTABLISHED == 0;
        w.key.scope = scope_of(index);
        w.key.tuple = w.packet.tuple;
        let forward = t.insert_conntrack(&w.key, &w.ct, opening);
        w.ct.meter = 0;
        w.ct.to = w.packet.tuple.reversed();
        w.ct.route = Route::Endpoint;
        w.key.tuple = w.to.reversed();
        forward && t.insert_conntrack(&w.key, &w.ct, opening)
    }
}

/// A backend of a VIP for this packet; 0: there is none.
#[inline(always)]
fn pick<T: Tables>(t: &T, w: &Work, vip: &Vip) -> Addr {
    if vip.len == 0 {
        return 0;
    }
    let slot = VipSlot {
        list: vip.list,
        edition: vip.edition,
        slot: hash(&w.packet.tuple) % vip.len,
    };
    t.vip_backend(slot).unwrap_or(0)
}

subprogram! {
    /// `to`, to an address of an overlay.
    fn route(t, w, vni: u32) -> bool {
        let Location { node, endpoint } = match t.location(OverlayKey { vni, addr: w.to.dst }) {
            Some(location) => location,
            None => return dropped(w, Counter::DropUnknownAddress),
        };
        if node == 0 {
            return deliver(t, w, endpoint);
        }
        if endpoint == NO_KEY {
            return dropped(w, Counter::DropNoKey);
        }
        t.count(Counter::Overlay);
        w.verdict = Verdict::tunnel(&w.to, node, vni, 0);
        true
    }

    /// A packet of an overlay from another node: for a local endpoint, or for nobody.
    pub fn arrived(t, w, vni: u32) -> bool {
        let is_encrypted = match t.network(vni) {
            Some(network) => network.flags & NETWORK_ENCRYPTED != 0,
            None => return dropped(w, Counter::DropUnknownVni),
        };
        if is_encrypted != (w.secure != 0) {
            let reason = match is_encrypted {
                true => Counter::DropCleartext,
                // It is nobody's on that way.
                false => Counter::DropUnknownVni,
            };
            return dropped(w, reason);
        }
        w.to = w.packet.tuple;
        match t.location(OverlayKey { vni, addr: w.to.dst }) {
            Some(location) if location.node == 0 => deliver(t, w, location.endpoint),
            _ => dropped(w, Counter::DropUnknownAddress),
        }
    }

    /// `to`, to a local endpoint; answers from behind a VIP get the VIP's address back.
    fn deliver(t, w, index: u32) -> bool {
        t.count(Counter::Overlay);
        w.key.scope = scope_of(index);
        w.key.tuple = w.to;
        if let Some(ct) = t.conntrack(&w.key)
            && ct.route() == Route::Endpoint
            && w.to.proto != ICMP
        {
            conntrack::answer_of_vip(t, w, &ct);
        }
        w.verdict = Verdict::endpoint(&w.to, index);
        true
    }
}
