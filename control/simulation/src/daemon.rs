//! What runs on a host that is a member, as the real node has it: the agent; what renews the certificate; and the
//! manager, which comes and goes with the role. What is done about the role is the real node's own decision.

use crate::{
    agent::{self, Agent},
    executor::{self, Process, Random},
    history::Seen,
    member::{self, Seat, Surroundings},
    membership::{Membership, managers_of},
    platform::Simulated,
    route::Route,
};
use futures::FutureExt as _;
use rand::Rng as _;
use skein_control::{
    agent::{Orders, RaftSeat},
    manager::Manager,
    node::role_plan::{Situation, Step},
    raft::Raft,
    rpc::RemoteManager,
};
use skein_model::NodeRole;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// One attempt to become a member of the group, and to get another certificate: as the real node's.
const JOIN_GROUP_TIMEOUT: Duration = Duration::from_secs(20);
const RENEW_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the others may take to let a manager go that leaves: as the real node's.
const LEAVE_GROUP_TIMEOUT: Duration = Duration::from_secs(8);
/// After a step that failed.
const RETRY_MS: (u64, u64) = (250, 4_000);
/// How long it takes to write down what is kept, and to remove a log.
const KEEP_MS: (u64, u64) = (1, 20);

/// What a host's daemon runs.
#[derive(Clone)]
pub struct Daemon {
    /// Its world.
    pub around: Surroundings,
    /// Where its manager runs.
    pub seat: Seat,
    /// What it keeps.
    pub membership: Membership,
    /// Its agent.
    pub agent: Agent,
}

/// Runs until its process dies.
pub async fn run(daemon: Daemon, process: Process) {
    let (orders, heard) = watch::channel(Orders::default());
    executor::spawn(agent::run(daemon.agent.clone(), orders));
    executor::spawn(daemon.clone().renew(heard.clone()));
    let roles = Roles {
        daemon,
        process,
        running: None,
        joined_at: 0,
        is_open: false,
    };
    roles.follow(heard).await;
}

async fn pause((least, most): (u64, u64)) {
    executor::sleep(Duration::from_millis(Random.random_range(least..=most))).await;
}

impl Daemon {
    fn route(&self) -> Route {
        let around = &self.around;
        let (network, managers) = (around.network.clone(), around.managers.clone());
        Route::new(self.seat.host, network, managers, self.membership.clone())
    }

    /// Gets the certificate that the managers say it is to have.
    async fn renew(self, mut orders: watch::Receiver<Orders>) {
        let route = self.route();
        loop {
            let wanted = orders.borrow_and_update().role;
            let certified = self.membership.get().map(|kept| kept.certified);
            if wanted.is_none() || wanted == certified {
                if orders.changed().await.is_err() {
                    return;
                }
                continue;
            }
            if let Err(status) = self.renew_once(&route).await {
                route.redirect(&status);
                pause(RETRY_MS).await;
            }
        }
    }

    async fn renew_once(&self, route: &Route) -> Result<(), Status> {
        let kept = self.membership.get();
        let node_id = kept.map(|kept| kept.node_id).unwrap_or_default();
        let asking = route.call(route.target()?, RENEW, RENEW_TIMEOUT, move |manager| {
            let node_id = node_id.clone();
            async move { role_of(&manager, &node_id).await }.boxed()
        });
        let role = asking.await?;
        pause(KEEP_MS).await;
        let line = format!("{:?}: {role:?}", self.seat.host);
        self.around.history.tell("certified", line);
        self.membership.change(|kept| kept.certified = role);
        Ok(())
    }

    /// Lets the group go on without this host's manager, which is about to leave.
    ///
    /// # Errors
    /// Nobody said so in time: it may be a member still.
    pub async fn leave_group(&self) -> Result<(), Status> {
        let kept = self.membership.get();
        let node_id = kept.map(|kept| kept.node_id).unwrap_or_default();
        let route = self.route();
        let left = executor::timeout(LEAVE_GROUP_TIMEOUT, async {
            loop {
                let node_id = node_id.clone();
                let asking = route.call(
                    route.target()?,
                    LEAVE_GROUP,
                    LEAVE_GROUP_TIMEOUT,
                    move |manager| {
                        let node_id = node_id.clone();
                        async move { Ok(manager.raft().remove_manager(&node_id).await?) }.boxed()
                    },
                );
                match asking.await {
                    Ok(()) => return Ok(()),
                    Err(status) => route.redirect(&status),
                }
                pause(RETRY_MS).await;
            }
        });
        left.await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))
    }
}

const RENEW: &str = "/skein.node.Ca/Renew";
const JOIN_GROUP: &str = "/skein.node.Raft/JoinGroup";
const LEAVE_GROUP: &str = "/skein.node.Raft/LeaveGroup";

async fn role_of(manager: &Manager<Simulated>, node_id: &str) -> Result<NodeRole, Status> {
    let state = manager.raft().linearizable().await?;
    let unknown = || Status::permission_denied("this node is not part of the swarm");
    Ok(state.node(node_id).ok_or_else(unknown)?.role)
}

/// What a node gets that is let into the group: its ID, the managers, and a state that has it.
type Joined = (u64, Vec<RemoteManager>, u64);

/// A manager at work.
struct Running {
    manager: Manager<Simulated>,
    raft: Raft<Simulated>,
    shutdown: CancellationToken,
}

/// What follows the role.
struct Roles {
    daemon: Daemon,
    process: Process,
    running: Option<Running>,
    joined_at: u64,
    /// The disk is synced already.
    is_open: bool,
}

impl Roles {
    async fn follow(mut self, mut orders: watch::Receiver<Orders>) {
        let mut kept = self.daemon.membership.watch();
        loop {
            kept.mark_unchanged();
            let place = orders.borrow_and_update().place;
            match self.step(place).await {
                Ok(Step::Rest) => {}
                Ok(_) => continue,
                Err(status) => {
                    let line = format!("{:?}: {}", self.daemon.seat.host, status.message());
                    self.daemon.around.history.tell("no-role", line);
                    pause(RETRY_MS).await;
                    continue;
                }
            }
            let reason = tokio::select! {
                biased;
                _ = kept.changed() => continue,
                _ = orders.changed() => continue,
                reason = failure(self.running.as_ref()) => reason,
            };
            let line = format!("{:?}: {reason}", self.daemon.seat.host);
            self.daemon.around.history.tell("raft-ended", line);
            self.stop().await;
        }
    }

    /// Takes the next step.
    async fn step(&mut self, place: RaftSeat) -> Result<Step, Status> {
        let Some(kept) = self.daemon.membership.get() else {
            return Ok(Step::Rest);
        };
        let address = crate::address_of(self.daemon.seat.host);
        let stored = self.running.as_ref().and_then(|running| {
            let state = running.raft.state();
            let member = state.cluster()?.managers.get(&kept.node_id)?;
            (member.raft_id == running.raft.id()).then(|| member.addr.clone())
        });
        let situation = Situation {
            certified: kept.certified,
            place,
            raft_id: kept.raft_id,
            joined_at: self.joined_at,
            has_log: self.daemon.seat.disk.has_log(),
            runs: self.running.is_some(),
            address: Some(&address),
            stored_address: stored.as_deref(),
        };
        let step = situation.next();
        match step {
            Step::Rest => {}
            Step::Take(id) => self.take(id, &kept.node_id).await,
            Step::Join => self.join(&kept.node_id).await?,
            Step::GiveUp => self.give_up(kept.raft_id).await,
            // No host here gets another address.
            Step::Readdress => return Err(Status::internal("this host has one address")),
        }
        Ok(step)
    }

    async fn take(&mut self, id: u64, node_id: &str) {
        let Daemon {
            around,
            seat,
            membership,
            ..
        } = &self.daemon;
        let loaded = match std::mem::replace(&mut self.is_open, true) {
            true => seat.disk.reopen().await,
            false => seat.disk.open(self.process),
        };
        around.history.see(&Seen::MemberStarted {
            host: seat.host,
            node_id,
            raft_id: id,
            has_log: !loaded.entries.is_empty() || loaded.snapshot.is_some(),
        });
        let shutdown = CancellationToken::new();
        let (manager, raft) = member::start(around, seat, id, loaded, shutdown.clone()).await;
        executor::spawn(hear_of_managers(
            raft.watch(),
            membership.clone(),
            shutdown.clone(),
        ));
        self.running = Some(Running {
            manager,
            raft,
            shutdown,
        });
    }

    async fn join(&mut self, node_id: &str) -> Result<(), Status> {
        let (daemon, route) = (&self.daemon, self.daemon.route());
        let (raft_id, managers, index) = join_group(daemon, &route, node_id)
            .await
            .inspect_err(|status| route.redirect(status))?;
        pause(KEEP_MS).await;
        let history = &daemon.around.history;
        let line = format!("{:?} as member {raft_id}", daemon.seat.host);
        history.tell("seat", line);
        history.see(&Seen::SeatTaken { node_id, raft_id });
        daemon.membership.change(|kept| {
            kept.raft_id = Some(raft_id);
            kept.managers = managers;
        });
        self.joined_at = index;
        Ok(())
    }

    async fn give_up(&mut self, raft_id: Option<u64>) {
        self.stop().await;
        let daemon = &self.daemon;
        pause(KEEP_MS).await;
        daemon.membership.change(|kept| kept.raft_id = None);
        if let Some(raft_id) = raft_id {
            let line = format!("{:?} as member {raft_id}", daemon.seat.host);
            daemon.around.history.tell("no-seat", line);
            daemon.around.history.see(&Seen::SeatGivenUp { raft_id });
        }
        pause(KEEP_MS).await;
        daemon.seat.disk.wipe();
    }

    async fn stop(&mut self) {
        let Some(running) = self.running.take() else {
            return;
        };
        member::stopped(&self.daemon.around, self.daemon.seat.host);
        running.shutdown.cancel();
        running.manager.disconnect_nodes().await;
        running.raft.stop().await;
    }
}

async fn failure(running: Option<&Running>) -> String {
    match running {
        Some(running) => running.raft.failure().await,
        None => std::future::pending().await,
    }
}

async fn join_group(daemon: &Daemon, route: &Route, node_id: &str) -> Result<Joined, Status> {
    let (node_id, address) = (node_id.to_owned(), crate::address_of(daemon.seat.host));
    let asking = route.call(
        route.target()?,
        JOIN_GROUP,
        JOIN_GROUP_TIMEOUT,
        move |manager| {
            let (node_id, address) = (node_id.clone(), address.clone());
            async move {
                let raft = manager.raft();
                let (raft_id, _) = raft.add_manager(&node_id, &address).await?;
                let state = raft.state();
                Ok((raft_id, managers_of(&state), state.index()))
            }
            .boxed()
        },
    );
    asking.await
}

/// Keeps a manager's own list of managers what its store says.
async fn hear_of_managers(
    mut states: watch::Receiver<skein_model::State>,
    membership: Membership,
    shutdown: CancellationToken,
) {
    loop {
        let managers = managers_of(&states.borrow_and_update());
        membership.hear_of(managers);
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            changed = states.changed() => if changed.is_err() { return },
        }
    }
}
