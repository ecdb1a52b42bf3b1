//! The manager as a whole, over a store in memory, with agents that call its services.

mod agent;
mod attachments;
mod memory;
mod secrets;

use super::*;
use agent::{Agent, request};
pub(super) use memory::Memory;
use skein_model::{
    Cluster, EndpointSpec, Kind, Network, NetworkSpec, NodeState, PortConfig, Service, ServiceMode,
    Task, TaskState, TaskStatus, Version,
};
use skein_orchestration::drain;
use skein_proto::{network as net, node as proto};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tonic::Code;

/// Longest time that anything may take here; the clock is paused, so that it costs nothing.
const PATIENCE: Duration = Duration::from_secs(120);

/// A manager that leads a cluster of these nodes.
fn cluster(nodes: &[&str]) -> (Memory, Parts<Memory>, CancellationToken) {
    cluster_with(nodes, Arc::new(Plugins::default()))
}

/// The same, where secrets come from these drivers.
fn cluster_with(
    nodes: &[&str],
    drivers: Arc<dyn Drivers>,
) -> (Memory, Parts<Memory>, CancellationToken) {
    let store = Memory::default();
    store.create(Cluster {
        id: "cluster".into(),
        default_addr_pool: vec!["10.0.0.0/8".parse().unwrap()],
        subnet_size: 24,
        data_path_port: 4789,
        ..Cluster::default()
    });
    store.create(Network {
        id: "ingress".into(),
        spec: NetworkSpec {
            name: "ingress".into(),
            driver: "overlay".into(),
            ingress: true,
            ..NetworkSpec::default()
        },
        ..Network::default()
    });
    for node in nodes {
        store.create(skein_model::Node {
            id: (*node).into(),
            ..skein_model::Node::default()
        });
    }
    store.lead(true);
    let shutdown = CancellationToken::new();
    let parts = Parts::start(store.clone(), drivers, shutdown.clone());
    (store, parts, shutdown)
}

fn web(replicas: u64) -> Service {
    let mut service = Service {
        id: "web".into(),
        spec_version: Version { index: 1 },
        ..Service::default()
    };
    service.spec.name = "web".into();
    service.spec.mode = ServiceMode::Replicated { replicas };
    service.spec.task_template.container_spec.image = "demo:1".into();
    service.spec.endpoint_spec = Some(EndpointSpec {
        ports: vec![PortConfig {
            target_port: 80,
            ..PortConfig::default()
        }],
        ..EndpointSpec::default()
    });
    service
}

/// Waits until the store is as asked.
async fn until(store: &Memory, what: &str, is: impl Fn(&skein_model::State) -> bool) {
    let mut states = store.watch();
    let reached = tokio::time::timeout(PATIENCE, states.wait_for(is)).await;
    if reached.is_err() {
        panic!("{what}: not within {PATIENCE:?}: {:#?}", store.state());
    }
}

fn running(state: &skein_model::State, node: &str) -> usize {
    let tasks = state.tasks_of_node(node);
    tasks
        .filter(|t| t.status.state == TaskState::Running && t.desired_state == TaskState::Running)
        .count()
}

fn node_state(state: &skein_model::State, node: &str) -> NodeState {
    state.node(node).unwrap().status.state
}

#[tokio::test(start_paused = true)]
async fn a_service_comes_to_run_on_the_nodes_that_registered() {
    let (store, parts, _shutdown) = cluster(&["a", "b"]);
    let a = Agent::start(&parts, "a").await;
    let b = Agent::start(&parts, "b").await;
    let node = store.state().node("a").unwrap().clone();
    assert_eq!(node.status.state, NodeState::Ready);
    assert_eq!(node.description.hostname, "a");
    assert_eq!(node.data_path_addr, "198.18.0.1");
    store.create(web(4));
    until(&store, "four tasks", |state| {
        running(state, "a") == 2 && running(state, "b") == 2
    })
    .await;
    drop((a, b));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_says_a_key_is_given_an_address_and_keeps_it_with_another_key() {
    let (store, parts, _shutdown) = cluster(&["a", "b"]);
    let a = agent::Raw::open(&parts, "a").await;
    let b = agent::Raw::open(&parts, "b").await;
    let end = |state: &skein_model::State, node: &str| state.node(node)?.tunnel;
    let address = |state: &skein_model::State, node: &str| end(state, node)?.address;
    for (agent, key) in [(&a, [1; 32]), (&b, [2; 32])] {
        agent.tunnel(&key).await.unwrap();
    }
    let both = |state: &skein_model::State| address(state, "a").and(address(state, "b")).is_some();
    until(&store, "both have addresses", both).await;
    let given = ["a", "b"].map(|node| address(&store.state(), node));
    assert_ne!(given[0], given[1]);
    // Nothing new is nothing to agree on.
    let index = store.state().index();
    a.tunnel(&[1; 32]).await.unwrap();
    assert_eq!(store.state().index(), index);
    a.tunnel(&[9; 32]).await.unwrap();
    let known = end(&store.state(), "a").unwrap();
    assert_eq!((known.public_key, known.address), ([9; 32], given[0]));
    // What is no key ends no session.
    a.tunnel(&[9; 31]).await.unwrap();
    assert_eq!(end(&store.state(), "a"), Some(known));
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_is_found_down_and_its_tasks_move() {
    let (store, parts, _shutdown) = cluster(&["a", "b"]);
    let a = Agent::start(&parts, "a").await;
    let b = Agent::start(&parts, "b").await;
    store.create(web(2));
    until(&store, "a task on each", |state| {
        running(state, "a") == 1 && running(state, "b") == 1
    })
    .await;
    let silent_since = Instant::now();
    drop(a);
    until(&store, "node a down", |state| {
        node_state(state, "a") == NodeState::Down
    })
    .await;
    let found = silent_since.elapsed();
    assert!(
        (Duration::from_secs(10)..Duration::from_secs(16)).contains(&found),
        "{found:?}"
    );
    until(&store, "both on b", |state| running(state, "b") == 2).await;
    // It returns, is told to end its task, and ends it.
    let a = Agent::start(&parts, "a").await;
    until(&store, "the old task ended", |state| {
        let mut tasks = state.tasks_of_node("a");
        tasks.all(|task| task.status.state == TaskState::Shutdown)
    })
    .await;
    assert_eq!(node_state(&store.state(), "a"), NodeState::Ready);
    drop((a, b));
}

#[tokio::test(start_paused = true)]
async fn a_change_of_leader_is_survived() {
    let (store, parts, _shutdown) = cluster(&["a"]);
    let agent = Agent::start(&parts, "a").await;
    store.create(web(1));
    until(&store, "a task", |state| running(state, "a") == 1).await;
    let task = store.state().tasks().next().unwrap().id.clone();
    store.lead(false);
    sleep(Duration::from_secs(1)).await;
    let refused = parts.dispatcher().session(agent::session("a")).await;
    let refused = refused.err().unwrap();
    assert_eq!(refused.code(), Code::Unavailable);
    assert_eq!(
        refused.metadata().get(crate::rpc::LEADER_METADATA).unwrap(),
        "198.18.0.9:2377"
    );
    let (before, session) = (store.state().index(), agent.session_id());
    sleep(Duration::from_secs(60)).await;
    assert_eq!(store.state().index(), before, "only the leader decides");
    store.lead(true);
    // The agent finds its way back by itself, long before it would be given up.
    sleep(Duration::from_secs(100)).await;
    assert_eq!(node_state(&store.state(), "a"), NodeState::Ready);
    assert_ne!(agent.session_id(), session);
    assert_eq!(store.state().tasks().next().unwrap().id, task);
    drop(agent);
}

#[tokio::test(start_paused = true)]
async fn assignments_are_complete_first_then_what_changed() {
    let (store, parts, _shutdown) = cluster(&["a"]);
    let mut raw = agent::Raw::open(&parts, "a").await;
    let first = raw.assignments().await;
    assert!(first.complete);
    assert!(first.tasks.is_empty());
    store.create(web(1));
    let second = raw.assignments().await;
    assert!(!second.complete);
    let task: Task = serde_json::from_slice(&second.tasks[0]).unwrap();
    assert_eq!(task.status.state, TaskState::Assigned);
    // Its own reports are no news to the agent; what is wanted of the task is.
    raw.report(&task.id, TaskState::Running).await.unwrap();
    store.remove(Kind::Service, "web");
    let third = raw.assignments().await;
    let gone: Task = serde_json::from_slice(&third.tasks[0]).unwrap();
    assert_eq!(gone.id, task.id);
    assert_eq!(gone.desired_state, TaskState::Remove);
    raw.report(&task.id, TaskState::Shutdown).await.unwrap();
    assert_eq!(raw.assignments().await.removed_task_ids, [task.id]);
}

#[tokio::test(start_paused = true)]
async fn the_network_of_a_node_follows_its_tasks() {
    let (store, parts, _shutdown) = cluster(&["a", "b"]);
    let mut raw = agent::Raw::open(&parts, "a").await;
    let first = raw.network().await;
    assert!(first.complete);
    let kinds = |update: &net::NetworkUpdate| {
        let objects = update.upsert.iter();
        let references = objects.filter_map(skein_proto::view::reference);
        let mut kinds: Vec<_> = references.map(|object| object.kind()).collect();
        kinds.sort();
        kinds.dedup();
        kinds
    };
    assert!(kinds(&first).contains(&net::Kind::Settings));
    let b = Agent::start(&parts, "b").await;
    store.create(web(2));
    let endpoint_states = |update: &net::NetworkUpdate| -> Vec<net::EndpointState> {
        let objects = update.upsert.iter();
        objects
            .filter_map(|object| match &object.object {
                Some(net::object::Object::Endpoint(endpoint)) => Some(endpoint.state()),
                _ => None,
            })
            .collect()
    };
    let mut version = first.version;
    let mut remote_ready = false;
    while !remote_ready {
        let update = raw.network().await;
        assert!(!update.complete);
        assert!(update.version > version);
        version = update.version;
        remote_ready = endpoint_states(&update).contains(&net::EndpointState::Ready);
    }
    store.remove(Kind::Service, "web");
    loop {
        let update = raw.network().await;
        let removed = update.remove.iter();
        if removed.filter(|o| o.kind() == net::Kind::Endpoint).count() > 0 {
            break;
        }
    }
    drop(b);
}

#[tokio::test(start_paused = true)]
async fn a_node_hears_of_an_end_once_every_node_has_it() {
    let (store, parts, _shutdown) = cluster(&["a", "b"]);
    let mut a = agent::Raw::open(&parts, "a").await;
    let mut b = agent::Raw::open(&parts, "b").await;
    for node in [&mut a, &mut b] {
        assert!(node.assignments().await.complete);
    }
    store.create(web(1));
    until(&store, "assigned", |state| {
        state.tasks().any(|task| !task.node_id.is_empty())
    })
    .await;
    let task = store.state().tasks().next().unwrap().clone();
    let (mut owner, mut other) = if task.node_id == "a" { (a, b) } else { (b, a) };
    owner.assignments().await;
    owner.report(&task.id, TaskState::Running).await.unwrap();
    store.remove(Kind::Service, "web");
    let mut versions = Vec::new();
    for node in [&mut owner, &mut other] {
        let drains = |update: &net::NetworkUpdate| {
            update.upsert.iter().any(|object| match &object.object {
                Some(net::object::Object::Endpoint(endpoint)) => {
                    endpoint.state() == net::EndpointState::Draining
                }
                _ => false,
            })
        };
        let mut update = node.network().await;
        while !drains(&update) {
            update = node.network().await;
        }
        versions.push(update.version);
    }
    owner.programmed(versions[0]).await;
    // Its kernel would not take it.
    other.programmed(versions[1] - 1).await;
    let none = tokio::time::timeout(Duration::from_secs(3), owner.assignments()).await;
    assert!(none.is_err(), "{none:?}");
    other.programmed(versions[1]).await;
    let confirmed = Instant::now();
    let told = owner.assignments().await;
    let told: Task = serde_json::from_slice(&told.tasks[0]).unwrap();
    assert_eq!(
        (&told.id, told.desired_state),
        (&task.id, TaskState::Remove)
    );
    let waited = confirmed.elapsed();
    let expected = drain::SETTLE..drain::SETTLE * 2;
    assert!(expected.contains(&waited), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn nodes_are_disconnected_once_their_leader_stops() {
    for (leads, expected) in [(true, NodeState::Disconnected), (false, NodeState::Ready)] {
        let (store, parts, _shutdown) = cluster(&["a"]);
        let _agent = agent::Raw::open(&parts, "a").await;
        assert_eq!(node_state(&store.state(), "a"), NodeState::Ready);
        if !leads {
            store.lead(false);
        }
        parts.disconnect_nodes().await;
        assert_eq!(node_state(&store.state(), "a"), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn what_agents_may_not_do_is_refused() {
    let (store, parts, _shutdown) = cluster(&["a", "b"]);
    let mut a = agent::Raw::open(&parts, "a").await;
    let mut b = agent::Raw::open(&parts, "b").await;
    store.create(web(1));
    a.assignments().await;
    b.assignments().await;
    until(&store, "assigned", |state| {
        state.tasks().any(|task| !task.node_id.is_empty())
    })
    .await;
    let task = store.state().tasks().next().unwrap().clone();
    let (owner, other) = if task.node_id == "a" { (a, b) } else { (b, a) };
    let refused = other
        .report(&task.id, TaskState::Running)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(
        refused.message(),
        "cannot update a task not assigned this node"
    );
    // What is said of the other tasks of a call counts nevertheless, and so it does if a status cannot
    // be read. States never go back.
    let unreadable = proto::TaskStatusUpdate {
        task_id: "unreadable".into(),
        status: b"{".to_vec(),
    };
    let accepted = agent::status(&task.id, TaskState::Accepted);
    let refused = owner.report_all(vec![unreadable, accepted]).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let what = "the status of task unreadable cannot be read";
    assert!(refused.message().starts_with(what), "{refused}");
    let state = store.state().task(&task.id).unwrap().status.state;
    assert_eq!(state, TaskState::Accepted);
    store.create(Task {
        id: "foreign".into(),
        node_id: other.node().into(),
        ..Task::default()
    });
    let both = ["foreign", &*task.id];
    let refused = owner.report_on(&both, TaskState::Running).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    let state = store.state().task(&task.id).unwrap().status.state;
    assert_eq!(state, TaskState::Running);
    owner.report(&task.id, TaskState::Preparing).await.unwrap();
    let state = store.state().task(&task.id).unwrap().status.state;
    assert_eq!(state, TaskState::Running);
    // A second session of the node ends the first.
    let newer = agent::Raw::open(&parts, &task.node_id).await;
    let stale = owner.report(&task.id, TaskState::Failed).await.unwrap_err();
    assert_eq!(stale.code(), Code::NotFound);
    newer.report(&task.id, TaskState::Failed).await.unwrap();
    let unknown = parts.dispatcher().session(agent::session("nobody")).await;
    assert_eq!(unknown.err().unwrap().code(), Code::PermissionDenied);
    let request = tonic::Request::new(proto::SessionRequest::default());
    let anonymous = parts.dispatcher().session(request).await;
    assert_eq!(anonymous.err().unwrap().code(), Code::Unauthenticated);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_removed_has_no_session_any_more() {
    let (store, parts, _shutdown) = cluster(&["a", "b"]);
    let mut a = agent::Raw::open(&parts, "a").await;
    let mut b = agent::Raw::open(&parts, "b").await;
    a.network().await;
    b.network().await;
    until(&store, "both are known", |_| {
        parts.kernels.progress().len() == 2
    })
    .await;
    let mut draft = skein_model::Draft::new(store.state(), store.now());
    skein_orchestration::remove_node(&mut draft, "a");
    for actions in draft.into_proposals() {
        store.propose(actions).await.unwrap();
    }
    assert_eq!(a.ended().await.code(), Code::PermissionDenied);
    let refused = a.report("t", TaskState::Running).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let known = parts.kernels.progress();
    assert!(known.keys().eq(["b"]), "{known:?}");
    b.report("t", TaskState::Running).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_node_has_the_address_it_calls_from() {
    let (store, parts, _shutdown) = cluster(&["a"]);
    let mut request = agent::session("a");
    // As the mTLS server notes it, for an IPv6 socket that takes IPv4.
    let address = "[::ffff:198.18.0.7]:4000".parse().unwrap();
    request
        .extensions_mut()
        .insert(crate::rpc::Caller::at(address));
    request.get_mut().data_path_address.clear();
    let session = parts.dispatcher().session(request).await.unwrap();
    let node = store.state().node("a").unwrap().clone();
    assert_eq!(node.status.addr, "198.18.0.7");
    assert_eq!(node.data_path_addr, "198.18.0.7");
    drop(session);
}

#[tokio::test(start_paused = true)]
async fn a_node_may_become_another_within_its_session() {
    let (store, parts, _shutdown) = cluster(&["a"]);
    let agent = Agent::start(&parts, "a").await;
    let described = skein_model::NodeDescription {
        hostname: "renamed".into(),
        ..skein_model::NodeDescription::default()
    };
    let message = |session_id: String| proto::DescribeRequest {
        session_id,
        description: serde_json::to_vec(&described).unwrap(),
    };
    let dispatcher = parts.dispatcher();
    let strange = dispatcher.describe(request("a", message("none".into())));
    assert!(strange.await.is_err());
    let before = store.state().node("a").unwrap().clone();
    let telling = dispatcher.describe(request("a", message(agent.session_id())));
    telling.await.unwrap();
    let node = store.state().node("a").unwrap().clone();
    assert_eq!(node.description, described);
    assert_eq!(node.status, before.status);
}

#[tokio::test(start_paused = true)]
async fn proposals_that_come_too_late_are_made_anew() {
    let (store, parts, _shutdown) = cluster(&["a"]);
    let agent = Agent::start(&parts, "a").await;
    store.create(web(1));
    // Somebody else changes every object all the time.
    let disturber = store.disturb(Duration::from_millis(7));
    until(&store, "a task", |state| running(state, "a") == 1).await;
    disturber.abort();
    assert_eq!(store.state().tasks().count(), 1);
    drop(agent);
}

fn options(follow: bool) -> LogOptions {
    LogOptions {
        follow,
        tail: -1,
        since: 0,
        stdout: true,
        stderr: true,
    }
}

fn of_web() -> LogSelector {
    LogSelector {
        services: vec!["web".into()],
        tasks: Vec::new(),
    }
}

fn chunk(subscription: &proto::LogSubscription, task: &str, text: &str) -> proto::LogChunk {
    proto::LogChunk {
        subscription_id: subscription.id.clone(),
        task_id: task.into(),
        stream: 1,
        timestamp: String::new(),
        data: text.as_bytes().to_vec(),
        end: text.is_empty(),
        ..proto::LogChunk::default()
    }
}

#[tokio::test(start_paused = true)]
async fn logs_end_when_every_task_has_sent_its_own() {
    let (store, parts, _shutdown) = cluster(&["a"]);
    let agent = Agent::start(&parts, "a").await;
    store.create(web(2));
    until(&store, "two tasks", |state| running(state, "a") == 2).await;
    let mut subscriptions = agent.subscriptions(&parts).await;
    let broker = &parts.broker;
    let mut records = broker.read(&store, of_web(), options(false)).unwrap();
    let asked = subscriptions.recv().await.unwrap();
    assert_eq!(asked.task_ids.len(), 2);
    for task in &asked.task_ids {
        let line = format!("from {task}");
        broker
            .publish("a", chunk(&asked, task, &line))
            .await
            .unwrap();
        broker.publish("a", chunk(&asked, task, "")).await.unwrap();
    }
    let mut lines = Vec::new();
    while let Some(record) = records.recv().await {
        assert_eq!(record.node_id, "a");
        lines.push(String::from_utf8(record.data.to_vec()).unwrap());
    }
    let expected: Vec<_> = asked
        .task_ids
        .iter()
        .map(|id| format!("from {id}"))
        .collect();
    assert_eq!(lines, expected);
    assert!(subscriptions.recv().await.unwrap().close);
    // Nobody else may publish, and nobody after the end.
    let late = chunk(&asked, &asked.task_ids[0], "late");
    assert!(broker.publish("a", late).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn followed_logs_take_in_new_tasks_and_end_with_the_reader() {
    let (store, parts, _shutdown) = cluster(&["a"]);
    let agent = Agent::start(&parts, "a").await;
    store.create(web(1));
    until(&store, "a task", |state| running(state, "a") == 1).await;
    let mut subscriptions = agent.subscriptions(&parts).await;
    let broker = &parts.broker;
    let mut records = broker.read(&store, of_web(), options(true)).unwrap();
    let first = subscriptions.recv().await.unwrap();
    store.update(|state| {
        let mut service = (**state.service("web").unwrap()).clone();
        service.spec.mode = ServiceMode::Replicated { replicas: 2 };
        service.spec_version.index += 1;
        service.into()
    });
    let second = subscriptions.recv().await.unwrap();
    assert_ne!(second.task_ids, first.task_ids);
    let foreign = chunk(&first, &second.task_ids[0], "x");
    assert!(broker.publish("a", foreign).await.is_err(), "not asked for");
    let hello = chunk(&second, &second.task_ids[0], "hello");
    broker.publish("a", hello).await.unwrap();
    assert_eq!(&records.recv().await.unwrap().data[..], b"hello");
    drop(records);
    let closed = [
        subscriptions.recv().await.unwrap(),
        subscriptions.recv().await.unwrap(),
    ];
    assert!(closed.iter().all(|subscription| subscription.close));
}

#[tokio::test(start_paused = true)]
async fn followed_logs_go_on_where_they_were_once_the_node_has_another_session() {
    let (store, parts, _shutdown) = cluster(&["a"]);
    let agent = Agent::start(&parts, "a").await;
    store.create(web(1));
    until(&store, "a task", |state| running(state, "a") == 1).await;
    let broker = &parts.broker;
    // That the node is not available yet is not said: there may be others, and it comes back.
    let mut records = broker.read(&store, of_web(), options(true)).unwrap();
    let mut before = agent.subscriptions(&parts).await;
    let first = before.recv().await.unwrap();
    let at = |subscription: &proto::LogSubscription, nanos: u32, text: &str| proto::LogChunk {
        timestamp: format!("2026-01-02T03:04:05.{nanos:09}Z"),
        ..chunk(subscription, &subscription.task_ids[0], text)
    };
    broker.publish("a", at(&first, 1, "one")).await.unwrap();
    broker.publish("a", at(&first, 2, "two")).await.unwrap();
    // As after a new certificate: the agent has forgotten what it was asked.
    let mut after = agent.subscriptions(&parts).await;
    let second = after.recv().await.unwrap();
    assert_eq!(second.task_ids, first.task_ids);
    let at_the_last = "2026-01-02T03:04:05Z".parse::<skein_model::Timestamp>();
    let seconds = at_the_last.unwrap().unix_nanos() / 1_000_000_000;
    assert_eq!((i128::from(second.since), second.tail), (seconds, -1));
    assert!(broker.publish("a", at(&first, 3, "late")).await.is_err());
    for (nanos, text) in [(1, "one"), (2, "two"), (3, "three")] {
        broker.publish("a", at(&second, nanos, text)).await.unwrap();
    }
    for expected in ["one", "two", "three"] {
        assert_eq!(&records.recv().await.unwrap().data[..], expected.as_bytes());
    }
    drop(records);
    assert!(after.recv().await.unwrap().close);
}

#[tokio::test(start_paused = true)]
async fn logs_that_cannot_be_had_are_named() {
    let (store, parts, _shutdown) = cluster(&["a"]);
    let agent = Agent::start(&parts, "a").await;
    store.create(web(1));
    until(&store, "a task", |state| running(state, "a") == 1).await;
    // The agent has no stream for subscriptions.
    let broker = &parts.broker;
    let mut records = broker.read(&store, of_web(), options(false)).unwrap();
    let record = records.recv().await.unwrap();
    assert_eq!(record.stream, 3);
    let text = String::from_utf8(record.data.to_vec()).unwrap();
    assert!(
        text.starts_with("rpc error: code = Unknown desc = warning: incomplete log stream.")
            && text.ends_with("node a is not available"),
        "{text}"
    );
    assert_eq!(records.recv().await, None);
    drop(agent);
}

/// What a reader of whole logs was sent, and what it was told is missing.
async fn all(mut records: tokio::sync::mpsc::Receiver<LogRecord>) -> (Vec<String>, Vec<String>) {
    let (mut lines, mut missing) = (Vec::new(), Vec::new());
    while let Some(record) = records.recv().await {
        let text = String::from_utf8(record.data.to_vec()).unwrap();
        match record.stream {
            3 => missing.push(text),
            _ => lines.push(text),
        }
    }
    (lines, missing)
}

/// How that ends.
fn incomplete(reasons: &str) -> Vec<String> {
    vec![format!(
        "rpc error: code = Unknown desc = warning: incomplete log stream. some logs could not be retrieved \
         for the following reasons: {reasons}"
    )]
}

#[tokio::test(start_paused = true)]
async fn logs_of_a_node_that_goes_meanwhile_end_with_the_others_and_are_named() {
    let (store, parts, _shutdown) = cluster(&["a", "b"]);
    let (a, b) = (
        Agent::start(&parts, "a").await,
        Agent::start(&parts, "b").await,
    );
    store.create(web(2));
    until(&store, "a task on each", |state| {
        running(state, "a") == 1 && running(state, "b") == 1
    })
    .await;
    let (mut of_a, mut of_b) = (a.subscriptions(&parts).await, b.subscriptions(&parts).await);
    let broker = &parts.broker;
    let begun = Instant::now();
    let records = broker.read(&store, of_web(), options(false)).unwrap();
    let (at_a, at_b) = (of_a.recv().await.unwrap(), of_b.recv().await.unwrap());
    let first = chunk(&at_a, &at_a.task_ids[0], "first");
    broker.publish("a", first).await.unwrap();
    let other = chunk(&at_b, &at_b.task_ids[0], "other");
    broker.publish("b", other).await.unwrap();
    let end = chunk(&at_b, &at_b.task_ids[0], "");
    broker.publish("b", end).await.unwrap();
    // With its session its agent has forgotten what it was asked.
    let _again = a.subscriptions(&parts).await;
    let (lines, missing) = all(records).await;
    assert_eq!(lines, ["first", "other"]);
    assert_eq!(missing, incomplete("node a disconnected unexpectedly"));
    assert!(begun.elapsed() < Duration::from_secs(1));
    drop((a, b));
}

#[tokio::test(start_paused = true)]
async fn logs_that_an_engine_does_not_give_keep_no_others_from_being_read() {
    let (store, parts, _shutdown) = cluster(&["a"]);
    let agent = Agent::start(&parts, "a").await;
    store.create(web(2));
    until(&store, "two tasks", |state| running(state, "a") == 2).await;
    let mut subscriptions = agent.subscriptions(&parts).await;
    let broker = &parts.broker;
    let records = broker.read(&store, of_web(), options(false)).unwrap();
    let asked = subscriptions.recv().await.unwrap();
    let failed = proto::LogChunk {
        stream: 3,
        ..chunk(&asked, &asked.task_ids[0], "the engine fails\n")
    };
    broker.publish("a", failed.clone()).await.unwrap();
    let end = chunk(&asked, &asked.task_ids[0], "");
    broker.publish("a", end).await.unwrap();
    for text in ["line", ""] {
        let other = chunk(&asked, &asked.task_ids[1], text);
        broker.publish("a", other).await.unwrap();
    }
    let (lines, missing) = all(records).await;
    assert_eq!(
        (lines, missing),
        (vec!["line".into()], incomplete("the engine fails"))
    );
    // Who follows would wait for the end for ever.
    let mut followed = broker.read(&store, of_web(), options(true)).unwrap();
    // The first one's is closed.
    assert!(subscriptions.recv().await.unwrap().close);
    let asked = subscriptions.recv().await.unwrap();
    let failed = proto::LogChunk {
        subscription_id: asked.id,
        ..failed
    };
    broker.publish("a", failed).await.unwrap();
    assert_eq!(followed.recv().await.unwrap().stream, 3);
}

#[tokio::test(start_paused = true)]
async fn nodes_that_send_nothing_are_named() {
    let (store, parts, _shutdown) = cluster(&["a"]);
    let agent = Agent::start(&parts, "a").await;
    store.create(web(1));
    until(&store, "a task", |state| running(state, "a") == 1).await;
    let mut subscriptions = agent.subscriptions(&parts).await;
    let records = parts.broker.read(&store, of_web(), options(false)).unwrap();
    let asked = subscriptions.recv().await.unwrap();
    assert_eq!(asked.task_ids.len(), 1);
    let (lines, missing) = all(records).await;
    assert!(lines.is_empty());
    assert_eq!(missing, incomplete("node a sent nothing for 20 seconds"));
}
