//! How large each map is.
//!
//! Where a map that the dataplane writes is full, it says so; those of flows forget the one that was
//! not used for longest (LRU).

/// New flows per second and CPU above which opening flows are no more remembered: ten times what one
/// CPU is expected to open in earnest.
pub const FLOOD_RATE: u32 = 100_000;

/// Published (protocol, port) pairs of the cluster: all 65,535 TCP ports would fit.
pub const PUBLISHED_MAX: u32 = 65_536;
/// Pairs of a published port and an address of this node that it is bound to: a few addresses for hundreds of ports.
pub const BOUND_MAX: u32 = 16_384;
/// Ranges of clients of all services that take no others: a hundred each of some hundreds of services.
pub const SOURCES_MAX: u32 = 65_536;
/// Services that publish ports.
pub const SERVICES_MAX: u32 = 16_384;
/// Nodes of a cluster, this one included.
pub const NODES_MAX: u32 = 4_096;
/// Their addresses: those of their data paths, and those in the tunnels of encrypted overlays.
pub const MEMBER_ADDRESSES_MAX: u32 = 2 * NODES_MAX;
/// Members on the segments of this node: as many as there are nodes. Each has one device and MAC address, or
/// a few.
pub const SENDERS_MAX: u32 = 2 * NODES_MAX;
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
/// Those of flows of which the task's node has seen nothing but a SYN: apart, as above.
pub const CONNTRACK_SYN_MAX: u32 = 131_072;
/// Translated sources: two entries per flow.
pub const NAT_MAX: u32 = 131_072;
/// Fragmented datagrams on their way at once: entries are needed for the microseconds between a
/// datagram's first and last fragment, and a flood of fragments evicts nothing but those.
pub const FRAGMENTS_MAX: u32 = 8_192;
/// Slots of a node table: 65,521 (prime) carries 655 nodes at the 100 slots each that keep the
/// shares within 1 %; more nodes share less evenly.
pub const NODE_TABLE_SLOTS_MAX: u32 = 65_521;
/// Devices with the uplink program.
pub const DEVICES_MAX: u32 = 1_024;
/// Neighbours that XDP sends to: of one that is evicted, one more packet goes by the kernel's stack.
pub const NEIGHBOURS_MAX: u32 = 4_096;
/// Overlays that this node has.
pub const NETWORKS_MAX: u32 = 4_096;
/// Subnets of one overlay: as many are looked through for where an address belongs that nobody has.
pub const SUBNETS_OF_NETWORK_MAX: u32 = 16;
/// Subnets of all overlays that this node has: hardly any overlay has more than one.
pub const SUBNETS_MAX: u32 = 2 * NETWORKS_MAX;
/// Host sockets that call published ports of their own node.
pub const SOCKETS_MAX: u32 = 65_536;
/// Bytes of the ring of records: 10,000 of them, which the dataplane reads several times a second.
pub const RECORDS_BYTES: u32 = 1 << 20;
/// Published ports and VIPs that are counted each: as many as dashboards bear. Per CPU they take 40 bytes each.
pub const METERS_MAX: u32 = 8_192;
/// Pairs of those and of a reason that packets of theirs were dropped for.
pub const METER_DROPS_MAX: u32 = 16_384;
