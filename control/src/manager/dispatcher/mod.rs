//! Serves the agents: registers nodes, hands out tasks and network state, takes reports.

mod asking;
mod assignments;
mod dependencies;
mod network;
mod values;

use super::{
    certificates::{self, Wanted},
    drivers::Drivers,
    heartbeats::Pulse,
    kernels::Kernels,
    networks::Networks,
    problems::Problems,
    reports::Reports,
    sessions::{self, Session, Sessions},
    store::{self, Store},
};
use crate::{raft::Member, rpc::Caller};
use skein_model::{Cluster, Node, NodeDescription, NodeState, TaskStatus};
use skein_orchestration::heartbeats::heartbeat_period;
use skein_proto::{
    network::{EncodedUpdate, Programmed},
    node as proto,
};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tracing::{info, warn};

/// Reports in one call: an agent has at most a few hundred tasks.
const UPDATES_MAX: usize = 10_000;

/// The dispatcher of one manager; of use only while it leads.
pub(super) struct Service<S: Store> {
    pub(super) store: S,
    pub(super) pulse: Arc<Pulse<S::Platform>>,
    pub(super) sessions: Sessions,
    pub(super) reports: Reports,
    pub(super) problems: Problems,
    pub(super) kernels: Kernels,
    pub(super) networks: Networks,
    pub(super) drivers: Arc<dyn Drivers>,
}

type Answer<T> = Result<Response<T>, Status>;
type Stream<T> = ReceiverStream<Result<T, Status>>;

impl<S: Store> Service<S> {
    /// The session of a request, if this manager leads.
    #[allow(clippy::result_large_err, reason = "tonic's error type")]
    fn session_of<T>(&self, request: &Request<T>, session_id: &str) -> Result<Session, Status> {
        store::check_leading(&self.store)?;
        self.sessions.of(request, session_id)
    }

    /// Notes in the store that the node is here, and as what.
    async fn register(
        &self,
        node_id: &str,
        description: &NodeDescription,
        address: &str,
        data_path_address: &str,
    ) -> Result<(), Status> {
        store::commit(&self.store, |draft| {
            let Some(node) = draft.node(node_id) else {
                return Err(Status::permission_denied(format!(
                    "node {node_id} is not part of the swarm: it was removed"
                )));
            };
            let mut node = (**node).clone();
            node.description = description.clone();
            node.status.state = NodeState::Ready;
            node.status.message.clear();
            node.status.addr = address.to_owned();
            node.data_path_addr = data_path_address.to_owned();
            draft.put(node);
            Ok(())
        })
        .await
    }
}

#[tonic::async_trait]
impl<S: Store> proto::dispatcher_server::Dispatcher for Service<S> {
    type SessionStream = Stream<proto::SessionMessage>;
    type AssignmentsStream = Stream<proto::AssignmentsMessage>;
    type NetworkStream = Stream<EncodedUpdate>;

    async fn session(
        &self,
        request: Request<proto::SessionRequest>,
    ) -> Answer<Self::SessionStream> {
        let term = store::check_leading(&self.store)?;
        let node_id = sessions::peer(&request)?.node_id;
        // tonic's own notion of the remote address is that of its own listener.
        let caller = request.extensions().get::<Caller>();
        let remote = caller.map(|caller| caller.address.ip().to_canonical());
        let known = advertised(&self.store.state(), &node_id).or(remote);
        let request = request.into_inner();
        let description: NodeDescription = parse(&request.description, "description")?;
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
        // Heard first: the leader's loop must find it so once the store says READY.
        self.pulse.registered(term, &node_id);
        self.register(&node_id, &description, &address, &data_path_address)
            .await?;
        let session = self.sessions.begin::<S::Platform>(&node_id);
        info!(
            node = node_id,
            hostname = description.hostname,
            "node registered"
        );
        let store = self.store.clone();
        let (id, mut last, mut wanted) = (session.id.clone(), None, Wanted::default());
        let mut seen = None;
        let next = move |state: &skein_model::State| {
            let node = state.node(&node_id)?;
            let members = store.members();
            let cluster = state.cluster();
            let issuer = cluster.map(|c| wanted.of(c).clone()).unwrap_or_default();
            // Most changes are of the node's tasks.
            let now = (node.clone(), cluster.cloned(), members.clone());
            let is_seen = seen.as_ref().is_some_and(|seen| is_same(seen, &now));
            seen = Some(now);
            if is_seen && !certificates::waits(node, &issuer) {
                return None;
            }
            let mut managers: Vec<_> = members
                .into_iter()
                .map(|member| proto::Manager {
                    node_id: member.node_id,
                    address: member.address,
                })
                .collect();
            managers.sort_by(|a, b| a.node_id.cmp(&b.node_id));
            let message = proto::SessionMessage {
                renew: certificates::is_turn(state, &node_id, &issuer),
                root_pem: issuer.trust_root,
                issuer_key: issuer.cert_issuer_public_key,
                session_id: id.clone(),
                node: serde_json::to_vec(node).ok()?,
                managers,
                heartbeat_period_ms: period_ms(state),
            };
            (last.as_ref() != Some(&message)).then(|| {
                last = Some(message.clone());
                message
            })
        };
        Ok(Response::new(sessions::stream(&self.store, session, next)))
    }

    async fn describe(
        &self,
        request: Request<proto::DescribeRequest>,
    ) -> Answer<proto::DescribeResponse> {
        let session = self.session_of(&request, &request.get_ref().session_id)?;
        let description: NodeDescription = parse(&request.get_ref().description, "description")?;
        store::commit(&self.store, |draft| {
            // One that was removed meanwhile hears so by its session.
            if let Some(node) = draft.node(&session.node_id) {
                let mut node = Node::clone(node);
                node.description = description.clone();
                draft.put(node);
            }
            Ok(())
        })
        .await?;
        Ok(Response::new(proto::DescribeResponse {}))
    }

    async fn heartbeat(
        &self,
        request: Request<proto::HeartbeatRequest>,
    ) -> Answer<proto::HeartbeatResponse> {
        let term = store::check_leading(&self.store)?;
        let session = self.session_of(&request, &request.get_ref().session_id)?;
        let state = self.store.state();
        let node = state.node(&session.node_id);
        // A node that was given up must say anew what it is.
        if node.is_none_or(|node| node.status.state != NodeState::Ready) {
            return Err(Status::not_found(
                "session invalid: the node was found down and must open a new session",
            ));
        }
        self.pulse.heard(term, &session.node_id);
        Ok(Response::new(proto::HeartbeatResponse {
            period_ms: period_ms(&state),
        }))
    }

    async fn assignments(
        &self,
        request: Request<proto::AssignmentsRequest>,
    ) -> Answer<Self::AssignmentsStream> {
        let session = self.session_of(&request, &request.get_ref().session_id)?;
        let mut assignments = assignments::Assignments::of(&session.node_id);
        let asking = asking::Asking {
            drivers: self.drivers.clone(),
            values: assignments.values(),
            session: session.clone(),
        };
        let next = move |state: &skein_model::State| {
            let (asks, messages) = assignments.next(state);
            for ask in asks {
                asking.ask::<S::Platform>(state, ask);
            }
            messages
        };
        Ok(Response::new(sessions::stream(&self.store, session, next)))
    }

    async fn update_task_status(
        &self,
        request: Request<proto::UpdateTaskStatusRequest>,
    ) -> Answer<proto::UpdateTaskStatusResponse> {
        let session = self.session_of(&request, &request.get_ref().session_id)?;
        let updates = request.into_inner().updates;
        if updates.len() > UPDATES_MAX {
            return Err(Status::invalid_argument(format!(
                "{} updates in one call: at most {UPDATES_MAX} are taken",
                updates.len()
            )));
        }
        let state = self.store.state();
        let is_foreign = |update: &proto::TaskStatusUpdate| {
            let task = state.task(&update.task_id);
            task.is_some_and(|task| task.node_id != session.node_id)
        };
        let (foreign, own): (Vec<_>, Vec<_>) = updates.into_iter().partition(is_foreign);
        let mut parsed: Vec<(String, TaskStatus)> = Vec::with_capacity(own.len());
        for update in own {
            parsed.push((update.task_id, parse(&update.status, "status")?));
        }
        // What is the node's own counts, whatever else it says.
        self.reports.submit(session.node_id, parsed).await?;
        if !foreign.is_empty() {
            return Err(Status::permission_denied(
                "cannot update a task not assigned this node",
            ));
        }
        Ok(Response::new(proto::UpdateTaskStatusResponse {}))
    }

    async fn network(
        &self,
        request: Request<proto::NetworkRequest>,
    ) -> Answer<Self::NetworkStream> {
        let session = self.session_of(&request, &request.get_ref().session_id)?;
        let mut updates = network::Updates::of(session.clone(), self.kernels.clone());
        let next = move |states: &Option<_>| states.as_ref().and_then(|of| updates.next(of));
        let watched = self.networks.watch();
        let stream = sessions::stream_of(&self.store, session, watched, next);
        Ok(Response::new(stream))
    }

    async fn report_network(
        &self,
        request: Request<proto::ReportNetworkRequest>,
    ) -> Answer<proto::ReportNetworkResponse> {
        let session = self.session_of(&request, &request.get_ref().session_id)?;
        let Programmed { version, problems } = request.into_inner().programmed.unwrap_or_default();
        self.kernels.report(&session, version);
        for problem in self.problems.report(&session.node_id, problems) {
            warn!(
                node = session.node_id,
                version,
                kind = problem.kind().as_str_name(),
                id = problem.id,
                "the node's network is not as wanted: {}",
                problem.message
            );
        }
        Ok(Response::new(proto::ReportNetworkResponse {}))
    }
}

/// All that the messages of a session are made of, but for whose turn it is to renew certificates.
type Seen = (Arc<Node>, Option<Arc<Cluster>>, Vec<Member>);

fn is_same(one: &Seen, other: &Seen) -> bool {
    let cluster = |of: &Seen| of.1.as_ref().map(Arc::as_ptr);
    Arc::ptr_eq(&one.0, &other.0) && cluster(one) == cluster(other) && one.2 == other.2
}

/// The address that a manager is reached at. Its own session comes from wherever it reaches itself.
fn advertised(state: &skein_model::State, node_id: &str) -> Option<IpAddr> {
    let member = state.cluster()?.managers.get(node_id)?;
    let address: SocketAddr = member.addr.parse().ok()?;
    Some(address.ip())
}

fn period_ms(state: &skein_model::State) -> u32 {
    u32::try_from(heartbeat_period(state).as_millis()).unwrap_or(u32::MAX)
}

#[allow(clippy::result_large_err, reason = "tonic's error type")]
fn parse<T: serde::de::DeserializeOwned>(json: &[u8], what: &str) -> Result<T, Status> {
    serde_json::from_slice(json)
        .map_err(|error| Status::invalid_argument(format!("the {what} cannot be read: {error}")))
}
