//! Addresses and ports that are Skein's own.

use core::net::Ipv4Addr;

/// The DNS server of every node, for its own tasks: the first of [`INTERNAL_NET`].
pub const DNS_ADDRESS: Ipv4Addr = Ipv4Addr::new(100, 65, 0, 1);
/// What published ports are reached by from the node itself.
pub const LOCAL_ADDRESS: Ipv4Addr = Ipv4Addr::new(100, 65, 0, 2);
/// Addresses that mean something on their own node alone. Of the shared address space (RFC 6598), as
/// sites use the private ranges themselves.
pub const INTERNAL_NET: Ipv4Addr = Ipv4Addr::new(100, 65, 0, 0);
/// Prefix length of [`INTERNAL_NET`].
pub const INTERNAL_PREFIX: u8 = 16;
/// The endpoint with index n has the internal address [`INTERNAL_NET`] + this + n: the first 256
/// are the node's own.
pub const INTERNAL_FIRST: u32 = 256;
/// The nodes' addresses in the tunnels between them, by which encrypted overlays go: one for each node, which the
/// managers give. Of the same space.
pub const SECURE_NET: Ipv4Addr = Ipv4Addr::new(100, 66, 0, 0);
/// Prefix length of [`SECURE_NET`].
pub const SECURE_PREFIX: u8 = 16;
/// What packets are marked with that came by the secure device, from there to the hook of the vxlan device. No
/// other host can set a mark.
pub const SECURE_MARK: u32 = 0x5ec0_4e1d;
/// Translated sources leave by these ports (the last of the range): above those that Linux gives to
/// sockets by itself (to 60999).
pub const NAT_PORTS: (u16, u16) = (61_000, 65_535);
