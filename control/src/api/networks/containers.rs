//! Containers and the networks that they are on.

use super::shape;
use crate::{
    agent::engine::TWIN_LABEL,
    api::{Local, Original, body, error::ApiError, json, proxy},
    node::LocalState,
};
use axum::{
    body::Body,
    extract::{Path, Request, State},
    response::Response,
};
use http::StatusCode;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What a container may name that is never a network of the swarm.
const MODES: [&str; 5] = ["", "default", "bridge", "host", "none"];

impl Local {
    pub(super) fn is_member(&self) -> bool {
        self.member.membership().state != LocalState::Inactive
    }

    /// Refuses a container of the user's own on a network of the swarm.
    async fn check_attachable(&self, reference: &str) -> Result<(), ApiError> {
        if MODES.contains(&reference) || reference.starts_with("container:") {
            return Ok(());
        }
        let state = self.member.store().map(|store| store.state());
        let network = state.as_ref().and_then(|state| {
            let network = state.find_network(reference).ok()?;
            (!network.spec.predefined).then_some(network)
        });
        if let Some(network) = network
            && !network.spec.attachable
        {
            return Err(ApiError::new(
                StatusCode::FORBIDDEN,
                format!(
                    "Could not attach to network {reference}: rpc error: code = PermissionDenied desc = network {reference} not manually attachable"
                ),
            ));
        }
        let is_swarms = network.is_some() || {
            let engines = self.engines_network(reference).await?;
            engines.is_some_and(|network| shape::twin_of(&network).is_some())
        };
        if is_swarms {
            return Err(ApiError::unsupported(format!(
                "Could not attach to network {reference}: containers outside of services cannot be on networks of the swarm. Run it as a service, or on a local network"
            )));
        }
        Ok(())
    }
}

/// `POST /containers/create`
pub async fn create_container(
    State(local): State<Local>,
    request: Request,
) -> Result<Response, ApiError> {
    if !local.is_member() {
        return Ok(local.pass_to_engine(request).await);
    }
    let (parts, body) = request.into_parts();
    let body = body::read(body).await?;
    // What is no JSON is the engine's to refuse.
    let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
    let mut references = BTreeSet::new();
    references.extend(asked["HostConfig"]["NetworkMode"].as_str());
    let endpoints = asked["NetworkingConfig"]["EndpointsConfig"].as_object();
    references.extend(
        endpoints
            .into_iter()
            .flatten()
            .map(|(name, _)| name.as_str()),
    );
    for reference in references {
        local.check_attachable(reference).await?;
    }
    let request = Request::from_parts(parts, Body::from(body));
    Ok(local.pass_to_engine(request).await)
}

/// `POST /networks/{id}/connect`
pub async fn connect(
    State(local): State<Local>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    // First: a client that is still writing would not see a refusal.
    let body = body::read(body).await?;
    if local.is_member() {
        local.check_attachable(&id).await?;
        // The managers were asked too.
        if local.engines_network(&id).await?.is_none() {
            return Err(ApiError::not_found(format!(
                "Could not attach to network {id}: rpc error: code = NotFound desc = network {id} not found"
            )));
        }
    }
    let request = Request::from_parts(parts, Body::from(body));
    Ok(local.pass_to_engine(request).await)
}

/// `GET /containers/json` and `/containers/{id}/json`: with the IDs of the swarm's networks in place
/// of their twins'.
pub async fn in_containers(
    State(local): State<Local>,
    mut request: Request,
) -> Result<Response, ApiError> {
    if !local.is_member() {
        return Ok(local.pass_to_engine(request).await);
    }
    if let Some(Original(uri)) = request.extensions().get().cloned() {
        *request.uri_mut() = uri;
    }
    let response = local.engine.send(engines_request(request)).await?;
    if response.status() != StatusCode::OK {
        return Ok(response.map(Body::new));
    }
    let mut answer = proxy::read_json(response.into_body()).await?;
    let twins = twins(&local).await?;
    let each: &mut [Value] = match &mut answer {
        Value::Array(containers) => containers,
        container => std::slice::from_mut(container),
    };
    for container in each {
        rename(container, &twins);
    }
    Ok(json::ok(&answer))
}

fn engines_request(request: Request) -> Request {
    let (parts, body) = request.into_parts();
    let mut asked = Request::new(body);
    *asked.uri_mut() = parts.uri;
    let host = http::HeaderValue::from_static("docker");
    asked.headers_mut().insert(http::header::HOST, host);
    asked
}

/// Twin's ID -> ID of the swarm's network.
async fn twins(local: &Local) -> Result<BTreeMap<String, String>, ApiError> {
    let path = format!("/networks?filters=%7B%22label%22%3A%5B%22{TWIN_LABEL}%22%5D%7D");
    let networks = local.engine.get(&path).await?;
    let twin = |network: &Value| {
        let of = shape::twin_of(network)?.to_owned();
        Some((network["Id"].as_str()?.to_owned(), of))
    };
    Ok(networks
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(twin)
        .collect())
}

fn rename(container: &mut Value, twins: &BTreeMap<String, String>) {
    let networks = container
        .pointer_mut("/NetworkSettings/Networks")
        .and_then(Value::as_object_mut);
    for network in networks.into_iter().flat_map(serde_json::Map::values_mut) {
        let of = network["NetworkID"].as_str().and_then(|id| twins.get(id));
        if let Some(of) = of.cloned() {
            network["NetworkID"] = of.into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn containers_name_the_swarms_networks() {
        let twins = [("ffff".to_owned(), "n1".to_owned())].into();
        let mut container = json!({"NetworkSettings": {"Networks": {
            "web": {"NetworkID": "ffff"}, "bridge": {"NetworkID": "eeee"}}}});
        rename(&mut container, &twins);
        assert_eq!(
            container,
            json!({"NetworkSettings": {"Networks": {
                "web": {"NetworkID": "n1"}, "bridge": {"NetworkID": "eeee"}}}})
        );
        let mut none = json!({"Id": "x"});
        rename(&mut none, &twins);
        assert_eq!(none, json!({"Id": "x"}));
    }
}
