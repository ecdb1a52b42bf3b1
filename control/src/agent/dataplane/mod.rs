//! Hands the network state on to the dataplane of this node, and its answers back.

mod silence;

use super::network::NetworkState;
use silence::{Silent, complain};
use skein_proto::{
    network::{NetworkUpdate, dataplane_client::DataplaneClient},
    socket::connect,
    view::View,
};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
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

/// After this the connection is given up, and another made: whatever holds the old one up may not hold up a new one.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);

/// Keeps the dataplane up to date for ever.
pub async fn relay(networks: &NetworkState, socket: &Path) {
    let silent = Silent::new();
    tokio::join!(
        relay_for_ever(networks, socket, &silent),
        complain(networks, socket, &silent),
    );
}

async fn relay_for_ever(networks: &NetworkState, socket: &Path, silent: &Silent) {
    // Without a state there is nothing to say: the dataplane keeps the one it has.
    let mut views = networks.watch();
    let mut away = false;
    loop {
        // The sender lives as long as `networks`.
        let _ = views.wait_for(Option::is_some).await;
        let Err(error) = relay_once(networks, socket, &mut away, silent).await;
        silent.away(error.message());
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
    silent: &Silent,
) -> Result<std::convert::Infallible, Status> {
    let mut client = DataplaneClient::new(connect(socket).await?);
    silent.connected();
    let (updates, queue) = mpsc::channel(QUEUE);
    let mut views = networks.watch();
    // The newest version that it was told.
    let newest = AtomicU64::new(0);
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
                newest.store(update.version, Ordering::Release);
                silent.begin();
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
            // One that cannot do all that it was told says so, and stays at an earlier version.
            let is_behind = programmed.version < newest.load(Ordering::Acquire);
            silent.answered(is_behind && programmed.problems.is_empty());
            networks.answered(programmed);
        }
        Err(closed())
    };
    let late = async {
        // A new connection has as long as the one before.
        sleep(ANSWER_DEADLINE).await;
        let silence = silent.lasts(ANSWER_DEADLINE).await;
        let waited = silence.since.elapsed().as_secs();
        Err(Status::deadline_exceeded(format!(
            "no answer for {waited} s"
        )))
    };
    tokio::try_join!(send, receive, late).map(
        |(never, ..): (
            std::convert::Infallible,
            std::convert::Infallible,
            std::convert::Infallible,
        )| never,
    )
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
    use super::silence::{ANSWER_PATIENCE, Silence};
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
                    let programmed = Programmed {
                        version: update.version,
                        ..Programmed::default()
                    };
                    told.send(update).await.unwrap();
                    // Whoever does not read the answers is told nothing.
                    let _ = answers.send(Ok(programmed)).await;
                }
            });
            Ok(Response::new(ReceiverStream::new(stream)))
        }
    }

    /// Whoever looks at the node's state sees it: the managers are told what is in there.
    #[tokio::test]
    async fn a_dataplane_that_takes_all_and_says_nothing_is_a_problem_of_its_node() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("dataplane.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let networks = NetworkState::default();
        networks.take(NetworkUpdate {
            version: 3,
            complete: true,
            ..NetworkUpdate::default()
        });
        let silent = Silent::new();
        let (relaying, path, known) = (networks.clone(), socket.clone(), silent.clone());
        let relay = tokio::spawn(async move {
            tokio::join!(
                relay_for_ever(&relaying, &path, &known),
                complain(&relaying, &path, &known),
            )
        });
        // Nobody ever reads what comes there.
        let (_held, _) = listener.accept().await.unwrap();
        let mut silence = silent.0.subscribe();
        let is_connected = |now: &Option<Silence>| {
            let now = now.as_ref();
            now.is_some_and(|silence| silence.away.is_empty())
        };
        silence.wait_for(is_connected).await.unwrap();
        // The time that passes here is none that the machine needs.
        tokio::time::pause();
        let mut answers = networks.answers();
        let said = answers.wait_for(|said| {
            let problems = said.iter().flat_map(|said| &said.problems);
            problems
                .into_iter()
                .any(|problem| problem.message.contains("has not answered"))
        });
        let said = timeout(ANSWER_PATIENCE * 2, said).await.unwrap();
        assert_eq!(said.unwrap().as_ref().unwrap().version, 0);
        // Its next word takes the place of that.
        networks.answered(Programmed {
            version: 3,
            ..Programmed::default()
        });
        let now = networks.answers().borrow().clone().unwrap();
        assert_eq!((now.version, now.problems.len()), (3, 0));
        relay.abort();
    }

    /// A dataplane that tells what it is told, and its end.
    fn serve(socket: &Path) -> (mpsc::Receiver<NetworkUpdate>, tokio::task::AbortHandle) {
        let (tell, told) = mpsc::channel(1);
        let listener = tokio::net::UnixListener::bind(socket).unwrap();
        let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
        let serving = tonic::transport::Server::builder()
            .add_service(DataplaneServer::new(Told(tell)))
            .serve_with_incoming(incoming);
        (told, tokio::spawn(serving).abort_handle())
    }

    #[tokio::test]
    async fn one_that_has_nothing_to_hear_for_hours_is_the_same_one_then() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("dataplane.sock");
        let (mut told, serving) = serve(&socket);
        let networks = NetworkState::default();
        let update = |version| NetworkUpdate {
            version,
            ..NetworkUpdate::default()
        };
        networks.take(NetworkUpdate {
            complete: true,
            ..update(3)
        });
        let (relaying, path) = (networks.clone(), socket.clone());
        let relay = tokio::spawn(async move { relay(&relaying, &path).await });
        assert!(told.recv().await.unwrap().complete);
        let mut answers = networks.answers();
        answers.wait_for(Option::is_some).await.unwrap();
        tokio::time::pause();
        sleep(Duration::from_secs(6 * 60 * 60)).await;
        tokio::time::resume();
        networks.take(update(4));
        let next = told.recv().await.unwrap();
        // A new connection is told all anew.
        assert_eq!((next.version, next.complete), (4, false));
        relay.abort();
        serving.abort();
    }

    #[tokio::test]
    async fn a_node_that_left_leaves_nothing_in_the_dataplane() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("dataplane.sock");
        let away = clear(&socket).await.unwrap_err();
        assert_eq!(away.code(), tonic::Code::Unavailable, "{away}");

        let (mut told, serving) = serve(&socket);
        clear(&socket).await.unwrap();
        let update = told.recv().await.unwrap();
        assert!(update.complete && update.upsert.is_empty());
        serving.abort();
    }
}
