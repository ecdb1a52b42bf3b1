//! Docker's network plugin: the engine asks here for networks, addresses and interfaces.
//!
//! So a container has its interface before its first process runs, `docker inspect` shows what is so,
//! and `docker run --network` works. The protocol is Docker's remote driver API for libnetwork: JSON
//! over HTTP on a unix socket in the engine's plugin folder.
//!
//! - `calls`: those that need no device, which are decided by what is stored alone (pure).
//! - `ipam`: addresses. They come from the cluster's allocator; here they are only passed on.
//! - `driver`: networks, endpoints, and who joins them. - `routes`: where a container's packets go by them.
//! - `store`: what of it outlives the process.
//!
//! Calls about what is unknown here succeed where they take something away: the engine repeats them
//! after crashes, and would otherwise never get rid of its own record.

mod calls;
mod driver;
mod ipam;
mod routes;
mod store;

pub use calls::decide;
pub use driver::joined;
pub use store::{Store, Stored, StoredEndpoint};

use crate::{desired::Desired, kernel::Kernel};
use anyhow::Context as _;
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use serde::Serialize;
use serde_json::json;
use std::{path::Path, sync::Arc};
use tokio::{
    net::UnixListener,
    sync::{Mutex, watch},
};

/// The plugin's requests are small: far above what any network's options need.
const BODY_MAX: usize = 1 << 20;

/// For root alone.
const SOCKET_MODE: u32 = 0o600;

/// What the calls work on.
#[derive(Clone)]
struct Plugin {
    kernel: Kernel,
    desired: watch::Receiver<Arc<Desired>>,
    store: Arc<Mutex<Store>>,
}

impl Plugin {
    /// Changes what is stored, one change at a time.
    async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Stored) -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let mut store = Arc::clone(&self.store).lock_owned().await;
        tokio::task::spawn_blocking(move || store.change(change)).await?
    }
}

/// An error, in the form that the engine shows to its user.
struct Failure(anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let message = format!("skein: {:#}", self.0);
        tracing::warn!("network plugin: {message}");
        (
            StatusCode::INTERNAL_SERVER_ERROR,
            reply(&json!({ "Err": message })),
        )
            .into_response()
    }
}

fn reply(body: &impl Serialize) -> Response {
    let body = serde_json::to_vec(body).unwrap_or_default();
    let kind = "application/vnd.docker.plugins.v1.2+json";
    ([(header::CONTENT_TYPE, kind)], body).into_response()
}

/// A call that needs a device: parse, do, answer.
macro_rules! calls {
    ($($path:literal => $call:path),* $(,)?) => {
        Router::new()$(.route(
            $path,
            post(async |State(plugin): State<Plugin>, body: Bytes| -> Result<Response, Failure> {
                Ok(reply(&$call(&plugin, calls::parse(&body)?).await?))
            }),
        ))*
    };
}

fn router(plugin: Plugin) -> Router {
    let mut router = calls! {
        "/NetworkDriver.DeleteEndpoint" => driver::delete_endpoint,
        "/NetworkDriver.Join" => driver::join,
        "/NetworkDriver.Leave" => driver::leave,
    };
    for (path, decision) in calls::CALLS {
        let call = async move |State(plugin): State<Plugin>, body: Bytes| {
            let answer = plugin.change(move |stored| decision(stored, &body)).await?;
            Ok::<_, Failure>(reply(&answer?))
        };
        router = router.route(path, post(call));
    }
    router
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(plugin)
}

/// Takes the plugin's socket: a second dataplane is refused here, before it touches anything. Calls wait
/// until it is served.
///
/// # Errors
/// The socket cannot be made.
pub async fn listen(socket: &Path) -> anyhow::Result<UnixListener> {
    skein_proto::socket::listen(socket, SOCKET_MODE).await
}

/// Serves the plugin for ever.
///
/// # Errors
/// The socket fails.
pub async fn serve(
    listener: UnixListener,
    kernel: Kernel,
    desired: watch::Receiver<Arc<Desired>>,
    store: Store,
) -> anyhow::Result<()> {
    let plugin = Plugin {
        kernel,
        desired,
        store: Arc::new(Mutex::new(store)),
    };
    axum::serve(listener, router(plugin))
        .await
        .context("the network plugin's socket failed")
}
