//! How what a membership runs starts, resumes and ends.

use super::{
    Config, Inner, LocalState, Membership, MembershipState, Node, NodeError, NodeErrorKind,
    error::EXPIRED,
    persist::{Folder, Joining, Kept, Saved},
    runtime::{Runtime, credentials, is_manager},
    seat::Seat,
};
use crate::{
    backoff,
    blocking::blocking,
    clock,
    identity::{Identity, Stored, Vault},
    rpc::Managers,
};
use parking_lot::RwLock;
use std::{sync::Arc, time::Duration};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// Pause after a failed start; it doubles.
pub(super) const RESUME_MIN: Duration = Duration::from_millis(100);
pub(super) const RESUME_MAX: Duration = Duration::from_secs(30);

impl Node {
    /// The node as it was when it last ran. A member starts in the background, again and again until
    /// it succeeds; [`membership`](Self::membership) tells.
    ///
    /// # Errors
    /// The state folder cannot be used, or what is in it is broken.
    pub async fn start(config: Config) -> Result<Self, NodeError> {
        let folder = Folder::new(config.state_dir.clone());
        let (stored, joining) = {
            let folder = folder.clone();
            blocking(move || read(&folder)).await?
        };
        let node = Self {
            inner: Arc::new(Inner {
                config,
                folder,
                place: RwLock::default(),
                changing: Mutex::default(),
            }),
        };
        match stored {
            Stored::Nothing => {
                if let Some(joining) = joining {
                    node.resume_join(joining)?;
                }
            }
            Stored::Locked(identity) => {
                let saved = node.folder().load()?;
                let locked = membership(&identity, &saved, LocalState::Locked);
                tracing::warn!(node = locked.node_id, "this manager is locked: unlock it");
                node.begin(locked);
            }
            Stored::Open(identity, vault) => {
                let saved = node.folder().load()?;
                drop(node.resume(identity, Kept::new(node.folder().clone(), vault, saved)));
            }
        }
        Ok(node)
    }

    /// Starts the member in the background, again and again until it succeeds.
    pub(super) fn resume(&self, identity: Identity, kept: Kept) -> tokio::task::JoinHandle<()> {
        let attempt = self.begin(membership(&identity, &kept.saved(), LocalState::Pending));
        tokio::spawn(self.clone().keep_resuming(identity, kept, attempt))
    }

    /// Starts a member by what is kept of it, again and again, until it runs or the attempt is ended.
    pub(super) async fn keep_resuming(
        self,
        identity: Identity,
        kept: Kept,
        attempt: CancellationToken,
    ) {
        let mut failures = 0;
        loop {
            let started = tokio::select! {
                started = self.start_member(&identity, &kept, false) => started,
                () = attempt.cancelled() => return,
            };
            let error = match started {
                Ok(runtime) => {
                    let active = membership(&identity, &kept.saved(), LocalState::Active);
                    return self.settle(active, runtime, &attempt).await;
                }
                Err(error) => error,
            };
            let retry = backoff::pause(RESUME_MIN, RESUME_MAX, failures);
            tracing::error!(%error, ?retry, "could not start as a member of the swarm");
            let mut failed = membership(&identity, &kept.saved(), LocalState::Error);
            failed.error = error.message;
            self.inner.place.write().membership = failed;
            tokio::select! {
                () = tokio::time::sleep(retry) => failures += 1,
                () = attempt.cancelled() => return,
            }
        }
    }

    /// Starts what the certificate says. `joins`: a manager is let into the Raft group first, rather
    /// than in the background.
    pub(super) async fn start_member(
        &self,
        identity: &Identity,
        kept: &Kept,
        joins: bool,
    ) -> Result<Runtime, NodeError> {
        let (_, until) = identity.validity().map_err(internal)?;
        if until < clock::now() {
            return Err(NodeError::unavailable(EXPIRED));
        }
        let credentials = credentials(identity.clone())?;
        let seat = match (is_manager(identity), kept.saved().raft_id) {
            (true, Some(id)) => Some(Seat::take(kept, id, credentials.clone()).await?),
            (true, None) if joins => {
                let managers = Managers::new(credentials.clone(), kept.saved().managers);
                Some(Seat::join(kept, credentials.clone(), &managers).await?)
            }
            _ => None,
        };
        Runtime::start(self, credentials, kept.clone(), seat).await
    }

    /// Takes what runs away from the membership, and ends what tries to start.
    pub(super) fn take_runtime(&self) -> Option<Arc<Runtime>> {
        let mut place = self.inner.place.write();
        place.attempt.cancel();
        place.runtime.take()
    }

    /// Ends this node's part without leaving the swarm. It may take as long as a change that is under way, so who
    /// cannot wait for that sets a deadline.
    pub async fn stop(&self) {
        self.inner.place.read().attempt.cancel();
        let _changing = self.inner.changing.lock().await;
        let runtime = self.take_runtime();
        if let Some(runtime) = runtime {
            runtime.stop().await;
        }
    }

    pub(super) fn check_inactive(&self) -> Result<(), NodeError> {
        match self.membership().state {
            LocalState::Inactive => Ok(()),
            _ => Err(NodeError::already_member()),
        }
    }

    /// Notes that an attempt to become or to be a member begins; the token ends it.
    pub(super) fn begin(&self, membership: Membership) -> CancellationToken {
        let mut place = self.inner.place.write();
        place.membership = membership;
        place.attempt = CancellationToken::new();
        place.attempt.clone()
    }

    /// Notes why an attempt takes longer, for users to see, unless it was ended meanwhile.
    pub(super) fn note_trouble(&self, attempt: &CancellationToken, reason: &str) {
        let mut place = self.inner.place.write();
        if !attempt.is_cancelled() {
            reason.clone_into(&mut place.membership.error);
        }
    }

    /// Notes that an attempt succeeded, unless it was ended meanwhile.
    pub(super) async fn settle(
        &self,
        membership: Membership,
        runtime: Runtime,
        attempt: &CancellationToken,
    ) {
        let runtime = Arc::new(runtime);
        let too_late = {
            let mut place = self.inner.place.write();
            if !attempt.is_cancelled() {
                place.membership = membership;
                place.runtime = Some(runtime.clone());
            }
            attempt.is_cancelled()
        };
        if too_late {
            runtime.stop().await;
        }
    }

    /// Forgets the swarm: nothing of it stays on disk, nor comes to it any more.
    pub(super) async fn forget(&self) -> Result<(), NodeError> {
        let folder = self.folder().clone();
        let wiped = blocking(move || folder.forget()).await;
        *self.inner.place.write() = MembershipState::default();
        wiped
    }
}

/// What was kept: a membership, or else a swarm that the node was about to join.
fn read(folder: &Folder) -> Result<(Stored, Option<Joining>), NodeError> {
    let stored = Vault::load(&folder.certificates(), None).map_err(internal)?;
    if !matches!(stored, Stored::Nothing) {
        // It has its certificate, whatever the end of the last process has left.
        folder.joined()?;
        return Ok((stored, None));
    }
    let joining = folder.joining();
    match &joining {
        Ok(Some(_)) => folder.wipe_but_joining()?,
        Ok(None) => folder.wipe()?,
        Err(error) => {
            tracing::error!(%error, "it is not known which swarm the node was about to join: join it again");
            folder.wipe()?;
        }
    }
    Ok((stored, joining.ok().flatten()))
}

pub(super) fn membership(identity: &Identity, saved: &Saved, state: LocalState) -> Membership {
    let advertised = saved.advertise.map(|address| address.ip().to_string());
    Membership {
        state,
        node_id: identity.node_id.clone(),
        node_addr: advertised.unwrap_or_default(),
        is_manager: is_manager(identity),
        cluster_id: identity.cluster_id.clone(),
        error: String::new(),
    }
}

pub(super) fn internal(error: impl std::fmt::Display) -> NodeError {
    NodeError::new(NodeErrorKind::Internal, error.to_string())
}
