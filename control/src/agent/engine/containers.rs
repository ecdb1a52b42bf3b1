//! Containers of the node's engine.

use super::{CHANGE_DEADLINE, Engine, EngineError, answer};
use crate::agent::container::{LABEL_NODE_ID, LABEL_TASK_ID, Plan};
use bollard::{
    models::ContainerInspectResponse,
    query_parameters::{
        CreateContainerOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
        StopContainerOptionsBuilder,
    },
};
use std::{collections::HashMap, time::Duration};

/// The engine's own grace period, for services that ask for none.
const DEFAULT_GRACE: Duration = Duration::from_secs(10);
/// From SIGKILL to the answer.
const STOP_SLACK: Duration = Duration::from_secs(30);

impl Engine {
    /// A container by name or ID; `None` if there is none.
    pub async fn container(
        &self,
        name: &str,
    ) -> Result<Option<ContainerInspectResponse>, EngineError> {
        let found = self
            .read("looking at a container", |docker| {
                docker.inspect_container(name, None)
            })
            .await;
        match found {
            Ok(container) => Ok(Some(container)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a container, on all of its networks.
    pub async fn create(&self, plan: &Plan) -> Result<(), EngineError> {
        let _place = self.changes.acquire().await;
        for volume in &plan.volumes {
            self.change("making a volume", |docker| {
                docker.create_volume(volume.clone())
            })
            .await?;
        }
        let options = CreateContainerOptionsBuilder::new()
            .name(&plan.name)
            .build();
        self.change("making a container", |docker| {
            docker.create_container(Some(options), plan.body.clone())
        })
        .await?;
        for (network, request) in &plan.connect {
            self.change("connecting a container to a network", |docker| {
                docker.connect_network(network, request.clone())
            })
            .await?;
        }
        Ok(())
    }

    /// Starts a container; one that runs already is fine.
    pub async fn start(&self, id: &str) -> Result<(), EngineError> {
        let _place = self.changes.acquire().await;
        let started = self
            .change("starting a container", |docker| {
                docker.start_container(id, None)
            })
            .await;
        match started {
            Err(EngineError::Refused { status: 304, .. }) => Ok(()),
            other => other,
        }
    }

    /// Ends a container: its stop signal, then SIGKILL after `grace` (whole seconds). One that does
    /// not run, or is not there, is fine.
    pub async fn stop(&self, id: &str, grace: Option<Duration>) -> Result<(), EngineError> {
        let mut options = StopContainerOptionsBuilder::new();
        if let Some(grace) = grace {
            options = options.t(i32::try_from(grace.as_secs()).unwrap_or(i32::MAX));
        }
        let deadline = grace.unwrap_or(DEFAULT_GRACE) + STOP_SLACK;
        let docker = self.ready().await?;
        let call = docker.stop_container(id, Some(options.build()));
        match answer("stopping a container", deadline, call).await {
            Err(EngineError::Refused {
                status: 304 | 404, ..
            }) => Ok(()),
            other => other,
        }
    }

    /// Removes a container with its anonymous volumes, killing it if it runs. One that is not there
    /// is fine.
    pub async fn remove(&self, id: &str) -> Result<(), EngineError> {
        let options = RemoveContainerOptionsBuilder::new()
            .v(true)
            .force(true)
            .build();
        let docker = self.ready().await?;
        let call = docker.remove_container(id, Some(options));
        match answer("removing a container", CHANGE_DEADLINE, call).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other,
        }
    }

    /// The containers of a node's tasks: their IDs, and the IDs of the tasks.
    pub async fn task_containers(
        &self,
        node_id: &str,
    ) -> Result<Vec<(String, String)>, EngineError> {
        let label = format!("{LABEL_NODE_ID}={node_id}");
        let filters = HashMap::from([("label".to_owned(), vec![label])]);
        let options = ListContainersOptionsBuilder::new()
            .all(true)
            .filters(&filters)
            .build();
        let found = self
            .read("listing containers", |docker| {
                docker.list_containers(Some(options))
            })
            .await?;
        let of_tasks = found.into_iter().filter_map(|container| {
            let task = container.labels?.remove(LABEL_TASK_ID)?;
            Some((container.id?, task))
        });
        Ok(of_tasks.collect())
    }
}
