//! skein-dataplane, by its socket for this command.

use anyhow::anyhow;
use skein_proto::{
    inspect::{
        CaptureReply, CaptureRequest, FlowsReply, FlowsRequest, NodeStatus, StatusRequest,
        TraceReply, TraceRequest, inspect_client::InspectClient,
    },
    socket::connect,
};
use std::{path::Path, time::Duration};
use tonic::{Code, Response, Status, Streaming, transport::Channel};

/// It says itself when it is busy, after half of this.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer: 16,384 services, and 131,072 backends of VIPs with about 60 bytes each.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// What this node's kernel has.
///
/// # Errors
/// It is away, or refuses.
pub async fn status(socket: &Path) -> anyhow::Result<NodeStatus> {
    ask(socket, async |mut client| {
        client.status(StatusRequest {}).await
    })
    .await
}

/// What would become of a packet.
///
/// # Errors
/// As above; or what is asked for is not on this node.
pub async fn trace(socket: &Path, request: TraceRequest) -> anyhow::Result<TraceReply> {
    ask(socket, async |mut client| client.trace(request).await).await
}

/// Flows, as they are told.
///
/// # Errors
/// As above; or the filter is none.
pub async fn flows(socket: &Path, request: FlowsRequest) -> anyhow::Result<Streaming<FlowsReply>> {
    ask(socket, async |mut client| client.flows(request).await).await
}

/// Packets, as they come.
///
/// # Errors
/// As above; or somebody else captures.
pub async fn capture(
    socket: &Path,
    request: CaptureRequest,
) -> anyhow::Result<Streaming<CaptureReply>> {
    ask(socket, async |mut client| client.capture(request).await).await
}

/// Why a stream of answers ended.
pub fn ended(status: &Status) -> anyhow::Error {
    anyhow!("skein-dataplane ended it: {}", status.message())
}

async fn ask<A>(
    socket: &Path,
    question: impl AsyncFnOnce(InspectClient<Channel>) -> Result<Response<A>, Status>,
) -> anyhow::Result<A> {
    let asking = async {
        let client = InspectClient::new(connect(socket).await?);
        let client = client.max_decoding_message_size(ANSWER_BYTES_MAX);
        Ok::<_, Status>(question(client).await?.into_inner())
    };
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, asking).await;
    let late = || Status::deadline_exceeded(format!("no answer within {ANSWER_TIMEOUT:?}"));
    let answer = answer.unwrap_or_else(|_| Err(late()));
    answer.map_err(|status| match status.code() {
        Code::InvalidArgument | Code::ResourceExhausted => anyhow!("{}", status.message()),
        _ => anyhow!(
            "cannot ask skein-dataplane at {}: {}; does it run, and are you root?",
            socket.display(),
            status.message()
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn where_it_is_away_that_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("inspect.sock");
        let error = status(&socket).await.unwrap_err().to_string();
        assert!(error.contains("inspect.sock: No such file"), "{error}");
        assert!(error.contains("does it run"), "{error}");
    }
}
