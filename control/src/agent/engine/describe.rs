//! What the engine says of its node.

use super::{Engine, EngineError};
use bollard::models::{GenericResources, SystemInfo, SystemVersion};
use skein_model::{
    DiscreteResource, EngineDescription, EnginePlugin, GenericResource, NamedResource,
    NodeDescription, NodeResources, Platform,
};

/// A CPU, in billionths.
const NANO: i64 = 1_000_000_000;

impl Engine {
    /// What the node is, as its engine sees it.
    pub async fn describe(&self) -> Result<NodeDescription, EngineError> {
        let info = self
            .read("asking what it is", |docker| docker.info())
            .await?;
        let version = self
            .read("asking for its version", |docker| docker.version())
            .await?;
        Ok(describe(info, version))
    }
}

/// A node's description from the answers of `GET /info` and `GET /version`.
pub fn describe(info: SystemInfo, version: SystemVersion) -> NodeDescription {
    let found = info.plugins.unwrap_or_default();
    let mut plugins: Vec<EnginePlugin> = [
        ("Authorization", found.authorization),
        ("Log", found.log),
        ("Network", found.network),
        ("Volume", found.volume),
    ]
    .into_iter()
    .flat_map(|(kind, names)| {
        let names = names.unwrap_or_default().into_iter();
        names
            // It serves Skein's own networks, and is no choice of the user's.
            .filter(|name| name != super::DRIVER)
            .map(|name| EnginePlugin {
                kind: kind.to_owned(),
                name,
            })
    })
    .collect();
    plugins.sort();
    // Labels are `key=value`; one without a value has the empty one.
    let labels = info.labels.unwrap_or_default().into_iter();
    let labels = labels
        .map(|label| match label.split_once('=') {
            Some((key, value)) => (key.to_owned(), value.to_owned()),
            None => (label, String::new()),
        })
        .collect();
    NodeDescription {
        hostname: info.name.unwrap_or_default(),
        platform: Platform {
            architecture: info.architecture.unwrap_or_default(),
            os: info.os_type.unwrap_or_default(),
        },
        resources: NodeResources {
            nano_cpus: info.ncpu.unwrap_or_default().saturating_mul(NANO),
            memory_bytes: info.mem_total.unwrap_or_default(),
            generic_resources: generic_resources(info.generic_resources.unwrap_or_default()),
        },
        engine: EngineDescription {
            engine_version: version.version.unwrap_or_default(),
            labels,
            plugins,
        },
        ..NodeDescription::default()
    }
}

/// What the engine was told that the node has (`--node-generic-resource`).
fn generic_resources(found: GenericResources) -> Vec<GenericResource> {
    found
        .into_iter()
        .map(|resource| GenericResource {
            discrete_resource_spec: resource.discrete_resource_spec.map(|discrete| {
                DiscreteResource {
                    kind: discrete.kind.unwrap_or_default(),
                    value: discrete.value.unwrap_or_default(),
                }
            }),
            named_resource_spec: resource.named_resource_spec.map(|named| NamedResource {
                kind: named.kind.unwrap_or_default(),
                value: named.value.unwrap_or_default(),
            }),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_is_what_its_engine_says() {
        let info = serde_json::from_value(json!({
            "Name": "n1", "NCPU": 2, "MemTotal": 1024, "Architecture": "x86_64",
            "OSType": "linux", "Labels": ["rack=a", "ssd"],
            "GenericResources": [
                {"DiscreteResourceSpec": {"Kind": "ssd", "Value": 3}},
                {"NamedResourceSpec": {"Kind": "gpu", "Value": "u1"}},
            ],
            "Plugins": {"Volume": ["local"], "Network": ["skein", "bridge"], "Log": ["json-file"]},
        }))
        .unwrap();
        let version = serde_json::from_value(json!({"Version": "20.10.24"})).unwrap();
        let node = describe(info, version);
        assert_eq!(node.hostname, "n1");
        assert_eq!(node.platform.architecture, "x86_64");
        assert_eq!(node.platform.os, "linux");
        assert_eq!(node.resources.nano_cpus, 2_000_000_000);
        assert_eq!(node.resources.memory_bytes, 1024);
        let generic = serde_json::to_value(&node.resources.generic_resources).unwrap();
        assert_eq!(
            generic,
            json!([
                {"DiscreteResourceSpec": {"Kind": "ssd", "Value": 3}},
                {"NamedResourceSpec": {"Kind": "gpu", "Value": "u1"}},
            ])
        );
        assert_eq!(node.engine.engine_version, "20.10.24");
        assert_eq!(node.engine.labels["rack"], "a");
        assert_eq!(node.engine.labels["ssd"], "");
        let plugins: Vec<_> = node
            .engine
            .plugins
            .iter()
            .map(|p| p.name.as_str())
            .collect();
        assert_eq!(plugins, ["json-file", "bridge", "local"]);
    }
}
