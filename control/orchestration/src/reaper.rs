//! Takes away the tasks that nobody needs to see any more, and the networks that their users have removed.

use crate::{occupancy::is_placed, settled::Scope, slot, task, update};
use skein_model::{Draft, Kind, Service, State, Task, TaskState};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// How long an attachment may wait for its address: above what those wait who ask for one.
const UNATTACHED_MAX: Duration = Duration::from_secs(60);

pub(crate) fn run(draft: &mut Draft, scope: &Scope) {
    want_removed(draft, scope);
    end_unplaced(draft, scope);
    remove(draft, scope);
    remove_attachments(draft, scope);
    trim(draft, scope);
    remove_networks(draft);
}

/// Tasks of services, and of nodes of global services, that exist no more are to go.
fn want_removed(draft: &mut Draft, scope: &Scope) {
    let ownerless = |state: &State, task: &Task| match state.service(&task.service_id) {
        None => true,
        Some(_) => task.mode.is_global() && state.node(&task.node_id).is_none(),
    };
    let tasks: Vec<Arc<Task>> = scope
        .tasks(draft)
        .filter(|task| task.desired_state < TaskState::Remove && !task.is_attachment())
        .filter(|task| ownerless(draft, task))
        .cloned()
        .collect();
    for task in tasks {
        task::want(draft, &task, TaskState::Remove);
    }
}

/// A task that no node ever had has ended as soon as it is no longer wanted: nobody will report it.
fn end_unplaced(draft: &mut Draft, scope: &Scope) {
    let now = draft.now();
    let tasks: Vec<Arc<Task>> = scope
        .tasks(draft)
        .filter(|task| task.desired_state == TaskState::Shutdown)
        .filter(|task| task.status.state < TaskState::Assigned)
        .cloned()
        .collect();
    for task in tasks {
        let mut task = (*task).clone();
        task::say(&mut task.status, TaskState::Shutdown, "shutdown", now);
        draft.put(task);
    }
}

/// Whether a task is to be removed and nothing of it runs any more. A node that is down may run it still, and
/// has its addresses: the task stays until the node says that it has ended, or is given up.
pub(crate) fn may_go(task: &Task) -> bool {
    task.desired_state == TaskState::Remove && !is_placed(task)
}

fn remove(draft: &mut Draft, scope: &Scope) {
    let gone: Vec<String> = scope
        .tasks(draft)
        .filter(|task| may_go(task))
        .map(|task| task.id.clone())
        .collect();
    for id in gone {
        draft.remove(Kind::Task, &id);
    }
}

/// Attachments that have ended, or whose nodes are gone for good, have no history. Nor have those that
/// got no address: who asked for them has gone.
fn remove_attachments(draft: &mut Draft, scope: &Scope) {
    let now = draft.now();
    let given_up = |task: &Task| {
        task.status.state == TaskState::New && now >= task.meta.created_at + UNATTACHED_MAX
    };
    let ended: Vec<String> = scope
        .tasks(draft)
        .filter(|task| task.is_attachment())
        .filter(|task| task.status.state.is_terminal() || given_up(task))
        .map(|task| task.id.clone())
        .collect();
    for id in ended {
        draft.remove(Kind::Task, &id);
    }
}

/// Keeps the history of each place short.
fn trim(draft: &mut Draft, scope: &Scope) {
    let Some(cluster) = draft.cluster() else {
        return;
    };
    let limit = cluster.spec.orchestration.task_history_retention_limit;
    let services: Vec<Arc<Service>> = scope.services(draft).cloned().collect();
    for service in services {
        // What a job has done is counted by its tasks: those that failed are history.
        let counts =
            |task: &Task| service.spec.mode.is_job() && task.status.state == TaskState::Complete;
        for tasks in slot::places(draft, &service.id).into_values() {
            let Some((newest, older)) = tasks.split_last() else {
                continue;
            };
            // Restarts are counted in the history, by the policy that the newest task was made with.
            let templates = [&service.spec.task_template, &newest.spec];
            let policies = templates.map(|template| template.restart_policy.as_ref());
            let attempts = policies.map(|policy| policy.map_or(0, |policy| policy.max_attempts));
            let limit = match attempts.into_iter().max().unwrap_or(0) {
                0 => usize::try_from(limit).ok(),
                attempts => usize::try_from(attempts.saturating_add(1)).ok(),
            };
            let Some(limit) = limit else { continue };
            let needed = update::remembers(draft, &service, &tasks);
            let over = tasks.len().saturating_sub(limit);
            let dead = older
                .iter()
                .filter(|task| is_history(task) && !counts(task));
            let dead = dead.filter(|task| !needed.contains(&task.id.as_str()));
            let ids: Vec<_> = dead.take(over).map(|task| task.id.clone()).collect();
            for id in ids {
                draft.remove(Kind::Task, &id);
            }
        }
    }
}

/// Networks that were removed while tasks were on them: once all have ended, which must be agreed on first.
fn remove_networks(draft: &mut Draft) {
    let networks = draft.base().networks();
    let removed = networks.filter(|network| network.pending_deletion);
    let mut unused: BTreeSet<&str> = removed.map(|network| network.id.as_str()).collect();
    if unused.is_empty() {
        return;
    }
    let tasks = draft.base().tasks();
    for task in tasks.filter(|task| task.holds_addresses()) {
        for place in &task.networks_attachments {
            unused.remove(place.network_id.as_str());
        }
        if unused.is_empty() {
            return;
        }
    }
    let unused: Vec<String> = unused.into_iter().map(str::to_owned).collect();
    for id in unused {
        draft.remove(Kind::Network, &id);
    }
}

fn is_history(task: &Task) -> bool {
    !slot::is_live(task) && task.status.state.is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Fixture;
    use skein_model::{NodeState, RestartPolicy, Runtime};

    fn reap(fixture: &mut Fixture) {
        let mut draft = fixture.draft();
        let scope = Scope::all(&draft);
        run(&mut draft, &scope);
        fixture.commit(draft);
    }

    fn ids(fixture: &Fixture) -> Vec<String> {
        fixture.state.tasks().map(|task| task.id.clone()).collect()
    }

    fn task(fixture: &mut Fixture, id: &str, state: TaskState, desired: TaskState) {
        fixture.pass(1.0);
        fixture.task(id, |task| {
            task.service_id = "web".into();
            task.slot = 1;
            task.node_id = "a".into();
            task.status.state = state;
            task.desired_state = desired;
        });
    }

    #[test]
    fn history_keeps_the_newest_of_a_slot() {
        let mut fixture = Fixture::default();
        fixture.node("a", |_| {});
        fixture.replicas("web", 1);
        for n in 0..7 {
            task(
                &mut fixture,
                &format!("t{n}"),
                TaskState::Failed,
                TaskState::Shutdown,
            );
        }
        // Has not stopped yet: stays, however old.
        fixture.task("t0", |task| task.status.state = TaskState::Running);
        task(&mut fixture, "t7", TaskState::Running, TaskState::Running);
        reap(&mut fixture);
        assert_eq!(ids(&fixture), ["t0", "t4", "t5", "t6", "t7"]);
    }

    #[test]
    fn restarts_are_remembered_as_long_as_they_count() {
        let mut fixture = Fixture::default();
        fixture.node("a", |_| {});
        fixture.service("web", |service| {
            service.spec.task_template.restart_policy = Some(RestartPolicy {
                max_attempts: 7,
                ..RestartPolicy::default()
            });
        });
        for n in 0..9 {
            task(
                &mut fixture,
                &format!("t{n}"),
                TaskState::Failed,
                TaskState::Shutdown,
            );
        }
        reap(&mut fixture);
        assert_eq!(ids(&fixture).len(), 8);
    }

    #[test]
    fn tasks_of_a_removed_service_go_once_they_have_stopped() {
        let mut fixture = Fixture::default();
        fixture.node("a", |_| {});
        task(&mut fixture, "runs", TaskState::Running, TaskState::Running);
        task(
            &mut fixture,
            "ended",
            TaskState::Failed,
            TaskState::Shutdown,
        );
        task(&mut fixture, "new", TaskState::Pending, TaskState::Running);
        fixture.task("new", |task| task.node_id.clear());
        reap(&mut fixture);
        assert_eq!(ids(&fixture), ["runs"]);
        let desired = |fixture: &Fixture| fixture.state.task("runs").unwrap().desired_state;
        assert_eq!(desired(&fixture), TaskState::Remove);
        reap(&mut fixture);
        assert_eq!(ids(&fixture), ["runs"]);
        // It may run still, with its address.
        fixture.node("a", |node| node.status.state = NodeState::Down);
        reap(&mut fixture);
        assert_eq!(ids(&fixture), ["runs"]);
        fixture.task("runs", |task| task.status.state = TaskState::Orphaned);
        reap(&mut fixture);
        assert!(ids(&fixture).is_empty());
    }

    #[test]
    fn attachments_stay_until_they_have_ended() {
        let mut fixture = Fixture::default();
        fixture.node("a", |_| {});
        for (id, state) in [
            ("waits", TaskState::Assigned),
            ("new", TaskState::New),
            ("runs", TaskState::Running),
            ("left", TaskState::Shutdown),
            ("lost", TaskState::Orphaned),
        ] {
            task(&mut fixture, id, state, TaskState::Running);
            fixture.task(id, |task| {
                task.service_id.clear();
                task.spec.runtime = Runtime::Attachment;
            });
        }
        reap(&mut fixture);
        assert_eq!(ids(&fixture), ["new", "runs", "waits"]);
        fixture.now = fixture.now + UNATTACHED_MAX;
        reap(&mut fixture);
        assert_eq!(ids(&fixture), ["runs", "waits"]);
        // They may come back with their node.
        fixture.node("a", |node| node.status.state = NodeState::Down);
        reap(&mut fixture);
        assert_eq!(ids(&fixture), ["runs", "waits"]);
    }

    #[test]
    fn a_network_that_was_removed_goes_with_the_last_task_on_it() {
        let mut fixture = Fixture::default();
        fixture.node("a", |_| {});
        for id in ["used", "idle"] {
            fixture.network(id, |_| {});
        }
        let places = [("first", "used"), ("last", "used")];
        for (id, network) in places {
            task(&mut fixture, id, TaskState::Running, TaskState::Remove);
            fixture.task(id, |task| {
                task.networks_attachments.push(skein_model::TaskNetwork {
                    network_id: network.into(),
                    ..skein_model::TaskNetwork::default()
                });
            });
        }
        let mut draft = fixture.draft();
        for id in ["used", "idle"] {
            draft.remove(Kind::Network, id);
        }
        fixture.commit(draft);
        let networks = |fixture: &Fixture| -> Vec<String> {
            let networks = fixture.state.networks();
            networks.map(|network| network.id.clone()).collect()
        };
        assert_eq!(networks(&fixture), ["ingress", "used"]);
        for (id, _) in places {
            reap(&mut fixture);
            assert_eq!(networks(&fixture), ["ingress", "used"], "{id} runs");
            fixture.task(id, |task| task.status.state = TaskState::Shutdown);
        }
        reap(&mut fixture);
        assert_eq!(networks(&fixture), ["ingress"]);
        assert!(ids(&fixture).is_empty());
    }

    #[test]
    fn tasks_that_never_had_a_node_end_when_unwanted() {
        let mut fixture = Fixture::default();
        fixture.replicas("web", 1);
        task(&mut fixture, "t", TaskState::Pending, TaskState::Shutdown);
        fixture.task("t", |task| task.node_id.clear());
        reap(&mut fixture);
        let task = fixture.state.task("t").unwrap();
        assert_eq!(task.status.state, TaskState::Shutdown);
    }
}
