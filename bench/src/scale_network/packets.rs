//! What one packet costs: the programs of a node, as they are attached, run on frames by BPF_PROG_TEST_RUN.

use super::state::{self, OWN_CALLER, Own, Size};
use anyhow::{Context as _, ensure};
use aya::{
    TestRun as _, TestRunOptions,
    programs::{SchedClassifier, loaded_programs},
};
use etherparse::PacketBuilder;
use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use skein_abi::names::{PINS, PROG_UPLINK, PROG_VETH};
use skein_dataplane::kernel::mac_of;
use std::{fs::File, net::Ipv4Addr};
use xtask::cluster::Host;

/// Runs of which a measurement is the median: a few milliseconds' worth.
const RUNS: u32 = 4_000;
/// What the programs return for what leaves by another way than it came (include/uapi/linux/pkt_cls.h).
const TC_ACT_REDIRECT: u32 = 7;
/// Of the locally administered MAC addresses, which no device has from its maker.
const NOBODY: [u8; 6] = [0x02, 0, 0, 0, 0, 1];
/// A client outside of the cluster (RFC 5737), and the first of as many as are needed.
const CLIENT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const CLIENTS: Ipv4Addr = Ipv4Addr::new(100, 80, 0, 1);
/// Linux's usual values.
const TTL: u8 = 64;
const WINDOW: u16 = 64_240;
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

    fn frame(self, node: &Node<'_>, nth: u32) -> Vec<u8> {
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
        tcp(self.first, source, (from, port), (to, to_port))
    }
}

/// The container is on the first overlay alone: one of the services there.
fn on_first(service: u32, size: Size) -> u32 {
    let there = size.services.div_ceil(size.networks);
    service % there * size.networks
}

fn tcp(syn: bool, mac: [u8; 6], from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> Vec<u8> {
    let ip = PacketBuilder::ethernet2(mac, NOBODY).ipv4(from.0.octets(), to.0.octets(), TTL);
    let mut frame = Vec::new();
    let written = match syn {
        true => ip.tcp(from.1, to.1, 0, WINDOW).syn().write(&mut frame, &[]),
        false => ip
            .tcp(from.1, to.1, 1, WINDOW)
            .ack(1)
            .write(&mut frame, &[]),
    };
    written.expect("a vector takes what is written, and the packet is short");
    frame
}

/// A node whose programs are run.
pub struct Node<'a> {
    host: &'a Host,
    size: Size,
    own: Own,
    uplink: Attached,
    veth: Attached,
    /// Flows that were begun here: those of a measurement are new ones.
    begun: u32,
}

struct Attached {
    program: SchedClassifier,
    ifindex: u32,
}

impl<'a> Node<'a> {
    /// The programs of a node's uplink, and of its one container on an overlay.
    ///
    /// # Errors
    /// They are not attached.
    pub fn open(host: &'a Host, size: Size, own: Own) -> anyhow::Result<Self> {
        // Of /sys each host sees the one of the machine's own network.
        let eth0 = host.run("ip -o link show dev eth0")?;
        let eth0 = eth0
            .split_once(':')
            .and_then(|(ifindex, _)| ifindex.parse().ok());
        let eth0: u32 = eth0.context("eth0 has no number")?;
        let veths = host.shell(&format!("ls /sys/fs/bpf/{PINS}/links"))?;
        let begin = format!("{PROG_VETH}-");
        let veths = veths.lines().filter_map(|pin| pin.strip_prefix(&begin));
        let mut veths: Vec<u32> = veths.filter_map(|ifindex| ifindex.parse().ok()).collect();
        // The one made last is the caller's.
        veths.sort_unstable();
        let veth = veths.pop().context("no container is attached")?;
        let mut node = Self {
            host,
            size,
            own,
            uplink: attached(host, PROG_UPLINK, eth0)?,
            veth: attached(host, PROG_VETH, veth)?,
            begun: 0,
        };
        node.begin_flows()?;
        Ok(node)
    }

    /// The flows whose packets are measured.
    fn begin_flows(&mut self) -> anyhow::Result<()> {
        for case in Case::all().filter(|case| !case.first) {
            let flows = if case.spread { FLOWS } else { 1 };
            self.run(case, 0..flows, |node, nth| {
                let mut frame = case.frame(node, nth);
                // Its first packet is the same but for the flag.
                let flags = frame.len() - 7;
                debug_assert_eq!(frame[flags], ACK);
                frame[flags] = SYN;
                frame
            })?;
            self.run(case, 0..flows, |node, nth| case.frame(node, nth))?;
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
        let took = self.run(case, begin..begin + RUNS, |node, nth| case.frame(node, nth))?;
        let took: Vec<f64> = took.into_iter().map(|nanos| nanos as f64).collect();
        let sorted = crate::stats::sorted(&took);
        crate::stats::quantile(&sorted, 0.5).context("no run")
    }

    /// Runs the program on frames, one each.
    fn run(
        &self,
        case: Case,
        which: std::ops::Range<u32>,
        frame: impl Fn(&Self, u32) -> Vec<u8> + Sync,
    ) -> anyhow::Result<Vec<u64>> {
        let at = match case.way {
            Way::Entry | Way::Task => &self.uplink,
            Way::Vip => &self.veth,
        };
        // `ifindex` is the eleventh field of `struct __sk_buff`; those before it must be 0.
        let fields = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, at.ifindex];
        let fields: Vec<u8> = fields
            .iter()
            .flat_map(|field: &u32| field.to_ne_bytes())
            .collect();
        let frames: Vec<Vec<u8>> = which.map(|nth| frame(self, nth)).collect();
        let run = || {
            let namespace = format!("/proc/{}/ns/net", self.host.process());
            // The device is found in it.
            setns(File::open(namespace)?, CloneFlags::CLONE_NEWNET)
                .context("cannot enter the host's network")?;
            let mut took = Vec::with_capacity(frames.len());
            for frame in &frames {
                let ran = at.program.test_run(TestRunOptions {
                    data_in: Some(frame),
                    ctx_in: Some(&fields),
                    ..TestRunOptions::default()
                })?;
                ensure!(
                    ran.return_value == TC_ACT_REDIRECT,
                    "{}: the program returns {}",
                    case.what(),
                    ran.return_value
                );
                took.push(u64::try_from(ran.duration.as_nanos())?);
            }
            anyhow::Ok(took)
        };
        std::thread::scope(|scope| {
            let ran = scope.spawn(run).join();
            ran.map_err(|_| anyhow::anyhow!("the thread that runs programs panicked"))?
        })
    }
}

/// Flags of TCP.
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

fn attached(host: &Host, name: &str, ifindex: u32) -> anyhow::Result<Attached> {
    let pin = format!("/sys/fs/bpf/{PINS}/links/{name}-{ifindex}");
    let shown = host.run(&format!("bpftool -j link show pinned {pin}"))?;
    let shown: Value = serde_json::from_str(&shown)?;
    let id = shown["prog_id"].as_u64();
    let id = id.with_context(|| format!("bpftool says {shown}"))?;
    for program in loaded_programs() {
        let program = program.context("cannot list the kernel's programs")?;
        if u64::from(program.id()) == id {
            let program = SchedClassifier::from_program_info(program, name.to_owned().into())
                .with_context(|| format!("cannot open {name}"))?;
            return Ok(Attached { program, ifindex });
        }
    }
    anyhow::bail!("the program of {pin} is gone")
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

    #[test]
    fn the_flags_are_where_a_flow_s_first_packet_has_them() {
        let frame = |syn| tcp(syn, NOBODY, (CLIENT, 1), (CLIENT, 2));
        let (first, next) = (frame(true), frame(false));
        assert_eq!(first[first.len() - 7], SYN);
        assert_eq!(next[next.len() - 7], ACK);
    }
}
