//! The agents that this leader is in touch with.

mod concerned;

use super::store::{self, Store};
use crate::{
    raft::platform::{self, Platform},
    rpc::PeerIdentity,
};
use concerned::{Concerned, Watcher};
use parking_lot::Mutex;
use skein_model::{State, new_id};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

/// Messages that wait for a slow agent, per stream: each is computed when there is room for it, so
/// that more would only be older.
const STREAM_QUEUE: usize = 2;
/// Between two looks whether there is something to tell an agent: the first change of many goes at once,
/// the others together.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// One registration of a node. It ends when the node registers anew, or this manager leads no more.
#[derive(Clone)]
pub(super) struct Session {
    pub(super) node_id: String,
    pub(super) id: String,
    pub(super) ended: CancellationToken,
    /// Sent whenever there may be something to tell the node.
    news: watch::Sender<()>,
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

/// Who sent a request.
#[allow(clippy::result_large_err, reason = "tonic's error type")]
pub(super) fn peer<T>(request: &Request<T>) -> Result<PeerIdentity, Status> {
    let peer = request.extensions().get::<PeerIdentity>().cloned();
    peer.ok_or_else(|| Status::unauthenticated("a certificate of the swarm is needed for this"))
}

/// Streams what `next` makes of the newest state, whenever the session is woken, until it ends or the
/// agent hangs up. `next` says nothing where there is no news.
pub(super) fn stream<S: Store, T: Send + 'static, I: IntoIterator<Item = T>>(
    store: &S,
    session: Session,
    mut next: impl FnMut(&State) -> I + Send + 'static,
) -> ReceiverStream<Result<T, Status>> {
    let (news, states) = (session.news.subscribe(), store.clone());
    stream_of(store, session, news, move |()| next(&states.state()))
}

/// The same of another thing that is watched.
pub(super) fn stream_of<S, W, T, I>(
    store: &S,
    session: Session,
    mut watched: watch::Receiver<W>,
    mut next: impl FnMut(&W) -> I + Send + 'static,
) -> ReceiverStream<Result<T, Status>>
where
    S: Store,
    W: Clone + Send + Sync + 'static,
    T: Send + 'static,
    I: IntoIterator<Item = T>,
{
    let (sender, receiver) = mpsc::channel(STREAM_QUEUE);
    let store = store.clone();
    platform::spawn::<S::Platform>(async move {
        let follow = async {
            loop {
                // Room first, so that what is sent is as new as can be.
                let Ok(room) = sender.reserve().await else {
                    return;
                };
                let seen = watched.borrow_and_update().clone();
                let messages: Vec<T> = next(&seen).into_iter().collect();
                drop(seen);
                let mut room = Some(room);
                for message in messages {
                    match room.take() {
                        Some(room) => room.send(Ok(message)),
                        None if sender.send(Ok(message)).await.is_err() => return,
                        None => {}
                    }
                }
                platform::sleep::<S::Platform>(LOOK_INTERVAL).await;
                let changed = tokio::select! {
                    biased;
                    changed = watched.changed() => changed.is_ok(),
                    () = sender.closed() => false,
                };
                if !changed {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            () = follow => {}
            () = session.ended.cancelled() => {
                let end = store::check_leading(&store)
                    .err()
                    .unwrap_or_else(|| Status::aborted("the node has opened another session"));
                // An agent that reads no more learns it from the end of the stream.
                let _ = sender.try_send(Err(end));
            }
        }
    });
    ReceiverStream::new(receiver)
}
