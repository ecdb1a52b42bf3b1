//! Headers to [`skein_packet::Packet`]s. IPv4 without extension of the parser's own: options are skipped.

use crate::maps::Scratch;
use aya_ebpf::programs::TcContext;
use skein_abi::{ICMP, TCP, UDP};

/// Length of an Ethernet header: Skein attaches to Ethernet devices only.
pub const ETH_LEN: usize = 14;
/// Offset of the destination in an IPv4 header's Ethernet frame, and of its neighbours.
pub const IP_TTL: usize = ETH_LEN + 8;
pub const IP_CSUM: usize = ETH_LEN + 10;
pub const IP_SRC: usize = ETH_LEN + 12;
pub const IP_DST: usize = ETH_LEN + 16;

pub const ETH_P_IP: u16 = 0x0800_u16.to_be();
pub const ETH_P_ARP: u16 = 0x0806_u16.to_be();

/// The fixed part of an IPv4 header (RFC 791), as it stands in the packet.
#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Ipv4 {
    version_ihl: u8,
    tos: u8,
    len: u16,
    id: u16,
    fragment: u16,
    ttl: u8,
    proto: u8,
    csum: u16,
    src: u32,
    dst: u32,
}

/// Where the parts of a packet are, and what carrying a verdict out needs besides.
#[derive(Clone, Copy)]
pub struct Layout {
    /// Offset of the header behind IPv4.
    pub l4: usize,
    /// Bytes of the IPv4 packet, header included.
    pub len: u16,
    pub ttl: u8,
    /// 1: a fragment behind the first: it has no ports.
    pub is_tail: u8,
}

/// Fills in layout and packet; false: not IPv4, or cut short.
#[inline(never)]
pub fn parse(ctx: &TcContext, scratch: &mut Scratch) -> bool {
    try_parse(ctx, scratch).is_some()
}

#[inline(always)]
fn try_parse(ctx: &TcContext, scratch: &mut Scratch) -> Option<()> {
    if ethertype(ctx)? != ETH_P_IP {
        return None;
    }
    let ip: Ipv4 = ctx.load(ETH_LEN).ok()?;
    let ihl = usize::from(ip.version_ihl & 0x0f) * 4;
    if ip.version_ihl >> 4 != 4 || ihl < 20 {
        return None;
    }
    let is_tail = u16::from_be(ip.fragment) & 0x1fff != 0;
    let l4 = ETH_LEN + ihl;
    scratch.layout = Layout {
        l4,
        len: u16::from_be(ip.len),
        ttl: ip.ttl,
        is_tail: u8::from(is_tail),
    };
    let packet = &mut scratch.work.packet;
    packet.tuple.src = ip.src;
    packet.tuple.dst = ip.dst;
    packet.tuple.sport = 0;
    packet.tuple.dport = 0;
    packet.tuple.proto = ip.proto;
    packet.tuple.pad = [0; 3];
    packet.tcp_flags = 0;
    packet.icmp_type = 0;
    match ip.proto {
        _ if is_tail => {}
        TCP | UDP => {
            let [sport, dport]: [u16; 2] = ctx.load(l4).ok()?;
            packet.tuple.sport = sport;
            packet.tuple.dport = dport;
            if ip.proto == TCP {
                packet.tcp_flags = ctx.load(l4 + 13).ok()?;
            }
        }
        ICMP => {
            packet.icmp_type = ctx.load(l4).ok()?;
            // Echo and echo reply carry an identifier (RFC 792).
            if matches!(packet.icmp_type, 0 | 8) {
                let id: u16 = ctx.load(l4 + 4).ok()?;
                packet.tuple.sport = id;
                packet.tuple.dport = id;
            }
        }
        _ => {}
    }
    Some(())
}

#[inline(always)]
pub fn ethertype(ctx: &TcContext) -> Option<u16> {
    ctx.load(12).ok()
}
