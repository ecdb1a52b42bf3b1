//! The membership of this machine in a swarm: init, join, leave, resume.

mod error;
mod request;

pub use crate::rpc::RemoteManager;
pub use error::{NodeError, NodeErrorKind};
pub use request::{InitRequest, JoinRequest, SwarmSpec};

use std::{path::PathBuf, sync::Arc};
use tonic::transport::Channel;

/// What a node needs of its machine.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the node keeps what must outlive a restart.
    pub state_dir: PathBuf,
    /// The container engine's socket.
    pub engine: PathBuf,
    /// The dataplane's socket.
    pub dataplane: PathBuf,
}

/// `Swarm.LocalNodeState` of `GET /info`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LocalState {
    /// Not part of a swarm.
    #[default]
    Inactive,
    /// Joining, or starting.
    Pending,
    /// A member.
    Active,
    /// A member that could not start; see [`Membership::error`].
    Error,
}

/// This node's place in a swarm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// See [`LocalState`].
    pub state: LocalState,
    /// "" while inactive.
    pub node_id: String,
    /// The IP address it advertises.
    pub node_addr: String,
    /// Whether it holds a manager's certificate.
    pub is_manager: bool,
    /// "" while inactive.
    pub cluster_id: String,
    /// Why it is in [`LocalState::Error`].
    pub error: String,
}

/// This machine's membership. Clones are handles of the same.
#[derive(Clone)]
pub struct Node {
    #[allow(dead_code)]
    inner: Arc<()>,
}

impl Node {
    /// Where the membership stands.
    pub fn membership(&self) -> Membership {
        todo!()
    }

    /// Creates a swarm with this node as its first manager. The node's ID.
    ///
    /// # Errors
    /// Already a member, a bad request, or a failure to start; nothing is left behind then.
    pub async fn init(&self, _request: InitRequest) -> Result<String, NodeError> {
        todo!()
    }

    /// Joins a swarm, in the role that the token stands for.
    ///
    /// # Errors
    /// Already a member, a bad request or token, or no manager answers.
    pub async fn join(&self, _request: JoinRequest) -> Result<(), NodeError> {
        todo!()
    }

    /// Leaves the swarm and forgets it.
    ///
    /// # Errors
    /// Not a member; or a manager, and not `force`.
    pub async fn leave(&self, _force: bool) -> Result<(), NodeError> {
        todo!()
    }

    /// The managers that this node knows; workers know them too.
    pub fn managers(&self) -> Vec<RemoteManager> {
        todo!()
    }

    /// A channel (mTLS) to the manager that leads.
    ///
    /// # Errors
    /// None is known, or it does not answer.
    pub async fn leader_channel(&self) -> Result<Channel, NodeError> {
        todo!()
    }
}
