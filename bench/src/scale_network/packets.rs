//! What one packet costs: the programs of a node, over the maps that its dataplane has filled, run on packets that
//! nobody sent.

use super::state::{self, OWN_CALLER, Own, Size};
use crate::{
    frames::{NOBODY, Tcp},
    programs::NodePrograms,
};
use anyhow::Context as _;
use skein_dataplane::kernel::{Fate, Hook, Layer, mac_of};
use std::{
    net::{Ipv4Addr, SocketAddrV4},
    ops::Range,
    time::Duration,
};
use xtask::cluster::Host;

/// Runs of which a measurement is the median: a few milliseconds' worth.
const RUNS: u32 = 4_000;
/// A client outside of the cluster (RFC 5737), and the first of as many as are needed.
const CLIENT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const CLIENTS: Ipv4Addr = Ipv4Addr::new(100, 80, 0, 1);
/// Ports that clients call from.
const PORTS: (u16, u16) = (32_768, 60_999);
/// The service that is called where it is one, of those that both nodes have.
const SERVICE: u32 = 3;
/// Open flows among which packets are dealt out where they go to all services.
const FLOWS: u32 = 20_000;

/// A packet's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Which hook, and so from whom and to whom.
    pub way: Way,
    /// The first of a flow, each time of another one; else of a flow that is open.
    pub first: bool,
    /// To all services in turns; else to one.
    pub spread: bool,
}

/// From whom to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From a client to a published port, whose tasks are on other nodes.
    Entry,
    /// From a client to a published port, whose task is on this node.
    Task,
    /// From a container here to a service's own address, whose tasks are on other nodes.
    Vip,
}

impl Case {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let ways = [(Way::Entry, true), (Way::Task, false), (Way::Vip, true)];
        ways.into_iter().flat_map(|(way, many)| {
            [(false, false), (true, false), (false, true), (true, true)]
                .into_iter()
                .filter(move |(_, spread)| many || !spread)
                .map(move |(first, spread)| Self { way, first, spread })
        })
    }

    /// As the report calls it.
    pub fn what(self) -> String {
        let way = match self.way {
            Way::Entry => "from a client, on to another node",
            Way::Task => "from a client, to a task here",
            Way::Vip => "from a container, to a service's address",
        };
        let which = if self.first {
            "first of a flow"
        } else {
            "of an open flow"
        };
        let to = if self.spread {
            ", to all services in turns"
        } else {
            ""
        };
        format!("{way}: {which}{to}")
    }

    fn frame(self, node: &Node<'_>, nth: u32, opens: bool) -> anyhow::Result<Vec<u8>> {
        let flow = match (self.first, self.spread) {
            (true, _) => nth,
            (false, true) => nth % FLOWS,
            (false, false) => 0,
        };
        // The service is the flow's, so that each of its packets goes there.
        let service = if self.spread {
            flow % node.size.services
        } else {
            SERVICE
        };
        // Any number of clients for first packets; one for flows that stay.
        let ports = u32::from(PORTS.1 - PORTS.0);
        let port = PORTS.0 + (flow % ports) as u16;
        let client = match self.first {
            true => Ipv4Addr::from_bits(CLIENTS.to_bits() + flow / ports),
            false => CLIENT,
        };
        let (source, from, to, to_port) = match self.way {
            Way::Entry => (NOBODY, client, node.own.node, state::port_of(service)),
            Way::Task => (NOBODY, client, node.own.node, node.own.port),
            Way::Vip => {
                let to = state::vip(on_first(service, node.size), node.size);
                // It has one address to call from: what differs of first packets is the port that they call, too.
                let to_port = match self.first {
                    true => state::TARGET + 1 + (flow / ports) as u16,
                    false => state::TARGET,
                };
                (mac_of(OWN_CALLER), OWN_CALLER, to, to_port)
            }
        };
        let tcp = Tcp {
            from: SocketAddrV4::new(from, port),
            to: SocketAddrV4::new(to, to_port),
            opens,
        };
        tcp.frame(source, NOBODY)
    }
}

/// The container is on the first overlay alone: one of the services there.
fn on_first(service: u32, size: Size) -> u32 {
    let there = size.services.div_ceil(size.networks);
    service % there * size.networks
}

/// A node whose programs are run.
pub struct Node<'a> {
    programs: NodePrograms<'a>,
    size: Size,
    own: Own,
    uplink: u32,
    veth: u32,
    /// Flows that were begun here: those of a measurement are new ones.
    begun: u32,
}

impl<'a> Node<'a> {
    /// The programs of a node's uplink, and of its one container on an overlay.
    ///
    /// # Errors
    /// They are not attached.
    pub fn open(host: &'a Host, size: Size, own: Own) -> anyhow::Result<Self> {
        let programs = NodePrograms::of(host)?;
        let mut node = Self {
            uplink: programs.uplink()?,
            veth: programs.veth_of(OWN_CALLER)?,
            programs,
            size,
            own,
            begun: 0,
        };
        node.begin_flows()?;
        Ok(node)
    }

    /// The flows whose packets are measured.
    fn begin_flows(&mut self) -> anyhow::Result<()> {
        for case in Case::all().filter(|case| !case.first) {
            let flows = if case.spread { FLOWS } else { 1 };
            for opens in [true, false] {
                self.run(case, 0..flows, opens)?;
            }
        }
        Ok(())
    }

    /// Nanoseconds that a packet takes, in the median.
    ///
    /// # Errors
    /// The programs do not send it on.
    pub fn measure(&mut self, case: Case) -> anyhow::Result<f64> {
        let begin = if case.first { self.begun } else { 0 };
        self.begun += if case.first { RUNS } else { 0 };
        let took = self.run(case, begin..begin + RUNS, case.first)?;
        let took: Vec<f64> = took.iter().map(|took| took.as_nanos() as f64).collect();
        let sorted = crate::stats::sorted(&took);
        crate::stats::quantile(&sorted, 0.5).context("no run")
    }

    /// Runs the program on packets, one each, which open their flows or do not.
    fn run(&mut self, case: Case, which: Range<u32>, opens: bool) -> anyhow::Result<Vec<Duration>> {
        let (hook, device) = match case.way {
            Way::Entry | Way::Task => (Hook::Uplink, self.uplink),
            Way::Vip => (Hook::Veth, self.veth),
        };
        let frame = |nth| case.frame(self, nth, opens);
        let frames = which.map(frame).collect::<anyhow::Result<Vec<_>>>()?;
        let ran = self
            .programs
            .run(Layer::Tc(hook), device, Fate::Sent, &frames);
        Ok(ran.with_context(|| case.what())?.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_container_calls_services_of_its_own_overlay() {
        let size = Size {
            name: "",
            services: 2_000,
            networks: 500,
        };
        for service in 0..2_000 {
            let service = on_first(service, size);
            assert!(service < size.services && service.is_multiple_of(size.networks));
        }
    }
}
