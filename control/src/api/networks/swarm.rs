//! What the leader answers of its networks.

use super::{creation, listing, local::ambiguous, shape, verbose};
use crate::{
    api::{Leader, error::ApiError, filters::Filters, json, query::Params},
    raft::ProposeError,
};
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
    if let Err(ProposeError::Rejected(Rejection::NameConflict { .. })) = created {
        return Err(name_taken(&name));
    }
    created?;
    if !is_node_local && let Some(reason) = allocation(&leader, &id).await {
        return Err(withdrawn(&leader, id, &name, reason).await);
    }
    let answer = json!({"Id": id, "Warning": if is_ignored { IGNORED } else { "" }});
    Ok(json::respond(StatusCode::CREATED, &answer))
}

/// Takes away a network that got no subnet; what whoever asked for it is told.
async fn withdrawn(leader: &Leader, id: String, name: &str, mut reason: String) -> ApiError {
    match leader.propose(removal(id)).await {
        // Somebody else has removed it.
        Ok(()) | Err(ProposeError::Rejected(Rejection::NotFound { .. })) => {}
        Err(error) => {
            reason += &format!(
                "; the network is there without a subnet and could not be removed ({error}): remove \
                 network {name} before you ask for it again"
            );
        }
    }
    ApiError::rpc(tonic::Code::InvalidArgument, reason)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::Memory;

    #[tokio::test]
    async fn a_network_without_a_subnet_is_withdrawn_or_said_to_be_left() {
        let store = Arc::new(Memory::default());
        let create = || {
            let mut network = Network {
                id: "n".into(),
                ..Network::default()
            };
            network.spec.name = "front".into();
            Action::Create(network.into())
        };
        let leader = Leader::new(store.clone());
        leader.write(create()).await.unwrap();
        let full = || "no free subnet".to_owned();
        let start = "rpc error: code = InvalidArgument desc = no free subnet";
        for _twice in 0..2 {
            let error = withdrawn(&leader, "n".into(), "front", full()).await;
            assert_eq!(
                (error.status, &*error.message),
                (StatusCode::BAD_REQUEST, start)
            );
        }
        leader.write(create()).await.unwrap();
        store.lead_for(0);
        let error = withdrawn(&leader, "n".into(), "front", full()).await;
        assert_eq!(error.status, StatusCode::BAD_REQUEST);
        assert!(error.message.starts_with(start), "{error}");
        assert!(
            error
                .message
                .ends_with("remove network front before you ask for it again")
        );
    }
}
