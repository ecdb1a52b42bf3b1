//! All that a task needs before it starts: image, networks, files, container.

use super::{failure::Failure, registry::Environment};
use crate::agent::{
    container::{self, Container, Endpoint, File, FilesError, LABEL_TASK_ID, Place, Plan},
    engine::TwinSpec,
    store::{CREDENTIALS_WITHHELD, Record},
};
use skein_model::{Task, TaskNetwork};
use std::sync::Arc;

/// Makes image, networks and container. What is there already is taken as it is, but for a container
/// that never ran: whether it has all of its networks is not known.
pub(super) async fn prepare(
    environment: &Environment,
    record: &Record,
    container: &Container,
) -> Result<(), Failure> {
    let engine = &environment.engine;
    let task = &record.task;
    match container {
        Container::Unknown | Container::Missing => {}
        Container::Created { status } => engine.remove(&status.container_id).await?,
        Container::Running { .. } | Container::Exited { .. } => return Ok(()),
    }
    let node = match environment.description.load_full() {
        Some(node) => node,
        None => Arc::new(engine.describe().await?),
    };
    // What cannot be made is found out before anything is pulled or made.
    let plan_on = |endpoints: &[Endpoint]| {
        container::plan(
            task,
            &node,
            endpoints,
            &[skein_abi::addresses::DNS_ADDRESS.into()],
        )
        .map_err(|error| Failure::Final(error.to_string()))
    };
    let named: Vec<Endpoint> = task
        .networks_attachments
        .iter()
        .map(|attachment| endpoint(task, attachment))
        .collect::<Result<_, _>>()?;
    check_bind_sources(&plan_on(&named)?).await?;
    let files = files_of(environment, task)?;
    let image = &task.spec.container_spec.image;
    if task.registry_auth != CREDENTIALS_WITHHELD {
        engine.ensure_image(image, &task.registry_auth).await?;
    } else if !engine.has_image(image).await? {
        return Err(Failure::Passing(
            "waiting for a manager to tell the registry's credentials again".to_owned(),
        ));
    }

    let mut endpoints = Vec::with_capacity(named.len());
    for (attachment, endpoint) in task.networks_attachments.iter().zip(named) {
        let network = match endpoint.place {
            Place::Predefined => endpoint.network,
            Place::Overlay(_) | Place::Local { .. } => twin(environment, attachment).await?,
        };
        endpoints.push(Endpoint {
            network,
            ..endpoint
        });
    }
    let mut plan = plan_on(&endpoints)?;
    if !files.is_empty() {
        plan.mount(write_files(environment, task, files).await?);
    }
    match engine.create(&plan).await {
        // An earlier try whose answer was lost has made it.
        Err(error) if error.is_conflict() => {
            let found = engine.container(&plan.name).await?;
            let labels = found
                .as_ref()
                .and_then(|c| c.config.as_ref()?.labels.as_ref());
            let owner = labels.and_then(|labels| labels.get(LABEL_TASK_ID));
            if owner == Some(&task.id) {
                Err(Failure::Passing(error.to_string()))
            } else {
                Err(Failure::Final(error.to_string()))
            }
        }
        other => Ok(other?),
    }
}

/// A task's place on a network, which is named as the swarm does, or as every engine does.
fn endpoint(task: &Task, attachment: &TaskNetwork) -> Result<Endpoint, Failure> {
    let (network, place) = match (&attachment.local_network, attachment.address) {
        (Some(spec), _) if spec.predefined => (&spec.name, Place::Predefined),
        (Some(_), _) => {
            let service = &task.service_name;
            let mut names = vec![service.clone(), format!("tasks.{service}")];
            names.extend(attachment.aliases.iter().cloned());
            (&attachment.network_id, Place::Local { names })
        }
        (None, Some(address)) => (&attachment.network_id, Place::Overlay(address.addr())),
        (None, None) => {
            return Err(Failure::Final(format!(
                "the managers gave the task no address on network {}",
                attachment.network_id
            )));
        }
    };
    Ok(Endpoint {
        network: network.clone(),
        place,
        driver_opts: attachment.driver_opts.clone(),
    })
}

/// The task's secrets and configs, as files of its container.
fn files_of(environment: &Environment, task: &Task) -> Result<Vec<File>, Failure> {
    let dependencies = &environment.dependencies;
    // Asked first: what comes between the two is no loss.
    let complete = dependencies.are_complete();
    container::files(task, &dependencies.of(task)).map_err(|error| match error {
        // An agent that was started anew knows its tasks, and no secrets yet.
        FilesError::Unknown { .. } if !complete => Failure::Passing(format!(
            "waiting for a manager to tell of it again: {error}"
        )),
        error @ FilesError::Withheld(_) => Failure::Passing(error.to_string()),
        error => Failure::Final(error.to_string()),
    })
}

/// Puts the files where the engine finds them; how it is told of them.
async fn write_files(
    environment: &Environment,
    task: &Task,
    files: Vec<File>,
) -> Result<Vec<bollard::models::Mount>, Failure> {
    let written = environment.files.write(&task.id, files.clone()).await;
    let paths = written
        .map_err(|error| Failure::Passing(format!("cannot write secrets and configs: {error}")))?;
    Ok(container::file_mounts(&files, &paths))
}

/// The engine's own ID of the twin of a task's network.
async fn twin(environment: &Environment, attachment: &TaskNetwork) -> Result<String, Failure> {
    let network_id = &attachment.network_id;
    let spec = match &attachment.local_network {
        Some(spec) => Some(TwinSpec::local(network_id, spec)),
        None => environment
            .networks
            .network(network_id)
            .map(|network| TwinSpec::from(&network)),
    };
    if let Some(spec) = spec {
        return Ok(environment.engine.ensure_twin(&spec).await?);
    }
    // The managers tell of tasks and of networks in streams of their own.
    let twin = environment.engine.twin(network_id).await?;
    twin.ok_or_else(|| {
        Failure::Passing(format!(
            "waiting for a manager to tell what network {network_id} is"
        ))
    })
}

async fn check_bind_sources(plan: &Plan) -> Result<(), Failure> {
    for source in &plan.bind_sources {
        let path = source.display();
        match tokio::fs::try_exists(source).await {
            Ok(true) => {}
            Ok(false) => {
                return Err(Failure::Final(format!(
                    "invalid bind mount source, source path not found: {path}"
                )));
            }
            Err(error) => {
                return Err(Failure::Passing(format!(
                    "cannot look at bind mount source {path}: {error}"
                )));
            }
        }
    }
    Ok(())
}
