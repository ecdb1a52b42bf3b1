//! The gRPC service from which nodes get certificates.

use super::{
    AuthorityError, ExternalCas, ExternalError, JoinToken, Signer, cert_expiry, sign, signer,
};
use crate::{
    clock,
    raft::{Raft, RaftSlot},
    rpc::{PeerIdentity, awaits_ca},
};
use rand::{SeedableRng as _, rngs::StdRng};
use sha2::{Digest as _, Sha256};
use skein_model::{
    Action, Availability, Cluster, Node, NodeDescription, NodeRole, NodeSpec, NodeState,
    NodeStatus, State,
};
use skein_proto::node::{
    GetRootCertificateRequest, GetRootCertificateResponse, JoinRequest, JoinResponse, RenewRequest,
    RenewResponse, WithdrawRequest, WithdrawResponse, ca_server,
};
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// The service that nodes get their certificates from.
#[derive(Clone)]
pub struct CaService {
    raft: RaftSlot,
    external_cas: ExternalCas,
}

impl CaService {
    /// Signs with what is in the store of `raft`, or has it signed by the external CAs named there.
    pub fn new(raft: RaftSlot, external_cas: ExternalCas) -> Self {
        Self { raft, external_cas }
    }

    fn raft(&self) -> Result<&Raft, Status> {
        self.raft.get()
    }

    /// A node's certificate; while the root changes of the new one, with what links it to the old one.
    async fn certificate(
        &self,
        cluster: &Cluster,
        csr_pem: &str,
        node_id: &str,
        role: NodeRole,
    ) -> Result<String, Status> {
        let named = (&*cluster.id, node_id, role);
        let current = &cluster.root_ca;
        let (root, link) = match &cluster.root_rotation {
            Some(rotation) => (&rotation.root, rotation.cross_signed_pem.as_str()),
            None => (current, ""),
        };
        let signed = match signer(cluster) {
            Signer::Own(root) => {
                let validity = cert_expiry(&cluster.spec);
                let signed = sign(root, csr_pem, named, validity, clock::now());
                signed.map_err(|error: AuthorityError| Status::invalid_argument(error.to_string()))
            }
            Signer::External(urls) => {
                let roots = (&*root.cert_pem, &*current.cert_pem);
                let issued = self.external_cas.issue(&urls, roots, csr_pem, named).await;
                issued.map_err(|error| unsigned(&error))
            }
            Signer::Nobody => {
                let reason = "the managers do not have its key, and no external CA is configured \
                              for it: name one with \"docker swarm update --external-ca\"";
                Err(unsigned(&ExternalError::Away(reason.to_owned())))
            }
        };
        Ok(signed? + link)
    }
}

/// What is said to a node that gets no certificate, as the external CAs give none.
fn unsigned(error: &ExternalError) -> Status {
    let message = format!("the swarm's external CA does not sign the certificate: {error}");
    match error {
        ExternalError::Away(_) => awaits_ca(message),
        ExternalError::Refused(_) => Status::failed_precondition(message),
    }
}

impl CaService {
    /// Answers a node that has its place already, and asks once more.
    async fn join_again(
        &self,
        cluster: &Cluster,
        node: &Node,
        request: &JoinRequest,
    ) -> Result<Response<JoinResponse>, Status> {
        if has_registered(node) {
            let id = &node.id;
            return Err(Status::already_exists(format!(
                "node {id} has joined the swarm already: who asks anew needs a key of his own"
            )));
        }
        let signed = self.certificate(cluster, &request.csr_pem, &node.id, node.role);
        Ok(Response::new(JoinResponse {
            node_id: node.id.clone(),
            certificate_pem: signed.await?,
            role: role_name(node.role).into(),
        }))
    }
}

#[tonic::async_trait]
impl ca_server::Ca for CaService {
    async fn get_root_certificate(
        &self,
        _request: Request<GetRootCertificateRequest>,
    ) -> Result<Response<GetRootCertificateResponse>, Status> {
        let state = self.raft()?.state();
        let cluster = cluster(&state)?;
        Ok(Response::new(GetRootCertificateResponse {
            root_pem: cluster.root_ca.cert_pem.clone(),
        }))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let request = request.into_inner();
        let raft = self.raft()?;
        // Anybody may call this: a quorum is not asked for those who have no token. The leader's own
        // state holds every token that it gave out.
        if raft.leadership().borrow().is_self {
            role_by_token(&raft.state(), &request.token)?;
        }
        let state = raft.linearizable().await?;
        let role = role_by_token(&state, &request.token)?;
        let cluster = cluster(&state)?;
        let node_id = node_id_for(&request.csr_pem);
        if let Some(node) = state.node(&node_id) {
            return self.join_again(cluster, node, &request).await;
        }
        let node = joining(&node_id, role, availability(&request.availability)?);
        let certificate_pem = self
            .certificate(cluster, &request.csr_pem, &node_id, role)
            .await?;
        raft.propose(vec![Action::Create(node.into())]).await?;
        tracing::info!(node = node_id, ?role, "a node joined the swarm");
        Ok(Response::new(JoinResponse {
            node_id,
            certificate_pem,
            role: role_name(role).into(),
        }))
    }

    async fn renew(
        &self,
        request: Request<RenewRequest>,
    ) -> Result<Response<RenewResponse>, Status> {
        let peer = peer(&request)?;
        let raft = self.raft()?;
        let state = raft.linearizable().await?;
        let node = state.node(&peer.node_id).ok_or_else(|| {
            Status::permission_denied(format!("node {} is not part of the swarm", peer.node_id))
        })?;
        // The role the node has now, not the one it asks for.
        let (role, csr) = (node.role, &request.get_ref().csr_pem);
        let signed = self.certificate(cluster(&state)?, csr, &peer.node_id, role);
        Ok(Response::new(RenewResponse {
            certificate_pem: signed.await?,
            role: role_name(role).into(),
        }))
    }

    async fn withdraw(
        &self,
        request: Request<WithdrawRequest>,
    ) -> Result<Response<WithdrawResponse>, Status> {
        let PeerIdentity { node_id, .. } = peer(&request)?;
        let raft = self.raft()?;
        let state = raft.linearizable().await?;
        let Some(node) = state.node(&node_id) else {
            return Ok(Response::new(WithdrawResponse {}));
        };
        if has_registered(node) {
            return Err(Status::failed_precondition(format!(
                "node {node_id} has been part of the swarm: leave it with \"docker swarm leave\""
            )));
        }
        // The answer that it is a manager now may have been lost.
        if cluster(&state)?.managers.contains_key(&node_id) {
            raft.remove_manager(&node_id).await?;
        }
        raft.change(|draft| {
            skein_orchestration::remove_node(draft, &node_id);
            Ok::<_, Status>(())
        })
        .await?;
        tracing::info!(node = node_id, "a node that joined gave back its place");
        Ok(Response::new(WithdrawResponse {}))
    }
}

/// A node that joins, of which nothing is known yet.
pub fn joining(node_id: &str, role: NodeRole, availability: Availability) -> Node {
    Node {
        id: node_id.to_owned(),
        role,
        spec: NodeSpec {
            role,
            availability,
            ..NodeSpec::default()
        },
        status: NodeStatus {
            state: NodeState::Unknown,
            ..NodeStatus::default()
        },
        ..Node::default()
    }
}

/// The ID of the node that asks for its first certificate. Who asks again, as the answer was lost or late, is the
/// same node: a key is made for one join.
fn node_id_for(csr_pem: &str) -> String {
    let digest: [u8; 32] = Sha256::digest(csr_pem).into();
    skein_model::new_id(&mut StdRng::from_seed(digest))
}

/// Whether the node's agent has ever been in touch: it begins by saying what the node is.
fn has_registered(node: &Node) -> bool {
    node.description != NodeDescription::default()
}

fn peer<T>(request: &Request<T>) -> Result<PeerIdentity, Status> {
    let peer = request.extensions().get::<PeerIdentity>().cloned();
    peer.ok_or_else(|| Status::unauthenticated("a member's certificate is needed"))
}

fn cluster(state: &State) -> Result<&Arc<Cluster>, Status> {
    let none = || Status::unavailable("the swarm is not initialised yet");
    state.cluster().ok_or_else(none)
}

#[allow(clippy::result_large_err, reason = "tonic's error type")]
fn role_by_token(state: &State, shown: &str) -> Result<NodeRole, Status> {
    role_of_token(cluster(state)?, shown).ok_or_else(|| {
        Status::invalid_argument("A valid join token is necessary to join this cluster")
    })
}

fn role_of_token(cluster: &Cluster, shown: &str) -> Option<NodeRole> {
    let is = |token: &str| JoinToken::parse(token).is_ok_and(|token| token.is(shown));
    // Both are compared, whichever it is.
    match (
        is(&cluster.join_tokens.manager),
        is(&cluster.join_tokens.worker),
    ) {
        (true, _) => Some(NodeRole::Manager),
        (_, true) => Some(NodeRole::Worker),
        _ => None,
    }
}

fn availability(name: &str) -> Result<Availability, Status> {
    let unknown = || Status::invalid_argument(format!("invalid Availability: {name:?}"));
    Availability::of_name(name).ok_or_else(unknown)
}

fn role_name(role: NodeRole) -> &'static str {
    match role {
        NodeRole::Worker => "worker",
        NodeRole::Manager => "manager",
    }
}
