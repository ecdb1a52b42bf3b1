//! Errors of membership, in words for the user.

use super::{LocalState, Membership};
use std::fmt;

const NEVER_MEMBER: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.";
const WORKER: &str = "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this command on a manager node or promote the current node to a manager.";
const STARTING: &str = "This node is not a swarm manager. Manager is being prepared or has trouble connecting to the cluster.";
const LOCKED: &str = "Swarm is encrypted and needs to be unlocked before it can be used. Please use \"docker swarm unlock\" to unlock it.";
/// Swarm's words for certificates that nobody renewed in time.
pub(super) const EXPIRED: &str =
    "Swarm certificates have expired. To replace them, leave the swarm and join again.";

/// What the API makes a status of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeErrorKind {
    /// 503
    AlreadyMember,
    /// 503
    NotMember,
    /// 503
    NotManager,
    /// 400
    Invalid,
    /// 401
    WrongKey,
    /// 409
    Conflict,
    /// 500
    Internal,
    /// 503
    Unavailable,
}

/// A failed init, join or leave. The message is for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeError {
    /// What went wrong, in kind.
    pub kind: NodeErrorKind,
    /// What went wrong, in words.
    pub message: String,
}

impl From<std::io::Error> for NodeError {
    fn from(error: std::io::Error) -> Self {
        Self::internal(error.to_string())
    }
}

impl NodeError {
    /// An error of a kind.
    pub fn new(kind: NodeErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(NodeErrorKind::Invalid, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(NodeErrorKind::Internal, message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(NodeErrorKind::Unavailable, message)
    }

    pub(crate) fn already_member() -> Self {
        Self::new(
            NodeErrorKind::AlreadyMember,
            "This node is already part of a swarm. Use \"docker swarm leave\" to leave this swarm and join another one.",
        )
    }

    /// Swarm's words for a node that cannot answer for the cluster.
    pub(crate) fn not_manager(membership: &Membership) -> Self {
        let message = match membership {
            m if m.state == LocalState::Inactive => NEVER_MEMBER,
            m if m.state == LocalState::Locked => LOCKED,
            m if m.error == EXPIRED => EXPIRED,
            m if m.is_manager || m.state == LocalState::Pending => STARTING,
            _ => WORKER,
        };
        Self::new(NodeErrorKind::NotManager, message)
    }

    pub(crate) fn not_member() -> Self {
        Self::new(NodeErrorKind::NotMember, "This node is not part of a swarm")
    }
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for NodeError {}
