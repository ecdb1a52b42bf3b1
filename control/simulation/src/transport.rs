//! The Raft group's messages on the simulated network.

use crate::{
    executor,
    membership::{Membership, Memberships},
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
use skein_control::{
    raft::{
        Raft,
        foundation::{Contacts, LeadershipTransfer, Peer, Peering, TypeConfig, Vote},
    },
    rpc::{PeerIdentity, authorize},
};
use std::{collections::BTreeMap, fmt, sync::Arc};
use tonic::Status;

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

    /// None runs any more.
    pub fn clear(&self) {
        // Outside the lock, as above.
        let gone = std::mem::take(&mut *self.0.lock());
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
    /// As whom members call, and of whom they were told.
    pub memberships: Memberships,
    /// Who answered, and when.
    pub contacts: Contacts<Simulated>,
}

impl Transport {
    fn connection(&self, target: u64, node: &Peer) -> Connection {
        Connection {
            from: self.host,
            to: crate::host_at(&node.address),
            target,
            network: self.network.clone(),
            directory: self.directory.clone(),
            memberships: self.memberships.clone(),
            contacts: self.contacts.clone(),
        }
    }
}

impl RaftNetworkFactory<Types> for Transport {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, node: &Peer) -> Connection {
        self.connection(target, node)
    }
}

/// The way to one other member.
pub struct Connection {
    from: Host,
    to: Option<Host>,
    target: u64,
    network: Network,
    directory: Directory,
    memberships: Memberships,
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

/// What a member asks of another, and as whom.
enum Claim {
    /// To take what it writes, as the leader of this vote.
    Leads(Vote),
    /// To vote for it, or to take it for the member that this vote is for.
    Stands(Vote),
    /// Whether it might.
    Asks,
}

/// Whether the member on a host listens to another: as its service does.
fn listens(raft: &Raft<Simulated>, own: &Membership, caller: &PeerIdentity, claim: &Claim) -> bool {
    let standing = |node_id: &str| raft.standing(node_id);
    let is_allowed = authorize("/skein.node.Raft/", Some(caller), &standing).is_ok();
    is_allowed
        && match claim {
            Claim::Leads(vote) => {
                let told = own.get().map_or_else(Vec::new, |kept| kept.managers);
                raft.takes_leader(caller, vote, &told)
            }
            Claim::Stands(vote) => raft.takes_candidate(caller, vote),
            Claim::Asks => true,
        }
}

impl Connection {
    /// Has the other member do something, if it listens to this one.
    async fn ask<T: Send + 'static>(
        &self,
        claim: Claim,
        handle: impl Fn(Raft<Simulated>) -> BoxFuture<'static, T> + Send + Sync + 'static,
    ) -> Result<T, NoAnswer> {
        let to = self.to.ok_or(NoAnswer("no such host"))?;
        let (directory, target) = (self.directory.clone(), self.target);
        let caller = self
            .memberships
            .get(self.from)
            .and_then(|own| own.identity());
        let caller = caller.ok_or(NoAnswer("no certificate"))?;
        let asked = self.memberships.get(to).ok_or(NoAnswer("no such host"))?;
        let asked = move || {
            let raft = directory.get(to).filter(|raft| raft.id() == target);
            let raft = raft.ok_or("the member is not here");
            let heard = raft.and_then(|raft| match listens(&raft, &asked, &caller, &claim) {
                true => Ok(raft),
                false => Err("permission denied"),
            });
            let answer = heard.map(&handle);
            async move { Ok::<_, &'static str>(answer?.await) }.boxed()
        };
        match self.network.call(self.from, to, asked).await {
            Err(Broken::Refused) => Err(NoAnswer("connection refused")),
            Err(Broken::Reset) => Err(NoAnswer("connection reset")),
            Ok(answer) => answer.map_err(NoAnswer),
        }
    }

    async fn call<A: Send + 'static, E: std::error::Error + Send + 'static>(
        &self,
        claim: Claim,
        option: &RPCOption,
        handle: impl Fn(Raft<Simulated>) -> BoxFuture<'static, Result<A, E>> + Send + Sync + 'static,
    ) -> Result<A, Failure<E>> {
        let answer = executor::timeout(option.hard_ttl(), self.ask(claim, handle)).await;
        let answer = answer.map_err(|_| NetworkError::new(&NoAnswer("no answer in time")))?;
        let answer = answer.map_err(|reason| Unreachable::new(&reason))?;
        self.contacts.answered(self.target);
        answer.map_err(|error| RemoteError::new(self.target, error).into())
    }
}

impl Peering for Connection {
    async fn transfer_leadership(&self, order: LeadershipTransfer) -> Result<(), Status> {
        let take =
            move |raft: Raft<Simulated>| async move { raft.handle_transfer(order).await }.boxed();
        let told = self.ask(Claim::Stands(order.vote), take).await;
        let told = told.map_err(|reason| Status::unavailable(reason.to_string()))?;
        told.map_err(Status::failed_precondition)
    }

    async fn pre_vote(&self) -> Result<bool, Status> {
        let own = self.memberships.get(self.from);
        let caller = own.and_then(|own| own.identity());
        let caller = caller.ok_or_else(|| Status::unavailable("no certificate"))?;
        let answer = move |raft: Raft<Simulated>| {
            let caller = caller.clone();
            async move { raft.pre_vote(&caller).await }.boxed()
        };
        let led = self.ask(Claim::Asks, answer).await;
        led.map_err(|reason| Status::unavailable(reason.to_string()))?
    }
}

impl RaftNetwork<Types> for Connection {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Failure<RaftError<u64>>> {
        self.call(Claim::Leads(rpc.vote), &option, move |raft| {
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
        self.call(Claim::Stands(rpc.vote), &option, move |raft| {
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
        self.call(Claim::Leads(rpc.vote), &option, move |raft| {
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
