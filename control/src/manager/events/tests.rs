//! What listeners are told.

use super::*;
use crate::manager::tests::Memory;
use serde_json::json;
use skein_model::{Network, Node, NodeState, Service, ServiceMode, ServiceSpec, Task, Timestamp};
use tokio::time::{Duration, timeout};

fn service(replicas: u64) -> Service {
    Service {
        id: "s1".into(),
        spec: ServiceSpec {
            name: "web".into(),
            mode: ServiceMode::Replicated { replicas },
            ..ServiceSpec::default()
        },
        ..Service::default()
    }
}

async fn next(live: &mut broadcast::Receiver<Arc<Message>>) -> serde_json::Value {
    let message = timeout(Duration::from_secs(5), live.recv()).await.unwrap();
    serde_json::to_value(&*message.unwrap()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn changes_are_told_with_what_differs() {
    let store = Memory::default();
    let shutdown = CancellationToken::new();
    let events = Events::start(store.clone(), shutdown.clone());
    let (past, mut live) = events.listen_from_now().unwrap();
    assert!(past.is_empty());

    store.create(service(1));
    let created = next(&mut live).await;
    let at = store
        .state()
        .service("s1")
        .unwrap()
        .meta
        .created_at
        .unix_nanos();
    let expected = json!({
        "Type": "service", "Action": "create", "scope": "swarm",
        "Actor": {"ID": "s1", "Attributes": {"name": "web"}},
        "time": i64::try_from(at / 1_000_000_000).unwrap(),
        "timeNano": i64::try_from(at).unwrap(),
    });
    assert_eq!(created, expected);

    store.update(|state| {
        let mut service = (**state.service("s1").unwrap()).clone();
        service.spec.mode = ServiceMode::Replicated { replicas: 3 };
        service.spec.task_template.container_spec.image = "new".into();
        service.into()
    });
    let updated = next(&mut live).await;
    assert_eq!(updated["Action"], "update");
    let expected = json!({
        "name": "web", "replicas.old": "1", "replicas.new": "3", "image.old": "", "image.new": "new",
    });
    assert_eq!(updated["Actor"]["Attributes"], expected);

    store.create(Task {
        id: "t1".into(),
        ..Task::default()
    });
    let mut network = Network {
        id: "n1".into(),
        ..Network::default()
    };
    network.spec.name = "back".into();
    store.create(network);
    assert_eq!(
        next(&mut live).await["Type"],
        "network",
        "of tasks nothing is told"
    );

    // It goes when its user removes it, whoever is on it still.
    let removed = |pending_deletion| {
        let network = Network {
            pending_deletion,
            ..Network::default()
        };
        skein_model::Object::from(network)
    };
    let change = |before, after| skein_model::Event { before, after };
    let now = Timestamp::default();
    let told = |before, after| Message::of_change(&change(before, after), now);
    let marked = told(Some(removed(false)), Some(removed(true))).unwrap();
    assert_eq!((marked.kind, marked.action), ("network", "remove"));
    assert_eq!(told(Some(removed(true)), None), None);

    let (past, _) = events.listen_from_now().unwrap();
    assert_eq!(past.len(), 3);
    shutdown.cancel();
    tokio::task::yield_now().await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(events.listen_from_now().is_none(), "it has ended");
}

#[tokio::test(start_paused = true)]
async fn states_and_leadership_of_nodes_are_told() {
    let store = Memory::default();
    for id in ["other", "third"] {
        let mut node = Node {
            id: id.into(),
            ..Node::default()
        };
        node.description.hostname = format!("host-{id}");
        store.create(node);
    }
    store.lead(false);
    let events = Events::start(store.clone(), CancellationToken::new());
    let (_, mut live) = events.listen_from_now().unwrap();
    store.update(|state| {
        let mut node = (**state.node("third").unwrap()).clone();
        node.status.state = NodeState::Down;
        node.into()
    });
    let expected = json!({"name": "host-third", "state.old": "unknown", "state.new": "down"});
    assert_eq!(next(&mut live).await["Actor"]["Attributes"], expected);

    store.led_by("third");
    let expected = json!({"name": "host-other", "leader.old": "true", "leader.new": "false"});
    assert_eq!(next(&mut live).await["Actor"]["Attributes"], expected);
    let expected = json!({"name": "host-third", "leader.old": "false", "leader.new": "true"});
    assert_eq!(next(&mut live).await["Actor"]["Attributes"], expected);
}

#[tokio::test(start_paused = true)]
async fn the_leader_tells_which_managers_can_be_reached() {
    let store = Memory::default();
    let mut node = Node {
        id: "other".into(),
        ..Node::default()
    };
    node.description.hostname = "host-other".into();
    store.create(node);
    store.lead(true);
    let events = Events::start(store.clone(), CancellationToken::new());
    let (_, mut live) = events.listen_from_now().unwrap();
    tokio::time::sleep(REACHABILITY_LOOK * 2).await;
    for (cut_off, before, after) in [
        (true, "reachable", "unreachable"),
        (false, "unreachable", "reachable"),
    ] {
        store.cut_off(cut_off);
        let expected = json!({
            "name": "host-other", "reachability.old": before, "reachability.new": after,
        });
        assert_eq!(next(&mut live).await["Actor"]["Attributes"], expected);
    }
    // What a manager that does not lead hears says nothing.
    store.led_by("other");
    tokio::time::sleep(REACHABILITY_LOOK * 2).await;
    while live.try_recv().is_ok() {}
    store.cut_off(true);
    tokio::time::sleep(REACHABILITY_LOOK * 2).await;
    assert!(live.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn only_so_many_are_kept() {
    let store = Memory::default();
    let events = Events::start(store.clone(), CancellationToken::new());
    let (_, mut live) = events.listen_from_now().unwrap();
    store.create(service(0));
    next(&mut live).await;
    for replicas in 1..=KEPT_MAX as u64 {
        store.update(|state| {
            let mut service = (**state.service("s1").unwrap()).clone();
            service.spec.mode = ServiceMode::Replicated { replicas };
            service.into()
        });
        next(&mut live).await;
    }
    let (past, _) = events.listen_from_now().unwrap();
    assert_eq!(past.len(), KEPT_MAX);
    assert_eq!(
        past[0].actor.attributes["replicas.new"], "1",
        "the creation was dropped"
    );
}
