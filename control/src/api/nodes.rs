//! `/nodes`

use super::{Leader, error::ApiError, filters::Filters, json, member::Store, query::Params};
use crate::clock;
use axum::{
    extract::{Path, State},
    response::Response,
};
use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;
use skein_model::{
    Action, Cluster, Draft, Kind, ManagerStatus, Node, NodeRole, NodeSpec, NodeState, Object,
    Reachability, State as Model, TaskState, TaskStatus,
};
use tonic::Code;

const FILTERS: [&str; 6] = ["id", "name", "label", "node.label", "role", "membership"];

pub async fn list(State(leader): State<Leader>, params: Params) -> Result<Response, ApiError> {
    let filters = Filters::parse(params.text("filters"), &FILTERS)?;
    for role in filters.values("role") {
        if !matches!(role.as_str(), "worker" | "manager") {
            return Err(ApiError::internal(format!("Invalid role filter: '{role}'")));
        }
    }
    let state = leader.read().await?;
    let nodes = state
        .nodes()
        .filter(|node| passes(&filters, node))
        .map(|node| shown(&*leader.store, &state, node))
        .collect::<Result<_, _>>()?;
    Ok(json::ok(&Value::Array(nodes)))
}

fn passes(filters: &Filters, node: &Node) -> bool {
    let role = match node.role {
        NodeRole::Worker => "worker",
        NodeRole::Manager => "manager",
    };
    filters.any("id", |id| node.id.starts_with(id))
        && filters.any("name", |name| node.description.hostname.starts_with(name))
        && filters.any("role", |wanted| wanted == role)
        && filters.any("membership", |wanted| wanted == "accepted")
        && filters.labels("label", &node.description.engine.labels)
        && filters.labels("node.label", &node.spec.labels)
}

pub async fn inspect(
    State(leader): State<Leader>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let state = leader.read().await?;
    let node = state.find_node(&id)?;
    Ok(json::ok(&shown(&*leader.store, &state, node)?))
}

/// A node with its place among the managers, which only Raft knows.
fn shown(store: &dyn Store, state: &Model, node: &Node) -> Result<Value, ApiError> {
    let cluster = state.cluster();
    let member = cluster.and_then(|cluster| cluster.managers.get(&node.id));
    let node = Node {
        manager_status: member.map(|member| {
            let leads = store
                .leadership()
                .borrow()
                .leader
                .as_ref()
                .map(|l| l.raft_id)
                == Some(member.raft_id);
            let reachability = if leads || store.reachable(member.raft_id) {
                Reachability::Reachable
            } else {
                Reachability::Unreachable
            };
            ManagerStatus {
                leader: leads,
                reachability,
                addr: member.addr.clone(),
            }
        }),
        ..node.clone()
    };
    json::shown(&node)
}

pub async fn update(
    State(leader): State<Leader>,
    Path(id): Path<String>,
    params: Params,
    body: Bytes,
) -> Result<StatusCode, ApiError> {
    let version = params.version("node")?;
    let spec = parse_spec(&body)?;
    let state = leader.read().await?;
    let mut node = Node::clone(state.find_node(&id)?);
    if spec.role != node.spec.role {
        return Err(ApiError::unsupported(
            "changing the role of a node is not supported: let it leave the swarm, and join it again with the token of the other role",
        ));
    }
    node.meta.version = version;
    node.spec = spec;
    leader.write(Action::Update(Object::from(node))).await?;
    Ok(StatusCode::OK)
}

/// Case does not matter in a node's role and availability.
fn parse_spec(body: &[u8]) -> Result<NodeSpec, ApiError> {
    let mut value = json::parse(body)?;
    for (field, known) in [
        ("Role", &["worker", "manager"][..]),
        ("Availability", &["active", "pause", "drain"]),
    ] {
        let text = value[field].as_str().unwrap_or_default().to_lowercase();
        if !known.contains(&text.as_str()) {
            let given = value[field].as_str().unwrap_or_default();
            return Err(ApiError::invalid(format!("invalid {field}: {given:?}")));
        }
        value[field] = text.into();
    }
    json::typed(value)
}

pub async fn remove(
    State(leader): State<Leader>,
    Path(id): Path<String>,
    params: Params,
) -> Result<StatusCode, ApiError> {
    let state = leader.read().await?;
    let node = state.find_node(&id)?.clone();
    let force = params.flag("force");
    let down = node.status.state == NodeState::Down;
    let cluster = state.cluster().ok_or_else(ApiError::no_leader)?;
    let refuse = |message| Err(ApiError::rpc(Code::FailedPrecondition, message));
    if cluster.managers.contains_key(&node.id) && !(force && down) {
        return refuse(format!(
            "node {} is a cluster manager and is a member of the raft cluster. It must be demoted to worker before removal",
            node.id
        ));
    }
    if node.status.state == NodeState::Ready && !force {
        return refuse(format!("node {} is not down and can't be removed", node.id));
    }
    for actions in removal(&state, cluster, &node).into_proposals() {
        leader.store.propose(actions).await?;
    }
    Ok(StatusCode::OK)
}

/// The node goes, its certificate is no longer good, and its tasks are nobody's.
fn removal(state: &Model, cluster: &Cluster, node: &Node) -> Draft {
    let now = clock::now();
    let mut draft = Draft::new(state.clone(), now);
    let mut cluster = cluster.clone();
    cluster.managers.remove(&node.id);
    cluster.removed_nodes.push(node.id.clone());
    draft.put(cluster);
    let live = state
        .tasks_of_node(&node.id)
        .filter(|task| !task.status.state.is_terminal());
    for task in live {
        let mut task = skein_model::Task::clone(task);
        task.status = TaskStatus {
            timestamp: now,
            applied_at: now,
            state: TaskState::Orphaned,
            message: "Task belonged to a node that has been deleted".into(),
            ..task.status
        };
        draft.put(task);
    }
    draft.remove(Kind::Node, &node.id);
    draft
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_model::Availability;

    #[test]
    fn role_and_availability_are_read_in_any_case() {
        let spec =
            parse_spec(br#"{"Labels":null,"Role":"Manager","Availability":"DRAIN"}"#).unwrap();
        assert_eq!(
            (spec.role, spec.availability),
            (NodeRole::Manager, Availability::Drain)
        );
        let error = parse_spec(br#"{"Role":"boss","Availability":"drain"}"#).unwrap_err();
        assert_eq!(
            (error.status.as_u16(), &*error.message),
            (400, "invalid Role: \"boss\"")
        );
    }
}
