//! What containers send: to each other, to VIPs, to their node, to the world outside.

use crate::{Packet, Tables, Verdict, conntrack, hash, ingress, nat, subprogram::subprogram};
use skein_abi::{
    ICMP, TCP, UDP, VNI_REPLY,
    flow::{Ct, CtKey, Route, Tuple, scope_of},
    overlay::{Endpoint, NETWORK_INTERNAL, OverlayKey, Vip, VipSlot},
    verdict::Counter,
};

subprogram! {
    /// A packet that the container behind the local endpoint `index` sends. Its source is its own: the
    /// hook has checked address and MAC address.
    pub fn from_container(t, packet: &Packet, index: u32, endpoint: &Endpoint) -> Verdict {
        let tuple = packet.tuple;
        let drop = |reason| Verdict::drop(&tuple, reason);
        // Known flows come before anything else: a client of a published port may well have an address
        // that the overlay has, too.
        if let Some(known) = follow(t, packet, index, endpoint) {
            return known;
        }
        let Some(network) = t.network(endpoint.vni) else {
            return drop(Counter::DropUnknownVni);
        };
        let key = OverlayKey {
            vni: endpoint.vni,
            addr: tuple.dst,
        };
        if let Some(vip) = t.vip(key) {
            return match packet.is_echo_request() {
                true => Verdict::echo(&tuple.reversed()),
                false => balance(t, packet, index, &vip),
            };
        }
        if tuple.dst & network.mask == network.net {
            return match packet.is_echo_request() && tuple.dst == network.gateway {
                true => Verdict::echo(&tuple.reversed()),
                false => route(t, endpoint.vni, tuple),
            };
        }
        let config = t.config();
        if tuple.dst == config.dns_addr {
            return Verdict::host(&Tuple {
                src: endpoint.internal,
                ..tuple
            });
        }
        if network.flags & NETWORK_INTERNAL != 0 {
            return drop(Counter::DropInternal);
        }
        if t.is_local(tuple.dst) {
            if ingress::published(t, &tuple).is_none() {
                return Verdict::host(&Tuple {
                    src: endpoint.internal,
                    ..tuple
                });
            }
            return match nat::translate(t, scope_of(index), &tuple, tuple.dst) {
                Some(to) => Verdict::enter(&to),
                None => drop(Counter::DropNoPort),
            };
        }
        if !matches!(tuple.proto, TCP | UDP) && !packet.is_echo_request() {
            return drop(Counter::DropNoRoute);
        }
        t.count(Counter::Egress);
        match nat::translate(t, scope_of(index), &tuple, tuple.dst) {
            Some(to) => Verdict::out(&to),
            None => drop(Counter::DropNoPort),
        }
    }
}

subprogram! {
    /// A packet of a flow that is known at this endpoint: an answer to the client of a published port,
    /// or a flow to a VIP.
    fn follow(t, packet: &Packet, index: u32, endpoint: &Endpoint) -> Option<Verdict> {
        let key = CtKey {
            scope: scope_of(index),
            tuple: packet.tuple,
        };
        let mut ct = t.conntrack(&key)?;
        let now = t.now();
        if !conntrack::is_alive(
            &t.config().timeouts,
            key.tuple.proto,
            ct.marks,
            ct.seen,
            now,
        ) {
            return None;
        }
        match ct.route {
            Route::Reply => {
                let (to, return_node) = conntrack::answer(t, packet, &key, &ct);
                if return_node == 0 {
                    return Some(ingress::out(t, &to));
                }
                t.count(Counter::ReplySent);
                Some(Verdict::tunnel(&to, return_node, VNI_REPLY, 0))
            }
            Route::Overlay | Route::Endpoint => {
                let gone = || {
                    t.location(OverlayKey {
                        vni: endpoint.vni,
                        addr: ct.to.dst,
                    })
                    .is_none()
                };
                if packet.is_syn() && skein_abi::flow::is_closed(ct.marks) || gone() {
                    return None;
                }
                ct.seen = now;
                ct.marks |= packet.marks(true);
                t.set_conntrack(&key, &ct);
                Some(match ct.route {
                    Route::Endpoint => Verdict::endpoint(&ct.to, ct.endpoint),
                    _ => route(t, endpoint.vni, ct.to),
                })
            }
        }
    }
}

subprogram! {
    /// A new flow to a VIP. The server sees the address of the task that calls.
    fn balance(t, packet: &Packet, index: u32, vip: &Vip) -> Verdict {
        let Some(endpoint) = t.endpoint(index) else {
            return Verdict::drop(&packet.tuple, Counter::DropUnknownAddress);
        };
        let tuple = packet.tuple;
        let slot = VipSlot {
            list: vip.list,
            edition: vip.edition,
            slot: hash(&tuple) % vip.len.max(1),
        };
        let Some(backend) = t.vip_backend(slot).filter(|_| vip.len > 0) else {
            if !packet.may_be_reset() {
                return Verdict::drop(&tuple, Counter::DropNoTask);
            }
            t.count(Counter::DropNoTask);
            let answer = Verdict::endpoint(&tuple.reversed(), index);
            return Verdict { reset: 1, ..answer };
        };
        t.count(Counter::VipPicked);
        let to_itself = backend == endpoint.addr;
        // A task that reaches itself sees the VIP as its peer: its answer must come by here again.
        let src = if to_itself { tuple.dst } else { tuple.src };
        let to = Tuple {
            src,
            dst: backend,
            ..tuple
        };
        let mut ct = Ct {
            seen: t.now(),
            to,
            route: if to_itself {
                Route::Endpoint
            } else {
                Route::Overlay
            },
            endpoint: index,
            return_node: 0,
            marks: packet.marks(true),
            pad: [0; 3],
        };
        let scope = scope_of(index);
        let forward = t.set_conntrack(&CtKey { scope, tuple }, &ct);
        ct.to = tuple.reversed();
        ct.route = Route::Endpoint;
        let back = t.set_conntrack(
            &CtKey {
                scope,
                tuple: to.reversed(),
            },
            &ct,
        );
        if !forward || !back {
            return Verdict::drop(&tuple, Counter::DropTableFull);
        }
        match to_itself {
            true => Verdict::endpoint(&to, index),
            false => route(t, endpoint.vni, to),
        }
    }
}

/// To an address of an overlay.
#[inline(always)]
fn route<T: Tables>(t: &T, vni: u32, tuple: Tuple) -> Verdict {
    match t.location(OverlayKey {
        vni,
        addr: tuple.dst,
    }) {
        None => Verdict::drop(&tuple, Counter::DropUnknownAddress),
        Some(location) if location.node == 0 => deliver(t, tuple, location.endpoint),
        Some(location) => {
            t.count(Counter::Overlay);
            Verdict::tunnel(&tuple, location.node, vni, 0)
        }
    }
}

/// A packet of an overlay from another node: for a local endpoint, or for nobody.
#[inline(always)]
pub fn arrived<T: Tables>(t: &T, packet: &Packet, vni: u32) -> Verdict {
    let tuple = packet.tuple;
    if t.network(vni).is_none() {
        return Verdict::drop(&tuple, Counter::DropUnknownVni);
    }
    match t.location(OverlayKey {
        vni,
        addr: tuple.dst,
    }) {
        Some(location) if location.node == 0 => deliver(t, tuple, location.endpoint),
        _ => Verdict::drop(&tuple, Counter::DropUnknownAddress),
    }
}

subprogram! {
    /// To a local endpoint; answers from behind a VIP get the VIP's address back.
    fn deliver(t, tuple: Tuple, index: u32) -> Verdict {
        t.count(Counter::Overlay);
        let key = CtKey {
            scope: scope_of(index),
            tuple,
        };
        let to = match t.conntrack(&key) {
            Some(mut ct) if ct.route == Route::Endpoint && tuple.proto != ICMP => {
                ct.seen = t.now();
                t.set_conntrack(&key, &ct);
                ct.to
            }
            _ => tuple,
        };
        Verdict::endpoint(&to, index)
    }
}
