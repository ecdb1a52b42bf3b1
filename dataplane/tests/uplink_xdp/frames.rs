//! Frames, to the byte.

use super::bench::{
    ACK, CLIENT, CLIENT_MAC, NODE, NODE_MAC, OTHER, OTHER_MAC, PORT, SYN, VXLAN_PORT,
};
use skein_abi::VNI_REPLY;

/// RFC 1071.
pub fn checksum(bytes: &[u8]) -> u16 {
    let pairs = bytes.chunks(2);
    let words = pairs.map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum + (sum >> 16)) as u16)
}

pub fn ip_header(len: usize, ttl: u8, proto: u8, src: [u8; 4], dst: [u8; 4]) -> [u8; 20] {
    let mut ip = [0; 20];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    ip[4..10].copy_from_slice(&[0xab, 0xcd, 0x40, 0, ttl, proto]);
    ip[12..16].copy_from_slice(&src);
    ip[16..20].copy_from_slice(&dst);
    seal(&mut ip);
    ip
}

/// Puts the checksum of an IPv4 header right.
pub fn seal(ip: &mut [u8]) {
    ip[10..12].fill(0);
    let sum = checksum(ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
}

#[derive(Clone, Copy)]
pub struct Tcp {
    pub src: ([u8; 4], u16),
    pub dst: ([u8; 4], u16),
    pub flags: u8,
    pub ttl: u8,
    pub payload: usize,
}

impl Tcp {
    pub fn request(sport: u16) -> Self {
        Self {
            src: (CLIENT, sport),
            dst: (NODE, PORT),
            flags: SYN,
            ttl: 64,
            payload: 6,
        }
    }

    pub fn answer(self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            flags: SYN | ACK,
            ..self
        }
    }

    pub fn frame(&self, macs: [[u8; 6]; 2]) -> Vec<u8> {
        let mut frame = macs.concat();
        frame.extend([0x08, 0x00]);
        let len = 40 + self.payload;
        frame.extend(ip_header(len, self.ttl, 6, self.src.0, self.dst.0));
        frame.extend(self.src.1.to_be_bytes());
        frame.extend(self.dst.1.to_be_bytes());
        frame.extend([0, 0, 0, 1, 0, 0, 0, 0]);
        frame.extend([0x50, self.flags, 0x20, 0, 0x12, 0x34, 0, 0]);
        frame.extend((0..self.payload).map(|n| n as u8));
        frame
    }

    pub fn received(&self) -> Vec<u8> {
        self.frame([NODE_MAC, CLIENT_MAC])
    }
}

/// A frame from another node.
pub fn vxlan(src: [u8; 4], vni: u32, inner: &[u8]) -> Vec<u8> {
    let mut frame = [NODE_MAC, OTHER_MAC].concat();
    frame.extend([0x08, 0x00]);
    frame.extend(ip_header(36 + inner.len(), 64, 17, src, NODE));
    frame.extend(50_000_u16.to_be_bytes());
    frame.extend(VXLAN_PORT.to_be_bytes());
    frame.extend((16 + inner.len() as u16).to_be_bytes());
    frame.extend([0, 0, 0x08, 0, 0, 0]);
    frame.extend((vni << 8).to_be_bytes());
    frame.extend(inner);
    frame
}

pub fn answered(request: Tcp) -> Vec<u8> {
    let inner = request.answer().frame([[0x02; 6], [0x04; 6]]);
    vxlan(OTHER, VNI_REPLY, &inner)
}

/// The frame one router later.
pub fn routed(frame: &[u8], macs: [[u8; 6]; 2]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[..12].copy_from_slice(&macs.concat());
    frame[22] -= 1;
    seal(&mut frame[14..34]);
    frame
}

/// The frame with another byte in its IPv4 header or behind.
pub fn changed(frame: &[u8], offset: usize, value: u8) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[offset] = value;
    seal(&mut frame[14..34]);
    frame
}

/// Another packet of a connection that is made.
pub fn later(request: Tcp, flags: u8) -> Vec<u8> {
    Tcp { flags, ..request }.received()
}

/// As the other node sends it.
pub fn by_l2(packet: Tcp) -> Vec<u8> {
    packet.frame([NODE_MAC, OTHER_MAC])
}
