//! Who is to be a manager: `Cluster.managers` in the store. The group itself follows (see
//! [`super::membership`]).

use super::{Attempts, ProposeError, Raft};
use skein_model::{Action, Cluster, Node, NodeRole, NodeState, RaftMember, Rejection, State};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::timeout;

/// How long the group may take to let a member go.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(5);
const REMOVAL_POLL: Duration = Duration::from_millis(50);

type Managers = BTreeMap<String, RaftMember>;

/// Makes a node a manager. Its Raft ID, and all managers. A node that is one already keeps its ID.
pub(super) async fn add(
    raft: &Raft,
    node_id: &str,
    address: &str,
) -> Result<(u64, Managers), ProposeError> {
    change(raft, |state| {
        let node = node(state, node_id)?;
        if node.spec.role != NodeRole::Manager {
            return Err(ProposeError::Refused(format!(
                "node {node_id} is to be a worker: promote it before it joins the managers"
            )));
        }
        let mut cluster = cluster(state)?;
        let next = cluster.next_raft_id;
        let member = cluster.managers.entry(node_id.to_owned());
        let member = member.or_insert_with(|| RaftMember {
            raft_id: next,
            addr: String::new(),
        });
        member.addr = address.to_owned();
        let raft_id = member.raft_id;
        cluster.next_raft_id = next.max(raft_id + 1);
        let managers = cluster.managers.clone();
        Ok((vec![Action::Update(cluster.into())], (raft_id, managers)))
    })
    .await
}

/// Lets a manager go: it is a worker that is down, until it is removed. Waits until the group has
/// let it go too: only then is it a worker, as one that is gives up its vote at once, which the change
/// of the group may need.
pub(super) async fn remove(raft: &Raft, node_id: &str) -> Result<(), ProposeError> {
    let raft_id = change(raft, |state| {
        let mut cluster = cluster(state)?;
        let member = cluster.managers.remove(node_id);
        let mut actions = Vec::new();
        if member.is_some() {
            if cluster.managers.is_empty() {
                return Err(ProposeError::Unavailable(
                    "attempting to demote the last manager of the swarm".into(),
                ));
            }
            actions.push(Action::Update(cluster.into()));
        }
        if let Ok(mut node) = node(state, node_id) {
            node.spec.role = NodeRole::Worker;
            actions.push(Action::Update(node.into()));
        }
        Ok((actions, member.map(|member| member.raft_id)))
    })
    .await?;
    if let Some(raft_id) = raft_id {
        await_removal(raft, node_id, raft_id).await?;
    }
    change(raft, |state| {
        let mut actions = Vec::new();
        if let Ok(mut node) = node(state, node_id) {
            (node.role, node.spec.role) = (NodeRole::Worker, NodeRole::Worker);
            node.status.state = NodeState::Down;
            node.status.message = "the node left the swarm".into();
            actions.push(Action::Update(node.into()));
        }
        Ok((actions, ()))
    })
    .await
}

async fn await_removal(raft: &Raft, node_id: &str, raft_id: u64) -> Result<(), ProposeError> {
    let gone = async {
        while raft
            .members()
            .iter()
            .any(|member| member.raft_id == raft_id)
        {
            tokio::time::sleep(REMOVAL_POLL).await;
        }
    };
    timeout(REMOVAL_TIMEOUT, gone).await.map_err(|_| {
        ProposeError::Unavailable(format!(
            "node {node_id} is no manager any more, but the Raft group did not let it go within \
             {REMOVAL_TIMEOUT:?}: a quorum of managers is needed"
        ))
    })
}

/// Reads, changes and proposes until nobody else changed the same meanwhile.
async fn change<T>(
    raft: &Raft,
    make: impl Fn(&State) -> Result<(Vec<Action>, T), ProposeError>,
) -> Result<T, ProposeError> {
    let mut attempts = Attempts::default();
    loop {
        let (actions, result) = make(&raft.linearizable().await?)?;
        if attempts.settle(raft.propose(actions).await)?.is_some() {
            return Ok(result);
        }
    }
}

fn cluster(state: &State) -> Result<Cluster, ProposeError> {
    let cluster = state.cluster().map(|cluster| Cluster::clone(cluster));
    cluster.ok_or_else(|| ProposeError::Unavailable("the swarm is not initialised yet".into()))
}

fn node(state: &State, node_id: &str) -> Result<Node, ProposeError> {
    let missing = || Rejection::NotFound {
        kind: skein_model::Kind::Node,
        id: node_id.to_owned(),
    };
    let node: Option<&Arc<Node>> = state.node(node_id);
    Ok(Node::clone(node.ok_or_else(missing)?))
}

impl Raft {
    /// Lets the manager `node_id` go from the group. Only the leader can.
    ///
    /// # Errors
    /// It is the last one, or there is no quorum.
    pub async fn remove_manager(&self, node_id: &str) -> Result<(), ProposeError> {
        remove(self, node_id).await
    }
}
