//! Two nodes of Skein that are a swarm of their own, with a hook and a forwarding that they are told.

use anyhow::{Context as _, ensure};
use xtask::{
    check::status::await_forwarding,
    cluster::{self, Attach, Cluster, Daemon, Forwarding, Host},
};

/// How such a pair is set up.
#[derive(Clone, Copy, Debug)]
pub struct Ways {
    /// The hook of the uplinks.
    pub attach: Attach,
    /// How the nodes send on to each other.
    pub forwarding: Forwarding,
}

impl Ways {
    /// Starts the daemons on both nodes, and makes them a swarm of which the first is the manager.
    ///
    /// # Errors
    /// They do not start, or form none.
    pub fn boot(self, cluster: &Cluster, nodes: [&Host; 2]) -> anyhow::Result<()> {
        for node in nodes {
            cluster.attach(node, self.attach)?;
            node.set_forwarding(self.forwarding)?;
        }
        cluster.boot(&nodes, Daemon::ALL)?;
        cluster::form(&nodes, 1, Daemon::Control)
    }

    /// Waits until both nodes send on to each other as they are to, which they do when a service is published;
    /// and makes sure of the hook.
    ///
    /// # Errors
    /// They do not.
    pub fn settle(self, nodes: [&Host; 2]) -> anyhow::Result<()> {
        for node in nodes {
            let link = node.run("ip link show dev eth0")?;
            ensure!(
                link.contains("prog/xdp") == (self.attach == Attach::Xdp),
                "{:?} is not what serves eth0 of {}: {}",
                self.attach,
                node.name(),
                node.log(Daemon::Dataplane)?
            );
        }
        // It looks for the other's segment first.
        let wanted = match self.forwarding {
            Forwarding::L2 => "l2",
            Forwarding::Vxlan => "vxlan",
            Forwarding::Auto => return Ok(()),
        };
        for [node, other] in [nodes, [nodes[1], nodes[0]]] {
            await_forwarding(node, other, wanted, wanted)
                .with_context(|| format!("{} by {wanted}", node.name()))?;
        }
        Ok(())
    }
}
