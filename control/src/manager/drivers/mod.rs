//! Secret drivers: who has the values of secrets that the store has not.
//!
//! A value is asked for when a node's task needs it, for that task, and is told to that node alone: it
//! is never on a disk, and never in the store. What is asked and answered is Docker's protocol of plugins
//! that are a `secretprovider`; [`plugins`] is the way to them.

mod plugins;

pub use plugins::Plugins;

use crate::exchange::word;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use skein_model::{Payload, PortConfig, PortProtocol, PublishMode, ResolutionMode, Secret, Task};
use std::collections::BTreeMap;

/// Who is asked for values: the machine's [`Plugins`], or a test's own.
pub(super) trait Drivers: Send + Sync + 'static {
    /// Asks a driver.
    fn get(
        &self,
        driver: &str,
        request: Request,
    ) -> BoxFuture<'static, Result<DriverResponse, DriverError>>;
}

/// Why there is no value, or no such driver.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DriverError {
    /// Nothing on this machine says where it is.
    #[error("plugin \"{0}\" not found")]
    NotFound(String),
    /// It is there, and cannot be used.
    #[error("plugin \"{name}\": {reason}")]
    #[allow(missing_docs, reason = "the names say it")]
    Unusable { name: String, reason: String },
    /// It says so itself.
    #[error("plugin \"{name}\" refuses: {reason}")]
    #[allow(missing_docs, reason = "the names say it")]
    Refused { name: String, reason: String },
    /// Its value is none that a secret can have.
    #[error("plugin \"{name}\": {reason}")]
    #[allow(missing_docs, reason = "the names say it")]
    Value { name: String, reason: String },
}

/// Whom a value is for; fields of Docker's protocol, where what is empty is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Request {
    secret_name: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    secret_labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    service_hostname: String,
    #[serde(rename = "ServiceID", skip_serializing_if = "String::is_empty")]
    service_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    service_name: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    service_labels: BTreeMap<String, String>,
    #[serde(rename = "TaskID")]
    task_id: String,
    task_name: String,
    task_image: String,
    #[serde(rename = "NodeID")]
    node_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_endpoint_spec: Option<Endpoint>,
}

/// An endpoint as the protocol has it: names are numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Endpoint {
    #[serde(skip_serializing_if = "skein_model::is_default")]
    mode: i32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ports: Vec<Port>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Port {
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "skein_model::is_default")]
    protocol: i32,
    #[serde(skip_serializing_if = "skein_model::is_default")]
    target_port: u16,
    #[serde(skip_serializing_if = "skein_model::is_default")]
    published_port: u16,
    #[serde(skip_serializing_if = "skein_model::is_default")]
    publish_mode: i32,
}

impl Request {
    /// Asks for a secret on behalf of a task.
    pub(super) fn of(secret: &Secret, task: &Task) -> Self {
        let container = &task.spec.container_spec;
        let endpoint = task.endpoint_spec.as_ref().map(|endpoint| Endpoint {
            mode: match endpoint.mode {
                ResolutionMode::Vip => 0,
                ResolutionMode::Dnsrr => 1,
            },
            ports: endpoint.ports.iter().map(port).collect(),
        });
        Self {
            secret_name: secret.spec.name.clone(),
            secret_labels: secret.spec.labels.clone(),
            service_hostname: container.hostname.clone(),
            service_id: task.service_id.clone(),
            service_name: task.service_name.clone(),
            service_labels: task.service_labels.clone(),
            task_id: task.id.clone(),
            task_name: task.name(),
            task_image: container.image.clone(),
            node_id: task.node_id.clone(),
            service_endpoint_spec: endpoint,
        }
    }

    /// The task that the value is for.
    #[cfg(test)]
    pub(super) fn task_id(&self) -> &str {
        &self.task_id
    }
}

fn port(port: &PortConfig) -> Port {
    Port {
        name: port.name.clone(),
        protocol: match port.protocol {
            PortProtocol::Tcp => 0,
            PortProtocol::Udp => 1,
            PortProtocol::Sctp => 2,
        },
        target_port: port.target_port,
        published_port: port.published_port,
        publish_mode: match port.publish_mode {
            PublishMode::Ingress => 0,
            PublishMode::Host => 1,
        },
    }
}

/// What a plugin answers.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct DriverResponse {
    /// The value.
    pub(super) value: Payload,
    /// Why there is none; "" if there is.
    err: String,
    /// It is for this task alone: others are to be asked for again.
    pub(super) do_not_reuse: bool,
}

impl DriverResponse {
    /// A value.
    #[cfg(test)]
    pub(super) fn of(value: &str, do_not_reuse: bool) -> Self {
        Self {
            value: value.into(),
            err: String::new(),
            do_not_reuse,
        }
    }

    /// The answer of a plugin, if it is a value that a secret can have.
    fn checked(self, name: &str) -> Result<Self, DriverError> {
        let name = || name.to_owned();
        if !self.err.is_empty() {
            let reason = word(&self.err);
            return Err(DriverError::Refused {
                name: name(),
                reason,
            });
        }
        skein_orchestration::validate::check_secret_data(&self.value).map_err(|error| {
            DriverError::Value {
                name: name(),
                reason: error.message,
            }
        })?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::WORD_MAX;
    use serde_json::json;
    use skein_model::{EndpointSpec, PayloadSpec};

    #[test]
    fn a_plugin_is_told_whom_the_secret_is_for() {
        let secret = Secret {
            id: "s1".into(),
            spec: PayloadSpec {
                name: "key".into(),
                labels: [("path".to_owned(), "a/b".to_owned())].into(),
                ..PayloadSpec::default()
            },
            ..Secret::default()
        };
        let mut task = Task {
            id: "t1".into(),
            service_id: "w1".into(),
            service_name: "web".into(),
            node_id: "n1".into(),
            slot: 2,
            endpoint_spec: Some(EndpointSpec {
                mode: ResolutionMode::Dnsrr,
                ports: vec![PortConfig {
                    protocol: PortProtocol::Udp,
                    target_port: 53,
                    publish_mode: PublishMode::Host,
                    ..PortConfig::default()
                }],
            }),
            ..Task::default()
        };
        task.spec.container_spec.image = "demo:1".into();
        task.spec.container_spec.hostname = "h".into();
        assert_eq!(
            serde_json::to_value(Request::of(&secret, &task)).unwrap(),
            json!({
                "SecretName": "key",
                "SecretLabels": {"path": "a/b"},
                "ServiceHostname": "h",
                "ServiceID": "w1",
                "ServiceName": "web",
                "TaskID": "t1",
                "TaskName": "web.2.t1",
                "TaskImage": "demo:1",
                "NodeID": "n1",
                "ServiceEndpointSpec": {
                    "Mode": 1,
                    "Ports": [{"Protocol": 1, "TargetPort": 53, "PublishMode": 1}],
                },
            })
        );
    }

    #[test]
    fn an_answer_is_a_value_that_a_secret_can_have() {
        let checked = |answer: serde_json::Value| {
            let answer: DriverResponse = serde_json::from_value(answer).unwrap();
            answer.checked("vault").map_err(|error| error.to_string())
        };
        let good = checked(json!({"Value": "aGk=", "DoNotReuse": true})).unwrap();
        assert_eq!((&*good.value, good.do_not_reuse), (&b"hi"[..], true));
        assert_eq!(
            checked(json!({"Err": "no such\nkey"})).unwrap_err(),
            "plugin \"vault\" refuses: no such key"
        );
        let long = checked(json!({"Err": "x".repeat(100_000)})).unwrap_err();
        assert!(long.len() < 2 * WORD_MAX);
        let size = "secret data must be larger than 0 and less than 512000 bytes";
        let said = format!("plugin \"vault\": {size}");
        assert_eq!(checked(json!({})).unwrap_err(), said);
        let value = serde_json::to_value(Payload::from(vec![0; 512_000])).unwrap();
        assert_eq!(checked(json!({"Value": value})).unwrap_err(), said);
    }
}
