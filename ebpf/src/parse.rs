//! Headers to [`skein_packet::Packet`]s. IPv4 without extension of the parser's own: options are skipped.

use crate::maps::Scratch;
use aya_ebpf::programs::{TcContext, XdpContext};
use core::mem::{align_of, offset_of};
use skein_abi::{ICMP, SCTP, TCP, UDP};
use skein_packet::{FIRST_FRAGMENT, LATER_FRAGMENT, Packet, sctp};

/// A frame as a hook sees it.
pub trait Frame {
    /// Packets with IPv4 options, and fragments, are left to the hook behind this one: their headers
    /// are not where they are in all others.
    const PLAIN_ONLY: bool;

    /// Reads a value; `None`: the frame ends before.
    fn read<T: Copy>(&self, offset: usize) -> Option<T>;

    /// Bytes of the payload of each segment, where the kernel has joined several; else 0.
    fn segment(&self) -> u32;
}

impl Frame for TcContext {
    const PLAIN_ONLY: bool = false;

    #[inline(always)]
    fn read<T: Copy>(&self, offset: usize) -> Option<T> {
        self.load(offset).ok()
    }

    #[inline(always)]
    fn segment(&self) -> u32 {
        // SAFETY: the context is this program's own.
        unsafe { (*self.skb.skb).gso_size }
    }
}

/// A frame at an XDP hook, or the one in it that begins behind the first `AT` bytes.
pub struct XdpFrame<'a, const AT: usize>(pub &'a XdpContext);

impl<const AT: usize> XdpFrame<'_, AT> {
    /// Where a value stands that the frame has whole.
    #[inline(always)]
    pub fn at<T>(&self, offset: usize) -> Option<*mut T> {
        let start = self.0.data() + AT + offset;
        (start + size_of::<T>() <= self.0.data_end()).then_some(start as *mut T)
    }

    /// Bytes of the frame.
    #[inline(always)]
    pub fn len(&self) -> usize {
        (self.0.data_end() - self.0.data()).wrapping_sub(AT)
    }
}

impl<const AT: usize> Frame for XdpFrame<'_, AT> {
    const PLAIN_ONLY: bool = true;

    #[inline(always)]
    fn read<T: Copy>(&self, offset: usize) -> Option<T> {
        // SAFETY: within the packet, which nobody else has while the program runs. Whatever its
        // address, the kernel loads this program only where values need no alignment.
        self.at::<T>(offset).map(|value| unsafe { value.read() })
    }

    #[inline(always)]
    fn segment(&self) -> u32 {
        0
    }
}

/// Length of an Ethernet header: Skein attaches to Ethernet devices only.
pub const ETH_LEN: usize = 14;
/// Offset of the destination in an IPv4 header's Ethernet frame, and of its neighbours.
pub const IP_TTL: usize = ETH_LEN + 8;
pub const IP_CSUM: usize = ETH_LEN + 10;
pub const IP_SRC: usize = ETH_LEN + 12;
pub const IP_DST: usize = ETH_LEN + 16;

pub const ETH_P_IP: u16 = 0x0800_u16.to_be();
pub const ETH_P_ARP: u16 = 0x0806_u16.to_be();

/// Of an IPv4 header's field on fragments: place of this one, and that others follow.
const FRAGMENT_OFFSET: u16 = 0x1fff;
const MORE_FRAGMENTS: u16 = 0x2000;
const DONT_FRAGMENT: u16 = 0x4000;
/// Messages of ICMP that are about a packet, which they quote: destination unreachable, time exceeded,
/// parameter problem (RFC 792).
const ICMP_ERRORS: [u8; 3] = [3, 11, 12];
/// Bytes of ICMP in front of what it quotes.
pub const ICMP_LEN: usize = 8;
/// Bytes of UDP.
const UDP_LEN: u32 = 8;

/// An Ethernet header, as it stands in the frame: destination, source, type. In words: the compiler copies what is of
/// bytes byte by byte.
type Ethernet = [u16; ETH_LEN / 2];

/// Where the packet has its MAC addresses, they may be written in such words, too.
const _: () = assert!(offset_of!(Packet, macs) % 2 == 0 && align_of::<Packet>() >= 2);

/// The fixed part of an IPv4 header (RFC 791), as it stands in the packet.
#[repr(C)]
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
    /// The header that the IPv4 header names.
    pub proto: u8,
    /// Of an ICMP error: offset of the header behind IPv4 in what it quotes.
    pub quoted: usize,
}

impl Layout {
    /// A packet without IPv4 options.
    pub const fn of(len: u16, ttl: u8, proto: u8) -> Self {
        Self {
            l4: ETH_LEN + 20,
            len,
            ttl,
            is_tail: 0,
            proto,
            quoted: 0,
        }
    }
}

/// Fills in layout and packet; false: not IPv4, or cut short.
#[inline(never)]
pub fn parse(ctx: &TcContext, scratch: &mut Scratch) -> bool {
    try_parse(ctx, scratch).is_some()
}

/// The same; `None`, too: not for this hook ([`Frame::PLAIN_ONLY`]). Part of its caller, as the
/// compiler would give a function of its own the frame's bounds, of which the verifier then knows
/// less.
#[inline(always)]
pub fn try_parse<F: Frame>(frame: &F, scratch: &mut Scratch) -> Option<()> {
    let [to0, to1, to2, from0, from1, from2, kind]: Ethernet = frame.read(0)?;
    if kind != ETH_P_IP {
        return None;
    }
    let ip: Ipv4 = frame.read(ETH_LEN)?;
    let ihl = usize::from(ip.version_ihl & 0x0f) * 4;
    if ip.version_ihl >> 4 != 4 || ihl < 20 {
        return None;
    }
    let fragment = u16::from_be(ip.fragment);
    let is_tail = fragment & FRAGMENT_OFFSET != 0;
    if F::PLAIN_ONLY && (ihl != 20 || fragment & (FRAGMENT_OFFSET | MORE_FRAGMENTS) != 0) {
        return None;
    }
    // A constant offset for those that read the frame in place.
    let l4 = ETH_LEN + if F::PLAIN_ONLY { 20 } else { ihl };
    scratch.layout = Layout {
        l4,
        len: u16::from_be(ip.len),
        ttl: ip.ttl,
        is_tail: u8::from(is_tail),
        proto: ip.proto,
        quoted: 0,
    };
    scratch.work.told.clear();
    let packet = &mut scratch.work.packet;
    packet.tuple.src = ip.src;
    packet.tuple.dst = ip.dst;
    packet.tuple.sport = 0;
    packet.tuple.dport = 0;
    packet.tuple.proto = ip.proto;
    // One by one: all at once they are a loop.
    let [pad0, pad1, pad2] = &mut packet.tuple.pad;
    (*pad0, *pad1, *pad2) = (0, 0, 0);
    packet.tcp_flags = 0;
    packet.icmp_type = 0;
    packet.sender = ip.src;
    let macs = (&raw mut packet.macs).cast::<[u16; 6]>();
    // SAFETY: as many bytes, all of which are values, aligned as is asserted above.
    unsafe { macs.write([to0, to1, to2, from0, from1, from2]) };
    packet.is_error = 0;
    packet.dont_fragment = u8::from(fragment & DONT_FRAGMENT != 0);
    packet.len = scratch.layout.len;
    packet.id = ip.id;
    packet.fragment = match fragment & (FRAGMENT_OFFSET | MORE_FRAGMENTS) {
        0 => 0,
        MORE_FRAGMENTS => FIRST_FRAGMENT,
        _ => LATER_FRAGMENT,
    };
    match ip.proto {
        _ if is_tail => {}
        TCP | UDP => {
            let [sport, dport]: [u16; 2] = frame.read(l4)?;
            packet.tuple.sport = sport;
            packet.tuple.dport = dport;
            let mut header = UDP_LEN;
            if ip.proto == TCP {
                let [data_offset, flags]: [u8; 2] = frame.read(l4 + 12)?;
                packet.tcp_flags = flags;
                header = u32::from(data_offset >> 4) * 4;
            }
            let segment = frame.segment();
            if segment != 0 {
                packet.len = (segment + header + ihl as u32) as u16;
            }
        }
        SCTP => {
            let [sport, dport]: [u16; 2] = frame.read(l4)?;
            packet.tuple.sport = sport;
            packet.tuple.dport = dport;
            packet.tcp_flags = sctp::flags_of(frame.read(l4 + sctp::HEADER_LEN)?);
        }
        ICMP => {
            packet.icmp_type = frame.read(l4)?;
            // Echo and echo reply carry an identifier (RFC 792).
            if matches!(packet.icmp_type, 0 | 8) {
                let id: u16 = frame.read(l4 + 4)?;
                packet.tuple.sport = id;
                packet.tuple.dport = id;
            } else if ICMP_ERRORS.contains(&packet.icmp_type) && packet.fragment == 0 {
                if F::PLAIN_ONLY {
                    return None;
                }
                // What quotes something else is a message like any other.
                let _ = quoted(frame, scratch);
            }
        }
        _ => {}
    }
    Some(())
}

/// Takes an ICMP error for a packet of the flow that it is about; `None`: about none that has ports, or
/// not for who sent what it quotes.
#[inline(always)]
fn quoted<F: Frame>(frame: &F, scratch: &mut Scratch) -> Option<()> {
    let (layout, packet) = (&mut scratch.layout, &mut scratch.work.packet);
    let at = layout.l4 + ICMP_LEN;
    let ip: Ipv4 = frame.read(at)?;
    let ihl = usize::from(ip.version_ihl & 0x0f) * 4;
    let is_tail = u16::from_be(ip.fragment) & FRAGMENT_OFFSET != 0;
    if ip.version_ihl >> 4 != 4 || ihl < 20 || is_tail || ip.src != packet.tuple.dst {
        return None;
    }
    let [sport, dport]: [u16; 2] = match ip.proto {
        TCP | UDP | SCTP => frame.read(at + ihl)?,
        // Of an echo, the identifier.
        ICMP if matches!(frame.read::<u8>(at + ihl)?, 0 | 8) => [frame.read(at + ihl + 4)?; 2],
        _ => return None,
    };
    packet.tuple.src = ip.dst;
    packet.tuple.sport = dport;
    packet.tuple.dport = sport;
    packet.tuple.proto = ip.proto;
    packet.is_error = 1;
    layout.quoted = at + ihl;
    Some(())
}

#[inline(always)]
pub fn ethertype<F: Frame>(frame: &F) -> Option<u16> {
    frame.read(12)
}
