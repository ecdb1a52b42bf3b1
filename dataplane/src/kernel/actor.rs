//! Owns everything of the kernel's side and does one thing at a time.

use super::{
    Asker, Askers, AttachError, Attachment, Command,
    devices::{Device, Devices, LOCAL_PEER, OwnDevices, VXLAN, VethPair},
    mac_of,
    netdev::{Features, Netdev},
    plan::{Local, Plan, plan},
    ports::{ReservedPorts, listening},
    probe,
    programs::{Hook, Programs},
    requirements,
    tables::{Tables, internal_address, of_node},
    uplink::{Choice, Facts, choose},
    veth_names,
};
use crate::{
    config::{Attach, Config},
    desired::Desired,
};
use anyhow::{Context as _, bail, ensure};
use futures::StreamExt as _;
use rtnetlink::{MulticastGroup, new_multicast_connection};
use skein_abi::{
    VXLAN_OVERHEAD, addr, from_addr,
    ingress::{DEVICE_PAIR, DEVICE_TRANSLATE, DEVICE_XDP, LocalAddr, PublishedKey},
};
use skein_proto::network::{Kind, Problem};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
    time::Duration,
};
use tokio::sync::{mpsc, watch};

/// Changes of devices and addresses come in bursts: they are looked at together, this long after the
/// first.
const SETTLE: Duration = Duration::from_millis(20);
/// Host programs that hold published ports are looked for again this long after anything happened:
/// the kernel tells nobody when a socket closes.
const TAKEN_RECHECK: Duration = Duration::from_secs(5);
/// Everything is compared with the kernel again so often, and repaired: changes that the kernel told of
/// may be lost, or have failed. A fault then lasts a minute at most, and a look costs milliseconds.
const RESYNC: Duration = Duration::from_secs(60);
/// Largest packet of the Internet at large, for when no uplink has the node's address.
const DEFAULT_MTU: u32 = 1_500;

/// See the module.
pub struct Actor {
    devices: Devices,
    programs: Programs,
    tables: Tables,
    reserved: ReservedPorts,
    askers: Askers,
    own: OwnDevices,
    host_cookie: u64,
    uplink_mtu: u32,
    desired: Arc<Desired>,
    suspects: BTreeSet<String>,
    attached: BTreeMap<String, Attached>,
    /// Where the search for a free endpoint index begins.
    next_index: u32,
    /// UDP port of the vxlan device that is there.
    vxlan_port: Option<u16>,
    /// Ports that host programs listen on, which are therefore not published here.
    taken: BTreeSet<PublishedKey>,
    published: BTreeSet<PublishedKey>,
    watched: watch::Sender<probe::Watched>,
    /// What could not be made, as of the last time.
    problems: watch::Sender<Vec<Problem>>,
    attach: Attach,
    netdev: Netdev,
    uplinks: BTreeMap<u32, Uplink>,
}

/// A device that has the uplink program.
#[derive(Default)]
struct Uplink {
    /// What was chosen last.
    choice: Option<Choice>,
    /// Why the kernel refused XDP: it is not asked again, as each attempt may reset the device.
    refused: Option<String>,
}

struct Attached {
    attachment: Attachment,
    ifindex: u32,
    index: u32,
}

impl Actor {
    /// Loads, adopts, attaches: after this, packets flow as an earlier dataplane left it.
    pub async fn new(
        config: &Config,
        askers: Askers,
        problems: watch::Sender<Vec<Problem>>,
    ) -> anyhow::Result<Self> {
        let devices = Devices::open()?;
        let mut programs = Programs::load(&config.bpffs)?;
        let tables = Tables::open(&mut programs, &config.state_dir)?;
        let (local, local_peer) = devices.make_local_pair().await?;
        let present = devices.list().await?;
        programs.adopt(|ifindex| present.contains_key(&ifindex))?;
        programs.attach(Hook::Local, LOCAL_PEER, local_peer)?;
        programs.attach_sockets(&requirements::cgroup_root()?)?;
        let mut actor = Self {
            devices,
            programs,
            tables,
            reserved: ReservedPorts::open(config.state_dir.join("reserved-ports")),
            askers,
            own: OwnDevices {
                vxlan: 0,
                local,
                local_peer,
            },
            host_cookie: netns_cookie()?,
            uplink_mtu: DEFAULT_MTU,
            desired: Arc::default(),
            suspects: BTreeSet::new(),
            attached: BTreeMap::new(),
            next_index: 0,
            vxlan_port: None,
            taken: BTreeSet::new(),
            published: BTreeSet::new(),
            watched: watch::channel(probe::Watched::new()).0,
            problems,
            attach: config.attach,
            netdev: Netdev::open()?,
            uplinks: BTreeMap::new(),
        };
        actor.forget_gone_endpoints(&present)?;
        Ok(actor)
    }

    /// Works until all handles are gone.
    ///
    /// # Errors
    /// It can no longer follow the host's devices or the other nodes: the process must begin anew.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>) -> anyhow::Result<()> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr];
        let (connection, _handle, mut changes) =
            new_multicast_connection(&groups).context("cannot watch the network devices")?;
        tokio::spawn(connection);
        // A change of suspects that waits is newer than none: a handful is plenty.
        let (tell, mut suspects) = mpsc::channel(4);
        let watched = self.watched.subscribe();
        let mut probing = tokio::spawn(probe::run(watched, tell));
        self.look_at_host().await;
        if let Err(error) = self.programs.remove_other_layouts() {
            tracing::error!("programs of another version stay attached: {error:#}");
        }
        let mut resync = tokio::time::interval(RESYNC);
        resync.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The first tick comes at once.
        resync.tick().await;
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => return Ok(()),
                },
                _ = resync.tick() => {
                    self.look_at_host().await;
                    self.program().await;
                }
                ended = &mut probing => {
                    ended.context("the probe of other nodes broke")?
                        .context("other nodes cannot be probed")?;
                    bail!("the probe of other nodes ended");
                }
                () = tokio::time::sleep(TAKEN_RECHECK), if !self.taken.is_empty() => {
                    self.program().await;
                }
                Some(now) = suspects.recv() => {
                    self.suspects = now;
                    self.program().await;
                }
                change = changes.next() => {
                    change.context("the kernel no longer tells of changes of network devices: its netlink socket is closed")?;
                    tokio::time::sleep(SETTLE).await;
                    while futures::FutureExt::now_or_never(changes.next()).flatten().is_some() {}
                    self.look_at_host().await;
                }
            }
        }
    }

    async fn obey(&mut self, command: Command) {
        // Whoever asked may be gone: then nobody wants the answer.
        match command {
            Command::Program(desired, answer) => {
                self.desired = desired;
                let problems = self.program().await;
                self.tell_askers();
                let _ = answer.send(problems);
            }
            Command::Attach(attachment, answer) => {
                let _ = answer.send(self.attach(attachment).await);
            }
            Command::Detach(endpoint, answer) => {
                let _ = answer.send(self.detach(&endpoint).await);
            }
        }
    }

    /// Makes the kernel equal to what is wanted and what is here.
    async fn program(&mut self) -> Vec<Problem> {
        let mut plan = plan(&self.desired, &self.local());
        let mut problems = std::mem::take(&mut plan.problems);
        self.find_taken_ports(&plan, &mut problems);
        match self.try_program(&plan).await {
            Ok(left_out) => problems.extend(left_out),
            Err(error) => {
                tracing::error!("cannot program the kernel: {error:#}");
                problems.push(of_node(format!("{error:#}")));
            }
        }
        self.problems.send_if_modified(|before| {
            let changed = *before != problems;
            before.clone_from(&problems);
            changed
        });
        problems
    }

    /// What could not be written is in the answer: it keeps nothing else from being written.
    async fn try_program(&mut self, plan: &Plan) -> anyhow::Result<Vec<Problem>> {
        self.watch_nodes();
        if plan.vxlan_port != 0 && self.vxlan_port != Some(plan.vxlan_port) {
            let replace = self.vxlan_port.is_some();
            self.own.vxlan = self.devices.make_vxlan(plan.vxlan_port, replace).await?;
            self.programs.attach(Hook::Vxlan, VXLAN, self.own.vxlan)?;
            self.vxlan_port = Some(plan.vxlan_port);
        }
        let mtu = u16::try_from(self.uplink_mtu).unwrap_or(u16::MAX);
        self.tables
            .configure(plan, &self.own, self.host_cookie, mtu)?;
        let taken = &self.taken;
        let left_out = self.tables.program(plan, &|key| taken.contains(key));
        for problem in &left_out {
            tracing::error!("cannot program the kernel: {}", problem.message);
        }
        self.published = plan.published.keys().copied().collect();
        self.reserved
            .reserve(self.published.iter())
            .context("cannot reserve the published ports")?;
        Ok(left_out)
    }

    fn local(&self) -> Local {
        let endpoints = self.attached.values().map(|attached| {
            let attachment = &attached.attachment;
            let at = (attachment.network_id.clone(), attachment.address);
            (at, attached.index)
        });
        Local {
            endpoints: endpoints.collect(),
            suspects: self.suspects.clone(),
        }
    }

    /// A port that becomes published while a program of the host listens on it stays the program's.
    fn find_taken_ports(&mut self, plan: &Plan, problems: &mut Vec<Problem>) {
        let listening = listening();
        let is_new = |key: &PublishedKey| !self.published.contains(key) || self.taken.contains(key);
        let taken: BTreeSet<PublishedKey> = plan
            .published
            .keys()
            .filter(|key| is_new(key) && listening.contains(key))
            .copied()
            .collect();
        for key in &taken {
            let port = u16::from_be(key.port);
            if !self.taken.contains(key) {
                tracing::warn!(
                    port,
                    "not published here: a program of the host listens on it"
                );
            }
            problems.push(Problem {
                kind: Kind::Service.into(),
                id: plan.published[key].0.clone(),
                message: format!(
                    "port {port} is not published on this node: a program of the host listens on it; stop it, or publish another port"
                ),
            });
        }
        self.taken = taken;
    }

    fn watch_nodes(&self) {
        let Some(settings) = &self.desired.settings else {
            self.watched.send_replace(probe::Watched::new());
            return;
        };
        let others = self.desired.nodes.values();
        let others = others.filter(|node| node.id != settings.node_id);
        let watched = others.filter_map(|node| Some((node.id.clone(), node.address.parse().ok()?)));
        self.watched.send_replace(watched.collect());
    }

    async fn attach(&mut self, attachment: Attachment) -> Result<(), AttachError> {
        let (host, container) = veth_names(&attachment.endpoint_id);
        let vni = self.vni_of(&attachment)?;
        let pair = VethPair {
            host: &host,
            container: &container,
            mac: mac_of(attachment.address),
            mtu: self.uplink_mtu.saturating_sub(VXLAN_OVERHEAD.into()),
        };
        let ifindex = self.devices.make_veth(&pair).await?;
        self.add(attachment, &host, ifindex, vni)?;
        self.program().await;
        Ok(())
    }

    fn vni_of(&self, attachment: &Attachment) -> Result<u32, AttachError> {
        let network = self.desired.networks.get(&attachment.network_id);
        match network {
            Some(network) if self.tables.has_network(network.vni) => Ok(network.vni),
            _ => Err(AttachError::UnknownNetwork(attachment.network_id.clone())),
        }
    }

    /// Makes a device known as an endpoint.
    fn add(
        &mut self,
        attachment: Attachment,
        host: &str,
        ifindex: u32,
        vni: u32,
    ) -> anyhow::Result<()> {
        let given = self
            .tables
            .add_endpoint(ifindex, vni, attachment.address, self.next_index)?;
        let index = given.context(
            "this node has as many endpoints as Skein supports: remove containers, or add a node",
        )?;
        self.next_index = index + 1;
        self.programs.attach(Hook::Veth, host, ifindex)?;
        let attached = Attached {
            attachment,
            ifindex,
            index,
        };
        self.attached
            .insert(attached.attachment.endpoint_id.clone(), attached);
        self.tell_askers();
        Ok(())
    }

    /// Takes over the endpoints whose devices are there still, before anything is programmed: a
    /// program without them would cut them off.
    pub async fn resume(
        &mut self,
        desired: Arc<Desired>,
        endpoints: Vec<Attachment>,
    ) -> anyhow::Result<()> {
        self.desired = desired;
        let present = self.devices.list().await?;
        for attachment in endpoints {
            let (host, _) = veth_names(&attachment.endpoint_id);
            let device = present.values().find(|device| device.name == host);
            let (Some(device), Ok(vni)) = (device, self.vni_of(&attachment)) else {
                continue;
            };
            self.add(attachment, &host, device.ifindex, vni)?;
        }
        if self.desired.settings.is_some() {
            self.look_at_host().await;
            self.program().await;
        }
        Ok(())
    }

    /// Tells the DNS server which networks the container behind each internal address is on: its
    /// questions may leave by any of its endpoints.
    fn tell_askers(&self) {
        let is_named = |network: &String| {
            let network = self.desired.networks.get(network);
            network.is_some_and(|network| !network.ingress)
        };
        let mut networks: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for Attached { attachment, .. } in self.attached.values() {
            let of_sandbox = networks.entry(&attachment.sandbox).or_default();
            if is_named(&attachment.network_id) {
                of_sandbox.push(attachment.network_id.clone());
            }
        }
        let askers = self.attached.values().map(|attached| {
            let network_ids = networks[attached.attachment.sandbox.as_str()].clone();
            (internal_address(attached.index), Asker { network_ids })
        });
        *self.askers.write() = askers.collect();
    }

    async fn detach(&mut self, endpoint: &str) -> anyhow::Result<()> {
        let Some(attached) = self.attached.remove(endpoint) else {
            return Ok(());
        };
        self.tell_askers();
        // First nobody is sent there any more, then it goes.
        self.program().await;
        self.tables.remove_endpoint(attached.ifindex)?;
        self.programs.detach(Hook::Veth, attached.ifindex)?;
        self.devices.remove(&veth_names(endpoint).0).await
    }

    /// Endpoints whose containers ended while no dataplane ran.
    fn forget_gone_endpoints(&mut self, present: &BTreeMap<u32, Device>) -> anyhow::Result<()> {
        for ifindex in self.tables.veths() {
            if !present.contains_key(&ifindex) {
                self.tables.remove_endpoint(ifindex)?;
                self.programs.detach(Hook::Veth, ifindex)?;
            }
        }
        Ok(())
    }

    /// Attaches to every device that can carry a packet to an address of the host.
    async fn look_at_host(&mut self) {
        if let Err(error) = self.try_look_at_host().await {
            tracing::error!("cannot follow the host's devices: {error:#}");
        }
    }

    async fn try_look_at_host(&mut self) -> anyhow::Result<()> {
        let present = self.devices.list().await?;
        // One device that refuses must not keep the others from their programs, nor the host's
        // addresses from the kernel.
        let mut errors = Vec::new();
        let mut uplinks = BTreeMap::new();
        for device in present.values() {
            if device.is_own() || device.is_port || !device.is_ethernet {
                continue;
            }
            let (name, ifindex) = (&device.name, device.ifindex);
            if let Err(error) = self.programs.attach(Hook::Uplink, name, ifindex) {
                errors.push(format!("{error:#}"));
                continue;
            }
            let mut flags = self.choose_hook(device).unwrap_or_else(|error| {
                errors.push(format!("{error:#}"));
                0
            });
            if is_engine_bridge(device) {
                flags |= DEVICE_TRANSLATE;
            }
            uplinks.insert(device.ifindex, flags);
        }
        // Devices are made before they become ports of a bridge; and they go.
        for ifindex in self.tables.uplinks() {
            if !uplinks.contains_key(&ifindex) {
                let detached = self.programs.detach_xdp(ifindex);
                if let Err(error) = detached.and(self.programs.detach(Hook::Uplink, ifindex)) {
                    errors.push(format!("{error:#}"));
                }
            }
        }
        self.uplinks
            .retain(|ifindex, _| uplinks.contains_key(ifindex));
        let mut addresses = BTreeMap::new();
        let node_addr = plan(&self.desired, &Local::default()).node_addr;
        for (address, ifindex) in self.devices.addresses().await? {
            let own = present.get(&ifindex).is_none_or(Device::is_own);
            if address.is_loopback() || own {
                continue;
            }
            addresses.insert(addr(address), LocalAddr { ifindex });
            if address == from_addr(node_addr) {
                self.uplink_mtu = present[&ifindex].mtu;
            }
        }
        self.tables.set_host(&addresses, &uplinks)?;
        ensure!(errors.is_empty(), "{}", errors.join("; "));
        Ok(())
    }

    /// Attaches or detaches XDP in front of the tc hook of an uplink. Returns the flags that the other
    /// uplinks' programs know it by.
    fn choose_hook(&mut self, device: &Device) -> anyhow::Result<u32> {
        let ifindex = device.ifindex;
        let features = match self.netdev.features(ifindex) {
            Ok(features) => features,
            // It is gone since: that will be told.
            Err(_) => return Ok(0),
        };
        let is_ours = self.programs.has_xdp(ifindex);
        let uplink = self.uplinks.entry(ifindex).or_default();
        let mut facts = Facts {
            is_veth: device.is_veth,
            features,
            mtu: device.mtu,
            foreign: device.xdp_program.filter(|_| !is_ours),
            refused: uplink.refused.clone(),
        };
        let mut choice = choose(self.attach, &facts);
        if choice.xdp
            && let Err(error) = self.programs.attach_xdp(ifindex)
        {
            uplink.refused = Some(format!("{error:#}"));
            facts.refused.clone_from(&uplink.refused);
            choice = choose(self.attach, &facts);
        }
        if !choice.xdp {
            self.programs.detach_xdp(ifindex)?;
        }
        let (xdp, reason) = (choice.xdp, choice.reason.clone());
        if uplink.choice.as_ref() != Some(&choice) {
            let hook = if xdp { "XDP" } else { "tc" };
            tracing::info!(device = device.name, "{hook} serves the uplink: {reason}");
            uplink.choice = Some(choice);
        }
        let mut flags = 0;
        if xdp && features.has(Features::NDO_XMIT) {
            flags |= DEVICE_XDP;
        }
        if device.is_veth {
            flags |= DEVICE_PAIR;
        }
        Ok(flags)
    }
}

/// A bridge of the container engine: addresses behind it mean nothing on other nodes.
fn is_engine_bridge(device: &Device) -> bool {
    let is_generated = |name: &str| {
        name.strip_prefix("br-")
            .is_some_and(|id| id.len() == 12 && id.bytes().all(|c| c.is_ascii_hexdigit()))
    };
    device.is_bridge
        && (matches!(device.name.as_str(), "docker0" | "docker_gwbridge")
            || is_generated(&device.name))
}

/// The kernel's number of the host's network namespace.
fn netns_cookie() -> anyhow::Result<u64> {
    use std::os::fd::AsRawFd as _;
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
        .context("cannot open a socket on loopback: is the device lo up?")?;
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `cookie`, which lives through the call.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    match got {
        0 => Ok(cookie),
        _ => Err(std::io::Error::last_os_error())
            .context("cannot ask the kernel for the cookie of the network namespace"),
    }
}
