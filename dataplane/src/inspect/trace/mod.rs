//! What would become of a packet.
//!
//! First the decisions of `skein-packet`, the same code as in the kernel's programs, are made here over the
//! kernel's own maps: they can be told one by one. Then the programs that the kernel has are run on the packet
//! (`BPF_PROG_TEST_RUN`): they say what they make of it, the way by the routing table included, and whether they
//! agree. The packet goes nowhere. What the programs remember of its flow is taken away again, so they are not run
//! where the tuple is that of a flow which is known; what they count stays counted.
//!
//! - [`ends`]: whom a trace is from and to (pure).
//! - [`pinned`]: the maps.
//! - [`frame`]: the packet as programs see it (pure).
//! - [`words`]: what was found and decided, for people (pure).

mod ends;
mod frame;
mod pinned;
mod words;

use crate::kernel::{Hook, Kernel, Look, Ran, Trial};
use anyhow::Context as _;
use ends::Ends;
use pinned::{Finding, Pinned, Remembered};
use skein_abi::{VNI_FORWARD, flow::Tuple, mac, overlay::Endpoint};
use skein_packet::{
    Packet, Tables as _, Work, from_container, from_host, from_tunnel, settle, uplink,
};
use skein_proto::inspect::{TraceReply, TraceRequest};
use std::path::Path;

/// Flags of TCP: of the packet that opens a connection, and of any later one.
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// Where a packet is seen first.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// It comes in by an uplink.
    Uplink,
    /// The task behind this endpoint sends it.
    Veth(u32),
    /// A program of the host sends it.
    Host,
    /// Another node, with this address, sent it on.
    Tunnel(skein_abi::Addr),
}

/// What was decided.
struct Decided {
    place: Place,
    work: Work,
    findings: Vec<Finding>,
    remembered: Remembered,
    /// `Err`: why the programs are not to be run on it.
    trial: Result<Trial, &'static str>,
}

/// What the programs came to.
#[derive(Debug)]
enum Tried {
    Ran(Vec<Ran>),
    Not(&'static str),
}

/// Traces one packet.
///
/// # Errors
/// What is asked for is not there, which the message says; or the maps cannot be read, or the kernel refuses
/// to run its programs.
pub async fn trace(
    kernel: &Kernel,
    bpffs: &Path,
    request: TraceRequest,
) -> anyhow::Result<TraceReply> {
    let (look, bpffs) = (kernel.look().await?, bpffs.to_owned());
    let deciding = tokio::task::spawn_blocking(move || {
        let decided = decide(&bpffs, &look, &request)?;
        anyhow::Ok((look, decided))
    });
    let (look, decided) = deciding.await.context("the trace broke")??;
    let Decided {
        place,
        work,
        findings,
        remembered,
        trial,
    } = decided;
    let tried = match trial {
        Ok(trial) => {
            let ran = kernel.try_frame(trial).await;
            remembered.forget();
            Tried::Ran(ran?)
        }
        Err(reason) => Tried::Not(reason),
    };
    Ok(words::reply(&look, &place, &work, &findings, &tried))
}

/// Blocks.
fn decide(bpffs: &Path, look: &Look, request: &TraceRequest) -> anyhow::Result<Decided> {
    let Ends { place, tuple } = ends::of(look, request)?;
    let maps = Pinned::open(bpffs)?;
    let mut packet = packet(tuple, request.mid_stream);
    let sender = match place {
        Place::Veth(index) => {
            let endpoint = maps.endpoint(index);
            Some(endpoint.context("the task has just ended")?)
        }
        _ => None,
    };
    let source = sender.map_or(frame::NOBODY, |endpoint: Endpoint| mac(endpoint.addr));
    let frame = frame::of(&packet, source, frame::NOBODY)?;
    packet.macs = [frame::NOBODY, source];
    packet.len = u16::try_from(frame.len() - frame::ETHERNET)?;
    let mut work = Work::new(packet);
    let at = match (&place, sender) {
        (Place::Uplink, _) => {
            let device = maps.device_of(tuple.dst);
            uplink(&maps, &mut work, device.unwrap_or(0), 0);
            device.map(|device| (Hook::Uplink, device))
        }
        (Place::Host, _) => {
            from_host(&maps, &mut work);
            Some((Hook::Local, maps.config().local_peer_ifindex))
        }
        (Place::Tunnel(node), _) => {
            from_tunnel(&maps, &mut work, VNI_FORWARD, *node, 0);
            None
        }
        (Place::Veth(index), Some(endpoint)) => {
            from_container(&maps, &mut work, *index, &endpoint);
            Some((Hook::Veth, endpoint.ifindex))
        }
        (Place::Veth(_), None) => None,
    };
    settle(&maps, &mut work);
    let trial = match at {
        None if matches!(place, Place::Tunnel(_)) => {
            Err("what a packet came in cannot be made up for a program")
        }
        None => Err("no device of this node has the address"),
        Some(_) if maps.knows_flow() => {
            Err("the tuple is that of a flow which is known: they would touch it")
        }
        Some((hook, ifindex)) => Ok(Trial {
            hook,
            ifindex,
            frame,
        }),
    };
    let (findings, remembered) = maps.finish();
    Ok(Decided {
        place,
        work,
        findings,
        remembered,
        trial,
    })
}

fn packet(tuple: Tuple, mid_stream: bool) -> Packet {
    let tcp_flags = match (tuple.proto, mid_stream) {
        (skein_abi::TCP, false) => SYN,
        (skein_abi::TCP, true) => ACK,
        _ => 0,
    };
    Packet {
        tuple,
        sender: tuple.src,
        tcp_flags,
        dont_fragment: 1,
        ..Packet::nothing()
    }
}
