//! What this node and its swarm are, for Prometheus. What Docker's engine tells of a swarm has Docker's
//! names, so that dashboards and alerts go on as they are; what it does not tell of has ours.

use crate::{
    api::{Member, Store, word},
    manager::Progress,
    node::{LocalState, Membership},
    raft::Leadership,
};
use prometheus_client::{
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};
use serde::Serialize;
use skein_model::{NodeState, State, TaskState};
use std::collections::BTreeMap;

/// Names of an older kind end in `_total` though they count what there is: Docker has them so.
type ByState = Family<[(&'static str, String); 1], Gauge>;
type Identity = Family<[(&'static str, String); 2], Gauge>;

/// What a manager knows.
struct Managed {
    state: State,
    leadership: Leadership,
    /// Managers, and whether the leader reaches them.
    members: Vec<bool>,
    /// How far the nodes' kernels are; of the leader alone.
    kernels: BTreeMap<String, Progress>,
}

impl Managed {
    fn of(store: &dyn Store) -> Self {
        let members = store.members();
        let reached = members.iter();
        Self {
            state: store.state(),
            leadership: store.leadership().borrow().clone(),
            members: reached
                .map(|member| store.reachable(member.raft_id))
                .collect(),
            kernels: store.kernels(),
        }
    }
}

/// Everything, as it is now.
pub fn read(member: &dyn Member) -> Registry {
    let managed = member.store().map(|store| Managed::of(&*store));
    registry(&member.membership(), managed.as_ref())
}

fn registry(membership: &Membership, managed: Option<&Managed>) -> Registry {
    let mut registry = Registry::default();
    let is_member = membership.state == LocalState::Active;
    let node = registry.sub_registry_with_prefix("swarm_node");
    set(
        node,
        "manager",
        "Whether this node is a manager",
        membership.is_manager,
    );
    if is_member {
        let info = Identity::default();
        let labels = [
            ("swarm_id", membership.cluster_id.clone()),
            ("node_id", membership.node_id.clone()),
        ];
        info.get_or_create(&labels).set(1);
        node.register("info", "This node and its swarm", info);
    }
    if let Some(managed) = managed {
        manager(registry.sub_registry_with_prefix("swarm_manager"), managed);
        own(registry.sub_registry_with_prefix("skein_control"), managed);
    }
    registry
}

/// What Docker tells, too.
fn manager(of: &mut Registry, managed: &Managed) {
    let state = &managed.state;
    set(
        of,
        "leader",
        "Whether this manager leads",
        managed.leadership.is_self,
    );
    for (name, help, count) in [
        ("services_total", "Services", state.services().count()),
        ("networks_total", "Networks", state.networks().count()),
        ("secrets_total", "Secrets", state.secrets().count()),
        ("configs_total", "Configs", state.configs().count()),
    ] {
        let gauge = Gauge::<i64>::default();
        gauge.set(number(count));
        of.register(name, help, gauge);
    }
    let nodes = by_state(NodeState::ALL, state.nodes().map(|node| node.status.state));
    of.register("nodes", "Nodes by their state", nodes);
    let tasks = by_state(TaskState::ALL, state.tasks().map(|task| task.status.state));
    of.register("tasks_total", "Tasks by their state", tasks);
}

/// What it has no word for.
fn own(of: &mut Registry, managed: &Managed) {
    let term = Gauge::<i64>::default();
    term.set(i64::try_from(managed.leadership.term).unwrap_or(i64::MAX));
    of.register("raft_term", "Raft's term, as this manager knows it", term);
    let index = Gauge::<i64>::default();
    index.set(i64::try_from(managed.state.index()).unwrap_or(i64::MAX));
    of.register(
        "store_index",
        "The last change that this manager has applied",
        index,
    );
    let managers = Family::<[(&'static str, &'static str); 1], Gauge>::default();
    for (reached, word) in [(true, "reachable"), (false, "unreachable")] {
        let count = managed.members.iter().filter(|member| **member == reached);
        let gauge = managers.get_or_create(&[("reachability", word)]);
        gauge.set(number(count.count()));
    }
    of.register(
        "managers",
        "Managers of the swarm, as this one reaches them",
        managers,
    );
    if managed.leadership.is_self {
        let behind = managed.kernels.values();
        let behind = behind.filter(|progress| progress.programmed < progress.told);
        let gauge = Gauge::<i64>::default();
        gauge.set(number(behind.count()));
        of.register(
            "nodes_behind",
            "Nodes whose kernel does not have the network state that they were sent",
            gauge,
        );
    }
}

fn set(of: &mut Registry, name: &str, help: &str, value: bool) {
    let gauge = Gauge::<i64>::default();
    gauge.set(value.into());
    of.register(name, help, gauge);
}

/// How many there are in each state; those in which there are none have their line, too.
fn by_state<S: Serialize + Copy>(all: &[S], found: impl Iterator<Item = S>) -> ByState {
    let family = ByState::default();
    let of = |state: S| family.get_or_create_owned(&[("state", word(state))]);
    for state in all {
        of(*state).set(0);
    }
    for state in found {
        of(state).inc();
    }
    family
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_model::{Action, Node, Object, Proposal, Task, Timestamp};

    #[test]
    fn a_manager_tells_what_docker_tells_under_the_same_names() {
        let mut state = State::default();
        let mut node = Node {
            id: "n".to_owned(),
            ..Node::default()
        };
        node.status.state = NodeState::Ready;
        let mut task = Task {
            id: "t".to_owned(),
            ..Task::default()
        };
        task.status.state = TaskState::Running;
        let actions = vec![
            Action::Create(Object::from(node)),
            Action::Create(Object::from(task)),
        ];
        let at = Timestamp::from_unix_nanos(1);
        state.apply(7, &Proposal { at, actions }).unwrap();
        let progress = Progress {
            told: 7,
            programmed: 5,
            ..Progress::default()
        };
        let managed = Managed {
            state,
            leadership: Leadership {
                term: 3,
                leader: None,
                is_self: true,
            },
            members: vec![true, true, false],
            kernels: BTreeMap::from([("n".to_owned(), progress)]),
        };
        let membership = Membership {
            state: LocalState::Active,
            node_id: "n".to_owned(),
            cluster_id: "c".to_owned(),
            is_manager: true,
            ..Membership::default()
        };
        let text = skein_metrics::text(&registry(&membership, Some(&managed))).unwrap();
        for line in [
            "swarm_node_manager 1",
            "swarm_node_info{swarm_id=\"c\",node_id=\"n\"} 1",
            "swarm_manager_leader 1",
            "swarm_manager_nodes{state=\"ready\"} 1",
            "swarm_manager_nodes{state=\"down\"} 0",
            "swarm_manager_services_total 0",
            "swarm_manager_tasks_total{state=\"running\"} 1",
            "swarm_manager_tasks_total{state=\"failed\"} 0",
            "skein_control_raft_term 3",
            "skein_control_store_index 7",
            "skein_control_managers{reachability=\"reachable\"} 2",
            "skein_control_nodes_behind 1",
        ] {
            assert!(
                text.contains(&format!("\n{line}\n")),
                "{line} is not in {text}"
            );
        }
        for prefix in ["swarm_", "skein_control_"] {
            skein_metrics::assert_documented(&text, prefix);
        }
        let worker = registry(&Membership::default(), None);
        let text = skein_metrics::text(&worker).unwrap();
        assert!(text.contains("swarm_node_manager 0") && !text.contains("swarm_manager"));
    }
}
