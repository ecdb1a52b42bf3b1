//! The mTLS port (TCP 2377): what serves it, and the clients of it.

mod managers;
mod server;
mod tls;

pub use managers::Managers;
pub use server::{Caller, Standing, Standings, authorize, serve};
pub(crate) use tls::verify_node;
pub use tls::{Credentials, anonymous_channel, unverified_channel};

use crate::raft::{Member, ProposeError};
use skein_model::NodeRole;
use tonic::metadata::MetadataValue;

/// Where managers listen unless asked otherwise.
pub const DEFAULT_PORT: u16 = 2377;

/// Metadata of an answer that sends the caller to the leader: its `host:port`.
pub const LEADER_METADATA: &str = "skein-leader";

/// Metadata of the answer of a manager that does not lead, whether or not it knows who does.
const NOT_LEADER_METADATA: &str = "skein-not-leader";

/// Metadata of the answer of a leader that could sign, if an external certificate authority would.
const AWAITS_CA_METADATA: &str = "skein-awaits-ca";

/// Who calls: from the client's certificate. In the extensions of every request that came with one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// CN of the certificate.
    pub node_id: String,
    /// OU of the certificate.
    pub role: NodeRole,
}

/// A manager that a node knows of.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RemoteManager {
    /// "" where only the address is known (from `docker swarm join`).
    pub node_id: String,
    /// `host:port`
    pub address: String,
}

impl From<skein_proto::node::Manager> for RemoteManager {
    fn from(manager: skein_proto::node::Manager) -> Self {
        Self {
            node_id: manager.node_id,
            address: manager.address,
        }
    }
}

/// Why a manager could not be reached.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RpcError {
    /// The node knows of no manager.
    #[error("no manager of the swarm is known to this node")]
    NoManager,
    /// It cannot be connected to.
    #[error("could not connect to manager {address}: {reason}")]
    Connect {
        /// `host:port`
        address: String,
        /// What the attempt ended with.
        reason: String,
    },
}

impl RpcError {
    fn connect(address: &str, reason: &dyn std::error::Error) -> Self {
        Self::Connect {
            address: address.to_owned(),
            reason: reason.to_string(),
        }
    }
}

/// The answer of a manager that does not lead, and has done nothing: UNAVAILABLE, with the leader's
/// address if known.
pub fn not_leader(leader: Option<Member>) -> tonic::Status {
    let mut status = tonic::Status::unavailable("this manager is not the leader of the swarm");
    let metadata = status.metadata_mut();
    metadata.insert(NOT_LEADER_METADATA, MetadataValue::from_static("true"));
    if let Some(address) = leader.and_then(|leader| leader.address.parse().ok()) {
        metadata.insert(LEADER_METADATA, address);
    }
    status
}

/// Whether the manager that was asked does not lead, so that the request can be sent to another.
pub fn is_not_leader(status: &tonic::Status) -> bool {
    status.metadata().contains_key(NOT_LEADER_METADATA)
}

/// Whether another try may come to something: who was asked does not lead, is away or late, or others were quicker.
pub fn may_pass(status: &tonic::Status) -> bool {
    use tonic::Code;
    matches!(
        status.code(),
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::Cancelled
            | Code::Unknown
    )
}

/// Whether a call failed before anything of it was sent: nobody could be connected to.
pub fn was_never_sent(status: &tonic::Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The answer of a leader that has no signature, as the swarm's external certificate authority gives none
/// now: nobody else has one either, and later it may.
pub fn awaits_ca(reason: impl Into<String>) -> tonic::Status {
    let mut status = tonic::Status::unavailable(reason);
    let metadata = status.metadata_mut();
    metadata.insert(AWAITS_CA_METADATA, MetadataValue::from_static("true"));
    status
}

/// Whether the external certificate authority is what has to be waited for.
pub fn is_awaiting_ca(status: &tonic::Status) -> bool {
    status.metadata().contains_key(AWAITS_CA_METADATA)
}

/// The answer of a manager that could not propose, or not read.
impl From<ProposeError> for tonic::Status {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader { leader } => not_leader(leader),
            // Others were quicker: it is worth another try.
            ProposeError::Rejected(rejection) => Self::aborted(rejection.to_string()),
            ProposeError::Refused(reason) => Self::failed_precondition(reason),
            ProposeError::NoLeader => Self::unavailable(error.to_string()),
            ProposeError::Unavailable(reason) => Self::unavailable(reason),
        }
    }
}
