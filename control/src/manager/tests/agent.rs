//! Agents as the dispatcher sees them: one that does as it is told, and one that only listens.

use super::*;
use crate::rpc::PeerIdentity;
use skein_model::{NodeDescription, NodeRole};
use std::collections::BTreeMap;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{interval, timeout},
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Status};

pub fn request<T>(node: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(PeerIdentity {
        node_id: node.into(),
        role: NodeRole::Worker,
    });
    request
}

pub fn session(node: &str) -> Request<proto::SessionRequest> {
    let description = NodeDescription {
        hostname: node.into(),
        ..NodeDescription::default()
    };
    request(
        node,
        proto::SessionRequest {
            description: serde_json::to_vec(&description).unwrap(),
            data_path_address: "198.18.0.1".into(),
        },
    )
}

/// What an agent says of a task.
pub fn status(task: &str, state: TaskState) -> proto::TaskStatusUpdate {
    let status = TaskStatus {
        state,
        ..TaskStatus::default()
    };
    proto::TaskStatusUpdate {
        task_id: task.into(),
        status: serde_json::to_vec(&status).unwrap(),
    }
}

type Messages<T> = ReceiverStream<Result<T, Status>>;

/// An agent by hand.
pub struct Raw {
    parts: Parts<Memory>,
    node: String,
    session_id: String,
    /// Held: the session ends with its stream.
    _session: Messages<proto::SessionMessage>,
    assignments: Messages<proto::AssignmentsMessage>,
    network: Messages<net::EncodedUpdate>,
}

impl Raw {
    pub async fn open(parts: &Parts<Memory>, node: &str) -> Self {
        Self::try_open(parts, node).await.unwrap()
    }

    async fn try_open(parts: &Parts<Memory>, node: &str) -> Result<Self, Status> {
        let dispatcher = parts.dispatcher();
        let mut messages = dispatcher.session(session(node)).await?.into_inner();
        let first = messages.next().await.expect("a first message")?;
        let session_id = first.session_id;
        let assignments = proto::AssignmentsRequest {
            session_id: session_id.clone(),
        };
        let network = proto::NetworkRequest {
            session_id: session_id.clone(),
        };
        let assignments = dispatcher.assignments(request(node, assignments)).await?;
        let network = dispatcher.network(request(node, network)).await?;
        Ok(Self {
            parts: parts.clone(),
            node: node.into(),
            session_id,
            _session: messages,
            assignments: assignments.into_inner(),
            network: network.into_inner(),
        })
    }

    pub fn node(&self) -> &str {
        &self.node
    }

    pub async fn assignments(&mut self) -> proto::AssignmentsMessage {
        let next = timeout(PATIENCE, self.assignments.next()).await;
        next.expect("an assignment in time").unwrap().unwrap()
    }

    /// Why its session has ended.
    pub async fn ended(&mut self) -> Status {
        let end = async {
            loop {
                match self.assignments.next().await {
                    Some(Ok(_)) => {}
                    Some(Err(status)) => return status,
                    None => return Status::unavailable("it ended without a word"),
                }
            }
        };
        timeout(PATIENCE, end).await.expect("an end in time")
    }

    pub async fn network(&mut self) -> net::NetworkUpdate {
        let next = timeout(PATIENCE, self.network.next()).await;
        let update = next.expect("an update in time").unwrap().unwrap();
        update.try_into().unwrap()
    }

    pub async fn report(&self, task: &str, state: TaskState) -> Result<(), Status> {
        self.report_on(&[task], state).await
    }

    /// Several in one call.
    pub async fn report_on(&self, tasks: &[&str], state: TaskState) -> Result<(), Status> {
        self.report_all(tasks.iter().map(|task| status(task, state)).collect())
            .await
    }

    pub async fn report_all(&self, updates: Vec<proto::TaskStatusUpdate>) -> Result<(), Status> {
        let message = proto::UpdateTaskStatusRequest {
            session_id: self.session_id.clone(),
            updates,
        };
        let dispatcher = self.parts.dispatcher();
        dispatcher
            .update_task_status(request(&self.node, message))
            .await
            .map(drop)
    }

    /// Says what the node's kernel has of the network.
    pub async fn programmed(&self, version: u64) {
        let programmed = net::Programmed {
            version,
            ..net::Programmed::default()
        };
        self.report_network(programmed).await.unwrap();
    }

    /// Says the node's end of the tunnels between nodes.
    pub async fn tunnel(&self, public_key: &[u8]) -> Result<(), Status> {
        let end = net::TunnelEnd {
            public_key: public_key.to_vec(),
            port: 4_793,
            ..net::TunnelEnd::default()
        };
        let programmed = net::Programmed {
            tunnel: Some(end),
            ..net::Programmed::default()
        };
        self.report_network(programmed).await
    }

    async fn report_network(&self, programmed: net::Programmed) -> Result<(), Status> {
        let message = proto::ReportNetworkRequest {
            session_id: self.session_id.clone(),
            programmed: Some(programmed),
        };
        let dispatcher = self.parts.dispatcher();
        let taken = dispatcher.report_network(request(&self.node, message));
        taken.await.map(drop)
    }

    async fn heartbeat(&self) -> Result<(), Status> {
        let message = proto::HeartbeatRequest {
            session_id: self.session_id.clone(),
        };
        let dispatcher = self.parts.dispatcher();
        dispatcher
            .heartbeat(request(&self.node, message))
            .await
            .map(drop)
    }

    /// Does as it is told until the session ends.
    async fn obey(&mut self, tasks: &mut BTreeMap<String, Task>) -> Result<(), Status> {
        let mut beats = interval(Duration::from_secs(5));
        loop {
            tokio::select! {
                _ = beats.tick() => self.heartbeat().await?,
                message = self.assignments.next() => {
                    let message = message.ok_or_else(|| Status::unavailable("ended"))??;
                    if message.complete {
                        tasks.clear();
                    }
                    for id in &message.removed_task_ids {
                        tasks.remove(id);
                    }
                    for task in &message.tasks {
                        let task: Task = serde_json::from_slice(task).unwrap();
                        tasks.insert(task.id.clone(), task);
                    }
                }
            }
            for task in tasks.values_mut() {
                let wanted = match task.desired_state {
                    TaskState::Ready => TaskState::Ready,
                    wanted if wanted > TaskState::Running => TaskState::Shutdown,
                    _ => TaskState::Running,
                };
                if !task.status.state.is_terminal() && task.status.state < wanted {
                    self.report(&task.id, wanted).await?;
                    task.status.state = wanted;
                }
            }
        }
    }
}

/// An agent that runs by itself until it is dropped.
pub struct Agent {
    node: String,
    work: JoinHandle<()>,
    session_ids: tokio::sync::watch::Receiver<String>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.work.abort();
    }
}

impl Agent {
    /// Starts it; it has registered when this returns.
    pub async fn start(parts: &Parts<Memory>, node: &str) -> Self {
        let (ids, mut session_ids) = tokio::sync::watch::channel(String::new());
        let (parts, name) = (parts.clone(), node.to_owned());
        let work = tokio::spawn(async move {
            loop {
                if let Ok(mut raw) = Raw::try_open(&parts, &name).await {
                    ids.send_replace(raw.session_id.clone());
                    // What ends a session is tried again, as agents do.
                    let _ = raw.obey(&mut BTreeMap::new()).await;
                }
                sleep(Duration::from_secs(1)).await;
            }
        });
        session_ids.wait_for(|id| !id.is_empty()).await.unwrap();
        Self {
            node: node.into(),
            work,
            session_ids,
        }
    }

    /// The session it has now.
    pub fn session_id(&self) -> String {
        self.session_ids.borrow().clone()
    }

    /// What the log broker asks of it from now on.
    pub async fn subscriptions(
        &self,
        parts: &Parts<Memory>,
    ) -> mpsc::Receiver<proto::LogSubscription> {
        let message = proto::SubscriptionsRequest {
            session_id: self.session_id(),
        };
        let service = parts.logs();
        let answer = service.subscriptions(request(&self.node, message)).await;
        let mut messages = answer.unwrap().into_inner();
        let (sender, receiver) = mpsc::channel(8);
        tokio::spawn(async move {
            while let Some(Ok(message)) = messages.next().await {
                if sender.send(message).await.is_err() {
                    return;
                }
            }
        });
        receiver
    }
}
