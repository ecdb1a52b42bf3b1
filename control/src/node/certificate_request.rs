//! How a node gets its first certificate, and gives it back.

use super::NodeError;
use crate::{
    backoff,
    identity::{Identity, JoinToken, key_and_request},
    rpc::{
        self, Credentials, LEADER_METADATA, Managers, RemoteManager, anonymous_channel,
        unverified_channel,
    },
};
use skein_model::Availability;
use skein_proto::node::{
    GetRootCertificateRequest, JoinRequest, JoinResponse, WithdrawRequest, ca_client::CaClient,
};
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tonic::{Code, Status};

/// Attempts to reach a manager, and the pause between them.
const ATTEMPTS: usize = 5;
const RETRY: Duration = Duration::from_secs(2);
/// One call; signing waits for a quorum.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// For a place to be given back, on top of what the join itself took: the user waits for its error.
const WITHDRAW_TIMEOUT: Duration = Duration::from_secs(8);
/// How long a node waits for an external certificate authority that is away: as long as it takes to notice and
/// to mend it. A user who waits no longer leaves the swarm again.
const CA_WAIT: Duration = Duration::from_secs(3600);
/// Between two attempts then: the first pause, which doubles, and the longest, Swarm's.
const CA_RETRY_MIN: Duration = Duration::from_secs(1);
const CA_RETRY_MAX: Duration = Duration::from_secs(10);
/// Pause when a manager was sent on to the leader, or none leads at the moment.
const REDIRECT_PAUSE: Duration = Duration::from_millis(200);

/// Asks the manager at `address` (`host:port`), and the leader it names, for a certificate. The manager
/// then knows a node that it waits for. `waits` is told why it takes longer: the cluster's external
/// certificate authority is away.
///
/// # Errors
/// The token is not the cluster's, no manager answers, or none signs.
pub async fn obtain(
    address: &str,
    token: &JoinToken,
    availability: Availability,
    waits: impl Fn(&str),
) -> Result<Identity, NodeError> {
    let root_pem = root_certificate(address, token).await?;
    let pair = key_and_request().map_err(|error| NodeError::internal(error.to_string()))?;
    let request = JoinRequest {
        token: token.as_str().to_owned(),
        csr_pem: pair.csr_pem,
        availability: availability.name().into(),
    };
    let joined = join(address, &root_pem, request, waits).await?;
    Identity::new(root_pem, joined.certificate_pem, pair.key_pem)
        .map_err(|error| NodeError::internal(error.to_string()))
}

/// Gives back what [`obtain`] got, as the node could not become a member of it: nothing of it is to stay
/// in the swarm. Without a manager that answers a nameless node does, which is logged.
pub(super) async fn withdraw(address: &str, identity: &Identity) {
    let node = &identity.node_id;
    if let Err(error) = try_withdraw(address, identity.clone()).await {
        tracing::warn!(
            node,
            error,
            "the managers keep the node that could not join: remove it there with \"docker node rm\""
        );
    }
}

async fn try_withdraw(address: &str, identity: Identity) -> Result<(), String> {
    let credentials = Credentials::new(identity).map_err(|error| error.to_string())?;
    let known = RemoteManager {
        node_id: String::new(),
        address: address.to_owned(),
    };
    let ask = |channel| async { CaClient::new(channel).withdraw(WithdrawRequest {}).await };
    let managers = Managers::new(credentials, vec![known]);
    let withdrawn = managers.ask_leader(WITHDRAW_TIMEOUT, ask).await;
    withdrawn
        .map(drop)
        .map_err(|status| status.message().to_owned())
}

/// The root certificate of the token's cluster. Nothing vouches for the one who gives it; the digest
/// in the token does.
async fn root_certificate(address: &str, token: &JoinToken) -> Result<String, NodeError> {
    let channel = unverified_channel(address).map_err(|e| NodeError::invalid(e.to_string()))?;
    let mut client = CaClient::new(channel);
    let mut attempt = 1;
    let response = loop {
        let call = client.get_root_certificate(GetRootCertificateRequest {});
        match deadline(call).await {
            Ok(response) => break response,
            Err(status) if attempt == ATTEMPTS => {
                return Err(unreachable(address, &status));
            }
            Err(_) => attempt += 1,
        }
        tokio::time::sleep(RETRY).await;
    };
    if !token.matches_root(&response.root_pem) {
        return Err(NodeError::unavailable(format!(
            "remote CA does not match fingerprint. Expected: {}",
            token.expected_fingerprint()
        )));
    }
    Ok(response.root_pem)
}

async fn join(
    address: &str,
    root_pem: &str,
    request: JoinRequest,
    waits: impl Fn(&str),
) -> Result<JoinResponse, NodeError> {
    let mut target = address.to_owned();
    let mut attempt = 1;
    let (begun, mut ca_failures) = (Instant::now(), 0);
    loop {
        let channel = anonymous_channel(&target, root_pem);
        let channel = channel.map_err(|error| NodeError::unavailable(error.to_string()))?;
        let mut client = CaClient::new(channel);
        let status = match deadline(client.join(request.clone())).await {
            Ok(response) => return Ok(response),
            Err(status) => status,
        };
        let awaits_ca = rpc::is_awaiting_ca(&status);
        if awaits_ca && begun.elapsed() < CA_WAIT {
            waits(status.message());
            tokio::time::sleep(backoff::pause(CA_RETRY_MIN, CA_RETRY_MAX, ca_failures)).await;
            ca_failures += 1;
            continue;
        }
        // A late answer is worth another question, as it is the same node that asks; and where an earlier question that
        // was given up is being answered still, the store takes one of the two.
        if awaits_ca || !rpc::may_pass(&status) {
            let message = format!(
                "rpc error: code = {:?} desc = {}",
                status.code(),
                status.message()
            );
            return Err(match status.code() {
                Code::InvalidArgument => NodeError::invalid(message),
                _ => NodeError::unavailable(message),
            });
        }
        if attempt == ATTEMPTS * 2 {
            return Err(unreachable(&target, &status));
        }
        attempt += 1;
        let leader = status.metadata().get(LEADER_METADATA);
        target = match leader.and_then(|leader| leader.to_str().ok()) {
            Some(leader) => leader.to_owned(),
            None => {
                tokio::time::sleep(RETRY / 2).await;
                address.to_owned()
            }
        };
        tokio::time::sleep(REDIRECT_PAUSE).await;
    }
}

async fn deadline<T>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    let late = |_| {
        Status::deadline_exceeded(format!(
            "no answer within {} s; is its TCP port reached from here?",
            CALL_TIMEOUT.as_secs()
        ))
    };
    let answer = timeout(CALL_TIMEOUT, call).await;
    Ok(answer.map_err(late)??.into_inner())
}

fn unreachable(address: &str, status: &Status) -> NodeError {
    let mut reason = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        reason = error.to_string();
        source = error.source();
    }
    NodeError::unavailable(format!(
        "could not reach the manager at {address}: {reason}"
    ))
}
