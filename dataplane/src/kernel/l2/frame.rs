//! The probe: a frame as one that a client's request is forwarded in. Pure.

use super::segment::Seat;
use crate::kernel::checksum::checksum;
use skein_abi::{UDP, segment::PROBE_ADDRESS};
use std::net::Ipv4Addr;

const IPV4: [u8; 2] = [0x08, 0x00];
const IP_LEN: u8 = 20;
const UDP_LEN: u8 = 8;
/// "Don't fragment" (RFC 791): it is short.
const DONT_FRAGMENT: [u8; 2] = [0x40, 0];
const TTL: u8 = 64;

/// Asks the member at `seat`; `own` is this node's data path address, `sport` comes back in the answer, `dport`
/// is the overlay's.
pub fn probe(seat: &Seat, own: Ipv4Addr, sport: u16, dport: u16) -> Vec<u8> {
    let (src, dst) = (PROBE_ADDRESS.octets(), own.octets());
    let mut ip = vec![0x45, 0, 0, IP_LEN + UDP_LEN, 0, 0];
    ip.extend(DONT_FRAGMENT);
    ip.extend([TTL, UDP, 0, 0]);
    ip.extend(src);
    ip.extend(dst);
    let sum = checksum(&ip).to_be_bytes();
    ip[10..12].copy_from_slice(&sum);

    let mut udp = [
        sport.to_be_bytes(),
        dport.to_be_bytes(),
        [0, UDP_LEN],
        [0, 0],
    ]
    .concat();
    let pseudo = [&src[..], &dst[..], &[0, UDP, 0, UDP_LEN], &udp].concat();
    // None would be 0, which is written as its other form (RFC 768).
    let sum = match checksum(&pseudo) {
        0 => u16::MAX,
        sum => sum,
    };
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    [&seat.mac[..], &seat.own_mac, &IPV4, &ip, &udp].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_a_whole_frame_of_a_client_to_this_node() {
        let seat = Seat {
            ifindex: 2,
            mac: [2, 0, 0, 0, 0, 2],
            own_mac: [2, 0, 0, 0, 0, 1],
            mtu: 1_500,
        };
        let frame = probe(&seat, Ipv4Addr::new(198, 18, 0, 1), 0x8001, 4789);
        assert_eq!(frame.len(), 14 + 20 + 8);
        assert_eq!(frame[..6], seat.mac);
        assert_eq!(frame[6..12], seat.own_mac);
        assert_eq!(checksum(&frame[14..34]), 0);
        assert_eq!(frame[26..30], [192, 0, 2, 1]);
        assert_eq!(frame[30..34], [198, 18, 0, 1]);
        assert_eq!(frame[34..38], [0x80, 0x01, 0x12, 0xb5]);
        let pseudo = [&frame[26..34], &[0, 17, 0, 8], &frame[34..]].concat();
        assert_eq!(checksum(&pseudo), 0);
    }
}
