//! What the programs tell those who watch: records of flows and drops, copies of packets, and what they count of
//! each service.
//!
//! - [`Record`]: one event of a flow, or one packet that was dropped; in a ring (`RECORDS`), or in front of a
//!   packet's bytes (`CAPTURED`).
//! - [`Watch`]: how much may be told, and what is captured.
//! - [`Meter`], [`MeterDrop`]: packets of a published port or VIP.

use crate::{Addr, Port, flow::Tuple, pod};

/// A flow that the programs had not known.
pub const EVENT_OPENED: u8 = 1;
/// A connection is over: closed both ways, or reset.
pub const EVENT_CLOSED: u8 = 2;
/// A packet is dropped, or answered by a reset or by an ICMP error.
pub const EVENT_DROPPED: u8 = 3;
/// A packet that is captured, whatever becomes of it.
pub const EVENT_PACKET: u8 = 4;

/// Where a packet is seen: native XDP of an uplink.
pub const SEEN_XDP: u8 = 1;
/// tc ingress of an uplink.
pub const SEEN_UPLINK: u8 = 2;
/// The external vxlan device.
pub const SEEN_VXLAN: u8 = 3;
/// The host's end of a container's veth pair.
pub const SEEN_VETH: u8 = 4;
/// What the host itself sends into the local pair.
pub const SEEN_LOCAL: u8 = 5;

/// [`Record::flags`]: the packet goes from the server to the client.
pub const RECORD_ANSWER: u8 = 1;
/// [`Record::flags`]: the packet could not be read: there is no tuple.
pub const RECORD_UNREAD: u8 = 2;

/// One event.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Monotonic time, ns.
    pub at: u64,
    /// The packet, as it was seen.
    pub packet: Tuple,
    /// What becomes of its tuple.
    pub to: Tuple,
    /// The device that it was seen on.
    pub ifindex: u32,
    /// Dropped: why, a [`crate::verdict::Counter`].
    pub reason: u32,
    /// To a task of this node: index of its endpoint.
    pub endpoint: u32,
    /// A task of this node sent it: 1 and the index of its endpoint; else 0.
    pub sender: u32,
    /// To another node, or back to it: its data path address.
    pub node: Addr,
    /// The network identifier of VXLAN that it goes to another node in, or would, if it goes by l2.
    pub vni: u32,
    /// Bytes of the frame.
    pub frame: u32,
    /// The published port or VIP that it is of, by the number of its [`Meter`]; 0: not known.
    pub meter: u16,
    /// Bytes of outer headers in front of the captured frame.
    pub outer: u16,
    /// [`EVENT_OPENED`] and so on.
    pub event: u8,
    /// [`SEEN_XDP`] and so on.
    pub place: u8,
    /// What becomes of the packet: a number of `skein-packet`'s `Action`.
    pub action: u8,
    /// The flag byte of TCP.
    pub tcp_flags: u8,
    /// [`RECORD_ANSWER`], [`RECORD_UNREAD`].
    pub flags: u8,
    /// Zero.
    pub pad: [u8; 7],
}

/// How much the programs tell: written by the dataplane, one entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// Until then packets are captured, by the monotonic clock, in ns: so it ends by itself where no dataplane
    /// renews it. 0: none is.
    pub capture_until: u64,
    /// Every record of a CPU and kind takes so much of its time, ns: more are not told. 0: none is told at all.
    pub record_cost: u64,
    /// So much may be taken in advance, ns.
    pub record_burst: u64,
    /// Bytes of each frame that are captured at most.
    pub capture_len: u32,
    /// Captured are packets from or to addresses that are this one under the mask,
    pub capture_net: Addr,
    /// the mask; 0: all.
    pub capture_mask: Addr,
    /// from or to this port; 0: any,
    pub capture_port: Port,
    /// and of this protocol; 0: any.
    pub capture_proto: u8,
    /// Zero.
    pub pad: u8,
}

impl Watch {
    /// Whether a packet that becomes another one may be one to capture, by either of its forms. Nothing is asked that
    /// takes a look into a table: the reader asks more.
    #[inline(always)]
    pub const fn may_want(&self, packet: &Tuple, to: &Tuple) -> bool {
        let address = self.capture_mask == 0
            || self.is_in(packet.src)
            || self.is_in(packet.dst)
            || self.is_in(to.src)
            || self.is_in(to.dst);
        let port = self.capture_port;
        let port = port == 0
            || packet.sport == port
            || packet.dport == port
            || to.sport == port
            || to.dport == port;
        address && port && (self.capture_proto == 0 || packet.proto == self.capture_proto)
    }

    #[inline(always)]
    const fn is_in(&self, address: Addr) -> bool {
        (address ^ self.capture_net) & self.capture_mask == 0
    }
}

/// Records of flows that were not told, as their budget was spent.
pub const LOST_FLOWS: u32 = 0;
/// The same of drops.
pub const LOST_DROPS: u32 = 1;
/// Records that the ring had no room for.
pub const LOST_ROOM: u32 = 2;
/// How many kinds of loss there are: entries of the map, per CPU.
pub const LOST_KINDS: u32 = 3;

/// From the client to the server, and back: indices of [`Meter::packets`].
pub const METER_IN: u8 = 1;
/// See [`METER_IN`].
pub const METER_OUT: u8 = 2;

/// What a published port or VIP carried, where its tasks are, or, of a VIP, where its clients are. Per CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meter {
    /// Packets from clients, and to them.
    pub packets: [u64; 2],
    /// Bytes of those: of IP packets, headers included.
    pub bytes: [u64; 2],
    /// Flows that began.
    pub flows: u64,
}

/// Packets of one published port or VIP that are dropped for one reason.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MeterDrop {
    /// Number of the meter.
    pub meter: u32,
    /// A [`crate::verdict::Counter`].
    pub reason: u32,
}

pod!(Record, Watch, Meter, MeterDrop);

const _: () = {
    assert!(size_of::<Record>() == 88);
    assert!(size_of::<Watch>() == 40);
    assert!(size_of::<Meter>() == 40);
    assert!(size_of::<MeterDrop>() == 8);
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{TCP, UDP, addr, port};

    #[test]
    fn what_is_captured_is_asked_of_both_forms_of_a_packet() {
        let packet = Tuple {
            src: addr([203, 0, 113, 9].into()),
            dst: addr([198, 18, 0, 1].into()),
            sport: port(40_000),
            dport: port(8080),
            proto: TCP,
            pad: [0; 3],
        };
        let to = Tuple {
            dst: addr([10, 0, 0, 5].into()),
            dport: port(80),
            ..packet
        };
        let wants = |watch: Watch| watch.may_want(&packet, &to);
        let all = Watch::default();
        assert!(wants(all));
        let net = |net: [u8; 4], mask: [u8; 4]| Watch {
            capture_net: addr(net.into()),
            capture_mask: addr(mask.into()),
            ..all
        };
        assert!(wants(net([203, 0, 113, 0], [255, 255, 255, 0])));
        assert!(wants(net([10, 0, 0, 5], [255; 4])), "the task");
        assert!(!wants(net([203, 0, 114, 0], [255, 255, 255, 0])));
        for (number, wanted) in [(8080, true), (80, true), (40_000, true), (81, false)] {
            let port = port(number);
            let watch = Watch {
                capture_port: port,
                ..all
            };
            assert_eq!(wants(watch), wanted, "{number}");
        }
        for (proto, wanted) in [(TCP, true), (UDP, false)] {
            let watch = Watch {
                capture_proto: proto,
                ..all
            };
            assert_eq!(wants(watch), wanted);
        }
    }
}
