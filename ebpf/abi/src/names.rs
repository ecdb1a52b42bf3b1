//! Names of programs and maps. Maps are pinned by name; at most 15 characters, or the kernel cuts.

/// tc ingress of every device that can carry a packet to an address of the node.
pub const PROG_UPLINK: &str = "skein_uplink";
/// Native XDP of an uplink; what it cannot finish goes on to [`PROG_UPLINK`].
pub const PROG_UPLINK_XDP: &str = "skein_uplink_x";
/// tc ingress of the external vxlan device.
pub const PROG_VXLAN: &str = "skein_vxlan";
/// tc ingress of the secure device, by which the encrypted overlays' packets come: marks them.
pub const PROG_SECURE: &str = "skein_secure";
/// tc ingress of the host's end of a container's veth pair.
pub const PROG_VETH: &str = "skein_veth";
/// tc ingress of `skein1`, the far end of the local pair: what the host sends to `skein0`.
pub const PROG_LOCAL: &str = "skein_local";
/// cgroup/connect4 on the host's v2 root.
pub const PROG_CONNECT4: &str = "skein_connect4";
/// cgroup/sendmsg4 there.
pub const PROG_SENDMSG4: &str = "skein_sendmsg4";
/// cgroup/recvmsg4 there.
pub const PROG_RECVMSG4: &str = "skein_recvmsg4";
/// cgroup/getpeername4 there.
pub const PROG_GETPEER4: &str = "skein_getpeer4";

/// Array of one [`crate::config::Config`].
pub const MAP_CONFIG: &str = "CONFIG";
/// Hash: [`crate::Addr`] of this node -> ifindex of the device that has it.
pub const MAP_LOCAL_ADDRS: &str = "LOCAL_ADDRS";
/// Hash: ifindex -> flags (`u32`, [`crate::ingress::DEVICE_TRANSLATE`],
/// [`crate::ingress::DEVICE_XDP`], [`crate::ingress::DEVICE_PAIR`]) of devices with the uplink program.
pub const MAP_DEVICES: &str = "DEVICES";
/// Hash: data path address of a member -> flags (`u32`, [`crate::ingress::MEMBER_UP`]).
pub const MAP_MEMBERS: &str = "MEMBERS";
/// Hash: [`crate::ingress::PublishedKey`] -> [`crate::ingress::Published`].
pub const MAP_PUBLISHED: &str = "PUBLISHED";
/// Hash: [`crate::ingress::BoundKey`] -> 1 (`u32`).
pub const MAP_BOUND: &str = "BOUND";
/// Trie of prefixes: [`crate::ingress::Source`] -> 1 (`u32`).
pub const MAP_SOURCES: &str = "SOURCES";
/// Array of maps: service index -> array of data path addresses (`u32`): the node table.
pub const MAP_NODE_TABLES: &str = "NODE_TABLES";
/// The same, as it was before the last change: where mid-stream packets may still belong.
pub const MAP_OLD_TABLES: &str = "OLD_TABLES";
/// Hash: service index -> [`crate::ingress::LocalBackends`].
pub const MAP_LOCAL_BACKENDS: &str = "LOCAL_BACKENDS";
/// Array: endpoint index -> [`crate::overlay::Endpoint`].
pub const MAP_ENDPOINTS: &str = "ENDPOINTS";
/// Hash: ifindex of the host's end of a veth pair -> endpoint index (`u32`).
pub const MAP_VETHS: &str = "VETHS";
/// Hash: internal address -> endpoint index (`u32`).
pub const MAP_INTERNAL: &str = "INTERNAL";
/// Hash: [`crate::overlay::OverlayKey`] -> [`crate::overlay::Location`].
pub const MAP_OVERLAY: &str = "OVERLAY";
/// Hash: VNI (`u32`) -> [`crate::overlay::Network`]: the overlays that this node has.
pub const MAP_NETWORKS: &str = "NETWORKS";
/// Hash: [`crate::overlay::SubnetKey`] -> [`crate::overlay::Subnet`].
pub const MAP_SUBNETS: &str = "SUBNETS";
/// Hash: [`crate::overlay::OverlayKey`] -> [`crate::overlay::Vip`].
pub const MAP_VIPS: &str = "VIPS";
/// Hash: [`crate::overlay::VipSlot`] -> address of a task (`u32`).
pub const MAP_VIP_BACKENDS: &str = "VIP_BACKENDS";
/// LRU: [`crate::flow::Tuple`] -> [`crate::flow::Affinity`].
pub const MAP_AFFINITY: &str = "AFFINITY";
/// LRU, the same, for flows of which only a SYN was seen.
pub const MAP_AFFINITY_SYN: &str = "AFFINITY_SYN";
/// LRU: [`crate::flow::CtKey`] -> [`crate::flow::Ct`].
pub const MAP_CONNTRACK: &str = "CONNTRACK";
/// LRU, the same, for flows of which only a SYN was seen.
pub const MAP_CONNTRACK_SYN: &str = "CONNTRACK_SYN";
/// LRU: [`crate::flow::NatKey`] -> [`crate::flow::Nat`].
pub const MAP_NAT: &str = "NAT";
/// LRU: [`crate::flow::FragmentKey`] -> [`crate::flow::Fragment`].
pub const MAP_FRAGMENTS: &str = "FRAGMENTS";
/// LRU: [`crate::flow::SocketKey`] -> [`crate::flow::Tuple`]: what a host socket meant to call.
pub const MAP_SOCKETS: &str = "SOCKETS";
/// Hash: data path address of a member on a segment of this node -> [`crate::segment::Peer`].
pub const MAP_PEERS: &str = "PEERS";
/// Hash: [`crate::segment::Sender`] -> data path address of the member that has it.
pub const MAP_SENDERS: &str = "SENDERS";
/// Array: [`crate::segment::Peer::index`] -> [`crate::segment::Lease`].
pub const MAP_LEASES: &str = "LEASES";
/// Array: [`crate::segment::Peer::index`] -> [`crate::segment::Heard`].
pub const MAP_HEARD: &str = "HEARD";
/// Per-CPU array: [`crate::verdict::Counter`] -> packets (`u64`).
pub const MAP_COUNTERS: &str = "COUNTERS";
/// Array of one [`crate::sight::Watch`].
pub const MAP_WATCH: &str = "WATCH";
/// Ring: [`crate::sight::Record`]s of flows and drops.
pub const MAP_RECORDS: &str = "RECORDS";
/// Per-CPU array: [`crate::sight::LOST_FLOWS`] and so on -> records that are not there (`u64`).
pub const MAP_LOST: &str = "LOST";
/// Perf events: a [`crate::sight::Record`] and the beginning of the frame that it is of.
pub const MAP_CAPTURED: &str = "CAPTURED";
/// Per-CPU array: number of a published port or VIP -> [`crate::sight::Meter`].
pub const MAP_METERS: &str = "METERS";
/// Per-CPU hash: [`crate::sight::MeterDrop`] -> packets (`u64`).
pub const MAP_METER_DROPS: &str = "METER_DROPS";

/// The maps that outlive the dataplane: they are pinned.
pub const PINNED_MAPS: &[&str] = &[
    MAP_CONFIG,
    MAP_LOCAL_ADDRS,
    MAP_DEVICES,
    MAP_MEMBERS,
    MAP_PUBLISHED,
    MAP_BOUND,
    MAP_SOURCES,
    MAP_NODE_TABLES,
    MAP_OLD_TABLES,
    MAP_LOCAL_BACKENDS,
    MAP_ENDPOINTS,
    MAP_VETHS,
    MAP_INTERNAL,
    MAP_OVERLAY,
    MAP_NETWORKS,
    MAP_SUBNETS,
    MAP_VIPS,
    MAP_VIP_BACKENDS,
    MAP_AFFINITY,
    MAP_AFFINITY_SYN,
    MAP_CONNTRACK,
    MAP_CONNTRACK_SYN,
    MAP_NAT,
    MAP_FRAGMENTS,
    MAP_SOCKETS,
    MAP_PEERS,
    MAP_SENDERS,
    MAP_LEASES,
    MAP_HEARD,
    MAP_COUNTERS,
    MAP_WATCH,
    MAP_RECORDS,
    MAP_LOST,
    MAP_CAPTURED,
    MAP_METERS,
    MAP_METER_DROPS,
];

/// The layout of the maps, counters included: programs and maps of different layouts never meet, as
/// each has its own [`PINS`]. Raise both when a pinned map changes its size or the type or meaning of
/// its contents, a counter too.
pub const LAYOUT: u32 = 10;
/// Where maps and links are pinned, below the BPF filesystem's root.
pub const PINS: &str = "skein/v10";
