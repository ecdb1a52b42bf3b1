//! Docker's network plugin: the engine asks here for networks, addresses and interfaces.
//!
//! So a container has its interface before its first process runs, `docker inspect` shows what is so,
//! and `docker run --network` works. The protocol is Docker's remote driver API for libnetwork: JSON
//! over HTTP on a unix socket in the engine's plugin folder.
//!
//! - `ipam`: addresses. They come from the cluster's allocator; here they are only passed on.
//! - `driver`: networks, endpoints, and who joins them. - `routes`: where a container's packets go by them.
//! - `store`: what of it outlives the process.
//!
//! Calls about what is unknown here succeed where they take something away: the engine repeats them
//! after crashes, and would otherwise never get rid of its own record.

mod driver;
mod ipam;
mod routes;
mod store;

use store::Stored;
pub use store::{Store, StoredEndpoint};

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
use serde::{Serialize, de::DeserializeOwned};
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

fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, Failure> {
    // Some calls come without a body at all.
    let text: &[u8] = if body.is_empty() { b"{}" } else { body };
    let parsed =
        serde_json::from_slice(text).context("the engine sent a body that is no such call");
    Ok(parsed?)
}

/// A call of the protocol: parse, do, answer.
macro_rules! calls {
    ($($path:literal => $call:path),* $(,)?) => {
        Router::new()$(.route(
            $path,
            post(async |State(plugin): State<Plugin>, body: Bytes| -> Result<Response, Failure> {
                Ok(reply(&$call(&plugin, parse(&body)?).await?))
            }),
        ))*
    };
}

fn router(plugin: Plugin) -> Router {
    calls! {
        "/Plugin.Activate" => activate,
        "/NetworkDriver.GetCapabilities" => driver::capabilities,
        "/NetworkDriver.CreateNetwork" => driver::create_network,
        "/NetworkDriver.DeleteNetwork" => driver::delete_network,
        "/NetworkDriver.CreateEndpoint" => driver::create_endpoint,
        "/NetworkDriver.EndpointOperInfo" => driver::endpoint_info,
        "/NetworkDriver.DeleteEndpoint" => driver::delete_endpoint,
        "/NetworkDriver.Join" => driver::join,
        "/NetworkDriver.Leave" => driver::leave,
        "/NetworkDriver.DiscoverNew" => nothing,
        "/NetworkDriver.DiscoverDelete" => nothing,
        "/NetworkDriver.ProgramExternalConnectivity" => nothing,
        "/NetworkDriver.RevokeExternalConnectivity" => nothing,
        "/IpamDriver.GetCapabilities" => ipam::capabilities,
        "/IpamDriver.GetDefaultAddressSpaces" => ipam::address_spaces,
        "/IpamDriver.RequestPool" => ipam::request_pool,
        "/IpamDriver.ReleasePool" => nothing,
        "/IpamDriver.RequestAddress" => ipam::request_address,
        "/IpamDriver.ReleaseAddress" => nothing,
    }
    .layer(DefaultBodyLimit::max(BODY_MAX))
    .with_state(plugin)
}

async fn activate(_: &Plugin, _: serde_json::Value) -> anyhow::Result<serde_json::Value> {
    Ok(json!({ "Implements": ["NetworkDriver", "IpamDriver"] }))
}

/// Calls that ask for nothing that is not so already.
async fn nothing(_: &Plugin, _: serde_json::Value) -> anyhow::Result<serde_json::Value> {
    Ok(json!({}))
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
