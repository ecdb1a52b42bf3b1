//! The draining barrier: no task is told to stop while a node may still send it new flows.
//!
//! A task that is no longer wanted is marked in the network state at once. Each node that balances to
//! it says which state its kernel has; once all of them have one with the mark, and what they sent just
//! before has arrived, the task is `drained`: only then is its own node told of the end. The same in
//! the other direction: an update that starts first stops the old task once every node has the new one.
//!
//! Late nodes are not waited for: what they send to a task that has ended is sent on by its node once.

use crate::{Wake, network_state, node_failure, settled::Scope};
use skein_model::{Draft, NodeState, State, Task, TaskState, Timestamp};
use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// How long nodes are waited for that may be up: many times what a loaded one takes to program its
/// kernel, and half of what Docker gives a task to stop.
pub const NODES_PATIENCE: Duration = Duration::from_secs(5);
/// From the last node's word to the task's end. What was sent to the task just before must have
/// reached its listening socket, been accepted and been read by then: a server that closes its socket
/// resets what waits in its queue. A SYN whose task was picked crosses two nodes; a task on a loaded
/// node may wait for its turn of the CPU some hundred milliseconds.
pub const SETTLE: Duration = Duration::from_millis(500);

/// Up to which state of the store the network in each node's kernel is right: Raft indices by node.
/// Of nodes that are missing, nothing is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Programmed(BTreeMap<String, u64>);

impl FromIterator<(String, u64)> for Programmed {
    fn from_iter<T: IntoIterator<Item = (String, u64)>>(nodes: T) -> Self {
        Self(nodes.into_iter().collect())
    }
}

impl Programmed {
    fn has(&self, node_id: &str, index: u64) -> bool {
        self.0.get(node_id).is_some_and(|known| *known >= index)
    }
}

/// A node that tasks waited for in vain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Late {
    /// The node.
    pub node_id: String,
    /// A task that was let go without it.
    pub task_id: String,
}

/// Whether the node of a task may be told what is wanted of it, where that is its end.
pub fn may_stop(task: &Task) -> bool {
    task.is_wanted() || task.drained || task.status.state.is_terminal()
}

/// The task as its node is to know it: one that may not stop yet is to run.
pub fn as_told(task: &Arc<Task>) -> Arc<Task> {
    if may_stop(task) {
        return task.clone();
    }
    Arc::new(Task {
        desired_state: TaskState::Running,
        ..Task::clone(task)
    })
}

/// Whether nodes may send the task new flows: it has an address, and the network state says that it is
/// ready for as long as it is wanted.
pub fn takes_flows(task: &Task) -> bool {
    has_address(task) && network_state::is_ready(task)
}

fn has_address(task: &Task) -> bool {
    let mut attachments = task.networks_attachments.iter();
    attachments.any(|attachment| attachment.address.is_some())
}

/// The barrier of one leader. What it remembers is only since when tasks wait: a new leader waits
/// again for those that the store does not say to be drained.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    waiting: BTreeMap<String, Waiting>,
    /// Since when this leader has seen successors run that do not have their predecessors' traffic yet.
    successors: BTreeMap<String, Timestamp>,
    late: Vec<Late>,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    since: Timestamp,
    /// A state of the store that has the mark: the first that was seen.
    marked: Option<u64>,
    /// Since when every node has been seen to have the mark.
    confirmed: Option<Timestamp>,
}

impl Waiting {
    fn from(now: Timestamp) -> Self {
        Self {
            since: now,
            marked: None,
            confirmed: None,
        }
    }
}

impl Drain {
    /// Marks as drained what may be told to stop.
    pub(crate) fn run(
        &mut self,
        draft: &mut Draft,
        scope: &Scope,
        programmed: &Programmed,
        wake: &mut Wake,
    ) {
        let unwanted: Vec<Arc<Task>> = scope
            .tasks(draft)
            .filter(|task| !may_stop(task))
            .cloned()
            .collect();
        self.successors.retain(|id, _| {
            let task = draft.task(id);
            task.is_some_and(|task| task.is_wanted() && !task.status.state.is_terminal())
        });
        let ids: BTreeSet<&str> = unwanted.iter().map(|task| task.id.as_str()).collect();
        self.waiting.retain(|id, _| ids.contains(id.as_str()));
        if unwanted.is_empty() {
            return;
        }
        // Cheap: states share their objects.
        let state = draft.state().clone();
        let known = BarrierView::of(&state, programmed);
        for task in &unwanted {
            // Remembered until the store says it: others may be quicker than this draft.
            if self.is_over(draft, &known, task, wake) {
                let mut task = (**task).clone();
                task.drained = true;
                draft.put(task);
            }
        }
    }

    /// The nodes that were not waited for any longer, since this was last asked.
    pub(crate) fn take_late(&mut self) -> Vec<Late> {
        std::mem::take(&mut self.late)
    }

    fn is_over(
        &mut self,
        draft: &Draft,
        known: &BarrierView<'_>,
        task: &Task,
        wake: &mut Wake,
    ) -> bool {
        // No new flow goes to a node that is down, whatever its tasks are marked as.
        if !takes_flows(task) || node_failure::is_gone(draft, &task.node_id) {
            return true;
        }
        let now = draft.now();
        let waiting = self
            .waiting
            .entry(task.id.clone())
            .or_insert(Waiting::from(now));
        if now < waiting.since || waiting.confirmed.is_some_and(|at| now < at) {
            // The clock was set back: nobody knows how long it has been.
            waiting.since = now;
            waiting.confirmed = None;
        }
        // Nobody can know of a mark that is not agreed on yet.
        let agreed = draft.base().task(&task.id);
        let agreed = agreed.filter(|task| !task.is_wanted());
        let seen = agreed.map(|task| task.meta.version.index);
        let index = match (waiting.marked, seen) {
            (Some(index), _) => index,
            (None, Some(index)) => {
                // The nodes' time begins now: agreeing may have taken long.
                waiting.marked = Some(index);
                waiting.since = now;
                index
            }
            (None, None) => {
                wake.on_programmed();
                return false;
            }
        };
        let late = known.late(task, index);
        waiting.confirmed = match late.is_empty() {
            true => waiting.confirmed.or(Some(now)),
            // One has come back that knows nothing of it.
            false => None,
        };
        let due = match waiting.confirmed {
            Some(at) => at + SETTLE,
            None => waiting.since + NODES_PATIENCE,
        };
        if now < due {
            if waiting.confirmed.is_none() {
                wake.on_programmed();
            }
            wake.at(due);
            return false;
        }
        if waiting.confirmed.is_none() {
            let late = late.into_iter().map(|node_id| Late {
                node_id: node_id.to_owned(),
                task_id: task.id.clone(),
            });
            self.late.extend(late);
        }
        true
    }

    /// Whether a task that runs, or did, has the traffic of its predecessor: every node sends it new
    /// flows, or is late. Asks to be woken where it has not.
    pub(crate) fn takes_over(
        &mut self,
        draft: &Draft,
        known: &BarrierView<'_>,
        task: &Task,
        wake: &mut Wake,
    ) -> bool {
        if !has_address(task) || task.status.state.is_terminal() {
            return true;
        }
        if !takes_flows(task) {
            // No node sends it anything. What becomes of it, its own node is to say.
            return false;
        }
        let now = draft.now();
        let since = self.successors.entry(task.id.clone()).or_insert(now);
        // Where the clock was set back, nobody knows how long it has been.
        *since = now.min(*since);
        let patience_ends = task.status.running_since.min(*since) + NODES_PATIENCE;
        if now >= patience_ends {
            return true;
        }
        let agreed = draft.base().task(&task.id).filter(|task| takes_flows(task));
        let confirmed = agreed.is_some_and(|task| {
            let late = known.late(task, task.meta.version.index);
            late.is_empty()
        });
        if !confirmed {
            wake.on_programmed();
            wake.at(patience_ends);
        }
        confirmed
    }
}

/// What the nodes have of the network, in one pass that asks of many tasks: which nodes there are to ask
/// is found out once, and only where one has an address.
pub(crate) struct BarrierView<'a> {
    state: &'a State,
    programmed: &'a Programmed,
    nodes: OnceCell<Nodes<'a>>,
}

impl<'a> BarrierView<'a> {
    /// As a state has the nodes and their networks.
    pub(crate) fn of(state: &'a State, programmed: &'a Programmed) -> Self {
        let nodes = OnceCell::new();
        Self {
            state,
            programmed,
            nodes,
        }
    }

    /// The nodes that balance to a task and do not have a state yet.
    fn late(&self, task: &Task, index: u64) -> Vec<&'a str> {
        let nodes = self.nodes.get_or_init(|| Nodes::of(self.state));
        nodes.late(task, index, self.programmed)
    }
}

/// The nodes that can be waited for, with the networks that they balance on.
struct Nodes<'a>(Vec<(&'a str, BTreeSet<&'a str>)>);

impl<'a> Nodes<'a> {
    fn of(state: &'a State) -> Self {
        // After a change of leader, nodes that were not heard of yet are most likely up.
        let up = state
            .nodes()
            .filter(|node| node.status.state != NodeState::Down)
            .filter(|node| !node.data_path_addr.is_empty());
        let networks = |node: &'a Arc<skein_model::Node>| {
            let networks = network_state::networks_of(state, &node.id);
            (node.id.as_str(), networks)
        };
        Self(up.map(networks).collect())
    }

    /// Those that balance to a task and do not have a state yet.
    fn late(&self, task: &Task, index: u64, programmed: &Programmed) -> Vec<&'a str> {
        let balances = |networks: &BTreeSet<&str>| {
            let mut attachments = task.networks_attachments.iter();
            attachments.any(|a| a.address.is_some() && networks.contains(a.network_id.as_str()))
        };
        let late = self
            .0
            .iter()
            .filter(|(id, networks)| !programmed.has(id, index) && balances(networks));
        late.map(|(id, _)| *id).collect()
    }
}

#[cfg(test)]
mod tests;
