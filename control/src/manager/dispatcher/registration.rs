//! What a node says of itself as it opens a session, and what its connection says of it.

use super::parse;
use crate::{manager::sessions, rpc::Caller};
use skein_model::{Draft, NodeDescription, NodeState, State};
use skein_proto::node as proto;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use tonic::{Request, Status};

/// A node that is here.
pub(super) struct Registration {
    pub(super) node_id: String,
    pub(super) description: NodeDescription,
    /// Where its session comes from, or where it is reached if it is a manager.
    address: String,
    data_path_address: String,
}

impl Registration {
    /// That of a request. Whether the node is part of the swarm is not known yet.
    #[allow(clippy::result_large_err, reason = "tonic's error type")]
    pub(super) fn of(
        state: &State,
        request: Request<proto::SessionRequest>,
    ) -> Result<Self, Status> {
        let node_id = sessions::peer(&request)?.node_id;
        // tonic's own notion of the remote address is that of its own listener.
        let caller = request.extensions().get::<Caller>();
        let remote = caller.map(|caller| caller.address.ip().to_canonical());
        let known = advertised(state, &node_id).or(remote);
        let request = request.into_inner();
        let description = parse(&request.description, "description")?;
        let data_path_address = if request.data_path_address.is_empty() {
            known.map(|ip| ip.to_string()).unwrap_or_default()
        } else {
            request.data_path_address
        };
        if data_path_address.parse::<Ipv4Addr>().is_err() {
            return Err(Status::invalid_argument(format!(
                "data path address '{data_path_address}' is no IPv4 address: start the node with \
                 --data-path-addr"
            )));
        }
        let address = known.map_or_else(|| data_path_address.clone(), |ip| ip.to_string());
        Ok(Self {
            node_id,
            description,
            address,
            data_path_address,
        })
    }

    /// Notes in the store that the node is here, and as what.
    #[allow(clippy::result_large_err, reason = "tonic's error type")]
    pub(super) fn note(&self, draft: &mut Draft) -> Result<(), Status> {
        let node_id = &self.node_id;
        let Some(node) = draft.node(node_id) else {
            return Err(sessions::removed(node_id));
        };
        let mut node = (**node).clone();
        node.description = self.description.clone();
        node.status.state = NodeState::Ready;
        node.status.message.clear();
        node.status.addr.clone_from(&self.address);
        node.data_path_addr.clone_from(&self.data_path_address);
        draft.put(node);
        Ok(())
    }
}

/// The address that a manager is reached at. Its own session comes from wherever it reaches itself.
fn advertised(state: &State, node_id: &str) -> Option<IpAddr> {
    let member = state.cluster()?.managers.get(node_id)?;
    let address: SocketAddr = member.addr.parse().ok()?;
    Some(address.ip())
}
