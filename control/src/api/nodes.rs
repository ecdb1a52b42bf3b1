//! `/nodes`

use super::{Leader, error::ApiError, filters::Filters, json, node_handle::Store, query::Params};
use crate::{
    manager::QuorumView,
    raft::{Member, ProposeError},
};
use axum::{
    extract::{Path, State},
    response::Response,
};
use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;
use skein_model::{
    Action, Draft, ManagerStatus, Membership, Node, NodeRole, NodeSpec, Object, Reachability,
    Rejection, State as Model,
};
use skein_orchestration::validate;

/// How often a demotion is tried while other managers change: they report now and then, and a handful of users at once
/// is many.
const DEMOTION_ATTEMPTS: u32 = 5;

const FILTERS: [&str; 6] = ["id", "name", "label", "node.label", "role", "membership"];

pub async fn list(State(leader): State<Leader>, params: Params) -> Result<Response, ApiError> {
    let filters = Filters::parse(params.text("filters"), &FILTERS)?;
    check_filters(&filters)?;
    let state = leader.read().await?;
    let nodes = state
        .nodes()
        .filter(|node| passes(&filters, node))
        .map(|node| shown(&*leader.store, &state, node))
        .collect::<Result<_, _>>()?;
    Ok(json::ok(&Value::Array(nodes)))
}

/// Filters of few values. The reference's errors have no type here.
fn check_filters(filters: &Filters) -> Result<(), ApiError> {
    for (key, known) in [
        ("role", ["worker", "manager"]),
        ("membership", ["accepted", "pending"]),
    ] {
        let mut values = filters.values(key).iter();
        let is_known = |value: &str| known.iter().any(|k| k.eq_ignore_ascii_case(value));
        if let Some(other) = values.find(|value| !is_known(value)) {
            return Err(ApiError::internal(format!(
                "Invalid {key} filter: '{other}'"
            )));
        }
    }
    Ok(())
}

fn passes(filters: &Filters, node: &Node) -> bool {
    let role = match node.role {
        NodeRole::Worker => "worker",
        NodeRole::Manager => "manager",
    };
    filters.any("id", |id| node.id.starts_with(id))
        && filters.any("name", |name| node.description.hostname.starts_with(name))
        && filters.any("role", |wanted| wanted.eq_ignore_ascii_case(role))
        && filters.any("membership", |wanted| {
            wanted.eq_ignore_ascii_case(node.membership.name())
        })
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
    let mut attempt = 1;
    loop {
        let state = leader.read().await?;
        let mut node = Node::clone(state.find_node(&id)?);
        let is_stale = node.meta.version != version;
        let mut actions = Vec::new();
        if (node.spec.role, spec.role) == (NodeRole::Manager, NodeRole::Worker) {
            let store = &leader.store;
            let group = QuorumView::of(store.members(), |id| store.reachable(id));
            validate::check_demotion(&state, group.can_spare_node(&node.id))?;
            actions = validate::demotion_rests_on(&state, &node.id);
        }
        let rests_on_others = !actions.is_empty();
        node.meta.version = version;
        node.spec = spec.clone();
        node.membership = Membership::Pending;
        actions.push(Action::Update(Object::from(node)));
        match leader.propose_together(actions).await {
            // What has changed may be another manager, of which there is always something to report.
            Err(ProposeError::Rejected(Rejection::OutOfSequence))
                if rests_on_others && !is_stale && attempt < DEMOTION_ATTEMPTS =>
            {
                attempt += 1;
            }
            updated => {
                updated?;
                return Ok(StatusCode::OK);
            }
        }
    }
}

/// Case does not matter in a node's role and availability.
fn parse_spec(body: &[u8]) -> Result<NodeSpec, ApiError> {
    let mut value = json::parse(body)?;
    for (field, known) in [
        ("Role", &["worker", "manager"][..]),
        ("Availability", &["active", "pause", "drain"]),
    ] {
        // What is missing is none of them.
        if !value[field].is_string() {
            value[field] = "".into();
        }
        json::spell(&mut value, field, known)?;
    }
    json::typed(value)
}

pub async fn remove(
    State(leader): State<Leader>,
    Path(id): Path<String>,
    params: Params,
) -> Result<StatusCode, ApiError> {
    let force = params.flag("force");
    // The node's tasks report all the time. Of many the removal is more than one proposal, the first of
    // which has the node: what the others are to do follows from it anyway.
    let mut begun: Option<String> = None;
    let removed = |draft: &mut Draft| {
        let is_gone = |id: &String| draft.state().node(id).is_none();
        if !begun.as_ref().is_some_and(is_gone) {
            begun = Some(removal(draft, &id, &leader.store.members(), force)?);
        }
        Ok(())
    };
    match leader.change(removed).await {
        // Nothing was done, so that another leader may be asked.
        Err(error) if !leader.has_changed() => Err(error),
        // The node is gone: whoever leads does what is left.
        _ => Ok(StatusCode::OK),
    }
}

/// The ID of the node that goes.
fn removal(
    draft: &mut Draft,
    id: &str,
    members: &[Member],
    force: bool,
) -> Result<String, ApiError> {
    let state = draft.state();
    let node = state.find_node(id)?.clone();
    let has_voice = members.iter().any(|member| member.node_id == node.id);
    validate::check_node_removal(state, &node, has_voice, force)?;
    skein_orchestration::remove_node(draft, &node.id);
    Ok(node.id.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{leader_table, testing::Memory};
    use axum::{body::Body, extract::Request};
    use http_body_util::BodyExt as _;
    use skein_model::Availability;
    use skein_model::Proposal;
    use std::sync::Arc;
    use tower::ServiceExt as _;

    #[test]
    fn filters_of_few_values_are_read_in_any_case_and_others_refused() {
        let check = |text: &str| check_filters(&Filters::parse(text, &FILTERS).unwrap());
        check(r#"{"role":["Worker"],"membership":["PENDING"]}"#).unwrap();
        let error = check(r#"{"membership":["other"]}"#).unwrap_err();
        assert_eq!(
            (error.status.as_u16(), &*error.message),
            (500, "Invalid membership filter: 'other'")
        );
    }

    #[test]
    fn nodes_are_found_by_their_membership() {
        let mut node = Node::default();
        let passes = |node: &Node, asked: &str| {
            let filters = format!(r#"{{"membership":["{asked}"]}}"#);
            passes(&Filters::parse(&filters, &FILTERS).unwrap(), node)
        };
        assert!(passes(&node, "Accepted") && !passes(&node, "pending"));
        node.membership = Membership::Pending;
        assert!(passes(&node, "pending") && !passes(&node, "accepted"));
        let shown = json::shown(&node).unwrap();
        assert_eq!(shown.get("X-Skein-Membership"), None);
        let stored = serde_json::to_value(&node).unwrap();
        assert_eq!(serde_json::from_value::<Node>(stored).unwrap(), node);
    }

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

    #[tokio::test]
    async fn two_managers_that_are_demoted_at_once_do_not_both_go() {
        let store = Arc::new(Memory::default());
        for id in ["n1", "n2"] {
            let mut node = Node {
                id: id.into(),
                ..Node::default()
            };
            node.spec.role = NodeRole::Manager;
            store.apply(vec![Action::Create(node.into())]).unwrap();
        }
        store.has_voters(&["n1", "n2", "n3"]);
        let demoted = |state: &Model, id: &str| {
            let mut node = Node::clone(state.node(id).unwrap());
            node.spec.role = NodeRole::Worker;
            Action::Update(node.into())
        };
        store.meanwhile(move |state| {
            let index = state.index() + 1;
            let actions = vec![demoted(state, "n2")];
            let at = skein_model::Timestamp::default();
            state.apply(index, &Proposal { at, actions }).unwrap();
        });
        let version = store.state().node("n1").unwrap().meta.version.index;
        let path = format!("/nodes/n1/update?version={version}");
        let body = r#"{"Role":"worker","Availability":"active"}"#;
        let request = Request::post(path).body(Body::from(body)).unwrap();
        let response = leader_table(store.clone()).oneshot(request).await.unwrap();
        assert!(store.is_over());
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let said = String::from_utf8_lossy(&body).into_owned();
        assert!(
            said.contains("attempting to demote the last manager of the swarm"),
            "{status}: {said}"
        );
        let state = store.state();
        let roles = ["n1", "n2"].map(|id| state.node(id).unwrap().spec.role);
        assert_eq!(roles, [NodeRole::Manager, NodeRole::Worker]);
    }
}
