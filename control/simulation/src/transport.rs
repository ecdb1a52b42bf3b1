//! The Raft group's messages on the simulated network.

use crate::{
    executor,
    network::{Broken, Host, Network},
    platform::Simulated,
};
use futures::{FutureExt as _, future::BoxFuture};
use openraft::{
    error::{InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Unreachable},
    network::{RPCOption, RaftNetwork, RaftNetworkFactory},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest,
        InstallSnapshotResponse, VoteRequest, VoteResponse,
    },
};
use parking_lot::Mutex;
use skein_control::raft::{
    Raft,
    foundation::{Contacts, Errands, HandOver, Line, Peer, TypeConfig},
};
use std::{collections::BTreeMap, fmt, sync::Arc};

type Types = TypeConfig<Simulated>;

/// The members that run, and where: for the messages that reach them.
#[derive(Clone, Default)]
pub struct Directory(Arc<Mutex<BTreeMap<Host, Raft<Simulated>>>>);

impl Directory {
    /// A member runs on a host.
    pub fn enter(&self, host: Host, raft: Raft<Simulated>) {
        self.0.lock().insert(host, raft);
    }

    /// It runs no more.
    pub fn leave(&self, host: Host) {
        // Outside the lock: it may be the last handle.
        let gone = self.0.lock().remove(&host);
        drop(gone);
    }

    /// The member on a host.
    pub fn get(&self, host: Host) -> Option<Raft<Simulated>> {
        self.0.lock().get(&host).cloned()
    }
}

/// The ways of one member to the others.
#[derive(Clone)]
pub struct Transport {
    /// Where it is.
    pub host: Host,
    /// What carries its messages.
    pub network: Network,
    /// Whom they reach.
    pub directory: Directory,
    /// Who answered, and when.
    pub contacts: Contacts<Simulated>,
}

impl RaftNetworkFactory<Types> for Transport {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, node: &Peer) -> Connection {
        Connection {
            from: self.host,
            to: crate::host_at(&node.address),
            target,
            network: self.network.clone(),
            directory: self.directory.clone(),
            contacts: self.contacts.clone(),
        }
    }
}

impl Errands for Transport {
    fn line(&self, id: u64, peer: Peer) -> Box<dyn Line> {
        Box::new(Wire {
            transport: self.clone(),
            to: crate::host_at(&peer.address),
            target: id,
        })
    }
}

/// The way to one other member, for the lead to be handed over.
struct Wire {
    transport: Transport,
    to: Option<Host>,
    target: u64,
}

impl Line for Wire {
    fn tell(&self, order: HandOver) -> BoxFuture<'_, Result<(), String>> {
        async move {
            let (directory, target) = (self.transport.directory.clone(), self.target);
            let to = self.to.ok_or("no such host")?;
            let told = move || {
                let raft = directory.get(to).filter(|raft| raft.id() == target);
                async move {
                    let raft = raft.ok_or("the member is not here")?;
                    raft.ordered(order).await
                }
                .boxed()
            };
            let Transport { host, network, .. } = &self.transport;
            let told = network.call(*host, to, told).await;
            told.map_err(|broken| format!("{broken:?}"))?
        }
        .boxed()
    }
}

/// The way to one other member.
pub struct Connection {
    from: Host,
    to: Option<Host>,
    target: u64,
    network: Network,
    directory: Directory,
    contacts: Contacts<Simulated>,
}

/// No answer.
#[derive(Debug)]
struct NoAnswer(&'static str);

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for NoAnswer {}

type Failure<E> = RPCError<u64, Peer, E>;

impl Connection {
    async fn call<A: Send + 'static, E: std::error::Error + Send + 'static>(
        &self,
        option: &RPCOption,
        handle: impl Fn(Raft<Simulated>) -> BoxFuture<'static, Result<A, E>> + Send + Sync + 'static,
    ) -> Result<A, Failure<E>> {
        let unreachable = |reason| Unreachable::new(&NoAnswer(reason));
        let to = self.to.ok_or_else(|| unreachable("no such host"))?;
        let (directory, target) = (self.directory.clone(), self.target);
        let asked = move || {
            let raft = directory.get(to).filter(|raft| raft.id() == target);
            let answer = raft.map(&handle);
            async move { Some(answer?.await) }.boxed()
        };
        let answer = executor::timeout(option.hard_ttl(), self.network.call(self.from, to, asked));
        let answer = match answer.await {
            Err(_) => return Err(NetworkError::new(&NoAnswer("no answer in time")).into()),
            Ok(Err(Broken::Refused)) => return Err(unreachable("connection refused").into()),
            Ok(Err(Broken::Reset)) => return Err(unreachable("connection reset").into()),
            Ok(Ok(None)) => return Err(unreachable("the member is not here").into()),
            Ok(Ok(Some(answer))) => answer,
        };
        self.contacts.answered(self.target);
        answer.map_err(|error| RemoteError::new(self.target, error).into())
    }
}

impl RaftNetwork<Types> for Connection {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Failure<RaftError<u64>>> {
        self.call(&option, move |raft| {
            let rpc = AppendEntriesRequest {
                vote: rpc.vote,
                prev_log_id: rpc.prev_log_id,
                entries: rpc.entries.clone(),
                leader_commit: rpc.leader_commit,
            };
            async move { raft.openraft().append_entries(rpc).await }.boxed()
        })
        .await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, Failure<RaftError<u64>>> {
        self.call(&option, move |raft| {
            let rpc = rpc.clone();
            async move { raft.openraft().vote(rpc).await }.boxed()
        })
        .await
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<Types>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, Failure<RaftError<u64, InstallSnapshotError>>> {
        self.call(&option, move |raft| {
            let rpc = InstallSnapshotRequest {
                vote: rpc.vote,
                meta: rpc.meta.clone(),
                offset: rpc.offset,
                data: rpc.data.clone(),
                done: rpc.done,
            };
            async move { raft.openraft().install_snapshot(rpc).await }.boxed()
        })
        .await
    }
}
