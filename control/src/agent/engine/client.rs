//! The connection to the node's engine.

use bollard::{BollardRequest, Docker};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
};
use std::{path::Path, time::Duration};
use tokio::net::UnixStream;

/// Every connection goes to the socket: the name in the requests is only for the `Host` header.
const ADDRESS: &str = "http://docker";

/// A client of the engine behind `socket`, whether or not it is up: each call connects anew. bollard's
/// own refuses to be made while the socket is not there, and the engine may start after this node.
///
/// # Errors
/// bollard refuses the transport.
pub fn connect(socket: &Path, limit: Duration) -> Result<Docker, bollard::errors::Error> {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_: http::Uri| {
        let socket = socket.clone();
        Box::pin(async move { UnixStream::connect(socket).await.map(TokioIo::new) })
    });
    let client = Client::builder(TokioExecutor::new())
        // A kept connection is one to an engine that may have been restarted meanwhile.
        .pool_max_idle_per_host(0)
        .build(connector);
    let transport = move |request: BollardRequest| {
        let answer = client.request(request);
        async move { answer.await.map_err(bollard::errors::Error::from) }
    };
    Docker::connect_with_custom_transport(
        transport,
        Some(ADDRESS),
        limit.as_secs(),
        bollard::API_DEFAULT_VERSION,
    )
}
