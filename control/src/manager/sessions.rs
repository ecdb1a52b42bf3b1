//! The agents that this leader is in touch with.

mod concerned;

use super::store::Store;
use crate::{raft::platform::Platform, rpc::PeerIdentity};
use concerned::{Concerned, Watcher};
use parking_lot::Mutex;
use skein_model::new_id;
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

/// One registration of a node. It ends when the node registers anew, or this manager leads no more.
#[derive(Clone)]
pub(super) struct Session {
    pub(super) node_id: String,
    pub(super) id: String,
    pub(super) ended: CancellationToken,
    /// Sent whenever there may be something to tell the node.
    pub(super) news: watch::Sender<()>,
}

impl Session {
    pub(super) fn new(node_id: &str, id: String) -> Self {
        Self {
            node_id: node_id.to_owned(),
            id,
            ended: CancellationToken::new(),
            news: watch::Sender::new(()),
        }
    }

    /// Its streams look whether there is something to tell the node.
    pub(super) fn wake(&self) {
        self.news.send_replace(());
    }
}

/// The newest session of each node.
#[derive(Clone, Default)]
pub(super) struct Sessions {
    by_node: Arc<Mutex<BTreeMap<String, Session>>>,
}

impl Sessions {
    /// Begins a session of a node; an earlier one ends.
    pub(super) fn begin<P: Platform>(&self, node_id: &str) -> Session {
        let session = Session::new(node_id, new_id(&mut P::rng()));
        let earlier = self
            .by_node
            .lock()
            .insert(node_id.to_owned(), session.clone());
        if let Some(earlier) = earlier {
            earlier.ended.cancel();
        }
        session
    }

    /// Ends the session of a node that was removed.
    pub(super) fn end(&self, node_id: &str) {
        let session = self.by_node.lock().remove(node_id);
        if let Some(session) = session {
            session.ended.cancel();
        }
    }

    /// Ends all sessions: this manager leads no more.
    pub(super) fn end_all(&self) {
        for session in std::mem::take(&mut *self.by_node.lock()).into_values() {
            session.ended.cancel();
        }
    }

    /// Wakes the sessions that each change of the store may concern, until Raft has ended.
    pub(super) async fn follow<S: Store>(&self, store: &S) {
        let mut states = store.watch();
        let mut watcher = Watcher::default();
        loop {
            let state = states.borrow_and_update().clone();
            let concerned = watcher.next(state, store.members());
            {
                let sessions = self.by_node.lock();
                match &concerned {
                    Concerned::All => sessions.values().for_each(Session::wake),
                    Concerned::Nodes(ids) => {
                        let sessions = ids.iter().filter_map(|id| sessions.get(id));
                        sessions.for_each(Session::wake);
                    }
                }
            }
            if states.changed().await.is_err() {
                return;
            }
        }
    }

    /// The session that a request speaks of, if it is the newest of the node that sent it.
    #[allow(clippy::result_large_err, reason = "tonic's error type")]
    pub(super) fn of<T>(&self, request: &Request<T>, session_id: &str) -> Result<Session, Status> {
        let peer = peer(request)?;
        let sessions = self.by_node.lock();
        match sessions.get(&peer.node_id) {
            Some(session) if session.id == session_id => Ok(session.clone()),
            _ => Err(Status::not_found(
                "session invalid: the node must open a new session",
            )),
        }
    }
}

/// What is said to a node that the store does not know.
pub(super) fn removed(node_id: &str) -> Status {
    Status::permission_denied(format!(
        "node {node_id} is not part of the swarm: it was removed"
    ))
}

/// Who sent a request.
#[allow(clippy::result_large_err, reason = "tonic's error type")]
pub(super) fn peer<T>(request: &Request<T>) -> Result<PeerIdentity, Status> {
    let peer = request.extensions().get::<PeerIdentity>().cloned();
    peer.ok_or_else(|| Status::unauthenticated("a certificate of the swarm is needed for this"))
}
