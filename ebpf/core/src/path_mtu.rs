//! What fits the way between two nodes, which VXLAN makes narrower than the client's.
//!
//! Both ends of a TCP connection are told by the option of its first packets; whoever sends longer ones
//! all the same, and forbids to fragment them, by ICMP (RFC 1191).

use crate::{Action, Verdict, subprogram::subprogram};
use skein_abi::{
    ICMP, VNI_FORWARD,
    flow::{PLACE_HOST, PLACE_UPLINK, is_tunnel, scope_of},
    verdict::Counter,
};

/// Bytes of IPv4 and TCP headers without options: an MSS is what is left (RFC 9293, section 3.7.1).
const HEADERS: u16 = 40;

/// Kind and length of the option of TCP that the MSS follows.
pub const MSS_OPTION: [u8; 2] = [2, 4];

/// What to put in the place of an announced MSS (as in the packet), if that is above `limit`.
#[inline(always)]
pub const fn clamped(mss: u16, limit: u16) -> Option<u16> {
    match u16::from_be(mss) > limit {
        true => Some(limit.to_be()),
        false => None,
    }
}

subprogram! {
    /// Looks at a verdict that is whole: the way from the node that the client comes in by to the task's is
    /// narrow. So both ends must hear of it, by a request that goes on there, and by an answer that leaves for
    /// its client, whichever of the two nodes lets it out.
    pub fn fit(t, w) -> bool {
        let mtu = t.config().tunnel_mtu;
        let forwarded = w.verdict.action == Action::Tunnel && w.verdict.vni == VNI_FORWARD;
        let returned = w.verdict.action == Action::Out && w.entry != 0;
        if mtu <= HEADERS || w.verdict.reset != 0 {
            return false;
        }
        if forwarded && w.packet.exceeds(mtu) {
            return too_big(t, w, mtu.into());
        }
        if forwarded && w.packet.opens_tcp() || returned && w.packet.is_syn_ack() {
            w.verdict.mss = u32::from(mtu - HEADERS);
        }
        true
    }

    /// The way that the packet is to take carries `mtu` bytes at most: whoever sent it is told.
    pub fn too_big(t, w, mtu: u32) -> bool {
        t.count(Counter::DropTooBig);
        w.to = w.packet.tuple.reversed();
        w.to.proto = ICMP;
        w.to.sport = 0;
        w.to.dport = 0;
        w.verdict = match w.fragment_key.place {
            PLACE_UPLINK => Verdict::out(&w.to),
            PLACE_HOST => Verdict::host(&w.to),
            // An answer that its client's side does not carry: from the task's node, and back there like
            // an error of a router on the way.
            tunnel if is_tunnel(tunnel) => {
                Verdict::tunnel(&w.to, w.entry, VNI_FORWARD, t.config().node_addr)
            }
            endpoint => Verdict::endpoint(&w.to, endpoint.wrapping_sub(scope_of(0))),
        };
        w.verdict.too_big = mtu;
        true
    }
}
