//! What a swarm leaves on the engine goes with the membership.

use crate::agent::{
    engine::{TWIN_LABEL, connect},
    files::Files,
};
use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListNetworksOptionsBuilder, RemoveContainerOptionsBuilder,
};
use std::{collections::HashMap, path::Path, time::Duration};

/// Label of a task's container: the ID of its node.
const NODE_LABEL: &str = "com.docker.swarm.node.id";
/// An engine that needs longer for all of it is left as it is.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Removes the tasks' containers and the swarm's networks. What fails is logged: the node leaves
/// anyway.
pub(super) async fn clean(engine: &Path, node_id: &str) {
    if let Err(error) = Files::of(node_id).remove_all().await {
        tracing::warn!(%error, "could not remove the tasks' secrets and configs");
    }
    let cleaned = tokio::time::timeout(TIMEOUT, remove_all(engine, node_id)).await;
    match cleaned {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "could not remove the swarm's containers"),
        Err(_) => tracing::warn!("the engine did not remove the swarm's containers in {TIMEOUT:?}"),
    }
}

async fn remove_all(engine: &Path, node_id: &str) -> Result<(), bollard::errors::Error> {
    let docker = connect(engine, TIMEOUT)?.negotiate_version().await?;
    let labelled = |label: String| HashMap::from([("label".to_owned(), vec![label])]);
    let of_node = labelled(format!("{NODE_LABEL}={node_id}"));
    let options = ListContainersOptionsBuilder::new().all(true);
    let containers = docker.list_containers(Some(options.filters(&of_node).build()));
    let force = RemoveContainerOptionsBuilder::new().force(true).v(true);
    let force = force.build();
    for id in containers.await?.into_iter().filter_map(|found| found.id) {
        if let Err(error) = docker.remove_container(&id, Some(force.clone())).await {
            tracing::warn!(%error, container = id, "could not remove a task's container");
        }
    }
    let twins = labelled(TWIN_LABEL.to_owned());
    let options = ListNetworksOptionsBuilder::new().filters(&twins).build();
    let networks = docker.list_networks(Some(options)).await?;
    for id in networks.into_iter().filter_map(|found| found.id) {
        if let Err(error) = docker.remove_network(&id).await {
            tracing::warn!(%error, network = id, "could not remove a network of the swarm");
        }
    }
    Ok(())
}
