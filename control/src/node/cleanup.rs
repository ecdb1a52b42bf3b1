//! What a swarm leaves on the engine goes with the membership.

use crate::agent::{
    engine::{Engine, EngineError},
    files::Files,
};
use std::{path::Path, time::Duration};

/// An engine that needs longer for all of it is left as it is.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Removes the tasks' containers and the swarm's networks, which other containers are taken off. What fails is logged: the node leaves
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

async fn remove_all(engine: &Path, node_id: &str) -> Result<(), EngineError> {
    let engine = Engine::at(engine)?;
    for (container, _) in engine.task_containers(node_id).await? {
        if let Err(error) = engine.remove(&container).await {
            tracing::warn!(%error, container, "could not remove a task's container");
        }
    }
    for guest in engine.guests().await? {
        if let Err(error) = engine.disconnect(&guest.container, &guest.twin).await {
            let container = guest.name;
            tracing::warn!(%error, container, "could not take a container off the swarm's network");
        }
    }
    engine.remove_all_twins().await
}
