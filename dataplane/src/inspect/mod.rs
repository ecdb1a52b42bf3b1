//! What operators see of this node: gRPC on a unix socket of its own, for `skein`. Nothing is changed by
//! it but what the programs tell, and it needs nothing of skein-control's.
//!
//! - [`status`]: what the kernel has, in the words of the contract (pure).
//! - [`trace`]: what would become of a packet.
//! - [`sight`]: flows and packets, as they come.

mod sight;
mod status;
mod trace;

pub use sight::names::vips;
#[cfg(test)]
pub(crate) use status::tests as status_tests;

use crate::kernel::{Counters, Kernel, fills};
use anyhow::Context as _;
use skein_proto::inspect::{
    CaptureReply, CaptureRequest, FlowsReply, FlowsRequest, NodeStatus, StatusRequest, TraceReply,
    TraceRequest,
    inspect_server::{Inspect, InspectServer},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::Mutex, time::timeout};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, transport::Server};

/// For root alone: it tells who talks to whom.
const SOCKET_MODE: u32 = 0o600;
/// How long one answer may take: the kernel's side does one thing at a time, and making devices takes it
/// a second or two at worst.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves for ever, beside the caller. Packets are not to wait for it: what keeps it from serving is
/// logged.
///
/// # Errors
/// The programs have counted nowhere.
pub async fn start(socket: &Path, kernel: Kernel, bpffs: &Path) -> anyhow::Result<()> {
    let counters = Arc::new(Counters::open(bpffs)?);
    let listener = match skein_proto::socket::listen(socket, SOCKET_MODE).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(
                "`skein` will find nobody here: {error:#}; choose another socket by --inspect"
            );
            return Ok(());
        }
    };
    let service = Service {
        sight: sight::Sight::start(bpffs, kernel.shown())?,
        kernel,
        counters,
        bpffs: bpffs.to_owned(),
        turn: Arc::default(),
    };
    tokio::spawn(async move {
        let served = Server::builder()
            .add_service(InspectServer::new(service))
            .serve_with_incoming(UnixListenerStream::new(listener))
            .await;
        if let Err(error) = served {
            tracing::error!("the socket for `skein` failed: {error}");
        }
    });
    Ok(())
}

struct Service {
    sight: sight::Sight,
    kernel: Kernel,
    counters: Arc<Counters>,
    bpffs: PathBuf,
    /// One look, or trace, at a time, whoever asks: a look reads all maps.
    turn: Arc<Mutex<()>>,
}

impl Service {
    async fn look(&self) -> anyhow::Result<NodeStatus> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let look = self.kernel.look().await?;
        let (bpffs, counters) = (self.bpffs.clone(), Arc::clone(&self.counters));
        let read = tokio::task::spawn_blocking(move || {
            // Whoever asked may have given up, while the maps are read still.
            let _turn = turn;
            anyhow::Ok((fills(&bpffs)?, counters.drops()?))
        });
        let (fills, drops) = read.await.context("reading the maps broke")??;
        Ok(status::node(&look, &fills, &drops))
    }

    /// Errors are about what was asked for.
    async fn trace(&self, request: TraceRequest) -> anyhow::Result<TraceReply> {
        // A trace of the same tuple beside it would take what the programs remember of it for a flow.
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let (kernel, bpffs) = (self.kernel.clone(), self.bpffs.clone());
        // Whoever asked may give up: what the programs remember is taken away all the same.
        let tracing = tokio::spawn(async move {
            let _turn = turn;
            trace::trace(&kernel, &bpffs, request).await
        });
        tracing.await.context("the trace broke")?
    }
}

/// An answer, if it comes in time. `refused` makes the status of an error.
async fn answer<T>(
    answer: impl Future<Output = anyhow::Result<T>>,
    refused: fn(String) -> Status,
) -> Result<Response<T>, Status> {
    let answer = timeout(ANSWER_TIMEOUT, answer).await;
    let late = || {
        Status::deadline_exceeded(format!(
            "the kernel's side is busy: no answer within {ANSWER_TIMEOUT:?}; try again"
        ))
    };
    let answer = answer.map_err(|_| late())?;
    let answer = answer.map_err(|error| refused(format!("{error:#}")))?;
    Ok(Response::new(answer))
}

#[tonic::async_trait]
impl Inspect for Service {
    type FlowsStream = sight::Replies<FlowsReply>;
    type CaptureStream = sight::Replies<CaptureReply>;

    async fn flows(
        &self,
        request: Request<FlowsRequest>,
    ) -> Result<Response<Self::FlowsStream>, Status> {
        self.sight.flows(request.get_ref()).map(Response::new)
    }

    async fn capture(
        &self,
        request: Request<CaptureRequest>,
    ) -> Result<Response<Self::CaptureStream>, Status> {
        self.sight
            .capture(request.get_ref())
            .await
            .map(Response::new)
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<NodeStatus>, Status> {
        answer(self.look(), Status::internal).await
    }

    async fn trace(&self, request: Request<TraceRequest>) -> Result<Response<TraceReply>, Status> {
        let traced = self.trace(request.into_inner());
        answer(traced, Status::invalid_argument).await
    }
}
