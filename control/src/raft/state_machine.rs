//! The state machine: what has been committed, applied to the store.

use super::{
    piece::{Bytes, Reader},
    platform::{Platform, Storage as _},
    snapshots::Snapshots,
    types::{
        Entry, LogId, Outcome, SnapshotMeta, StorageError, StorageIoError, StoredMembership,
        TypeConfig,
    },
};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot, storage::RaftStateMachine,
};
use skein_model::State;
use std::{io, sync::Arc};
use tokio::sync::watch;

/// Applies committed entries to the [`State`] and publishes it.
pub struct Machine<P: Platform> {
    state: State,
    applied: Option<LogId>,
    membership: StoredMembership,
    publish: watch::Sender<State>,
    snapshots: Snapshots,
    disk: P::Disk,
}

impl<P: Platform> Machine<P> {
    /// The machine at the snapshot on disk; openraft applies the log after it.
    ///
    /// # Errors
    /// The snapshot is not what was written.
    pub async fn open(
        disk: P::Disk,
        snapshots: Snapshots,
        publish: watch::Sender<State>,
    ) -> io::Result<Self> {
        let mut machine = Self {
            state: State::default(),
            applied: None,
            membership: StoredMembership::default(),
            publish,
            snapshots,
            disk,
        };
        if let Some((meta, data)) = machine.snapshots.latest() {
            machine.install(&meta, decoded::<P>(data).await?);
        }
        Ok(machine)
    }

    fn install(&mut self, meta: &SnapshotMeta, state: State) {
        self.state = state;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.publish.send_replace(self.state.clone());
    }

    /// Puts a leader's snapshot on disk. The state in it.
    async fn save(&self, meta: &SnapshotMeta, data: Bytes) -> Result<State, StorageError> {
        let signature = Some(meta.signature());
        let read = |error: &dyn std::error::Error| {
            StorageIoError::read_snapshot(Some(meta.signature()), openraft::AnyError::error(error))
        };
        let state = decoded::<P>(data.clone()).await;
        let state = state.map_err(|error| read(&error))?;
        let saved = self.disk.save_snapshot(meta.clone(), data.clone()).await;
        saved.map_err(|error| StorageIoError::write_snapshot(signature, &error))?;
        self.snapshots.saved(meta, data);
        Ok(state)
    }

    fn apply_entry(&mut self, entry: Entry<P>) -> Outcome {
        let index = entry.log_id.index;
        self.applied = Some(entry.log_id);
        match entry.payload {
            EntryPayload::Normal(proposal) => match self.state.apply(index, &proposal) {
                Ok(applied) => Outcome::Applied(applied),
                Err(rejection) => Outcome::Rejected(rejection),
            },
            EntryPayload::Blank => {
                self.state.skip_to(index);
                Outcome::Internal
            }
            EntryPayload::Membership(membership) => {
                self.state.skip_to(index);
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                Outcome::Internal
            }
        }
    }
}

/// The state in a snapshot: one that is long takes long to read.
async fn decoded<P: Platform>(data: Bytes) -> io::Result<State> {
    P::blocking(move || serde_json::from_slice(&data).map_err(io::Error::other)).await
}

impl<P: Platform> RaftStateMachine<TypeConfig<P>> for Machine<P> {
    type SnapshotBuilder = Builder<P>;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Outcome>, StorageError>
    where
        I: IntoIterator<Item = Entry<P>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let outcomes = entries
            .into_iter()
            .map(|entry| self.apply_entry(entry))
            .collect();
        self.publish.send_replace(self.state.clone());
        Ok(outcomes)
    }

    async fn get_snapshot_builder(&mut self) -> Builder<P> {
        Builder {
            state: self.state.clone(),
            applied: self.applied,
            membership: self.membership.clone(),
            snapshots: self.snapshots.clone(),
            disk: self.disk.clone(),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Reader>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Reader>,
    ) -> Result<(), StorageError> {
        let saved = self.save(meta, snapshot.into_bytes()).await;
        self.install(meta, saved.inspect_err(|_| self.snapshots.failed())?);
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<Snapshot<TypeConfig<P>>>, StorageError> {
        let latest = self.snapshots.latest();
        Ok(latest.map(|(meta, data)| Snapshot {
            meta,
            snapshot: Box::new(Reader::new(data)),
        }))
    }
}

/// Makes a snapshot of the state as it was when asked, while entries go on being applied.
pub struct Builder<P: Platform> {
    state: State,
    applied: Option<LogId>,
    membership: StoredMembership,
    snapshots: Snapshots,
    disk: P::Disk,
}

impl<P: Platform> RaftSnapshotBuilder<TypeConfig<P>> for Builder<P> {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig<P>>, StorageError> {
        let meta = SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
            snapshot_id: self.applied.map_or_else(String::new, |id| id.to_string()),
        };
        let state = self.state.clone();
        let data = P::blocking(move || serde_json::to_vec(&state).map_err(io::Error::other))
            .await
            .map_err(|error| StorageIoError::read_state_machine(&error))?;
        let data = Arc::new(data);
        let saved = self.disk.save_snapshot(meta.clone(), data.clone()).await;
        saved.map_err(|error| StorageIoError::write_snapshot(Some(meta.signature()), &error))?;
        self.snapshots.saved(&meta, data.clone());
        Ok(Snapshot {
            meta,
            snapshot: Box::new(Reader::new(data)),
        })
    }
}
