//! The member of the group that runs in this process: what others ask of it, and its end.

use super::{
    Leadership, Member, ProposeError,
    compaction::{self, Extent},
    contacts::Contacts,
    disk::Disk,
    leadership::{self, CONFIRM_RETRY, member},
    leadership_transfer::Gate,
    log::{End, Log},
    membership,
    network::Network,
    platform::{self, Daemon, Loaded, Platform},
    snapshots::Snapshots,
    state_machine::Machine,
    types::{Outcome, Peer, TypeConfig},
};
use crate::{
    clock,
    identity::{LogKeys, SecretKey},
    rpc::Credentials,
};
use openraft::{
    AsyncRuntime as _, Config, SnapshotPolicy,
    error::{
        CheckIsLeaderError, ClientWriteError, Fatal, ForwardToLeader, InitializeError, RaftError,
    },
    metrics::{RaftMetrics, RaftServerMetrics},
    storage::RaftStateMachine,
};
use skein_model::{Action, Applied, Proposal, State, Timestamp};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long a proposal or a linearizable read may take: an election (see [`ELECTION_MS`]) and a slow
/// disk fit in.
pub const PROPOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a follower may take to answer a beat, or entries, which it writes to its disk first, before
/// they are sent again; and the least time between two beats of the leader. openraft looks at the clock
/// every one and a half of these, so that in fact its beats are 375 ms apart.
pub(super) const HEARTBEAT_MS: u64 = 250;
/// How long a member waits beyond the leader's lease before it stands for election: openraft draws it
/// once, when the member starts, and takes the upper bound for the lease. So a follower stands 2.5 to 3 s
/// after the last beat that it heard, and what it takes to look at the clock: six to eight beats, so that
/// a loaded machine's pauses depose nobody. Who was not elected stands again after the time that it has
/// drawn; who knows of a longer log than its own waits 3 s more.
pub(super) const ELECTION_MS: (u64, u64) = (1000, 1500);
/// One piece of a snapshot, written and synced by the receiver.
const SNAPSHOT_TIMEOUT_MS: u64 = 10_000;
/// Bytes in one piece of a snapshot.
const SNAPSHOT_CHUNK: u64 = 1 << 20;
/// Entries in one message; fewer where they are long (see [`super::wire::APPEND_BYTES`]).
const ENTRIES_MAX: u64 = 16;

/// This manager's place in the Raft group. Clones are handles of the same.
pub struct Raft<P: Platform = Daemon> {
    inner: Arc<Inner<P>>,
}

impl<P: Platform> Clone for Raft<P> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

struct Inner<P: Platform> {
    id: u64,
    raft: openraft::Raft<TypeConfig<P>>,
    /// Taken when it stops: the file is then free, whoever still has a handle.
    disk: parking_lot::Mutex<Option<P::Disk>>,
    contacts: Contacts<P>,
    clock: Clock,
    end: End<P>,
    /// Closed while the lead is handed over.
    gate: Gate,
    side_network: P::Network,
    state: watch::Receiver<State>,
    /// Whether the leader, if one is known, may be told of; see [`pre_vote`].
    followed: watch::Sender<bool>,
    leadership: watch::Receiver<Leadership>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What a wall clock shows.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What a member begins with.
pub struct Parts<P: Platform> {
    /// Its ID in the group.
    pub id: u64,
    /// Where it writes.
    pub disk: P::Disk,
    /// What was there.
    pub loaded: Loaded,
    /// The ways to the others.
    pub network: P::Network,
    /// When the others last answered.
    pub contacts: Contacts<P>,
    /// Other ways to them, by which this member is not heard as a leader; see [`Peering`](super::peering::Peering).
    pub side_network: P::Network,
    /// When proposals are made.
    pub clock: Clock,
    /// How long its log may get, whatever the cluster's spec says.
    pub most: Extent,
}

impl Raft {
    /// Starts member `id` from what is in the file `path`, which is created if it is not there, and
    /// is sealed with one of `keys`. It takes part once [`found`](Self::found) was called, or the
    /// leader adds it.
    ///
    /// # Errors
    /// The file cannot be read or written, or is sealed with another key.
    pub async fn start(
        path: &Path,
        keys: LogKeys,
        id: u64,
        credentials: Credentials,
    ) -> io::Result<Self> {
        let path = path.to_owned();
        let opening = tokio::task::spawn_blocking(move || Disk::open(&path, &keys));
        let (disk, loaded) = opening.await.map_err(io::Error::other)??;
        let contacts = Contacts::default();
        let network = |contacts| Network {
            credentials: credentials.clone(),
            contacts,
        };
        let parts = Parts {
            id,
            disk,
            loaded,
            network: network(contacts.clone()),
            side_network: network(Contacts::default()),
            contacts,
            clock: Arc::new(clock::now),
            most: Extent::MOST,
        };
        let raft = Self::assemble(parts, |machine, _| machine).await?;
        raft.stand_as_agreed();
        Ok(raft)
    }

    /// Seals log and snapshots on disk with another key.
    ///
    /// # Errors
    /// The disk refuses; the old key holds then.
    pub async fn rekey(&self, key: SecretKey) -> io::Result<()> {
        let disk = self.inner.disk.lock().clone();
        let stopped = || io::Error::other("this Raft member has stopped");
        disk.ok_or_else(stopped)?.rekey(key).await
    }
}

impl<P: Platform> Raft<P> {
    /// Starts a member of its parts. `watched` may put its own machine around that which applies the
    /// entries and publishes the state.
    ///
    /// # Errors
    /// What was on disk is not what was written.
    pub async fn assemble<M: RaftStateMachine<TypeConfig<P>>>(
        mut parts: Parts<P>,
        watched: impl FnOnce(Machine<P>, watch::Receiver<State>) -> M + Send,
    ) -> io::Result<Self> {
        let id = parts.id;
        let (publish, state) = watch::channel(State::default());
        let snapshots = Snapshots::new(parts.loaded.snapshot.take());
        let log = Log::<P>::new(parts.disk.clone(), &mut parts.loaded, id, snapshots.clone())?;
        let end = log.end();
        let machine = Machine::<P>::open(parts.disk.clone(), snapshots, publish).await?;
        let machine = watched(machine, state.clone());
        let config = Arc::new(config().validate().map_err(io::Error::other)?);
        let raft = openraft::Raft::new(id, config, parts.network, log, machine)
            .await
            .map_err(io::Error::other)?;
        let (announce, leadership) = watch::channel(Leadership::default());
        let (followed, follows) = watch::channel(true);
        let raft = Self {
            inner: Arc::new(Inner {
                id,
                raft,
                disk: parking_lot::Mutex::new(Some(parts.disk)),
                contacts: parts.contacts,
                clock: parts.clock,
                end,
                gate: Gate::default(),
                side_network: parts.side_network,
                state,
                followed,
                leadership,
                tasks: TaskTracker::new(),
                stop: CancellationToken::new(),
            }),
        };
        let stop = &raft.inner.stop;
        let openraft = raft.inner.raft.clone();
        let announcing = leadership::announce(openraft, id, announce, follows, stop.clone());
        raft.spawn(announcing);
        raft.spawn(membership::follow_store(raft.clone(), stop.clone()));
        raft.spawn(compaction::run(raft.clone(), parts.most, stop.clone()));
        Ok(raft)
    }

    /// Runs a task whose end is waited for when this member stops.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(P::Runtime::spawn(self.inner.tasks.track_future(task)));
    }

    /// Makes this the only member of a new group. Does nothing where there is a group already.
    ///
    /// # Errors
    /// The log cannot be written.
    pub async fn found(&self, node_id: &str, address: &str) -> Result<(), ProposeError> {
        let peer = Peer {
            node_id: node_id.into(),
            address: address.into(),
        };
        let founders = BTreeMap::from([(self.inner.id, peer)]);
        match self.inner.raft.initialize(founders).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(ProposeError::Unavailable(error.to_string())),
        }
    }

    /// Completes once this member votes, so that the group can go on without its other members.
    pub async fn await_vote(&self) {
        let is_voter = |metrics: &RaftServerMetrics<u64, Peer>| {
            let membership = metrics.membership_config.membership();
            let mut configs = membership.get_joint_config().iter();
            configs.len() == 1 && configs.all(|voters| voters.contains(&self.inner.id))
        };
        let mut metrics = self.inner.raft.server_metrics();
        // An error means that Raft has ended: whoever waits hears of that elsewhere.
        let _ = metrics.wait_for(is_voter).await;
    }

    /// Ends this member's part; what is committed stays on disk.
    pub async fn stop(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        if self.inner.raft.shutdown().await.is_err() {
            tracing::warn!("the Raft task had already failed");
        }
        self.inner.tasks.wait().await;
        self.inner.disk.lock().take();
    }

    /// Completes, with the reason, once this member has ended by itself, and never if it is stopped.
    ///
    /// The library gives a member up when its disk refuses a write, and in a race of its own: a leader
    /// hears of a newer term just as it is to send a snapshot. Neither spoils what is on disk, so whoever
    /// has the member may stop what is left of it and start it again.
    pub async fn failure(&self) -> String {
        let failed = |metrics: &RaftMetrics<u64, Peer>| {
            let ended = metrics.running_state.as_ref().err();
            ended.is_some_and(|reason| !matches!(reason, Fatal::Stopped))
        };
        let mut metrics = self.inner.raft.metrics();
        let reason = match metrics.wait_for(failed).await {
            Ok(metrics) => metrics.running_state.as_ref().err().map(Fatal::to_string),
            // Its task has ended, and only one that panics says no reason.
            Err(_) if !self.inner.stop.is_cancelled() => Some(Fatal::<u64>::Panicked.to_string()),
            Err(_) => None,
        };
        match reason {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }

    /// What this manager's wall clock shows.
    pub fn now(&self) -> Timestamp {
        (self.inner.clock)()
    }

    /// This member's ID.
    pub fn id(&self) -> u64 {
        self.inner.id
    }

    /// The newest state that this manager has applied. May be behind the leader's.
    pub fn state(&self) -> State {
        self.inner.state.borrow().clone()
    }

    /// Changes after every apply.
    pub fn watch(&self) -> watch::Receiver<State> {
        self.inner.state.clone()
    }

    /// A state that holds everything committed before the call. Only the leader has it.
    ///
    /// # Errors
    /// This manager does not lead, or cannot reach a quorum.
    pub async fn linearizable(&self) -> Result<State, ProposeError> {
        let confirming = self.confirm_leadership();
        let confirmed = platform::timeout::<P, _>(PROPOSE_TIMEOUT, confirming).await;
        confirmed.ok_or(ProposeError::NoLeader)??;
        Ok(self.state())
    }

    /// A state after which nothing comes that was proposed here before the call: each such proposal is in
    /// it, or never will be. [`Raft::linearizable`] says nothing of those that are in the log and that no
    /// quorum has yet. Only the leader has it.
    ///
    /// # Errors
    /// This manager does not lead, or cannot reach a quorum.
    pub async fn settled(&self) -> Result<State, ProposeError> {
        self.linearizable().await?;
        let last = self.inner.end.last_index();
        let mut state = self.watch();
        let applied = async {
            state
                .wait_for(|state| state.index() >= last)
                .await
                .map(drop)
        };
        match platform::timeout::<P, _>(PROPOSE_TIMEOUT, applied).await {
            Some(Ok(())) => {}
            Some(Err(_)) => {
                return Err(ProposeError::Unavailable(
                    "this Raft member has stopped".into(),
                ));
            }
            None => return Err(ProposeError::NoLeader),
        }
        // Another leader may have decided what became of them.
        self.linearizable().await
    }

    async fn confirm_leadership(&self) -> Result<(), ProposeError> {
        loop {
            let confirmed = self.inner.raft.ensure_linearizable().await;
            match confirmed {
                Ok(_) => return Ok(()),
                Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(to))) => {
                    return Err(forward(to));
                }
                // The others are given one beat to answer, which a loaded machine may exceed.
                Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_))) => {
                    platform::sleep::<P>(CONFIRM_RETRY).await;
                }
                Err(RaftError::Fatal(error)) => {
                    return Err(ProposeError::Unavailable(error.to_string()));
                }
            }
        }
    }

    /// Proposes a transaction and waits until it is applied here. Only the leader can.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose(&self, actions: Vec<Action>) -> Result<Applied, ProposeError> {
        skein_model::check_size(&actions)?;
        // Nothing is done: whoever leads next can be asked.
        let Some(_inside) = self.inner.gate.enter() else {
            return Err(ProposeError::NotLeader { leader: None });
        };
        let proposal = Proposal {
            at: self.now(),
            actions,
        };
        let written = self.inner.raft.client_write(proposal);
        let written = platform::timeout::<P, _>(PROPOSE_TIMEOUT, written).await;
        match written.ok_or(ProposeError::NoLeader)? {
            Ok(response) => match response.data {
                Outcome::Applied(applied) => Ok(applied),
                Outcome::Rejected(rejection) => Err(rejection.into()),
                Outcome::Internal => Err(ProposeError::Unavailable(
                    "the proposal was lost to a change of leader".into(),
                )),
            },
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => Err(forward(to)),
            Err(error) => Err(ProposeError::Unavailable(error.to_string())),
        }
    }

    /// Who leads. `is_self` comes true once a quorum has confirmed it and the state here holds all
    /// that former leaders committed.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// The members of the group, as this manager knows them.
    pub fn members(&self) -> Vec<Member> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let nodes = membership.nodes();
        let members = nodes.map(|(id, peer)| Member {
            votes: voters.contains(id),
            ..member(*id, peer)
        });
        members.collect()
    }

    /// Whether a member answered this one lately. Only the leader calls all members.
    pub fn reachable(&self, raft_id: u64) -> bool {
        raft_id == self.inner.id || self.inner.contacts.reachable(raft_id)
    }

    /// Makes a snapshot now, whatever the log's length.
    ///
    /// # Errors
    /// The member has stopped.
    pub async fn snapshot(&self) -> Result<(), ProposeError> {
        let triggered = self.inner.raft.trigger().snapshot().await;
        triggered.map_err(|error| ProposeError::Unavailable(error.to_string()))
    }

    /// Ends when this member stops.
    pub(super) fn stopping(&self) -> CancellationToken {
        self.inner.stop.clone()
    }

    /// Notes whether the leader that is known still leads, as far as this member can tell.
    pub(super) fn set_followed(&self, followed: bool) {
        self.inner.followed.send_if_modified(|known| {
            let changed = *known != followed;
            *known = followed;
            changed
        });
    }

    /// Whether proposals are taken.
    pub(super) fn gate(&self) -> &Gate {
        &self.inner.gate
    }

    /// The ways to the others for what the library does not ask.
    pub(super) fn side_network(&self) -> P::Network {
        self.inner.side_network.clone()
    }

    /// How long ago each other member last answered this one; see [`Contacts`].
    pub(super) fn contacts(&self) -> &Contacts<P> {
        &self.inner.contacts
    }

    /// The library's own handle: for this module, which is all that knows its types.
    #[doc(hidden)]
    pub fn openraft(&self) -> &openraft::Raft<TypeConfig<P>> {
        &self.inner.raft
    }
}

fn config() -> Config {
    Config {
        cluster_name: "skein".into(),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: ELECTION_MS.0,
        election_timeout_max: ELECTION_MS.1,
        install_snapshot_timeout: SNAPSHOT_TIMEOUT_MS,
        snapshot_max_chunk_size: SNAPSHOT_CHUNK,
        // Both are for [`compaction`] to decide.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        max_payload_entries: ENTRIES_MAX,
        ..Config::default()
    }
}

fn forward(to: ForwardToLeader<u64, Peer>) -> ProposeError {
    let leader = to.leader_id.zip(to.leader_node.as_ref());
    ProposeError::NotLeader {
        leader: leader.map(|(id, peer)| member(id, peer)),
    }
}
