//! The real manager of a host: Raft, store, dispatcher, decisions; and what it applies, as the history
//! sees it.

use crate::{
    disk::Disk,
    executor,
    history::{History, Seen},
    membership::Memberships,
    network::{Host, Network},
    platform::Simulated,
    transport::{Directory, Transport},
};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot, storage::RaftStateMachine,
};
use parking_lot::Mutex;
use skein_control::{
    manager::Manager,
    raft::{
        Raft,
        foundation::{
            Builder, Contacts, Entry, Extent, Loaded, LogId, Machine, Outcome, Parts, Reader,
            SnapshotMeta, StorageError, StoredMembership, TypeConfig,
        },
    },
};
use skein_model::{State, Timestamp};
use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hasher as _},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

type Types = TypeConfig<Simulated>;

/// When every world begins.
const BEGINNING_NANOS: i128 = 1_800_000_000_000_000_000;
/// The lengths of a log: so short that members which were away need a snapshot.
const LOG_MOST: Extent = Extent {
    since_snapshot: 60,
    behind_snapshot: 15,
};

/// What a wall clock shows that is `skew` ahead.
pub fn wall_clock(skew: Duration) -> Timestamp {
    let now = Duration::from_nanos(executor::now());
    Timestamp::from_unix_nanos(BEGINNING_NANOS) + now + skew
}

/// The managers that run, by host. Clones share it.
#[derive(Clone, Default)]
pub struct Managers(Arc<Mutex<BTreeMap<Host, Manager<Simulated>>>>);

impl Managers {
    /// The manager of a host, while it runs.
    pub fn get(&self, host: Host) -> Option<Manager<Simulated>> {
        self.0.lock().get(&host).cloned()
    }

    /// All that run.
    pub fn all(&self) -> Vec<(Host, Manager<Simulated>)> {
        let managers = self.0.lock();
        let pairs = managers.iter();
        pairs.map(|(host, m)| (*host, m.clone())).collect()
    }

    /// None runs any more.
    pub fn clear(&self) {
        // Outside the lock, as below.
        let gone = std::mem::take(&mut *self.0.lock());
        drop(gone);
    }

    fn remove(&self, host: Host) {
        // Outside the lock: it may be the last handle.
        let gone = self.0.lock().remove(&host);
        drop(gone);
    }
}

/// What a manager needs of its world.
#[derive(Clone)]
pub struct Surroundings {
    /// What carries messages.
    pub network: Network,
    /// The Raft members that run.
    pub directory: Directory,
    /// The managers that run.
    pub managers: Managers,
    /// What the hosts keep of their memberships.
    pub memberships: Memberships,
    /// Sees what happens.
    pub history: History,
}

/// Where a manager runs.
#[derive(Clone)]
pub struct Seat {
    /// The host.
    pub host: Host,
    /// How often it has started.
    pub runs: Arc<AtomicU32>,
    /// How far its wall clock is ahead.
    pub skew: Duration,
    /// Where its log is.
    pub disk: Disk,
}

/// Starts the manager whose member of the group has this ID, from what is on its disk.
///
/// # Panics
/// Its disk holds what no member wrote.
pub async fn start(
    around: &Surroundings,
    seat: &Seat,
    id: u64,
    loaded: Loaded,
    shutdown: CancellationToken,
) -> (Manager<Simulated>, Raft<Simulated>) {
    let contacts = Contacts::default();
    let transport = |contacts| Transport {
        host: seat.host,
        network: around.network.clone(),
        directory: around.directory.clone(),
        memberships: around.memberships.clone(),
        contacts,
    };
    let skew = seat.skew;
    let parts = Parts {
        id,
        disk: seat.disk.clone(),
        loaded,
        network: transport(contacts.clone()),
        side_network: transport(Contacts::default()),
        contacts,
        clock: Arc::new(move || wall_clock(skew)),
        most: LOG_MOST,
    };
    let run = seat.runs.fetch_add(1, Ordering::Relaxed);
    let (history, who) = (around.history.clone(), (seat.host, run));
    let watched = |inner, state: watch::Receiver<State>| {
        // Else it had no snapshot.
        if state.borrow().cluster().is_some() {
            history.installed(who, &state.borrow());
        }
        Watched {
            inner,
            state,
            history,
            who,
        }
    };
    let raft = Raft::assemble(parts, watched).await;
    let raft = raft.expect("a disk holds what a member wrote");
    raft.stand_as_agreed();
    let manager = Manager::start(raft.clone(), shutdown);
    around.directory.enter(seat.host, raft.clone());
    around.managers.0.lock().insert(seat.host, manager.clone());
    let leading = watch_leadership(around.history.clone(), seat.host, raft.clone());
    executor::spawn(leading);
    (manager, raft)
}

/// A host's manager is gone.
pub fn stopped(around: &Surroundings, host: Host) {
    around.directory.leave(host);
    around.managers.remove(host);
}

async fn watch_leadership(history: History, host: Host, raft: Raft<Simulated>) {
    let mut leadership = raft.leadership();
    drop(raft);
    loop {
        let now = leadership.borrow_and_update().clone();
        if now.is_self {
            let term = now.term;
            history.tell("leader", format!("{host:?} in term {term}"));
            history.see(&Seen::Led { host, term });
        }
        if leadership.changed().await.is_err() {
            return;
        }
    }
}

/// The real state machine; the history sees what it applies, entry by entry.
struct Watched {
    inner: Machine<Simulated>,
    state: watch::Receiver<State>,
    history: History,
    who: (Host, u32),
}

/// What an entry is, for comparison with what other members applied at its index.
fn fingerprint(entry: &Entry<Simulated>, outcome: &Outcome) -> u64 {
    let mut hasher = DefaultHasher::new();
    let payload = match &entry.payload {
        EntryPayload::Normal(proposal) => serde_json::to_vec(proposal),
        EntryPayload::Membership(membership) => serde_json::to_vec(membership),
        EntryPayload::Blank => Ok(Vec::new()),
    };
    hasher.write_u64(entry.log_id.leader_id.term);
    hasher.write(&payload.unwrap_or_default());
    hasher.write_u8(match outcome {
        Outcome::Applied(_) => 0,
        Outcome::Rejected(_) => 1,
        Outcome::Internal => 2,
    });
    hasher.finish()
}

impl RaftStateMachine<Types> for Watched {
    type SnapshotBuilder = WatchedBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        self.inner.applied_state().await
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Outcome>, StorageError>
    where
        I: IntoIterator<Item = Entry<Simulated>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        let mut outcomes = Vec::with_capacity(entries.len());
        for entry in entries {
            let applied = self.inner.apply([entry.clone()]).await?;
            for outcome in applied {
                let print = fingerprint(&entry, &outcome);
                let state = self.state.borrow().clone();
                let index = entry.log_id.index;
                self.history.applied(self.who, index, print, &state);
                if let EntryPayload::Membership(membership) = &entry.payload {
                    self.history.grouped(index, membership);
                }
                outcomes.push(outcome);
            }
        }
        Ok(outcomes)
    }

    async fn get_snapshot_builder(&mut self) -> WatchedBuilder {
        WatchedBuilder {
            inner: self.inner.get_snapshot_builder().await,
            history: self.history.clone(),
            host: self.who.0,
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Reader>, StorageError> {
        self.inner.begin_receiving_snapshot().await
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Reader>,
    ) -> Result<(), StorageError> {
        self.inner.install_snapshot(meta, snapshot).await?;
        let state = self.state.borrow().clone();
        let (host, index) = (self.who.0, state.index());
        let line = format!("{host:?} takes over index {index}");
        self.history.tell("snapshot-installed", line);
        self.history.installed(self.who, &state);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError> {
        self.inner.get_current_snapshot().await
    }
}

/// The real builder, whose work is noted.
struct WatchedBuilder {
    inner: Builder<Simulated>,
    history: History,
    host: Host,
}

impl RaftSnapshotBuilder<Types> for WatchedBuilder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError> {
        let snapshot = self.inner.build_snapshot().await?;
        let (host, id) = (self.host, &snapshot.meta.snapshot_id);
        self.history
            .tell("snapshot-built", format!("{host:?} of {id}"));
        Ok(snapshot)
    }
}
