//! Command line.

use clap::{Parser, ValueEnum};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

/// Beside the ports that Prometheus's exporters have by custom, from 9100 on, and below those that the
/// managers give to services by themselves, from 30000 on.
const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9_789);

/// Beside VXLAN's, 4789, and below the ports that Linux gives to sockets by itself. Not WireGuard's own, 51820, by
/// which the host may have tunnels that are none of Skein's.
const WIREGUARD_PORT: u16 = 4_793;

/// Skein's dataplane: endpoints, overlays, published ports, names, and Docker's network plugin.
#[derive(Clone, Debug, Parser)]
#[command(version)]
pub struct Config {
    /// Where to keep what must survive a restart.
    #[arg(long, default_value = "/var/lib/skein/dataplane")]
    pub state_dir: PathBuf,
    /// Unix socket for skein-control.
    #[arg(long, default_value = "/run/skein/dataplane.sock")]
    pub socket: PathBuf,
    /// Unix socket for `skein`, by which nothing can be changed.
    #[arg(long, default_value = "/run/skein/inspect.sock")]
    pub inspect: PathBuf,
    /// Unix socket on which the container engine finds its network plugin.
    #[arg(long, default_value = "/run/docker/plugins/skein.sock")]
    pub plugin_socket: PathBuf,
    /// The BPF filesystem; mounted if it is not.
    #[arg(long, default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,
    /// Where Prometheus finds /metrics. On loopback, so that no published port is lost to it.
    #[arg(long, default_value_t = METRICS)]
    pub metrics: SocketAddr,
    /// Which hook serves the uplinks.
    #[arg(long, value_enum, default_value_t)]
    pub attach: Attach,
    /// How what clients send goes on to other nodes. Chosen for each of them: `skein status` shows it.
    #[arg(long, value_enum, default_value_t)]
    pub forwarding: Forwarding,
    /// Whose WireGuard encrypts what goes between nodes on encrypted networks: `skein status` shows it.
    #[arg(long, value_enum, default_value_t)]
    pub wireguard: Wireguard,
    /// UDP port by which the other nodes send what is encrypted; they hear of it by the managers.
    #[arg(long, default_value_t = WIREGUARD_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    pub wireguard_port: u16,
}

/// Whose WireGuard it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Wireguard {
    /// The kernel's where it has one, else that of this process.
    #[default]
    Auto,
    /// The kernel's. Where it has none, nothing is sent on encrypted networks.
    Kernel,
    /// That of this process, which the kernel knows nothing of.
    Userspace,
}

/// How what clients send goes on to other nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Forwarding {
    /// By l2 to those nodes on a segment of this one with which probes show, again and again, that the network
    /// delivers it; else by vxlan.
    #[default]
    Auto,
    /// By l2 to all nodes on a segment of this one, untried: not encapsulated, in frames with the clients' own
    /// addresses, which many clouds drop.
    L2,
    /// In VXLAN to all. Other nodes send to this one so, too.
    Vxlan,
}

/// Which hook serves the uplinks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Attach {
    /// Native XDP where the driver has it and it gains, else tc.
    #[default]
    Auto,
    /// Native XDP wherever it works; tc elsewhere, and behind it.
    Xdp,
    /// tc everywhere.
    Tc,
}
