//! `POST /networks/prune`: what nobody uses of the engine's own networks and, on managers, of the
//! swarm's.

use super::swarm::removal;
use crate::{
    agent::engine::TWIN_LABEL,
    api::{
        Leader, Local, body,
        error::ApiError,
        filters::Filters,
        json,
        proxy::{CHANGE_TIMEOUT, Relayed},
        query::{Params, unix_nanos},
    },
    clock,
    raft::ProposeError,
};
use axum::{
    body::Body,
    extract::{Request, State},
    response::Response,
};
use http::StatusCode;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use skein_model::{Network, State as Model, Timestamp};
use std::time::Duration;

const FILTERS: [&str; 3] = ["label", "label!", "until"];

pub async fn prune(
    State(local): State<Local>,
    params: Params,
    request: Request,
) -> Result<Response, ApiError> {
    if !local.is_member() {
        return Ok(local.pass_to_engine(request).await);
    }
    let filters = params.text("filters");
    let request = asked(&without_twins(filters)?)?;
    let engines = match local.engine.relay(request, CHANGE_TIMEOUT).await? {
        Relayed::Json(answer) => answer,
        Relayed::Refusal(response) => return Ok(response),
    };
    let mut names = Vec::new();
    if local.is_manager() {
        let response = local.cluster.call(asked(filters)?).await;
        // Without a leader the engine's are gone all the same.
        if response.status() == StatusCode::OK {
            let body = body::read(response.into_body()).await?;
            names.extend(deleted(&json::parse(&body)?));
        }
    }
    names.extend(deleted(&engines));
    let names = (!names.is_empty()).then_some(names);
    Ok(json::ok(&json!({ "NetworksDeleted": names })))
}

fn asked(filters: &str) -> Result<Request, ApiError> {
    let path = match filters {
        "" => "/networks/prune".to_owned(),
        filters => format!(
            "/networks/prune?filters={}",
            utf8_percent_encode(filters, NON_ALPHANUMERIC)
        ),
    };
    let request = Request::post(path).header(http::header::HOST, "docker");
    request
        .body(Body::empty())
        .map_err(|error| ApiError::invalid(error.to_string()))
}

fn deleted(answer: &Value) -> Vec<Value> {
    let names = answer["NetworksDeleted"].as_array();
    names.cloned().unwrap_or_default()
}

/// The filters with one more: a twin goes with the network that it stands for.
fn without_twins(filters: &str) -> Result<String, ApiError> {
    let mut filters = match filters {
        "" => json!({}),
        text => json::parse(text.as_bytes())?,
    };
    // Engines read one form or the other, never both at once.
    let mut forms = filters
        .as_object()
        .into_iter()
        .flat_map(|fields| fields.values());
    let older = forms.any(Value::is_object);
    let labels = &mut filters["label!"];
    match labels {
        Value::Array(labels) => labels.push(TWIN_LABEL.into()),
        Value::Object(labels) => drop(labels.insert(TWIN_LABEL.into(), true.into())),
        _ if older => *labels = json!({ TWIN_LABEL: true }),
        _ => *labels = json!([TWIN_LABEL]),
    }
    Ok(filters.to_string())
}

/// What the leader does of it.
pub async fn prune_swarm(
    State(leader): State<Leader>,
    params: Params,
) -> Result<Response, ApiError> {
    let filters = Filters::parse(params.text("filters"), &FILTERS)?;
    let until = match filters.values("until") {
        [] => None,
        [text] => Some(moment(text, clock::now())?),
        _ => return Err(ApiError::invalid("more than one until filter specified")),
    };
    let state = leader.read().await?;
    let mut names = Vec::new();
    for network in unused(&state, &filters, until) {
        match leader.propose(removal(network.id.clone())).await {
            Ok(()) => names.push(network.spec.name.as_str()),
            // Somebody has begun to use it, or has removed it, since the state was read.
            Err(ProposeError::Rejected(_)) => {}
            Err(error) if names.is_empty() => return Err(error.into()),
            // Who asked is to hear of those that are gone; the others are there for the next time.
            Err(error) => {
                tracing::warn!(
                    network = network.spec.name,
                    "networks stay that nobody uses: {error}"
                );
                break;
            }
        }
    }
    Ok(json::ok(&json!({ "NetworksDeleted": names })))
}

/// The networks that nobody uses. The ingress network is removed by its name only.
fn unused<'a>(
    state: &'a Model,
    filters: &'a Filters,
    until: Option<Timestamp>,
) -> impl Iterator<Item = &'a Network> {
    let not = !filters.values("label!").is_empty();
    state
        .present_networks()
        .map(|network| &**network)
        .filter(move |network| {
            let spec = &network.spec;
            !spec.ingress
                && !spec.predefined
                && until.is_none_or(|until| network.meta.created_at <= until)
                && filters.labels("label", &spec.labels)
                && !(not && filters.labels("label!", &spec.labels))
                && state.check_network_removal(network).is_ok()
        })
}

/// A moment as Docker's clients write it: how long ago (`1h30m`), in seconds since the Unix epoch, or in
/// RFC 3339.
fn moment(text: &str, now: Timestamp) -> Result<Timestamp, ApiError> {
    if let Some(ago) = go_duration(text) {
        let ago = i128::try_from(ago.as_nanos()).unwrap_or(i128::MAX);
        // Before any clock, for what is longer ago.
        let at = Timestamp::try_from_unix_nanos(now.unix_nanos().saturating_sub(ago));
        return Ok(at.unwrap_or_default());
    }
    unix_nanos(text)
        .map_or_else(|| text.parse().ok(), Timestamp::try_from_unix_nanos)
        .ok_or_else(|| ApiError::invalid(format!("invalid value for until: {text}")))
}

fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * unit).ok()?)?;
        rest = &rest[end..];
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_model::{Action, NetworkAttachmentConfig, Proposal, Service};

    #[test]
    fn moments_are_read_as_docker_writes_them() {
        let at = |seconds: i128| Timestamp::from_unix_nanos(seconds * 1_000_000_000);
        let now = at(1_800_000_000);
        for (text, seconds) in [
            ("1h30m", 1_800_000_000 - 5400),
            ("1.5s500ms", 1_800_000_000 - 2),
            ("1700000000", 1_700_000_000),
            ("2023-11-14T22:13:20Z", 1_700_000_000),
        ] {
            assert_eq!(moment(text, now).unwrap(), at(seconds), "{text}");
        }
        let fraction = Timestamp::from_unix_nanos(1_700_000_000_000_000_001);
        assert_eq!(moment("1700000000.000000001", now).unwrap(), fraction);
        let ages = "9999999999999h";
        assert!(moment(ages, now).unwrap() < at(0), "before any network");
        for text in ["", "h", "1 day", "1d", "99999999999999999"] {
            assert!(moment(text, now).is_err(), "{text}");
        }
    }

    #[test]
    fn twins_are_never_the_engines_to_prune() {
        for (filters, with) in [
            ("", json!({"label!": [TWIN_LABEL]})),
            (
                r#"{"label":["a"],"label!":["b"]}"#,
                json!({"label": ["a"], "label!": ["b", TWIN_LABEL]}),
            ),
            (
                r#"{"label":{"a":true}}"#,
                json!({"label": {"a": true}, "label!": {TWIN_LABEL: true}}),
            ),
            (
                r#"{"label!":{"b":true}}"#,
                json!({"label!": {"b": true, TWIN_LABEL: true}}),
            ),
        ] {
            let text = without_twins(filters).unwrap();
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), with);
        }
    }

    #[test]
    fn only_what_nobody_uses_is_pruned() {
        let network = |name: &str, change: fn(&mut Network)| {
            let mut network = Network {
                id: name.into(),
                ..Network::default()
            };
            network.spec.name = name.into();
            change(&mut network);
            Action::Create(network.into())
        };
        let mut user = Service {
            id: "s".into(),
            ..Service::default()
        };
        let used = NetworkAttachmentConfig {
            target: "used".into(),
            ..NetworkAttachmentConfig::default()
        };
        user.spec.task_template.networks.push(used);
        let actions = vec![
            network("ingress", |network| network.spec.ingress = true),
            network("host", |network| network.spec.predefined = true),
            network("labelled", |network| {
                network.spec.labels.insert("a".into(), "1".into());
            }),
            network("plain", |_| ()),
            network("used", |_| ()),
            Action::Create(user.into()),
        ];
        let at = Timestamp::from_unix_nanos(10);
        let mut state = Model::default();
        state.apply(1, &Proposal { at, actions }).unwrap();
        let pruned = |filters: &str, until| {
            let filters = Filters::parse(filters, &FILTERS).unwrap();
            let names = unused(&state, &filters, until).map(|network| network.spec.name.clone());
            names.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(pruned("", None), "labelled plain");
        assert_eq!(pruned(r#"{"label":["a"]}"#, None), "labelled");
        assert_eq!(pruned(r#"{"label!":["a=1"]}"#, None), "plain");
        assert_eq!(pruned("", Some(Timestamp::from_unix_nanos(9))), "");
    }
}
