use super::{
    Leadership, Member, ProposeError,
    disk::Disk,
    log::Log,
    machine::Machine,
    membership::{self, Group, Step},
    network::{Contacts, Network},
    types::{Outcome, Peer, TypeConfig},
};
use crate::{
    clock,
    identity::{LogKeys, SecretKey},
    rpc::Credentials,
};
use openraft::{
    ChangeMembers, Config, ServerState, SnapshotPolicy,
    error::{CheckIsLeaderError, ClientWriteError, ForwardToLeader, InitializeError, RaftError},
    metrics::RaftServerMetrics,
};
use skein_model::{Action, Applied, Proposal, State};
use std::{
    collections::BTreeMap, collections::BTreeSet, io, path::Path, sync::Arc, time::Duration,
};
use tokio::{sync::watch, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long a proposal or a linearizable read may take: an election (2-3 s) and a slow disk fit in.
pub const PROPOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// The leader's beat. Also how long a follower may take to write entries to its disk before they
/// are sent again.
const HEARTBEAT_MS: u64 = 250;
/// A follower stands for election after this long without a beat, drawn anew each time. Four to
/// six beats, so that a loaded machine's pauses depose nobody.
const ELECTION_MS: (u64, u64) = (1000, 1500);
/// One piece of a snapshot, written and synced by the receiver.
const SNAPSHOT_TIMEOUT_MS: u64 = 10_000;
/// Bytes in one piece of a snapshot.
const SNAPSHOT_CHUNK: u64 = 1 << 20;
/// Entries between snapshots. All of them are in memory.
const SNAPSHOT_EVERY: u64 = 2_000;
/// Entries kept behind a snapshot, so that a member that was away a moment needs no snapshot.
const KEEP_BEHIND_SNAPSHOT: u64 = 500;
/// Entries in one message: as many full transactions stay well under the message limit.
const ENTRIES_MAX: u64 = 16;
/// Pause between attempts of a leader to be confirmed by a quorum.
const CONFIRM_RETRY: Duration = Duration::from_millis(100);

/// This manager's place in the Raft group. Clones are handles of the same.
#[derive(Clone)]
pub struct Raft {
    inner: Arc<Inner>,
}

struct Inner {
    id: u64,
    raft: openraft::Raft<TypeConfig>,
    /// Taken when it stops: the file is then free, whoever still has a handle.
    disk: parking_lot::Mutex<Option<Disk>>,
    contacts: Contacts,
    state: watch::Receiver<State>,
    leadership: watch::Receiver<Leadership>,
    tasks: TaskTracker,
    stop: CancellationToken,
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
        let (disk, mut loaded) = opening.await.map_err(io::Error::other)??;
        let (publish, state) = watch::channel(State::default());
        let log = Log::new(disk.clone(), &mut loaded, id);
        let machine = Machine::new(disk.clone(), &mut loaded, publish)?;
        let contacts = Contacts::default();
        let network = Network {
            credentials,
            contacts: contacts.clone(),
        };
        let config = config().validate().map_err(io::Error::other)?;
        let raft = openraft::Raft::new(id, Arc::new(config), network, log, machine)
            .await
            .map_err(io::Error::other)?;
        let (announce, leadership) = watch::channel(Leadership::default());
        let raft = Self {
            inner: Arc::new(Inner {
                id,
                raft,
                disk: parking_lot::Mutex::new(Some(disk)),
                contacts,
                state,
                leadership,
                tasks: TaskTracker::new(),
                stop: CancellationToken::new(),
            }),
        };
        let (tasks, stop) = (&raft.inner.tasks, &raft.inner.stop);
        tasks.spawn(announce_leader(
            raft.inner.raft.clone(),
            id,
            announce,
            stop.clone(),
        ));
        tasks.spawn(membership::follow_store(raft.clone(), stop.clone()));
        Ok(raft)
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
        let confirmed = timeout(PROPOSE_TIMEOUT, self.confirm_leadership()).await;
        confirmed.map_err(|_| ProposeError::NoLeader)??;
        Ok(self.state())
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
                    tokio::time::sleep(CONFIRM_RETRY).await;
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
        let proposal = Proposal {
            at: clock::now(),
            actions,
        };
        let written = timeout(PROPOSE_TIMEOUT, self.inner.raft.client_write(proposal)).await;
        match written.map_err(|_| ProposeError::NoLeader)? {
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
        let nodes = metrics.membership_config.nodes();
        nodes.map(|(id, peer)| member(*id, peer)).collect()
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

    /// Seals log and snapshots on disk with another key.
    ///
    /// # Errors
    /// The disk refuses; the old key holds then.
    pub async fn rekey(&self, key: SecretKey) -> io::Result<()> {
        let disk = self.inner.disk.lock().clone();
        let stopped = || io::Error::other("this Raft member has stopped");
        disk.ok_or_else(stopped)?.rekey(key).await
    }

    pub(super) fn library(&self) -> &openraft::Raft<TypeConfig> {
        &self.inner.raft
    }

    pub(super) fn group(&self) -> Group {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let last = metrics.last_log_index.unwrap_or_default();
        let lag = |(id, matched): (&u64, &Option<openraft::LogId<u64>>)| {
            matched.map(|matched| (*id, last.saturating_sub(matched.index)))
        };
        Group {
            voters: membership.voter_ids().collect(),
            learners: membership.learner_ids().collect(),
            joint: membership.get_joint_config().len() > 1,
            lag: metrics
                .replication
                .iter()
                .flatten()
                .filter_map(lag)
                .collect(),
        }
    }

    pub(super) async fn take_step(&self, step: &Step) -> Result<(), String> {
        let raft = &self.inner.raft;
        let one = |id: &u64| BTreeSet::from([*id]);
        let result = match step {
            Step::AddLearner(id, peer) => raft.add_learner(*id, peer.clone(), false).await,
            Step::Promote(id) => {
                let change = ChangeMembers::AddVoterIds(one(id));
                raft.change_membership(change, true).await
            }
            Step::RemoveVoter(id) => {
                let change = ChangeMembers::RemoveVoters(one(id));
                raft.change_membership(change, false).await
            }
            Step::RemoveLearner(id) => {
                let change = ChangeMembers::RemoveNodes(one(id));
                raft.change_membership(change, false).await
            }
            Step::Finish => {
                // The end of a joint change is the change to nothing new.
                let change = ChangeMembers::AddVoterIds(BTreeSet::new());
                raft.change_membership(change, false).await
            }
        };
        result.map(|_| ()).map_err(|error| error.to_string())
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
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
        max_in_snapshot_log_to_keep: KEEP_BEHIND_SNAPSHOT,
        max_payload_entries: ENTRIES_MAX,
        ..Config::default()
    }
}

fn member(raft_id: u64, peer: &Peer) -> Member {
    Member {
        raft_id,
        node_id: peer.node_id.clone(),
        address: peer.address.clone(),
    }
}

fn forward(to: ForwardToLeader<u64, Peer>) -> ProposeError {
    let leader = to.leader_id.zip(to.leader_node.as_ref());
    ProposeError::NotLeader {
        leader: leader.map(|(id, peer)| member(id, peer)),
    }
}

/// Tells who leads, until `stop`.
async fn announce_leader(
    raft: openraft::Raft<TypeConfig>,
    id: u64,
    announce: watch::Sender<Leadership>,
    stop: CancellationToken,
) {
    let mut metrics = raft.server_metrics();
    loop {
        let (seen, claims) = {
            let metrics = metrics.borrow_and_update();
            let leader = metrics.current_leader.and_then(|id| {
                let members = metrics.membership_config.membership();
                Some(member(id, members.get_node(&id)?))
            });
            let claims = metrics.state == ServerState::Leader;
            let seen = Leadership {
                term: metrics.vote.leader_id().get_term(),
                is_self: claims && metrics.current_leader == Some(id),
                leader,
            };
            (seen, claims)
        };
        let confirmed = !claims || {
            let before = announce.borrow().clone();
            let is_known = before.is_self && before.term == seen.term;
            is_known || confirm(&raft).await
        };
        if confirmed {
            announce.send_if_modified(|known| {
                let changed = *known != seen;
                *known = seen;
                changed
            });
        }
        tokio::select! {
            changed = metrics.changed() => if changed.is_err() { break },
            () = tokio::time::sleep(CONFIRM_RETRY), if !confirmed => {}
            () = stop.cancelled() => break,
        }
    }
    announce.send_replace(Leadership::default());
}

/// Whether a quorum says that this member leads; its state then is as new as any.
async fn confirm(raft: &openraft::Raft<TypeConfig>) -> bool {
    let confirmed = timeout(PROPOSE_TIMEOUT, raft.ensure_linearizable()).await;
    matches!(confirmed, Ok(Ok(_)))
}
