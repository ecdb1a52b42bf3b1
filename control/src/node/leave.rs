//! How a node leaves its swarm.

use super::{Config, LocalState, Node, NodeError, cleanup};
use crate::{agent::dataplane::clear, raft::Raft, rpc::Managers};
use skein_model::Reachability;
use skein_proto::node::{
    ApiRequest, LeaveGroupRequest, api_client::ApiClient, raft_client::RaftClient,
};
use std::time::Duration;
use tokio::time::timeout;

/// How long the managers may take to let this one go: an election where the lead could not be handed over, and a
/// change of the group.
const LEAVE_GROUP_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the leader may take to say which managers answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
const LOCKED: &str = "Swarm is encrypted and locked. Please unlock it first or use `--force` to \
     ignore this message.";
const LEAVING_MANAGER: &str = "You are attempting to leave the swarm on a node that is \
     participating as a manager. ";
const LAST_MANAGER: &str = "Removing the last manager erases all current state of the swarm. Use \
     `--force` to ignore this message. ";
const INACTIVE_MANAGER: &str = "Doing so may lose the consensus of your cluster. ";
const LOST_CONSENSUS: &str = "The only way to restore a swarm that has lost consensus is to \
     reinitialize it with `--force-new-cluster`. Use `--force` to suppress this message.";

impl Node {
    /// Leaves the swarm and forgets it.
    ///
    /// # Errors
    /// Not a member; or a manager, and not `force`.
    pub async fn leave(&self, force: bool) -> Result<(), NodeError> {
        let _changing = self.inner.changing.lock().await;
        let membership = self.membership();
        if membership.state == LocalState::Inactive {
            return Err(NodeError::not_member());
        }
        if membership.state == LocalState::Locked && !force {
            return Err(NodeError::unavailable(LOCKED));
        }
        if membership.is_manager && !force {
            return Err(self.refuse_to_leave().await);
        }
        let runtime = self.take_runtime();
        if let Some(runtime) = runtime {
            // While there are managers to tell.
            runtime.attachments.leave().await;
            if let Some(manager) = runtime.manager() {
                leave_group(manager.raft(), &runtime.managers, &membership.node_id).await;
            }
            runtime.stop().await;
        }
        // One that has not come to be a member has nothing here.
        if !membership.node_id.is_empty() {
            self.clean_up(&membership.node_id).await;
        }
        self.forget().await?;
        tracing::info!(node = membership.node_id, "left the swarm");
        Ok(())
    }

    /// Takes away what the node has of the swarm on its engine and in its kernel.
    async fn clean_up(&self, node_id: &str) {
        let Config {
            engine, dataplane, ..
        } = &self.inner.config;
        cleanup::clean(engine, node_id).await;
        // Last: the containers' endpoints are taken away before their networks are unknown.
        if let Err(error) = clear(dataplane).await {
            tracing::warn!(
                socket = %dataplane.display(),
                "the dataplane was not told that the node left the swarm, and keeps its published \
                 ports: {}; with skein-dataplane running, join a swarm and leave it to clear them",
                error.message()
            );
        }
    }

    async fn refuse_to_leave(&self) -> NodeError {
        let why = match self.manager() {
            None => format!("{INACTIVE_MANAGER}{LOST_CONSENSUS}"),
            Some(manager) => {
                let members = manager.raft().members().len();
                let reachable = self.reachable_managers(manager.raft()).await;
                reason_to_stay(members, reachable)
            }
        };
        NodeError::unavailable(format!("{LEAVING_MANAGER}{why}"))
    }

    /// How many managers answer the leader, which alone calls them all; without one, this one does.
    async fn reachable_managers(&self, raft: &Raft) -> usize {
        if raft.leadership().borrow().is_self {
            let members = raft.members();
            return members.iter().filter(|m| raft.reachable(m.raft_id)).count();
        }
        let asked = async {
            let mut client = ApiClient::new(self.leader_channel().await.ok()?);
            let request = ApiRequest {
                method: "GET".into(),
                uri: "/nodes".into(),
                ..ApiRequest::default()
            };
            let mut chunks = client.call(request).await.ok()?.into_inner();
            let mut body = Vec::new();
            while let Some(chunk) = chunks.message().await.ok()? {
                body.extend_from_slice(&chunk.data);
            }
            let nodes: Vec<skein_model::Node> = serde_json::from_slice(&body).ok()?;
            let status = nodes.into_iter().filter_map(|node| node.manager_status);
            Some(
                status
                    .filter(|s| s.reachability == Reachability::Reachable)
                    .count(),
            )
        };
        timeout(ASK_TIMEOUT, asked)
            .await
            .ok()
            .flatten()
            .unwrap_or(1)
    }
}

/// Why a manager of `members`, of which `reachable` answer, must not leave just so.
fn reason_to_stay(members: usize, reachable: usize) -> String {
    if members <= 1 {
        return LAST_MANAGER.to_owned();
    }
    let left = reachable.saturating_sub(1);
    let unreachable = members.saturating_sub(reachable);
    // Swarm's rule: those that would be left are no majority of all there are now.
    if reachable <= unreachable + 2 {
        return format!(
            "Removing this node leaves {left} managers out of {members}. Without a Raft quorum \
             your swarm will be inaccessible. {LOST_CONSENSUS}"
        );
    }
    LOST_CONSENSUS.to_owned()
}

/// Asks the leader to let this manager go. Without it the others count a dead member, so failing is
/// logged, not fatal: the user has asked with force.
async fn leave_group(raft: &Raft, managers: &Managers, node_id: &str) {
    if raft.members().len() <= 1 {
        return;
    }
    if raft.leadership().borrow().is_self
        && let Err(error) = raft.transfer_leadership().await
    {
        tracing::info!(%error, "leaving without having handed the lead over");
    }
    let ask = |channel| async {
        let node_id = node_id.to_owned();
        RaftClient::new(channel)
            .leave_group(LeaveGroupRequest { node_id })
            .await
    };
    if let Err(status) = managers.ask_leader(LEAVE_GROUP_TIMEOUT, ask).await {
        let error = status.message();
        tracing::warn!(error, "the other managers did not let this one go");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_is_told_why_it_must_stay() {
        assert_eq!(reason_to_stay(1, 1), LAST_MANAGER);
        let quorum = reason_to_stay(3, 2);
        assert!(quorum.starts_with("Removing this node leaves 1 managers out of 3. "));
        assert!(quorum.ends_with(LOST_CONSENSUS));
        assert_eq!(reason_to_stay(3, 3), LOST_CONSENSUS);
        let two = reason_to_stay(2, 2);
        assert!(two.starts_with("Removing this node leaves 1 managers out of 2. "));
    }
}
