//! Owns everything of the kernel's side and does one thing at a time.

use super::{
    Askers, AttachError, Attachment, Command, Look, Made, Program, Repairs, Shown,
    devices::{Device, Devices, LOCAL_PEER, OwnDevices, VXLAN, VethPair},
    endpoints::{Endpoint, Endpoints},
    host::{Host, netns_cookie},
    l2::{Members, Prober, Ways},
    mac_of,
    plan::{Local, Plan, plan},
    probe,
    programs::{Hook, Programs},
    requirements,
    reserved_ports::ReservedPorts,
    tables::{Tables, Written, of_node},
    taken_ports::TakenPorts,
    tunnel::{self, SECURE, Tunnel},
    veth_names,
};
use crate::{
    config::Config,
    desired::{self, Desired, Subnet},
};
use anyhow::{Context as _, bail};
use futures::StreamExt as _;
use rtnetlink::{MulticastGroup, new_multicast_connection};
use skein_abi::from_addr;
use skein_proto::network::{Network, Problem};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    ops::ControlFlow,
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
/// What could not be written is tried again after this: long enough for a full map to get room, far
/// shorter than anybody waits for a version.
const FAILED_RETRY: Duration = Duration::from_secs(1);
/// Everything is compared with the kernel again so often, and repaired: changes that the kernel told of
/// may be lost, or have failed. A fault then lasts a minute at most, and a look costs milliseconds.
const RESYNC: Duration = Duration::from_secs(60);

/// See the module.
pub struct Actor {
    devices: Devices,
    programs: Programs,
    tables: Tables,
    host: Host,
    reserved: ReservedPorts,
    /// Why devices of the host are without their program.
    host_trouble: Option<Problem>,
    taken: TakenPorts,
    endpoints: Endpoints,
    own: OwnDevices,
    host_cookie: u64,
    desired: Arc<Desired>,
    suspects: BTreeSet<String>,
    /// Where the search for a free endpoint index begins.
    next_index: u32,
    tunnel: Tunnel,
    /// No encrypted overlay is left, and nothing of the tunnels.
    tunnel_closed: bool,
    /// UDP port of the vxlan device that is there.
    vxlan_port: Option<u16>,
    watched: watch::Sender<probe::Watched>,
    members: watch::Sender<Members>,
    /// Until it works on its own.
    prober: Option<Prober>,
    ways: watch::Receiver<Ways>,
    show_ways: watch::Sender<Ways>,
    /// What the kernel has, as of the last time.
    made: watch::Sender<Made>,
    show: watch::Sender<Arc<Shown>>,
    /// Something could not be written then.
    has_failed: bool,
    repairs: Repairs,
}

impl Actor {
    /// Loads, adopts, attaches: after this, packets flow as an earlier dataplane left it.
    pub async fn new(
        config: &Config,
        askers: Askers,
        made: watch::Sender<Made>,
        tunnel: Tunnel,
        show: watch::Sender<Arc<Shown>>,
    ) -> anyhow::Result<Self> {
        let devices = Devices::open()?;
        let mut programs = Programs::load(&config.bpffs)?;
        let tables = Tables::open(&mut programs, &config.state_dir)?;
        let prober = Prober::open(config.forwarding, &mut programs)?;
        let (show_ways, ways) = watch::channel(Ways::new());
        let (local, local_peer) = devices.make_local_pair().await?;
        let present = devices.list().await?;
        programs.adopt(|ifindex| present.contains_key(&ifindex))?;
        programs.attach(Hook::Local, LOCAL_PEER, local_peer)?;
        programs.attach_sockets(&requirements::cgroup_root()?)?;
        let mut actor = Self {
            taken: TakenPorts::resume(tables.published()),
            devices,
            programs,
            tables,
            host: Host::open(config.attach)?,
            reserved: ReservedPorts::open(config.state_dir.join("reserved-ports")),
            host_trouble: None,
            endpoints: Endpoints::new(askers),
            own: OwnDevices {
                vxlan: 0,
                local,
                local_peer,
            },
            host_cookie: netns_cookie()?,
            desired: Arc::default(),
            suspects: BTreeSet::new(),
            next_index: 0,
            tunnel,
            tunnel_closed: false,
            vxlan_port: None,
            watched: watch::channel(probe::Watched::new()).0,
            members: watch::channel(Members::default()).0,
            prober: Some(prober),
            ways,
            show_ways,
            made,
            show,
            has_failed: false,
            repairs: Repairs::default(),
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
        let prober = self.prober.take().context("the kernel's side runs once")?;
        let mut forwarding =
            tokio::spawn(prober.run(self.members.subscribe(), self.show_ways.clone()));
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
                command = commands.recv() => {
                    let Some(command) = command else {
                        return Ok(());
                    };
                    if self.obey(command).await.is_break() {
                        return Ok(());
                    }
                }
                _ = resync.tick() => self.resync().await,
                ended = &mut probing => {
                    ended.context("the probe of other nodes broke")?
                        .context("other nodes cannot be probed")?;
                    bail!("the probe of other nodes ended");
                }
                ended = &mut forwarding => {
                    ended.context("the probe of l2 broke")?
                        .context("other nodes cannot be asked for l2")?;
                    bail!("the probe of l2 ended");
                }
                () = tokio::time::sleep(FAILED_RETRY), if self.has_failed => {
                    self.program().await;
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

    /// Compares all with the kernel, and writes what differs.
    async fn resync(&mut self) {
        match self.tables.reread() {
            Ok(0) => {}
            Ok(differing) => {
                self.repairs.differing += differing as u64;
                tracing::warn!(
                    differing,
                    "somebody has changed Skein's maps in the kernel: writing them anew"
                );
            }
            Err(error) => {
                tracing::error!("cannot compare the kernel with what it should have: {error:#}")
            }
        }
        if let Err(error) = self.tunnel.guard(&self.devices).await {
            tracing::error!("{error:#}");
        }
        self.look_at_host().await;
        self.program().await;
    }

    /// Breaks when it is told to stop.
    async fn obey(&mut self, command: Command) -> ControlFlow<()> {
        // Whoever asked may be gone: then nobody wants the answer.
        match command {
            Command::Look(answer) => {
                let _ = answer.send(self.look().await);
            }
            Command::Program(desired, answer) => {
                self.desired = desired;
                let made = self.program().await;
                self.endpoints.tell_askers(&self.desired);
                let _ = answer.send(made);
            }
            Command::Attach(attachment, answer) => {
                let _ = answer.send(self.attach(attachment).await);
            }
            Command::Detach(endpoint, answer) => {
                let _ = answer.send(self.detach(&endpoint).await);
            }
            Command::Try(trial, answer) => {
                let _ = answer.send(self.programs.try_frame(&trial));
            }
            Command::Stop => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    /// Makes the kernel equal to what is wanted and what is here.
    async fn program(&mut self) -> Made {
        let (secured, trouble) = match self.make_tunnel().await {
            Ok(secured) => (secured, None),
            Err(error) => {
                let message = format!("nothing is sent on encrypted networks: {error:#}");
                (false, Some(of_node(message)))
            }
        };
        let mut plan = plan(&self.desired, &self.local(secured));
        let mut problems = std::mem::take(&mut plan.problems);
        let tunnel_failed = trouble.is_some();
        problems.extend(trouble);
        problems.extend(self.taken.find(&plan));
        problems.extend(self.host_trouble.clone());
        let had_failed = self.has_failed;
        match self.try_program(&plan).await {
            Ok(written) => {
                problems.extend(written.problems);
                self.has_failed = written.has_failed;
            }
            Err(error) => {
                problems.push(of_node(format!("cannot program the kernel: {error:#}")));
                self.has_failed = true;
            }
        }
        if let Err(error) = self.close_tunnel().await {
            problems.push(of_node(format!("{error:#}")));
            self.has_failed = true;
        }
        self.has_failed |= tunnel_failed;
        self.repairs.note(had_failed, self.has_failed);
        self.show.send_replace(Arc::new(Shown {
            desired: Arc::clone(&self.desired),
            meters: self.tables.meters().clone(),
            endpoints: self.places(),
        }));
        let before = self.made.borrow().version;
        let made = Made {
            version: version_after(before, self.desired.version, self.has_failed),
            problems,
        };
        self.made.send_if_modified(|before| {
            let changed = *before != made;
            // Said once, however often it is tried.
            let new = made.problems.iter();
            for problem in new.filter(|problem| !before.problems.contains(problem)) {
                tracing::error!("{}", problem.message);
            }
            before.clone_from(&made);
            changed
        });
        made
    }

    /// Has the tunnels, if an overlay here is encrypted; false: there are none. Before anything leads to them.
    async fn make_tunnel(&mut self) -> anyhow::Result<bool> {
        let Some(ends) = tunnel::ends(&self.desired) else {
            return Ok(false);
        };
        self.tunnel_closed = false;
        let ifindex = self
            .tunnel
            .make(&self.devices, &ends, self.host.mtu())
            .await?;
        self.programs.attach(Hook::Secure, SECURE, ifindex)?;
        Ok(true)
    }

    /// Removes the tunnels where no overlay here is encrypted. After nothing leads to them any more.
    async fn close_tunnel(&mut self) -> anyhow::Result<()> {
        let is_wanted = self.desired.networks.values().any(|of| of.encrypted);
        if is_wanted || self.tunnel_closed {
            return Ok(());
        }
        if let Some(device) = self.devices.find(SECURE).await? {
            self.programs.detach(Hook::Secure, device.ifindex)?;
        }
        self.tunnel.close(&self.devices).await?;
        self.tunnel_closed = true;
        Ok(())
    }

    /// What could not be written is in the answer: it keeps nothing else from being written.
    async fn try_program(&mut self, plan: &Plan) -> anyhow::Result<Written> {
        self.watch_nodes();
        if plan.vxlan_port != 0 && self.vxlan_port != Some(plan.vxlan_port) {
            let replace = self.vxlan_port.is_some();
            self.own.vxlan = self.devices.make_vxlan(plan.vxlan_port, replace).await?;
            self.programs.attach(Hook::Vxlan, VXLAN, self.own.vxlan)?;
            self.vxlan_port = Some(plan.vxlan_port);
        }
        self.tables.configure(plan, &self.own, self.host_cookie)?;
        let taken = &self.taken;
        let written = self.tables.program(plan, &|key| taken.contains(key));
        self.taken.published(plan);
        self.reserved
            .reserve(plan.published.keys())
            .context("cannot reserve the published ports")?;
        Ok(written)
    }

    async fn look(&self) -> anyhow::Result<Look> {
        let devices = self.devices.list().await?;
        let programs = self.programs.attached()?.into_iter().map(|attached| {
            let device = attached.ifindex.and_then(|ifindex| devices.get(&ifindex));
            let reason = attached
                .ifindex
                .and_then(|ifindex| self.host.reason(ifindex));
            Program {
                device: device.map_or_else(String::new, |device| device.name.clone()),
                hook: attached.hook(),
                reason: reason.unwrap_or_default().to_owned(),
                name: attached.program,
            }
        });
        Ok(Look {
            desired: Arc::clone(&self.desired),
            made: self.made.borrow().clone(),
            suspects: self.suspects.clone(),
            ways: self.ways.borrow().clone(),
            programs: programs.collect(),
            services: self.tables.services(),
            endpoints: self.places(),
            repairs: self.repairs,
            tunnel: self.tunnel.look(),
        })
    }

    /// Endpoints by their index: network ID and address.
    fn places(&self) -> BTreeMap<u32, (String, Ipv4Addr)> {
        let places = self.endpoints.iter().map(|endpoint| {
            let attachment = &endpoint.attachment;
            let place = (attachment.network_id.clone(), attachment.address);
            (endpoint.index, place)
        });
        places.collect()
    }

    fn local(&self, secured: bool) -> Local {
        Local {
            secured,
            endpoints: self.endpoints.places(),
            suspects: self.suspects.clone(),
            addresses: self.host.addresses().clone(),
        }
    }

    fn watch_nodes(&self) {
        let Some(settings) = &self.desired.settings else {
            self.watched.send_replace(probe::Watched::new());
            self.members.send_replace(Members::default());
            return;
        };
        let nodes = self.desired.nodes.values();
        let nodes = nodes.filter_map(|node| Some((node.id.clone(), node.address.parse().ok()?)));
        let mut watched: probe::Watched = nodes.collect();
        let own = watched.remove(&settings.node_id);
        self.members.send_replace(Members {
            own,
            port: u16::try_from(settings.vxlan_port).unwrap_or_default(),
            others: watched.values().copied().collect(),
        });
        self.watched.send_replace(watched);
    }

    async fn attach(&mut self, attachment: Attachment) -> Result<(), AttachError> {
        let (host, container) = veth_names(&attachment.endpoint_id);
        let (network, subnet) = self.network_of(&attachment)?;
        let vni = network.vni;
        let pair = VethPair {
            host: &host,
            container: &container,
            mac: mac_of(attachment.address),
            mtu: overlay_mtu(network.mtu, fits(network.encrypted, self.host.tunnel_mtu())),
        };
        let ifindex = self.devices.make_veth(&pair).await?;
        self.add(attachment, &host, ifindex, vni, subnet)?;
        self.program().await;
        Ok(())
    }

    fn network_of(&self, attachment: &Attachment) -> Result<(&Network, Subnet), AttachError> {
        let network = self.desired.networks.get(&attachment.network_id);
        let Some(network) = network.filter(|network| self.tables.has_network(network.vni)) else {
            return Err(AttachError::UnknownNetwork(attachment.network_id.clone()));
        };
        let address = attachment.address;
        let subnet = desired::subnet_of(network, address).with_context(|| {
            let id = &attachment.network_id;
            format!("address {address} is in no subnet of network {id}: the engine's network is an old one; remove it there")
        })?;
        Ok((network, subnet))
    }

    /// Makes a device known as an endpoint.
    fn add(
        &mut self,
        attachment: Attachment,
        host: &str,
        ifindex: u32,
        vni: u32,
        subnet: Subnet,
    ) -> anyhow::Result<()> {
        let (address, next) = (attachment.address, self.next_index);
        let given = self
            .tables
            .add_endpoint(ifindex, vni, address, &subnet, next)?;
        let index = given.context(
            "this node has as many endpoints as Skein supports: remove containers, or add a node",
        )?;
        self.next_index = index + 1;
        self.programs.attach(Hook::Veth, host, ifindex)?;
        self.endpoints.add(Endpoint {
            attachment,
            ifindex,
            index,
        });
        self.endpoints.tell_askers(&self.desired);
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
            let (Some(device), Ok((network, subnet))) = (device, self.network_of(&attachment))
            else {
                continue;
            };
            let vni = network.vni;
            self.add(attachment, &host, device.ifindex, vni, subnet)?;
        }
        if self.desired.settings.is_some() {
            self.watch_nodes();
            let members = self.members.borrow().clone();
            if let Some(prober) = &mut self.prober
                && let Err(error) = prober.look(&members).await
            {
                // It looks again, each round: until then what comes by l2 is not understood.
                tracing::error!("forwarding by l2: {error:#}");
            }
            self.look_at_host().await;
            self.program().await;
        }
        Ok(())
    }

    /// May be repeated: what an earlier try has not removed, this one does.
    async fn detach(&mut self, endpoint: &str) -> anyhow::Result<()> {
        let (host, _) = veth_names(endpoint);
        let known = self.endpoints.remove(endpoint);
        if known.is_some() {
            // First nobody is sent there any more, then it goes.
            self.endpoints.tell_askers(&self.desired);
            self.program().await;
        }
        let device = self.devices.find(&host).await?;
        let device = device.map(|device| device.ifindex);
        if let Some(ifindex) = known.map(|known| known.ifindex).or(device) {
            self.forget(ifindex)?;
        }
        self.devices.remove(&host).await
    }

    /// Endpoints whose containers ended while no dataplane ran.
    fn forget_gone_endpoints(&mut self, present: &BTreeMap<u32, Device>) -> anyhow::Result<()> {
        for ifindex in self.tables.veths() {
            if !present.contains_key(&ifindex) {
                self.forget(ifindex)?;
            }
        }
        Ok(())
    }

    /// What the kernel knows of an endpoint, by the host's end of its veth pair.
    fn forget(&mut self, ifindex: u32) -> anyhow::Result<()> {
        self.tables.remove_endpoint(ifindex)?;
        self.programs.detach(Hook::Veth, ifindex)
    }

    /// Attaches to every device that can carry a packet to an address of the host.
    async fn look_at_host(&mut self) {
        let node = from_addr(plan(&self.desired, &Local::default()).node_addr);
        let addresses = self.host.addresses().clone();
        let followed = self
            .host
            .follow(&self.devices, &mut self.programs, &mut self.tables, node)
            .await;
        let trouble = followed.err().map(|error| {
            let message = format!("cannot follow the host's devices: {error:#}");
            // Said by `program`, with all else that is wrong.
            of_node(message)
        });
        let had_trouble = std::mem::replace(&mut self.host_trouble, trouble);
        let has_moved = addresses != *self.host.addresses();
        let lost = [self.lost_vxlan().await, self.lost_tunnel().await];
        if lost.contains(&true) || had_trouble != self.host_trouble || has_moved {
            self.program().await;
        }
    }

    /// Whether the tunnels are gone: then they are to be made anew.
    async fn lost_tunnel(&mut self) -> bool {
        match self.tunnel.is_lost(&self.devices).await {
            Ok(false) => false,
            Ok(true) => {
                tracing::warn!(
                    "the device {SECURE} is gone, or nobody works on it: making it anew"
                );
                self.repairs.differing += 1;
                self.tunnel.give_up();
                true
            }
            Err(error) => {
                tracing::error!("cannot look for the device {SECURE}: {error:#}");
                false
            }
        }
    }

    /// Whether the vxlan device is gone: then it is to be made anew.
    async fn lost_vxlan(&mut self) -> bool {
        if self.vxlan_port.is_none() {
            return false;
        }
        let found = self.devices.find(VXLAN).await;
        let is_there = match found {
            Ok(found) => found.is_some_and(|device| device.ifindex == self.own.vxlan),
            Err(error) => {
                tracing::error!("cannot look for the device {VXLAN}: {error:#}");
                true
            }
        };
        if !is_there {
            tracing::warn!("the device {VXLAN} is gone: making it anew");
            self.repairs.differing += 1;
            self.vxlan_port = None;
        }
        !is_there
    }
}

/// The version that the kernel has, after it was to have the `wanted` one: that, or what it had `before`,
/// if that is not another cluster's.
fn version_after(before: u64, wanted: u64, has_failed: bool) -> u64 {
    match has_failed {
        false => wanted,
        true if before < wanted => before,
        true => 0,
    }
}

/// Largest IP packet of an overlay that goes to another node in one piece, where one that is not encrypted has
/// `clear`, bytes.
fn fits(encrypted: bool, clear: u32) -> u32 {
    match encrypted {
        true => clear.saturating_sub(tunnel::OVERHEAD),
        false => clear,
    }
}

/// Largest IP packet of an overlay's devices, bytes: what its user asked for (0: nothing), as far as it
/// `fits` in one piece.
fn overlay_mtu(asked: u32, fits: u32) -> u32 {
    match asked {
        0 => fits,
        asked => asked.min(fits),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_of_which_something_is_missing_is_not_had() {
        assert_eq!(version_after(7, 9, false), 9);
        assert_eq!(version_after(7, 9, true), 7);
        assert_eq!(version_after(9, 9, true), 0, "no more");
        assert_eq!(version_after(700, 9, true), 0, "of another cluster");
    }

    #[test]
    fn an_overlay_has_the_mtu_asked_for_where_it_fits() {
        assert_eq!(fits(false, 1_450), 1_450);
        assert_eq!(fits(true, 1_450), 1_390);
        assert_eq!(overlay_mtu(0, 1_450), 1_450);
        assert_eq!(overlay_mtu(1_400, 1_450), 1_400);
        assert_eq!(overlay_mtu(9_000, 1_450), 1_450);
    }
}
