//! What a hook tells the decisions, and what they tell it.

use skein_abi::{Addr, ICMP, SCTP, TCP, flow::*, verdict::Counter};

/// What the decisions need of an IPv4 packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Packet {
    /// Who sends to whom. An ICMP error has the tuple of the flow that it is about, in its own direction: the
    /// packet that it quotes, turned round.
    pub tuple: Tuple,
    /// Source address: the tuple's, but for ICMP errors of routers.
    pub sender: Addr,
    /// Destination and source of the frame.
    pub macs: [[u8; 6]; 2],
    /// The flag byte of TCP; of SCTP, what stands for it: see [`crate::sctp::flags_of`]; else 0.
    pub tcp_flags: u8,
    /// ICMP: the message is an echo request (8), reply (0), …; else 0.
    pub icmp_type: u8,
    /// 0: not a fragment; [`FIRST_FRAGMENT`]; [`LATER_FRAGMENT`].
    pub fragment: u8,
    /// 1: an ICMP error (RFC 792) about a packet with ports.
    pub is_error: u8,
    /// 1: routers must not fragment it.
    pub dont_fragment: u8,
    /// Bytes of the packet, IPv4 header included; of the longest, where the kernel has joined several.
    pub len: u16,
    /// Identification: the same in all fragments of a datagram. As in the packet.
    pub id: u16,
}

/// [`Packet::fragment`]: the one that has the ports.
pub const FIRST_FRAGMENT: u8 = 1;
/// [`Packet::fragment`]: another one. Its ports, and its type of ICMP message, are 0 until they are
/// known from the first.
pub const LATER_FRAGMENT: u8 = 2;

/// Flags of TCP (RFC 9293, section 3.1).
const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

const ICMP_ECHO_REQUEST: u8 = 8;

impl Packet {
    /// A packet of which nothing is known.
    #[inline(always)]
    pub const fn nothing() -> Self {
        Self {
            tuple: Tuple {
                src: 0,
                dst: 0,
                sport: 0,
                dport: 0,
                proto: 0,
                pad: [0; 3],
            },
            sender: 0,
            macs: [[0; 6]; 2],
            tcp_flags: 0,
            icmp_type: 0,
            fragment: 0,
            is_error: 0,
            dont_fragment: 0,
            len: 0,
            id: 0,
        }
    }

    /// Of a protocol whose flows are opened and closed.
    #[inline(always)]
    const fn is_of_connection(&self) -> bool {
        matches!(self.tuple.proto, TCP | SCTP)
    }

    /// The first packet of a TCP connection, or of an SCTP association.
    #[inline(always)]
    pub const fn is_syn(&self) -> bool {
        self.is_of_connection() && self.tcp_flags & (SYN | ACK | RST) == SYN
    }

    /// Of a connection or an association, and not the first packet: somebody has it already.
    #[inline(always)]
    pub const fn is_mid_stream(&self) -> bool {
        self.is_of_connection() && !self.is_syn()
    }

    /// One of the packets of TCP that announce an MSS: the client's first.
    #[inline(always)]
    pub const fn opens_tcp(&self) -> bool {
        self.tuple.proto == TCP && self.is_syn()
    }

    /// The same: the server's first.
    #[inline(always)]
    pub const fn is_syn_ack(&self) -> bool {
        self.tuple.proto == TCP && self.tcp_flags & (SYN | ACK | RST) == SYN | ACK
    }

    /// TCP with its header, and not itself a reset.
    #[inline(always)]
    pub const fn may_be_reset(&self) -> bool {
        self.tuple.proto == TCP
            && self.tcp_flags & RST == 0
            && self.fragment != LATER_FRAGMENT
            && !self.is_error()
    }

    /// An ICMP error. It follows a flow, and neither begins, changes nor ends one: whoever knows a tuple
    /// can send it.
    #[inline(always)]
    pub const fn is_error(&self) -> bool {
        self.is_error != 0
    }

    /// Whether it is to be refused by a way that carries packets up to `mtu` bytes. Errors are never
    /// answered by errors (RFC 1122, section 3.2.2).
    #[inline(always)]
    pub const fn exceeds(&self, mtu: u16) -> bool {
        self.dont_fragment != 0 && self.len > mtu && !self.is_error()
    }

    /// A ping.
    #[inline(always)]
    pub const fn is_echo_request(&self) -> bool {
        self.tuple.proto == ICMP && self.icmp_type == ICMP_ECHO_REQUEST
    }

    /// The marks that this packet leaves on its flow.
    #[inline(always)]
    pub const fn marks(&self, from_client: bool) -> u8 {
        if self.is_error() {
            return 0;
        }
        let fin = if from_client { CLIENT_FIN } else { SERVER_FIN };
        let opened = match from_client {
            true if self.is_syn() => 0,
            true => ESTABLISHED,
            false => ANSWERED,
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
    /// Not 0: what goes there is not the packet, but the ICMP message that it is longer than this, bytes;
    /// `to` is its tuple.
    pub too_big: u32,
    /// Not 0: the packet opens a TCP connection, whose segments must not be longer than this, bytes (option 2
    /// of RFC 9293).
    pub mss: u32,
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
    /// Answered in place, by an echo reply or as a probe.
    pub const Echo: Self = Self(6);
    /// Half a decision: this node is the one that the client came in by, [`crate::settle`] goes on.
    pub const Enter: Self = Self(7);
    /// Half a decision: no flow is known; a task of this node takes it, or somebody else does.
    pub const Begin: Self = Self(8);
    /// Half a decision: another node forwarded it here.
    pub const Forwarded: Self = Self(10);
    /// To another node as with [`Action::Tunnel`], but in a frame of its own to [`crate::Work::peer`], which
    /// is that node.
    pub const Segment: Self = Self(9);

    /// As records of it have it.
    #[inline(always)]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The same backwards.
    pub const fn of_number(number: u32) -> Self {
        Self(number)
    }
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
            too_big: 0,
            mss: 0,
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

    /// [`Action::Forwarded`]
    #[inline(always)]
    pub(crate) const fn forwarded(tuple: &Tuple) -> Self {
        Self::new(tuple, Action::Forwarded)
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
