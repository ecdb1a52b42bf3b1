//! Hands the network state on to the dataplane of this node, and its answers back.

use super::network::{NetworkState, View};
use hyper_util::rt::TokioIo;
use skein_proto::network::dataplane_client::DataplaneClient;
use std::{path::Path, sync::Arc, time::Duration};
use tokio::{net::UnixStream, sync::mpsc, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

/// Between tries to reach the dataplane: what changes meanwhile reaches no kernel.
const RETRY: Duration = Duration::from_millis(500);
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
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

fn closed() -> Status {
    Status::unavailable("it closed the connection")
}

async fn connect(socket: &Path) -> Result<Channel, Status> {
    let path = socket.to_owned();
    // The name is not looked up: every connection is one to the socket.
    let endpoint = Endpoint::from_static("http://dataplane").connect_timeout(CONNECT_DEADLINE);
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let connected = endpoint.connect_with_connector(connector).await;
    connected.map_err(|error| {
        let mut cause: &dyn std::error::Error = &error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        Status::unavailable(cause.to_string())
    })
}
