//! Containers and the networks that they are on, as clients see them.

use super::{local::encoded, shape};
use crate::{
    agent::engine::TWIN_LABEL,
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
use std::collections::BTreeMap;

/// How the driver options begin that Skein itself gives endpoints.
const OWN_OPTIONS: &str = "skein.";
/// The parameter of a list with its filters, and the filter by network.
const FILTERS: &str = "filters";
const NETWORK_FILTER: &str = "network";

impl Local {
    pub(super) fn is_member(&self) -> bool {
        self.member.membership().state != LocalState::Inactive
    }

    /// The twins of the swarm's networks, as the engine shows them.
    pub(super) async fn twins(&self) -> Result<Vec<Value>, ApiError> {
        let path = format!("/networks?filters=%7B%22label%22%3A%5B%22{TWIN_LABEL}%22%5D%7D");
        match self.engine.get(&path).await? {
            Value::Array(twins) => Ok(twins),
            _ => Ok(Vec::new()),
        }
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
    let by_network = has_filter(request.uri());
    if by_network {
        let twins = local.twins().await?;
        *request.uri_mut() = by_twins(
            request.uri(),
            &twins.iter().filter_map(stands_for).collect(),
        )?;
    }
    let request = engines_request(request);
    let mut answer = match local.engine.relay(request, ANSWER_TIMEOUT).await? {
        Relayed::Json(answer) => answer,
        Relayed::Refusal(response) => return Ok(response),
    };
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

fn network_filter(filters: &str) -> Option<Filters> {
    let filters = Filters::parse_any(filters).ok()?;
    (!filters.values(NETWORK_FILTER).is_empty()).then_some(filters)
}

fn has_filter(uri: &Uri) -> bool {
    let mut parameters = parameters(uri).into_iter();
    parameters.any(|(name, text)| name == FILTERS && network_filter(&text).is_some())
}

/// A list's request, where a network of the swarm that it filters by also stands for its twin.
fn by_twins(uri: &Uri, twins: &Twins<'_>) -> Result<Uri, ApiError> {
    let mut query = String::new();
    for (name, mut text) in parameters(uri) {
        if name == FILTERS
            && let Some(mut filters) = network_filter(&text)
        {
            let asked = filters.values(NETWORK_FILTER).to_vec();
            for (twin, (id, _)) in twins {
                if asked
                    .iter()
                    .any(|asked| !asked.is_empty() && id.starts_with(asked))
                {
                    filters.add(NETWORK_FILTER, twin);
                }
            }
            text = filters.to_string();
        }
        let separator = if query.is_empty() { "" } else { "&" };
        query += &format!("{separator}{}={}", encoded(&name), encoded(&text));
    }
    let changed = format!("{}?{query}", uri.path()).parse();
    changed.map_err(|error| ApiError::internal(format!("the engine's address of a list: {error}")))
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
        let asked = |filters: Value| {
            let filters = filters.to_string();
            let uri = format!("/v1.41/containers/json?all=1&filters={}", encoded(&filters));
            uri.parse::<Uri>().unwrap()
        };
        for (by, expected) in [
            (json!(["n1abc"]), json!(["n1abc", "ffff"])),
            (json!({"n": true}), json!(["n", "eeee", "ffff"])),
            (json!(["web", "n9"]), json!(["web", "n9"])),
        ] {
            let uri = asked(json!({"network": by, "label": ["a=b&c"]}));
            assert!(has_filter(&uri));
            let changed = by_twins(&uri, &twins).unwrap();
            let expected = asked(json!({"label": ["a=b&c"], "network": expected}));
            assert_eq!(parameters(&changed), parameters(&expected));
            assert_eq!(changed.path(), uri.path());
        }
        assert!(!has_filter(&asked(json!({"label": ["a"]}))));
        assert!(!has_filter(&"/containers/json".parse().unwrap()));
    }
}
