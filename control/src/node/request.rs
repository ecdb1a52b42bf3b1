//! The bodies of `POST /swarm/init` and `/swarm/join`.

use serde::{Deserialize, Deserializer};
use skein_model::{Availability, ClusterSpec};

/// The body of `POST /swarm/init`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct InitRequest {
    pub listen_addr: String,
    pub advertise_addr: String,
    pub data_path_addr: String,
    pub data_path_port: u32,
    #[serde(deserialize_with = "nullable")]
    pub default_addr_pool: Vec<String>,
    pub subnet_size: u32,
    pub force_new_cluster: bool,
    pub spec: SwarmSpec,
    pub auto_lock_managers: bool,
    #[serde(deserialize_with = "availability")]
    pub availability: Availability,
}

/// The `Spec` of an init: what is zero or absent keeps its default.
pub type SwarmSpec = serde_json::Map<String, serde_json::Value>;

/// The body of `POST /swarm/join`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct JoinRequest {
    pub listen_addr: String,
    pub advertise_addr: String,
    pub data_path_addr: String,
    #[serde(deserialize_with = "nullable")]
    pub remote_addrs: Vec<String>,
    pub join_token: String,
    #[serde(deserialize_with = "availability")]
    pub availability: Availability,
}

/// Go writes an empty list as null.
fn nullable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Case does not matter, and "" is `active`.
fn availability<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Availability, D::Error> {
    let text = String::deserialize(deserializer)?;
    Availability::of_name(&text.to_lowercase())
        .ok_or_else(|| serde::de::Error::custom(format!("invalid Availability: {text:?}")))
}

/// Merges a request's spec over the defaults: zero values keep the default.
///
/// # Errors
/// A value of another type than the field's.
pub(crate) fn merge_spec(spec: &SwarmSpec) -> Result<ClusterSpec, serde_json::Error> {
    merge_spec_over(&ClusterSpec::default(), spec)
}

/// The same over a spec that is there already.
pub(crate) fn merge_spec_over(
    base: &ClusterSpec,
    spec: &SwarmSpec,
) -> Result<ClusterSpec, serde_json::Error> {
    let mut merged = serde_json::to_value(base)?;
    for (key, value) in spec {
        overlay(&mut merged[key], value);
    }
    crate::strict::from_value(merged)
}

fn overlay(default: &mut serde_json::Value, asked: &serde_json::Value) {
    use serde_json::Value;
    match asked {
        Value::Null | Value::Bool(false) => {}
        Value::Number(number) if number.as_f64() == Some(0.0) => {}
        Value::String(text) if text.is_empty() => {}
        Value::Array(list) if list.is_empty() => {}
        Value::Object(fields) if default.is_object() => {
            for (key, value) in fields {
                overlay(&mut default[key], value);
            }
        }
        asked => *default = asked.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> serde_json::Result<InitRequest> {
        serde_json::from_str(json)
    }

    #[test]
    fn zero_values_of_a_spec_keep_the_defaults() {
        let request = parse(
            r#"{"ListenAddr":"0.0.0.0:2377","DefaultAddrPool":null,"SubnetSize":24,"Availability":"Drain",
                "Spec":{"Labels":null,"Orchestration":{},"Raft":{"ElectionTick":0,"HeartbeatTick":0},
                "Dispatcher":{"HeartbeatPeriod":2000000000},"CAConfig":{},"TaskDefaults":{}}}"#,
        )
        .unwrap();
        assert_eq!(request.availability, Availability::Drain);
        let mut expected = ClusterSpec::default();
        expected.dispatcher.heartbeat_period = 2_000_000_000;
        assert_eq!(merge_spec(&request.spec).unwrap(), expected);
    }

    #[test]
    fn an_unknown_availability_is_refused() {
        let error = parse(r#"{"Availability":"gone"}"#).unwrap_err().to_string();
        assert!(
            error.starts_with("invalid Availability: \"gone\""),
            "{error}"
        );
    }
}
