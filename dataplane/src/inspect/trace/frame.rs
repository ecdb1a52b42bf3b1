//! A traced packet as a frame, and a frame as people read it. Pure.

use anyhow::Context as _;
use etherparse::{PacketBuilder, SlicedPacket, TcpOptionElement, TransportSlice};
use skein_abi::{TCP, from_addr};
use skein_packet::Packet;
use std::net::{Ipv4Addr, SocketAddrV4};

/// Neither end's MAC address matters at an uplink. Of the locally administered ones, which no device has
/// from its maker.
pub const NOBODY: [u8; 6] = [0x02, 0, 0, 0, 0, 1];
/// Linux's usual values.
const TTL: u8 = 64;
const WINDOW: u16 = 64_240;
/// What hosts on Ethernet announce in their first packet.
const MSS: u16 = 1_460;
const PAYLOAD: [u8; 8] = [0; 8];
/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
/// Bytes of a VXLAN header (RFC 7348, section 5).
const VXLAN: usize = 8;

/// The frame of a packet; TCP without data, UDP with a few bytes.
///
/// # Errors
/// None in fact: it is short.
pub fn of(packet: &Packet, source: [u8; 6], destination: [u8; 6]) -> anyhow::Result<Vec<u8>> {
    let tuple = &packet.tuple;
    let (sport, dport) = (u16::from_be(tuple.sport), u16::from_be(tuple.dport));
    let ends = [tuple.src, tuple.dst].map(|end| from_addr(end).octets());
    let ip = PacketBuilder::ethernet2(source, destination).ipv4(ends[0], ends[1], TTL);
    let mut frame = Vec::new();
    let written = if tuple.proto != TCP {
        ip.udp(sport, dport).write(&mut frame, &PAYLOAD)
    } else if packet.is_syn() {
        let tcp = ip.tcp(sport, dport, 0, WINDOW).syn();
        let tcp = tcp.options(&[TcpOptionElement::MaximumSegmentSize(MSS)]);
        tcp.context("options do not fit")?.write(&mut frame, &[])
    } else {
        let tcp = ip.tcp(sport, dport, 1, WINDOW).ack(1);
        tcp.write(&mut frame, &[])
    };
    written.context("a frame cannot be written")?;
    Ok(frame)
}

/// "tcp 203.0.113.9:32768 -> 198.18.0.1:8080", of a frame; what is in VXLAN to `vxlan_port`, too.
pub fn shown(frame: &[u8], vxlan_port: u16) -> String {
    let Ok(sliced) = SlicedPacket::from_ethernet(frame) else {
        return "no IPv4 packet".to_owned();
    };
    let Some(etherparse::NetSlice::Ipv4(ip)) = &sliced.net else {
        return "no IPv4 packet".to_owned();
    };
    let (from, to) = (ip.header().source_addr(), ip.header().destination_addr());
    let ports = |protocol: &str, sport, dport| {
        let end = |address: Ipv4Addr, port| SocketAddrV4::new(address, port);
        format!("{protocol} {} -> {}", end(from, sport), end(to, dport))
    };
    match &sliced.transport {
        Some(TransportSlice::Udp(udp)) if udp.destination_port() == vxlan_port => {
            let inner = udp.payload().get(VXLAN..).unwrap_or_default();
            format!("in VXLAN {from} -> {to}: {}", shown(inner, vxlan_port))
        }
        Some(TransportSlice::Udp(udp)) => ports("udp", udp.source_port(), udp.destination_port()),
        Some(TransportSlice::Tcp(tcp)) => {
            let reset = if tcp.rst() { "reset" } else { "" };
            ports(
                format!("tcp {reset}").trim_end(),
                tcp.source_port(),
                tcp.destination_port(),
            )
        }
        _ => format!("IPv4 {from} -> {to}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_abi::{UDP, addr, flow::Tuple, port};

    fn packet(proto: u8, tcp_flags: u8) -> Packet {
        let tuple = Tuple {
            src: addr([203, 0, 113, 9].into()),
            dst: addr([198, 18, 0, 1].into()),
            sport: port(40_000),
            dport: port(8080),
            proto,
            pad: [0; 3],
        };
        Packet {
            tuple,
            tcp_flags,
            ..Packet::nothing()
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for (proto, flags, said) in [
            (TCP, 0x02, "tcp 203.0.113.9:40000 -> 198.18.0.1:8080"),
            (TCP, 0x10, "tcp 203.0.113.9:40000 -> 198.18.0.1:8080"),
            (UDP, 0, "udp 203.0.113.9:40000 -> 198.18.0.1:8080"),
        ] {
            let frame = of(&packet(proto, flags), NOBODY, NOBODY).unwrap();
            assert_eq!(shown(&frame, 4789), said);
        }
        assert_eq!(shown(&[0; 9], 4789), "no IPv4 packet");
    }

    #[test]
    fn what_vxlan_carries_is_shown() {
        let inner = of(&packet(TCP, 0x02), NOBODY, NOBODY).unwrap();
        let payload: Vec<u8> = [&[0; VXLAN][..], &inner].concat();
        let outer = PacketBuilder::ethernet2(NOBODY, NOBODY)
            .ipv4([198, 18, 0, 1], [198, 18, 0, 2], TTL)
            .udp(5000, 4789);
        let mut frame = Vec::new();
        outer.write(&mut frame, &payload).unwrap();
        let said = "in VXLAN 198.18.0.1 -> 198.18.0.2: tcp 203.0.113.9:40000 -> 198.18.0.1:8080";
        assert_eq!(shown(&frame, 4789), said);
        assert!(!shown(&frame, 4790).contains("VXLAN"));
    }
}
