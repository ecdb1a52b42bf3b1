//! `/swarm`: the cluster as a whole, and this node's membership in it.

use super::{Leader, Local, body, error::ApiError, json, query::Params, version::ApiVersion};
use crate::{
    clock, identity,
    node::{InitRequest, JoinRequest},
};
use axum::{body::Body, extract::State, response::Response};
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};
use skein_model::{Action, Cluster, ClusterSpec, Object};
use std::sync::Arc;

/// What a node is asked for at its beginning; without an availability it is active.
fn request<T: serde::de::DeserializeOwned>(mut value: Value) -> Result<T, ApiError> {
    json::spell(
        &mut value,
        "Availability",
        &["", "active", "pause", "drain"],
    )?;
    json::typed(value)
}

/// The first versions of the API that have these fields of an init. What a client writes in an older one is not
/// meant.
const INIT_SINCE: [(ApiVersion, &[&str]); 2] = [
    (ApiVersion::new(1, 39), &["DefaultAddrPool", "SubnetSize"]),
    (ApiVersion::new(1, 40), &["DataPathPort"]),
];

/// Reads the body of an init, written in a version of the API.
fn init_request(body: &[u8], version: ApiVersion) -> Result<InitRequest, ApiError> {
    let mut value = json::parse(body)?;
    let newer = INIT_SINCE.iter().filter(|(since, _)| version < *since);
    if let Some(fields) = value.as_object_mut() {
        for name in newer.flat_map(|(_, names)| *names) {
            fields.remove(*name);
        }
    }
    request(value)
}

pub async fn init(
    State(local): State<Local>,
    version: ApiVersion,
    body: Body,
) -> Result<Response, ApiError> {
    let request = init_request(&body::read(body).await?, version)?;
    let id = local.member.init(request).await?;
    Ok(json::ok(&id.into()))
}

pub async fn join(State(local): State<Local>, body: Body) -> Result<StatusCode, ApiError> {
    let request: JoinRequest = request(json::parse(&body::read(body).await?)?)?;
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
    let tls =
        identity::wanted_issuer(cluster).map_err(|error| ApiError::internal(error.to_string()))?;
    Ok(json!({
        "ID": cluster.id,
        "Version": cluster.meta.version,
        "CreatedAt": cluster.meta.created_at,
        "UpdatedAt": cluster.meta.updated_at,
        "Spec": json::shown(&cluster.spec)?,
        "TLSInfo": tls,
        "RootRotationInProgress": cluster.root_rotation.is_some(),
        "DefaultAddrPool": cluster.default_addr_pool,
        "SubnetSize": cluster.subnet_size,
        "DataPathPort": cluster.data_path_port,
    }))
}

pub async fn unlock_key(State(leader): State<Leader>) -> Result<Response, ApiError> {
    let state = leader.read().await?;
    let key = &cluster(&state)?.unlock_key.0;
    Ok(json::ok(&json!({ "UnlockKey": key })))
}

#[derive(Default, serde::Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct UnlockRequest {
    unlock_key: String,
}

pub async fn unlock(State(local): State<Local>, body: Body) -> Result<StatusCode, ApiError> {
    let request: UnlockRequest = json::parse_as(&body::read(body).await?)?;
    local.member.unlock(request.unlock_key).await?;
    Ok(StatusCode::OK)
}

pub async fn update(
    State(leader): State<Leader>,
    params: Params,
    body: Bytes,
) -> Result<StatusCode, ApiError> {
    let version = params.version("swarm")?;
    let worker = params.strict_flag("rotateWorkerToken")?;
    let manager = params.strict_flag("rotateManagerToken")?;
    let unlock = params.strict_flag("rotateManagerUnlockKey")?;
    let spec = parse_spec(&body)?;
    let state = leader.read().await?;
    let mut cluster = Cluster::clone(cluster(&state)?);
    cluster.meta.version = version;
    let external_cas = leader.store.external_cas();
    identity::apply_spec(&mut cluster, spec, unlock, &external_cas, clock::now())
        .await
        .map_err(|error| ApiError::rpc(error.code(), error))?;
    identity::rotate_tokens(&mut cluster, worker, manager);
    leader.write(Action::Update(Object::from(cluster))).await?;
    Ok(StatusCode::OK)
}

/// A spec that takes the place of the stored one whole: what it leaves out is zero, not a default.
fn parse_spec(body: &[u8]) -> Result<ClusterSpec, ApiError> {
    let defaults = serde_json::to_value(ClusterSpec::default())
        .map_err(|error| ApiError::internal(error.to_string()))?;
    let mut spec = zeroed(defaults);
    put_over(&mut spec, json::parse(body)?);
    let mut spec: ClusterSpec = json::typed(spec)?;
    match &*spec.name {
        "default" => {}
        "" => spec.name = "default".into(),
        _ => return Err(ApiError::invalid("swarm spec must be named \"default\"")),
    }
    identity::normalize_external_cas(&mut spec.ca_config)
        .map_err(|error| ApiError::invalid(error.to_string()))?;
    Ok(spec)
}

fn zeroed(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter();
            fields.map(|(name, value)| (name, zeroed(value))).collect()
        }
        Value::Number(_) => 0.into(),
        Value::String(_) => "".into(),
        Value::Bool(_) => false.into(),
        other => other,
    }
}

fn put_over(base: &mut Value, value: Value) {
    match (base, value) {
        (Value::Object(base), Value::Object(fields)) => {
            for (name, value) in fields {
                put_over(base.entry(name).or_insert(Value::Null), value);
            }
        }
        (base, value) => *base = value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_availability_is_named_as_docker_names_it() {
        let error = init_request(br#"{"Availability":"Gone"}"#, ApiVersion::NEWEST).unwrap_err();
        assert_eq!(
            (error.status.as_u16(), &*error.message),
            (400, "invalid Availability: \"Gone\"")
        );
        for good in ["", "ACTIVE", "Drain"] {
            request::<JoinRequest>(json!({"Availability": good})).unwrap();
        }
    }

    #[test]
    fn older_clients_do_not_mean_what_their_version_lacks() {
        let body = br#"{"DefaultAddrPool":["10.9.0.0/16"],"SubnetSize":25,"DataPathPort":7000}"#;
        for (minor, pools, size, port) in [(38, 0, 0, 0), (39, 1, 25, 0), (40, 1, 25, 7000)] {
            let request = init_request(body, ApiVersion::new(1, minor)).unwrap();
            let read = (request.default_addr_pool.len(), request.subnet_size);
            assert_eq!(
                (read, request.data_path_port),
                ((pools, size), port),
                "1.{minor}"
            );
        }
    }

    #[test]
    fn what_an_update_leaves_out_is_zero() {
        let spec = parse_spec(br#"{"Name":"default","Raft":{"SnapshotInterval":7}}"#).unwrap();
        assert_eq!((&*spec.name, spec.raft.snapshot_interval), ("default", 7));
        assert_eq!(spec.raft.election_tick, 0);
        assert_eq!(spec.ca_config.node_cert_expiry, 0);
        assert_eq!(spec.orchestration.task_history_retention_limit, 0);
        let whole = serde_json::to_vec(&ClusterSpec::default()).unwrap();
        assert_eq!(parse_spec(&whole).unwrap(), ClusterSpec::default());
        assert_eq!(parse_spec(b"{}").unwrap().name, "default");
        let other = parse_spec(br#"{"Name":"other"}"#).unwrap_err();
        assert_eq!(
            (other.status.as_u16(), &*other.message),
            (400, "swarm spec must be named \"default\"")
        );
        let external = br#"{"CAConfig":{"ExternalCAs":[{"Protocol":"acme","URL":"x"}]}}"#;
        let error = parse_spec(external).unwrap_err();
        assert_eq!(
            (error.status.as_u16(), &*error.message),
            (400, "invalid protocol: \"acme\"")
        );
    }
}
