//! One simulated cluster, from its founding to its rest after the last fault.

use crate::{
    agent::{self, Agent, Kernel, Records},
    client::Client,
    disk::Disk,
    engine::Engine,
    executor::{self, Process, Random},
    faults::Fault,
    history::{Cluster as Snapshot, History, Seen, Violation},
    invariants::shortfall,
    member::{self, Managers, Seat, Surroundings},
    network::{Host, Weather},
};
use parking_lot::Mutex;
use rand::Rng as _;
use skein_model::{Action, Availability, Cluster, Network as Overlay, Node, NodeRole, RaftMember};
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

/// Runs the world of a seed.
///
/// # Panics
/// What runs in it panics.
pub fn simulate(seed: u64, setup: &Setup) -> Outcome {
    let history = History::new(setup.tells);
    let (seen, setup) = (history.clone(), setup.clone());
    let world = async move {
        let world = World::new(seen, &setup);
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

/// A node of the cluster.
struct Place {
    node_id: String,
    is_manager: bool,
    skew: Duration,
    disk: Disk,
    engine: Engine,
    records: Records,
    kernel: Kernel,
    process: Option<Process>,
    runs: Arc<AtomicU32>,
}

/// Clones are the same world.
#[derive(Clone)]
pub struct World {
    around: Surroundings,
    places: Arc<Mutex<BTreeMap<Host, Place>>>,
    managers: Vec<Host>,
}

impl World {
    fn new(history: History, setup: &Setup) -> Self {
        let managers: u32 = match Random.random_range(0..10) {
            0 => 1,
            1..8 => 3,
            _ => 5,
        };
        let workers = Random.random_range(1..=2);
        let place = |number: u32| {
            let host = Host(number);
            let place = Place {
                node_id: format!("n{number}"),
                is_manager: number <= managers,
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
        let places = (1..=managers + workers).map(place).collect();
        Self {
            places: Arc::new(Mutex::new(places)),
            managers: (1..=managers).map(Host).collect(),
            around: Surroundings {
                network: Default::default(),
                directory: Default::default(),
                managers: Managers::default(),
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
                known: self.managers.clone(),
                history: self.around.history.clone(),
            };
            executor::spawn_in(clients, client.run());
        }
        let trouble = executor::process();
        executor::spawn_in(trouble, self.clone().strike_again_and_again());
        executor::sleep(faults).await;
        executor::kill(trouble);
        executor::kill(clients);
        self.heal().await;
        self.settle().await;
    }

    fn hosts(&self) -> Vec<Host> {
        self.places.lock().keys().copied().collect()
    }

    /// Starts a host's daemon, unless it runs.
    fn start(&self, host: Host) {
        let around = self.around.clone();
        let (seat, agent, process) = {
            let mut places = self.places.lock();
            let Some(place) = places.get_mut(&host).filter(|p| p.process.is_none()) else {
                return;
            };
            let process = executor::process();
            place.process = Some(process);
            let seat = Seat {
                host,
                runs: place.runs.clone(),
                skew: place.skew,
                disk: place.disk.clone(),
            };
            let agent = Agent {
                host,
                node_id: place.node_id.clone(),
                skew: place.skew,
                engine: place.engine.clone(),
                records: place.records.clone(),
                kernel: place.kernel.clone(),
                network: around.network.clone(),
                managers: around.managers.clone(),
                known: self.managers.clone(),
                history: around.history.clone(),
            };
            (place.is_manager.then_some(seat), agent, process)
        };
        around.network.listen(host, process);
        around.history.tell("up", format!("{host:?}"));
        if let Some(seat) = seat {
            executor::spawn_in(process, member::run(around, seat, process));
        }
        executor::spawn_in(process, agent::run(agent));
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

    /// The host lost its power: its kernel sends nothing anywhere.
    fn clear_kernel(&self, host: Host) {
        let cleared = {
            let places = self.places.lock();
            let Some(place) = places.get(&host) else {
                return;
            };
            *place.kernel.lock() = View::default();
            place.node_id.clone()
        };
        self.around.history.see(&Seen::Programmed {
            node_id: &cleared,
            kernel: &View::default(),
        });
    }

    /// Makes a cluster of all hosts.
    async fn found(&self) {
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
            let (node_id, address) = (self.node_id(first), crate::address_of(first));
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
        let sees_all = |raft: &skein_control::raft::Raft<_>| {
            let metrics = raft.openraft().metrics();
            let metrics = metrics.borrow();
            let membership = metrics.membership_config.membership();
            let voters = membership.voter_ids().count();
            voters == count && membership.get_joint_config().len() == 1
        };
        running.len() == count && running.iter().all(|(_, m)| sees_all(m.raft()))
    }

    fn node_id(&self, host: Host) -> String {
        let places = self.places.lock();
        let place = places.get(&host);
        place.map(|place| place.node_id.clone()).unwrap_or_default()
    }

    fn first_objects(&self) -> Vec<Action> {
        let member = |host: &Host| {
            let member = RaftMember {
                raft_id: u64::from(host.0),
                addr: crate::address_of(*host),
            };
            (self.node_id(*host), member)
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
        let places = self.places.lock();
        let nodes = places.values().map(|place| {
            let mut node = Node {
                id: place.node_id.clone(),
                ..Node::default()
            };
            if place.is_manager {
                (node.role, node.spec.role) = (NodeRole::Manager, NodeRole::Manager);
            }
            Action::Create(node.into())
        });
        let rest = [
            Action::Create(cluster.into()),
            Action::Create(ingress.into()),
        ];
        rest.into_iter().chain(nodes).collect()
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
            Fault::Partition(some) => {
                self.cut(&some, true);
                executor::sleep(lasts).await;
                network.mend();
            }
            Fault::OneWay(some) => {
                self.cut(&some, false);
                executor::sleep(lasts).await;
                network.mend();
            }
            Fault::Weather(weather) => {
                network.set_weather(weather);
                executor::sleep(lasts).await;
                network.set_weather(Weather::default());
            }
            Fault::Flaky(host, flakiness) => {
                if let Some(engine) = self.engine(host) {
                    engine.set_flakiness(flakiness);
                    executor::sleep(lasts).await;
                    engine.set_flakiness(0.0);
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
            Fault::HandOver => {
                for (host, manager) in self.around.managers.all() {
                    // Those that do not lead refuse, and faults may be in the way of who does.
                    if manager.raft().hand_over().await.is_ok() {
                        let line = format!("{host:?}");
                        self.around.history.tell("handed-over", line);
                        break;
                    }
                }
            }
        }
    }

    fn cut(&self, some: &BTreeSet<Host>, both_ways: bool) {
        let clients = (0..CLIENTS).map(|number| Host(CLIENT_HOSTS + number));
        let others = self.hosts().into_iter().chain(clients);
        for other in others.filter(|host| !some.contains(host)) {
            for host in some {
                self.around.network.cut(other, *host);
                if both_ways {
                    self.around.network.cut(*host, other);
                }
            }
        }
    }

    /// Ends all faults.
    async fn heal(&self) {
        self.around.history.tell("healed", String::new());
        self.around.network.mend();
        self.around.network.set_weather(Weather::default());
        for host in self.hosts() {
            if let Some(engine) = self.engine(host) {
                engine.set_flakiness(0.0);
            }
            self.start(host);
        }
    }

    fn look(&self) -> Snapshot {
        let managers = self.around.managers.all();
        let leads = |m: &skein_control::raft::Raft<_>| m.leadership().borrow().is_self;
        let leading = managers.iter().filter(|(_, m)| leads(m.raft()));
        let places = self.places.lock();
        let running = places.values();
        Snapshot {
            leaders: leading.map(|(host, _)| *host).collect(),
            running: running
                .map(|place| (place.node_id.clone(), place.engine.running()))
                .collect(),
            states: managers
                .iter()
                .map(|(host, m)| (*host, m.raft().state()))
                .collect(),
        }
    }

    /// Some node takes tasks: clients at odds may have seen to the contrary.
    async fn activate_one(&self) {
        for (_, manager) in self.around.managers.all() {
            let raft = manager.raft();
            let state = raft.state();
            let mut nodes = state.nodes();
            if nodes.any(|node| node.spec.availability == Availability::Active) {
                continue;
            }
            if let Some(node) = state.nodes().next() {
                let mut node = Node::clone(node);
                node.spec.availability = Availability::Active;
                // Only the leader can; the others are asked in vain.
                let _ = raft.propose(vec![Action::Update(node.into())]).await;
            }
        }
    }

    /// Waits until the cluster is what its specs say, and stays so.
    async fn settle(&self) {
        let history = &self.around.history;
        let deadline = executor::now() + executor::nanos(SETTLING);
        let mut settled_since = None;
        let mut lack = None;
        while executor::now() < deadline {
            self.activate_one().await;
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
