//! What a node is told over its session: what it is to be, who the managers are, and when to renew its
//! certificate.

use super::period_ms;
use crate::{
    manager::{
        certificates::{self, Wanted},
        sessions::Session,
    },
    raft::Member,
};
use skein_model::{Cluster, Node, State};
use skein_proto::node as proto;
use std::sync::Arc;

/// The messages of one session.
pub(super) struct Messages {
    node_id: String,
    session_id: String,
    wanted: Wanted,
    seen: Option<Seen>,
    last: Option<proto::SessionMessage>,
}

/// All that the messages of a session are made of, but for whose turn it is to renew certificates.
type Seen = (Arc<Node>, Option<Arc<Cluster>>, Vec<Member>);

impl Messages {
    /// Nothing has been told yet.
    pub(super) fn of(session: &Session) -> Self {
        Self {
            node_id: session.node_id.clone(),
            session_id: session.id.clone(),
            wanted: Wanted::default(),
            seen: None,
            last: None,
        }
    }

    /// What the node must be told now, if it is anything else than before.
    pub(super) fn next(
        &mut self,
        state: &State,
        members: Vec<Member>,
    ) -> Option<proto::SessionMessage> {
        let node = state.node(&self.node_id)?;
        let cluster = state.cluster();
        let issuer = cluster
            .map(|cluster| self.wanted.of(cluster).clone())
            .unwrap_or_default();
        // Most changes are of the node's tasks.
        let now = (node.clone(), cluster.cloned(), members.clone());
        let is_seen = self.seen.as_ref().is_some_and(|seen| is_same(seen, &now));
        self.seen = Some(now);
        if is_seen && !certificates::waits(node, &issuer) {
            return None;
        }
        let mut managers: Vec<_> = members
            .into_iter()
            .map(|member| proto::Manager {
                node_id: member.node_id,
                address: member.address,
            })
            .collect();
        managers.sort_by(|a, b| a.node_id.cmp(&b.node_id));
        let message = proto::SessionMessage {
            renew: certificates::is_turn(state, &self.node_id, &issuer),
            root_pem: issuer.trust_root,
            issuer_key: issuer.cert_issuer_public_key,
            session_id: self.session_id.clone(),
            node: serde_json::to_vec(node).ok()?,
            managers,
            heartbeat_period_ms: period_ms(state),
            raft_id: cluster
                .and_then(|cluster| cluster.managers.get(&self.node_id))
                .map_or(0, |member| member.raft_id),
            index: 0,
        };
        if self.last.as_ref() == Some(&message) {
            return None;
        }
        self.last = Some(message.clone());
        Some(proto::SessionMessage {
            index: state.index(),
            ..message
        })
    }
}

fn is_same(one: &Seen, other: &Seen) -> bool {
    let cluster = |of: &Seen| of.1.as_ref().map(Arc::as_ptr);
    Arc::ptr_eq(&one.0, &other.0) && cluster(one) == cluster(other) && one.2 == other.2
}
