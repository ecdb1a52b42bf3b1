//! The draining barrier: while a node that is up still sends new flows to a task that runs, the task's own node is
//! not told to stop it. Nodes are waited for at most 5 s; who has not said so by then is late.
//!
//! What runs is what the engines have started and has not ended there, and who sends what is what the kernels have:
//! neither is asked of those who decide.

use super::{Invariant, has_ended};
use crate::history::Seen;
use skein_model::{NodeState, State, Task, TaskState};
use skein_proto::{
    network::{EndpointState, object::Object},
    view::View,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// How long nodes are waited for.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Default)]
pub struct DrainingBarrier {
    /// The tasks whose processes run.
    running: BTreeSet<String>,
    /// By node ID: the tasks that its kernel sends new flows to, and the networks on which it does.
    kernels: BTreeMap<String, BTreeSet<(String, String)>>,
    /// Tasks that are no longer wanted, of which their nodes have not been told.
    ending: BTreeMap<String, Ending>,
    /// Tasks of which they have.
    told: BTreeSet<String>,
}

struct Ending {
    /// When the store said so first.
    since: Duration,
    /// The nodes, by ID, that have been up and on a network in every state since: they are waited for.
    /// None where the task's own was down in one of the states.
    awaited: BTreeSet<(String, String)>,
}

/// The nodes that are up, with each network that they balance on.
fn balancing(state: &State) -> BTreeSet<(String, String)> {
    let ingress = state.ingress_network().map(|network| network.id.clone());
    let up = state
        .nodes()
        .filter(|node| node.status.state != NodeState::Down && !node.data_path_addr.is_empty());
    up.flat_map(|node| {
        let here = state.tasks_of_node(&node.id).filter(|task| {
            let now = task.status.state;
            now >= TaskState::Assigned && !has_ended(now)
        });
        let networks = here.flat_map(|task| &task.networks_attachments);
        let networks = networks.map(|attachment| attachment.network_id.clone());
        let id = node.id.clone();
        networks
            .chain(ingress.clone())
            .map(move |network| (id.clone(), network))
            .collect::<Vec<_>>()
    })
    .collect()
}

fn is_up(state: &State, node_id: &str) -> bool {
    let node = state.node(node_id);
    node.is_some_and(|node| node.status.state != NodeState::Down)
}

impl DrainingBarrier {
    fn changed(&mut self, at: Duration, state: &State) {
        let ending = |task: &&std::sync::Arc<Task>| task.desired_state > TaskState::Complete;
        let mut balancing_now = None;
        for task in state.tasks().filter(ending) {
            if self.told.contains(&task.id) {
                continue;
            }
            let awaited = match is_up(state, &task.node_id) {
                true => balancing_now
                    .get_or_insert_with(|| balancing(state))
                    .clone(),
                false => BTreeSet::new(),
            };
            match self.ending.get_mut(&task.id) {
                Some(ending) => ending.awaited.retain(|node| awaited.contains(node)),
                None => {
                    let ending = Ending { since: at, awaited };
                    self.ending.insert(task.id.clone(), ending);
                }
            }
        }
    }

    fn programmed(&mut self, node_id: &str, kernel: &View) {
        let endpoints = kernel.objects.values().filter_map(|object| {
            let Some(Object::Endpoint(endpoint)) = &object.object else {
                return None;
            };
            let is_ready = endpoint.state() == EndpointState::Ready;
            is_ready.then(|| (endpoint.task_id.clone(), endpoint.network_id.clone()))
        });
        self.kernels.insert(node_id.to_owned(), endpoints.collect());
    }

    fn told_to_stop(&mut self, at: Duration, task: &Task) -> Result<(), String> {
        self.told.insert(task.id.clone());
        let Some(ending) = self.ending.remove(&task.id) else {
            return Ok(());
        };
        let waited = at.saturating_sub(ending.since);
        if waited >= PATIENCE || !self.running.contains(&task.id) {
            return Ok(());
        }
        let balances = |(node, network): &&(String, String)| {
            let flow = (task.id.clone(), network.clone());
            let kernel = self.kernels.get(node);
            kernel.is_some_and(|kernel| kernel.contains(&flow))
        };
        match ending.awaited.iter().find(balances) {
            None => Ok(()),
            Some((node, network)) => Err(format!(
                "node {} is told to stop task {}, {waited:?} after it is no longer wanted, while node \
                 {node} sends it new flows on network {network}",
                task.node_id, task.id
            )),
        }
    }
}

impl Invariant for DrainingBarrier {
    fn name(&self) -> &'static str {
        "no task is told to stop while a node sends it new flows"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Changed { at, after, .. } => self.changed(*at, after),
            Seen::Programmed { node_id, kernel } => self.programmed(node_id, kernel),
            Seen::Started { task, .. } => drop(self.running.insert(task.id.clone())),
            Seen::Ended { task_id, .. } => drop(self.running.remove(*task_id)),
            Seen::ToldToStop { at, task } => return self.told_to_stop(*at, task),
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        invariants::testing::{changed, next, service, task},
        network::Host,
    };
    use skein_model::{Network, Node, Object as Stored, SubnetAllocation, TaskNetwork};
    use skein_orchestration::network_state::network_state;

    const AT: Duration = Duration::from_secs(10);

    fn node(id: &str) -> Node {
        let mut node = Node {
            id: id.into(),
            data_path_addr: "198.18.0.1".into(),
            ..Node::default()
        };
        node.status.state = NodeState::Ready;
        node
    }

    /// Nodes n1 and n2, and a task that runs on n1, on the ingress network.
    fn running() -> (State, Task) {
        let mut ingress = Network {
            id: "ingress".into(),
            allocation: Some(SubnetAllocation::whole(4096, "10.0.0.0/24".parse().unwrap()).into()),
            ..Network::default()
        };
        ingress.spec.ingress = true;
        let web = service("web");
        let mut task = task("t", &web, 1);
        task.networks_attachments.push(TaskNetwork {
            network_id: "ingress".into(),
            address: Some("10.0.0.5/24".parse().unwrap()),
            ..TaskNetwork::default()
        });
        let objects: Vec<Stored> = vec![
            ingress.into(),
            node("n1").into(),
            node("n2").into(),
            web.into(),
            task.clone().into(),
        ];
        (next(&State::default(), objects), task)
    }

    struct World {
        invariant: DrainingBarrier,
        state: State,
        task: Task,
    }

    impl World {
        /// Both nodes' kernels send the task new flows; and it is no longer wanted.
        fn ending() -> Self {
            let (state, task) = running();
            let mut world = Self {
                invariant: DrainingBarrier::default(),
                state,
                task,
            };
            let task = world.task.clone();
            let host = Host(1);
            let started = Seen::Started { host, task: &task };
            world.invariant.see(&started).unwrap();
            world.program("n1");
            world.program("n2");
            world.change(|task| task.desired_state = TaskState::Shutdown);
            world
        }

        fn program(&mut self, node_id: &str) {
            let kernel = View::new(self.state.index(), network_state(&self.state, node_id));
            let seen = Seen::Programmed {
                node_id,
                kernel: &kernel,
            };
            self.invariant.see(&seen).unwrap();
        }

        fn change(&mut self, change: impl FnOnce(&mut Task)) {
            change(&mut self.task);
            self.put(self.task.clone());
        }

        fn put(&mut self, object: impl Into<Stored>) {
            let after = next(&self.state, vec![object.into()]);
            let seen = changed(AT, &self.state, &after);
            self.invariant.see(&seen).unwrap();
            self.state = after;
        }

        fn told_after(&mut self, waited: Duration) -> Result<(), String> {
            self.invariant.see(&Seen::ToldToStop {
                at: AT + waited,
                task: &self.task,
            })
        }
    }

    #[test]
    fn a_task_that_is_told_before_a_node_has_the_mark_is_noticed() {
        World::ending().told_after(Duration::ZERO).unwrap_err();
        let mut world = World::ending();
        world.program("n1");
        world.told_after(Duration::ZERO).unwrap_err();
        let mut world = World::ending();
        world.program("n1");
        world.program("n2");
        world.told_after(Duration::ZERO).unwrap();
    }

    #[test]
    fn late_nodes_and_those_that_are_down_are_not_waited_for() {
        let mut world = World::ending();
        world.told_after(PATIENCE).unwrap();
        let mut world = World::ending();
        world.program("n1");
        for state in [NodeState::Down, NodeState::Ready] {
            let mut other = node("n2");
            other.meta = world.state.node("n2").unwrap().meta.clone();
            other.status.state = state;
            world.put(other);
        }
        world.told_after(Duration::ZERO).unwrap();
    }

    #[test]
    fn what_does_not_run_may_stop_at_once() {
        let mut world = World::ending();
        let ended = Seen::Ended {
            host: Host(1),
            task_id: "t",
        };
        world.invariant.see(&ended).unwrap();
        world.told_after(Duration::ZERO).unwrap();
    }
}
