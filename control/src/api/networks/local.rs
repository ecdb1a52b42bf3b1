//! What this node answers: the engine's networks and the swarm's, merged.

use super::{shape, swarm::name_taken};
use crate::{
    api::{Local, body, error::ApiError, json, query::Params},
    node::LocalState,
};
use axum::{
    body::Body,
    extract::{Path, Request, State},
    response::Response,
};
use http::{Method, StatusCode, request::Parts};
use http_body_util::{BodyExt, Limited};
use percent_encoding::{NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use serde_json::Value;

/// The longest answer of the leader that is read here; it lists every network of the swarm.
const ANSWER_MAX: usize = 64 << 20;

impl Local {
    /// Whether the cluster can be asked from here.
    pub(super) fn is_manager(&self) -> bool {
        self.member.store().is_some()
    }

    /// What the cluster answers to a request of this node's own: `None` where it cannot be asked.
    async fn of_cluster(&self, path_and_query: &str) -> Option<(StatusCode, Value)> {
        if !self.is_manager() {
            return None;
        }
        let request = Request::get(path_and_query).body(Body::empty()).ok()?;
        let (parts, body) = self.cluster.call(request).await.into_parts();
        let bytes = Limited::new(body, ANSWER_MAX).collect().await.ok()?;
        let value = serde_json::from_slice(&bytes.to_bytes()).ok()?;
        Some((parts.status, value))
    }

    /// The same for the network of a name or ID, if it is the swarm's.
    async fn swarm_network(&self, id: &str, query: &str) -> Result<Option<Value>, ApiError> {
        match self
            .of_cluster(&format!("/networks/{}?{query}", encoded(id)))
            .await
        {
            Some((StatusCode::OK, network)) => Ok(Some(network)),
            Some((StatusCode::NOT_FOUND, _)) | None => Ok(None),
            Some((status, error)) => Err(ApiError::new(
                status,
                error["message"].as_str().unwrap_or_default(),
            )),
        }
    }

    /// A network of the engine, if it has it.
    pub(in crate::api) async fn engines_network(
        &self,
        id: &str,
    ) -> Result<Option<Value>, ApiError> {
        match self.engine.get(&format!("/networks/{}", encoded(id))).await {
            Ok(network) => Ok(Some(network)),
            Err(error) if error.status == StatusCode::NOT_FOUND => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A name as part of a path.
pub(super) fn encoded(name: &str) -> PercentEncode<'_> {
    utf8_percent_encode(name, NON_ALPHANUMERIC)
}

fn path_and_query(parts: &Parts) -> &str {
    let text = parts.uri.path_and_query();
    text.map_or("/networks", http::uri::PathAndQuery::as_str)
}

pub async fn list(State(local): State<Local>, request: Request) -> Result<Response, ApiError> {
    let (parts, _) = request.into_parts();
    let engines = local.engine.get(path_and_query(&parts)).await?;
    let mut networks = match engines {
        Value::Array(networks) => networks,
        _ => Vec::new(),
    };
    match local.of_cluster(path_and_query(&parts)).await {
        Some((StatusCode::OK, Value::Array(swarms))) => {
            networks.retain(|network| shape::twin_of(network).is_none());
            networks.extend(swarms);
        }
        // Workers show what is there of the swarm's; and so does a manager without a leader.
        _ => networks.iter_mut().for_each(shape::from_twin),
    }
    Ok(json::ok(&Value::Array(networks)))
}

pub async fn inspect(
    State(local): State<Local>,
    Path(id): Path<String>,
    params: Params,
    request: Request,
) -> Result<Response, ApiError> {
    let scope = params.text("scope");
    if scope != "local" {
        let query = request.uri().query().unwrap_or_default();
        if let Some(mut network) = local.swarm_network(&id, query).await? {
            let name = network["Name"].as_str().unwrap_or_default();
            let twin = local.engines_network(name).await.ok().flatten();
            if let Some(twin) = twin.filter(|twin| shape::twin_of(twin).is_some()) {
                network["Containers"] = twin["Containers"].clone();
            }
            return Ok(json::ok(&network));
        }
    }
    let not_found = || ApiError::not_found(format!("network {id} not found"));
    let network = match local.engines_network(&id).await? {
        Some(network) => Some(network),
        // Workers know the swarm's networks by their twins alone.
        None => local.twin(&id).await?,
    };
    let mut network = network.ok_or_else(not_found)?;
    shape::from_twin(&mut network);
    if !scope.is_empty() && network["Scope"] != scope {
        return Err(not_found());
    }
    Ok(json::ok(&network))
}

pub async fn create(State(local): State<Local>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let body = body::read(body).await?;
    let spec = json::parse(&body)?;
    let name = spec["Name"].as_str().unwrap_or_default().to_owned();
    let request = Request::from_parts(parts, Body::from(body));
    let of_swarm =
        spec["Driver"] == "overlay" || spec["Scope"] == "swarm" || spec["Ingress"] == true;
    if !of_swarm {
        if local.swarm_network(&name, "").await?.is_some() {
            return Err(name_taken(&name));
        }
        return Ok(local.pass_to_engine(request).await);
    }
    if spec["Scope"] == "local" {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "cannot downgrade network scope for overlay networks",
        ));
    }
    check_manager(&local)?;
    if let Ok(Some(present)) = local.engines_network(&name).await
        && shape::twin_of(&present).is_none()
        && present["Name"] == name.as_str()
    {
        return Err(name_taken(&name));
    }
    Ok(local.cluster.call(request).await)
}

fn check_manager(local: &Local) -> Result<(), ApiError> {
    if local.is_manager() {
        return Ok(());
    }
    let membership = local.member.membership();
    let message = if membership.state == LocalState::Active && !membership.is_manager {
        "Cannot create a multi-host network from a worker node. Please create the network from a manager node."
    } else {
        "cannot create a swarm scoped network when swarm is not active"
    };
    Err(ApiError::new(StatusCode::FORBIDDEN, message))
}

pub async fn remove(
    State(local): State<Local>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    if local.is_manager() {
        let uri = format!("/networks/{}", encoded(&id));
        let asked = Request::builder()
            .method(Method::DELETE)
            .uri(uri)
            .body(Body::empty())
            .map_err(|error| ApiError::invalid(error.to_string()))?;
        let response = local.cluster.call(asked).await;
        if response.status() != StatusCode::NOT_FOUND {
            return Ok(response);
        }
    }
    let present = local.engines_network(&id).await;
    if let Ok(Some(present)) = present
        && shape::twin_of(&present).is_some()
    {
        return Err(ApiError::unavailable(format!(
            "network {id} belongs to the swarm: remove it on a manager"
        )));
    }
    Ok(local.pass_to_engine(request).await)
}
