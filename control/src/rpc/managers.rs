use super::{RemoteManager, RpcError};
use std::sync::Arc;
use tonic::transport::Channel;

/// The managers that this node knows, and the way to the one that leads. Clones share it.
#[derive(Clone)]
pub struct Managers {
    #[allow(dead_code)]
    inner: Arc<()>,
}

impl Managers {
    /// A channel (mTLS, with this node's certificate) to the leader, or to a manager that knows it.
    ///
    /// # Errors
    /// No manager is known, or none answers.
    pub async fn leader(&self) -> Result<Channel, RpcError> {
        todo!()
    }

    /// Takes over the list that a manager sent.
    pub fn update(&self, _managers: Vec<RemoteManager>) {
        todo!()
    }

    /// Learns from a failed call: follows its [`super::LEADER_METADATA`], or turns to the next manager.
    pub fn redirect(&self, _status: &tonic::Status) {
        todo!()
    }

    /// Those known now.
    pub fn known(&self) -> Vec<RemoteManager> {
        todo!()
    }
}
