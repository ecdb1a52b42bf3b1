//! Packets, as a hook's parser would read them.

use crate::{FIRST_FRAGMENT, LATER_FRAGMENT, Packet};
use skein_abi::{Addr, ICMP, TCP, UDP, addr, flow::Tuple, port};
use std::net::Ipv4Addr;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;

/// One end of a flow; the port is in host byte order.
pub type End = (Addr, u16);

/// Who calls from outside the cluster.
pub const CLIENT: End = (ip(203, 0, 113, 7), 40_000);

pub const fn ip(a: u8, b: u8, c: u8, d: u8) -> Addr {
    addr(Ipv4Addr::new(a, b, c, d))
}

pub const fn tuple(proto: u8, from: End, to: End) -> Tuple {
    Tuple {
        src: from.0,
        dst: to.0,
        sport: port(from.1),
        dport: port(to.1),
        proto,
        pad: [0; 3],
    }
}

const fn of_tuple(tuple: Tuple) -> Packet {
    Packet {
        tuple,
        sender: tuple.src,
        ..Packet::nothing()
    }
}

/// What `sender` says of a packet by ICMP.
pub const fn error_about(quoted: &Tuple, sender: Addr) -> Packet {
    Packet {
        sender,
        icmp_type: 3,
        is_error: 1,
        ..of_tuple(quoted.reversed())
    }
}

/// The packet with a length, bytes, and whether it may be fragmented.
pub const fn sized(packet: &Packet, len: u16, dont_fragment: bool) -> Packet {
    Packet {
        len,
        dont_fragment: dont_fragment as u8,
        ..*packet
    }
}

/// A packet of either transport; `flags` count for TCP alone.
pub const fn packet(proto: u8, from: End, to: End, flags: u8) -> Packet {
    Packet {
        tcp_flags: if proto == TCP { flags } else { 0 },
        ..of_tuple(tuple(proto, from, to))
    }
}

/// A packet as the first fragment of datagram `id`, and a later one.
pub const fn fragments(whole: &Packet, id: u16) -> [Packet; 2] {
    let first = Packet {
        fragment: FIRST_FRAGMENT,
        id,
        ..*whole
    };
    let later = Packet {
        fragment: LATER_FRAGMENT,
        id,
        ..*whole
    };
    [first, as_parsed(&later)]
}

/// A packet as the parser of the next hook reads it.
pub const fn as_parsed(packet: &Packet) -> Packet {
    let mut parsed = *packet;
    if parsed.fragment == LATER_FRAGMENT {
        parsed.tuple.sport = 0;
        parsed.tuple.dport = 0;
        parsed.icmp_type = 0;
    }
    parsed
}

pub const fn tcp(from: End, to: End, flags: u8) -> Packet {
    packet(TCP, from, to, flags)
}

pub const fn syn(from: End, to: End) -> Packet {
    tcp(from, to, SYN)
}

/// Anything in mid-stream.
pub const fn data(from: End, to: End) -> Packet {
    tcp(from, to, ACK)
}

pub const fn udp(from: End, to: End) -> Packet {
    packet(UDP, from, to, 0)
}

/// A ping with an identifier.
pub const fn ping(from: Addr, to: Addr, id: u16) -> Packet {
    Packet {
        icmp_type: ECHO_REQUEST,
        ..of_tuple(tuple(ICMP, (from, id), (to, id)))
    }
}

/// What whoever received `packet` sends back; `flags` count for TCP alone.
pub const fn answer_to(packet: &Packet, flags: u8) -> Packet {
    Packet {
        tcp_flags: if packet.tuple.proto == TCP { flags } else { 0 },
        icmp_type: ECHO_REPLY,
        ..of_tuple(packet.tuple.reversed())
    }
}

/// The source of a tuple.
pub const fn source(tuple: &Tuple) -> End {
    (tuple.src, u16::from_be(tuple.sport))
}
