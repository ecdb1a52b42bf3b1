//! The layout of everything that Skein's kernel programs and its dataplane share.
//!
//! Addresses and ports are in network byte order, exactly as they stand in a packet, so that the
//! kernel side never swaps bytes: build them with [`addr`] and [`port`]. Every struct is `repr(C)`
//! with explicit padding, because map keys are compared as bytes.
//!
//! - [`config`]: the node's own settings, one entry.
//! - [`ingress`]: published ports, the node tables, local backends.
//! - [`flow`]: what the kernel remembers of flows: affinity, conntrack, source translation.
//! - [`overlay`]: endpoints, where addresses of overlays are, VIPs.
//! - [`segment`]: members that packets are forwarded to by l2.
//! - [`verdict`]: counters and drop reasons.
//! - [`sight`]: records of flows, captured packets, meters of services.
//! - [`limits`]: how large each map is, and why.
//! - [`names`]: names of programs and maps, as the loader finds and pins them.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod addresses;
pub mod config;
pub mod flow;
pub mod ingress;
pub mod limits;
pub mod names;
pub mod overlay;
pub mod segment;
pub mod sight;
pub mod verdict;

use core::net::Ipv4Addr;

/// An IPv4 address in network byte order.
pub type Addr = u32;
/// A port in network byte order.
pub type Port = u16;

/// The map form of an address.
pub const fn addr(address: Ipv4Addr) -> Addr {
    u32::from_ne_bytes(address.octets())
}

/// The address of its map form.
pub const fn from_addr(address: Addr) -> Ipv4Addr {
    let [a, b, c, d] = address.to_ne_bytes();
    Ipv4Addr::new(a, b, c, d)
}

/// The map form of a port.
pub const fn port(port: u16) -> Port {
    port.to_be()
}

/// IP protocol numbers (IANA) that are balanced by port.
pub const TCP: u8 = 6;
/// See [`TCP`].
pub const UDP: u8 = 17;
/// See [`TCP`].
pub const SCTP: u8 = 132;
/// Balanced on VIPs only; carries errors about other flows.
pub const ICMP: u8 = 1;

/// What users call an IP protocol that ports are of, or that is balanced.
pub const fn protocol_name(proto: u8) -> &'static str {
    match proto {
        TCP => "tcp",
        UDP => "udp",
        SCTP => "sctp",
        ICMP => "icmp",
        _ => "other",
    }
}

/// VXLAN network identifiers below [`VNI_OVERLAY_MIN`] are the mesh's own.
///
/// A client's packet on its way from the entry node to the node that the table named.
pub const VNI_FORWARD: u32 = 1;
/// The same packet, sent on once more by a node that had no task for it. Never sent on again.
pub const VNI_SECOND_HOP: u32 = 2;
/// A finished reply on its way back to the entry node.
pub const VNI_REPLY: u32 = 3;
/// The least VNI of an overlay (Swarm's first).
pub const VNI_OVERLAY_MIN: u32 = 4096;

/// Outer header bytes of VXLAN over IPv4: IPv4 20, UDP 8, VXLAN 8, inner Ethernet 14.
pub const VXLAN_OVERHEAD: u16 = 50;

/// The MAC address of everything that Skein gives an address: `02:42` and the address, as Docker's.
pub const fn mac(address: Addr) -> [u8; 6] {
    let [a, b, c, d] = address.to_ne_bytes();
    [0x02, 0x42, a, b, c, d]
}

/// Implements what the loader needs of a map type.
macro_rules! pod {
    ($($type:ty),* $(,)?) => {$(
        // SAFETY: `repr(C)`, `Copy`, no padding (what would be some is a field), every bit pattern is a
        // value.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $type {}
        const _: () = assert!(core::mem::align_of::<$type>() <= 8);
    )*};
}
pub(crate) use pod;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_stand_as_in_a_packet() {
        let address = Ipv4Addr::new(10, 0, 1, 5);
        assert_eq!(addr(address).to_ne_bytes(), [10, 0, 1, 5]);
        assert_eq!(from_addr(addr(address)), address);
        assert_eq!(port(0x1f90).to_ne_bytes(), [0x1f, 0x90]);
        assert_eq!(mac(addr(address)), [2, 0x42, 10, 0, 1, 5]);
    }
}
