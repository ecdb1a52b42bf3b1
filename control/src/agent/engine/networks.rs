//! The twins of the swarm's networks on this engine.

use super::{Engine, EngineError};
use bollard::{
    models::{Ipam, IpamConfig, NetworkCreateRequest, NetworkInspect},
    query_parameters::ListNetworksOptionsBuilder,
};
use skein_model::NetworkSpec;
use skein_proto::{
    network::{Network, Subnet},
    plugin::NETWORK_OPTION,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};

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
        /// As its user labelled it.
        labels: BTreeMap<String, String>,
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
            kind: TwinKind::Local {
                driver: spec.driver.clone(),
                ipv6: spec.enable_ipv6,
                labels: spec.labels.clone(),
                config_from: spec.config_from().map(str::to_owned),
            },
        }
    }

    /// `config`: the engine's network that it is made of, if it names one.
    fn request(&self, config: Option<NetworkInspect>) -> NetworkCreateRequest {
        let one = |key: &str| HashMap::from([(key.to_owned(), self.network_id.clone())]);
        let request = NetworkCreateRequest {
            name: self.name.clone(),
            internal: self.internal.then_some(true),
            attachable: self.attachable.then_some(true),
            labels: Some(one(TWIN_LABEL)),
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
            TwinKind::Local {
                driver,
                ipv6,
                labels: own,
                config_from,
            } => {
                let config = config.unwrap_or_default();
                // The engine takes no label for a network that it makes of another itself: so this makes it.
                let mut labels = config.labels.unwrap_or_default();
                labels.extend(own.clone());
                labels.extend(one(TWIN_LABEL));
                let from = config_from.clone();
                labels.extend(from.map(|name| (CONFIG_LABEL.to_owned(), name)));
                let with_ipv6 = *ipv6 || config.enable_ipv6 == Some(true);
                NetworkCreateRequest {
                    driver: Some(driver.clone()),
                    enable_ipv6: with_ipv6.then_some(true),
                    ipam: config.ipam,
                    options: config.options,
                    labels: Some(labels),
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

impl Engine {
    /// The engine's own ID of the twin of a network of the swarm, if there is one.
    pub async fn twin(&self, network_id: &str) -> Result<Option<String>, EngineError> {
        let twins = self.labelled(format!("{TWIN_LABEL}={network_id}")).await?;
        Ok(twins.into_iter().next().map(|(id, _)| id))
    }

    /// The engine's own ID of a network's twin, which is made if need be.
    pub async fn ensure_twin(&self, spec: &TwinSpec) -> Result<String, EngineError> {
        {
            // Tasks that start together look together.
            let _none_goes = self.twins.read().await;
            if let Some(twin) = self.twin(&spec.network_id).await? {
                return Ok(twin);
            }
        }
        let _turn = self.twins.write().await;
        if let Some(twin) = self.twin(&spec.network_id).await? {
            return Ok(twin);
        }
        let config = match &spec.kind {
            TwinKind::Local {
                config_from: Some(name),
                ..
            } => Some(self.configuration(name).await?),
            _ => None,
        };
        let made = self
            .change("making a network", |docker| {
                docker.create_network(spec.request(config))
            })
            .await?;
        tracing::info!(
            network = spec.name,
            id = spec.network_id,
            "made the twin of a network"
        );
        Ok(made.id)
    }

    /// A network of the engine's that only says what others are made of.
    async fn configuration(&self, name: &str) -> Result<NetworkInspect, EngineError> {
        let found = self
            .read("looking at a network", |docker| {
                docker.inspect_network(name, None)
            })
            .await;
        match found {
            Ok(network) if network.config_only == Some(true) => Ok(network),
            Err(error) if !error.is_not_found() => Err(error),
            Ok(_) | Err(_) => Err(EngineError::Refused {
                status: 404,
                message: format!("configuration network \"{name}\" does not exist"),
            }),
        }
    }

    /// Networks of the swarm whose twins have no endpoint.
    pub async fn idle_twins(&self) -> Result<BTreeSet<String>, EngineError> {
        let mut idle = BTreeSet::new();
        for (twin, network_id) in self.labelled(TWIN_LABEL.to_owned()).await? {
            let inspected = self
                .read("looking at a network", |docker| {
                    docker.inspect_network(&twin, None)
                })
                .await;
            match inspected {
                Ok(network) if network.containers.as_ref().is_none_or(HashMap::is_empty) => {
                    idle.insert(network_id);
                }
                Ok(_) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(idle)
    }

    /// Removes the twin of a network that nobody needs; whether it did. An engine that still has endpoints
    /// on it refuses. Who needs it from then on must [ensure](Self::ensure_twin) it.
    pub async fn remove_twin_unless(
        &self,
        network_id: &str,
        is_needed: impl Fn() -> bool,
    ) -> Result<bool, EngineError> {
        let _turn = self.twins.write().await;
        // Asked now: whoever was given the twin needed it before, and who needs it later has a later turn.
        if is_needed() {
            return Ok(false);
        }
        let Some(twin) = self.twin(network_id).await? else {
            return Ok(false);
        };
        self.remove_network(&twin).await?;
        Ok(true)
    }

    /// Removes the twins of all networks. What fails is logged.
    pub async fn remove_all_twins(&self) -> Result<(), EngineError> {
        let _turn = self.twins.write().await;
        for (twin, network_id) in self.labelled(TWIN_LABEL.to_owned()).await? {
            if let Err(error) = self.remove_network(&twin).await {
                tracing::warn!(%error, network_id, "could not remove a network of the swarm");
            }
        }
        Ok(())
    }

    async fn remove_network(&self, twin: &str) -> Result<(), EngineError> {
        let removed = self
            .change("removing a network", |docker| docker.remove_network(twin))
            .await;
        match removed {
            Err(error) if error.is_not_found() => Ok(()),
            other => other,
        }
    }

    /// Networks with a label: their own IDs, and the networks of the swarm that they stand for.
    pub(super) async fn labelled(
        &self,
        label: String,
    ) -> Result<Vec<(String, String)>, EngineError> {
        let filters = HashMap::from([("label".to_owned(), vec![label])]);
        let options = ListNetworksOptionsBuilder::new().filters(&filters).build();
        let found = self
            .read("listing networks", |docker| {
                docker.list_networks(Some(options))
            })
            .await?;
        let twins = found.into_iter().filter_map(|network| {
            let network_id = network.labels?.remove(TWIN_LABEL)?;
            Some((network.id?, network_id))
        });
        Ok(twins.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use http::Method;
    use serde_json::json;
    use std::sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    };

    #[tokio::test]
    async fn a_twin_that_is_needed_by_its_turn_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("engine.sock");
        let removed = Arc::new(AtomicUsize::new(0));
        let count = removed.clone();
        let twins = json!([{"Id": "ffff", "Labels": {TWIN_LABEL: "n1"}}]).to_string();
        let _engine = testing::engine(&path, move |method, path| {
            let answer = match &*path {
                "/version" => (200, testing::VERSION.to_owned()),
                _ if method == Method::DELETE => {
                    count.fetch_add(1, Ordering::Relaxed);
                    (204, String::new())
                }
                _ => (200, twins.clone()),
            };
            std::future::ready(answer)
        });
        let engine = Engine::at(&path).unwrap();
        let needed = AtomicBool::new(false);
        let turn = engine.twins.write().await;
        let is_needed = || needed.load(Ordering::Relaxed);
        let removing = engine.remove_twin_unless("n1", is_needed);
        let starting = async {
            // The removal has begun, and waits.
            tokio::task::yield_now().await;
            needed.store(true, Ordering::Relaxed);
            drop(turn);
        };
        let (kept, ()) = tokio::join!(removing, starting);
        assert_eq!(kept, Ok(false));
        assert_eq!(removed.load(Ordering::Relaxed), 0);
        needed.store(false, Ordering::Relaxed);
        assert_eq!(engine.remove_twin_unless("n1", is_needed).await, Ok(true));
        assert_eq!(removed.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_twin_names_the_network_it_stands_for() {
        let spec = TwinSpec {
            network_id: "net1".into(),
            name: "front".into(),
            internal: false,
            attachable: false,
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
                "Labels": {"com.skein.network": "net1"},
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
