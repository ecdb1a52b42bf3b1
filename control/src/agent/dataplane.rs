//! Hands the network state on to the dataplane of this node, and its answers back.

use super::network::NetworkState;
use skein_proto::{
    network::{NetworkUpdate, dataplane_client::DataplaneClient},
    socket::connect,
    view::View,
};
use std::{path::Path, sync::Arc, time::Duration};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Between tries to reach the dataplane: what changes meanwhile reaches no kernel.
const RETRY: Duration = Duration::from_millis(500);
/// How long the dataplane may take to let go of a swarm; it only empties its tables.
const CLEAR_DEADLINE: Duration = Duration::from_secs(10);
/// Updates that wait for the dataplane: each is computed when there is room for it.
const QUEUE: usize = 1;

/// Keeps the dataplane up to date for ever.
pub async fn relay(networks: &NetworkState, socket: &Path) {
    // Without a state there is nothing to say: the dataplane keeps the one it has.
    let mut views = networks.watch();
    let mut away = false;
    loop {
        // The sender lives as long as `networks`.
        let _ = views.wait_for(Option::is_some).await;
        let Err(error) = relay_once(networks, socket, &mut away).await;
        if !away {
            away = true;
            tracing::warn!(
                socket = %socket.display(),
                "the dataplane does not take the network state: {}; is skein-dataplane running?",
                error.message()
            );
        }
        sleep(RETRY).await;
    }
}

async fn relay_once(
    networks: &NetworkState,
    socket: &Path,
    away: &mut bool,
) -> Result<std::convert::Infallible, Status> {
    let mut client = DataplaneClient::new(connect(socket).await?);
    let (updates, queue) = mpsc::channel(QUEUE);
    let mut views = networks.watch();
    let send = async {
        let mut told: Option<Arc<View>> = None;
        loop {
            let Ok(room) = updates.reserve().await else {
                return Err(closed());
            };
            let view = views.borrow_and_update().clone();
            if let Some(view) = view
                && let Some(update) = view.update_from(told.as_deref())
            {
                room.send(update);
                told = Some(view);
            }
            if views.changed().await.is_err() {
                return Err(closed());
            }
        }
    };
    let receive = async {
        let mut answers = client.sync(ReceiverStream::new(queue)).await?.into_inner();
        while let Some(programmed) = answers.message().await? {
            if std::mem::take(away) {
                tracing::info!("the dataplane takes the network state");
            }
            networks.answered(programmed);
        }
        Err(closed())
    };
    tokio::try_join!(send, receive)
        .map(|(never, _): (std::convert::Infallible, std::convert::Infallible)| never)
}

/// Tells the dataplane that the node is no member of a swarm: it stores that, publishes no port and
/// takes no packet from other nodes any more. The next swarm begins with a complete state, whatever its
/// version.
///
/// # Errors
/// The dataplane does not answer, or refuses.
pub async fn clear(socket: &Path) -> Result<(), Status> {
    let clearing = async {
        let mut client = DataplaneClient::new(connect(socket).await?);
        let nothing = NetworkUpdate {
            complete: true,
            ..NetworkUpdate::default()
        };
        let (updates, queue) = mpsc::channel(QUEUE);
        // Open until the answer: the dataplane stops reading at its end.
        updates.send(nothing).await.map_err(|_| closed())?;
        let mut answers = client.sync(ReceiverStream::new(queue)).await?.into_inner();
        let programmed = answers.message().await?.ok_or_else(closed)?;
        for problem in programmed.problems {
            tracing::warn!(id = problem.id, "the dataplane: {}", problem.message);
        }
        drop(updates);
        Ok(())
    };
    let late = || Status::deadline_exceeded(format!("no answer within {CLEAR_DEADLINE:?}"));
    timeout(CLEAR_DEADLINE, clearing)
        .await
        .map_err(|_| late())?
}

fn closed() -> Status {
    Status::unavailable("it closed the connection")
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_proto::network::{
        Programmed,
        dataplane_server::{Dataplane, DataplaneServer},
    };
    use tonic::{Request, Response, Streaming};

    /// A dataplane that tells what it is told.
    struct Told(mpsc::Sender<NetworkUpdate>);

    #[tonic::async_trait]
    impl Dataplane for Told {
        type SyncStream = ReceiverStream<Result<Programmed, Status>>;

        async fn sync(
            &self,
            request: Request<Streaming<NetworkUpdate>>,
        ) -> Result<Response<Self::SyncStream>, Status> {
            let mut updates = request.into_inner();
            let (answers, stream) = mpsc::channel(1);
            let told = self.0.clone();
            tokio::spawn(async move {
                while let Ok(Some(update)) = updates.message().await {
                    told.send(update).await.unwrap();
                    // Whoever does not read the answers is told nothing.
                    let _ = answers.send(Ok(Programmed::default())).await;
                }
            });
            Ok(Response::new(ReceiverStream::new(stream)))
        }
    }

    #[tokio::test]
    async fn a_node_that_left_leaves_nothing_in_the_dataplane() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("dataplane.sock");
        let away = clear(&socket).await.unwrap_err();
        assert_eq!(away.code(), tonic::Code::Unavailable, "{away}");

        let (tell, mut told) = mpsc::channel(1);
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
        let serving = tonic::transport::Server::builder()
            .add_service(DataplaneServer::new(Told(tell)))
            .serve_with_incoming(incoming);
        let serving = tokio::spawn(serving);
        clear(&socket).await.unwrap();
        let update = told.recv().await.unwrap();
        assert!(update.complete && update.upsert.is_empty());
        serving.abort();
    }
}
