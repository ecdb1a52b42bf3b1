//! What the engine is asked for as the twin of one of the swarm's networks. Pure.

use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest, NetworkInspect};
use skein_model::NetworkSpec;
use skein_proto::{
    network::{Network, Subnet},
    plugin::NETWORK_OPTION,
};
use std::collections::{BTreeMap, HashMap};

/// The driver, of networks and of addresses, that the dataplane serves.
pub const DRIVER: &str = "skein";
/// Label of a twin: the ID of the network of the swarm.
pub const TWIN_LABEL: &str = "com.skein.network";
/// Label of the twin of a network that each node makes of one of its own: the name of that one.
pub const CONFIG_LABEL: &str = "com.skein.config-from";

/// What an engine's network must be to stand for one of the swarm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TwinSpec {
    /// ID of the network of the swarm.
    pub network_id: String,
    /// Its name, on the engine too.
    pub name: String,
    /// There is no way out of it.
    pub internal: bool,
    /// Containers of users may join it.
    pub attachable: bool,
    /// As its user labelled it.
    pub labels: BTreeMap<String, String>,
    /// What carries it, and who gives its addresses.
    pub kind: TwinKind,
}

/// What carries the network that a twin stands for, and who gives its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TwinKind {
    /// Skein, and the managers.
    Overlay {
        /// At least one.
        subnets: Vec<Subnet>,
    },
    /// A driver of the engine's own, which gives the addresses, too.
    Local {
        /// `macvlan`
        driver: String,
        /// With addresses of IPv6.
        ipv6: bool,
        /// The engine's `--config-only` network that says all else.
        config_from: Option<String>,
    },
}

impl From<&Network> for TwinSpec {
    fn from(network: &Network) -> Self {
        Self {
            network_id: network.id.clone(),
            name: network.name.clone(),
            internal: network.internal,
            attachable: network.attachable,
            labels: network.labels.clone(),
            kind: TwinKind::Overlay {
                subnets: network.subnets.clone(),
            },
        }
    }
}

impl TwinSpec {
    /// That of a network whose addresses each node gives. Of what its user asked for beside the driver the
    /// nodes take only what a network of their own says, as Swarm's do.
    pub fn local(network_id: &str, spec: &NetworkSpec) -> Self {
        Self {
            network_id: network_id.to_owned(),
            name: spec.name.clone(),
            internal: spec.internal,
            attachable: spec.attachable,
            labels: spec.labels.clone(),
            kind: TwinKind::Local {
                driver: spec.driver.clone(),
                ipv6: spec.enable_ipv6,
                config_from: spec.config_from().map(str::to_owned),
            },
        }
    }

    /// The engine's network that says what it is made of, if it names one.
    pub(super) fn config_from(&self) -> Option<&str> {
        match &self.kind {
            TwinKind::Local { config_from, .. } => config_from.as_deref(),
            TwinKind::Overlay { .. } => None,
        }
    }

    /// `config`: that network.
    pub(super) fn request(&self, config: Option<NetworkInspect>) -> NetworkCreateRequest {
        let one = |key: &str| HashMap::from([(key.to_owned(), self.network_id.clone())]);
        let config = config.unwrap_or_default();
        // The engine takes no label for a network that it makes of another itself: so this makes it.
        let mut labels = config.labels.unwrap_or_default();
        labels.extend(self.labels.clone());
        labels.extend(one(TWIN_LABEL));
        let from = self.config_from().map(str::to_owned);
        labels.extend(from.map(|name| (CONFIG_LABEL.to_owned(), name)));
        let request = NetworkCreateRequest {
            name: self.name.clone(),
            internal: self.internal.then_some(true),
            attachable: self.attachable.then_some(true),
            labels: Some(labels),
            ..NetworkCreateRequest::default()
        };
        match &self.kind {
            TwinKind::Overlay { subnets } => NetworkCreateRequest {
                driver: Some(DRIVER.to_owned()),
                ipam: Some(Ipam {
                    driver: Some(DRIVER.to_owned()),
                    config: Some(subnets.iter().map(pool).collect()),
                    // Subnets of different networks may overlap: the driver must know whose it is.
                    options: Some(one(NETWORK_OPTION)),
                }),
                options: Some(one(NETWORK_OPTION)),
                ..request
            },
            TwinKind::Local { driver, ipv6, .. } => {
                let with_ipv6 = *ipv6 || config.enable_ipv6 == Some(true);
                NetworkCreateRequest {
                    driver: Some(driver.clone()),
                    enable_ipv6: with_ipv6.then_some(true),
                    ipam: config.ipam,
                    options: config.options,
                    ..request
                }
            }
        }
    }
}

fn pool(subnet: &Subnet) -> IpamConfig {
    IpamConfig {
        subnet: Some(subnet.subnet.clone()),
        gateway: Some(subnet.gateway.clone()),
        ..IpamConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_twin_names_the_network_it_stands_for() {
        let spec = TwinSpec {
            network_id: "net1".into(),
            name: "front".into(),
            internal: false,
            attachable: false,
            labels: [("tier".to_owned(), "front".to_owned())].into(),
            kind: TwinKind::Overlay {
                subnets: vec![Subnet {
                    subnet: "10.0.1.0/24".into(),
                    gateway: "10.0.1.1".into(),
                }],
            },
        };
        let request = serde_json::to_value(spec.request(None)).unwrap();
        assert_eq!(
            request,
            json!({
                "Name": "front",
                "Driver": "skein",
                "IPAM": {
                    "Driver": "skein",
                    "Config": [{"Subnet": "10.0.1.0/24", "Gateway": "10.0.1.1"}],
                    "Options": {"skein.network": "net1"},
                },
                "Options": {"skein.network": "net1"},
                "Labels": {"com.skein.network": "net1", "tier": "front"},
            })
        );
    }

    #[test]
    fn a_network_of_the_nodes_is_what_a_network_of_the_node_says() {
        let mut spec: NetworkSpec = serde_json::from_value(json!({
            "Name": "lan", "Driver": "macvlan", "ConfigFrom": {"Network": "lan-here"},
            "Options": {"parent": "none"}, "IPAM": {"Config": [{"Subnet": "10.9.0.0/24"}]},
        }))
        .unwrap();
        let config: NetworkInspect = serde_json::from_value(json!({
            "ConfigOnly": true, "Driver": "null", "Labels": {"a": "b"},
            "Options": {"parent": "eth0"},
            "IPAM": {"Driver": "default", "Config": [
                {"Subnet": "192.0.2.0/24", "IPRange": "192.0.2.64/26", "Gateway": "192.0.2.1"},
            ]},
        }))
        .unwrap();
        let ipam = serde_json::to_value(&config.ipam).unwrap();
        let twin = TwinSpec::local("net1", &spec);
        let request = serde_json::to_value(twin.request(Some(config))).unwrap();
        assert_eq!(
            request,
            json!({
                "Name": "lan", "Driver": "macvlan", "IPAM": ipam, "Options": {"parent": "eth0"},
                "Labels": {
                    "a": "b", "com.skein.network": "net1", "com.skein.config-from": "lan-here",
                },
            })
        );
        spec.config_from = None;
        let twin = TwinSpec::local("net1", &spec);
        let request = serde_json::to_value(twin.request(None)).unwrap();
        let labels = json!({"com.skein.network": "net1"});
        assert_eq!(
            request,
            json!({"Name": "lan", "Driver": "macvlan", "Labels": labels})
        );
    }
}
