//! A cluster on one machine.
//!
//! Each host is a process that is the first of its own pid, network, mount, UTS and IPC namespaces:
//! killing it ends everything on the host, and with the last process go namespaces, mounts, devices
//! and BPF pins. Hosts are joined by a bridge on a host of its own, the switch; there is no way out.

mod build;
mod daemon;
pub mod host;
mod swarm;
mod wire;

pub use daemon::Daemon;
pub use host::Host;

use crate::{
    image,
    run::{Step, sh},
};
use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

/// Hosts get addresses from here: reserved for tests of networks (RFC 2544), so that no real host is
/// meant by one.
pub const NETWORK: (Ipv4Addr, u8) = (Ipv4Addr::new(198, 18, 0, 0), 24);
/// The most nodes a cluster on one machine has: each engine takes about 100 MB.
const NODES_MAX: u8 = 32;
/// Name of the host from which clients ask.
pub const CLIENT: &str = "client";
const SWITCH: &str = "switch";

/// What a cluster is to be.
#[derive(Clone, Debug)]
pub struct Shape {
    /// How many nodes.
    pub nodes: u8,
    /// How many of them are managers: the first ones.
    pub managers: u8,
    /// Whether they form a swarm.
    pub init: bool,
}

/// A running cluster. Dropped, it is taken down, unless it is left running.
#[derive(Debug)]
pub struct Cluster {
    folder: PathBuf,
    record: Record,
    keep: bool,
}

/// What `cluster.json` holds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    hosts: Vec<Host>,
}

impl Cluster {
    /// Builds the daemons, makes the hosts and starts everything. `tied`: if this process ends,
    /// however it does, the hosts end with it.
    ///
    /// # Errors
    /// There is a cluster already; or whatever failed, by name. Nothing is left behind then.
    pub fn up(folder: &Path, shape: &Shape, tied: bool) -> anyhow::Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "a cluster needs root: namespaces, mounts and BPF are its parts"
        );
        ensure!(
            (1..=NODES_MAX).contains(&shape.nodes) && (1..=shape.nodes).contains(&shape.managers),
            "a cluster has 1 to {NODES_MAX} nodes, and 1 to all of them are managers"
        );
        ensure!(
            !folder.join("cluster.json").exists(),
            "there is a cluster already: remove it with `cargo xtask cluster down`"
        );
        let binaries = build::daemons()?;
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        let mut cluster = Self {
            folder: folder.to_owned(),
            record: Record::default(),
            keep: false,
        };
        cluster.make_hosts(shape, tied, &binaries)?;
        let step = Step::begin("start the daemons");
        for host in cluster.nodes() {
            host.start(Daemon::ALL)?;
        }
        step.end("they run");
        let step = Step::begin("load the demo image into each engine");
        for host in cluster.nodes() {
            image::import(host, &binaries)?;
        }
        step.end("done");
        if shape.init {
            swarm::form(&cluster, shape)?;
        }
        Ok(cluster)
    }

    fn make_hosts(&mut self, shape: &Shape, tied: bool, binaries: &Path) -> anyhow::Result<()> {
        let step = Step::begin(&format!(
            "make {} nodes, a client and a switch",
            shape.nodes
        ));
        let base = NETWORK.0.to_bits();
        let mut hosts = vec![(SWITCH.to_owned(), base), (CLIENT.to_owned(), base + 250)];
        for n in 1..=shape.nodes {
            hosts.push((format!("n{n}"), base + u32::from(n)));
        }
        for (name, address) in hosts {
            let host = Host::make(
                &self.folder,
                &name,
                Ipv4Addr::from_bits(address),
                binaries,
                tied,
            )?;
            self.record.hosts.push(host);
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
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join("cluster.json");
        let text =
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self {
            folder: folder.to_owned(),
            record: serde_json::from_slice(&text)?,
            keep: true,
        })
    }

    fn store(&self) -> anyhow::Result<()> {
        let path = self.folder.join("cluster.json");
        std::fs::write(&path, serde_json::to_vec_pretty(&self.record)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Everything stays when this is dropped.
    pub fn leave_running(mut self) {
        self.keep = true;
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

    /// Takes a node's links down.
    ///
    /// # Errors
    /// There is no such node.
    pub fn cut(&self, node: &str) -> anyhow::Result<()> {
        let host = self.host(node)?;
        wire::set_port(self.host(SWITCH)?, host, "down")
    }

    /// Brings a node back that was cut off or paused.
    ///
    /// # Errors
    /// There is no such node.
    pub fn mend(&self, node: &str) -> anyhow::Result<()> {
        let host = self.host(node)?;
        if !host.is_node() {
            bail!("{node} is no node");
        }
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

    fn remove(&self) -> anyhow::Result<()> {
        for host in self.hosts().iter().rev() {
            host.remove()?;
        }
        std::fs::remove_dir_all(&self.folder)
            .with_context(|| format!("cannot remove {}", self.folder.display()))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if let Ok(folder) = std::env::var("SKEIN_KEEP_LOGS") {
            // Whoever looks for the cause of a failure wants what the daemons said.
            let _ = sh(&format!("cp -r {}/logs {folder}", self.folder.display()));
        }
        if let Err(error) = self.remove() {
            eprintln!("cannot take the cluster down: {error:#}");
        }
    }
}
