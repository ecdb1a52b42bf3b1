//! One simulated cluster, from its founding to its rest after the last fault.

use crate::{
    agent::{Agent, Kernel, Records},
    changes::nodes::{demote, remove_one},
    client::Client,
    daemon::{self, Daemon},
    disk::Disk,
    engine::Engine,
    executor::{self, Process, Random},
    faults::Fault,
    history::{Cluster as Snapshot, History, Seen, Violation},
    invariants::shortfall,
    member::{self, Managers, Seat, Surroundings},
    membership::{Kept, Membership, Memberships, managers_of},
    network::Host,
    route::Route,
};
use futures::FutureExt as _;
use parking_lot::Mutex;
use rand::{Rng as _, seq::IteratorRandom as _};
use skein_control::{identity::joining, manager::QuorumView, raft::Raft, rpc::RemoteManager};
use skein_model::{
    Action, Availability, Cluster, Network as Overlay, Node, NodeRole, NodeState, RaftMember, State,
};
use skein_proto::view::View;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::AtomicU32},
    time::Duration,
};

/// How long founding a cluster may take.
const FOUNDING: Duration = Duration::from_secs(60);
/// How long faults strike, unless a test asks otherwise.
const FAULTS: Duration = Duration::from_secs(40);
/// How long a cluster may take to settle after the last fault: nodes are given up after 30 s at most, a
/// task waits 60 s at most for the one before it, and one update follows the other.
const SETTLING: Duration = Duration::from_secs(240);
/// How long it must stay settled.
const SETTLED: Duration = Duration::from_secs(2);
/// Between looks at a cluster that is waited for.
const LOOK: Duration = Duration::from_millis(500);
/// How long a daemon is down.
const DOWN_MS: (u64, u64) = (50, 12_000);
/// How far wall clocks are apart at most.
const SKEW_MS_MAX: u64 = 1_500;
/// How many clients change the cluster at once.
const CLIENTS: u32 = 2;
/// Clients are on hosts of their own, from this number on.
const CLIENT_HOSTS: u32 = 100;
/// Hosts that are no members at first.
const SPARE: u32 = 2;
/// Between two hosts that join or leave.
const MOVE_MS: (u64, u64) = (2_000, 12_000);
/// How long a user waits for a host to join.
const JOIN_TIMEOUT: Duration = Duration::from_secs(15);
/// How likely a host that joins is a manager.
const JOINS_AS_MANAGER: f64 = 0.5;
/// Members that the group has at least when a manager's user has it leave by force, which is at his own risk: that
/// the others still hold a quorum if it is gone for good before they know, and one of them is demoted.
const LEAVE_FROM: usize = 4;
/// Of the cluster.
const SUBNET_SIZE: u8 = 24;

/// What world to make.
#[derive(Clone, Debug)]
pub struct Setup {
    /// How long faults strike.
    pub faults: Duration,
    /// The disks say that writes are synced which are not: for tests of the simulator itself.
    pub disks_lie: bool,
    /// Print what happens.
    pub tells: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            faults: FAULTS,
            disks_lie: false,
            tells: false,
        }
    }
}

/// What became of a world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The first invariant that was broken.
    pub violation: Option<Violation>,
    /// Of all that was done: two runs that differ anywhere differ here.
    pub fingerprint: u64,
    /// How much happened, by kind.
    pub counts: BTreeMap<&'static str, u64>,
}

/// The end of a world. Members refer to each other by what carries their messages: that must be let go of, or they
/// stay for ever.
struct End(Surroundings);

impl Drop for End {
    fn drop(&mut self) {
        self.0.directory.clear();
        self.0.managers.clear();
    }
}

/// Runs the world of a seed.
///
/// # Panics
/// What runs in it panics.
pub fn simulate(seed: u64, setup: &Setup) -> Outcome {
    let history = History::new(setup.tells);
    let (seen, setup) = (history.clone(), setup.clone());
    let world = async move {
        let world = World::new(seen, &setup);
        let _end = End(world.around.clone());
        world.live(setup.faults).await;
    };
    let broken = history.clone();
    let (_, fingerprint) = executor::run(seed, world, move || broken.is_broken());
    Outcome {
        violation: history.violation(),
        fingerprint,
        counts: history.counts(),
    }
}

/// A host, be it a node of the cluster or not.
struct SimulatedHost {
    membership: Membership,
    /// How many nodes it has been.
    joined: u32,
    skew: Duration,
    disk: Disk,
    engine: Engine,
    records: Records,
    kernel: Kernel,
    process: Option<Process>,
    runs: Arc<AtomicU32>,
}

impl SimulatedHost {
    fn daemon(&self, host: Host, around: &Surroundings, node_id: String) -> Daemon {
        Daemon {
            around: around.clone(),
            seat: Seat {
                host,
                runs: self.runs.clone(),
                skew: self.skew,
                disk: self.disk.clone(),
            },
            membership: self.membership.clone(),
            agent: Agent {
                host,
                node_id,
                skew: self.skew,
                engine: self.engine.clone(),
                records: self.records.clone(),
                kernel: self.kernel.clone(),
                network: around.network.clone(),
                managers: around.managers.clone(),
                membership: self.membership.clone(),
                history: around.history.clone(),
            },
        }
    }
}

/// Clones are the same world.
#[derive(Clone)]
pub struct World {
    around: Surroundings,
    places: Arc<Mutex<BTreeMap<Host, SimulatedHost>>>,
    /// The first ones.
    managers: Vec<Host>,
    /// Some manager leaves by force.
    is_leaving: Arc<Mutex<bool>>,
}

/// What a host is called that has been so many nodes before.
fn node_id(host: Host, before: u32) -> String {
    match before {
        0 => format!("n{}", host.0),
        _ => format!("n{}-{before}", host.0),
    }
}

impl World {
    fn new(history: History, setup: &Setup) -> Self {
        let managers: u32 = match Random.random_range(0..10) {
            0 => 1,
            1..8 => 3,
            _ => 5,
        };
        let workers = Random.random_range(1..=2);
        let memberships = Memberships::default();
        let first: Vec<RemoteManager> = (1..=managers)
            .map(|number| RemoteManager {
                node_id: node_id(Host(number), 0),
                address: crate::address_of(Host(number)),
            })
            .collect();
        let place = |number: u32| {
            let host = Host(number);
            let is_manager = number <= managers;
            let kept = (number <= managers + workers).then(|| Kept {
                node_id: node_id(host, 0),
                certified: match is_manager {
                    true => NodeRole::Manager,
                    false => NodeRole::Worker,
                },
                raft_id: is_manager.then_some(u64::from(number)),
                managers: first.clone(),
            });
            let membership = Membership::new(kept);
            memberships.add(host, membership.clone());
            let place = SimulatedHost {
                membership,
                joined: 0,
                skew: Duration::from_millis(Random.random_range(0..=SKEW_MS_MAX)),
                disk: Disk::new(setup.disks_lie),
                engine: Engine::new(host, history.clone()),
                records: Records::default(),
                kernel: Kernel::default(),
                process: None,
                runs: Arc::default(),
            };
            (host, place)
        };
        let places = (1..=managers + workers + SPARE).map(place).collect();
        Self {
            places: Arc::new(Mutex::new(places)),
            managers: (1..=managers).map(Host).collect(),
            is_leaving: Arc::default(),
            around: Surroundings {
                network: Default::default(),
                directory: Default::default(),
                managers: Managers::default(),
                memberships,
                history,
            },
        }
    }

    async fn live(&self, faults: Duration) {
        self.found().await;
        let clients = executor::process();
        for number in 0..CLIENTS {
            let client = Client {
                host: Host(CLIENT_HOSTS + number),
                network: self.around.network.clone(),
                managers: self.around.managers.clone(),
                memberships: self.around.memberships.clone(),
                history: self.around.history.clone(),
            };
            executor::spawn_in(clients, client.run());
        }
        let trouble = executor::process();
        executor::spawn_in(trouble, self.clone().strike_again_and_again());
        executor::spawn_in(clients, self.clone().move_again_and_again());
        executor::sleep(faults).await;
        executor::kill(trouble);
        executor::kill(clients);
        // The user who had it leave is gone as well.
        *self.is_leaving.lock() = false;
        self.heal().await;
        self.settle().await;
    }

    fn hosts(&self) -> Vec<Host> {
        self.places.lock().keys().copied().collect()
    }

    /// Starts a host's daemon, unless it runs, or the host is no member.
    fn start(&self, host: Host) {
        let around = self.around.clone();
        let (daemon, process) = {
            let mut places = self.places.lock();
            let Some(place) = places.get_mut(&host).filter(|p| p.process.is_none()) else {
                return;
            };
            let Some(kept) = place.membership.get() else {
                return;
            };
            let process = executor::process();
            place.process = Some(process);
            (place.daemon(host, &around, kept.node_id), process)
        };
        around.network.listen(host, process);
        around.history.tell("up", format!("{host:?}"));
        executor::spawn_in(process, daemon::run(daemon, process));
    }

    /// Ends a host's daemon at once.
    fn crash(&self, host: Host) {
        let (process, disk) = {
            let mut places = self.places.lock();
            let Some(place) = places.get_mut(&host) else {
                return;
            };
            let Some(process) = place.process.take() else {
                return;
            };
            (process, place.disk.clone())
        };
        self.around.history.tell("down", format!("{host:?}"));
        self.around.network.hang_up(host);
        executor::kill(process);
        member::stopped(&self.around, host);
        disk.crash();
    }

    fn engine(&self, host: Host) -> Option<Engine> {
        let places = self.places.lock();
        places.get(&host).map(|place| place.engine.clone())
    }

    fn membership(&self, host: Host) -> Option<Kept> {
        self.around.memberships.get(host)?.get()
    }

    /// The host lost its power: its kernel sends nothing anywhere.
    fn clear_kernel(&self, host: Host) {
        let cleared = {
            let places = self.places.lock();
            let Some(place) = places.get(&host) else {
                return;
            };
            *place.kernel.lock() = View::default();
            let Some(kept) = place.membership.get() else {
                return;
            };
            kept.node_id
        };
        self.around.history.see(&Seen::Programmed {
            node_id: &cleared,
            kernel: &View::default(),
        });
    }

    /// Makes a cluster of all hosts.
    async fn found(&self) {
        for (_, kept) in self.around.memberships.members() {
            if let Some(raft_id) = kept.raft_id {
                let node_id = &kept.node_id;
                self.around
                    .history
                    .see(&Seen::SeatTaken { node_id, raft_id });
            }
        }
        let first = self.managers[0];
        self.start(first);
        let founded = executor::timeout(FOUNDING, async {
            let manager = loop {
                match self.around.managers.get(first) {
                    Some(manager) => break manager,
                    None => executor::sleep(LOOK).await,
                }
            };
            let raft = manager.raft();
            let (node_id, address) = (node_id(first, 0), crate::address_of(first));
            raft.found(&node_id, &address).await.map_err(describe)?;
            let mut leadership = raft.leadership();
            let leads = leadership.wait_for(|now| now.is_self).await;
            drop(leads.map_err(describe)?);
            raft.propose(self.first_objects()).await.map_err(describe)?;
            for host in self.hosts() {
                self.start(host);
            }
            while !self.is_whole() {
                executor::sleep(LOOK).await;
            }
            Ok::<_, String>(())
        });
        let founded = founded.await.expect("a cluster is founded in time");
        founded.expect("a cluster is founded while nothing is wrong");
        self.around.history.tell("founded", String::new());
    }

    /// Whether every manager has its place in the group.
    fn is_whole(&self) -> bool {
        let running = self.around.managers.all();
        let count = self.managers.len();
        let sees_all = |raft: &Raft<_>| {
            let metrics = raft.openraft().metrics();
            let metrics = metrics.borrow();
            let membership = metrics.membership_config.membership();
            let voters = membership.voter_ids().count();
            voters == count && membership.get_joint_config().len() == 1
        };
        running.len() == count && running.iter().all(|(_, m)| sees_all(m.raft()))
    }

    fn first_objects(&self) -> Vec<Action> {
        let member = |host: &Host| {
            let member = RaftMember {
                raft_id: u64::from(host.0),
                addr: crate::address_of(*host),
            };
            (node_id(*host, 0), member)
        };
        let cluster = Cluster {
            id: "cluster".into(),
            default_addr_pool: vec![ipnet::Ipv4Net::new_assert([10, 0, 0, 0].into(), 8)],
            subnet_size: SUBNET_SIZE,
            data_path_port: 4789,
            next_raft_id: self.managers.len() as u64 + 1,
            managers: self.managers.iter().map(member).collect(),
            ..Cluster::default()
        };
        let mut ingress = Overlay {
            id: "ingress".into(),
            ..Overlay::default()
        };
        ingress.spec.name = "ingress".into();
        ingress.spec.driver = "overlay".into();
        ingress.spec.ingress = true;
        let members = self.around.memberships.members();
        let nodes = members.into_iter().map(|(_, kept)| {
            let mut node = Node {
                id: kept.node_id,
                role: kept.certified,
                ..Node::default()
            };
            node.spec.role = kept.certified;
            Action::Create(node.into())
        });
        let rest = [
            Action::Create(cluster.into()),
            Action::Create(ingress.into()),
        ];
        rest.into_iter().chain(nodes).collect()
    }

    /// Hosts join and leave, as their users have it.
    async fn move_again_and_again(self) {
        loop {
            let pause = Random.random_range(MOVE_MS.0..=MOVE_MS.1);
            executor::sleep(Duration::from_millis(pause)).await;
            self.leave_removed();
            let Some(host) = self.hosts().into_iter().choose(&mut Random) else {
                return;
            };
            match self.membership(host) {
                None => self.join(host).await,
                Some(kept) if kept.certified == NodeRole::Worker => self.leave(host),
                Some(_) => executor::spawn(self.clone().leave_managers(host)),
            }
        }
    }

    /// A host becomes a node of the cluster.
    async fn join(&self, host: Host) {
        let joined = {
            let mut places = self.places.lock();
            let Some(place) = places.get_mut(&host) else {
                return;
            };
            place.joined += 1;
            place.joined
        };
        let node_id = node_id(host, joined);
        let role = match Random.random_bool(JOINS_AS_MANAGER) {
            true => NodeRole::Manager,
            false => NodeRole::Worker,
        };
        let known = managers_of(&self.around.history.newest());
        // With this its user asks: it is a member once it has its certificate.
        let asking = Membership::new(Some(Kept {
            node_id: node_id.clone(),
            certified: NodeRole::Worker,
            raft_id: None,
            managers: known.clone(),
        }));
        let (network, managers) = (self.around.network.clone(), self.around.managers.clone());
        let route = Route::new(host, network, managers, asking);
        let id = node_id.clone();
        let answer = async {
            let to = route.target()?;
            let join = route.call(to, "/skein.node.Ca/Join", JOIN_TIMEOUT, move |manager| {
                let node = joining(&id, role, Availability::Active);
                async move {
                    let raft = manager.raft();
                    raft.linearizable().await?;
                    raft.propose(vec![Action::Create(node.into())]).await?;
                    Ok(())
                }
                .boxed()
            });
            join.await.inspect_err(|status| route.redirect(status))
        };
        if let Err(status) = answer.await {
            let line = format!("{host:?} as {node_id}: {}", status.message());
            self.around.history.tell("not-joined", line);
            return;
        }
        let line = format!("{host:?} as {node_id}, {role:?}");
        self.around.history.tell("joined", line);
        if let Some(membership) = self.around.memberships.get(host) {
            membership.set(Some(Kept {
                node_id,
                certified: role,
                raft_id: None,
                managers: known,
            }));
        }
        self.start(host);
    }

    /// A host leaves the cluster: nothing of it stays.
    fn leave(&self, host: Host) {
        let Some(kept) = self.membership(host) else {
            return;
        };
        let line = format!("{host:?}, which was {}", kept.node_id);
        self.around.history.tell("left", line);
        self.crash(host);
        self.clear_kernel(host);
        let places = self.places.lock();
        if let Some(place) = places.get(&host) {
            place.membership.set(None);
            place.disk.wipe();
            place.records.lock().clear();
            let engine = place.engine.clone();
            drop(places);
            engine.clear();
        }
        if let Some(raft_id) = kept.raft_id {
            self.around.history.see(&Seen::SeatGivenUp { raft_id });
        }
    }

    /// A manager leaves by force, where its user takes it that the others can go on without it.
    async fn leave_managers(self, host: Host) {
        let Some(manager) = self.around.managers.get(host) else {
            return;
        };
        let voters = manager.raft().members();
        if voters.iter().filter(|member| member.votes).count() < LEAVE_FROM {
            return;
        }
        if std::mem::replace(&mut *self.is_leaving.lock(), true) {
            return;
        }
        let daemon = {
            let places = self.places.lock();
            let kept = self.membership(host);
            let of = |place: &SimulatedHost| Some(place.daemon(host, &self.around, kept?.node_id));
            places.get(&host).and_then(of)
        };
        let Some(daemon) = daemon else { return };
        if let Err(status) = daemon.leave_group().await {
            let line = format!("{host:?}: {}", status.message());
            self.around.history.tell("not-let-go", line);
            // Then the user has it stay.
            *self.is_leaving.lock() = false;
            return;
        }
        self.leave(host);
        *self.is_leaving.lock() = false;
    }

    /// Those that were removed from the cluster leave it.
    fn leave_removed(&self) {
        let newest = self.around.history.newest();
        for (host, kept) in self.around.memberships.members() {
            if newest.node(&kept.node_id).is_none() {
                self.leave(host);
            }
        }
    }

    /// Those that have heard of no manager who is one still leave it: each that they knew was demoted, or left, while
    /// they were away, and so were they, perhaps. Who runs such a cluster has them leave, and join anew.
    fn leave_lost(&self) {
        let host_of = |manager: &RemoteManager| crate::host_at(&manager.address);
        let managers = managers_of(&self.around.history.newest());
        let managers: BTreeSet<Host> = managers.iter().filter_map(host_of).collect();
        for (host, kept) in self.around.memberships.members() {
            let mut known = kept.managers.iter().filter_map(host_of);
            if !managers.contains(&host) && !known.any(|known| managers.contains(&known)) {
                self.leave(host);
            }
        }
    }

    async fn strike_again_and_again(self) {
        let hosts = self.hosts();
        loop {
            executor::sleep(Fault::pause()).await;
            let (fault, lasts) = Fault::draw(&hosts);
            let line = format!("{fault:?} for {lasts:?}");
            self.around.history.tell("fault", line);
            executor::spawn(self.clone().strike(fault, lasts));
        }
    }

    async fn strike(self, fault: Fault, lasts: Duration) {
        let network = &self.around.network;
        let down = Duration::from_millis(Random.random_range(DOWN_MS.0..=DOWN_MS.1));
        match fault {
            Fault::Crash(host) => {
                self.crash(host);
                executor::sleep(down).await;
                self.start(host);
            }
            Fault::PowerLoss(some) => {
                for host in some.iter().copied() {
                    self.crash(host);
                    if let Some(engine) = self.engine(host) {
                        engine.lose_power();
                    }
                    self.clear_kernel(host);
                }
                executor::sleep(down).await;
                for host in some {
                    self.start(host);
                }
            }
            Fault::Partition(some) => self.cut(&some, true, lasts).await,
            Fault::OneWay(some) => self.cut(&some, false, lasts).await,
            Fault::Weather(weather) => {
                network.begin_weather(weather);
                executor::sleep(lasts).await;
                network.end_weather(weather);
            }
            Fault::Flaky(host, flakiness) => {
                if let Some(engine) = self.engine(host) {
                    engine.begin_flakiness(flakiness);
                    executor::sleep(lasts).await;
                    engine.end_flakiness(flakiness);
                }
            }
            Fault::Refusal(host) => {
                let disk = self
                    .places
                    .lock()
                    .get(&host)
                    .map(|place| place.disk.clone());
                if let Some(disk) = disk {
                    disk.refuse_next();
                }
            }
            Fault::Snapshot(host) => {
                if let Some(manager) = self.around.managers.get(host) {
                    // One that is about to stop makes none.
                    let _ = manager.raft().snapshot().await;
                }
            }
            Fault::LeadershipTransfer => {
                for (host, manager) in self.around.managers.all() {
                    // Those that do not lead refuse, and faults may be in the way of who does.
                    if manager.raft().transfer_leadership().await.is_ok() {
                        let line = format!("{host:?}");
                        self.around.history.tell("handed-over", line);
                        break;
                    }
                }
            }
        }
    }

    /// Lets nothing through to some hosts, for so long.
    async fn cut(&self, some: &BTreeSet<Host>, both_ways: bool, lasts: Duration) {
        let clients = (0..CLIENTS).map(|number| Host(CLIENT_HOSTS + number));
        let mut links = Vec::new();
        let others = self.hosts().into_iter().chain(clients);
        for other in others.filter(|host| !some.contains(host)) {
            for host in some {
                links.push((other, *host));
                links.extend(both_ways.then_some((*host, other)));
            }
        }
        let network = &self.around.network;
        for (from, to) in &links {
            network.cut(*from, *to);
        }
        executor::sleep(lasts).await;
        for (from, to) in links {
            network.mend(from, to);
        }
    }

    /// Ends all faults.
    async fn heal(&self) {
        self.around.history.tell("healed", String::new());
        self.around.network.heal();
        for host in self.hosts() {
            if let Some(engine) = self.engine(host) {
                engine.heal();
            }
            self.start(host);
        }
    }

    fn look(&self) -> Snapshot {
        let managers = self.around.managers.all();
        let leads = |m: &Raft<_>| m.leadership().borrow().is_self;
        let leading: Vec<_> = managers.iter().filter(|(_, m)| leads(m.raft())).collect();
        let members = leading.first().map(|(_, m)| m.raft().members());
        let voters = members.into_iter().flatten().filter(|member| member.votes);
        let voters = voters.map(|member| member.node_id);
        let places = self.places.lock();
        let running = places.values();
        Snapshot {
            leaders: leading.iter().map(|(host, _)| *host).collect(),
            running: running
                .filter_map(|place| Some((place.membership.get()?.node_id, place.engine.running())))
                .collect(),
            voters: voters.collect(),
            states: managers
                .iter()
                .map(|(host, m)| (*host, m.raft().state()))
                .collect(),
        }
    }

    /// Some node takes tasks: clients at odds may have seen to the contrary. And managers that are none any more, as
    /// their hosts have left, are demoted by those who are still there.
    async fn tidy(&self) {
        self.leave_removed();
        self.leave_lost();
        for (_, manager) in self.around.managers.all() {
            let raft = manager.raft();
            let state = raft.state();
            let mut changes = Vec::new();
            let takes_tasks = |node: &&Arc<Node>| {
                let is_active = node.spec.availability == Availability::Active;
                is_active && node.status.state == NodeState::Ready
            };
            let mut ready = state.nodes().filter(|n| n.status.state == NodeState::Ready);
            if state.nodes().find(takes_tasks).is_none()
                && let Some(node) = ready.next()
            {
                let mut node = Node::clone(node);
                node.spec.availability = Availability::Active;
                changes.push(vec![Action::Update(node.into())]);
            }
            let group = QuorumView::of(raft.members(), |id| raft.reachable(id));
            if let Some(node) = self.left_manager(&state) {
                // One that was promoted and never came cannot be demoted, but goes.
                let demoted = demote(&state, &group, &node).map(|(_, actions)| actions);
                let removed = || Some(remove_one(&state, &group, &node, false, raft.now())?.1);
                let proposals = demoted.or_else(removed).unwrap_or_default();
                changes.extend(proposals);
            }
            for actions in changes {
                // Only the leader can; the others are asked in vain.
                let _ = raft.propose(actions).await;
            }
        }
    }

    /// A manager, or one that is to be one, of which no host is left.
    fn left_manager(&self, state: &State) -> Option<Arc<Node>> {
        let members = self.around.memberships.members();
        let is_here = |id: &str| members.iter().any(|(_, kept)| kept.node_id == id);
        let mut nodes = state.nodes();
        let left = nodes.find(|n| n.spec.role == NodeRole::Manager && !is_here(&n.id));
        left.cloned()
    }

    /// Waits until the cluster is what its specs say, and stays so.
    async fn settle(&self) {
        let history = &self.around.history;
        let deadline = executor::now() + executor::nanos(SETTLING);
        let mut settled_since = None;
        let mut lack = None;
        while executor::now() < deadline {
            self.tidy().await;
            executor::sleep(LOOK).await;
            let now = shortfall(&self.look());
            if now != lack {
                let line = now.as_deref().unwrap_or("nothing");
                history.tell("lacks", line.to_string());
            }
            lack = now;
            if lack.is_some() {
                settled_since = None;
                continue;
            }
            let since = *settled_since.get_or_insert(executor::now());
            if executor::now() - since >= executor::nanos(SETTLED) {
                break;
            }
        }
        history.see(&Seen::Due(&self.look()));
    }
}

fn describe(error: impl std::fmt::Display) -> String {
    error.to_string()
}
