//! The snapshot that a member has on disk, and who waits for one.
//!
//! openraft lets the state machine install a leader's snapshot beside its other work, and at once removes
//! from the log what the snapshot is to have. Were that on disk first, a member that is killed in between
//! would have neither. So a purge waits for the snapshot.

use super::{
    piece::Bytes,
    types::{LogId, SnapshotMeta},
};
use std::{io, sync::Arc};
use tokio::sync::watch;

/// See the module. Clones share it.
#[derive(Clone)]
pub struct Snapshots(Arc<watch::Sender<Latest>>);

/// Its description, and the state in it.
type Kept = (SnapshotMeta, Bytes);

#[derive(Default)]
struct Latest {
    kept: Option<Kept>,
    /// One could not be installed: the member is about to end.
    has_failed: bool,
}

impl Latest {
    fn last_log_id(&self) -> Option<LogId> {
        self.kept.as_ref().and_then(|(meta, _)| meta.last_log_id)
    }
}

impl Snapshots {
    /// With what is on disk.
    pub fn new(kept: Option<Kept>) -> Self {
        let latest = Latest {
            kept,
            has_failed: false,
        };
        Self(Arc::new(watch::Sender::new(latest)))
    }

    /// The newest.
    pub fn latest(&self) -> Option<Kept> {
        self.0.borrow().kept.clone()
    }

    /// Notes one that is on disk. Like the disk, keeps a newer one: a slow build may end after a snapshot of
    /// the leader's was installed.
    pub fn saved(&self, meta: &SnapshotMeta, data: Bytes) {
        self.0.send_modify(|latest| {
            if latest.last_log_id() <= meta.last_log_id {
                latest.kept = Some((meta.clone(), data));
            }
        });
    }

    /// Notes that one could not be installed.
    pub fn failed(&self) {
        self.0.send_modify(|latest| latest.has_failed = true);
    }

    /// Waits until a snapshot on disk has all up to an entry. As long as its installation takes.
    ///
    /// # Errors
    /// It could not be installed.
    pub async fn cover(&self, up_to: LogId) -> io::Result<()> {
        let is_decided = |latest: &Latest| latest.has_failed || latest.last_log_id() >= Some(up_to);
        let mut latest = self.0.subscribe();
        // There is always a sender: this one.
        let decided = latest.wait_for(is_decided).await;
        let is_covered = decided.is_ok_and(|latest| latest.last_log_id() >= Some(up_to));
        match is_covered {
            true => Ok(()),
            false => Err(io::Error::other(format!(
                "the snapshot up to {up_to} is not on disk: the log up to there must stay"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::poll;
    use openraft::CommittedLeaderId;
    use std::{pin::pin, task::Poll};

    fn id(index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(1, 1), index)
    }

    fn meta(index: u64) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: Some(id(index)),
            ..SnapshotMeta::default()
        }
    }

    #[tokio::test]
    async fn a_purge_waits_for_the_snapshot_that_has_all_of_it() {
        let snapshots = Snapshots::new(Some((meta(5), vec![5].into())));
        snapshots.cover(id(5)).await.unwrap();
        let mut purge = pin!(snapshots.cover(id(9)));
        assert!(poll!(&mut purge).is_pending());
        snapshots.saved(&meta(8), vec![8].into());
        assert!(poll!(&mut purge).is_pending());
        snapshots.saved(&meta(9), vec![9].into());
        assert!(matches!(poll!(&mut purge), Poll::Ready(Ok(()))));
        snapshots.saved(&meta(7), vec![7].into());
        assert_eq!(*snapshots.latest().unwrap().1, [9], "the newest stays");
    }

    #[tokio::test]
    async fn a_snapshot_that_cannot_be_installed_keeps_the_log() {
        let snapshots = Snapshots::new(None);
        let mut purge = pin!(snapshots.cover(id(9)));
        assert!(poll!(&mut purge).is_pending());
        snapshots.failed();
        let Poll::Ready(Err(error)) = poll!(&mut purge) else {
            panic!("it waits on");
        };
        assert!(error.to_string().contains("must stay"), "{error}");
    }
}
