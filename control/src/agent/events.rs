//! What happens on the engine: wakes the tasks that it concerns, and clears up.

use super::{
    attachments::Attachments,
    engine::{Engine, EngineError},
    task::{Environment, Tasks},
};
use crate::agent::container::{LABEL_TASK, LABEL_TASK_ID};
use bollard::query_parameters::EventsOptionsBuilder;
use futures::StreamExt as _;
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};
use tokio::time::{MissedTickBehavior, interval, sleep};

/// Between tries to reach an engine that is away.
const RETRY: Duration = Duration::from_millis(500);
/// Between looks for what nobody needs any more. A network goes at the second look that finds it
/// without endpoints: one that was just made for a container has none yet. Until then no other can have its subnet,
/// where networks are the engine's own.
const CLEAR_UP: Duration = Duration::from_secs(8);

/// Follows the engine's events for ever.
pub async fn follow(environment: &Environment, tasks: &Tasks) {
    let mut away = false;
    loop {
        let ended = follow_once(environment, tasks, &mut away).await;
        if let Err(error) = ended
            && !away
        {
            tracing::warn!("{error}; tasks go on, nothing new is started until it is back");
            away = true;
        }
        environment.engine.reconnected();
        sleep(RETRY).await;
    }
}

async fn follow_once(
    environment: &Environment,
    tasks: &Tasks,
    away: &mut bool,
) -> Result<(), EngineError> {
    let engine = &environment.engine;
    let docker = engine.streams().await?;
    let filters = HashMap::from([
        ("type".to_owned(), vec!["container".to_owned()]),
        ("label".to_owned(), vec![LABEL_TASK.to_owned()]),
    ]);
    let options = EventsOptionsBuilder::new().filters(&filters).build();
    let mut events = docker.events(Some(options));
    let description = engine.describe().await?;
    environment.description.store(Some(Arc::new(description)));
    if std::mem::take(away) {
        tracing::info!("the container engine is back");
    }
    // The first poll subscribes; what happened before is found by looking.
    let look = sleep(RETRY);
    tokio::pin!(look);
    let mut looked = false;
    tasks.wake_all();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = &mut look, if !looked => {
                looked = true;
                tasks.wake_all();
                continue;
            }
        };
        let Some(Ok(event)) = event else {
            return Ok(());
        };
        let attributes = event.actor.and_then(|actor| actor.attributes);
        if let Some(task_id) = attributes.as_ref().and_then(|a| a.get(LABEL_TASK_ID)) {
            tasks.wake(task_id);
        }
    }
}

/// Removes what no task needs, for ever.
pub async fn clear_up(
    environment: &Environment,
    tasks: &Tasks,
    attachments: &Attachments,
    node_id: &str,
) {
    let needed = || {
        let mut needed = tasks.needed_networks();
        needed.append(&mut attachments.needed_networks());
        needed
    };
    let mut idle = BTreeSet::new();
    let mut ticks = interval(CLEAR_UP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = remove_idle_files(environment, tasks).await {
            tracing::warn!("the files of tasks that have ended stay: {error}");
        }
        let cleared = async {
            remove_strays(&environment.engine, tasks, node_id).await?;
            remove_idle_twins(&environment.engine, needed, &mut idle).await
        };
        if let Err(error) = cleared.await {
            tracing::debug!("could not clear up: {error}");
        }
    }
}

/// Containers of tasks that the managers do not know.
async fn remove_strays(engine: &Engine, tasks: &Tasks, node_id: &str) -> Result<(), EngineError> {
    for (container, task_id) in engine.task_containers(node_id).await? {
        if tasks.is_stray(&task_id) {
            tracing::info!(
                task = task_id,
                container,
                "removing the container of no task"
            );
            // One that the engine cannot end keeps no other, and is tried again.
            let removed = async {
                engine.stop(&container, None).await?;
                engine.remove(&container).await
            };
            if let Err(error) = removed.await {
                tracing::warn!(
                    task = task_id,
                    container,
                    "the container of no task stays: {error}"
                );
            }
        }
    }
    Ok(())
}

/// Secrets and configs of tasks that have ended while this agent was away.
async fn remove_idle_files(environment: &Environment, tasks: &Tasks) -> std::io::Result<()> {
    let files = &environment.files;
    for task_id in files.tasks().await? {
        if tasks.has_no_use_of_files(&task_id) {
            files.remove(&task_id).await?;
        }
    }
    Ok(())
}

/// Networks without endpoints that nobody needs, if they were that at the last look, too.
async fn remove_idle_twins(
    engine: &Engine,
    needed: impl Fn() -> BTreeSet<String>,
    idle_before: &mut BTreeSet<String>,
) -> Result<(), EngineError> {
    let mut idle = engine.idle_twins().await?;
    idle.retain(|network| !needed().contains(network));
    // The engine keeps no endpoint of a container that is stopped, but would never start it without.
    for guest in engine.guests().await? {
        idle.remove(&guest.network_id);
    }
    for network in idle.intersection(idle_before) {
        let is_needed = || needed().contains(network);
        match engine.remove_twin_unless(network, is_needed).await {
            Ok(true) => tracing::info!(network, "removed the twin of a network"),
            Ok(false) => {}
            // A container that was made and not started may hold it.
            Err(error) => tracing::debug!(network, "the twin of a network stays: {error}"),
        }
    }
    *idle_before = idle;
    Ok(())
}
