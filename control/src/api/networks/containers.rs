//! Containers and the networks that they are on, as clients see them.

use super::shape;
use crate::{
    agent::engine::TWIN_LABEL,
    api::{Local, Original, error::ApiError, json, proxy},
    node::LocalState,
};
use axum::{
    body::Body,
    extract::{Request, State},
    response::Response,
};
use http::StatusCode;
use serde_json::Value;
use std::collections::BTreeMap;

/// How the driver options begin that Skein itself gives endpoints.
const OWN_OPTIONS: &str = "skein.";

impl Local {
    pub(super) fn is_member(&self) -> bool {
        self.member.membership().state != LocalState::Inactive
    }

    /// The twins of the swarm's networks, as the engine shows them.
    pub(super) async fn twins(&self) -> Result<Vec<Value>, ApiError> {
        let path = format!("/networks?filters=%7B%22label%22%3A%5B%22{TWIN_LABEL}%22%5D%7D");
        match self.engine.get(&path).await? {
            Value::Array(twins) => Ok(twins),
            _ => Ok(Vec::new()),
        }
    }

    /// The twin of a network of the swarm, by that one's ID or a prefix of it.
    pub(super) async fn twin(&self, id: &str) -> Result<Option<Value>, ApiError> {
        let twins = self.twins().await?;
        let mut matching = twins.into_iter().filter(|twin| {
            let of = shape::twin_of(twin).unwrap_or_default();
            !id.is_empty() && of.starts_with(id)
        });
        let first = matching.next();
        Ok(first.filter(|_| matching.next().is_none()))
    }
}

/// `GET /containers/json` and `/containers/{id}/json`: with the swarm's networks in place of their
/// twins.
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
    let twins = local.twins().await?;
    let twins = twins.iter().filter_map(stands_for).collect();
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

/// Twin's ID -> ID and name of the swarm's network.
type Twins<'a> = BTreeMap<&'a str, (&'a str, &'a str)>;

fn stands_for(twin: &Value) -> Option<(&str, (&str, &str))> {
    let of = shape::twin_of(twin)?;
    Some((twin["Id"].as_str()?, (of, twin["Name"].as_str()?)))
}

fn rename(container: &mut Value, twins: &Twins<'_>) {
    if let Some(mode) = container.pointer_mut("/HostConfig/NetworkMode")
        && let Some((_, name)) = mode.as_str().and_then(|mode| twins.get(mode))
    {
        *mode = (*name).into();
    }
    let networks = container
        .pointer_mut("/NetworkSettings/Networks")
        .and_then(Value::as_object_mut);
    for network in networks.into_iter().flat_map(serde_json::Map::values_mut) {
        let of = network["NetworkID"].as_str().and_then(|id| twins.get(id));
        let Some((id, _)) = of else { continue };
        network["NetworkID"] = (*id).into();
        let options = network.get_mut("DriverOpts");
        if let Some(options) = options.and_then(Value::as_object_mut) {
            options.retain(|name, _| !name.starts_with(OWN_OPTIONS));
            if options.is_empty() {
                network["DriverOpts"] = Value::Null;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn containers_name_the_swarms_networks() {
        let twins = [("ffff", ("n1", "web"))].into();
        let mut container = json!({
            "HostConfig": {"NetworkMode": "ffff"},
            "NetworkSettings": {"Networks": {
                "web": {"NetworkID": "ffff", "DriverOpts": {"skein.gateway": "none"}},
                "bridge": {"NetworkID": "eeee"},
            }},
        });
        rename(&mut container, &twins);
        assert_eq!(
            container,
            json!({
                "HostConfig": {"NetworkMode": "web"},
                "NetworkSettings": {"Networks": {
                    "web": {"NetworkID": "n1", "DriverOpts": null},
                    "bridge": {"NetworkID": "eeee"},
                }},
            })
        );
        let mut none = json!({"Id": "x"});
        rename(&mut none, &twins);
        assert_eq!(none, json!({"Id": "x"}));
    }
}
