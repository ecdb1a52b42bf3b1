//! A cluster on one machine.
//!
//! Each host is a process that is the first of its own pid, network, mount, UTS and IPC namespaces:
//! killing it ends everything on the host, and with the last process go namespaces, mounts, devices
//! and BPF pins. Hosts are joined by a bridge on a host of its own, the switch; there is no way out.

pub(crate) mod build;
mod cgroup;
mod daemon;
pub mod hold;
mod host;
mod namespace;
mod running;
mod swarm;
mod wire;

pub use cgroup::cgroup_roots;
pub use daemon::{Attach, Daemon, Forwarding};
use hold::Tie;
pub use host::Host;
pub use namespace::within_network;
pub use swarm::form;
pub use wire::join;

use crate::{image, process::is_alive, run::Step};
use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

/// Hosts get addresses from here: reserved for tests of networks (RFC 2544), so that no real host is
/// meant by one.
pub const NETWORK: (Ipv4Addr, u8) = (Ipv4Addr::new(198, 18, 0, 0), 24);
/// The most nodes a cluster on one machine has: each engine takes about 100 MB.
pub const NODES_MAX: u8 = 32;
/// Name of the host from which clients ask.
pub const CLIENT: &str = "client";
const SWITCH: &str = "switch";
/// Where clusters are, each in a folder by its name, below where cargo builds.
const CLUSTERS: &str = "skein-clusters";
/// Where the logs of clusters are kept on which something failed.
const FAILED_LOGS: &str = "skein-failed";
/// File that says which hosts a cluster has.
const RECORD: &str = "cluster.json";

/// What a cluster is to be.
#[derive(Clone, Debug)]
pub struct Shape {
    /// How many nodes.
    pub nodes: u8,
    /// How many of them are managers: the first ones.
    pub managers: u8,
    /// Whether they form a swarm.
    pub init: bool,
    /// Which hook serves their uplinks.
    pub attach: Attach,
}

/// A running cluster. Dropped, it is taken down, unless it is left running; and if this process ends
/// without a word, the hosts end with it.
pub struct Cluster {
    folder: PathBuf,
    record: Record,
    ties: Vec<Tie>,
    keep: bool,
}

/// What `cluster.json` holds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    /// The process that makes it.
    maker: u32,
    /// Whether it is whole, and stays when that process ends.
    stays: bool,
    hosts: Vec<Host>,
}

impl Record {
    /// Whether nobody has a use for it any more.
    fn is_remains(&self) -> bool {
        match self.stays {
            true => !self.hosts.iter().any(Host::is_kept),
            false => !is_alive(format!("/proc/{}", self.maker)),
        }
    }
}

fn folder_of(name: &str) -> anyhow::Result<PathBuf> {
    Ok(crate::target_dir()?.join(CLUSTERS).join(name))
}

/// Removes what is left of clusters whose maker was killed, or whose hosts were.
///
/// # Errors
/// Something cannot be removed.
pub fn sweep() -> anyhow::Result<()> {
    let Ok(folders) = std::fs::read_dir(crate::target_dir()?.join(CLUSTERS)) else {
        return Ok(());
    };
    for folder in folders {
        let folder = folder?.path();
        // Without a record no host was made yet.
        if let Ok(cluster) = Cluster::open_at(folder)
            && cluster.record.is_remains()
        {
            cluster.remove()?;
        }
    }
    Ok(())
}

impl Cluster {
    /// Builds the daemons, makes the hosts and starts everything. Clusters are told apart by name.
    ///
    /// # Errors
    /// There is a cluster already; or whatever failed, by name. Nothing is left behind then.
    pub fn up(name: &str, shape: &Shape) -> anyhow::Result<Self> {
        Self::with_daemons(name, shape, Daemon::ALL)
    }

    /// Nodes with an engine and nothing of Skein: Docker as it is, to compare with.
    ///
    /// # Errors
    /// As [`Cluster::up`].
    pub fn of_engines(name: &str, nodes: u8) -> anyhow::Result<Self> {
        let shape = Shape {
            nodes,
            managers: 1,
            init: false,
            attach: Attach::Auto,
        };
        Self::with_daemons(name, &shape, &[Daemon::Engine])
    }

    fn with_daemons(name: &str, shape: &Shape, daemons: &[Daemon]) -> anyhow::Result<Self> {
        ensure!(
            (1..=shape.nodes).contains(&shape.managers),
            "1 to all of a cluster's nodes are managers"
        );
        let names: Vec<String> = (1..=shape.nodes).map(|n| format!("n{n}")).collect();
        let cluster = Self::of_hosts(name, &names)?;
        let nodes: Vec<&Host> = cluster.nodes().collect();
        for host in cluster.hosts().iter().filter(|host| host.name() != SWITCH) {
            cluster.attach(host, shape.attach)?;
        }
        cluster.boot(&nodes, daemons)?;
        if shape.init {
            swarm::form(&nodes, shape.managers.into(), Daemon::Control)?;
        }
        Ok(cluster)
    }

    /// A client and other hosts on one switch, on which nothing runs: nodes, whose names begin with an
    /// `n`, for [`Cluster::boot`], others for whatever is tried on them.
    ///
    /// # Errors
    /// As [`Cluster::up`].
    pub fn of_hosts(name: &str, hosts: &[String]) -> anyhow::Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "a cluster needs root: namespaces, mounts and BPF are its parts"
        );
        ensure!(
            (1..=usize::from(NODES_MAX)).contains(&hosts.len()),
            "a cluster has 1 to {NODES_MAX} nodes"
        );
        sweep()?;
        let folder = folder_of(name)?;
        ensure!(
            !folder.join(RECORD).exists(),
            "there is a cluster already: remove it with `cargo xtask cluster down`"
        );
        let binaries = build::daemons()?;
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        let mut cluster = Self {
            folder,
            record: Record {
                maker: std::process::id(),
                ..Record::default()
            },
            ties: Vec::new(),
            keep: false,
        };
        cluster.make_hosts(hosts, &binaries)?;
        Ok(cluster)
    }

    /// Starts daemons on nodes, and loads the demo image into their engines.
    ///
    /// # Errors
    /// A daemon does not start.
    pub fn boot(&self, nodes: &[&Host], daemons: &[Daemon]) -> anyhow::Result<()> {
        let step = Step::begin("start the daemons");
        for host in nodes {
            host.start(daemons)?;
        }
        step.end("they run");
        let step = Step::begin("load the demo image into each engine");
        for host in nodes {
            image::import(host)?;
        }
        step.end("done");
        Ok(())
    }

    /// Chooses the hook of a node that is not booted yet, and lets the switch take what it sends.
    ///
    /// # Errors
    /// The switch's port refuses.
    pub fn attach(&self, host: &Host, attach: Attach) -> anyhow::Result<()> {
        host.set_attach(attach)?;
        if attach == Attach::Xdp {
            wire::take_from_xdp(self.host(SWITCH)?, host)?;
        }
        Ok(())
    }

    fn make_hosts(&mut self, names: &[String], binaries: &Path) -> anyhow::Result<()> {
        let count = names.len();
        let step = Step::begin(&format!("make {count} hosts, a client and a switch"));
        let base = NETWORK.0.to_bits();
        let mut hosts = vec![(SWITCH, base), (CLIENT, base + 250)];
        hosts.extend(names.iter().map(String::as_str).zip(base + 1..));
        for (name, address) in hosts {
            let address = Ipv4Addr::from_bits(address);
            let (host, tie) = Host::make(&self.folder, name, address, binaries)?;
            self.record.hosts.push(host);
            self.ties.push(tie);
            self.store()?;
        }
        let switch = self.host(SWITCH)?;
        wire::make_switch(switch)?;
        for host in self.hosts().iter().filter(|host| host.name() != SWITCH) {
            wire::plug_in(switch, host)?;
        }
        step.end("done");
        Ok(())
    }

    /// A cluster that another process brought up.
    ///
    /// # Errors
    /// There is none.
    pub fn open(name: &str) -> anyhow::Result<Self> {
        Self::find(name)?.context("there is no cluster: `cargo xtask cluster up` makes one")
    }

    /// A cluster that another process brought up, if there is one.
    ///
    /// # Errors
    /// Its record cannot be read.
    pub fn find(name: &str) -> anyhow::Result<Option<Self>> {
        let folder = folder_of(name)?;
        match folder.join(RECORD).exists() {
            true => Self::open_at(folder).map(Some),
            false => Ok(None),
        }
    }

    fn open_at(folder: PathBuf) -> anyhow::Result<Self> {
        let path = folder.join(RECORD);
        let text =
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut record: Record = serde_json::from_slice(&text)?;
        // Where the folder is a copy, the hosts are those of the original, which may run still.
        record
            .hosts
            .retain(|host| host.folder.starts_with(&folder) || !host.folder.exists());
        Ok(Self {
            folder,
            record,
            ties: Vec::new(),
            keep: true,
        })
    }

    fn store(&self) -> anyhow::Result<()> {
        let path = self.folder.join(RECORD);
        std::fs::write(&path, serde_json::to_vec_pretty(&self.record)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Everything stays when this is dropped, and when this process ends.
    ///
    /// # Errors
    /// A host has ended.
    pub fn leave_running(mut self) -> anyhow::Result<()> {
        for tie in self.ties.drain(..) {
            tie.untie()?;
        }
        self.record.stays = true;
        self.store()?;
        self.keep = true;
        Ok(())
    }

    /// Whether whoever makes it is done.
    pub fn is_whole(&self) -> bool {
        self.record.stays
    }

    /// All hosts.
    pub fn hosts(&self) -> &[Host] {
        &self.record.hosts
    }

    /// The hosts that run the daemons.
    pub fn nodes(&self) -> impl Iterator<Item = &Host> {
        self.hosts().iter().filter(|host| host.is_node())
    }

    /// A host by name.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn host(&self, name: &str) -> anyhow::Result<&Host> {
        let found = self.hosts().iter().find(|host| host.name() == name);
        found.with_context(|| {
            let names: Vec<_> = self.hosts().iter().map(Host::name).collect();
            format!("no host {name:?}; there are {}", names.join(", "))
        })
    }

    /// The host that clients ask from.
    ///
    /// # Errors
    /// Never on a whole cluster.
    pub fn client(&self) -> anyhow::Result<&Host> {
        self.host(CLIENT)
    }

    /// A node by name.
    ///
    /// # Errors
    /// There is no such node.
    pub fn node(&self, name: &str) -> anyhow::Result<&Host> {
        let host = self.host(name)?;
        ensure!(host.is_node(), "{name} is no node");
        Ok(host)
    }

    /// Takes a node's links down.
    ///
    /// # Errors
    /// There is no such node.
    pub fn cut(&self, node: &str) -> anyhow::Result<()> {
        wire::set_port(self.host(SWITCH)?, self.node(node)?, "down")
    }

    /// Brings a node back that was cut off or paused.
    ///
    /// # Errors
    /// There is no such node.
    pub fn mend(&self, node: &str) -> anyhow::Result<()> {
        let host = self.node(node)?;
        wire::set_port(self.host(SWITCH)?, host, "up")?;
        host.resume()
    }

    /// Takes everything down.
    ///
    /// # Errors
    /// Something could not be removed; the rest is.
    pub fn down(mut self) -> anyhow::Result<()> {
        self.keep = true;
        let step = Step::begin("take the cluster down");
        self.remove()?;
        step.end("nothing is left");
        Ok(())
    }

    fn save_logs(&self) -> anyhow::Result<PathBuf> {
        let name = self
            .folder
            .file_name()
            .context("a cluster without a name")?;
        let logs = crate::target_dir()?.join(FAILED_LOGS);
        std::fs::create_dir_all(&logs)?;
        let saved = logs.join(name);
        if saved.exists() {
            std::fs::remove_dir_all(&saved)?;
        }
        std::fs::rename(self.folder.join("logs"), &saved)?;
        Ok(saved)
    }

    fn remove(&self) -> anyhow::Result<()> {
        let hosts = self.hosts().iter().rev();
        let mut left: Vec<String> = hosts
            .filter_map(|host| {
                let error = host.remove().err()?;
                Some(format!("host {}: {error:#}", host.name()))
            })
            .collect();
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            left.push(format!("{}: {error}", self.folder.display()));
        }
        ensure!(left.is_empty(), "cannot remove {}", left.join("; "));
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        // Whoever looks for the cause of a failure wants what the daemons said.
        match self.save_logs() {
            Ok(saved) => eprintln!("the daemons' logs are in {}", saved.display()),
            Err(error) => eprintln!("cannot save the daemons' logs: {error:#}"),
        }
        if let Err(error) = self.remove() {
            eprintln!("cannot take the cluster down: {error:#}");
        }
    }
}
