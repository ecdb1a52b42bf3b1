//! Requests to the leader's table, over a store in memory.

use super::*;
use crate::api::{leader_table, node_handle::Store as _, testing::Memory};
use axum::{Router, body::Body, extract::Request};
use http_body_util::BodyExt as _;
use skein_model::{Proposal, Service, Timestamp};
use std::sync::Arc;
use tower::ServiceExt as _;

struct Api {
    store: Arc<Memory>,
    router: Router,
}

impl Api {
    fn new() -> Self {
        let store = Arc::new(Memory::default());
        let router = leader_table(store.clone());
        Self { store, router }
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.call_with(method, path, body, None).await
    }

    async fn call_with(
        &self,
        method: &str,
        path: &str,
        body: Value,
        auth: Option<&str>,
    ) -> (u16, Value) {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(auth) = auth {
            request = request.header("X-Registry-Auth", auth);
        }
        let request = request.body(Body::from(body.to_string())).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    async fn refused(&self, method: &str, path: &str, body: Value) -> (u16, String) {
        let (status, answer) = self.call(method, path, body).await;
        (status, answer["message"].as_str().unwrap().to_owned())
    }

    /// Creates one, and says its ID.
    async fn create(&self, path: &str, spec: Value) -> String {
        let (status, answer) = self.call("POST", &format!("{path}/create"), spec).await;
        assert_eq!(status, 201, "{answer}");
        answer["ID"].as_str().unwrap().to_owned()
    }

    async fn names(&self, path: &str, filters: Value) -> Vec<String> {
        let filters = filters.to_string().replace('"', "%22");
        let (_, found) = self
            .call("GET", &format!("{path}?filters={filters}"), Value::Null)
            .await;
        let name = |found: &Value| found["Spec"]["Name"].as_str().unwrap().to_owned();
        let mut names: Vec<_> = found.as_array().unwrap().iter().map(name).collect();
        names.sort();
        names
    }
}

#[tokio::test]
async fn what_is_too_long_to_replicate_is_refused_in_swarms_words() {
    let api = Api::new();
    let long = "x".repeat(skein_model::PROPOSAL_BYTES_MAX);
    let service = json!({
        "Name": "web", "Labels": {"a": long},
        "TaskTemplate": {"ContainerSpec": {"Image": "nginx"}},
    });
    let network = json!({"Name": "n", "Driver": "overlay", "Labels": {"a": long}});
    let config = json!({"Name": "c", "Labels": {"a": long}, "Data": "aHVudGVyMg=="});
    for (path, spec) in [
        ("/services/create", service),
        ("/networks/create", network),
        ("/configs/create", config),
    ] {
        let (status, said) = api.refused("POST", path, spec).await;
        assert_eq!(status, 500, "{path}");
        assert!(
            said.starts_with(
                "rpc error: code = Unknown desc = raft: raft message is too large and can't be sent"
            ),
            "{path}: {said}"
        );
    }
    assert_eq!(api.store.state().index(), 0);
}

#[tokio::test]
async fn data_of_a_secret_never_comes_back_and_that_of_a_config_does() {
    let api = Api::new();
    let spec = json!({
        "Name": "key", "Labels": {"a": "b"}, "Data": "aHVudGVyMg==",
        "Templating": {"Name": "golang"},
    });
    let id = api.create("/secrets", spec.clone()).await;
    let (status, secret) = api
        .call("GET", &format!("/secrets/{}", &id[..5]), Value::Null)
        .await;
    assert_eq!(status, 200);
    assert_eq!(secret["ID"], *id);
    assert_eq!(secret["Version"]["Index"], 1);
    assert_eq!(
        secret["Spec"],
        json!({"Name": "key", "Labels": {"a": "b"}, "Templating": {"Name": "golang"}})
    );
    let (_, all) = api.call("GET", "/secrets", Value::Null).await;
    assert!(!all.to_string().contains("aHVudGVyMg"));

    api.create("/configs", spec.clone()).await;
    let (_, config) = api.call("GET", "/configs/key", Value::Null).await;
    assert_eq!(config["Spec"], spec);
    assert_eq!(config["Version"]["Index"], 2);
}

#[tokio::test]
async fn refusals_are_in_the_references_words() {
    let api = Api::new();
    let spec = json!({"Name": "key", "Labels": null, "Data": "YQ=="});
    for (path, kind) in [("/secrets", "secret"), ("/configs", "config")] {
        let create = format!("{path}/create");
        api.create(path, spec.clone()).await;
        let (status, said) = api.refused("POST", &create, spec.clone()).await;
        let taken = format!("rpc error: code = AlreadyExists desc = {kind} key already exists");
        assert_eq!((status, said), (409, taken));
        let empty = json!({"Name": "empty"});
        let (status, said) = api.refused("POST", &create, empty).await;
        assert_eq!(status, 400);
        let start = format!(
            "rpc error: code = InvalidArgument desc = {kind} data must be larger than 0 and less"
        );
        assert!(said.starts_with(&start), "{said}");
        let no_base64 = json!({"Name": "a", "Data": "?"});
        assert_eq!(api.refused("POST", &create, no_base64).await.0, 400);
        let (status, said) = api
            .refused("GET", &format!("{path}/none"), Value::Null)
            .await;
        assert_eq!((status, said), (404, format!("{kind} none not found")));
        let (status, said) = api
            .refused("GET", &format!("{path}?filters=[]"), Value::Null)
            .await;
        assert_eq!((status, &*said), (400, "invalid filters: []"));
    }
    let names = "/configs?filters=%7B%22names%22:[%22a%22]%7D";
    let (status, said) = api.refused("GET", names, Value::Null).await;
    assert_eq!((status, &*said), (400, "invalid filter 'names'"));
}

#[tokio::test]
async fn only_labels_are_updated_and_only_at_the_version_that_was_read() {
    let api = Api::new();
    let update = |version: &str| format!("/configs/key/update?version={version}");
    let spec = json!({"Name": "key", "Data": "YQ==", "Labels": {"old": ""}});
    api.create("/configs", spec.clone()).await;
    let labelled = json!({"Name": "key", "Labels": {"new": "1"}});
    let (status, said) = api.refused("POST", &update("x"), labelled.clone()).await;
    assert_eq!((status, &*said), (400, "invalid config version"));
    let (status, said) = api.refused("POST", &update("7"), labelled.clone()).await;
    let stale = "rpc error: code = Unknown desc = update out of sequence";
    assert_eq!((status, &*said), (500, stale));
    let mut other = spec.clone();
    other["Data"] = "Yg==".into();
    let (status, said) = api.refused("POST", &update("1"), other).await;
    assert_eq!(status, 400);
    assert!(said.ends_with("only updates to Labels are allowed"));
    assert_eq!(api.call("POST", &update("1"), labelled).await.0, 200);
    let (_, config) = api.call("GET", "/configs/key", Value::Null).await;
    assert_eq!(
        config["Spec"],
        json!({"Name": "key", "Data": "YQ==", "Labels": {"new": "1"}})
    );
    assert!(config["Version"]["Index"].as_u64() > Some(1));
}

#[tokio::test]
async fn filters_by_name_and_id_are_alternatives() {
    let api = Api::new();
    for name in ["ab", "abc", "xyz"] {
        let spec = json!({"Name": name, "Data": "YQ==", "Labels": {"of": name}});
        api.create("/secrets", spec).await;
    }
    let id = api.store.state().find_secret("xyz").unwrap().id.clone();
    for (filters, expected) in [
        (json!({}), &["ab", "abc", "xyz"][..]),
        (json!({"name": ["ab"]}), &["ab", "abc"]),
        (json!({"names": ["ab"]}), &["ab"]),
        (json!({"names": ["ab"], "id": [id]}), &["ab", "xyz"]),
        (json!({"name": ["ab"], "label": ["of=abc"]}), &["abc"]),
        (json!({"name": ["none"]}), &[]),
    ] {
        assert_eq!(api.names("/secrets", filters.clone()).await, expected);
    }
}

fn service(secret_id: &str) -> Value {
    json!({"Name": "web", "TaskTemplate": {"ContainerSpec": {
        "Image": "demo:1",
        "Secrets": [{
            "SecretID": secret_id, "SecretName": "key",
            "File": {"Name": "k", "UID": "1", "GID": "2", "Mode": 256},
        }],
    }}})
}

#[tokio::test]
async fn what_a_service_uses_stays() {
    let api = Api::new();
    let id = api
        .create("/secrets", json!({"Name": "key", "Data": "YQ=="}))
        .await;
    let (status, said) = api
        .refused("POST", "/services/create", service("other"))
        .await;
    let missing = "rpc error: code = InvalidArgument desc = secret not found: key";
    assert_eq!((status, &*said), (400, missing));
    let (status, _) = api.call("POST", "/services/create", service(&id)).await;
    assert_eq!(status, 201);
    let (_, read) = api.call("GET", "/services/web", Value::Null).await;
    assert_eq!(
        read["Spec"]["TaskTemplate"]["ContainerSpec"]["Secrets"],
        service(&id)["TaskTemplate"]["ContainerSpec"]["Secrets"],
        "references read back as they were given"
    );
    let (status, said) = api.refused("DELETE", "/secrets/key", Value::Null).await;
    let used = "rpc error: code = InvalidArgument desc = secret 'key' is in use by the following \
                service: web";
    assert_eq!((status, &*said), (400, used));
    api.call("DELETE", "/services/web", Value::Null).await;
    let (status, _) = api.call("DELETE", "/secrets/key", Value::Null).await;
    assert_eq!(status, 204);
    assert_eq!(api.store.state().secrets().count(), 0);
}

/// The credentials that the store has for the service, and for its previous spec.
fn auth(api: &Api) -> (String, String) {
    let state = api.store.state();
    let service: &Service = state.find_service("web").unwrap();
    (
        service.registry_auth.clone(),
        service.previous_registry_auth.clone(),
    )
}

#[tokio::test]
async fn registry_credentials_are_kept_with_each_spec_and_never_shown() {
    let api = Api::new();
    let spec = json!({"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "demo:1"}}});
    let update = async |query: &str, header: Option<&str>| {
        let index = api.store.state().find_service("web").unwrap().meta.version;
        let path = format!("/services/web/update?version={}{query}", index.index);
        api.call_with("POST", &path, spec.clone(), header).await
    };
    let created = api.call_with("POST", "/services/create", spec.clone(), Some("first"));
    assert_eq!(created.await.0, 201);
    let (status, answer) = update("&registryAuthFrom=previous-spec", None).await;
    assert_eq!(status, 500);
    assert_eq!(answer["message"], "service does not have a previous spec");
    let (status, answer) = update("&registryAuthFrom=x", None).await;
    assert_eq!(status, 400);
    assert_eq!(answer["message"], "invalid registryAuthFrom 'x'");
    for (query, header, expected) in [
        ("", None, ("first", "first")),
        ("", Some("second"), ("second", "first")),
        ("&registryAuthFrom=spec", None, ("second", "second")),
        ("", Some("third"), ("third", "second")),
        ("&registryAuthFrom=previous-spec", None, ("second", "third")),
        ("&rollback=previous", None, ("third", "second")),
    ] {
        assert_eq!(update(query, header).await.0, 200, "{query}");
        let (current, previous) = auth(&api);
        assert_eq!((&*current, &*previous), expected, "{query} {header:?}");
        let (_, shown) = api.call("GET", "/services/web", Value::Null).await;
        let shown = shown.to_string();
        assert!(!shown.contains(&current) && !shown.contains(&previous));
    }
}

#[test]
fn old_clients_have_no_templates() {
    let plain = br#"{"Name":"a","Data":"YQ=="}"#;
    let templated = br#"{"Name":"a","Data":"YQ==","Templating":{"Name":"golang"}}"#;
    let (old, new) = (ApiVersion::new(1, 36), ApiVersion::new(1, 37));
    check_version(Kind::Secret, old, plain).unwrap();
    check_version(Kind::Secret, new, templated).unwrap();
    let error = check_version(Kind::Config, old, templated).unwrap_err();
    assert_eq!(
        (error.status.as_u16(), &*error.message),
        (
            400,
            "config templating is not supported on the specified API version: 1.36"
        )
    );
}

#[tokio::test]
async fn a_driver_that_no_node_has_is_refused() {
    let api = Api::new();
    let spec = json!({"Name": "key", "Driver": {"Name": "vault"}});
    assert_eq!(
        api.refused("POST", "/secrets/create", spec).await,
        (
            500,
            "rpc error: code = Unknown desc = plugin \"vault\" not found".to_owned()
        )
    );
    // Configs have none, whatever is said.
    let spec = json!({"Name": "conf", "Data": "YQ==", "Driver": {"Name": "vault"}});
    api.create("/configs", spec).await;
}

#[tokio::test]
async fn a_node_is_removed_although_its_tasks_report_meanwhile() {
    let api = Api::new();
    let mut node = skein_model::Node {
        id: "n1".into(),
        ..skein_model::Node::default()
    };
    node.status.state = skein_model::NodeState::Ready;
    let mut task = skein_model::Task {
        id: "t1".into(),
        node_id: "n1".into(),
        ..skein_model::Task::default()
    };
    task.status.state = skein_model::TaskState::Starting;
    let cluster = skein_model::Cluster {
        id: "c".into(),
        ..skein_model::Cluster::default()
    };
    for object in [cluster.into(), node.into(), Object::from(task)] {
        api.store.apply(vec![Action::Create(object)]).unwrap();
    }
    let report = |state: &mut Model| {
        let mut task = skein_model::Task::clone(state.task("t1").unwrap());
        task.status.state = skein_model::TaskState::Running;
        let (index, actions) = (state.index() + 1, vec![Action::Update(task.into())]);
        let at = Timestamp::from_unix_nanos(index.into());
        state.apply(index, &Proposal { at, actions }).unwrap();
    };
    let (status, said) = api.refused("DELETE", "/nodes/n1", Value::Null).await;
    assert_eq!(status, 400, "{said}");
    api.store.meanwhile(report);
    let (status, answer) = api.call("DELETE", "/nodes/n1?force=1", Value::Null).await;
    assert_eq!(status, 200, "{answer}");
    let state = api.store.state();
    assert!(state.node("n1").is_none() && api.store.is_over());
    assert!(state.cluster().unwrap().removed_nodes.contains_key("n1"));
    assert_eq!(
        state.task("t1").unwrap().status.state,
        skein_model::TaskState::Orphaned
    );
}

#[tokio::test]
async fn containers_of_users_have_no_logs_of_tasks() {
    let api = Api::new();
    let mut place = skein_model::Task {
        id: "t1".into(),
        ..skein_model::Task::default()
    };
    place.spec.runtime = skein_model::Runtime::Attachment;
    api.store.apply(vec![Action::Create(place.into())]).unwrap();
    let refused = api
        .refused("GET", "/tasks/t1/logs?stdout=1", Value::Null)
        .await;
    assert_eq!(
        refused,
        (500, "logs only supported on container tasks".to_owned())
    );
}
