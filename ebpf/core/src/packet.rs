//! What a hook tells the decisions, and what they tell it.

use skein_abi::{Addr, ICMP, TCP, flow::*, verdict::Counter};

/// What the decisions need of an IPv4 packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Packet {
    /// Who sends to whom.
    pub tuple: Tuple,
    /// The flag byte of TCP, else 0.
    pub tcp_flags: u8,
    /// ICMP: the message is an echo request (8), reply (0), …; else 0.
    pub icmp_type: u8,
}

/// Flags of TCP (RFC 9293, section 3.1).
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

const ICMP_ECHO_REQUEST: u8 = 8;

impl Packet {
    /// The first packet of a TCP connection.
    #[inline(always)]
    pub const fn is_syn(&self) -> bool {
        self.tuple.proto == TCP && self.tcp_flags & (SYN | ACK | RST) == SYN
    }

    /// TCP, and not the first packet: somebody has this connection already.
    #[inline(always)]
    pub const fn is_mid_stream(&self) -> bool {
        self.tuple.proto == TCP && !self.is_syn()
    }

    /// TCP, and not itself a reset.
    #[inline(always)]
    pub const fn may_be_reset(&self) -> bool {
        self.tuple.proto == TCP && self.tcp_flags & RST == 0
    }

    /// A ping.
    #[inline(always)]
    pub const fn is_echo_request(&self) -> bool {
        self.tuple.proto == ICMP && self.icmp_type == ICMP_ECHO_REQUEST
    }

    /// The marks that this packet leaves on its flow.
    #[inline(always)]
    pub const fn marks(&self, from_client: bool) -> u8 {
        let fin = if from_client { CLIENT_FIN } else { SERVER_FIN };
        let opened = if from_client && !self.is_syn() {
            ESTABLISHED
        } else {
            0
        };
        let closed = if self.tcp_flags & RST != 0 { RESET } else { 0 };
        opened | closed | if self.tcp_flags & FIN != 0 { fin } else { 0 }
    }
}

/// What becomes of a packet.
///
/// Flat, with every field set, whatever the action: the verifier refuses the undefined payloads that
/// an enumeration with fields would have. Numbers alone, too: where a field has values that it never
/// takes, options of it are laid out in a way for which BTF has no form. Made by the constructors
/// below alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The packet's tuple, to be put in place of the one it has.
    pub to: Tuple,
    /// Where it goes.
    pub action: Action,
    /// [`Action::Drop`]: why, a [`Counter`].
    pub reason: u32,
    /// [`Action::Endpoint`]: index of the local endpoint.
    pub endpoint: u32,
    /// [`Action::Tunnel`]: data path address of the node.
    pub node: Addr,
    /// [`Action::Tunnel`]: network identifier.
    pub vni: u32,
    /// [`Action::Tunnel`]: the node that the client came in by. It is written into the inner source
    /// MAC address, from which the last node of a second hop learns where answers go; 0 leaves the
    /// frame as it is.
    pub entry: Addr,
    /// 1: what goes there is not the packet, but the TCP reset that answers it; `to` is its tuple.
    pub reset: u32,
}

/// Where a packet goes. (A number with names: see [`Verdict`].)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action(u32);

#[allow(
    non_upper_case_globals,
    reason = "variants of what would be an enumeration"
)]
impl Action {
    /// Not Skein's: on to the node's own stack.
    pub const Pass: Self = Self(0);
    /// Nowhere.
    pub const Drop: Self = Self(1);
    /// Into the container behind a local endpoint.
    pub const Endpoint: Self = Self(2);
    /// To another node, in VXLAN.
    pub const Tunnel: Self = Self(3);
    /// Out by the node's routing table.
    pub const Out: Self = Self(4);
    /// To the node's own stack, as if it came in on the local pair.
    pub const Host: Self = Self(5);
    /// Answered in place: an echo reply.
    pub const Echo: Self = Self(6);
    /// Half a decision: this node is the one that the client came in by, [`crate::settle`] goes on.
    pub const Enter: Self = Self(7);
    /// Half a decision: no flow is known; a task of this node takes it, or somebody else does.
    pub const Begin: Self = Self(8);
}

impl Verdict {
    #[inline(always)]
    const fn new(to: &Tuple, action: Action) -> Self {
        Self {
            to: *to,
            action,
            reason: Counter::DropMalformed as u32,
            endpoint: 0,
            node: 0,
            vni: 0,
            entry: 0,
            reset: 0,
        }
    }

    /// [`Action::Pass`]
    #[inline(always)]
    pub const fn pass(tuple: &Tuple) -> Self {
        Self::new(tuple, Action::Pass)
    }

    /// [`Action::Drop`]
    #[inline(always)]
    pub const fn drop(tuple: &Tuple, reason: Counter) -> Self {
        Self {
            reason: reason as u32,
            ..Self::new(tuple, Action::Drop)
        }
    }

    /// [`Action::Endpoint`]
    #[inline(always)]
    pub const fn endpoint(to: &Tuple, index: u32) -> Self {
        Self {
            endpoint: index,
            ..Self::new(to, Action::Endpoint)
        }
    }

    /// [`Action::Tunnel`]
    #[inline(always)]
    pub const fn tunnel(to: &Tuple, node: Addr, vni: u32, entry: Addr) -> Self {
        Self {
            node,
            vni,
            entry,
            ..Self::new(to, Action::Tunnel)
        }
    }

    /// [`Action::Out`]
    #[inline(always)]
    pub const fn out(to: &Tuple) -> Self {
        Self::new(to, Action::Out)
    }

    /// [`Action::Host`]
    #[inline(always)]
    pub const fn host(to: &Tuple) -> Self {
        Self::new(to, Action::Host)
    }

    /// [`Action::Enter`]
    #[inline(always)]
    pub(crate) const fn enter(to: &Tuple) -> Self {
        Self::new(to, Action::Enter)
    }

    /// [`Action::Begin`]
    #[inline(always)]
    pub(crate) const fn begin(tuple: &Tuple) -> Self {
        Self::new(tuple, Action::Begin)
    }

    /// [`Action::Echo`]
    #[inline(always)]
    pub const fn echo(to: &Tuple) -> Self {
        Self::new(to, Action::Echo)
    }
}
