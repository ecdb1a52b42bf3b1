//! `/swarm`: the cluster as a whole, and this node's membership in it.

use super::{Leader, Local, error::ApiError, json, query::Params};
use crate::{
    identity::{self, JoinToken},
    node::{InitRequest, JoinRequest},
};
use axum::{extract::State, response::Response};
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};
use skein_model::{Action, Cluster, ClusterSpec, Object};
use std::sync::Arc;

/// The shortest validity of node certificates, in nanoseconds.
const CERT_EXPIRY_MIN: i64 = 3_600_000_000_000;

pub async fn init(State(local): State<Local>, body: Bytes) -> Result<Response, ApiError> {
    let request: InitRequest = json::parse_as(&body)?;
    let id = local.member.init(request).await?;
    Ok(json::ok(&id.into()))
}

pub async fn join(State(local): State<Local>, body: Bytes) -> Result<StatusCode, ApiError> {
    let request: JoinRequest = json::parse_as(&body)?;
    local.member.join(request).await?;
    Ok(StatusCode::OK)
}

pub async fn leave(State(local): State<Local>, params: Params) -> Result<StatusCode, ApiError> {
    local.member.leave(params.flag("force")).await?;
    Ok(StatusCode::OK)
}

pub async fn inspect(State(leader): State<Leader>) -> Result<Response, ApiError> {
    let state = leader.read().await?;
    let cluster = cluster(&state)?;
    let mut shown = info(cluster)?;
    shown["JoinTokens"] = json!({
        "Worker": cluster.join_tokens.worker,
        "Manager": cluster.join_tokens.manager,
    });
    Ok(json::ok(&shown))
}

fn cluster(state: &skein_model::State) -> Result<&Arc<Cluster>, ApiError> {
    state
        .cluster()
        .ok_or_else(|| ApiError::unavailable("the swarm is being created: try again"))
}

/// The cluster as `/info` shows it: without its join tokens.
pub fn info(cluster: &Cluster) -> Result<Value, ApiError> {
    let tls = identity::tls_info(&cluster.root_ca.cert_pem)
        .map_err(|error| ApiError::internal(error.to_string()))?;
    Ok(json!({
        "ID": cluster.id,
        "Version": cluster.meta.version,
        "CreatedAt": cluster.meta.created_at,
        "UpdatedAt": cluster.meta.updated_at,
        "Spec": json::shown(&cluster.spec)?,
        "TLSInfo": tls,
        "RootRotationInProgress": false,
        "DefaultAddrPool": cluster.default_addr_pool,
        "SubnetSize": cluster.subnet_size,
        "DataPathPort": cluster.data_path_port,
    }))
}

pub async fn unlock_key(State(leader): State<Leader>) -> Result<Response, ApiError> {
    leader.read().await?;
    // No manager is ever locked: see `update`.
    Ok(json::ok(&json!({"UnlockKey": ""})))
}

pub async fn update(
    State(leader): State<Leader>,
    params: Params,
    body: Bytes,
) -> Result<StatusCode, ApiError> {
    let version = params.version("swarm")?;
    let worker = params.strict_flag("rotateWorkerToken")?;
    let manager = params.strict_flag("rotateManagerToken")?;
    if params.strict_flag("rotateManagerUnlockKey")? {
        return Err(autolock());
    }
    let spec: ClusterSpec = json::parse_as(&body)?;
    let state = leader.read().await?;
    let mut cluster = Cluster::clone(cluster(&state)?);
    check(&cluster.spec, &spec)?;
    cluster.meta.version = version;
    cluster.spec = spec;
    let token = |rotate: bool, token: &mut String| {
        if rotate {
            let new = JoinToken::generate(&cluster.root_ca.cert_pem, &mut rand::rng());
            new.as_str().clone_into(token);
        }
    };
    token(worker, &mut cluster.join_tokens.worker);
    token(manager, &mut cluster.join_tokens.manager);
    leader.write(Action::Update(Object::from(cluster))).await?;
    Ok(StatusCode::OK)
}

fn autolock() -> ApiError {
    ApiError::unsupported("locking managers (autolock) is not supported")
}

fn check(current: &ClusterSpec, next: &ClusterSpec) -> Result<(), ApiError> {
    let invalid = |message: &str| Err(ApiError::rpc(tonic::Code::InvalidArgument, message));
    if next.name != current.name {
        return invalid("modification of cluster name is not allowed");
    }
    if next.ca_config.node_cert_expiry < CERT_EXPIRY_MIN {
        return invalid("minimum certificate expiry time is: 1h0m0s");
    }
    if next.dispatcher.heartbeat_period < 0 {
        return invalid("heartbeat time period cannot be a negative duration");
    }
    if next.encryption_config.auto_lock_managers {
        return Err(autolock());
    }
    if next.ca_config.force_rotate != current.ca_config.force_rotate {
        return Err(ApiError::unsupported(
            "rotating the root certificate is not supported",
        ));
    }
    Ok(())
}
