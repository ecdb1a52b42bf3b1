//! Containers on the twins of the swarm's networks that are no task's.

use super::{Engine, EngineError, twin::TWIN_LABEL};
use crate::agent::container::LABEL_TASK;
use bollard::{
    models::{
        ContainerInspectResponse, ContainerSummary, ContainerSummaryStateEnum,
        NetworkDisconnectRequest,
    },
    query_parameters::ListContainersOptionsBuilder,
};
use std::{collections::HashMap, net::Ipv4Addr};

/// A container of the user's own on one network of the swarm, running or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// ID of the container.
    pub container: String,
    /// Its name.
    pub name: String,
    /// Whether its processes are there.
    pub running: bool,
    /// The engine's own ID of the network.
    pub twin: String,
    /// ID of the network of the swarm.
    pub network_id: String,
    /// The address that it was made with.
    pub address: Option<Ipv4Addr>,
}

impl Engine {
    /// All of them.
    pub async fn guests(&self) -> Result<Vec<Guest>, EngineError> {
        let twins = self.labelled(TWIN_LABEL.to_owned()).await?;
        let twins: HashMap<String, String> = twins.into_iter().collect();
        if twins.is_empty() {
            return Ok(Vec::new());
        }
        let options = ListContainersOptionsBuilder::new().all(true).build();
        let containers = self
            .read("listing containers", |docker| {
                docker.list_containers(Some(options))
            })
            .await?;
        Ok(containers
            .into_iter()
            .flat_map(|container| on_twins(container, &twins))
            .collect())
    }

    /// What else a guest is called on its network; nothing of one that has gone.
    pub async fn aliases(&self, guest: &Guest) -> Result<Vec<String>, EngineError> {
        let container = self.container(&guest.container).await?;
        Ok(container.map_or_else(Vec::new, |container| aliases_on(container, &guest.twin)))
    }

    /// Takes a container off a network. One that is not there is fine.
    pub async fn disconnect(&self, container: &str, network: &str) -> Result<(), EngineError> {
        let request = NetworkDisconnectRequest {
            container: container.to_owned(),
            force: Some(true),
        };
        let gone = self
            .change("disconnecting a container from a network", |docker| {
                docker.disconnect_network(network, request)
            })
            .await;
        match gone {
            Err(error) if error.is_not_found() => Ok(()),
            other => other,
        }
    }
}

/// The places of a container on `twins` (the engine's own ID -> the network of the swarm).
fn on_twins(container: ContainerSummary, twins: &HashMap<String, String>) -> Vec<Guest> {
    let is_tasks = container
        .labels
        .is_some_and(|labels| labels.contains_key(LABEL_TASK));
    let (Some(id), false) = (container.id, is_tasks) else {
        return Vec::new();
    };
    // A name with a slash within is a link's.
    let names = container.names.unwrap_or_default();
    let mut names = names.iter().filter_map(|name| name.strip_prefix('/'));
    let name = names.find(|name| !name.contains('/')).unwrap_or_default();
    let running = matches!(
        container.state,
        Some(ContainerSummaryStateEnum::RUNNING | ContainerSummaryStateEnum::PAUSED)
    );
    let networks = container.network_settings.and_then(|s| s.networks);
    networks
        .into_iter()
        .flatten()
        .filter_map(|(_, settings)| {
            let twin = settings.network_id?;
            let network_id = twins.get(&twin)?.clone();
            let address = settings.ipam_config.and_then(|config| config.ipv4_address);
            Some(Guest {
                container: id.clone(),
                name: name.to_owned(),
                running,
                twin,
                network_id,
                address: address.and_then(|address| address.parse().ok()),
            })
        })
        .collect()
}

/// A container's aliases on a network, by the engine's own ID of it.
fn aliases_on(container: ContainerInspectResponse, twin: &str) -> Vec<String> {
    let networks = container.network_settings.and_then(|s| s.networks);
    let mut endpoints = networks.into_iter().flat_map(HashMap::into_values);
    let on_twin = endpoints.find(|endpoint| endpoint.network_id.as_deref() == Some(twin));
    on_twin
        .and_then(|endpoint| endpoint.aliases)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(container: serde_json::Value) -> Vec<Guest> {
        let twins = [("ffff".to_owned(), "n1".to_owned())].into();
        on_twins(serde_json::from_value(container).unwrap(), &twins)
    }

    #[test]
    fn aliases_are_those_of_the_one_network() {
        let inspected = json!({"NetworkSettings": {"Networks": {
            "bridge": {"NetworkID": "eeee", "Aliases": ["other"]},
            "front": {"NetworkID": "ffff", "Aliases": ["db", "store"]},
            "back": {"NetworkID": "dddd", "Aliases": null},
        }}});
        let aliases = |twin: &str| {
            let container = serde_json::from_value(inspected.clone()).unwrap();
            aliases_on(container, twin)
        };
        assert_eq!(aliases("ffff"), ["db", "store"]);
        assert!(aliases("dddd").is_empty() && aliases("cccc").is_empty());
    }

    #[test]
    fn guests_are_containers_of_users_on_twins() {
        let networks = json!({"Networks": {
            "bridge": {"NetworkID": "eeee"},
            "front": {"NetworkID": "ffff", "IPAMConfig": {"IPv4Address": "10.0.1.5"}},
        }});
        let of_user = json!({
            "Id": "c1", "Names": ["/other/alias", "/box"], "State": "exited", "Labels": {},
            "NetworkSettings": networks,
        });
        let expected = Guest {
            container: "c1".into(),
            name: "box".into(),
            running: false,
            twin: "ffff".into(),
            network_id: "n1".into(),
            address: Some(Ipv4Addr::new(10, 0, 1, 5)),
        };
        assert_eq!(read(of_user.clone()), [expected]);
        let mut of_task = of_user;
        of_task["Labels"] = json!({ LABEL_TASK: "" });
        assert!(read(of_task).is_empty());
    }
}
