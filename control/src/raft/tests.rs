//! Members over real TLS on loopback.

use super::{
    foundation::{LeadershipTransfer, Peering as _, Step, Storage as _},
    *,
};
use crate::{
    clock,
    identity::{
        CaService, ExternalCas, Identity, JoinToken, LogKeys, SecretKey, create_root,
        key_and_request, sign,
    },
    rpc::{self, Credentials, Managers, PeerIdentity, RemoteManager},
};
use openraft::RaftLogReader as _;
use openraft::network::{RPCOption, RaftNetwork as _, RaftNetworkFactory as _};
use skein_model::{
    Action, Cluster, Draft, Node, NodeRole, RaftMember, Rejection, RootCa, Service, ServiceSpec,
    State, Task, Timestamp,
};
use skein_proto::node::{JoinRequest, ca_server::Ca as _};
use std::{collections::BTreeMap, path::PathBuf, time::Duration};
use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

mod elections;

/// Elections and syncs on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(30);

/// In which a member that may would have stood for election more than once.
const CUT_OFF: Duration = Duration::from_secs(4);

/// Tasks of one transaction of as many as there may be.
const REPLICAS: usize = skein_model::PROPOSAL_ACTIONS_MAX;

struct TestMember {
    id: u64,
    address: String,
    file: PathBuf,
    keys: LogKeys,
    credentials: Credentials,
    managers: Managers,
    raft: Raft,
    serving: CancellationToken,
}

impl TestMember {
    async fn start(root: &RootCa, dir: &std::path::Path, id: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let credentials = credentials(root, id);
        let file = dir.join(format!("{id}.redb"));
        let keys = log_keys();
        let raft = started(&file, &keys, id, credentials.clone()).await;
        let managers = Managers::new(credentials.clone(), Vec::new());
        let serving = serve(listener, &raft, &managers);
        Self {
            id,
            address,
            file,
            keys,
            credentials,
            managers,
            raft,
            serving,
        }
    }

    fn node_id(&self) -> String {
        format!("n{}", self.id)
    }

    /// Nobody hears of it any more, and nothing is said in parting.
    async fn kill(&self) {
        self.serving.cancel();
        self.raft.stop().await;
    }

    async fn restart(&mut self) {
        let listener = TcpListener::bind(&self.address).await.unwrap();
        let credentials = self.credentials.clone();
        self.raft = started(&self.file, &self.keys, self.id, credentials).await;
        self.serving = serve(listener, &self.raft, &self.managers);
    }

    /// It is told who the managers are.
    fn hear_of(&self, managers: &[&TestMember]) {
        let remote = |member: &&TestMember| RemoteManager {
            node_id: member.credentials.identity().node_id,
            address: member.address.clone(),
        };
        self.managers.update(managers.iter().map(remote).collect());
    }

    /// Neither is it heard, nor does it hear anybody.
    fn cut(&self) {
        self.serving.cancel();
        let foreign = create_root(clock::now()).unwrap();
        let foreign = credentials(&foreign, self.id).identity();
        self.credentials.replace(foreign).unwrap();
    }

    async fn reconnect(&mut self, identity: Identity) {
        self.credentials.replace(identity).unwrap();
        let listener = TcpListener::bind(&self.address).await.unwrap();
        self.serving = serve(listener, &self.raft, &self.managers);
    }
}

/// The file is free a moment after the member that had it has stopped.
async fn started(
    file: &std::path::Path,
    keys: &LogKeys,
    id: u64,
    credentials: Credentials,
) -> Raft {
    let starting = async {
        loop {
            match Raft::start(file, keys.clone(), id, credentials.clone()).await {
                Ok(raft) => return raft,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    timeout(PATIENCE, starting).await.unwrap()
}

fn log_keys() -> LogKeys {
    LogKeys {
        current: SecretKey::generate(&mut rand::rng()),
        pending: None,
    }
}

fn credentials(root: &RootCa, id: u64) -> Credentials {
    let pair = key_and_request().unwrap();
    let name = format!("n{id}");
    let node = ("c", name.as_str(), NodeRole::Manager);
    let day = Duration::from_secs(86_400);
    let certificate = sign(root, &pair.csr_pem, node, day, clock::now()).unwrap();
    let identity = Identity::new(root.cert_pem.clone(), certificate, pair.key_pem).unwrap();
    Credentials::new(identity).unwrap()
}

fn serve(listener: TcpListener, raft: &Raft, managers: &Managers) -> CancellationToken {
    let slot = RaftSlot::default();
    slot.fill(raft.clone());
    let routes = Routes::new(RaftService::server(slot, managers.clone()));
    let stop = CancellationToken::new();
    let standings = Arc::new(|_: &str| rpc::Standing::AsCertified);
    tokio::spawn(rpc::serve(
        listener,
        managers.credentials().clone(),
        routes,
        standings,
        stop.clone(),
    ));
    stop
}

fn service(name: &str) -> Action {
    let spec = ServiceSpec {
        name: name.into(),
        ..ServiceSpec::default()
    };
    let id = format!("id-{name}");
    Action::Create(
        Service {
            id,
            spec,
            ..Service::default()
        }
        .into(),
    )
}

async fn await_state(raft: &Raft, holds: impl FnMut(&State) -> bool) {
    let mut states = raft.watch();
    let seen = timeout(PATIENCE, states.wait_for(holds)).await;
    seen.unwrap().unwrap();
}

async fn await_leader(raft: &Raft, is: impl FnMut(&Leadership) -> bool) -> Leadership {
    let mut leadership = raft.leadership();
    let seen = timeout(PATIENCE, leadership.wait_for(is)).await;
    seen.unwrap().unwrap().clone()
}

/// Member 1 founds a group of itself; the store says who the managers are to be.
async fn found(first: &TestMember, all: &[&TestMember]) {
    let (raft, address) = (&first.raft, &first.address);
    raft.found(&first.node_id(), address).await.unwrap();
    await_leader(raft, |leadership| leadership.is_self).await;
    let member = |member: &&TestMember| {
        let (raft_id, addr) = (member.id, member.address.clone());
        (member.node_id(), RaftMember { raft_id, addr })
    };
    let cluster = Cluster {
        id: "c".into(),
        managers: all.iter().map(member).collect::<BTreeMap<_, _>>(),
        ..Cluster::default()
    };
    let create = vec![Action::Create(cluster.into())];
    raft.propose(create).await.unwrap();
    for member in all {
        member.hear_of(all);
    }
}

/// Within a joint change, and where its end is not heard of yet, the first member is needed.
async fn all_vote(members: &[&TestMember]) {
    let settled = |member: &&TestMember| {
        let group = member.raft.group();
        group.voters.len() == members.len() && !group.joint
    };
    let voting = async {
        while !members.iter().all(settled) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, voting).await.unwrap();
}

/// A group of two.
async fn two_voters(root: &RootCa, dir: &std::path::Path) -> (TestMember, TestMember) {
    let one = TestMember::start(root, dir, 1).await;
    let two = TestMember::start(root, dir, 2).await;
    found(&one, &[&one, &two]).await;
    all_vote(&[&one, &two]).await;
    (one, two)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_comes_back_from_disk_with_all_it_had() {
    let dir = tempfile::tempdir().unwrap();
    let root = create_root(clock::now()).unwrap();
    let mut one = TestMember::start(&root, dir.path(), 1).await;
    found(&one, &[&one]).await;
    let applied = one.raft.propose(vec![service("a")]).await.unwrap();
    assert_eq!(applied.events.len(), 1);
    let again = one.raft.propose(vec![service("a")]).await;
    assert!(matches!(again, Err(ProposeError::Rejected(_))), "{again:?}");
    let created = one.raft.state().service("id-a").unwrap().meta.created_at;
    assert!(created > Timestamp::default());

    // From the log alone. It leads again by an election: only that settles what the log holds.
    let before = one.raft.leadership().borrow().term;
    one.kill().await;
    one.restart().await;
    let again = await_leader(&one.raft, |leadership| leadership.is_self).await;
    assert!(again.term > before, "term {} after {before}", again.term);
    let state = one.raft.linearizable().await.unwrap();
    assert_eq!(state.service("id-a").unwrap().meta.created_at, created);

    // From a snapshot and the log after it.
    one.raft.snapshot().await.unwrap();
    let snapshot_made = async {
        while one.raft.openraft().metrics().borrow().snapshot.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, snapshot_made).await.unwrap();
    one.raft.propose(vec![service("b")]).await.unwrap();
    let before = one.raft.state();
    one.kill().await;
    one.restart().await;
    await_leader(&one.raft, |leadership| leadership.is_self).await;
    let after = one.raft.linearizable().await.unwrap();
    assert_eq!(after.service("id-b"), before.service("id-b"));
    assert_eq!(after.services().count(), 2);
    one.kill().await;
}

/// Anybody may ask to join: those without a token must not cost the managers a round of calls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_token_is_refused_without_a_quorum() {
    let dir = tempfile::tempdir().unwrap();
    let root = create_root(clock::now()).unwrap();
    let one = TestMember::start(&root, dir.path(), 1).await;
    let two = TestMember::start(&root, dir.path(), 2).await;
    found(&one, &[&one, &two]).await;
    let voters = async {
        while one.raft.group().voters.len() != 2 || one.raft.group().joint {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, voters).await.unwrap();
    two.kill().await;
    let slot = RaftSlot::default();
    slot.fill(one.raft.clone());
    let request = JoinRequest {
        token: "nonsense".into(),
        ..JoinRequest::default()
    };
    let joining = CaService::new(slot, ExternalCas::new(one.credentials.clone()));
    let refused = timeout(
        PROPOSE_TIMEOUT / 2,
        joining.join(tonic::Request::new(request)),
    );
    let refused = refused.await.unwrap().unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
    one.kill().await;
}

/// The answer to the first request may be lost, or come too late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_twice_to_join_is_one_node() {
    let dir = tempfile::tempdir().unwrap();
    let root = create_root(clock::now()).unwrap();
    let one = TestMember::start(&root, dir.path(), 1).await;
    found(&one, &[&one]).await;
    let mut cluster = Cluster::clone(one.raft.state().cluster().unwrap());
    cluster.root_ca = root.clone();
    let token = JoinToken::generate(&root.cert_pem, &mut rand::rng());
    cluster.join_tokens.worker = token.as_str().to_owned();
    let told = vec![Action::Update(cluster.into())];
    one.raft.propose(told).await.unwrap();
    let slot = RaftSlot::default();
    slot.fill(one.raft.clone());
    let joining = CaService::new(slot, ExternalCas::new(one.credentials.clone()));
    let request = || JoinRequest {
        token: token.as_str().to_owned(),
        csr_pem: key_and_request().unwrap().csr_pem,
        availability: "active".into(),
    };
    let join = async |request: &JoinRequest| {
        let joined = joining.join(tonic::Request::new(request.clone())).await;
        joined.unwrap().into_inner().node_id
    };
    let (first, other) = (request(), request());
    let id = join(&first).await;
    assert_eq!(join(&first).await, id);
    assert_eq!(one.raft.state().nodes().count(), 1);
    assert_ne!(join(&other).await, id, "another key is another node's");
    // Once it is part of the swarm, its key is its own.
    let mut node = Node::clone(one.raft.state().node(&id).unwrap());
    node.description.hostname = "host".into();
    let registered = vec![Action::Update(node.into())];
    one.raft.propose(registered).await.unwrap();
    let again = joining.join(tonic::Request::new(first)).await;
    assert_eq!(again.unwrap_err().code(), tonic::Code::AlreadyExists);
    one.kill().await;
}

/// Replicas of a service whose spec is long, and a member that has to catch up with them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_long_tasks_are_replicated_and_keep_nothing_from_being_committed() {
    let dir = tempfile::tempdir().unwrap();
    let root = create_root(clock::now()).unwrap();
    let one = TestMember::start(&root, dir.path(), 1).await;
    let two = TestMember::start(&root, dir.path(), 2).await;
    let mut three = TestMember::start(&root, dir.path(), 3).await;
    found(&one, &[&one, &two, &three]).await;
    let settled = |raft: &Raft| raft.group().voters.len() == 3 && !raft.group().joint;
    let voters = async {
        while ![&one.raft, &two.raft, &three.raft].into_iter().all(settled) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, voters).await.unwrap();
    three.kill().await;

    let mut draft = Draft::new(one.raft.state(), clock::now());
    for n in 0..REPLICAS {
        let mut task = Task {
            id: format!("t{n:03}"),
            ..Task::default()
        };
        task.spec.container_spec.image = "x".repeat(400_000);
        draft.put(task);
    }
    for actions in draft.into_proposals() {
        one.raft.propose(actions).await.unwrap();
    }
    one.raft.propose(vec![service("small")]).await.unwrap();
    await_state(&two.raft, |state| state.service("id-small").is_some()).await;
    assert_eq!(two.raft.state().tasks().count(), REPLICAS);

    three.restart().await;
    await_state(&three.raft, |state| state.service("id-small").is_some()).await;
    assert_eq!(three.raft.state().tasks().count(), REPLICAS);

    let long = ServiceSpec {
        name: "x".repeat(skein_model::ACTION_BYTES_MAX),
        ..ServiceSpec::default()
    };
    let long = Service {
        id: "long".into(),
        spec: long,
        ..Service::default()
    };
    let refused = one.raft.propose(vec![Action::Create(long.into())]).await;
    assert!(
        matches!(
            refused,
            Err(ProposeError::Rejected(Rejection::TooLarge { .. }))
        ),
        "{refused:?}"
    );
    for member in [&one, &two, &three] {
        member.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_as_long_as_the_swarms_settings_say_from_when_they_say_it() {
    let dir = tempfile::tempdir().unwrap();
    let root = create_root(clock::now()).unwrap();
    let (one, two) = two_voters(&root, dir.path()).await;
    for n in 0..40 {
        let service = service(&format!("before-{n}"));
        one.raft.propose(vec![service]).await.unwrap();
    }
    await_state(&two.raft, |state| state.services().count() == 40).await;
    let snapshot = |member: &TestMember| member.raft.openraft().metrics().borrow().snapshot;
    assert_eq!((snapshot(&one), snapshot(&two)), (None, None));

    let mut cluster = Cluster::clone(one.raft.state().cluster().unwrap());
    cluster.spec.raft.snapshot_interval = 10;
    cluster.spec.raft.log_entries_for_slow_followers = 4;
    let update = vec![Action::Update(cluster.into())];
    let mut last = one.raft.propose(update).await.unwrap().index;
    for round in 0..3 {
        for member in [&one, &two] {
            let shortened = |metrics: &openraft::RaftMetrics<u64, types::Peer>| {
                let index = |id: Option<types::LogId>| id.map_or(0, |id| id.index);
                let (snapshot, purged) = (index(metrics.snapshot), index(metrics.purged));
                snapshot + 10 > last && purged + 4 == snapshot
            };
            let mut metrics = member.raft.openraft().metrics();
            let seen = timeout(PATIENCE, metrics.wait_for(shortened)).await;
            seen.unwrap().unwrap();
        }
        for n in 0..10 {
            let service = service(&format!("after-{round}-{n}"));
            last = one.raft.propose(vec![service]).await.unwrap().index;
        }
    }
    one.kill().await;
    two.kill().await;
}

#[tokio::test]
async fn an_older_snapshot_does_not_take_the_place_of_a_newer_one() {
    let dir = tempfile::tempdir().unwrap();
    let (file, keys) = (dir.path().join("1.redb"), log_keys());
    let (disk, _) = disk::Disk::open(&file, &keys).unwrap();
    let at = |index: u64| {
        let leader = openraft::CommittedLeaderId::new(1, 1);
        types::SnapshotMeta {
            last_log_id: Some(types::LogId::new(leader, index)),
            ..types::SnapshotMeta::default()
        }
    };
    for (index, data) in [(5, "five"), (9, "nine"), (7, "seven")] {
        disk.save_snapshot(at(index), Arc::new(data.into()))
            .await
            .unwrap();
    }
    drop(disk);
    let opening = async {
        loop {
            match disk::Disk::open(&file, &keys) {
                Ok((_, loaded)) => return loaded,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let loaded = timeout(PATIENCE, opening).await.unwrap();
    assert_eq!(loaded.snapshot, Some((at(9), Arc::new(b"nine".to_vec()))));
}

#[tokio::test]
async fn nothing_is_sent_from_behind_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, mut loaded) = disk::Disk::open(&dir.path().join("1.redb"), &log_keys()).unwrap();
    // As of a log of which 1 to 4 were purged while they were to be sent.
    loaded.entries = [5, 6, 8].into_iter().map(entry).collect();
    let none = snapshots::Snapshots::new(None);
    let mut log = log::Log::<platform::Daemon>::new(disk, &mut loaded, 1, none).unwrap();
    for (range, expected) in [
        (5..7, &[5, 6][..]),
        (5..9, &[5, 6]),
        (6..7, &[6]),
        (4..9, &[]),
        (7..9, &[]),
        (9..12, &[]),
    ] {
        let sent = log.limited_get_log_entries(range.start, range.end).await;
        let sent: Vec<u64> = sent.unwrap().iter().map(|e| e.log_id.index).collect();
        assert_eq!(sent, expected, "{range:?}");
    }
}

fn entry(index: u64) -> (u64, Vec<u8>) {
    let leader = openraft::CommittedLeaderId::new(1, 1);
    let entry = types::Entry::<platform::Daemon> {
        log_id: types::LogId::new(leader, index),
        payload: openraft::EntryPayload::Blank,
    };
    (index, serde_json::to_vec(&entry).unwrap())
}

/// Opens the file as a start would, once it is free.
async fn reopened(file: &std::path::Path, keys: &LogKeys) -> std::io::Result<()> {
    let opening = async {
        loop {
            match disk::Disk::open(file, keys) {
                Err(error) if error.to_string().contains("lock") => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                other => return other.map(drop),
            }
        }
    };
    timeout(PATIENCE, opening).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_on_disk_can_be_read_without_the_key() {
    const SECRET: &str = "a-name-that-nobody-else-has";
    let dir = tempfile::tempdir().unwrap();
    let root = create_root(clock::now()).unwrap();
    let mut one = TestMember::start(&root, dir.path(), 1).await;
    found(&one, &[&one]).await;
    one.raft.propose(vec![service(SECRET)]).await.unwrap();
    one.raft.snapshot().await.unwrap();
    let snapshot_made = async {
        while one.raft.openraft().metrics().borrow().snapshot.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, snapshot_made).await.unwrap();
    one.raft.propose(vec![service("after")]).await.unwrap();
    let shows = |file: &PathBuf| {
        let bytes = std::fs::read(file).unwrap();
        let shows = |text: &str| {
            bytes
                .windows(text.len())
                .any(|part| part == text.as_bytes())
        };
        shows(SECRET) || shows("Service")
    };
    assert!(!shows(&one.file));

    // Another key takes its place while it runs; after that the old one opens nothing.
    let next = SecretKey::generate(&mut rand::rng());
    one.raft.rekey(next.clone()).await.unwrap();
    one.raft.propose(vec![service("later")]).await.unwrap();
    one.kill().await;
    let refused = reopened(&one.file, &one.keys).await.unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("not sealed with the keys of this node"),
        "{refused}"
    );
    assert!(!shows(&one.file));
    // As after a crash before the key file was written.
    one.keys.pending = Some(next);
    one.restart().await;
    await_leader(&one.raft, |leadership| leadership.is_self).await;
    let state = one.raft.linearizable().await.unwrap();
    assert_eq!(state.services().count(), 3);
    one.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_survivor_makes_the_swarm_anew_with_all_it_had() {
    let dir = tempfile::tempdir().unwrap();
    let root = create_root(clock::now()).unwrap();
    let mut one = TestMember::start(&root, dir.path(), 1).await;
    let mut two = TestMember::start(&root, dir.path(), 2).await;
    let three = TestMember::start(&root, dir.path(), 3).await;
    found(&one, &[&one, &two, &three]).await;
    let nodes = [1, 2, 3].map(|id| {
        let mut node = skein_model::Node {
            id: format!("n{id}"),
            role: NodeRole::Manager,
            ..skein_model::Node::default()
        };
        node.spec.role = NodeRole::Manager;
        Action::Create(node.into())
    });
    one.raft.propose(nodes.to_vec()).await.unwrap();
    one.raft.propose(vec![service("a")]).await.unwrap();
    let mut cluster = Cluster::clone(one.raft.state().cluster().unwrap());
    cluster.next_raft_id = 4;
    cluster.join_tokens.worker = "the-token".into();
    let update = vec![Action::Update(cluster.into())];
    one.raft.propose(update).await.unwrap();
    await_state(&two.raft, |state| {
        state
            .cluster()
            .is_some_and(|cluster| cluster.next_raft_id == 4)
    })
    .await;
    for member in [&one, &two, &three] {
        member.kill().await;
    }

    let surviving = async {
        loop {
            match survive(&two.file, &two.keys, "n2", &two.address) {
                Ok(id) => return id,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    two.id = timeout(PATIENCE, surviving).await.unwrap();
    assert_eq!(two.id, 4);
    let listener = TcpListener::bind(&two.address).await.unwrap();
    two.raft = started(&two.file, &two.keys, two.id, two.credentials.clone()).await;
    two.serving = serve(listener, &two.raft, &two.managers);
    // Those that come back find nobody they know, and change nothing.
    one.restart().await;
    await_leader(&two.raft, |leadership| leadership.is_self).await;
    two.raft.propose(vec![service("b")]).await.unwrap();
    let state = two.raft.linearizable().await.unwrap();
    let cluster = state.cluster().unwrap();
    assert_eq!(cluster.join_tokens.worker, "the-token");
    let managers: Vec<_> = cluster
        .managers
        .iter()
        .map(|(id, m)| (&**id, m.raft_id))
        .collect();
    assert_eq!((managers, cluster.next_raft_id), (vec![("n2", 4)], 5));
    assert_eq!(state.services().count(), 2);
    let roles = ["n1", "n2", "n3"].map(|id| state.node(id).unwrap().role);
    use NodeRole::{Manager, Worker};
    assert_eq!(roles, [Worker, Manager, Worker]);
    let ids: Vec<_> = two.raft.members().iter().map(|m| m.raft_id).collect();
    assert_eq!(ids, [4]);
    assert!(one.raft.state().service("id-b").is_none());

    // It grows again, and restarts.
    let mut five = TestMember::start(&root, dir.path(), 5).await;
    five.hear_of(&[&two, &five]);
    let mut cluster = Cluster::clone(two.raft.state().cluster().unwrap());
    let place = RaftMember {
        raft_id: 5,
        addr: five.address.clone(),
    };
    cluster.managers.insert("n5".into(), place);
    let update = vec![Action::Update(cluster.into())];
    two.raft.propose(update).await.unwrap();
    await_state(&five.raft, |state| state.service("id-b").is_some()).await;
    five.kill().await;
    five.restart().await;
    await_state(&five.raft, |state| state.service("id-b").is_some()).await;
    for member in [&one, &two, &five] {
        member.kill().await;
    }
}
