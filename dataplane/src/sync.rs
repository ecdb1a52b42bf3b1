//! The network state comes in here: gRPC on a unix socket, from skein-control.
//!
//! Each update is answered by the version that the kernel has whole then: its own, what draining tasks
//! wait for, unless something could not be written. What could not be made is in the answer; both are
//! said again when they change. Updates that have come while an earlier one was made are made together, and
//! answered by the version of the last: of a large state each costs as much, however little it changes.

use crate::{
    desired::Desired,
    kernel::{Kernel, Made},
};
use anyhow::Context as _;
use futures::{FutureExt as _, Stream, StreamExt as _};
use skein_proto::network::{
    NetworkUpdate, Programmed,
    dataplane_server::{Dataplane, DataplaneServer},
};
use std::{
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
};
use tokio::sync::{Mutex, mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};

/// Answers that wait for the caller to read them; more, and its updates wait, too.
const ANSWERS_MAX: usize = 16;
/// Updates that are made together: the first of them waits for the others' objects to be read, and no longer.
const TOGETHER_MAX: usize = 64;
/// For root alone.
const SOCKET_MODE: u32 = 0o600;
/// A complete state of the largest cluster: 4096 nodes, 16384 services and 131072 endpoints of about
/// 200 bytes each.
const UPDATE_BYTES_MAX: usize = 64 << 20;

/// The wanted state, and who is told of it.
pub struct Sync {
    kernel: Kernel,
    desired: watch::Sender<Arc<Desired>>,
    /// Where the last state is kept for the next start.
    path: PathBuf,
    /// One update at a time, whoever sends it.
    turn: Mutex<()>,
}

impl Sync {
    /// `desired` holds the state that the kernel has already.
    pub fn new(kernel: Kernel, desired: watch::Sender<Arc<Desired>>, path: PathBuf) -> Arc<Self> {
        let turn = Mutex::new(());
        Arc::new(Self {
            kernel,
            desired,
            path,
            turn,
        })
    }

    async fn take(&self, updates: &[NetworkUpdate]) -> Result<Programmed, Status> {
        let _turn = self.turn.lock().await;
        let mut next = Desired::clone(&self.desired.borrow());
        for update in updates {
            next.take(update).map_err(Status::failed_precondition)?;
        }
        let next = Arc::new(next);
        let internal = |error: anyhow::Error| Status::internal(format!("{error:#}"));
        let made = self.kernel.program(Arc::clone(&next)).await;
        let made = made.map_err(internal)?;
        self.desired.send_replace(Arc::clone(&next));
        // What the kernel has counts. The file is for the next start alone, which waits for the managers
        // where it lacks the newest state.
        let path = self.path.clone();
        let stored = tokio::task::spawn_blocking(move || next.store(&path)).await;
        let stored = stored
            .map_err(anyhow::Error::from)
            .and_then(|stored| stored);
        if let Err(error) = stored {
            tracing::error!(
                "the network state is not on disk, and a restarted dataplane would begin with an older one: {error:#}"
            );
        }
        Ok(self.programmed(made))
    }

    fn programmed(&self, made: Made) -> Programmed {
        Programmed {
            version: made.version,
            problems: made.problems,
            tunnel: Some(self.kernel.tunnel_end()),
        }
    }

    /// Serves for ever.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub async fn serve(self: Arc<Self>, socket: &Path) -> anyhow::Result<()> {
        let listener = skein_proto::socket::listen(socket, SOCKET_MODE).await?;
        let service = DataplaneServer::from_arc(Arc::new(Service(self)))
            .max_decoding_message_size(UPDATE_BYTES_MAX);
        Server::builder()
            .add_service(service)
            .serve_with_incoming(UnixListenerStream::new(listener))
            .await
            .context("the socket for skein-control failed")
    }
}

/// Waits for an update; with it, those that are there already. `None`: none will come, or the stream broke.
async fn waiting(
    updates: &mut (impl Stream<Item = Result<NetworkUpdate, Status>> + Unpin),
) -> Option<Vec<NetworkUpdate>> {
    let mut all = vec![updates.next().await?.ok()?];
    while all.len() < TOGETHER_MAX
        && let Some(Some(Ok(next))) = updates.next().now_or_never()
    {
        all.push(next);
    }
    Some(all)
}

struct Service(Arc<Sync>);

#[tonic::async_trait]
impl Dataplane for Service {
    type SyncStream = Pin<Box<dyn Stream<Item = Result<Programmed, Status>> + Send>>;

    async fn sync(
        &self,
        request: Request<Streaming<NetworkUpdate>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        // Asked again after its end.
        let mut updates = request.into_inner().fuse();
        let (answers, stream) = mpsc::channel(ANSWERS_MAX);
        let sync = Arc::clone(&self.0);
        tokio::spawn(async move {
            let mut made = sync.kernel.made();
            let mut last: Option<Programmed> = None;
            loop {
                let answer = tokio::select! {
                    waiting = waiting(&mut updates) => match waiting {
                        Some(updates) => sync.take(&updates).await,
                        // The caller's end of a stream is the end of this; it comes again with a
                        // complete state.
                        None => return,
                    },
                    Ok(()) = made.changed() => {
                        let now = sync.programmed(made.borrow_and_update().clone());
                        match &last {
                            Some(last) if *last != now => Ok(now),
                            // Said with the update that made it.
                            _ => continue,
                        }
                    }
                };
                let failed = answer.is_err();
                last = answer.as_ref().ok().cloned();
                if answers.send(answer).await.is_err() || failed {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;

    fn updates(
        versions: std::ops::Range<u64>,
    ) -> impl Iterator<Item = Result<NetworkUpdate, Status>> {
        versions.map(|version| {
            Ok(NetworkUpdate {
                version,
                ..NetworkUpdate::default()
            })
        })
    }

    async fn versions(
        updates: &mut (impl Stream<Item = Result<NetworkUpdate, Status>> + Unpin),
    ) -> Option<Vec<u64>> {
        let waiting = waiting(updates).await?;
        Some(waiting.iter().map(|update| update.version).collect())
    }

    #[tokio::test]
    async fn what_is_there_is_made_together_up_to_a_limit() {
        let many = TOGETHER_MAX as u64 + 2;
        let mut there = stream::iter(updates(0..many)).fuse();
        let first = versions(&mut there).await.unwrap();
        assert!(first.into_iter().eq(0..many - 2));
        assert_eq!(versions(&mut there).await, Some(vec![many - 2, many - 1]));
        assert_eq!(versions(&mut there).await, None);
    }

    #[tokio::test]
    async fn nobody_waits_for_what_is_not_there() {
        let (sender, receiver) = mpsc::channel(8);
        let mut updates_of = ReceiverStream::new(receiver).fuse();
        for update in updates(1..3) {
            sender.send(update).await.unwrap();
        }
        assert_eq!(versions(&mut updates_of).await, Some(vec![1, 2]));
        assert!(versions(&mut updates_of).now_or_never().is_none());
        // What came before the stream broke is made.
        for update in updates(3..4).chain([Err(Status::cancelled(""))]) {
            sender.send(update).await.unwrap();
        }
        assert_eq!(versions(&mut updates_of).await, Some(vec![3]));
        drop(sender);
        assert_eq!(versions(&mut updates_of).await, None);
    }
}
