//! The hosts: one client and one switch for all, and for each contender an entry, which the client calls.
//!
//! ```text
//!                 ┌─ entry of routing, nftables, ... ─┐
//!   client ── switch ───────────────────────────── worker ── server
//!                 └─ n1 (Skein, no task) ── n2 (Skein) ── task
//! ```
//!
//! Every packet goes from the client to the entry, from there to another host, and from that one over a
//! veth pair to the server; and the same way back. On hosts that are not Skein's, nor Docker's, there is no
//! engine and no netfilter rule but the contender's.

use super::{
    peers::{DOCKER, Peer},
    server::{self, SERVICES, url},
};
use crate::pair::Ways;
use anyhow::{Context as _, ensure};
use std::{net::Ipv4Addr, time::Duration};
use xtask::{
    Step,
    check::return_mode::{self, RETURN_MODES},
    cluster::{self, Attach, Cluster, Daemon, Forwarding, Host},
    wait_until,
};

/// The server, as the entries reach it; and its host's end of that wire. From the block for tests of networks.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 1);
/// The server, as the client reaches it past everything; and the client's end of that wire.
const STRAIGHT: Ipv4Addr = Ipv4Addr::new(198, 18, 2, 2);
const STRAIGHT_CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 2, 1);

const SERVER_HOST: &str = "server";
const WORKER: &str = "worker";
const ROUTER: &str = "router";
/// How the names begin of hosts that are entries of others than Skein.
pub const ENTRY: &str = "by-";

/// What ratios are to.
pub const ROUTING: &str = "plain routing";
/// No way at all between client and server.
pub const WIRED: &str = "wired straight";

/// Two nodes that are a swarm: the client calls the first, the task is on the second.
#[derive(Clone, Copy)]
struct Mesh {
    /// Its contenders, as the report calls them: one for each return mode, in the order of [`RETURN_MODES`].
    names: &'static [&'static str],
    /// How Skein's nodes are set up.
    ways: Ways,
    /// Whose swarm it is: Skein's, or the engines' own.
    swarm: Daemon,
}

/// Skein, each way that it can be set up: a line here is a contender.
const SKEIN: [Mesh; 4] = [
    skein(
        &[DEFAULT, "Skein: tc, l2, dsr", "Skein: tc, l2, snat"],
        Attach::Tc,
        Forwarding::L2,
    ),
    skein(
        &[
            "Skein: XDP, l2",
            "Skein: XDP, l2, dsr",
            "Skein: XDP, l2, snat",
        ],
        Attach::Xdp,
        Forwarding::L2,
    ),
    skein(
        &[VXLAN, "Skein: tc, vxlan, dsr", "Skein: tc, vxlan, snat"],
        Attach::Tc,
        Forwarding::Vxlan,
    ),
    skein(
        &[
            "Skein: XDP, vxlan",
            "Skein: XDP, vxlan, dsr",
            "Skein: XDP, vxlan, snat",
        ],
        Attach::Xdp,
        Forwarding::Vxlan,
    ),
];
/// The contender that is Skein as it sets itself up on these hosts: `--attach auto` takes tc on veth pairs,
/// `--forwarding auto` l2 on one segment.
pub const DEFAULT: &str = "Skein: tc, l2";
/// The contender for what is promised of encapsulation.
pub const VXLAN: &str = "Skein: tc, vxlan";

const fn skein(names: &'static [&'static str], attach: Attach, forwarding: Forwarding) -> Mesh {
    Mesh {
        names,
        ways: Ways { attach, forwarding },
        swarm: Daemon::Control,
    }
}

/// From a service's creation to its first answer: its task starts, and all nodes hear of it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Requests by which a contender's way is looked at, and the least packets of one: SYN, request, FIN and
/// the acknowledgement of the answer go there; as many come back.
const PROBES: u64 = 20;
const PACKETS_OF_PROBE: u64 = 3;
/// How many of the ways there and back lead through an entry.
const BOTH: u64 = 2;
const ONE: u64 = 1;

/// A contender: where the client calls it.
pub struct Entry {
    /// As the report calls it.
    pub name: &'static str,
    /// What the client calls.
    pub address: Ipv4Addr,
    /// Whether datagrams reach the server, too.
    pub datagrams: bool,
    /// Whether the server sees the client's own address.
    pub keeps_client: bool,
    /// Of a swarm with several contenders: what it must be before this one's turn.
    turn: Option<Turn>,
}

/// What makes a swarm one of its contenders.
#[derive(Clone, Copy)]
struct Turn {
    /// Its first node, by number; the other one is the next.
    first: usize,
    mode: &'static str,
}

/// All hosts, with everything on them that is measured.
pub struct Topology {
    /// The hosts.
    pub cluster: Cluster,
    /// All contenders; plain routing first.
    pub entries: Vec<Entry>,
    /// The client's own wire to the server.
    pub wired: Entry,
}

impl Topology {
    /// Makes the hosts, and sets all contenders up: Skein, plain routing and `peers`. At XDP Skein's return modes but
    /// the default take part in `every_mode` alone.
    ///
    /// # Errors
    /// A contender does not answer, or not by its way.
    pub fn make(peers: &[Peer], every_mode: bool) -> anyhow::Result<Self> {
        let mut meshes: Vec<Mesh> = SKEIN.into();
        for mesh in meshes
            .iter_mut()
            .filter(|mesh| mesh.ways.attach == Attach::Xdp)
        {
            if !every_mode {
                mesh.names = &mesh.names[..1];
            }
        }
        if peers.contains(&Peer::Docker) {
            meshes.push(Mesh {
                names: &[DOCKER],
                ways: Ways {
                    attach: Attach::Auto,
                    forwarding: Forwarding::Auto,
                },
                swarm: Daemon::Engine,
            });
        }
        let others = peers.iter().filter_map(|peer| peer.host());
        let hosts = [SERVER_HOST, WORKER, ROUTER].into_iter().chain(others);
        let mut hosts: Vec<String> = hosts.map(str::to_owned).collect();
        hosts.extend((1..=2 * meshes.len()).map(node));
        let cluster = Cluster::of_hosts("bench-ingress", &hosts)?;

        let step = Step::begin("set up routes, servers and the other contenders");
        wire(&cluster)?;
        server::serve(cluster.host(SERVER_HOST)?)?;
        for peer in peers {
            if let Some(host) = peer.host() {
                peer.start(cluster.host(host)?)
                    .with_context(|| format!("cannot set {} up", peer.name()))?;
            }
        }
        step.end("done");
        for (mesh, n) in meshes.iter().zip((1..).step_by(2)) {
            mesh.boot(
                &cluster,
                cluster.node(&node(n))?,
                cluster.node(&node(n + 1))?,
            )?;
        }

        let step = Step::begin("see by which way each contender answers");
        let client = cluster.client()?;
        let mut entries = vec![look(
            client,
            ROUTING,
            SERVER,
            Some(cluster.host(ROUTER)?),
            BOTH,
            true,
        )?];
        for (mesh, n) in meshes.iter().zip((1..).step_by(2)) {
            let first = cluster.node(&node(n))?;
            for (name, mode) in mesh.names.iter().zip(RETURN_MODES) {
                let turn = (mesh.names.len() > 1).then_some(Turn { first: n, mode });
                prepare(&cluster, turn)?;
                let ways = if mode == "dsr" { ONE } else { BOTH };
                let entry = look(client, name, first.address(), Some(first), ways, true)?;
                entries.push(Entry { turn, ..entry });
            }
        }
        for peer in peers {
            if let Some(host) = peer.host() {
                let (host, datagrams) = (cluster.host(host)?, peer.carries_datagrams());
                let (name, address) = (peer.name(), host.address());
                entries.push(look(client, name, address, Some(host), BOTH, datagrams)?);
            }
        }
        let wired = look(client, WIRED, STRAIGHT, None, BOTH, true)?;
        step.end(&format!("all {} do", entries.len()));
        Ok(Self {
            cluster,
            entries,
            wired,
        })
    }

    /// Makes the hosts what a contender needs for its turn.
    ///
    /// # Errors
    /// A node does not come to it in time.
    pub fn prepare(&self, entry: &Entry) -> anyhow::Result<()> {
        prepare(&self.cluster, entry.turn)
    }

    /// Names of the contenders by which the server sees the client's own address, or another.
    pub fn who(&self, keeps_client: bool) -> Vec<&'static str> {
        let entries = self.entries.iter();
        let those = entries.filter(|entry| entry.keeps_client == keeps_client);
        those.map(|entry| entry.name).collect()
    }
}

fn prepare(cluster: &Cluster, turn: Option<Turn>) -> anyhow::Result<()> {
    let Some(Turn { first, mode }) = turn else {
        return Ok(());
    };
    let nodes = [cluster.node(&node(first))?, cluster.node(&node(first + 1))?];
    return_mode::choose(nodes[0], nodes, &SERVICES, Some(mode), mode)
}

fn node(n: usize) -> String {
    format!("n{n}")
}

/// Lets a host pass packets on. It tells nobody of shorter ways, which on one switch there are.
///
/// # Errors
/// The host is gone.
pub fn forward(host: &Host) -> anyhow::Result<()> {
    let of = "/proc/sys/net/ipv4";
    let quiet = format!("for each in {of}/conf/*/send_redirects; do echo 0 > $each; done");
    host.shell(&format!("echo 1 > {of}/ip_forward; {quiet}"))?;
    Ok(())
}

/// The wires past the switch, and the routes of the hosts without Skein: from each to the server by the
/// worker, and between client and server by the router.
fn wire(cluster: &Cluster) -> anyhow::Result<()> {
    let (client, server) = (cluster.client()?, cluster.host(SERVER_HOST)?);
    let (worker, router) = (cluster.host(WORKER)?, cluster.host(ROUTER)?);
    // Only the worker, and the client's own wire, lead to it.
    server.run("ip link delete eth0")?;
    cluster::join((worker, "to-server", GATEWAY), (server, "eth0", SERVER))?;
    cluster::join(
        (client, "to-server", STRAIGHT_CLIENT),
        (server, "to-client", STRAIGHT),
    )?;
    server.run(&format!("ip route add default via {GATEWAY}"))?;
    for host in [worker, router] {
        forward(host)?;
    }
    for host in cluster.hosts() {
        let is_entry = host.name() == ROUTER || host.name().starts_with(ENTRY);
        if is_entry {
            let worker = worker.address();
            host.run(&format!("ip route add {SERVER}/32 via {worker}"))?;
        }
    }
    let router = router.address();
    client.run(&format!("ip route add {SERVER}/32 via {router}"))?;
    worker.run(&format!(
        "ip route add {}/32 via {router}",
        client.address()
    ))?;
    Ok(())
}

impl Mesh {
    /// Makes its two nodes a swarm with the server on the second.
    fn boot(&self, cluster: &Cluster, first: &Host, second: &Host) -> anyhow::Result<()> {
        let nodes = [first, second];
        if self.swarm == Daemon::Control {
            self.ways.boot(cluster, nodes)?;
        } else {
            cluster.boot(&nodes, &[Daemon::Engine])?;
            cluster::form(&nodes, 1, self.swarm)?;
        }
        server::publish(first, second, self.swarm)?;
        if self.swarm == Daemon::Control {
            self.ways.settle(nodes).context(self.names[0])?;
        }
        Ok(())
    }
}

/// Waits until a contender answers, and makes sure that so many ways lead through its entry.
fn look(
    client: &Host,
    name: &'static str,
    address: Ipv4Addr,
    entry: Option<&Host>,
    ways: u64,
    datagrams: bool,
) -> anyhow::Result<Entry> {
    let ask = |path| {
        let url = url(address, path);
        client.run(&format!(
            "curl --silent --show-error --fail --max-time 2 {url}"
        ))
    };
    let seen = wait_until(&format!("{name} answers"), ANSWER_TIMEOUT, || {
        ask(server::WHO_ASKS)
    })?;
    if let Some(entry) = entry {
        let before = Passed::by(entry)?;
        for _ in 0..PROBES {
            ask("/")?;
        }
        let after = Passed::by(entry)?;
        let least = ways * PROBES * PACKETS_OF_PROBE;
        for (way, before, after) in [
            ("into", before.received, after.received),
            ("out of", before.sent, after.sent),
        ] {
            let passed = after.saturating_sub(before);
            ensure!(
                passed >= least,
                "{name}: of {PROBES} requests, and of their answers where they pass, only {passed} packets went {way} {}",
                entry.name()
            );
        }
    }
    let seen: Ipv4Addr = seen
        .trim()
        .parse()
        .with_context(|| format!("{name} answered {seen:?} to who asks"))?;
    Ok(Entry {
        name,
        address,
        datagrams,
        keeps_client: seen == client.address(),
        turn: None,
    })
}

/// Packets that passed a host's port on the switch.
struct Passed {
    received: u64,
    sent: u64,
}

impl Passed {
    fn by(host: &Host) -> anyhow::Result<Self> {
        let counted = host.run("cat /proc/self/net/dev")?;
        Self::parse(&counted).with_context(|| format!("{} says {counted}", host.name()))
    }

    fn parse(counted: &str) -> Option<Self> {
        let lines = counted.lines().filter_map(|line| line.split_once(':'));
        let (_, counts) = { lines }.find(|(device, _)| device.trim() == "eth0")?;
        // Bytes, packets and six others of what was received, then the same of what was sent.
        let mut counts = counts.split_whitespace().skip(1).step_by(8);
        let mut next = || counts.next()?.parse().ok();
        Some(Self {
            received: next()?,
            sent: next()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_read_of_the_port_alone() {
        let counted = "Inter-|   Receive  |  Transmit\n face |bytes packets errs drop fifo frame \
             compressed multicast|bytes packets errs drop fifo colls carrier compressed\n    \
             lo:  1  2 0 0 0 0 0 0  1  2 0 0 0 0 0 0\n  eth0: 900 10 0 0 0 0 0 0 800 9 0 0 0 0 0 0\n";
        let passed = Passed::parse(counted).unwrap();
        assert_eq!((passed.received, passed.sent), (10, 9));
        assert!(Passed::parse("").is_none());
    }

    #[test]
    fn what_bars_are_about_takes_part() {
        for name in [DEFAULT, VXLAN] {
            assert!(SKEIN.iter().any(|mesh| mesh.names[0] == name), "{name}");
        }
    }
}
