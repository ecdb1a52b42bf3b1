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
/// Translated sources leave by these ports (the last of the range): above those that Linux gives to
/// sockets by itself (to 60999).
pub const NAT_PORTS: (u16, u16) = (61_000, 65_535);
