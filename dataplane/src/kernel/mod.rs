//! The kernel's side of the node: programs, maps, devices, kept equal to what is wanted.
//!
//! - [`plan`]: from the wanted state to the contents of the maps (pure).
//! - [`maglev`]: from the nodes of a service to its table (pure).
//! - `tables`: writes a plan into the maps, in an order in which no packet meets a half-written one.
//! - `programs`: loads (see [`verifier`]) and attaches; what is pinned outlives the process.
//! - `trial`: runs programs on frames that nobody sent.
//! - [`uplink`]: which hook serves an uplink (pure).
//! - `host`: the program on the host's own devices, and the host's addresses; `devices`: links and
//!   addresses, by netlink; `netdev`: what their drivers can.
//! - `fill`: how full the maps are; `counters`: what the programs have counted; `meters`: the same by service.
//! - `endpoints`: the containers' endpoints, and who asks for names from them.
//! - `taken_ports`: what the host's programs listen on; `reserved_ports`: what they are kept from.
//! - [`tunnel`]: by which encrypted overlays go; `generic`: the kernel's interfaces that are asked by name.
//! - `probe`: nodes that do not answer.
//! - [`l2`]: nodes that packets are forwarded to in frames of their own.
//! - [`pod`]: values of maps and records as bytes.
//! - `actor`: owns all of it, and does one thing at a time.

mod actor;
mod checksum;
mod counters;
mod devices;
mod endpoints;
mod fill;
mod generic;
mod host;
mod indices;
mod l2;
mod maglev;
mod meters;
mod netdev;
mod node_tables;
pub mod plan;
pub mod pod;
mod probe;
mod programs;
mod requirements;
mod reserved_ports;
mod sources;
mod synced;
mod tables;
mod taken_ports;
mod trial;
mod tunnel;
mod uplink;
pub mod verifier;

use crate::{config::Config, desired::Desired};
use anyhow::{Context as _, bail};
use arc_swap::ArcSwap;
use skein_proto::network::{Problem, TunnelEnd};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::Ipv4Addr,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

/// Commands that wait for the actor: far more than containers start at the same time.
const COMMANDS_MAX: usize = 256;
/// How long an attachment waits for its network to become known here: the engine waits a little
/// longer for its plugin.
const NETWORK_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two tries.
const NETWORK_RETRY: Duration = Duration::from_millis(100);

/// A container's place on a network, as the engine asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The engine's ID of it.
    pub endpoint_id: String,
    /// What the endpoints of one container have in common.
    pub sandbox: String,
    /// The network's ID in the cluster.
    pub network_id: String,
    /// Its address.
    pub address: Ipv4Addr,
}

pub use counters::Counters;
pub use devices::CONTAINER_PREFIX;
pub use fill::{Fill, fills};
pub use l2::{By, Way, Ways, monotonic};
pub use meters::{Counted, Metered, Meters};
pub use plan::service_of;
pub use programs::{Hook, Programs, map_pin, open_map};
pub use requirements::check as check_requirements;
pub use tables::{PublishedService, Services};
pub use trial::{Fate, Layer, Ran, Trial, run_once};
pub use tunnel::{Count as TunnelCount, Counts as TunnelCounts, TunnelLook};

/// Names of the two ends of an endpoint's veth pair: the host's, and the container's until the engine
/// renames it.
pub fn veth_names(endpoint_id: &str) -> (String, String) {
    // Device names have at most 15 characters.
    let id: String = endpoint_id.chars().take(12).collect();
    (
        format!("{}{id}", devices::VETH_PREFIX),
        format!("{CONTAINER_PREFIX}{id}"),
    )
}

/// The MAC address of an endpoint.
pub fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    skein_abi::mac(skein_abi::addr(address))
}

/// Who asks a question: a container, by the networks that it is on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asker {
    /// IDs of its networks in order, without the ingress network, on which nobody has a name.
    pub network_ids: Arc<[String]>,
}

/// By internal address. Replaced as a whole: who looks an asker up for each question waits for nobody.
type Askers = Arc<ArcSwap<HashMap<Ipv4Addr, Asker>>>;

/// What the kernel has of the wanted state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Made {
    /// Version of the last wanted state that was written whole; 0: none was. One of which something
    /// could not be written is not counted until it is.
    pub version: u64,
    /// What was left out, and what could not be written.
    pub problems: Vec<Problem>,
}

/// The kernel's side at one moment, for people to see.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// What is wanted.
    pub desired: Arc<Desired>,
    /// What is made of it.
    pub made: Made,
    /// Nodes that do not answer.
    pub suspects: BTreeSet<String>,
    /// How packets go to the other nodes.
    pub ways: Ways,
    /// The programs, where they are attached.
    pub programs: Vec<Program>,
    /// Services, as they are made.
    pub services: Services,
    /// Endpoints of this node by their index: network ID and address.
    pub endpoints: BTreeMap<u32, (String, Ipv4Addr)>,
    /// What failed, and was repaired.
    pub repairs: Repairs,
    /// By which encrypted overlays go; `None`: there are none.
    pub tunnel: Option<TunnelLook>,
}

/// Whom numbers and addresses in the kernel are of, as of the last time that it was programmed.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// What is wanted.
    pub desired: Arc<Desired>,
    /// What is counted each, by number.
    pub meters: BTreeMap<u32, Metered>,
    /// Endpoints of this node by their index: network ID and address.
    pub endpoints: BTreeMap<u32, (String, Ipv4Addr)>,
}

/// A program where it is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Name of the device; "" for those of the host's sockets.
    pub device: String,
    /// `xdp`, `tc` or `cgroup`.
    pub hook: &'static str,
    /// Of [`skein_abi::names`].
    pub name: String,
    /// Of uplinks: why this hook.
    pub reason: String,
}

/// How often the kernel was not as wanted, since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repairs {
    /// Something was not written.
    pub failed: u64,
    /// After that all was.
    pub repaired: u64,
    /// Entries of maps, and devices, that somebody else had changed or removed.
    pub differing: u64,
}

impl Repairs {
    /// All was tried again: whether something had failed before, and whether it has now.
    fn note(&mut self, before: bool, now: bool) {
        match (before, now) {
            (false, true) => self.failed += 1,
            (true, false) => self.repaired += 1,
            _ => {}
        }
    }
}

enum Command {
    Look(oneshot::Sender<anyhow::Result<Look>>),
    Program(Arc<Desired>, oneshot::Sender<Made>),
    Attach(Attachment, oneshot::Sender<Result<(), AttachError>>),
    Detach(String, oneshot::Sender<anyhow::Result<()>>),
    Try(Trial, oneshot::Sender<anyhow::Result<Vec<Ran>>>),
    Stop,
}

/// Why an attachment failed.
#[derive(Debug, thiserror::Error)]
enum AttachError {
    /// The managers have not told of it yet, or never will.
    #[error("network {0} is not known on this node: is the node connected to a manager?")]
    UnknownNetwork(String),
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

/// A handle to the kernel's side.
#[derive(Clone)]
pub struct Kernel {
    commands: mpsc::Sender<Command>,
    askers: Askers,
    made: watch::Receiver<Made>,
    /// This node's end of the tunnels, for the others to know.
    end: TunnelEnd,
    shown: watch::Receiver<Arc<Shown>>,
}

impl Kernel {
    /// Loads the programs, takes over what an earlier dataplane left: the network state that it had
    /// last, and the endpoints that containers had. Attaches to every device. Call
    /// [`check_requirements`] before. The task that is returned beside the handle ends with an error
    /// when the kernel's side cannot go on: then the process must not either.
    ///
    /// # Errors
    /// What the kernel lacks or refuses.
    pub async fn start(
        config: &Config,
        desired: Arc<Desired>,
        endpoints: Vec<Attachment>,
        counts: Arc<TunnelCounts>,
    ) -> anyhow::Result<(Self, JoinHandle<anyhow::Result<()>>)> {
        let askers = Askers::default();
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        let (tell, made) = watch::channel(Made::default());
        let tunnel = tunnel::Tunnel::open(config, counts)?;
        let end = tunnel.end();
        let (show, shown) = watch::channel(Arc::default());
        let mut actor = actor::Actor::new(config, Arc::clone(&askers), tell, tunnel, show).await?;
        actor.resume(desired, endpoints).await?;
        // It writes files and maps, which blocks: it has a thread of its own.
        let runtime = tokio::runtime::Handle::current();
        let working = tokio::task::spawn_blocking(move || runtime.block_on(actor.run(inbox)));
        let kernel = Self {
            commands,
            askers,
            made,
            end,
            shown,
        };
        Ok((kernel, working))
    }

    /// Makes the maps equal to the wanted state. What could not be done is in the answer, and is tried
    /// again.
    ///
    /// # Errors
    /// The kernel's side has stopped.
    pub async fn program(&self, desired: Arc<Desired>) -> anyhow::Result<Made> {
        self.ask(|answer| Command::Program(desired, answer)).await
    }

    /// This node's end of the tunnels, as the others are to know it.
    pub fn tunnel_end(&self) -> TunnelEnd {
        self.end.clone()
    }

    /// What is made, now and later: a port becomes free when a program of the host ends, and what failed
    /// is tried again.
    pub fn made(&self) -> watch::Receiver<Made> {
        self.made.clone()
    }

    /// Whom numbers and addresses in the kernel are of, now and later.
    pub fn shown(&self) -> watch::Receiver<Arc<Shown>> {
        self.shown.clone()
    }

    /// How it is now.
    ///
    /// # Errors
    /// The kernel's side has stopped, or the kernel does not tell of its devices.
    pub async fn look(&self) -> anyhow::Result<Look> {
        self.ask(Command::Look).await?
    }

    /// Makes the veth pair of a container's endpoint; its container's end lies in the host's namespace
    /// for the engine to take. Nothing happens if it is there already.
    ///
    /// # Errors
    /// The network does not become known within [`NETWORK_TIMEOUT`], or the kernel refuses.
    pub async fn attach(&self, attachment: &Attachment) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + NETWORK_TIMEOUT;
        loop {
            let attachment = attachment.clone();
            let answer = self
                .ask(|answer| Command::Attach(attachment, answer))
                .await?;
            match answer {
                Err(AttachError::UnknownNetwork(_)) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(NETWORK_RETRY).await;
                }
                answer => return Ok(answer?),
            }
        }
    }

    /// Removes an endpoint and its devices; an unknown one is no error.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn detach(&self, endpoint_id: &str) -> anyhow::Result<()> {
        let id = endpoint_id.to_owned();
        self.ask(|answer| Command::Detach(id, answer)).await?
    }

    /// Runs the programs of a place on a frame that nobody sent (`BPF_PROG_TEST_RUN`), and tells what each made
    /// of it, in order. They count it and remember its flow; it goes nowhere.
    ///
    /// # Errors
    /// The kernel's side has stopped, or the kernel refuses.
    pub async fn try_frame(&self, trial: Trial) -> anyhow::Result<Vec<Ran>> {
        self.ask(|answer| Command::Try(trial, answer)).await?
    }

    /// Ends the kernel's side, after what was asked of it before.
    pub async fn stop(&self) {
        // It may have ended already.
        let _ = self.commands.send(Command::Stop).await;
    }

    /// Who has an internal address.
    pub fn asker(&self, internal: Ipv4Addr) -> Option<Asker> {
        self.askers.load().get(&internal).cloned()
    }

    async fn ask<A>(
        &self,
        command: impl FnOnce(oneshot::Sender<A>) -> Command,
    ) -> anyhow::Result<A> {
        let (answer, answered) = oneshot::channel();
        if self.commands.send(command(answer)).await.is_err() {
            bail!("the kernel's side of the dataplane has stopped: see its log");
        }
        answered
            .await
            .context("the kernel's side of the dataplane stopped on the way: see its log")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_counted_once_however_often_it_is_tried() {
        let mut repairs = Repairs::default();
        for (before, now) in [(false, false), (false, true), (true, true), (true, false)] {
            repairs.note(before, now);
        }
        let (failed, repaired) = (repairs.failed, repairs.repaired);
        assert_eq!((failed, repaired), (1, 1));
    }
}
