//! The node's own settings: map `CONFIG`, one entry.

use crate::{Addr, Port, pod};

/// What the programs must know of their node. Written by the dataplane at start and on change.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Data path address of the node: outer source of the overlay, and the address that egress and
    /// translated local clients leave by. 0: not a member of a cluster.
    pub node_addr: Addr,
    /// Ifindex of the external vxlan device.
    pub vxlan_ifindex: u32,
    /// Ifindex of the host's end of the local pair (`skein0`).
    pub local_ifindex: u32,
    /// Ifindex of its other end (`skein1`), where the balancer for local clients is attached.
    pub local_peer_ifindex: u32,
    /// The reserved address that published ports have for the host's own clients.
    pub local_addr: Addr,
    /// The address of the DNS server on `skein0`.
    pub dns_addr: Addr,
    /// `bpf_get_netns_cookie` of the host's own network namespace.
    pub host_cookie: u64,
    /// First port (host byte order) of the range that translated sources leave by.
    pub nat_port_min: u16,
    /// Last port (host byte order) of that range.
    pub nat_port_max: u16,
    /// UDP port of the overlay.
    pub vxlan_port: Port,
    /// Largest IP packet that goes to another node in one piece, bytes; 0: not known.
    pub tunnel_mtu: u16,
    /// Zero.
    pub pad: [u16; 2],
    /// New flows per second and CPU above which the affinity cache takes no more SYN entries.
    pub flood_rate: u32,
    /// How long each kind of entry lives after its last packet.
    pub timeouts: Timeouts,
}

/// Lifetimes of flow entries, in nanoseconds after the last packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP, handshake complete.
    pub established: u64,
    /// TCP, handshake not complete.
    pub opening: u64,
    /// TCP, closed both ways or reset.
    pub closed: u64,
    /// UDP.
    pub udp: u64,
    /// ICMP echo.
    pub icmp: u64,
    /// The first fragment of a datagram: so long later ones follow it.
    pub fragment: u64,
}

const SECOND: u64 = 1_000_000_000;

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            // Longer than the kernel's first keepalive (7200 s) and its nine probes (75 s each), so
            // that a connection with keepalive on is never forgotten.
            established: (2 * 3600 + 15 * 60) * SECOND,
            // The kernel gives up on a handshake after about a minute.
            opening: 60 * SECOND,
            // Enough for retransmitted FINs.
            closed: 10 * SECOND,
            // As the kernel's conntrack has it for streams.
            udp: 120 * SECOND,
            icmp: 30 * SECOND,
            // They follow each other at once; the kernel waits 30 s for the last, but an
            // identification may come again within seconds where many datagrams are fragmented.
            fragment: 5 * SECOND,
        }
    }
}

pod!(Config, Timeouts);
const _: () = assert!(size_of::<Config>() == 96);
