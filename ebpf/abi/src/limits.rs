//! How large each map is, and which addresses and ports are Skein's own.
//!
//! A full map is a clear error of the dataplane, never silent.

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
/// New flows per second and CPU above which opening flows are no more remembered: ten times what one
/// CPU is expected to open in earnest.
pub const FLOOD_RATE: u32 = 100_000;

/// Published (protocol, port) pairs of the cluster: all 65,535 TCP ports would fit.
pub const PUBLISHED_MAX: u32 = 65_536;
/// Services that publish ports.
pub const SERVICES_MAX: u32 = 16_384;
/// Nodes of a cluster, this one included.
pub const NODES_MAX: u32 = 4_096;
/// Addresses of this node.
pub const LOCAL_ADDRS_MAX: u32 = 1_024;
/// Ready, and draining, tasks of one service on one node.
pub const LOCAL_BACKENDS_MAX: usize = 64;
/// Endpoints on this node: a container or two per network and task; far above what one engine runs.
pub const ENDPOINTS_MAX: u32 = 4_096;
/// Addresses of all overlays that this node has.
pub const OVERLAY_ADDRS_MAX: u32 = 131_072;
/// VIPs of all overlays that this node has.
pub const VIPS_MAX: u32 = 16_384;
/// Tasks behind all those VIPs.
pub const VIP_BACKENDS_MAX: u32 = 131_072;
/// Flows that this node has forwarded as the entry.
pub const AFFINITY_MAX: u32 = 262_144;
/// Flows of which it has seen nothing but a SYN: apart, so that a flood evicts no live flow.
pub const AFFINITY_SYN_MAX: u32 = 65_536;
/// Conntrack entries: two per flow.
pub const CONNTRACK_MAX: u32 = 524_288;
/// Translated sources: two entries per flow.
pub const NAT_MAX: u32 = 131_072;
/// Slots of a node table: 65,521 (prime) carries 655 nodes at the 100 slots each that keep the
/// shares within 1 %; more nodes share less evenly.
pub const NODE_TABLE_SLOTS_MAX: u32 = 65_521;
/// Devices with the uplink program.
pub const DEVICES_MAX: u32 = 1_024;
/// Neighbours that XDP sends to: of one that is evicted, one more packet goes by the kernel's stack.
pub const NEIGHBOURS_MAX: u32 = 4_096;
/// Overlays that this node has.
pub const NETWORKS_MAX: u32 = 4_096;
/// Host sockets that call published ports of their own node.
pub const SOCKETS_MAX: u32 = 65_536;
