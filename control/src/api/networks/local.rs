//! What this node answers: the engine's networks and the swarm's, merged.

use super::{
    creation, listing, shape,
    swarm::{listed, name_taken},
};
use crate::{
    agent::engine::TWIN_LABEL,
    api::{Local, body, error::ApiError, filters::Filters, json, query::Params},
    node::LocalState,
};
use axum::{
    body::Body,
    extract::{Path, Request, State},
    response::Response,
};
use http::{Method, StatusCode, request::Parts};
use http_body_util::{BodyExt, Limited};
use percent_encoding::{NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use serde_json::Value;
use skein_model::{LookupError, OVERLAY, State as Model};
use std::time::Duration;
use tokio::time::timeout;

/// The longest answer of the leader that is read here; it lists every network of the swarm.
const ANSWER_MAX: usize = 64 << 20;

/// How long a list waits for the leader, which answers such in milliseconds: one that was just lost is not
/// waited for.
const LIST_PATIENCE: Duration = Duration::from_secs(2);

impl Local {
    /// Whether this is a manager: one asks the cluster, which takes a leader.
    pub(super) fn is_manager(&self) -> bool {
        self.member.store().is_some()
    }

    /// What the cluster answers to a request of this node's own: `None` on a worker. Without a leader that
    /// is an error, which comes late.
    async fn of_cluster(&self, path_and_query: &str) -> Option<(StatusCode, Value)> {
        if !self.is_manager() {
            return None;
        }
        let request = Request::get(path_and_query).body(Body::empty()).ok()?;
        let (parts, body) = self.cluster.call(request).await.into_parts();
        let bytes = Limited::new(body, ANSWER_MAX).collect().await.ok()?;
        let value = serde_json::from_slice(&bytes.to_bytes()).ok()?;
        Some((parts.status, value))
    }

    /// The swarm's networks that a list asks for; `None` on a worker. A leader that cannot be asked is not
    /// waited for: then they are those that this manager knows of, as what is local is listed with them.
    async fn swarm_networks(
        &self,
        parts: &Parts,
        params: &Params,
    ) -> Result<Option<Vec<Value>>, ApiError> {
        let Some(store) = self.member.store() else {
            return Ok(None);
        };
        if !self.is_without_leader() {
            let asked = timeout(LIST_PATIENCE, self.of_cluster(path_and_query(parts)));
            if let Ok(Some((StatusCode::OK, Value::Array(networks)))) = asked.await {
                return Ok(Some(networks));
            }
        }
        listed(&store.state(), params).map(Some)
    }

    /// The network of a name or ID, if it is the swarm's. Where no leader can be asked, what is none of
    /// the swarm's as far as this manager knows is none.
    async fn swarm_network(&self, id: &str, query: &str) -> Result<Option<Value>, ApiError> {
        if self.is_without_leader() && !self.replica_has(id) {
            return Ok(None);
        }
        match self
            .of_cluster(&format!("/networks/{}?{query}", encoded(id)))
            .await
        {
            Some((StatusCode::OK, network)) => Ok(Some(network)),
            Some((StatusCode::NOT_FOUND, _)) | None => Ok(None),
            // A leader that was just lost.
            Some((status, _)) if status.is_server_error() && !self.replica_has(id) => Ok(None),
            Some((status, error)) => Err(ApiError::new(
                status,
                error["message"].as_str().unwrap_or_default(),
            )),
        }
    }

    /// The swarm's networks that a list asks for and this node has, in use or not as the engine says. By its own
    /// driver and scope, the engine would not find them.
    async fn networks_here(&self, params: &Params) -> Result<Vec<Value>, ApiError> {
        let filters = Filters::parse_any(params.text("filters"))?;
        let mut of_engine = Filters::default();
        of_engine.add(listing::LABEL, TWIN_LABEL);
        for on in filters.values(listing::DANGLING) {
            of_engine.add(listing::DANGLING, on);
        }
        let path = format!("/networks?filters={}", encoded(&of_engine.to_string()));
        let mut networks = array(self.engine.get(&path).await?);
        networks.iter_mut().for_each(shape::from_twin);
        networks.retain(|network| listing::asks_for_twin(&filters, network));
        Ok(networks)
    }

    fn is_without_leader(&self) -> bool {
        let store = self.member.store();
        store.is_some_and(|store| store.leadership().borrow().leader.is_none())
    }

    /// Whether a name or ID is one of the swarm's, as far as this manager's own copy of the store says:
    /// that may be late, but needs no leader.
    fn replica_has(&self, id: &str) -> bool {
        let state = self.member.store().map(|store| store.state());
        state.is_some_and(|state| knows(&state, id))
    }

    /// A network that is this engine's alone: what is local must work without a leader. That is one of
    /// the full ID `id`; or one of that name, or whose ID begins so, if the swarm has none.
    async fn own_network(&self, id: &str) -> Result<Option<Value>, ApiError> {
        let network = match self.engines_network(id).await {
            // Twins may be among the several that the engine finds.
            Err(error) if error.status == StatusCode::BAD_REQUEST => {
                let networks = array(self.engine.get("/networks").await?);
                let mut own = networks.into_iter().filter(|network| begins(network, id));
                let first = own.next();
                match own.next() {
                    None => first,
                    Some(_) => return Err(error),
                }
            }
            found => found?,
        };
        Ok(network.filter(|network| {
            let is_swarms = match network["Name"] == id {
                true => self.is_named(id),
                false => self.replica_has(id),
            };
            shape::twin_of(network).is_none() && (network["Id"] == id || !is_swarms)
        }))
    }

    /// Whether a whole ID or name is that of a network of the swarm, as far as this manager's own copy of the
    /// store says. The predefined ones are every node's own.
    fn is_named(&self, id: &str) -> bool {
        let state = self.member.store().map(|store| store.state());
        state.is_some_and(|state| {
            let found = state.find_network(id);
            found.is_ok_and(|network| {
                !network.spec.predefined && (network.id == id || network.spec.name == id)
            })
        })
    }

    /// Whether the beginning of an ID means one network alone, of the swarm's and of the engine's.
    ///
    /// # Errors
    /// 400: it means several.
    async fn check_one_begins(&self, id: &str) -> Result<(), ApiError> {
        let Some(store) = self.member.store() else {
            return Ok(());
        };
        let state = store.state();
        let of_swarm = || {
            state
                .present_networks()
                .filter(|network| !network.spec.predefined)
        };
        if of_swarm().any(|network| network.id == id || network.spec.name == id) {
            return Ok(());
        }
        let swarms = of_swarm()
            .filter(|network| network.id.starts_with(id))
            .count();
        if swarms == 0 {
            return Ok(());
        }
        // An engine that is away has nothing to say of what is the swarm's.
        let networks = self.engine.get("/networks").await.map(array);
        let engines = networks.unwrap_or_default();
        let engines = engines.iter().filter(|network| begins(network, id)).count();
        match swarms + engines {
            1 => Ok(()),
            several => Err(ambiguous(id, several)),
        }
    }

    /// Whether what the engine says of a name or ID is of a twin, or of several: networks that were removed
    /// may have had the name, too.
    async fn is_twin(&self, id: &str, found: &Result<Option<Value>, ApiError>) -> bool {
        match found {
            Ok(found) => found.as_ref().and_then(shape::twin_of).is_some(),
            Err(error) if error.status == StatusCode::BAD_REQUEST => {
                let twins = self.twins().await.unwrap_or_default();
                twins.iter().any(|twin| twin["Name"] == id)
            }
            Err(_) => false,
        }
    }

    /// A network of the engine, if it has it.
    pub(in crate::api) async fn engines_network(
        &self,
        id: &str,
    ) -> Result<Option<Value>, ApiError> {
        match self.engine.get(&format!("/networks/{}", encoded(id))).await {
            Ok(network) => Ok(Some(network)),
            Err(error) if error.status == StatusCode::NOT_FOUND => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Whether the ID of a network of the engine's alone begins so.
fn begins(network: &Value, id: &str) -> bool {
    let begins = network["Id"]
        .as_str()
        .is_some_and(|own| own.starts_with(id));
    begins && shape::twin_of(network).is_none()
}

/// The beginning of an ID means several networks.
pub(super) fn ambiguous(id: &str, matches: usize) -> ApiError {
    ApiError::invalid(format!(
        "network {id} is ambiguous ({matches} matches found based on ID prefix)"
    ))
}

/// Whether a name, an ID or its beginning may mean a network of the swarm. The predefined ones are
/// every node's own.
fn knows(state: &Model, id: &str) -> bool {
    match state.find_network(id) {
        Ok(network) => !network.spec.predefined,
        Err(LookupError::NotFound { .. }) => false,
        Err(LookupError::Ambiguous { .. }) => true,
    }
}

/// A name as part of a path.
pub(super) fn encoded(name: &str) -> PercentEncode<'_> {
    utf8_percent_encode(name, NON_ALPHANUMERIC)
}

fn path_and_query(parts: &Parts) -> &str {
    let text = parts.uri.path_and_query();
    text.map_or("/networks", http::uri::PathAndQuery::as_str)
}

pub async fn list(
    State(local): State<Local>,
    params: Params,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, _) = request.into_parts();
    // It also says what is wrong with the filters.
    let mut networks = array(local.engine.get(path_and_query(&parts)).await?);
    networks.retain(|network| shape::twin_of(network).is_none());
    networks.extend(match local.swarm_networks(&parts, &params).await? {
        Some(swarms) => swarms,
        // Workers show what is there of the swarm's.
        None => local.networks_here(&params).await?,
    });
    Ok(json::ok(&Value::Array(networks)))
}

/// The items of a list of the engine's.
pub(super) fn array(value: Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items,
        _ => Vec::new(),
    }
}

pub async fn inspect(
    State(local): State<Local>,
    Path(id): Path<String>,
    params: Params,
    request: Request,
) -> Result<Response, ApiError> {
    let scope = params.text("scope");
    let own = match scope {
        shape::SCOPE => None,
        // An engine that is away has nothing to say of what is the swarm's.
        _ => local.own_network(&id).await.ok().flatten(),
    };
    if scope.is_empty() && own.is_none() {
        local.check_one_begins(&id).await?;
    }
    if scope != "local" && own.is_none() {
        let query = request.uri().query().unwrap_or_default();
        if let Some(mut network) = local.swarm_network(&id, query).await? {
            let id = network["Id"].as_str().unwrap_or_default();
            // By the engine's own ID: one of that name that was removed may still have tasks that end.
            let twin = local.twin(id).await.ok().flatten();
            let twin = twin.as_ref().and_then(|twin| twin["Id"].as_str());
            if let Some(id) = twin
                && let Ok(Some(twin)) = local.engines_network(id).await
            {
                network["Containers"] = twin["Containers"].clone();
            }
            return Ok(json::ok(&network));
        }
    }
    let not_found = || ApiError::not_found(format!("network {id} not found"));
    let network = match own {
        Some(network) => Some(network),
        None => {
            let found = local.engines_network(&id).await;
            // What managers know no more is only there for tasks that end.
            if local.is_manager() && local.is_twin(&id, &found).await {
                return Err(not_found());
            }
            match found? {
                // Workers know the swarm's networks by their twins alone.
                None if !local.is_manager() => local.twin(&id).await?,
                found => found,
            }
        }
    };
    let mut network = network.ok_or_else(not_found)?;
    shape::from_twin(&mut network);
    if !scope.is_empty() && network["Scope"] != scope {
        return Err(not_found());
    }
    Ok(json::ok(&network))
}

pub async fn create(State(local): State<Local>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let body = body::read(body).await?;
    let spec = json::parse(&body)?;
    let name = spec["Name"].as_str().unwrap_or_default().to_owned();
    let request = Request::from_parts(parts, Body::from(body));
    let of_swarm =
        spec["Driver"] == OVERLAY || spec["Scope"] == shape::SCOPE || spec["Ingress"] == true;
    // What others are made of is each node's own, and the engine says what it may not have.
    let of_swarm = of_swarm && spec["ConfigOnly"] != true;
    if !of_swarm {
        if local.swarm_network(&name, "").await?.is_some() {
            return Err(name_taken(&name));
        }
        return Ok(local.pass_to_engine(request).await);
    }
    if spec["Scope"] == "local" {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "cannot downgrade network scope for overlay networks",
        ));
    }
    check_manager(&local)?;
    if let Some(driver) = spec["Driver"].as_str()
        && !(driver.is_empty() || creation::is_built_in(driver))
    {
        return Err(local.plugin_refused(driver).await?);
    }
    if let Ok(Some(present)) = local.engines_network(&name).await
        && shape::twin_of(&present).is_none()
        && present["Name"] == name.as_str()
    {
        return Err(name_taken(&name));
    }
    Ok(local.cluster.call(request).await)
}

impl Local {
    /// Why a network of the swarm cannot have a driver that engines have not themselves.
    async fn plugin_refused(&self, driver: &str) -> Result<ApiError, ApiError> {
        let mut filters = Filters::default();
        filters.add("capability", "networkdriver");
        filters.add("enabled", "true");
        let path = format!("/plugins?filters={}", encoded(&filters.to_string()));
        let managed = array(self.engine.get(&path).await?);
        let managed: Vec<_> = managed
            .iter()
            .filter_map(|plugin| plugin["Name"].as_str())
            .collect();
        let info = self.engine.get("/info").await?;
        let drivers = info["Plugins"]["Network"].as_array().into_iter().flatten();
        let drivers: Vec<_> = drivers.filter_map(Value::as_str).collect();
        Ok(creation::plugin_refused(driver, &managed, &drivers))
    }
}

fn check_manager(local: &Local) -> Result<(), ApiError> {
    if local.is_manager() {
        return Ok(());
    }
    let membership = local.member.membership();
    let message = if membership.state == LocalState::Active && !membership.is_manager {
        "Cannot create a multi-host network from a worker node. Please create the network from a manager node."
    } else {
        "cannot create a swarm scoped network when swarm is not active"
    };
    Err(ApiError::new(StatusCode::FORBIDDEN, message))
}

pub async fn remove(
    State(local): State<Local>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    // An engine that is away has nothing to say of what is the swarm's.
    let is_own = matches!(local.own_network(&id).await, Ok(Some(_)));
    if local.is_manager() && !is_own {
        local.check_one_begins(&id).await?;
        let uri = format!("/networks/{}", encoded(&id));
        let asked = Request::builder()
            .method(Method::DELETE)
            .uri(uri)
            .body(Body::empty())
            .map_err(|error| ApiError::invalid(error.to_string()))?;
        let response = local.cluster.call(asked).await;
        if response.status() != StatusCode::NOT_FOUND {
            return Ok(response);
        }
    }
    let present = local.engines_network(&id).await;
    if local.is_twin(&id, &present).await {
        return Err(match local.is_manager() {
            true => ApiError::not_found(format!("network {id} not found")),
            false => ApiError::unavailable(format!(
                "network {id} belongs to the swarm: remove it on a manager"
            )),
        });
    }
    Ok(local.pass_to_engine(request).await)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::testing::{Memory, lonely},
        testing,
    };
    use skein_model::{Action, Network};
    use std::{path::Path as FilePath, sync::Arc};
    use tokio::time::Instant;
    use tower::ServiceExt as _;

    /// An engine with the network `bridge`, which takes every other request.
    fn engine(socket: &FilePath) -> testing::Server {
        testing::engine(socket, async |method, path| match &*path {
            path if method == Method::GET
                && (path.ends_with("/bridge") || path.ends_with("/e1")) =>
            {
                (
                    200,
                    r#"{"Name":"bridge","Id":"e1","Scope":"local","Driver":"bridge"}"#,
                )
            }
            path if path.ends_with("/plugins") => (200, r#"[{"Name":"weave:latest"}]"#),
            path if path.ends_with("/info") => (200, r#"{"Plugins":{"Network":["bridge","old"]}}"#),
            path if path.ends_with("/networks") => (
                200,
                r#"[{"Name":"bridge","Id":"e1","Scope":"local","Driver":"bridge"},
                    {"Name":"lan","Id":"s5","Scope":"local","Driver":"macvlan"}]"#,
            ),
            path if path.ends_with("/lan") || path.ends_with("/s") => (
                200,
                r#"{"Name":"lan","Id":"s5","Scope":"local","Driver":"macvlan"}"#,
            ),
            path if path.ends_with("/none") => (
                200,
                r#"{"Name":"none","Id":"e3","Scope":"local","Driver":"null"}"#,
            ),
            _ if method == Method::GET => (404, r#"{"message":"network not found"}"#),
            _ => (201, r#"{"Id":"made by the engine"}"#),
        })
    }

    #[tokio::test]
    async fn what_is_local_works_without_a_leader() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("engine.sock");
        let _serving = engine(&path);
        let store = Arc::new(Memory::default());
        for (id, name, predefined) in [("s1", "bridge", true), ("s2", "front", false)] {
            let mut network = Network {
                id: id.into(),
                ..Network::default()
            };
            network.spec.name = name.into();
            network.spec.driver = "overlay".into();
            network.spec.predefined = predefined;
            store.apply(vec![Action::Create(network.into())]).unwrap();
        }
        let router = lonely(store, &path);
        let call = |method: &str, path: &str, body: &str| {
            let request = Request::builder().method(method).uri(path);
            let request = request.header("content-type", "application/json");
            let request = request.body(Body::from(body.to_owned())).unwrap();
            let answered = router.clone().oneshot(request);
            async { answered.await.unwrap().status().as_u16() }
        };
        let begun = Instant::now();
        let request = Request::get("/networks").body(Body::empty()).unwrap();
        let answer = router.clone().oneshot(request).await.unwrap();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let listed: Value = serde_json::from_slice(&body).unwrap();
        let names = listed.as_array().unwrap().iter();
        let names: Vec<_> = names.map(|network| &network["Name"]).collect();
        assert_eq!(names, ["bridge", "lan", "front"]);
        // One of the engine's begins so, and one of the swarm's.
        for method in ["GET", "DELETE"] {
            let request = Request::builder().method(method).uri("/networks/s");
            let request = request.body(Body::empty()).unwrap();
            let answer = router.clone().oneshot(request).await.unwrap();
            assert_eq!(answer.status(), 400);
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            let said: Value = serde_json::from_slice(&body).unwrap();
            let ambiguous = "network s is ambiguous (2 matches found based on ID prefix)";
            assert_eq!(said["message"], ambiguous);
        }
        assert_eq!(call("GET", "/networks/lan", "").await, 200);
        assert_eq!(call("GET", "/networks/bridge", "").await, 200);
        assert_eq!(call("GET", "/networks/e1", "").await, 200);
        assert_eq!(call("GET", "/networks/absent", "").await, 404);
        let own = r#"{"Name":"own","Driver":"bridge"}"#;
        assert_eq!(call("POST", "/networks/create", own).await, 201);
        assert_eq!(call("DELETE", "/networks/bridge", "").await, 201);
        assert!(begun.elapsed().as_secs() < 4, "{:?}", begun.elapsed());
        // Nor does what is refused take one.
        for (target, status) in [("lan", 403), ("none", 404)] {
            let spec = format!(r#"{{"TaskTemplate":{{"Networks":[{{"Target":"{target}"}}]}}}}"#);
            for path in ["/services/create", "/services/web/update?version=1"] {
                assert_eq!(call("POST", path, &spec).await, status, "{target}");
            }
        }
        let volume = r#"{"Name":"v","Driver":"d"}"#;
        assert_eq!(call("POST", "/volumes/create", volume).await, 201);
        assert_eq!(call("PUT", "/volumes/v", "{}").await, 404);
        for (driver, status) in [("weave", 501), ("old", 400), ("bogus", 404)] {
            let network = format!(r#"{{"Name":"n","Driver":"{driver}","Scope":"swarm"}}"#);
            assert_eq!(
                call("POST", "/networks/create", &network).await,
                status,
                "{driver}"
            );
        }
        // What is the swarm's takes its leader.
        let taken = r#"{"Name":"front","Driver":"bridge"}"#;
        assert_eq!(call("POST", "/networks/create", taken).await, 500);
    }
}
