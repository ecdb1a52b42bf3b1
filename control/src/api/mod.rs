//! The Docker Engine API on a unix socket: what is the swarm's is answered here, everything else by
//! the node's own container engine.
//!
//! A request goes through [`server`], which takes the API version off its path, to the table of the
//! node ([`node_table`]). What is about the cluster goes on through [`cluster`] to the table of the
//! leader ([`leader_table`]), here or on another manager; what no table knows, through [`proxy`] to
//! the engine.

mod body;
mod cluster;
mod error;
mod events;
mod field_names;
mod filters;
mod forwarded;
mod json;
mod leader_context;
mod logs;
mod networks;
mod node_handle;
mod nodes;
mod payloads;
mod pinning;
mod proxy;
mod query;
mod random_names;
mod references;
mod request_line;
mod server;
mod service_specs;
mod services;
mod skein_status;
mod spec;
mod swarm;
mod system;
mod tasks;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod version;
mod volumes;

pub use forwarded::Forwarded;
pub(crate) use json::word;
pub use node_handle::{Member, Seated, Store};
pub use server::serve;

use axum::{
    Router,
    extract::{Request, State},
    middleware,
    response::{IntoResponse, Response},
    routing::{any, delete, get, post, put},
};
use cluster::Cluster;
use error::ApiError;
use leader_context::Leader;
use proxy::Engine;
use skein_model as model;
use std::sync::Arc;

/// What handlers on this node work with.
#[derive(Clone)]
struct Local {
    member: Arc<dyn Member>,
    engine: Engine,
    cluster: Cluster,
}

/// The request as the client wrote it, for the engine.
#[derive(Clone)]
struct Original(http::Uri);

/// What this node answers itself, and what it asks the cluster for. The rest is the engine's.
fn node_table(local: Local) -> Router {
    Router::new()
        .route("/_ping", get(system::ping))
        .route("/version", get(system::version))
        .route("/info", get(system::info))
        .route("/events", get(events::stream))
        .route("/swarm/init", post(swarm::init))
        .route("/swarm/join", post(swarm::join))
        .route("/swarm/leave", post(swarm::leave))
        .route("/swarm/unlock", post(swarm::unlock))
        .route("/swarm", any(clustered))
        .route("/swarm/{*rest}", any(clustered))
        .route("/nodes", any(clustered))
        .route("/nodes/{*rest}", any(clustered))
        .route("/services", any(clustered))
        .route(
            "/services/{*rest}",
            post(service_specs::forward).fallback(clustered),
        )
        .route("/tasks", any(clustered))
        .route("/tasks/{*rest}", any(clustered))
        .route("/secrets", any(clustered))
        .route("/secrets/create", post(payloads::create_of_version))
        .route("/secrets/{*rest}", any(clustered))
        .route("/configs", any(clustered))
        .route("/configs/create", post(payloads::create_of_version))
        .route("/configs/{*rest}", any(clustered))
        .route("/skein/status", any(clustered))
        .route("/networks", get(networks::list))
        .route("/networks/create", post(networks::create))
        .route("/networks/prune", post(networks::prune))
        .route(
            "/networks/{id}",
            get(networks::inspect).delete(networks::remove),
        )
        .route("/networks/{id}/connect", post(networks::connect))
        .route("/networks/{id}/disconnect", post(networks::disconnect))
        .route("/volumes/create", post(volumes::create))
        .route("/volumes/{name}", put(volumes::update))
        .route("/containers/json", get(networks::in_containers))
        .route("/containers/create", post(networks::create_container))
        .route("/containers/{id}/json", get(networks::in_containers))
        // The engine checks what is its own.
        .route_layer(middleware::from_fn(body::check_content_type))
        .fallback(engines)
        .method_not_allowed_fallback(engines)
        .with_state(local)
}

/// What the leader answers to one request, for itself and for the other managers.
fn leader_table(store: Arc<dyn Store>) -> Router {
    Router::new()
        .route("/swarm", get(swarm::inspect))
        .route("/swarm/update", post(swarm::update))
        .route("/swarm/unlockkey", get(swarm::unlock_key))
        .route("/nodes", get(nodes::list))
        .route("/nodes/{id}", get(nodes::inspect).delete(nodes::remove))
        .route("/nodes/{id}/update", post(nodes::update))
        .route("/services", get(services::list))
        .route("/services/create", post(services::create))
        .route(
            "/services/{id}",
            get(services::inspect).delete(services::remove),
        )
        .route("/services/{id}/update", post(services::update))
        .route("/services/{id}/logs", get(logs::of_service))
        .route("/tasks", get(tasks::list))
        .route("/tasks/{id}", get(tasks::inspect))
        .route("/tasks/{id}/logs", get(logs::of_task))
        .route("/skein/status", get(skein_status::status))
        .route("/networks", get(networks::list_swarm))
        .route("/networks/create", post(networks::create_swarm))
        .route("/networks/prune", post(networks::prune_swarm))
        .route(
            "/networks/{id}",
            delete(networks::remove_swarm).get(networks::inspect_swarm),
        )
        .route("/secrets", get(payloads::list::<model::Secret>))
        .route("/secrets/create", post(payloads::create::<model::Secret>))
        .route(
            "/secrets/{id}",
            get(payloads::inspect::<model::Secret>).delete(payloads::remove::<model::Secret>),
        )
        .route(
            "/secrets/{id}/update",
            post(payloads::update::<model::Secret>),
        )
        .route("/configs", get(payloads::list::<model::Config>))
        .route("/configs/create", post(payloads::create::<model::Config>))
        .route(
            "/configs/{id}",
            get(payloads::inspect::<model::Config>).delete(payloads::remove::<model::Config>),
        )
        .route(
            "/configs/{id}/update",
            post(payloads::update::<model::Config>),
        )
        .route("/volumes/create", post(volumes::create_in_cluster))
        .fallback(unknown)
        .method_not_allowed_fallback(unknown)
        .with_state(Leader::new(store))
}

async fn clustered(State(local): State<Local>, request: Request) -> Response {
    local.cluster.call(request).await
}

async fn engines(State(local): State<Local>, request: Request) -> Response {
    local.pass_to_engine(request).await
}

impl Local {
    /// Hands a request to the engine as the client wrote it.
    async fn pass_to_engine(&self, mut request: Request) -> Response {
        if let Some(Original(uri)) = request.extensions().get().cloned() {
            *request.uri_mut() = uri;
        }
        match proxy::forward(&self.engine, request).await {
            Ok(response) => response,
            Err(error) => ApiError::from(error).into_response(),
        }
    }
}

async fn unknown() -> ApiError {
    ApiError::not_found("page not found")
}

/// The gRPC service for requests that other managers pass on to this one.
pub fn forwarded(member: Arc<dyn Member>) -> Forwarded {
    Forwarded::new(Cluster::new(member, leader_table))
}
