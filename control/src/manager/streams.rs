//! What a session's agent is sent, as a stream: made of the newest state whenever there is news, and of nothing older.

use super::{
    sessions::{self, Session},
    store::{self, Store},
};
use crate::raft::platform;
use skein_model::State;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Messages that wait for a slow agent, per stream: each is computed when there is room for it, so
/// that more would only be older.
const STREAM_QUEUE: usize = 2;
/// Between two looks whether there is something to tell an agent: the first change of many goes at once,
/// the others together.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

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
                let is_removed = || store.state().node(&session.node_id).is_none();
                let end = store::check_leading(&store)
                    .err()
                    .or_else(|| is_removed().then(|| sessions::removed(&session.node_id)))
                    .unwrap_or_else(|| Status::aborted("the node has opened another session"));
                // An agent that reads no more learns it from the end of the stream.
                let _ = sender.try_send(Err(end));
            }
        }
    });
    ReceiverStream::new(receiver)
}
