//! What the kernel remembers of flows.

use crate::{Addr, Port, pod};

/// Who sends to whom, as it stands in a packet. For ICMP echo both ports are the identifier.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port.
    pub sport: Port,
    /// Destination port.
    pub dport: Port,
    /// IP protocol.
    pub proto: u8,
    /// Zero.
    pub pad: [u8; 3],
}

impl Tuple {
    /// The tuple of the answer.
    #[inline(always)]
    pub const fn reversed(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            sport: self.dport,
            dport: self.sport,
            proto: self.proto,
            pad: [0; 3],
        }
    }
}

/// The client closed its half.
pub const CLIENT_FIN: u8 = 1;
/// The server closed its half.
pub const SERVER_FIN: u8 = 2;
/// Either side reset the connection.
pub const RESET: u8 = 4;
/// The client has sent something after its SYN: the handshake is through.
pub const ESTABLISHED: u8 = 8;
/// The server has answered, by this node.
pub const ANSWERED: u8 = 16;
/// Answers go straight to the client (see [`crate::ingress::PUBLISHED_DSR`]); only in [`Ct`].
pub const DIRECT: u8 = 32;

/// Whether a connection with these marks is over, so that a SYN on its tuple is a new one (the test
/// of RFC 5961 section 4: anything less follows the old entry, and the task answers it).
#[inline(always)]
pub const fn is_closed(marks: u8) -> bool {
    marks & RESET != 0 || marks & (CLIENT_FIN | SERVER_FIN) == CLIENT_FIN | SERVER_FIN
}

/// Whether a SYN on the tuple of a flow with these marks, which was sent on to another node, is a new one.
///
/// Who sends on sees no answer where they go straight to the client. Then it must do that the client has closed
/// its half: it calls from the same port again only once it has seen the other half closed.
#[inline(always)]
pub const fn may_open_anew(marks: u8) -> bool {
    is_closed(marks) || marks & (CLIENT_FIN | ANSWERED) == CLIENT_FIN
}

/// The node that the entry picked for a flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Affinity {
    /// Monotonic time of the last packet, ns.
    pub seen: u64,
    /// Its data path address: it stays what it is when indices are given anew.
    pub node: Addr,
    /// [`CLIENT_FIN`] and so on.
    pub marks: u8,
    /// Zero.
    pub pad: u8,
    /// Number of the [`crate::sight::Meter`] of the published port that the client has called; 0: none.
    pub meter: u16,
}

/// A port that a host socket calls. An unconnected socket may call several.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SocketKey {
    /// The kernel's number of the socket.
    pub cookie: u64,
    /// The port called.
    pub port: Port,
    /// Zero.
    pub pad: [u16; 3],
}

/// Scope of the forward direction of a published port's flow.
pub const SCOPE_PUBLISHED: u32 = 0;

/// The scope of what leaves or enters one endpoint: tuples of different endpoints may be equal.
#[inline(always)]
pub const fn scope_of(endpoint: u32) -> u32 {
    endpoint + 1
}

/// One direction of a flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CtKey {
    /// [`SCOPE_PUBLISHED`], or [`scope_of`] the endpoint at whose veth the packet is seen.
    pub scope: u32,
    /// The packet before it is rewritten.
    pub tuple: Tuple,
}

/// What becomes of a packet of a known flow: its tuple is replaced by `to`, and it is sent on.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ct {
    /// Monotonic time of the last packet of this direction, ns.
    pub seen: u64,
    /// The packet after it is rewritten.
    pub to: Tuple,
    /// Where it goes.
    pub route: Route,
    /// Towards the task: index of its endpoint. Towards the client: unused.
    pub endpoint: u32,
    /// Towards the client of a published port: data path address of the node it came in by, 0 for
    /// this one. Refreshed by every packet.
    pub return_node: Addr,
    /// [`CLIENT_FIN`] and so on; kept in the entry towards the task.
    pub marks: u8,
    /// Zero.
    pub pad: u8,
    /// Towards the server: number of the [`crate::sight::Meter`] of the published port or VIP that the client has
    /// called; 0: none.
    pub meter: u16,
}

/// Where a rewritten packet goes.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Route {
    /// To the local endpoint.
    #[default]
    Endpoint = 0,
    /// By the overlay of the endpoint that sent it.
    Overlay = 1,
    /// Out to the client of a published port, by the node that it came in by.
    Reply = 2,
}

/// A translated source: both directions stand in one map.
///
/// Outgoing, the tuple is the packet's before translation, and `scope` tells equal ones apart.
/// Incoming, the tuple is the answer's as it arrives, and `scope` is [`NAT_INCOMING`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NatKey {
    /// [`NAT_INCOMING`], [`NAT_HOST`], [`NAT_ROUTED`], or [`scope_of`] an endpoint.
    pub scope: u32,
    /// See above.
    pub tuple: Tuple,
}

/// Answers, as they arrive at the node's address.
pub const NAT_INCOMING: u32 = 0;
/// From the host's own sockets through the local pair.
pub const NAT_HOST: u32 = u32::MAX;
/// From containers on the engine's own bridges.
pub const NAT_ROUTED: u32 = u32::MAX - 1;

/// What a translated packet becomes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nat {
    /// Monotonic time of the last packet, ns.
    pub seen: u64,
    /// The packet after translation.
    pub to: Tuple,
    /// Incoming: the scope of the outgoing entry, which tells where the answer goes.
    pub scope: u32,
    /// [`CLIENT_FIN`] and so on, the client being who was translated; kept in the incoming entry.
    pub marks: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// The fragments of one datagram (RFC 791, section 3.2), at one of the places where packets are seen: the
/// addresses of different networks may be equal.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    /// [`PLACE_UPLINK`], [`PLACE_HOST`], [`place_of_vni`], or [`scope_of`] the endpoint that sends.
    pub place: u32,
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Identification, as in the packet.
    pub id: u16,
    /// IP protocol.
    pub proto: u8,
    /// Zero.
    pub pad: u8,
}

/// What the first fragment of a datagram has and the later ones lack.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    /// Monotonic time of the first fragment, ns.
    pub seen: u64,
    /// Source port.
    pub sport: Port,
    /// Destination port.
    pub dport: Port,
    /// ICMP: the message's type.
    pub icmp_type: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// What comes in by an uplink.
pub const PLACE_UPLINK: u32 = 0;
/// What the host sends into the local pair.
pub const PLACE_HOST: u32 = u32::MAX;

/// What comes in a network identifier of VXLAN, which has 24 bits: apart from endpoints, which are few.
#[inline(always)]
pub const fn place_of_vni(vni: u32) -> u32 {
    vni | PLACE_TUNNEL
}

/// Whether a place is one of [`place_of_vni`].
#[inline(always)]
pub const fn is_tunnel(place: u32) -> bool {
    place != PLACE_HOST && place & PLACE_TUNNEL != 0
}

/// The mark of [`place_of_vni`].
const PLACE_TUNNEL: u32 = 1 << 31;

// SAFETY (for aya::Pod of `Ct`): user space only removes these entries and reads back what the
// kernel side wrote, which is always a valid `Route`.
pod!(
    SocketKey,
    Tuple,
    Affinity,
    CtKey,
    Ct,
    NatKey,
    Nat,
    FragmentKey,
    Fragment
);

const _: () = {
    assert!(size_of::<Tuple>() == 16);
    assert!(size_of::<Affinity>() == 16);
    assert!(size_of::<CtKey>() == 20);
    assert!(size_of::<Ct>() == 40);
    assert!(size_of::<Nat>() == 32);
    assert!(size_of::<FragmentKey>() == 16);
    assert!(size_of::<Fragment>() == 16);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_without_answers_is_over_when_its_client_says_so() {
        assert!(may_open_anew(ESTABLISHED | CLIENT_FIN));
        assert!(!may_open_anew(ESTABLISHED | CLIENT_FIN | ANSWERED));
        assert!(!may_open_anew(ESTABLISHED));
        assert!(may_open_anew(CLIENT_FIN | SERVER_FIN | ANSWERED));
        assert!(may_open_anew(RESET));
    }

    #[test]
    fn a_connection_is_over_after_both_fins_or_a_reset() {
        assert!(!is_closed(0));
        assert!(!is_closed(ESTABLISHED | CLIENT_FIN));
        assert!(!is_closed(SERVER_FIN));
        assert!(is_closed(CLIENT_FIN | SERVER_FIN));
        assert!(is_closed(RESET));
    }
}
