//! Once faults stop, the cluster comes to be what its specs say, and the nodes run just that.

use super::{Invariant, has_ended, is_wanted};
use crate::history::{Cluster, Seen};
use skein_model::{
    Availability, Node, NodeRole, NodeState, Service, ServiceMode, State, Task, TaskSpec,
    TaskState, UpdateState,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub struct Convergence;

/// What the cluster lacks to be what its specs say; `None` if nothing.
pub fn shortfall(cluster: &Cluster) -> Option<String> {
    check(cluster).err()
}

fn check(cluster: &Cluster) -> Result<(), String> {
    if cluster.leaders.len() != 1 {
        return Err(format!("managers that lead: {:?}", cluster.leaders));
    }
    let newest = cluster.states.values().max_by_key(|state| state.index());
    let state = newest.ok_or("no manager runs")?;
    if let Some((host, behind)) = cluster.states.iter().find(|(_, s)| *s != state) {
        return Err(format!(
            "{host:?} is at index {} of {}",
            behind.index(),
            state.index()
        ));
    }
    for node in state.nodes() {
        let is_here = cluster.running.contains_key(&node.id);
        if is_here != (node.status.state == NodeState::Ready) {
            return Err(format!("node {} is {:?}", node.id, node.status.state));
        }
    }
    check_roles(cluster, state)?;
    // On a node that is away it may run still: it is kept until the node comes back, or is removed.
    let may_run = |task: &Task| {
        let is_known = state.node(&task.node_id).is_some();
        is_known && !cluster.running.contains_key(&task.node_id)
    };
    for network in state.networks() {
        let mut tasks = state.tasks();
        let is_held = |task: &Arc<Task>| {
            let mut places = task.networks_attachments.iter();
            let is_on = places.any(|place| place.network_id == network.id);
            is_on && !has_ended(task.status.state) && may_run(task)
        };
        if network.pending_deletion && !tasks.any(is_held) {
            return Err(format!("network {} is not removed", network.id));
        }
        if network.allocation.is_none() {
            let (id, error) = (&network.id, &network.allocation_error);
            return Err(format!("network {id} has no subnet: {error}"));
        }
    }
    for service in state.services() {
        check_service(state, service).map_err(|lack| {
            let (name, mode) = (&service.spec.name, service.spec.mode);
            format!("service {name} ({}, {mode:?}): {lack}", service.id)
        })?;
    }
    let mut tasks = state.tasks();
    let is_left = |task: &&Arc<Task>| state.service(&task.service_id).is_none() && !may_run(task);
    if let Some(task) = tasks.find(is_left) {
        return Err(format!("task {} is of a service that is gone", task.id));
    }
    check_nodes(cluster, state)
}

/// Who is to be a manager is one, and nobody else.
fn check_roles(cluster: &Cluster, state: &State) -> Result<(), String> {
    for node in state.nodes() {
        let (id, now, wanted) = (&node.id, node.role, node.spec.role);
        if now != wanted {
            return Err(format!("node {id} is a {now:?}, and is to be a {wanted:?}"));
        }
    }
    let is_manager = |node: &&Arc<Node>| node.role == NodeRole::Manager;
    let wanted = state.nodes().filter(is_manager);
    let wanted: BTreeSet<String> = wanted.map(|node| node.id.clone()).collect();
    let seats = state.cluster().map(|cluster| cluster.managers.keys());
    let seats: BTreeSet<String> = seats.into_iter().flatten().cloned().collect();
    if wanted != seats || wanted != cluster.voters {
        let voters = &cluster.voters;
        return Err(format!(
            "managers wanted: {wanted:?}, with seats: {seats:?}, that vote: {voters:?}"
        ));
    }
    match cluster.states.len() == wanted.len() {
        true => Ok(()),
        false => Err(format!("managers on {:?}", cluster.states.keys())),
    }
}

/// The nodes that are to have a task of every global service.
fn active(state: &State) -> impl Iterator<Item = &Arc<Node>> {
    let nodes = state.nodes();
    nodes.filter(|node| {
        let is_active = node.spec.availability == Availability::Active;
        is_active && node.status.state == NodeState::Ready
    })
}

/// Whether a port that the service asks for is another one's. Two users who ask at once are both
/// taken for the first, and the second one's service waits.
fn waits_for_a_port(state: &State, service: &Service) -> bool {
    let asked = service.spec.endpoint_spec.iter().flat_map(|e| &e.ports);
    let asked: Vec<_> = asked.map(|p| (p.protocol, p.published_port)).collect();
    let others = state.services().filter(|other| other.id != service.id);
    let mut theirs = others.flat_map(|other| &other.endpoint.ports);
    theirs.any(|port| asked.contains(&(port.protocol, port.published_port)))
}

fn check_service(state: &State, service: &Service) -> Result<(), String> {
    if !service.allocation_error.is_empty() {
        return match waits_for_a_port(state, service) {
            true => Ok(()),
            false => Err(service.allocation_error.clone()),
        };
    }
    let tasks: Vec<&Arc<Task>> = state.tasks_of_service(&service.id).collect();
    let wanted: Vec<&Arc<Task>> = tasks.iter().copied().filter(|t| is_wanted(t)).collect();
    let complete: BTreeSet<(u64, &str)> = tasks
        .iter()
        .filter(|task| task.status.state == TaskState::Complete)
        .filter(|task| task.job_iteration == service.job_iteration())
        .map(|task| place(task))
        .collect();
    let status = service.update_status.as_ref().map(|status| status.state);
    // An update that stopped at a failure waits for its user. Where it starts new tasks first, it leaves
    // the old ones beside them.
    let paused = matches!(
        status,
        Some(UpdateState::Paused | UpdateState::RollbackPaused)
    );
    // And one whose tasks find no node waits for one.
    let waits = |task: &&Arc<Task>| waits_for_a_node(state, &wanted, task);
    let waiting = wanted.iter().filter(|task| waits(task)).count();
    match service.spec.mode {
        ServiceMode::Replicated { replicas } => {
            let slots: BTreeSet<u64> = wanted.iter().map(|task| task.slot).collect();
            let most = match paused || waiting > 0 {
                true => 2 * replicas,
                false => replicas,
            };
            if slots.len() as u64 != replicas || wanted.len() as u64 > most {
                return Err(format!(
                    "tasks wanted in slots: {slots:?}, {}",
                    wanted.len()
                ));
            }
        }
        ServiceMode::Global {} => {
            let on: BTreeSet<&str> = wanted.iter().map(|task| task.node_id.as_str()).collect();
            let mut eligible =
                active(state).filter(|node| satisfies(node, &service.spec.task_template));
            if let Some(node) = eligible.find(|node| !on.contains(node.id.as_str())) {
                return Err(format!("no task on node {}", node.id));
            }
        }
        ServiceMode::ReplicatedJob {
            total_completions, ..
        } => {
            let is_done = complete.len() as u64 == total_completions && wanted.is_empty();
            let is_stuck = waiting > 0 && waiting == wanted.len();
            if !is_done && !is_stuck {
                let under_way = wanted.len();
                return Err(format!("complete: {complete:?}, under way: {under_way}"));
            }
        }
        ServiceMode::GlobalJob {} => {
            let done = |node: &Node| complete.contains(&(0, node.id.as_str()));
            let is_stuck = |node: &Node| wanted.iter().any(|t| t.node_id == node.id && waits(t));
            let mut eligible =
                active(state).filter(|node| satisfies(node, &service.spec.task_template));
            if let Some(node) = eligible.find(|node| !done(node) && !is_stuck(node)) {
                return Err(format!("not complete on node {}", node.id));
            }
        }
    }
    let updating = matches!(
        status,
        Some(UpdateState::Updating | UpdateState::RollbackStarted)
    );
    if updating && waiting == 0 {
        return Err(format!("the update is under way: {status:?}"));
    }
    for &task in &wanted {
        let waits = waits(&task) || waits_for_its_node(state, task);
        if waits || paused && waits_for_its_successor(&wanted, task) {
            continue;
        }
        check_task(state, service, task)?;
        if !paused && !updating && !is_of_now(state, service, task) {
            return Err(format!("task {} is of an earlier spec", task.id));
        }
    }
    Ok(())
}

/// Whether a task is what its service says, or where it would be placed by that and otherwise the same. A paused node
/// keeps its tasks, whatever its labels have come to be.
pub(super) fn is_of_now(state: &State, service: &Service, task: &Task) -> bool {
    let now = &service.spec.task_template;
    let placed_now = TaskSpec {
        placement: now.placement.clone(),
        ..task.spec.clone()
    };
    let stays =
        |node: &Arc<Node>| node.spec.availability == Availability::Pause || satisfies(node, now);
    placed_now == *now && state.node(&task.node_id).is_some_and(stays)
}

/// Whether a task is bound to a paused node: it stays as it is, if it runs, and else waits.
fn waits_for_its_node(state: &State, task: &Task) -> bool {
    let node = state.node(&task.node_id);
    let is_paused = node.is_some_and(|node| node.spec.availability == Availability::Pause);
    task.mode.is_global() && is_paused
}

/// Whether no node takes a task: none satisfies its constraints and has room for it.
fn waits_for_a_node(state: &State, wanted: &[&Arc<Task>], task: &Task) -> bool {
    let of_service_on = |node: &Node| {
        let others = wanted.iter().filter(|other| other.id != task.id);
        others.filter(|other| other.node_id == node.id).count() as u64
    };
    let most = task.spec.placement.as_ref().map_or(0, |p| p.max_replicas);
    let suits = |node: &&Arc<Node>| {
        let is_bound_elsewhere = !task.node_id.is_empty() && task.node_id != node.id;
        !is_bound_elsewhere
            && satisfies(node, &task.spec)
            && free(state, node) >= reserved(task)
            && (most == 0 || of_service_on(node) < most)
    };
    task.status.state == TaskState::Pending && !active(state).any(|node| suits(&node))
}

/// Whether a node has the labels that a task asks for. What users ask for here is one label's value, or
/// that it is another.
fn satisfies(node: &Node, task: &TaskSpec) -> bool {
    let constraints = task.placement.iter().flat_map(|p| &p.constraints);
    let mut unmet = constraints.filter(|constraint| {
        let label = |key: &str| {
            let name = key.strip_prefix("node.labels.").unwrap_or_default();
            node.spec.labels.get(name).map_or("", String::as_str)
        };
        match (constraint.split_once("=="), constraint.split_once("!=")) {
            (Some((key, value)), _) => label(key) != value,
            (_, Some((key, value))) => label(key) == value,
            (None, None) => true,
        }
    });
    unmet.next().is_none()
}

/// Nano-CPUs that a task reserves.
fn reserved(task: &Task) -> i64 {
    let resources = task.spec.resources.as_ref();
    let reserved = resources.and_then(|resources| resources.reservations.as_ref());
    reserved.map_or(0, |reserved| reserved.nano_cpus)
}

/// Nano-CPUs that no task of the node has reserved.
fn free(state: &State, node: &Node) -> i64 {
    let has_room =
        |task: &&Arc<Task>| (TaskState::Assigned..=TaskState::Running).contains(&task.status.state);
    let taken = state.tasks_of_node(&node.id).filter(has_room);
    node.description.resources.nano_cpus - taken.map(|task| reserved(task)).sum::<i64>()
}

/// Whether a task that never ran is kept beside one that runs in its place, and has what it waits for: a
/// port of the node, say.
fn waits_for_its_successor(wanted: &[&Arc<Task>], task: &Task) -> bool {
    let runs_there = |other: &&Arc<Task>| {
        other.status.state == TaskState::Running && place(other) == place(task)
    };
    task.status.state == TaskState::Pending && wanted.iter().any(runs_there)
}

/// Where a task is: its slot, or its node where it is bound to that.
fn place(task: &Task) -> (u64, &str) {
    match task.mode.is_global() {
        true => (0, task.node_id.as_str()),
        false => (task.slot, ""),
    }
}

fn check_task(state: &State, service: &Service, task: &Task) -> Result<(), String> {
    let (id, now, desired) = (&task.id, task.status.state, task.desired_state);
    if (now, desired) != (TaskState::Running, TaskState::Running) {
        let why = &task.status.err;
        return Err(format!("task {id} is {now}, to be {desired}: {why}"));
    }
    let node = state.node(&task.node_id);
    let node = node.ok_or_else(|| format!("task {id} is on node {:?}", task.node_id))?;
    // A placement that has changed, and is met where the task runs, replaces no task; and a paused node keeps
    // those that it has, whatever becomes of its labels.
    let wanted = &service.spec.task_template;
    let is_met = satisfies(node, &task.spec) || satisfies(node, wanted);
    if !is_met && node.spec.availability == Availability::Active {
        let (then, now) = (&task.spec.placement, &wanted.placement);
        return Err(format!(
            "task {id} runs on node {}, against {then:?} and {now:?}",
            node.id
        ));
    }
    if node.spec.availability == Availability::Drain {
        return Err(format!("task {id} runs on node {}, which drains", node.id));
    }
    Ok(())
}

/// The nodes run what the store says, and nothing else.
fn check_nodes(cluster: &Cluster, state: &State) -> Result<(), String> {
    let mut said: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for task in state.tasks() {
        // What became of the tasks of a node that has left, nobody says.
        let is_here = cluster.running.contains_key(&task.node_id);
        if task.status.state == TaskState::Running && is_here {
            let node = said.entry(task.node_id.as_str()).or_default();
            node.insert(task.id.as_str());
        }
    }
    for (node, running) in &cluster.running {
        let running: BTreeSet<&str> = running.iter().map(String::as_str).collect();
        let said = said.remove(node.as_str()).unwrap_or_default();
        if running != said {
            let only: Vec<_> = running.symmetric_difference(&said).collect();
            return Err(format!(
                "node {node} and the store do not agree on what runs there: {only:?}"
            ));
        }
    }
    match said.pop_first() {
        Some((node, tasks)) => Err(format!("tasks of node {node:?}, which is none: {tasks:?}")),
        None => Ok(()),
    }
}

impl Invariant for Convergence {
    fn name(&self) -> &'static str {
        "the desired state is reached once faults stop"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Due(cluster) => check(cluster),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        invariants::testing::{next, service, task},
        network::Host,
    };
    use skein_model::{
        Network, Object, Placement, RaftMember, Reservations, ResourceRequirements,
        SubnetAllocation, TaskNetwork,
    };

    fn node(id: &str) -> Node {
        let mut node = Node {
            id: id.into(),
            ..Node::default()
        };
        (node.role, node.spec.role) = (NodeRole::Manager, NodeRole::Manager);
        node.status.state = NodeState::Ready;
        node
    }

    /// A cluster of one node, which is a manager, with these objects and containers.
    fn cluster(objects: Vec<Object>, running: &[&str]) -> Cluster {
        let managers = skein_model::Cluster {
            id: "c".into(),
            managers: BTreeMap::from([("n1".to_owned(), RaftMember::default())]),
            ..skein_model::Cluster::default()
        };
        let objects = [objects, vec![managers.into()]].concat();
        let state = next(&State::default(), objects);
        let running = running.iter().map(|id| (*id).to_owned()).collect();
        Cluster {
            states: BTreeMap::from([(Host(1), state)]),
            leaders: BTreeSet::from([Host(1)]),
            running: BTreeMap::from([("n1".to_owned(), running)]),
            voters: BTreeSet::from(["n1".to_owned()]),
        }
    }

    fn due(cluster: &Cluster) -> Result<(), String> {
        Convergence.see(&Seen::Due(cluster))
    }

    #[test]
    fn a_settled_cluster_is_one_and_each_lack_is_noticed() {
        let web = service("web");
        let running = task("a", &web, 1);
        let whole = || {
            let objects = vec![web.clone().into(), running.clone().into()];
            [objects, vec![node("n1").into()]].concat()
        };
        due(&cluster(whole(), &["a"])).unwrap();

        let lacks =
            |objects: Vec<Object>, running: &[&str]| due(&cluster(objects, running)).unwrap_err();
        lacks(whole(), &[]);
        lacks(whole(), &["a", "stray"]);
        lacks(vec![web.clone().into(), node("n1").into()], &[]);
        let with_task = |change: fn(&mut Task)| {
            let mut task = running.clone();
            change(&mut task);
            vec![web.clone().into(), task.into(), node("n1").into()]
        };
        lacks(with_task(|task| task.status.state = TaskState::Ready), &[]);
        lacks(with_task(|task| task.node_id = "n2".into()), &[]);
        lacks(with_task(|t| t.spec.force_update = 1), &["a"]);
        let mut down = node("n1");
        down.status.state = NodeState::Down;
        let mut objects = whole();
        objects[2] = down.into();
        lacks(objects, &["a"]);
        let mut drained = node("n1");
        drained.spec.availability = Availability::Drain;
        let mut objects = whole();
        objects[2] = drained.into();
        lacks(objects, &["a"]);
        lacks(vec![running.clone().into(), node("n1").into()], &["a"]);
    }

    #[test]
    fn a_service_may_wait_for_a_port_that_is_anothers_and_for_nothing_else() {
        let port = skein_model::PortConfig {
            published_port: 80,
            publish_mode: skein_model::PublishMode::Host,
            ..Default::default()
        };
        let mut waiting = service("waiting");
        waiting.allocation_error = "port 80 is taken".into();
        waiting.spec.endpoint_spec = Some(skein_model::EndpointSpec {
            ports: vec![port.clone()],
            ..Default::default()
        });
        let mut owner = service("owner");
        owner.spec.mode = ServiceMode::Replicated { replicas: 0 };
        // Without it, nothing can be published.
        let mut ingress = skein_model::Network::default();
        ingress.spec.ingress = true;
        ingress.allocation =
            Some(SubnetAllocation::whole(4096, "10.0.0.0/24".parse().unwrap()).into());
        let objects = |owner: &Service| {
            let services = [waiting.clone().into(), owner.clone().into()];
            let first = vec![ingress.clone().into(), node("n1").into()];
            [first, services.to_vec()].concat()
        };
        due(&cluster(objects(&owner), &[])).unwrap_err();
        owner.endpoint.ports.push(port);
        due(&cluster(objects(&owner), &[])).unwrap();
    }

    #[test]
    fn an_update_that_is_paused_leaves_two_tasks_in_a_slot() {
        let with = |state, tasks: &[&str]| {
            let mut web = service("web");
            web.update_status = Some(skein_model::UpdateStatus {
                state,
                ..Default::default()
            });
            let of_web = tasks.iter().map(|id| task(id, &web, 1).into());
            let mut objects: Vec<Object> = of_web.collect();
            objects.extend([web.into(), node("n1").into()]);
            due(&cluster(objects, tasks))
        };
        with(UpdateState::Paused, &["a", "b"]).unwrap();
        with(UpdateState::Completed, &["a", "b"]).unwrap_err();
        with(UpdateState::Paused, &["a", "b", "c"]).unwrap_err();
    }

    #[test]
    fn a_task_of_a_global_service_on_a_paused_node_stays_as_it_is() {
        let mut web = service("web");
        web.spec.mode = ServiceMode::Global {};
        let mut outdated = task("a", &web, 0);
        outdated.spec.force_update = 1;
        let with = |availability| {
            let mut node = node("n1");
            node.spec.availability = availability;
            let objects = vec![web.clone().into(), outdated.clone().into(), node.into()];
            due(&cluster(objects, &["a"]))
        };
        with(Availability::Pause).unwrap();
        with(Availability::Active).unwrap_err();
    }

    #[test]
    fn a_task_stays_on_a_paused_node_whatever_its_labels_have_come_to_be() {
        let mut web = service("web");
        web.spec.task_template.placement = Some(Placement {
            constraints: vec!["node.labels.zone!=west".to_owned()],
            ..Placement::default()
        });
        let with = |availability| {
            let mut node = node("n1");
            node.spec.labels.insert("zone".into(), "west".into());
            node.spec.availability = availability;
            let task = task("a", &web, 1);
            due(&cluster(
                vec![web.clone().into(), task.into(), node.into()],
                &["a"],
            ))
        };
        with(Availability::Pause).unwrap();
        with(Availability::Active).unwrap_err();
    }

    #[test]
    fn a_task_waits_for_a_node_that_satisfies_its_constraints_and_has_room() {
        let asks = |change: &dyn Fn(&mut TaskSpec)| {
            let mut web = service("web");
            change(&mut web.spec.task_template);
            let mut waiting = task("a", &web, 1);
            waiting.node_id.clear();
            waiting.status.state = TaskState::Pending;
            let mut node = node("n1");
            node.spec.labels.insert("zone".into(), "east".into());
            node.description.resources.nano_cpus = 10;
            let objects = vec![web.into(), waiting.into(), node.into()];
            due(&cluster(objects, &[]))
        };
        let placed = |placement: Placement| asks(&|task| task.placement = Some(placement.clone()));
        let in_zone = |constraint: &str| Placement {
            constraints: vec![constraint.to_owned()],
            ..Placement::default()
        };
        placed(in_zone("node.labels.zone==west")).unwrap();
        placed(in_zone("node.labels.zone!=east")).unwrap();
        placed(in_zone("node.labels.zone==east")).unwrap_err();
        placed(in_zone("node.labels.zone!=west")).unwrap_err();
        let reserves = |nano_cpus| {
            asks(&|task| {
                let reservations = Some(Reservations {
                    nano_cpus,
                    ..Default::default()
                });
                task.resources = Some(ResourceRequirements {
                    reservations,
                    ..Default::default()
                });
            })
        };
        reserves(11).unwrap();
        reserves(10).unwrap_err();
    }

    #[test]
    fn a_task_must_not_run_where_its_constraints_are_not_met() {
        let mut web = service("web");
        let constraints = vec!["node.labels.zone==west".to_owned()];
        web.spec.task_template.placement = Some(Placement {
            constraints,
            ..Default::default()
        });
        let running = task("a", &web, 1);
        let objects = vec![web.into(), running.into(), node("n1").into()];
        due(&cluster(objects, &["a"])).unwrap_err();
    }

    #[test]
    fn managers_must_agree_and_one_must_lead() {
        let one = || cluster(vec![node("n1").into()], &[]);
        due(&one()).unwrap();
        let mut both = one();
        both.leaders.insert(Host(2));
        due(&both).unwrap_err();
        both.leaders.clear();
        due(&both).unwrap_err();
        let mut behind = one();
        behind.states.insert(Host(2), State::default());
        due(&behind).unwrap_err();
    }

    #[test]
    fn who_is_to_be_a_manager_is_one_and_nobody_else() {
        let lacks = |change: &dyn Fn(&mut Node)| {
            let mut node = node("n1");
            change(&mut node);
            due(&cluster(vec![node.into()], &[])).unwrap_err()
        };
        let demoted = lacks(&|node| node.spec.role = NodeRole::Worker);
        assert!(demoted.contains("is to be a Worker"), "{demoted}");
        let keeps_seat = lacks(&|n| (n.role, n.spec.role) = (NodeRole::Worker, NodeRole::Worker));
        assert!(keeps_seat.contains("with seats"), "{keeps_seat}");
        let one = || cluster(vec![node("n1").into()], &[]);
        let mut voteless = one();
        voteless.voters.clear();
        due(&voteless).unwrap_err();
        let mut runs_on = one();
        let state = runs_on.states[&Host(1)].clone();
        runs_on.states.insert(Host(2), state);
        due(&runs_on).unwrap_err();
    }

    #[test]
    fn a_node_whose_host_has_left_is_down_and_so_may_its_tasks_be_left() {
        let mut left = task("t", &service("gone"), 1);
        left.node_id = "n2".into();
        let with = |state, task: &Task| {
            let mut other = node("n2");
            (other.role, other.spec.role) = (NodeRole::Worker, NodeRole::Worker);
            other.status.state = state;
            let objects = vec![node("n1").into(), other.into(), task.clone().into()];
            due(&cluster(objects, &[]))
        };
        with(NodeState::Down, &left).unwrap();
        with(NodeState::Ready, &left).unwrap_err();
        left.node_id = "n1".into();
        with(NodeState::Down, &left).unwrap_err();
    }

    #[test]
    fn a_network_that_was_removed_is_there_only_as_long_as_a_task_may_run_on_it() {
        let mut removed = Network {
            id: "n".into(),
            pending_deletion: true,
            allocation: Some(SubnetAllocation::whole(4096, "10.0.0.0/24".parse().unwrap()).into()),
            ..Network::default()
        };
        removed.spec.name = "n".into();
        let mut other = node("n2");
        (other.role, other.spec.role) = (NodeRole::Worker, NodeRole::Worker);
        other.status.state = NodeState::Down;
        let mut left = task("t", &service("gone"), 1);
        left.networks_attachments.push(TaskNetwork {
            network_id: "n".into(),
            ..TaskNetwork::default()
        });
        let with = |node_id: &str, state| {
            let mut left = left.clone();
            left.node_id = node_id.into();
            left.status.state = state;
            let nodes = [node("n1").into(), other.clone().into()];
            // The store takes a task to no network that is going.
            let mut present = removed.clone();
            present.pending_deletion = false;
            let mut cluster = cluster(
                [nodes.to_vec(), vec![present.into(), left.into()]].concat(),
                &[],
            );
            for state in cluster.states.values_mut() {
                *state = next(state, vec![removed.clone().into()]);
            }
            due(&cluster)
        };
        with("n2", TaskState::Running).unwrap();
        with("n2", TaskState::Failed).unwrap_err();
        with("n1", TaskState::Running).unwrap_err();
    }

    #[test]
    fn jobs_must_be_complete() {
        let mut job = service("job");
        job.spec.mode = ServiceMode::ReplicatedJob {
            max_concurrent: 1,
            total_completions: 1,
        };
        let mut done = task("a", &job, 0);
        done.desired_state = TaskState::Complete;
        done.status.state = TaskState::Complete;
        let objects =
            |task: &Task| vec![job.clone().into(), task.clone().into(), node("n1").into()];
        due(&cluster(objects(&done), &[])).unwrap();
        done.status.state = TaskState::Failed;
        due(&cluster(objects(&done), &[])).unwrap_err();
    }
}
