//! The membership as the API sees it.

use super::{InitRequest, JoinRequest, Membership, Node, NodeError, RemoteManager};
use crate::{
    agent::attachments::Attachments,
    api::{Member, Seated, Store},
};
use futures::future::BoxFuture;
use std::sync::Arc;
use tonic::transport::Channel;

impl Member for Node {
    fn membership(&self) -> Membership {
        self.membership()
    }

    fn init(&self, request: InitRequest) -> BoxFuture<'_, Result<String, NodeError>> {
        Box::pin(self.init(request))
    }

    fn join(&self, request: JoinRequest) -> BoxFuture<'_, Result<(), NodeError>> {
        Box::pin(self.join(request))
    }

    fn leave(&self, force: bool) -> BoxFuture<'_, Result<(), NodeError>> {
        Box::pin(self.leave(force))
    }

    fn unlock(&self, key: String) -> BoxFuture<'_, Result<(), NodeError>> {
        Box::pin(async move { self.unlock(&key).await })
    }

    fn managers(&self) -> Vec<RemoteManager> {
        self.managers()
    }

    fn store(&self) -> Option<Arc<dyn Store>> {
        let runtime = self.runtime()?;
        Some(Arc::new(Seated {
            manager: runtime.manager()?,
            external_cas: runtime.external_cas.clone(),
        }))
    }

    fn attachments(&self) -> Option<Attachments> {
        self.attachments()
    }

    fn leader_channel(&self) -> BoxFuture<'_, Result<Channel, NodeError>> {
        Box::pin(self.leader_channel())
    }
}
