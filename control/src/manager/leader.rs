//! The leader's loop: whenever the store changes, decides what follows from it.

use super::{
    certificates::{self, Wanted},
    heartbeats::Pulse,
    kernels::Kernels,
    networks::Networks,
    problems::Problems,
    quorum::QuorumView,
    roles,
    sessions::Sessions,
    store::{self, Store},
};
use crate::raft::{
    Leadership, ProposeError,
    platform::{self, Instant, Platform},
};
use rand::{SeedableRng, rngs::StdRng};
use skein_model::{Draft, Rejection};
use skein_orchestration::{
    Orchestration,
    drain::{NODES_PATIENCE, Programmed},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// Least time between two passes: a burst of reports is decided on at once.
const PASS_INTERVAL: Duration = Duration::from_millis(20);
/// Time before the next attempt when the store took nothing.
const RETRY: Duration = Duration::from_millis(500);
/// Longest time between two passes: should a wake-up ever be missed, the cluster still moves.
const PASS_INTERVAL_MAX: Duration = Duration::from_secs(30);

/// Decides whenever this manager leads, until the shutdown.
pub(super) async fn run<S: Store>(
    store: S,
    pulse: Arc<Pulse<S::Platform>>,
    sessions: Sessions,
    problems: Problems,
    kernels: Kernels,
    networks: Networks,
    shutdown: CancellationToken,
) {
    let mut leadership = store.leadership();
    loop {
        let leading = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            leading = leadership.wait_for(|now| now.is_self) => leading.map(|now| now.term),
        };
        let Ok(term) = leading else { break };
        info!(term, "this manager leads");
        pulse.begin(term);
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            () = lost(&mut leadership, term) => info!(term, "this manager leads no more"),
            _ = async {
                tokio::join!(
                    lead(&store, &pulse, &kernels),
                    networks.follow(&store),
                    sessions.follow(&store),
                    forget_removed(&store, &sessions, &problems, &kernels),
                )
            } => {}
        }
        sessions.end_all();
        problems.forget();
        kernels.forget();
        networks.forget();
    }
    sessions.end_all();
}

/// Ends the sessions of nodes that are removed, and keeps nothing of them, until Raft has ended.
async fn forget_removed<S: Store>(
    store: &S,
    sessions: &Sessions,
    problems: &Problems,
    kernels: &Kernels,
) {
    let mut states = store.watch();
    let mut before = states.borrow_and_update().clone();
    loop {
        if states.changed().await.is_err() {
            return;
        }
        let now = states.borrow_and_update().clone();
        let removed = now.changed_nodes(&before);
        let removed = removed.filter_map(|(old, new)| old.filter(|_| new.is_none()));
        for node in removed {
            // The session first: nothing more is heard of the node then.
            sessions.end(&node.id);
            problems.forget_node(&node.id);
            kernels.forget_node(&node.id);
        }
        before = now;
    }
}

/// Ends when the term is over, or another manager leads.
async fn lost(leadership: &mut watch::Receiver<Leadership>, term: u64) {
    let over = |now: &Leadership| !now.is_self || now.term != term;
    // An error means that Raft has ended, and with it the term.
    let _ = leadership.wait_for(over).await;
}

/// All that one pass works with; moved to where it may take its time, and back.
struct Pass {
    cores: Orchestration,
    rng: StdRng,
    wanted: Wanted,
}

impl Pass {
    fn new<P: Platform>() -> Self {
        Self {
            cores: Orchestration::default(),
            rng: StdRng::from_rng(&mut P::rng()),
            wanted: Wanted::default(),
        }
    }
}

async fn lead<S: Store>(store: &S, pulse: &Arc<Pulse<S::Platform>>, kernels: &Kernels) {
    let mut states = store.watch();
    let mut pass = Pass::new::<S::Platform>();
    let mut certain = false;
    loop {
        // Before the first pass, and after proposals of which nobody knows what became: a decision
        // on an old state would make things twice. So would one while such a proposal may still be made.
        while !certain {
            match store.settled().await {
                Ok(_) => certain = true,
                Err(error) => {
                    debug!(%error, "waiting for the store to be up to date");
                    platform::sleep::<S::Platform>(RETRY).await;
                }
            }
        }
        let state = states.borrow_and_update().clone();
        let mut wake = platform::now::<S::Platform>() + PASS_INTERVAL_MAX;
        let mut awaits_nodes = false;
        if state.cluster().is_some() {
            let draft = Draft::new(state, store.now());
            let pulse = pulse.clone();
            let group = QuorumView::of(store.members(), |id| store.reachable(id));
            let programmed = kernels.programmed();
            let deciding = move || Ok(decide(pass, draft, &pulse, &group, &programmed));
            let decided = S::Platform::blocking(deciding).await;
            let Ok((same_pass, draft, due)) = decided else {
                // The cores panicked: begin again with new ones rather than lead without any.
                warn!("a decision failed; see the message above. Deciding anew");
                pass = Pass::new::<S::Platform>();
                platform::sleep::<S::Platform>(RETRY).await;
                continue;
            };
            pass = same_pass;
            wake = due.at.map_or(wake, |due| due.min(wake));
            awaits_nodes = due.awaits_nodes;
            match store::propose_all(store, draft).await {
                Ok(()) => {}
                Err(ProposeError::Rejected(rejection @ Rejection::TooLarge { .. })) => {
                    warn!(%rejection, "a change cannot be stored: going on without it");
                }
                Err(ProposeError::Rejected(rejection)) => {
                    debug!(%rejection, "others were quicker: deciding anew");
                    wake = platform::now::<S::Platform>();
                }
                Err(error) => {
                    warn!(%error, "the store took no change: trying again");
                    certain = false;
                    platform::sleep::<S::Platform>(RETRY).await;
                    continue;
                }
            }
        }
        platform::sleep::<S::Platform>(PASS_INTERVAL).await;
        tokio::select! {
            biased;
            changed = states.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = pulse.registration() => {}
            () = kernels.news(), if awaits_nodes => {}
            () = platform::sleep_until::<S::Platform>(wake) => {}
        }
    }
}

/// When the next pass is due if nothing happens before.
struct Due<P: Platform> {
    at: Option<Instant<P>>,
    /// Also when a node's kernel has got further.
    awaits_nodes: bool,
}

/// One pass, and what it changed.
fn decide<P: Platform>(
    mut pass: Pass,
    mut draft: Draft,
    pulse: &Pulse<P>,
    group: &QuorumView,
    programmed: &Programmed,
) -> (Pass, Draft, Due<P>) {
    let now = platform::now::<P>();
    let judged = pulse.judge(&mut draft);
    let roles = roles::tend(&mut draft, group).map(|pause| now + pause);
    let certificates = certificates::tend(&mut draft, &mut pass.wanted);
    let wake = pass.cores.run(&mut draft, programmed, &mut pass.rng);
    for late in pass.cores.take_late() {
        warn!(
            node = late.node_id,
            task = late.task_id,
            "the node has not said within {NODES_PATIENCE:?} that it sends the task no new \
             connections: the task is stopped all the same; look into the node's log"
        );
    }
    let due = [certificates, wake.earliest()].into_iter().flatten().min();
    let due = due.map(|due| now + due.since(draft.now()));
    let due = Due {
        at: [judged, roles, due].into_iter().flatten().min(),
        awaits_nodes: wake.awaits_nodes(),
    };
    (pass, draft, due)
}
