//! What the leader answers of its networks.

use super::{creation, listing, local::ambiguous, shape, verbose};
use crate::api::{Leader, error::ApiError, filters::Filters, json, query::Params};
use axum::{
    extract::{Path, State},
    response::Response,
};
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};
use skein_model::{Action, Kind, LookupError, Network, Object, Rejection, State as Model, new_id};
use skein_orchestration::validate;
use std::sync::Arc;

/// What whoever asks for a network of the nodes is told that Swarm takes, and never uses.
const IGNORED: &str = "options and subnets of this network are ignored: each node has its own. Make a \
                       --config-only network on every node, and this one with --config-from";

pub async fn list_swarm(
    State(leader): State<Leader>,
    params: Params,
) -> Result<Response, ApiError> {
    let state = leader.read().await?;
    Ok(json::ok(&Value::Array(listed(&state, &params)?)))
}

/// The networks that a list asks for, as a state has them.
pub(super) fn listed(state: &Model, params: &Params) -> Result<Vec<Value>, ApiError> {
    let filters = Filters::parse(params.text("filters"), &listing::FILTERS)?;
    let networks = state.present_networks().filter(|network| {
        let is_used = || state.check_network_removal(network).is_err();
        listing::asks_for(&filters, network, is_used)
    });
    Ok(networks.map(|network| shape::shown(network)).collect())
}

pub async fn inspect_swarm(
    State(leader): State<Leader>,
    Path(id): Path<String>,
    params: Params,
) -> Result<Response, ApiError> {
    let state = leader.read().await?;
    let network = find(&state, &id, params.text("scope") == shape::SCOPE)?;
    let mut shown = shape::shown(network);
    let peers = verbose::peers(&state, network);
    if !peers.is_empty() {
        shown["Peers"] = peers.into();
    }
    if params.strict_flag("verbose")? {
        let services = verbose::services(&state, network);
        if !services.is_empty() {
            shown["Services"] = services.into();
        }
    }
    Ok(json::ok(&shown))
}

/// A network, of the predefined ones only where the swarm's side of them is meant: else every node
/// has its own of that name.
fn find<'a>(state: &'a Model, id: &str, predefined: bool) -> Result<&'a Arc<Network>, ApiError> {
    let network = state.find_network(id).map_err(|error| match error {
        LookupError::Ambiguous { matches, .. } => ambiguous(id, matches),
        LookupError::NotFound { .. } => error.into(),
    })?;
    if network.spec.predefined && !predefined {
        return Err(ApiError::not_found(format!("network {id} not found")));
    }
    Ok(network)
}

pub async fn remove_swarm(
    State(leader): State<Leader>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let state = leader.read().await?;
    let network = find(&state, &id, false)?;
    leader.write(removal(network.id.clone())).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) fn removal(id: String) -> Action {
    Action::Remove {
        kind: Kind::Network,
        id,
        version: None,
    }
}

pub async fn create_swarm(State(leader): State<Leader>, body: Bytes) -> Result<Response, ApiError> {
    let spec = creation::parse(json::parse(&body)?)?;
    creation::check(&spec)?;
    let state = leader.read().await?;
    validate::check_network(&state, &spec)?;
    let id = new_id(&mut rand::rng());
    let name = spec.name.clone();
    let is_node_local = spec.is_node_local();
    let is_ignored = is_node_local && !(spec.options.is_empty() && spec.ipam.config.is_empty());
    let network = Network {
        id: id.clone(),
        spec,
        ..Network::default()
    };
    let created = leader.propose(Action::Create(Object::from(network))).await;
    if let Err(crate::raft::ProposeError::Rejected(Rejection::NameConflict { .. })) = created {
        return Err(name_taken(&name));
    }
    created?;
    if !is_node_local && let Some(reason) = allocation(&leader, &id).await {
        leader.write(removal(id)).await?;
        return Err(ApiError::rpc(tonic::Code::InvalidArgument, reason));
    }
    let answer = json!({"Id": id, "Warning": if is_ignored { IGNORED } else { "" }});
    Ok(json::respond(StatusCode::CREATED, &answer))
}

pub(super) fn name_taken(name: &str) -> ApiError {
    ApiError::new(
        StatusCode::CONFLICT,
        format!("network with name {name} already exists"),
    )
}

/// Waits until the network has its subnet; why it gets none, if it does not.
async fn allocation(leader: &Leader, id: &str) -> Option<String> {
    let decided = |state: &Model| {
        state.network(id).is_none_or(|network| {
            network.allocation.is_some() || !network.allocation_error.is_empty()
        })
    };
    let state = leader.decided(decided).await?;
    let error = &state.network(id)?.allocation_error;
    (!error.is_empty()).then(|| error.clone())
}
