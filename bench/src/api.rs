//! The Docker API, as a benchmark uses it: the same calls to Skein and to Docker.

use anyhow::Context as _;
use bollard::{
    ClientVersion, Docker,
    models::{
        ContainerCreateBody, NetworkCreateRequest, Node, NodeSpecAvailabilityEnum, NodeState,
        Service, ServiceSpec, ServiceUpdateStatusStateEnum, TaskState,
    },
    query_parameters::{
        CreateContainerOptions, ListContainersOptionsBuilder, ListNodesOptions,
        ListServicesOptionsBuilder, ListTasksOptionsBuilder, RemoveContainerOptionsBuilder,
        StartContainerOptions, UpdateNodeOptionsBuilder, UpdateServiceOptionsBuilder,
    },
};
use serde_json::Value;
use std::{
    collections::HashMap,
    path::Path,
    time::{Duration, Instant},
};
use tokio::{runtime::Runtime, task::JoinSet};

/// For one call: managers of a thousand nodes may take their time.
const CALL_SECONDS: u64 = 60;
/// The newest that Docker 20.10 speaks: both are asked by it.
const VERSION: ClientVersion = ClientVersion {
    major_version: 1,
    minor_version: 41,
};

/// One daemon's API.
pub struct Api {
    runtime: Runtime,
    docker: Docker,
}

/// How many tasks of all services run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Running {
    /// Tasks that run.
    pub now: u64,
    /// Tasks that should.
    pub wanted: u64,
    /// Services whose last update is complete.
    pub updated: usize,
}

impl Api {
    /// The API behind a unix socket.
    ///
    /// # Errors
    /// There is no socket.
    pub fn at(socket: &Path) -> anyhow::Result<Self> {
        let path = socket.to_string_lossy();
        let docker = Docker::connect_with_unix(&path, CALL_SECONDS, &VERSION)
            .with_context(|| format!("cannot use the API at {path}"))?;
        let runtime = tokio::runtime::Builder::new_current_thread();
        Ok(Self {
            runtime: { runtime }.enable_all().build()?,
            docker,
        })
    }

    /// Creates a service; returns its ID.
    ///
    /// # Errors
    /// It is refused.
    pub fn create_service(&self, spec: &Value) -> anyhow::Result<String> {
        let spec: ServiceSpec = serde_json::from_value(spec.clone())?;
        let name = spec.name.clone().unwrap_or_default();
        let created = self
            .runtime
            .block_on(self.docker.create_service(spec, None));
        let created = created.with_context(|| format!("cannot create service {name}"))?;
        created.id.context("a service without an ID")
    }

    /// Creates an overlay.
    ///
    /// # Errors
    /// It is refused.
    pub fn create_network(&self, name: &str) -> anyhow::Result<()> {
        let request = NetworkCreateRequest {
            name: name.to_owned(),
            driver: Some("overlay".to_owned()),
            ..NetworkCreateRequest::default()
        };
        let created = self.runtime.block_on(self.docker.create_network(request));
        created.with_context(|| format!("cannot create network {name}"))?;
        Ok(())
    }

    /// Changes a service's spec.
    ///
    /// # Errors
    /// It is refused, or there is no such service.
    pub fn update_service(
        &self,
        id: &str,
        change: impl FnOnce(&mut ServiceSpec),
    ) -> anyhow::Result<()> {
        let update = async {
            let service = self.docker.inspect_service(id, None).await?;
            let version = service.version.and_then(|version| version.index);
            let mut spec = service.spec.unwrap_or_default();
            change(&mut spec);
            let options = UpdateServiceOptionsBuilder::default()
                // The client's type; indices of a benchmark are small.
                .version(i32::try_from(version.unwrap_or_default()).unwrap_or(i32::MAX))
                .build();
            self.docker.update_service(id, spec, options, None).await
        };
        let updated = self.runtime.block_on(update);
        updated.with_context(|| format!("cannot update service {id}"))?;
        Ok(())
    }

    /// Removes a service.
    ///
    /// # Errors
    /// It is refused.
    pub fn remove_service(&self, id: &str) -> anyhow::Result<()> {
        let removed = self.runtime.block_on(self.docker.delete_service(id));
        removed.with_context(|| format!("cannot remove service {id}"))
    }

    /// How many tasks of a service run, and are to.
    ///
    /// # Errors
    /// It does not answer.
    pub fn running_tasks(&self, service: &str) -> anyhow::Result<usize> {
        let filters = HashMap::from([
            ("service", vec![service]),
            ("desired-state", vec!["running"]),
        ]);
        let options = ListTasksOptionsBuilder::default().filters(&filters);
        let tasks = self
            .runtime
            .block_on(self.docker.list_tasks(Some(options.build())));
        let states = tasks.context("cannot list tasks")?.into_iter();
        let states = states.filter_map(|task| task.status?.state);
        Ok(states.filter(|state| *state == TaskState::RUNNING).count())
    }

    /// How many tasks on some nodes are to run.
    ///
    /// # Errors
    /// It does not answer.
    pub fn wanted_on(&self, nodes: &[String]) -> anyhow::Result<usize> {
        let nodes = nodes.iter().map(String::as_str).collect();
        let filters = HashMap::from([("node", nodes), ("desired-state", vec!["running"])]);
        let options = ListTasksOptionsBuilder::default().filters(&filters);
        let tasks = self
            .runtime
            .block_on(self.docker.list_tasks(Some(options.build())));
        Ok(tasks.context("cannot list the tasks of nodes")?.len())
    }

    /// What runs of all services. The manager counts: lists of very many tasks would measure how fast
    /// they are written.
    ///
    /// # Errors
    /// It does not answer.
    pub fn running(&self) -> anyhow::Result<Running> {
        let options = ListServicesOptionsBuilder::default().status(true).build();
        let services = self
            .runtime
            .block_on(self.docker.list_services(Some(options)));
        Ok(count(&services.context("cannot list services")?))
    }

    /// All nodes.
    ///
    /// # Errors
    /// It does not answer.
    pub fn nodes(&self) -> anyhow::Result<Vec<Node>> {
        let nodes = self
            .runtime
            .block_on(self.docker.list_nodes(None::<ListNodesOptions>));
        nodes.context("cannot list nodes")
    }

    /// Moves all tasks away from a node.
    ///
    /// # Errors
    /// It is refused.
    pub fn drain(&self, node: &Node) -> anyhow::Result<()> {
        let id = node.id.as_deref().context("a node without an ID")?;
        let mut spec = node.spec.clone().unwrap_or_default();
        spec.availability = Some(NodeSpecAvailabilityEnum::DRAIN);
        let version = node.version.as_ref().and_then(|version| version.index);
        let options = UpdateNodeOptionsBuilder::default()
            .version(i64::try_from(version.unwrap_or_default())?)
            .build();
        let drained = self
            .runtime
            .block_on(self.docker.update_node(id, spec, options));
        drained.with_context(|| format!("cannot drain node {id}"))
    }

    /// The token that workers join with.
    ///
    /// # Errors
    /// It is no manager.
    pub fn worker_token(&self) -> anyhow::Result<String> {
        let swarm = self.runtime.block_on(self.docker.inspect_swarm());
        let tokens = swarm.context("cannot ask for the join tokens")?.join_tokens;
        tokens
            .and_then(|of| of.worker)
            .context("there is no join token")
    }

    /// Creates and starts containers, all at once; returns how long all that took until the engine
    /// says that they run.
    ///
    /// # Errors
    /// One does not start.
    pub fn start_containers(
        &self,
        body: &ContainerCreateBody,
        count: usize,
        poll: Duration,
    ) -> anyhow::Result<Duration> {
        let start = async {
            let begun = Instant::now();
            let mut starting = JoinSet::new();
            for _ in 0..count {
                let (docker, body) = (self.docker.clone(), body.clone());
                starting.spawn(async move {
                    let created = docker.create_container(None::<CreateContainerOptions>, body);
                    let id = created.await?.id;
                    docker
                        .start_container(&id, None::<StartContainerOptions>)
                        .await
                });
            }
            for started in starting.join_all().await {
                started.context("a container does not start")?;
            }
            while self.containers(false).await?.len() < count {
                tokio::time::sleep(poll).await;
            }
            Ok(begun.elapsed())
        };
        self.runtime.block_on(start)
    }

    /// Removes all containers of the engine.
    ///
    /// # Errors
    /// One stays.
    pub fn remove_containers(&self) -> anyhow::Result<()> {
        let remove = async {
            let mut removing = JoinSet::new();
            for id in self.containers(true).await? {
                let docker = self.docker.clone();
                removing.spawn(async move {
                    let options = RemoveContainerOptionsBuilder::default().force(true).build();
                    docker.remove_container(&id, Some(options)).await
                });
            }
            for removed in removing.join_all().await {
                removed.context("a container cannot be removed")?;
            }
            Ok(())
        };
        self.runtime.block_on(remove)
    }

    /// How many containers the engine has, running or not.
    ///
    /// # Errors
    /// It does not answer.
    pub fn container_count(&self) -> anyhow::Result<usize> {
        Ok(self.runtime.block_on(self.containers(true))?.len())
    }

    async fn containers(&self, all: bool) -> anyhow::Result<Vec<String>> {
        let options = ListContainersOptionsBuilder::default().all(all).build();
        let containers = self.docker.list_containers(Some(options)).await;
        let containers = containers.context("cannot list containers")?.into_iter();
        Ok(containers.filter_map(|container| container.id).collect())
    }
}

fn count(services: &[Service]) -> Running {
    let mut running = Running::default();
    for service in services {
        if let Some(status) = &service.service_status {
            running.now += status.running_tasks.unwrap_or_default();
            running.wanted += status.desired_tasks.unwrap_or_default();
        }
        let update = service
            .update_status
            .as_ref()
            .and_then(|status| status.state);
        if update == Some(ServiceUpdateStatusStateEnum::COMPLETED) {
            running.updated += 1;
        }
    }
    running
}

/// Whether a node takes tasks: it has registered and is heard of.
pub fn is_ready(node: &Node) -> bool {
    let state = node.status.as_ref().and_then(|status| status.state);
    state == Some(NodeState::READY)
}

/// Asks until `done`, at `poll` between the answers.
///
/// # Errors
/// It is not within `limit`; with the last answer.
pub fn wait<T: std::fmt::Debug>(
    what: &str,
    poll: Duration,
    limit: Duration,
    mut ask: impl FnMut() -> anyhow::Result<T>,
    done: impl Fn(&T) -> bool,
) -> anyhow::Result<T> {
    let begun = Instant::now();
    loop {
        let answer = ask()?;
        if done(&answer) {
            return Ok(answer);
        }
        anyhow::ensure!(
            begun.elapsed() < limit,
            "{what}: not within {} s; now it is {answer:?}",
            limit.as_secs()
        );
        std::thread::sleep(poll);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_status_of_services_is_summed_up() {
        let services: Vec<Service> = serde_json::from_value(json!([
            {"ServiceStatus": {"RunningTasks": 3, "DesiredTasks": 5}, "UpdateStatus": {"State": "updating"}},
            {"ServiceStatus": {"RunningTasks": 2, "DesiredTasks": 2}, "UpdateStatus": {"State": "completed"}},
            {"ServiceStatus": {"RunningTasks": 1, "DesiredTasks": 1}},
        ]))
        .unwrap();
        let expected = Running {
            now: 6,
            wanted: 8,
            updated: 1,
        };
        assert_eq!(count(&services), expected);
    }

    #[test]
    fn what_is_waited_for_comes_or_is_told_of() {
        let mut n = 0;
        let mut next = || {
            n += 1;
            Ok(n)
        };
        let poll = Duration::from_millis(1);
        let found = wait("three", poll, Duration::from_secs(60), &mut next, |n| {
            *n == 3
        });
        assert_eq!(found.unwrap(), 3);
        let error = wait("never", poll, Duration::ZERO, next, |_| false);
        assert_eq!(
            error.unwrap_err().to_string(),
            "never: not within 0 s; now it is 4"
        );
    }
}
