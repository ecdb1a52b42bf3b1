//! VXLAN's outer headers (RFC 7348), for hooks where no device of the kernel's makes them.
//!
//! Everything is in 16-bit words in the byte order of a packet: the unit of the Internet checksum,
//! whose sum is the same in either byte order (RFC 1071).

use skein_abi::{Addr, Port, UDP, VXLAN_OVERHEAD, mac};

/// 16-bit words of the headers in front of the inner frame: Ethernet 14 bytes, IPv4 20, UDP 8,
/// VXLAN 8.
pub const OUTER_WORDS: usize = VXLAN_OVERHEAD as usize / 2;
/// Bytes in front of the outer UDP datagram's payload that its IPv4 length counts.
const IP_UDP_VXLAN: u16 = 20 + 8 + 8;
/// As the kernel's vxlan device is told to by the other hooks.
const TTL: u8 = 64;
/// Source ports are of the dynamic range (RFC 6335), as RFC 7348 recommends: from here on, this many.
const SPORT_MIN: u32 = 49_152;
const SPORTS: u32 = 65_536 - SPORT_MIN;
/// "The VNI is valid", the only flag.
const FLAG_VNI: u16 = u16::from_ne_bytes([0x08, 0]);
/// Congestion experienced, and the mark that a sender sets which can bear it (RFC 3168).
const CE: u8 = 0b11;
const ECT_0: u8 = 0b10;

/// What goes into the outer headers.
#[derive(Clone, Copy, Debug)]
pub struct Outer {
    /// Destination and source of the frame: next hop, own device.
    pub macs: [[u8; 6]; 2],
    /// Own data path address.
    pub src: Addr,
    /// Data path address of the other node.
    pub dst: Addr,
    /// See [`source_port`].
    pub sport: Port,
    /// The UDP port of the cluster's data path.
    pub dport: Port,
    /// Tells this packet's fragments from others', should it be fragmented on its way.
    pub id: u16,
    /// Type of service of the inner packet.
    pub tos: u8,
    /// Bytes of the inner frame.
    pub len: u16,
    /// Network identifier.
    pub vni: u32,
}

impl Outer {
    /// The headers, as they stand in the packet. The UDP checksum is none, as RFC 7348 wants it.
    #[inline(always)]
    pub const fn headers(&self) -> [u16; OUTER_WORDS] {
        let [to, from] = self.macs;
        let [src0, src1] = halves(self.src);
        let [dst0, dst1] = halves(self.dst);
        let [_, vni0, vni1, vni2] = self.vni.to_be_bytes();
        // RFC 6040: the mark of congestion would be the outer path's own.
        let ecn = match self.tos & CE {
            CE => ECT_0,
            ecn => ecn,
        };
        let mut words = [
            word(to[0], to[1]),
            word(to[2], to[3]),
            word(to[4], to[5]),
            word(from[0], from[1]),
            word(from[2], from[3]),
            word(from[4], from[5]),
            word(0x08, 0x00),
            word(0x45, ecn),
            (self.len + IP_UDP_VXLAN).to_be(),
            self.id,
            0,
            word(TTL, UDP),
            0,
            src0,
            src1,
            dst0,
            dst1,
            self.sport,
            self.dport,
            (self.len + IP_UDP_VXLAN - 20).to_be(),
            0,
            FLAG_VNI,
            0,
            word(vni0, vni1),
            word(vni2, 0),
        ];
        let sum = words[7] as u32
            + words[8] as u32
            + words[9] as u32
            + words[11] as u32
            + words[13] as u32
            + words[14] as u32
            + words[15] as u32
            + words[16] as u32;
        words[12] = !fold(sum);
        words
    }
}

/// The source port of a flow's outer datagrams: one per flow, so that receivers spread flows over
/// their queues and keep each in order.
#[inline(always)]
pub const fn source_port(hash: u32) -> Port {
    ((SPORT_MIN + hash % SPORTS) as u16).to_be()
}

/// Length of the packet whose outer headers carry a frame of `len` bytes.
#[inline(always)]
pub const fn packet_len(len: u16) -> u16 {
    len.saturating_add(IP_UDP_VXLAN)
}

/// The network identifier of a packet with outer headers as every node of a cluster makes them: from
/// the IPv4 header (without options) and the UDP and VXLAN headers. `None`: the packet has what only the kernel
/// handles (a mark of congestion, a UDP checksum, other flags), or is damaged.
#[inline(always)]
pub const fn vni_of(ip: &[u16; 10], udp_vxlan: &[u16; 8]) -> Option<u32> {
    let [len, csum, flags, zero, vni0, vni1] = [
        udp_vxlan[2],
        udp_vxlan[3],
        udp_vxlan[4],
        udp_vxlan[5],
        udp_vxlan[6],
        udp_vxlan[7],
    ];
    let [_, tos] = ip[0].to_ne_bytes();
    let len_fits = u16::from_be(len) as u32 + 20 == u16::from_be(ip[1]) as u32;
    if !len_fits || csum != 0 || flags != FLAG_VNI || zero != 0 || tos & CE == CE {
        return None;
    }
    let sum = ip[0] as u32
        + ip[1] as u32
        + ip[2] as u32
        + ip[3] as u32
        + ip[4] as u32
        + ip[5] as u32
        + ip[6] as u32
        + ip[7] as u32
        + ip[8] as u32
        + ip[9] as u32;
    if fold(sum) != u16::MAX {
        return None;
    }
    let ([a, b], [c, _]) = (vni0.to_ne_bytes(), vni1.to_ne_bytes());
    Some(u32::from_be_bytes([0, a, b, c]))
}

/// An IPv4 header's checksum after its time to live went down by one (RFC 1624).
#[inline(always)]
pub const fn with_lower_ttl(csum: u16) -> u16 {
    // The checksum is the complement of the sum: what the sum loses, it gains.
    fold(csum as u32 + word(1, 0) as u32)
}

/// An Internet checksum after one of the words that it covers was replaced (RFC 1624, equation 3).
#[inline(always)]
pub const fn replaced(csum: u16, before: u16, after: u16) -> u16 {
    !fold(!csum as u32 + !before as u32 + after as u32)
}

/// [`mac`], in words.
#[inline(always)]
pub const fn mac_words(address: Addr) -> [u16; 3] {
    let [a, b, c, d, e, f] = mac(address);
    [word(a, b), word(c, d), word(e, f)]
}

#[inline(always)]
const fn word(first: u8, second: u8) -> u16 {
    u16::from_ne_bytes([first, second])
}

#[inline(always)]
const fn halves(address: Addr) -> [u16; 2] {
    let [a, b, c, d] = address.to_ne_bytes();
    [word(a, b), word(c, d)]
}

#[inline(always)]
const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use skein_abi::addr;
    use std::vec::Vec;

    fn outer() -> Outer {
        Outer {
            macs: [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]],
            src: addr([198, 18, 0, 1].into()),
            dst: addr([198, 18, 0, 2].into()),
            sport: 50_000_u16.to_be(),
            dport: 4789_u16.to_be(),
            id: 0x1234_u16.to_be(),
            tos: 0,
            len: 74,
            vni: 0x00a1_b2c3,
        }
    }

    fn bytes(words: &[u16]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    fn parts(headers: &[u16; OUTER_WORDS]) -> ([u16; 10], [u16; 8]) {
        let ip = headers[7..17].try_into().expect("ten words");
        (ip, headers[17..].try_into().expect("eight words"))
    }

    #[test]
    fn every_byte_stands_where_the_standards_want_it() {
        #[rustfmt::skip]
        let expected = [
            2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00,
            0x45, 0, 0, 110, 0x12, 0x34, 0, 0, 64, 17, 0xdc, 0x23, 198, 18, 0, 1, 198, 18, 0, 2,
            0xc3, 0x50, 0x12, 0xb5, 0, 90, 0, 0,
            0x08, 0, 0, 0, 0xa1, 0xb2, 0xc3, 0,
        ];
        assert_eq!(bytes(&outer().headers()), expected);
    }

    #[test]
    fn congestion_of_the_inner_path_is_not_the_outer_ones() {
        for (inner, expected) in [(0, 0), (1, 1), (2, 2), (3, 2), (0xb8 | 1, 1)] {
            let headers = Outer {
                tos: inner,
                ..outer()
            }
            .headers();
            assert_eq!(bytes(&headers)[15], expected, "{inner:#x}");
        }
    }

    #[test]
    fn what_the_kernel_must_see_is_left_to_it() {
        let (ip, udp_vxlan) = parts(&outer().headers());
        assert_eq!(vni_of(&ip, &udp_vxlan), Some(0x00a1_b2c3));
        for (place, value) in [(2, 1), (3, 1), (4, u16::from_ne_bytes([0x88, 0])), (5, 1)] {
            let mut other = udp_vxlan;
            other[place] = value;
            assert_eq!(vni_of(&ip, &other), None, "word {place}");
        }
        let mut congested = ip;
        congested[0] = word(0x45, CE);
        congested[5] = 0;
        congested[5] = !fold(congested.iter().map(|word| u32::from(*word)).sum());
        assert_eq!(vni_of(&congested, &udp_vxlan), None);
    }

    proptest! {
        #[test]
        fn a_receiver_finds_every_packet_whole(
            src: u32, dst: u32, id: u16, tos: u8, hash: u32, len in 14_u16..9_000, vni in 0_u32..1 << 24,
        ) {
            let sport = source_port(hash);
            prop_assert!(u16::from_be(sport) >= 49_152);
            let headers = Outer { src, dst, id, tos, sport, len, vni, ..outer() }.headers();
            let (ip, udp_vxlan) = parts(&headers);
            prop_assert_eq!(vni_of(&ip, &udp_vxlan), Some(vni));
            prop_assert_eq!(u16::from_be(ip[1]), packet_len(len));
            let mut damaged = ip;
            damaged[3] ^= 1;
            prop_assert_eq!(vni_of(&damaged, &udp_vxlan), None);
        }

        #[test]
        fn a_lower_ttl_keeps_the_checksum_right(src: u32, ttl in 2_u8.., len in 14_u16..9_000) {
            let (mut ip, udp_vxlan) = parts(&Outer { src, len, ..outer() }.headers());
            ip[4] = word(ttl, UDP);
            ip[5] = 0;
            ip[5] = !fold(ip.iter().map(|word| u32::from(*word)).sum());
            ip[4] = word(ttl - 1, UDP);
            ip[5] = with_lower_ttl(ip[5]);
            prop_assert!(vni_of(&ip, &udp_vxlan).is_some());
        }
    }
}
