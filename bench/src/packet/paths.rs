//! The paths of a packet through a cluster's programs. What one program made of a frame is what the next one gets, so
//! that each has what it would have on the wire.

use super::{PAIRS, empty::Empty};
use crate::{
    frames::{NOBODY, Tcp},
    programs::NodePrograms,
    stats,
};
use anyhow::{Context as _, ensure};
use skein_abi::{addr, limits::FLOOD_RATE, mac};
use skein_dataplane::kernel::{Fate, Hook, Layer, run_once};
use std::{
    cell::{Cell, RefCell},
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};
use xtask::cluster::{Attach, Forwarding};

/// What the others' times are to.
pub const EMPTY_XDP: &str = "an empty XDP program";
pub const EMPTY_TC: &str = "an empty tc program";
/// Those with a bar.
pub const XDP_L2_HIT: &str = "XDP: entry, hit, forwarded by l2";
pub const XDP_VXLAN_HIT: &str = "XDP: entry, hit, forwarded in VXLAN";
pub const TC_L2_DELIVER: &str = "tc: node of the task, hit, delivered";

/// Ports of clients: the one whose connection is known, and the first of those that open one.
const KNOWN: u16 = 40_000;
const FIRST: u16 = 1_024;
/// New flows a second, far from what is taken for a flood; and how many are looked at between two waits.
const NEW_A_SECOND: u32 = FLOOD_RATE / 2;
const BATCH: usize = 500;
/// A port that nobody publishes.
const UNPUBLISHED: u16 = 30_081;

/// What serves uplinks behind XDP, and where there is none.
const UPLINK: Layer = Layer::Tc(Hook::Uplink);

/// A contender: a program, and what it is to make of which frames.
pub struct Path<'a, 'h> {
    /// As the report calls it.
    pub name: &'static str,
    /// What it is compared with.
    pub base: &'static str,
    runs: Runs<'a, 'h>,
}

enum Runs<'a, 'h> {
    /// Of the empty program of a layer, at a node's uplink.
    Empty(&'a Empty, Layer, u32),
    /// Of a node's program, on the same frame again and again.
    Same(&'a RefCell<NodePrograms<'h>>, Layer, u32, Fate, Vec<u8>),
    /// On packets that each open a connection of their own.
    New(&'a RefCell<NodePrograms<'h>>, Layer, u32, Opening),
}

/// Clients that open connections to a port, each one but once.
struct Opening {
    to: SocketAddrV4,
    next: Cell<u32>,
}

impl Opening {
    /// Clients have all ports but the low ones, and addresses of the block that measurements have (RFC 2544).
    fn frames(&self, count: usize) -> anyhow::Result<Vec<Vec<u8>>> {
        let ports = u32::from(u16::MAX - FIRST);
        let frame = |_| {
            let n = self.next.replace(self.next.get() + 1);
            let address = u32::from(Ipv4Addr::new(198, 19, 0, 1)) + n / ports;
            let port = FIRST + u16::try_from(n % ports)?;
            let from = SocketAddrV4::new(Ipv4Addr::from(address), port);
            let opens = true;
            let to = self.to;
            Tcp { from, to, opens }.frame(NOBODY, NOBODY)
        };
        (0..count).map(frame).collect()
    }
}

impl Path<'_, '_> {
    /// What so many runs take, the median, ns.
    ///
    /// # Errors
    /// A run comes to something else than the path is named for.
    pub fn median(&self, runs: usize) -> anyhow::Result<f64> {
        let took = match &self.runs {
            Runs::Empty(empty, layer, device) => {
                let frame = NOBODY.repeat(9);
                let run = |_| {
                    let ran = match layer {
                        Layer::Xdp => run_once(empty.xdp()?, *layer, *device, &frame),
                        Layer::Tc(_) => run_once(empty.tc()?, *layer, *device, &frame),
                    };
                    let (fate, _, took) = ran.context("cannot run an empty program")?;
                    ensure!(fate == Fate::Passed, "an empty program came to {fate:?}");
                    Ok(took)
                };
                (0..runs).map(run).collect::<anyhow::Result<Vec<_>>>()?
            }
            Runs::Same(node, layer, device, fate, frame) => {
                let frames = vec![frame.clone(); runs];
                node.borrow_mut().run(*layer, *device, *fate, &frames)?.1
            }
            Runs::New(node, layer, device, opening) => {
                let mut took = Vec::with_capacity(runs);
                while took.len() < runs {
                    let began = Instant::now();
                    let frames = opening.frames(BATCH.min(runs - took.len()))?;
                    let mut node = node.borrow_mut();
                    took.extend(node.run(*layer, *device, Fate::Sent, &frames)?.1);
                    let due = Duration::from_secs(1) * BATCH as u32 / NEW_A_SECOND;
                    std::thread::sleep(due.saturating_sub(began.elapsed()));
                }
                took
            }
        };
        let nanoseconds: Vec<f64> = took.iter().map(|took| took.as_nanos() as f64).collect();
        stats::quantile(&stats::sorted(&nanoseconds), 0.5).context("no runs")
    }
}

/// The names of one pair's paths, in the order of a packet's way.
struct Names {
    base: &'static str,
    miss: Option<&'static str>,
    hit: &'static str,
    new: &'static str,
    deliver: Option<&'static str>,
    answer: Option<&'static str>,
}

fn names(attach: Attach, forwarding: Forwarding) -> Names {
    match (attach == Attach::Xdp, forwarding) {
        (true, Forwarding::L2) => Names {
            base: EMPTY_XDP,
            miss: Some("XDP: of no published port"),
            hit: XDP_L2_HIT,
            new: "XDP: entry, new flow, by l2",
            deliver: Some("XDP: node of the task, hit, left to tc"),
            answer: None,
        },
        (true, _) => Names {
            base: EMPTY_XDP,
            miss: None,
            hit: XDP_VXLAN_HIT,
            new: "XDP: entry, new flow, in VXLAN",
            deliver: None,
            answer: None,
        },
        (false, Forwarding::L2) => Names {
            base: EMPTY_TC,
            miss: Some("tc: of no published port"),
            hit: "tc: entry, hit, forwarded by l2",
            new: "tc: entry, new flow, by l2",
            deliver: Some(TC_L2_DELIVER),
            answer: Some("tc: answer of the task, back to the entry"),
        },
        (false, _) => Names {
            base: EMPTY_TC,
            miss: None,
            hit: "tc: entry, hit, forwarded in VXLAN",
            new: "tc: entry, new flow, in VXLAN",
            deliver: None,
            answer: None,
        },
    }
}

/// All contenders, each seen to do what it is named for. `nodes` are the pairs of [`PAIRS`].
///
/// # Errors
/// One does not.
pub fn all<'a, 'h>(
    nodes: &'a [[RefCell<NodePrograms<'h>>; 2]],
    empty: &'a Empty,
    client: Ipv4Addr,
    port: u16,
) -> anyhow::Result<Vec<Path<'a, 'h>>> {
    let mut paths = Vec::new();
    for (ways, [entry, last]) in PAIRS.iter().zip(nodes) {
        let names = names(ways.attach, ways.forwarding);
        let layer = match ways.attach {
            Attach::Xdp => Layer::Xdp,
            _ => UPLINK,
        };
        let (entry_device, last_device) = (entry.borrow().uplink()?, last.borrow().uplink()?);
        let mut add = |name, runs| {
            paths.push(Path {
                name,
                base: names.base,
                runs,
            });
        };
        let called = entry.borrow().address();
        let to = SocketAddrV4::new(called, port);
        let known = |opens| {
            let from = SocketAddrV4::new(client, KNOWN);
            Tcp { from, to, opens }.frame(NOBODY, NOBODY)
        };
        let opening = [known(true)?];
        let later = known(false)?;
        // The whole way of the connection's first packet, and of a later one: flows are known then, at each node. XDP
        // leaves it to tc to give a packet to a task.
        let deliver = |frame: Vec<u8>| {
            let mut last = last.borrow_mut();
            if layer == Layer::Xdp {
                last.run(
                    layer,
                    last_device,
                    Fate::Passed,
                    std::slice::from_ref(&frame),
                )?;
            }
            let (delivered, _) = last.run(UPLINK, last_device, Fate::Sent, &[frame])?;
            anyhow::Ok(delivered)
        };
        let (sent, _) = entry
            .borrow_mut()
            .run(layer, entry_device, Fate::Sent, &opening)?;
        if names.deliver.is_some() {
            deliver(sent)?;
        }
        let again = [later.clone()];
        let (sent, _) = entry
            .borrow_mut()
            .run(layer, entry_device, Fate::Sent, &again)?;
        if let Some(name) = names.miss {
            add(empty_of(layer), Runs::Empty(empty, layer, 0));
            let from = SocketAddrV4::new(client, KNOWN);
            let to = SocketAddrV4::new(called, UNPUBLISHED);
            let opens = false;
            let missed = Tcp { from, to, opens }.frame(NOBODY, NOBODY)?;
            add(
                name,
                Runs::Same(entry, layer, entry_device, Fate::Passed, missed),
            );
        }
        add(
            names.hit,
            Runs::Same(entry, layer, entry_device, Fate::Sent, later),
        );
        let new = Opening {
            to,
            next: Cell::new(0),
        };
        add(names.new, Runs::New(entry, layer, entry_device, new));
        let Some(name) = names.deliver else {
            continue;
        };
        let delivered = deliver(sent.clone())?;
        let fate = match layer {
            Layer::Xdp => Fate::Passed,
            Layer::Tc(_) => Fate::Sent,
        };
        add(name, Runs::Same(last, layer, last_device, fate, sent));
        if let Some(name) = names.answer {
            let (tcp, to) = Tcp::read(&delivered)?;
            let task = *tcp.to.ip();
            ensure!(to == mac(addr(task)), "the frame for {task} is for {to:?}");
            let answer = tcp.answer().frame(to, NOBODY)?;
            let veth = last.borrow().veth_of(task)?;
            let layer = Layer::Tc(Hook::Veth);
            let frames = [answer.clone()];
            last.borrow_mut().run(layer, veth, Fate::Sent, &frames)?;
            add(name, Runs::Same(last, layer, veth, Fate::Sent, answer));
        }
    }
    Ok(paths)
}

fn empty_of(layer: Layer) -> &'static str {
    match layer {
        Layer::Xdp => EMPTY_XDP,
        Layer::Tc(_) => EMPTY_TC,
    }
}
