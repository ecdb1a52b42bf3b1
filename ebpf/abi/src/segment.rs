//! Forwarding by l2: members that share a segment with this node, and what is known of the way to them.
//!
//! A member sends to another one what clients sent it, in frames of their own instead of VXLAN: the packet
//! is as it was, with a client's source address and the sender's own address as its destination. Networks
//! that know which host has which address drop such frames. So each member asks each other one of its
//! segments again and again, by a *probe* of the same form: UDP from [`PROBE_ADDRESS`] to its own address, and
//! to the overlay's port, of which no other packet to it can be. The other one's programs answer it in place,
//! which is the form that answers to clients have. Who asks puts a number of its own into the source port, by
//! which it knows the answer, with [`PROBE_USES`] as its lowest bit.

use crate::{Addr, Port, pod};
use core::net::Ipv4Addr;

/// The client that probes seem to come from: of a range that is nobody's (RFC 5737).
pub const PROBE_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// In the source port of a probe, host byte order: who asks sends requests by l2, and wants the answers so.
pub const PROBE_USES: u16 = 1;

/// Its probes are answered. Without the flag it is only listened to.
pub const PEER_ANSWERED: u16 = 1;

/// A member that shares a segment with this node.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Its MAC address there.
    pub mac: [u8; 6],
    /// MAC address of the device by which it is reached.
    pub own_mac: [u8; 6],
    /// That device.
    pub ifindex: u32,
    /// Its index in `LEASES` and `HEARD`.
    pub index: u32,
    /// Largest IP packet that the device carries, bytes.
    pub mtu: u16,
    /// [`PEER_ANSWERED`] or 0.
    pub flags: u16,
}

/// Whom a frame comes from: the device that it came in by, and its own addresses. A device also sees frames
/// for others, where somebody captures them all.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sender {
    /// The device.
    pub ifindex: u32,
    /// Destination: the device's MAC address.
    pub to: [u8; 6],
    /// Source: the member's.
    pub from: [u8; 6],
}

/// How long l2 is used, by the monotonic clock, in ns; written by the dataplane, again and again, so that it
/// ends by itself where that does not run.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// Until then the member is sent what clients send.
    pub requests_until: u64,
    /// Until then it is sent the answers to what it has sent.
    pub replies_until: u64,
}

/// What was heard of a member, in frames of the forms that l2 needs; written by the programs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// When it answered last, by the monotonic clock, ns.
    pub answered: u64,
    /// When it asked last.
    pub asked: u64,
    /// Source port of the probe that it answered.
    pub answered_port: Port,
    /// Source port of its own.
    pub asked_port: Port,
    /// Zero.
    pub pad: [u16; 2],
}

/// [`PROBE_ADDRESS`] in the form of maps and packets.
pub const PROBE_ADDR: Addr = crate::addr(PROBE_ADDRESS);

pod!(Peer, Sender, Lease, Heard);

const _: () = {
    assert!(size_of::<Peer>() == 24);
    assert!(size_of::<Sender>() == 16);
    assert!(size_of::<Lease>() == 16);
    assert!(size_of::<Heard>() == 24);
};
