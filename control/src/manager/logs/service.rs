//! The agents' side of the broker.

use super::broker::Broker;
use crate::manager::{
    sessions::{self, Sessions},
    store::{self, Store},
};
use skein_proto::node as proto;
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

/// Requests that wait for one agent.
const AGENT_QUEUE: usize = 64;

/// What agents call.
pub(in crate::manager) struct LogsService<S> {
    pub(in crate::manager) store: S,
    pub(in crate::manager) sessions: Sessions,
    pub(in crate::manager) broker: Broker,
}

#[tonic::async_trait]
impl<S: Store> proto::logs_server::Logs for LogsService<S> {
    type SubscriptionsStream = ReceiverStream<Result<proto::LogSubscription, Status>>;

    async fn subscriptions(
        &self,
        request: Request<proto::SubscriptionsRequest>,
    ) -> Result<Response<Self::SubscriptionsStream>, Status> {
        store::check_leading(&self.store)?;
        let session = self.sessions.of(&request, &request.get_ref().session_id)?;
        let (agent, subscriptions) = mpsc::channel(AGENT_QUEUE);
        let broker = self.broker.clone();
        broker.attach(&session.node_id, agent.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = session.ended.cancelled() => {}
                () = agent.closed() => {}
            }
            broker.detach(&session.node_id, &agent);
        });
        Ok(Response::new(ReceiverStream::new(subscriptions)))
    }

    async fn publish(
        &self,
        request: Request<Streaming<proto::LogChunk>>,
    ) -> Result<Response<proto::PublishResponse>, Status> {
        store::check_leading(&self.store)?;
        let node_id = sessions::peer(&request)?.node_id;
        let mut chunks = request.into_inner();
        while let Some(chunk) = chunks.next().await {
            self.broker.publish(&node_id, chunk?).await?;
        }
        Ok(Response::new(proto::PublishResponse {}))
    }
}
