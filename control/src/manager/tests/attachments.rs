//! Nodes ask for places on networks.

use super::{agent::request, *};

fn front(store: &Memory) {
    store.create(Network {
        id: "front".into(),
        spec: NetworkSpec {
            name: "front-net".into(),
            driver: "overlay".into(),
            attachable: true,
            ..NetworkSpec::default()
        },
        ..Network::default()
    });
}

async fn ask(
    parts: &Parts<Memory>,
    network: &str,
    address: &str,
) -> Result<proto::AttachResponse, tonic::Status> {
    ask_again(
        parts,
        network,
        address,
        &skein_model::new_id(&mut rand::rng()),
    )
    .await
}

async fn ask_again(
    parts: &Parts<Memory>,
    network: &str,
    address: &str,
    id: &str,
) -> Result<proto::AttachResponse, tonic::Status> {
    let message = proto::AttachRequest {
        network: network.into(),
        address: address.into(),
        aliases: vec!["db".into()],
        task_id: id.into(),
    };
    let answer = parts.attachments().attach(request("a", message)).await;
    answer.map(tonic::Response::into_inner)
}

#[tokio::test(start_paused = true)]
async fn a_node_gets_a_place_with_an_address_until_it_gives_it_back() {
    let (store, parts, _shutdown) = cluster(&["a", "b"]);
    front(&store);
    let mut agent = agent::Raw::open(&parts, "a").await;
    assert!(agent.assignments().await.complete);
    let place = ask(&parts, "front-net", "").await.unwrap();
    let network = place.network.unwrap();
    assert_eq!((&*network.id, &*network.name), ("front", "front-net"));
    assert!(place.address.starts_with("10.0."), "{}", place.address);
    let told = agent.assignments().await;
    let task: Task = serde_json::from_slice(&told.tasks[0]).unwrap();
    assert_eq!((task.id, &*task.node_id), (place.task_id.clone(), "a"));

    let taken = ask(&parts, "front", &place.address).await.unwrap_err();
    assert_eq!(taken.code(), Code::InvalidArgument);
    assert!(taken.message().contains("already in use"), "{taken}");
    assert_eq!(store.state().tasks().count(), 1);
    // An answer that was lost is given again.
    let again = ask_again(&parts, "front", &place.address, &place.task_id).await;
    assert_eq!(again.unwrap().address, place.address);
    let odd = ask_again(&parts, "front", "", "t1").await.unwrap_err();
    assert_eq!(odd.code(), Code::InvalidArgument);
    store.create(Task {
        id: "0".repeat(25),
        ..Task::default()
    });
    let others = ask_again(&parts, "front", "", &"0".repeat(25)).await;
    assert_eq!(others.unwrap_err().code(), Code::AlreadyExists);
    store.remove(Kind::Task, &"0".repeat(25));
    assert_eq!(store.state().tasks().count(), 1);

    // It is no other node's to give back.
    for (node, left) in [("b", 1), ("a", 0), ("a", 0)] {
        let task_id = place.task_id.clone();
        let message = request(node, proto::DetachRequest { task_id });
        parts.attachments().detach(message).await.unwrap();
        assert_eq!(store.state().tasks().count(), left);
    }
    assert_eq!(agent.assignments().await.removed_task_ids, [place.task_id]);
}

#[tokio::test(start_paused = true)]
async fn places_that_cannot_be_had_are_refused() {
    let (store, parts, _shutdown) = cluster(&["a"]);
    front(&store);
    let _agent = agent::Raw::open(&parts, "a").await;
    for (network, address, code, message) in [
        ("absent", "", Code::NotFound, "network absent not found"),
        (
            "ingress",
            "",
            Code::PermissionDenied,
            "network ingress not manually attachable",
        ),
        (
            "front",
            "10.0",
            Code::InvalidArgument,
            "invalid IPv4 address: 10.0",
        ),
    ] {
        let refusal = ask(&parts, network, address).await.unwrap_err();
        assert_eq!((refusal.code(), refusal.message()), (code, message));
    }
    let outside = ask(&parts, "front", "192.0.2.9").await.unwrap_err();
    assert!(outside.message().contains("is not in subnet"), "{outside}");
    store.lead(false);
    let elsewhere = ask(&parts, "front", "").await.unwrap_err();
    assert_eq!(elsewhere.code(), Code::Unavailable);
    assert_eq!(store.state().tasks().count(), 0);
}
