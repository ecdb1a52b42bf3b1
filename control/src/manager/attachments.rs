//! Places on overlays for the nodes' own containers: asked for by nodes, given by the leader.

use super::{
    sessions,
    store::{self, Store},
};
use crate::raft::platform;
use skein_model::{Kind, LookupError, State, TaskState, is_id};
use skein_orchestration::{
    attachment::{AttachError, Request as Asked, attach},
    network_state,
};
use skein_proto::node as proto;
use std::time::Duration;
use tonic::{Request, Response, Status};

/// How long a call waits for the address. The allocator is in the same process, so more than one round
/// of consensus means that there is trouble.
const ALLOCATION_WAIT: Duration = Duration::from_secs(10);

/// The service of one manager; of use only while it leads.
pub(super) struct AttachmentsService<S> {
    pub(super) store: S,
}

impl<S: Store> AttachmentsService<S> {
    /// Puts the attachment into the store, unless it is there.
    async fn create(&self, node_id: &str, asked: &Asked, id: &str) -> Result<(), Status> {
        store::commit(&self.store, |draft| {
            if draft.node(node_id).is_none() {
                return Err(Status::permission_denied(format!(
                    "node {node_id} is not part of the swarm: it was removed"
                )));
            }
            match draft.task(id) {
                Some(task) if task.is_attachment() && task.node_id == node_id => return Ok(()),
                Some(_) => {
                    return Err(Status::already_exists(format!(
                        "task {id} is another's: ask with a new ID"
                    )));
                }
                None => {}
            }
            let now = draft.now();
            let made = attach(draft, node_id, asked, id.to_owned(), now);
            let task = made.map_err(|error| refusal(&error))?.0;
            draft.put(task);
            Ok(())
        })
        .await
    }

    /// What the node is told once the attachment has its address.
    async fn allocated(&self, id: &str) -> Result<proto::AttachResponse, Status> {
        let mut states = self.store.watch();
        let is_decided = |state: &State| {
            state.task(id).is_none_or(|task| {
                task.status.state > TaskState::New || !task.status.err.is_empty()
            })
        };
        let decided = async { states.wait_for(is_decided).await.map(|state| state.clone()) };
        let late = || {
            Status::deadline_exceeded(format!(
                "the attachment has no address within {ALLOCATION_WAIT:?}: try again"
            ))
        };
        let decided = platform::timeout::<S::Platform, _>(ALLOCATION_WAIT, decided).await;
        let state = decided.ok_or_else(late)?.map_err(|_| late())?;
        answer(&state, id)
    }

    async fn remove(&self, node_id: &str, id: &str) -> Result<(), Status> {
        store::commit(&self.store, |draft| {
            let own = |task: &std::sync::Arc<skein_model::Task>| {
                task.is_attachment() && task.node_id == node_id
            };
            if draft.task(id).is_some_and(own) {
                draft.remove(Kind::Task, id);
            }
            Ok(())
        })
        .await
    }
}

#[allow(clippy::result_large_err, reason = "tonic's error type")]
fn answer(state: &State, id: &str) -> Result<proto::AttachResponse, Status> {
    let lost = || Status::aborted("the attachment was removed while it was made: try again");
    let task = state.task(id).ok_or_else(lost)?;
    if !task.status.err.is_empty() {
        return Err(Status::invalid_argument(task.status.err.clone()));
    }
    let place = task.networks_attachments.first().ok_or_else(lost)?;
    let network = state.network(&place.network_id);
    Ok(proto::AttachResponse {
        task_id: id.to_owned(),
        address: place.address.ok_or_else(lost)?.addr().to_string(),
        network: network.and_then(|network| network_state::network(network)),
    })
}

fn refusal(error: &AttachError) -> Status {
    let message = error.to_string();
    match error {
        AttachError::Lookup(LookupError::NotFound { .. }) => Status::not_found(message),
        AttachError::NotAttachable(_) | AttachError::NodeLocal(_) => {
            Status::permission_denied(message)
        }
        AttachError::Lookup(LookupError::Ambiguous { .. }) | AttachError::Aliases => {
            Status::invalid_argument(message)
        }
    }
}

#[tonic::async_trait]
impl<S: Store> proto::attachments_server::Attachments for AttachmentsService<S> {
    async fn attach(
        &self,
        request: Request<proto::AttachRequest>,
    ) -> Result<Response<proto::AttachResponse>, Status> {
        store::check_leading(&self.store)?;
        let node_id = sessions::peer(&request)?.node_id;
        let request = request.into_inner();
        let address =
            match &*request.address {
                "" => None,
                text => Some(text.parse().map_err(|_| {
                    Status::invalid_argument(format!("invalid IPv4 address: {text}"))
                })?),
            };
        let id = request.task_id;
        if !is_id(&id) {
            return Err(Status::invalid_argument(format!("invalid task ID: {id}")));
        }
        let asked = Asked {
            network: request.network,
            address,
            aliases: request.aliases,
        };
        // A network that was made a moment ago is to be found, whoever led then.
        self.store.linearizable().await?;
        self.create(&node_id, &asked, &id).await?;
        let allocated = self.allocated(&id).await;
        if allocated.is_err()
            && let Err(error) = self.remove(&node_id, &id).await
        {
            tracing::warn!(task = id, %error, "an attachment without an address stays for a while");
        }
        Ok(Response::new(allocated?))
    }

    async fn detach(
        &self,
        request: Request<proto::DetachRequest>,
    ) -> Result<Response<proto::DetachResponse>, Status> {
        store::check_leading(&self.store)?;
        let node_id = sessions::peer(&request)?.node_id;
        self.remove(&node_id, &request.get_ref().task_id).await?;
        Ok(Response::new(proto::DetachResponse {}))
    }
}
