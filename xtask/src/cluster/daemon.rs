//! The daemons of a node, and how each is started.

use clap::ValueEnum;
use std::path::Path;

/// What runs on a node, in the order in which it starts: the engine asks the dataplane for its
/// plugin, and the control plane asks both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Daemon {
    /// `skein-dataplane`
    #[value(name = "skein-dataplane")]
    Dataplane,
    /// `dockerd`
    #[value(name = "dockerd")]
    Engine,
    /// `skein-control`
    #[value(name = "skein-control")]
    Control,
}

/// The hook that `skein-dataplane` is told to serve uplinks by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Attach {
    /// As it sees fit.
    #[default]
    Auto,
    /// XDP.
    Xdp,
    /// tc.
    Tc,
}

impl Attach {
    /// Its name on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Xdp => "xdp",
            Self::Tc => "tc",
        }
    }
}

/// How `skein-dataplane` is told to send on what clients send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Forwarding {
    /// As the network lets it.
    #[default]
    Auto,
    /// Not encapsulated.
    L2,
    /// In VXLAN.
    Vxlan,
}

impl Forwarding {
    /// Its name on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::L2 => "l2",
            Self::Vxlan => "vxlan",
        }
    }
}

impl Daemon {
    /// All of them, in the order in which they start.
    pub const ALL: &[Self] = &[Self::Dataplane, Self::Engine, Self::Control];

    /// The ones named, or all if none is.
    pub fn or_all(daemons: &[Self]) -> &[Self] {
        if daemons.is_empty() {
            Self::ALL
        } else {
            daemons
        }
    }

    /// Name of the program.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dataplane => "skein-dataplane",
            Self::Engine => "dockerd",
            Self::Control => "skein-control",
        }
    }

    /// The unix socket that is there when the daemon is ready, in the host.
    pub fn socket(self) -> &'static str {
        match self {
            Self::Dataplane => "/run/skein/dataplane.sock",
            Self::Engine => "/run/docker.sock",
            Self::Control => "/run/skein/docker.sock",
        }
    }

    /// The command line: program and arguments.
    pub(super) fn command(self, binaries: &Path, containers: &str) -> Vec<String> {
        let own = |name: &str| binaries.join(name).display().to_string();
        match self {
            Self::Dataplane => vec![own("skein-dataplane")],
            Self::Control => vec![own("skein-control")],
            Self::Engine => vec![
                "/usr/sbin/dockerd".to_owned(),
                "--exec-opt=native.cgroupdriver=cgroupfs".to_owned(),
                format!("--cgroup-parent={containers}"),
            ],
        }
    }
}
