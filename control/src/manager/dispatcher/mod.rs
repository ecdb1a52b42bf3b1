//! Serves the agents: registers nodes, hands out tasks and network state, takes reports.

mod asking;
mod assignments;
mod dependencies;
mod network;
mod registration;
mod session;
mod tunnel;
mod values;

use super::{
    drivers::Drivers,
    heartbeats::Pulse,
    kernels::Kernels,
    networks::Networks,
    problems::Problems,
    reports::Reports,
    sessions::{self, Session, Sessions},
    store::{self, Store},
    streams,
};
use registration::Registration;
use skein_model::{Node, NodeDescription, NodeState};
use skein_orchestration::{heartbeats::heartbeat_period, registrations};
use skein_proto::{
    network::{EncodedUpdate, Programmed},
    node as proto,
};
use std::sync::Arc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tracing::{info, warn};

/// Reports in one call: an agent has at most a few hundred tasks.
const UPDATES_MAX: usize = 10_000;

/// The dispatcher of one manager; of use only while it leads.
pub(super) struct DispatcherService<S: Store> {
    pub(super) store: S,
    pub(super) pulse: Arc<Pulse<S::Platform>>,
    pub(super) sessions: Sessions,
    pub(super) reports: Reports,
    pub(super) problems: Problems,
    pub(super) kernels: Kernels,
    pub(super) networks: Networks,
    pub(super) drivers: Arc<dyn Drivers>,
}

type RpcResult<T> = Result<Response<T>, Status>;
type Stream<T> = ReceiverStream<Result<T, Status>>;

impl<S: Store> DispatcherService<S> {
    /// The session of a request, if this manager leads.
    #[allow(clippy::result_large_err, reason = "tonic's error type")]
    fn session_of<T>(&self, request: &Request<T>, session_id: &str) -> Result<Session, Status> {
        store::check_leading(&self.store)?;
        self.sessions.of(request, session_id)
    }
}

#[tonic::async_trait]
impl<S: Store> proto::dispatcher_server::Dispatcher for DispatcherService<S> {
    type SessionStream = Stream<proto::SessionMessage>;
    type AssignmentsStream = Stream<proto::AssignmentsMessage>;
    type NetworkStream = Stream<EncodedUpdate>;

    async fn session(
        &self,
        request: Request<proto::SessionRequest>,
    ) -> RpcResult<Self::SessionStream> {
        let term = store::check_leading(&self.store)?;
        let registration = Registration::of(&self.store.state(), request)?;
        let node_id = &registration.node_id;
        if !self.pulse.admits(term, node_id) {
            return Err(Status::unavailable(registrations::too_many(node_id)));
        }
        // Heard first: the leader's loop must find it so once the store says READY.
        let period = heartbeat_period(&self.store.state());
        self.pulse.registered(term, node_id, period);
        store::commit(&self.store, |draft| registration.note(draft)).await?;
        let session = self.sessions.begin::<S::Platform>(node_id);
        // One that is removed just now may have been so before its session was there to be ended.
        if self.store.state().node(node_id).is_none() {
            self.sessions.end(node_id);
            return Err(sessions::removed(node_id));
        }
        info!(
            node = node_id,
            hostname = registration.description.hostname,
            "node registered"
        );
        let store = self.store.clone();
        let mut messages = session::Messages::of(&session);
        let next = move |state: &skein_model::State| messages.next(state, store.members());
        Ok(Response::new(streams::stream(&self.store, session, next)))
    }

    async fn describe(
        &self,
        request: Request<proto::DescribeRequest>,
    ) -> RpcResult<proto::DescribeResponse> {
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
    ) -> RpcResult<proto::HeartbeatResponse> {
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
        self.pulse
            .heard(term, &session.node_id, heartbeat_period(&state));
        Ok(Response::new(proto::HeartbeatResponse {
            period_ms: period_ms(&state),
        }))
    }

    async fn assignments(
        &self,
        request: Request<proto::AssignmentsRequest>,
    ) -> RpcResult<Self::AssignmentsStream> {
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
        Ok(Response::new(streams::stream(&self.store, session, next)))
    }

    async fn update_task_status(
        &self,
        request: Request<proto::UpdateTaskStatusRequest>,
    ) -> RpcResult<proto::UpdateTaskStatusResponse> {
        let session = self.session_of(&request, &request.get_ref().session_id)?;
        let updates = request.into_inner().updates;
        if updates.len() > UPDATES_MAX {
            return Err(Status::resource_exhausted(format!(
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
        let mut readable = Vec::with_capacity(own.len());
        let mut unreadable = None;
        for update in own {
            let what = format!("status of task {}", update.task_id);
            match parse(&update.status, &what) {
                Ok(status) => readable.push((update.task_id, status)),
                Err(refusal) => unreadable = Some(refusal),
            }
        }
        // What is the node's own and can be read counts, whatever else it says.
        self.reports.submit(session.node_id, readable).await?;
        if !foreign.is_empty() {
            return Err(Status::permission_denied(
                "cannot update a task not assigned this node",
            ));
        }
        unreadable.map_or_else(
            || Ok(Response::new(proto::UpdateTaskStatusResponse {})),
            Err,
        )
    }

    async fn network(
        &self,
        request: Request<proto::NetworkRequest>,
    ) -> RpcResult<Self::NetworkStream> {
        let session = self.session_of(&request, &request.get_ref().session_id)?;
        let mut updates = network::Updates::of(session.clone(), self.kernels.clone());
        let next = move |states: &Option<_>| states.as_ref().and_then(|of| updates.next(of));
        let watched = self.networks.watch();
        let stream = streams::stream_of(&self.store, session, watched, next);
        Ok(Response::new(stream))
    }

    async fn report_network(
        &self,
        request: Request<proto::ReportNetworkRequest>,
    ) -> RpcResult<proto::ReportNetworkResponse> {
        let session = self.session_of(&request, &request.get_ref().session_id)?;
        let Programmed {
            version,
            problems,
            tunnel,
        } = request.into_inner().programmed.unwrap_or_default();
        self.kernels.report(&session, version);
        if let Some(end) = tunnel {
            match tunnel::end_of(&end) {
                Ok(end) => tunnel::note(&self.store, &session.node_id, end).await?,
                // It harms nobody but its own encrypted networks: all else of the node goes on.
                Err(why) => warn!(node = session.node_id, "the node's key is not taken: {why}"),
            }
        }
        for problem in self.problems.report(&session, problems) {
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

fn period_ms(state: &skein_model::State) -> u32 {
    u32::try_from(heartbeat_period(state).as_millis()).unwrap_or(u32::MAX)
}

#[allow(clippy::result_large_err, reason = "tonic's error type")]
fn parse<T: serde::de::DeserializeOwned>(json: &[u8], what: &str) -> Result<T, Status> {
    serde_json::from_slice(json)
        .map_err(|error| Status::invalid_argument(format!("the {what} cannot be read: {error}")))
}
