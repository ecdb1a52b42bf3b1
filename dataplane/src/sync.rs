//! The network state comes in here: gRPC on a unix socket, from skein-control.
//!
//! Each update is answered by the version that the kernel has whole then: its own, what draining tasks
//! wait for, unless something could not be written. What could not be made is in the answer; both are
//! said again when they change.

use crate::{
    desired::Desired,
    kernel::{Kernel, Made},
};
use anyhow::Context as _;
use futures::Stream;
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

    async fn take(&self, update: &NetworkUpdate) -> Result<Programmed, Status> {
        let _turn = self.turn.lock().await;
        let next = self.desired.borrow().after(update);
        let next = Arc::new(next.map_err(Status::failed_precondition)?);
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

struct Service(Arc<Sync>);

#[tonic::async_trait]
impl Dataplane for Service {
    type SyncStream = Pin<Box<dyn Stream<Item = Result<Programmed, Status>> + Send>>;

    async fn sync(
        &self,
        request: Request<Streaming<NetworkUpdate>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let mut updates = request.into_inner();
        let (answers, stream) = mpsc::channel(ANSWERS_MAX);
        let sync = Arc::clone(&self.0);
        tokio::spawn(async move {
            let mut made = sync.kernel.made();
            let mut last: Option<Programmed> = None;
            loop {
                let answer = tokio::select! {
                    update = updates.message() => match update {
                        Ok(Some(update)) => sync.take(&update).await,
                        // The caller's end of a stream is the end of this; it comes again with a
                        // complete state.
                        _ => return,
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
