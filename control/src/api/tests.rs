//! What holds for all that is answered.

use super::{leader_table, testing::Memory};
use axum::{body::Body, extract::Request};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use skein_model::{Action, Object, Secret};
use std::sync::Arc;
use tower::ServiceExt as _;

/// Go's lists are `null` where nothing was put into them and `[]` where they were made, and clients tell the two apart:
/// each as the reference's types have it.
#[tokio::test]
async fn lists_of_nothing_are_written_as_the_reference_writes_them() {
    let store = Arc::new(Memory::default());
    let ask = async |method: &str, path: &str| {
        let request = Request::builder().method(method).uri(path);
        let request = request.body(Body::empty()).unwrap();
        let response = leader_table(store.clone()).oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        response.into_body().collect().await.unwrap().to_bytes()
    };
    for path in [
        "/services",
        "/services?status=true",
        "/tasks",
        "/nodes",
        "/secrets",
        "/configs",
        "/networks",
    ] {
        assert_eq!(ask("GET", path).await, "[]\n", "{path}");
    }
    // Of objects in which nothing was put into any list: which fields there are, and how.
    let empty: [(Object, &str, Value); 5] = [
        (
            skein_model::Service {
                id: "s".into(),
                ..skein_model::Service::default()
            }
            .into(),
            "/services/s",
            json!({
                "/Spec/Labels": {}, "/Spec/TaskTemplate/Networks": null, "/Endpoint/Ports": null,
                "/Endpoint/VirtualIPs": null, "/Spec/TaskTemplate/ContainerSpec/Mounts": null,
                "/Spec/TaskTemplate/ContainerSpec/Env": null, "/Spec/TaskTemplate/ContainerSpec/Labels": null,
            }),
        ),
        (
            skein_model::Node {
                id: "n".into(),
                ..skein_model::Node::default()
            }
            .into(),
            "/nodes/n",
            json!({
                "/Spec/Labels": {}, "/Description/Engine/Plugins": null, "/Description/Engine/Labels": null,
                "/Description/Resources/GenericResources": null,
            }),
        ),
        (
            skein_model::Task {
                id: "t".into(),
                ..skein_model::Task::default()
            }
            .into(),
            "/tasks/t",
            json!({
                "/Labels": {}, "/NetworksAttachments": null, "/GenericResources": null, "/Volumes": null,
                "/Status/PortStatus": {},
            }),
        ),
        (
            Secret {
                id: "k".into(),
                ..Secret::default()
            }
            .into(),
            "/secrets/k",
            json!({"/Spec/Labels": {}, "/Spec/Data": null}),
        ),
        (
            skein_model::Network {
                id: "w".into(),
                ..skein_model::Network::default()
            }
            .into(),
            "/networks/w?verbose=true",
            json!({"/Labels": null, "/Containers": null, "/Services": null, "/Peers": null}),
        ),
    ];
    for (object, path, lists) in empty {
        store.apply(vec![Action::Create(object)]).unwrap();
        let shown: Value = serde_json::from_slice(&ask("GET", path).await).unwrap();
        for (list, expected) in lists.as_object().unwrap() {
            let found = shown.pointer(list).cloned().unwrap_or_default();
            assert_eq!(&found, expected, "{list} of {path}: {shown}");
        }
    }
}
