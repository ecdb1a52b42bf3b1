//! SCTP (RFC 9260): what its first chunk says of a flow, and what becomes of its checksum where a port is replaced.
//!
//! An association of one address at each end is followed as a TCP connection is, by the first chunk of each packet.
//! The checksum covers ports, and no addresses. It is a CRC (RFC 9260, appendix A), of which the change follows from
//! what was replaced and from how much is behind it: the packet need not be read.

use crate::packet::{ACK, RST, SYN};
use core::hint::black_box;

/// Bytes of the common header: ports, verification tag, checksum.
pub const HEADER_LEN: usize = 12;
/// Where the checksum stands in it.
pub const CHECKSUM: usize = 8;

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const SHUTDOWN_COMPLETE: u8 = 14;

/// The flags of TCP that mean for a connection what a chunk means for an association.
#[inline(always)]
pub const fn flags_of(chunk: u8) -> u8 {
    match chunk {
        INIT => SYN,
        INIT_ACK => SYN | ACK,
        ABORT | SHUTDOWN_COMPLETE => RST,
        _ => ACK,
    }
}

/// The polynomial of CRC32c, its lowest term first.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// x to the power of 8: one byte, in the same order.
const BYTE: u32 = 1 << 23;
/// Lengths of packets have so many bits.
const LEN_BITS: u32 = 16;

/// A checksum (as its 32 bits stand in the packet) after the ports in front of it were replaced. `len`: bytes of the
/// SCTP packet, header included.
///
/// None is made where there is none yet: the kernel fills in those of its own packets when they leave, all zero until
/// then.
#[inline(always)]
pub fn replaced(checksum: u32, before: [u16; 2], after: [u16; 2], len: u16) -> u32 {
    if checksum == 0 {
        return 0;
    }
    let [s0, s1] = (before[0] ^ after[0]).to_ne_bytes();
    let [d0, d1] = (before[1] ^ after[1]).to_ne_bytes();
    let mut crc = u32::from_le_bytes([s0, s1, d0, d1]);
    let mut bit = 0;
    while bit < 32 {
        crc = by_x(crc);
        bit += 1;
    }
    // What is behind the ports was not changed: so many zeros.
    let mut zeros = len.saturating_sub(4);
    let mut power = BYTE;
    let mut nth = 0;
    while nth < LEN_BITS {
        crc ^= times(crc ^ product(power, crc), zeros.into());
        power = product(power, power);
        zeros >>= 1;
        nth += 1;
    }
    // In the packet its lowest byte comes first.
    checksum ^ crc.to_le()
}

/// A word, or 0, as the lowest bit of `bit` says.
///
/// By a multiplication that the compiler cannot see through: it would take a branch or a mask made of a sign, and the
/// kernel's verifier follows both ways of either, a thousand times over.
#[inline(always)]
fn times(word: u32, bit: u32) -> u32 {
    word.wrapping_mul(black_box(bit & 1))
}

/// A polynomial times x, modulo that of the CRC.
#[inline(always)]
fn by_x(crc: u32) -> u32 {
    (crc >> 1) ^ times(POLYNOMIAL, crc)
}

/// The product of two polynomials, modulo that of the CRC.
#[inline(never)]
fn product(a: u32, b: u32) -> u32 {
    let (mut sum, mut term) = (0, b);
    let mut bit = 0;
    while bit < 32 {
        sum ^= times(term, a >> (31 - bit));
        term = by_x(term);
        bit += 1;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crc32c::crc32c;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn packet(ports: [u16; 2], payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        for port in ports {
            packet.extend(port.to_be_bytes());
        }
        packet.extend([1, 2, 3, 4, 0, 0, 0, 0]);
        packet.extend(payload);
        packet
    }

    #[test]
    fn a_checksum_that_is_still_to_be_made_stays_so() {
        assert_eq!(replaced(0, [1, 2], [3, 4], 100), 0);
    }

    proptest! {
        #[test]
        fn a_replaced_checksum_is_the_new_packet_s(
            before: [u16; 2], after: [u16; 2],
            payload in prop::collection::vec(any::<u8>(), 0..1500),
        ) {
            let checksum = |ports| crc32c(&packet(ports, &payload)).to_le();
            let len = u16::try_from(HEADER_LEN + payload.len()).unwrap();
            let ports = |ports: [u16; 2]| ports.map(u16::to_be);
            prop_assume!(checksum(before) != 0);
            let found = replaced(checksum(before), ports(before), ports(after), len);
            prop_assert_eq!(found, checksum(after));
        }
    }
}
