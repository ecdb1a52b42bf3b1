//! `/_ping`, `/version` and `/info`: the engine's answers with Skein's part in them.

use super::{Local, error::ApiError, json, swarm, version::ApiVersion};
use crate::node::LocalState;
use axum::{
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderName, HeaderValue, header};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::timeout;

/// How long a ping waits for the engine, which answers one at once: it is the first thing that a client
/// asks for, whatever it wants.
const PING_PATIENCE: Duration = Duration::from_secs(2);

/// What Swarm says of two managers, in its own way.
const TWO_MANAGERS: &str = "WARNING: Running Swarm in a two-manager configuration. This configuration provides\n         no fault tolerance, and poses a high risk to lose control over the cluster.\n         Refer to https://docs.docker.com/engine/swarm/admin_guide/ to configure the\n         Swarm for fault-tolerance.";

pub async fn ping(State(local): State<Local>, request: Request) -> Response {
    let membership = local.member.membership();
    // Without an engine, and with one that hangs, the cluster can still be worked with.
    let of_engine = timeout(PING_PATIENCE, local.pass_to_engine(request)).await;
    let mut response = match of_engine {
        Ok(response) if response.status().is_success() => response,
        Ok(_) | Err(_) => (
            [
                (header::CACHE_CONTROL, "no-cache, no-store, must-revalidate"),
                (header::PRAGMA, "no-cache"),
                (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
            ],
            "OK",
        )
            .into_response(),
    };
    let swarm = match (membership.state, membership.is_manager) {
        (LocalState::Inactive, _) => "inactive",
        (LocalState::Pending, _) => "pending",
        (LocalState::Error, _) => "error",
        (LocalState::Locked, _) => "locked",
        (LocalState::Active, true) => "active/manager",
        (LocalState::Active, false) => "active/worker",
    };
    response.headers_mut().insert(
        HeaderName::from_static("swarm"),
        HeaderValue::from_static(swarm),
    );
    response
}

pub async fn version(State(local): State<Local>) -> Result<Response, ApiError> {
    let offered = local.engine.offered_version().await.to_string();
    let mut version = local.engine.get("/version").await?;
    version["ApiVersion"] = offered.as_str().into();
    let oldest = version["MinAPIVersion"]
        .as_str()
        .and_then(ApiVersion::parse)
        .map_or(ApiVersion::OLDEST, |engines| {
            engines.max(ApiVersion::OLDEST)
        });
    version["MinAPIVersion"] = oldest.to_string().into();
    if let Some(components) = version["Components"].as_array_mut() {
        for component in components.iter_mut() {
            if component["Name"] == "Engine" {
                component["Details"]["ApiVersion"] = offered.as_str().into();
            }
        }
        components
            .push(json!({"Name": "Skein", "Version": env!("CARGO_PKG_VERSION"), "Details": {}}));
    }
    Ok(json::ok(&version))
}

pub async fn info(State(local): State<Local>) -> Result<Response, ApiError> {
    let mut info = local.engine.get("/info").await?;
    let swarm = membership(&local)?;
    if let Some(warnings) = swarm["Warnings"].as_array().cloned() {
        match info["Warnings"].as_array_mut() {
            Some(all) => all.extend(warnings),
            None => info["Warnings"] = warnings.into(),
        }
    }
    info["Swarm"] = swarm;
    Ok(json::ok(&info))
}

/// `Swarm` of `GET /info`. From what this node knows itself, so that it can be asked when the cluster
/// has no leader.
fn membership(local: &Local) -> Result<Value, ApiError> {
    let membership = local.member.membership();
    let managers: Vec<_> = local
        .member
        .managers()
        .into_iter()
        .map(|manager| json!({"NodeID": manager.node_id, "Addr": manager.address}))
        .collect();
    let store = local.member.store();
    // Docker does not know yet who a locked node is.
    let locked = membership.state == LocalState::Locked;
    let mut swarm = json!({
        "NodeID": if locked { "" } else { &membership.node_id },
        "NodeAddr": membership.node_addr,
        "LocalNodeState": membership.state,
        "ControlAvailable": store.is_some(),
        "Error": membership.error,
        "RemoteManagers": if managers.is_empty() { Value::Null } else { managers.into() },
    });
    let Some(store) = store else {
        return Ok(swarm);
    };
    let state = store.state();
    if let Some(cluster) = state.cluster() {
        swarm["Nodes"] = state.nodes().count().into();
        swarm["Managers"] = cluster.managers.len().into();
        swarm["Cluster"] = swarm::info(cluster)?;
        if let Some(warning) = managers_warning(cluster.managers.len()) {
            swarm["Warnings"] = json!([warning]);
        }
    }
    Ok(swarm)
}

/// What is to be said of a number of managers.
fn managers_warning(managers: usize) -> Option<String> {
    match managers {
        2 => Some(TWO_MANAGERS.to_owned()),
        n if n > 0 && n % 2 == 0 => Some(format!(
            "WARNING: Running Swarm with an even number of managers ({n}). It tolerates no more\n         lost managers than {} would: add or demote one.",
            n - 1
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_numbers_of_managers_are_warned_of() {
        for managers in [0, 1, 3, 5] {
            assert_eq!(managers_warning(managers), None, "{managers}");
        }
        assert_eq!(managers_warning(2).unwrap(), TWO_MANAGERS);
        let four = managers_warning(4).unwrap();
        assert!(four.starts_with("WARNING: Running Swarm with an even number of managers (4)."));
    }
}
