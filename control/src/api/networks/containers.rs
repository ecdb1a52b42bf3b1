//! Containers and the networks that they are on, as clients see them.

use super::{
    local::{array, encoded},
    shape,
};
use crate::{
    agent::{container::LABEL_TASK, engine::TWIN_LABEL},
    api::{
        Local, Original,
        error::ApiError,
        filters::Filters,
        json,
        proxy::{ANSWER_TIMEOUT, Relayed},
    },
    node::LocalState,
};
use axum::{
    extract::{Query, Request, State},
    response::Response,
};
use http::Uri;
use serde_json::Value;
use skein_abi::addresses::DNS_ADDRESS;
use skein_proto::plugin::OWN_OPTIONS;
use std::collections::BTreeMap;

/// The parameters of a list: its filters, how many at most, and whether of all that there are.
const FILTERS: &str = "filters";
const LIMIT: &str = "limit";
const ALL: &str = "all";
/// The filters by network, by label, and by whether a container is a task's.
const NETWORK_FILTER: &str = "network";
const LABEL_FILTER: &str = "label";
const TASK_FILTER: &str = "is-task";

impl Local {
    pub(super) fn is_member(&self) -> bool {
        self.member.membership().state != LocalState::Inactive
    }

    /// The twins of the swarm's networks, as the engine shows them.
    pub(super) async fn twins(&self) -> Result<Vec<Value>, ApiError> {
        let path = format!("/networks?filters=%7B%22label%22%3A%5B%22{TWIN_LABEL}%22%5D%7D");
        Ok(array(self.engine.get(&path).await?))
    }

    /// The twin of a network of the swarm, by that one's ID or a prefix of it.
    pub(super) async fn twin(&self, id: &str) -> Result<Option<Value>, ApiError> {
        let twins = self.twins().await?;
        let mut matching = twins.into_iter().filter(|twin| {
            let of = shape::twin_of(twin).unwrap_or_default();
            !id.is_empty() && of.starts_with(id)
        });
        let first = matching.next();
        Ok(first.filter(|_| matching.next().is_none()))
    }
}

/// `GET /containers/json` and `/containers/{id}/json`: with the swarm's networks in place of their
/// twins.
pub async fn in_containers(
    State(local): State<Local>,
    mut request: Request,
) -> Result<Response, ApiError> {
    if !local.is_member() {
        return Ok(local.pass_to_engine(request).await);
    }
    if let Some(Original(uri)) = request.extensions().get().cloned() {
        *request.uri_mut() = uri;
    }
    let mut is_without_tasks = None;
    if let Some(filters) = filters(request.uri()) {
        let twins = match filters.values(NETWORK_FILTER) {
            [] => Vec::new(),
            _ => local.twins().await?,
        };
        let twins = twins.iter().filter_map(stands_for).collect();
        (*request.uri_mut(), is_without_tasks) = as_engine_knows(request.uri(), filters, &twins)?;
    }
    let request = engines_request(request);
    let mut answer = match local.engine.relay(request, ANSWER_TIMEOUT).await? {
        Relayed::Json(answer) => answer,
        Relayed::Refusal(response) => return Ok(response),
    };
    if let (Value::Array(containers), Some(limit)) = (&mut answer, is_without_tasks) {
        containers.retain(|container| container["Labels"].get(LABEL_TASK).is_none());
        containers.truncate(limit);
    }
    let twins = local.twins().await?;
    let twins = twins.iter().filter_map(stands_for).collect();
    let each: &mut [Value] = match &mut answer {
        Value::Array(containers) => containers,
        container => std::slice::from_mut(container),
    };
    for container in each {
        rename(container, &twins);
    }
    Ok(json::ok(&answer))
}

/// The parameters of a list's query; none where they cannot be read, which is the engine's to refuse.
fn parameters(uri: &Uri) -> Vec<(String, String)> {
    Query::try_from_uri(uri).map_or_else(|_| Vec::new(), |Query(parameters)| parameters)
}

/// A list's filters, if there are any that are not the engine's own to tell; what cannot be read is the engine's
/// to refuse.
fn filters(uri: &Uri) -> Option<Filters> {
    let (_, text) = parameters(uri)
        .into_iter()
        .rfind(|(name, _)| name == FILTERS)?;
    let filters = Filters::parse_any(&text).ok()?;
    let has = |name| !filters.values(name).is_empty();
    (has(NETWORK_FILTER) || has(TASK_FILTER)).then_some(filters)
}

/// Whether a list is to have tasks only, or none of them; nothing where it does not say, or what engines refuse.
fn of_tasks(filters: &Filters) -> Option<bool> {
    let says = |words: [&str; 2]| {
        let mut values = filters.values(TASK_FILTER).iter();
        values.any(|value| words.contains(&value.as_str()))
    };
    match (says(["1", "true"]), says(["0", "false"])) {
        (true, false) => Some(true),
        (false, true) => Some(false),
        _ => None,
    }
}

/// A list's request as an engine understands it: a network of the swarm that it filters by also stands for its
/// twin, and tasks' containers, which the engine takes for its user's, are those with their label. Where it is to
/// have none of those, also how many of the others it is to have at most.
fn as_engine_knows(
    uri: &Uri,
    mut filters: Filters,
    twins: &Twins<'_>,
) -> Result<(Uri, Option<usize>), ApiError> {
    let asked = filters.values(NETWORK_FILTER).to_vec();
    for (twin, (id, _)) in twins {
        if asked
            .iter()
            .any(|asked| !asked.is_empty() && id.starts_with(asked))
        {
            filters.add(NETWORK_FILTER, twin);
        }
    }
    let mut parameters = parameters(uri);
    parameters.retain(|(name, _)| name != FILTERS);
    let of_tasks = of_tasks(&filters);
    if of_tasks.is_some() {
        filters.remove(TASK_FILTER);
    }
    let mut limit = None;
    match of_tasks {
        Some(true) => filters.add(LABEL_FILTER, LABEL_TASK),
        Some(false) => limit = Some(unlimited(&mut parameters)),
        None => {}
    }
    parameters.push((FILTERS.to_owned(), filters.to_string()));
    let parameters: Vec<_> = parameters
        .iter()
        .map(|(name, text)| format!("{}={}", encoded(name), encoded(text)))
        .collect();
    let changed = format!("{}?{}", uri.path(), parameters.join("&")).parse();
    let uri = changed
        .map_err(|error| ApiError::internal(format!("the engine's address of a list: {error}")))?;
    Ok((uri, limit))
}

/// Takes the limit from a list's parameters. Engines look among all containers where there is one.
fn unlimited(parameters: &mut Vec<(String, String)>) -> usize {
    let limit = parameters
        .iter()
        .rfind(|(name, _)| name == LIMIT)
        .and_then(|(_, text)| text.parse().ok())
        .filter(|limit| *limit > 0);
    let Some(limit) = limit else {
        return usize::MAX;
    };
    parameters.retain(|(name, _)| name != LIMIT && name != ALL);
    parameters.push((ALL.to_owned(), "1".to_owned()));
    limit
}

fn engines_request(request: Request) -> Request {
    let (parts, body) = request.into_parts();
    let mut asked = Request::new(body);
    *asked.uri_mut() = parts.uri;
    let host = http::HeaderValue::from_static("docker");
    asked.headers_mut().insert(http::header::HOST, host);
    asked
}

/// Twin's ID -> ID and name of the swarm's network.
type Twins<'a> = BTreeMap<&'a str, (&'a str, &'a str)>;

fn stands_for(twin: &Value) -> Option<(&str, (&str, &str))> {
    let of = shape::twin_of(twin)?;
    Some((twin["Id"].as_str()?, (of, twin["Name"].as_str()?)))
}

fn rename(container: &mut Value, twins: &Twins<'_>) {
    if let Some(mode) = container.pointer_mut("/HostConfig/NetworkMode")
        && let Some((_, name)) = mode.as_str().and_then(|mode| twins.get(mode))
    {
        *mode = (*name).into();
    }
    let networks = container
        .pointer_mut("/NetworkSettings/Networks")
        .and_then(Value::as_object_mut);
    let mut is_on_swarms = false;
    for network in networks.into_iter().flat_map(serde_json::Map::values_mut) {
        let of = network["NetworkID"].as_str().and_then(|id| twins.get(id));
        let Some((id, _)) = of else { continue };
        is_on_swarms = true;
        network["NetworkID"] = (*id).into();
        let options = network.get_mut("DriverOpts");
        if let Some(options) = options.and_then(Value::as_object_mut) {
            options.retain(|name, _| !name.starts_with(OWN_OPTIONS));
            if options.is_empty() {
                network["DriverOpts"] = Value::Null;
            }
        }
    }
    let servers = container.pointer_mut("/HostConfig/Dns");
    if is_on_swarms
        && let Some(servers) = servers.and_then(Value::as_array_mut)
        && servers.first().is_some_and(is_swarms_server)
    {
        servers.remove(0);
    }
}

/// The server that containers on networks of the swarm are given, before those that their user names.
fn is_swarms_server(server: &Value) -> bool {
    let server = server.as_str().and_then(|server| server.parse().ok());
    server == Some(DNS_ADDRESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn containers_name_the_swarms_networks() {
        let twins = [("ffff", ("n1", "web"))].into();
        let mut container = json!({
            "HostConfig": {"NetworkMode": "ffff", "Dns": ["100.65.0.1", "192.0.2.53"]},
            "NetworkSettings": {"Networks": {
                "web": {"NetworkID": "ffff", "DriverOpts": {"skein.gateway": "none"}},
                "bridge": {"NetworkID": "eeee"},
            }},
        });
        rename(&mut container, &twins);
        assert_eq!(
            container,
            json!({
                "HostConfig": {"NetworkMode": "web", "Dns": ["192.0.2.53"]},
                "NetworkSettings": {"Networks": {
                    "web": {"NetworkID": "n1", "DriverOpts": null},
                    "bridge": {"NetworkID": "eeee"},
                }},
            })
        );
        let mut none = json!({"Id": "x"});
        rename(&mut none, &twins);
        assert_eq!(none, json!({"Id": "x"}));
        // It may be a user's own wish where the network is not the swarm's.
        let plain =
            json!({"HostConfig": {"Dns": ["100.65.0.1"]}, "NetworkSettings": {"Networks": {}}});
        let mut same = plain.clone();
        rename(&mut same, &twins);
        assert_eq!(same, plain);
    }

    #[test]
    fn a_list_by_a_network_of_the_swarm_is_one_by_its_twin() {
        let twins = [("ffff", ("n1abc", "web")), ("eeee", ("n2abc", "back"))].into();
        for (by, expected) in [
            (json!(["n1abc"]), json!(["n1abc", "ffff"])),
            (json!({"n": true}), json!(["n", "eeee", "ffff"])),
            (json!(["web", "n9"]), json!(["web", "n9"])),
        ] {
            let asked = json!({"network": by, "label": ["a=b&c"]});
            let (changed, limit) = asked_of_engine("all=1", &asked, &twins).unwrap();
            let expected = json!({"label": ["a=b&c"], "network": expected});
            assert_eq!(changed, list("all=1", &expected));
            assert_eq!(limit, None);
        }
    }

    fn list(others: &str, filters: &Value) -> Uri {
        let filters = encoded(&filters.to_string()).to_string();
        let uri = format!("/v1.41/containers/json?{others}&filters={filters}");
        uri.parse().unwrap()
    }

    /// What the engine is asked in place of a list, and how many are shown of those that are no tasks'; `None` for
    /// the list itself.
    fn asked_of_engine(
        others: &str,
        by: &Value,
        twins: &Twins<'_>,
    ) -> Option<(Uri, Option<usize>)> {
        let uri = list(others, by);
        Some(as_engine_knows(&uri, filters(&uri)?, twins).unwrap())
    }

    #[test]
    fn a_list_of_tasks_is_one_by_their_label() {
        let none = Twins::new();
        let asked = |others, by: Value| asked_of_engine(others, &by, &none);
        for tasks in [json!(["true"]), json!(["1"]), json!({"true": true})] {
            let by = json!({"is-task": tasks, "label": ["a"]});
            let (changed, limit) = asked("limit=3", by).unwrap();
            let expected = json!({"label": ["a", "com.docker.swarm.task"]});
            assert_eq!(changed, list("limit=3", &expected));
            assert_eq!(limit, None, "the engine counts");
        }
        // What is no task's has nothing that an engine could look for.
        let others = json!({"is-task": ["false"], "name": ["x"]});
        let by_name = json!({"name": ["x"]});
        let unlimited = (list("size=1", &by_name), Some(usize::MAX));
        assert_eq!(asked("size=1", others.clone()), Some(unlimited));
        let limited = (list("all=1", &by_name), Some(3));
        assert_eq!(asked("limit=3", others), Some(limited));
        // The engine says what is wrong.
        for wrong in [json!(["yes"]), json!(["true", "false"])] {
            let by = json!({"is-task": wrong});
            assert_eq!(asked("all=1", by.clone()), Some((list("all=1", &by), None)));
        }
        assert_eq!(asked("all=1", json!({"label": ["a"]})), None);
        assert!(filters(&"/containers/json".parse().unwrap()).is_none());
    }
}
