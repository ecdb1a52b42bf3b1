//! Services, made and looked at by the docker CLI as a user would do it.

use crate::{cluster::Host, image::IMAGE, run::wait_until};
use anyhow::{Context as _, ensure};
use std::time::Duration;

/// From a change of a service to its last task's start, on a loaded machine.
pub const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Creates a service of the demo image, whose answers name node and task, and waits until its
/// replicas run. `options` are options of `docker service create`.
///
/// # Errors
/// It is refused, or does not run in time.
pub fn create(host: &Host, name: &str, replicas: usize, options: &[&str]) -> anyhow::Result<()> {
    create_unwatched(host, name, replicas, options)?;
    settled(host, name, replicas)
}

/// [`create`] without the wait.
///
/// # Errors
/// It is refused.
pub fn create_unwatched(
    host: &Host,
    name: &str,
    replicas: usize,
    options: &[&str],
) -> anyhow::Result<()> {
    let replicas = format!("--replicas={replicas}");
    let mut create = vec!["service", "create", "-d", "--name", name, &replicas];
    create.extend(["--env", "NODE={{.Node.Hostname}}"]);
    create.extend(["--env", "TASK={{.Task.Name}}", "--no-resolve-image"]);
    create.extend(options);
    create.push(IMAGE);
    host.docker(&create).map(drop)
}

/// Waits until exactly `replicas` tasks of a service are to run, and do.
///
/// # Errors
/// They do not in time; with what `docker service ps` says.
pub fn settled(host: &Host, name: &str, replicas: usize) -> anyhow::Result<()> {
    let what = format!("{replicas} tasks of {name} run");
    wait_until(&what, SETTLE_TIMEOUT, || {
        let tasks = tasks(host, name)?;
        let running = tasks.iter().filter(|task| task.state == "Running");
        ensure!(
            running.count() == replicas && tasks.len() == replicas,
            "tasks of {name}: {tasks:?}"
        );
        Ok(())
    })
}

/// Updates a service and waits until that is done. `options` are options of `docker service update`.
///
/// # Errors
/// It is refused, fails, or is not done in `timeout`.
pub fn update(host: &Host, name: &str, options: &[&str], timeout: Duration) -> anyhow::Result<()> {
    host.docker(&[&["service", "update", "-d"], options, &[name]].concat())?;
    await_update(host, name, "completed", timeout)
}

/// Waits until the last update of a service is in this state.
///
/// # Errors
/// It is not, in time.
pub fn await_update(host: &Host, name: &str, state: &str, timeout: Duration) -> anyhow::Result<()> {
    wait_until(&format!("the update of {name} is {state}"), timeout, || {
        let format = "{{.UpdateStatus.State}}";
        let found = host.docker(&["service", "inspect", "--format", format, name])?;
        ensure!(found.trim() == state, "it is {found}");
        Ok(())
    })
}

/// A task as `docker service ps` shows it.
#[derive(Clone, Debug)]
pub struct Task {
    /// `NAME.SLOT`
    pub name: String,
    /// The node's host name.
    pub node: String,
    /// First word of the state.
    pub state: String,
    /// Why it is not as it should be.
    pub error: String,
}

/// The tasks of a service that are to run.
///
/// # Errors
/// There is no such service, or no manager answers.
pub fn tasks(host: &Host, name: &str) -> anyhow::Result<Vec<Task>> {
    let format = "{{.Name}};{{.Node}};{{.CurrentState}};{{.Error}}";
    let only = "desired-state=running";
    let shown = host.docker(&[
        "service",
        "ps",
        "--no-trunc",
        "--filter",
        only,
        "--format",
        format,
        name,
    ])?;
    let task = |line: &str| {
        let mut fields = line.splitn(4, ';').map(str::to_owned);
        let mut field = || fields.next().unwrap_or_default();
        let (name, node, state, error) = (field(), field(), field(), field());
        let state = state.split(' ').next().unwrap_or_default().to_owned();
        Task {
            name,
            node,
            state,
            error,
        }
    };
    Ok(shown.lines().map(task).collect())
}

/// The published port of a service that has one.
///
/// # Errors
/// It has none.
pub fn port_of(host: &Host, name: &str) -> anyhow::Result<u16> {
    let format = "{{(index .Endpoint.Ports 0).PublishedPort}}";
    let port = host.docker(&["service", "inspect", "--format", format, name])?;
    port.trim()
        .parse()
        .with_context(|| format!("the port of {name} is {port:?}"))
}

/// The engine's ID of a running container of a service on this node.
///
/// # Errors
/// There is none.
pub fn container_of(host: &Host, name: &str) -> anyhow::Result<String> {
    let filter = format!("label=com.docker.swarm.service.name={name}");
    let containers = host.engine(&["ps", "-q", "--filter", &filter])?;
    let first = containers.lines().next();
    let first = first.with_context(|| format!("no task of {name} runs on {}", host.name()))?;
    Ok(first.to_owned())
}

/// The first process of a running task of a service on this node, as the node numbers it.
///
/// # Errors
/// There is none.
pub fn pid_of(host: &Host, name: &str) -> anyhow::Result<i32> {
    let container = container_of(host, name)?;
    let pid = host.engine(&["inspect", "--format", "{{.State.Pid}}", &container])?;
    pid.trim()
        .parse()
        .with_context(|| format!("the first process of {container} is {pid:?}"))
}

/// Runs a command line without quoting in a task of a service on this node.
///
/// # Errors
/// There is no task, or the command fails; with what it said.
pub fn exec(host: &Host, name: &str, line: &str) -> anyhow::Result<String> {
    let container = container_of(host, name)?;
    let mut exec = vec!["exec", container.as_str()];
    exec.extend(line.split_whitespace());
    host.docker(&exec)
}
