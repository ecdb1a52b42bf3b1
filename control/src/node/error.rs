use std::fmt;

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
