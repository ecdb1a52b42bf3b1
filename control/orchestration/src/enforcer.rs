//! Makes tasks leave nodes that are no longer what they were placed for: labels or roles that a
//! constraint asks for are gone, or resources.

use crate::{
    dirty::is_dirty,
    occupancy::takes_room,
    scheduler::{Constraint, Stock, constraints_of},
    settled::Scope,
};
use skein_model::{Availability, Draft, GivenUp, Node, Task, Version};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// What is said of a task that its node no longer suits.
const MESSAGE: &str = "task rejected by constraint enforcer";
const ERR: &str = "assigned node no longer meets constraints";

/// Whether the node of a task no longer suits it. It is to be replaced, and is rejected once its node says that it has
/// ended: until then its connections live, and its container, of which the node may know more than was told yet, has
/// its addresses and ports.
pub(crate) fn is_unfit(task: &Task) -> bool {
    task.status.given_up == Some(GivenUp::Misplaced)
}

/// Rejects tasks that their active nodes no longer suit. Nodes that are paused or drained keep their
/// tasks, or give them away, for reasons of their own.
///
/// A node is looked at if it has a task of the scope: all other nodes are as they were, but for tasks
/// that have left them.
pub(crate) fn run(draft: &mut Draft, scope: &Scope) {
    let ids: BTreeSet<&String> = scope.tasks(draft).map(|task| &task.node_id).collect();
    let nodes: Vec<Arc<Node>> = ids
        .into_iter()
        .filter_map(|id| draft.node(id))
        .filter(|node| node.spec.availability == Availability::Active)
        .cloned()
        .collect();
    // Of services, by ID, for those which have any.
    let mut constraints: BTreeMap<String, Vec<Constraint>> = BTreeMap::new();
    for service in draft.services().filter(|s| !s.spec.mode.is_global()) {
        match constraints_of(&service.spec.task_template) {
            Ok(parsed) if !parsed.is_empty() => {
                constraints.insert(service.id.clone(), parsed);
            }
            _ => {}
        }
    }
    let mut unfit: Vec<Arc<Task>> = Vec::new();
    for node in nodes {
        let mut tasks: Vec<&Arc<Task>> = draft
            .tasks_of_node(&node.id)
            .filter(|task| is_subject(task))
            .collect();
        // The newest leave first.
        tasks.sort_by_key(|task| task.meta.created_at);
        let mut stock = Stock::of(&node);
        for task in tasks {
            let constraints = constraints.get(&task.service_id);
            let unmet = constraints.is_some_and(|all| !Constraint::all_match(all, &node));
            // A changed service is its update's to bring about: a few tasks at a time. What has come over the
            // node since then is dealt with here, and at once; and so is a task that no update replaces, as
            // the service is again what it was when the task was made.
            let is_updates = || {
                draft.service(&task.service_id).is_none_or(|service| {
                    traits_version(&node) <= service.spec_version && is_dirty(draft, service, task)
                })
            };
            if (unmet && !is_updates()) || !stock.holds(task) {
                unfit.push(task.clone());
            } else {
                stock.take(task);
            }
        }
    }
    for task in unfit {
        let mut task = (*task).clone();
        task.status.message = MESSAGE.into();
        task.status.err = ERR.into();
        task.status.given_up = Some(GivenUp::Misplaced);
        task.status.timestamp = draft.now();
        task.status.applied_at = draft.now();
        draft.put(task);
    }
}

/// When what constraints read of the node was last changed, or at the earliest known.
fn traits_version(node: &Node) -> Version {
    match node.traits_version {
        Version { index: 0 } => node.meta.version,
        version => version,
    }
}

fn is_subject(task: &Task) -> bool {
    takes_room(task) && task.is_wanted() && !is_unfit(task)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Fixture;
    use skein_model::{Placement, Reservations, ResourceRequirements, TaskState, TaskStatus};

    fn enforce(fixture: &mut Fixture) -> Vec<String> {
        let mut draft = fixture.draft();
        let scope = Scope::all(&draft);
        run(&mut draft, &scope);
        fixture.commit(draft);
        let tasks = fixture.state.tasks();
        tasks
            .filter(|task| is_unfit(task))
            .map(|task| task.id.clone())
            .collect()
    }

    fn task(fixture: &mut Fixture, id: &str, memory_bytes: i64) {
        fixture.pass(1.0);
        fixture.task(id, |task| {
            task.service_id = "web".into();
            task.node_id = "a".into();
            task.status.state = TaskState::Running;
            task.spec.resources = Some(ResourceRequirements {
                reservations: Some(Reservations {
                    memory_bytes,
                    ..Reservations::default()
                }),
                ..ResourceRequirements::default()
            });
        });
    }

    #[test]
    fn a_constraint_that_went_and_came_back_holds_for_tasks_that_were_there_before() {
        let mut fixture = Fixture::default();
        fixture.node("a", |_| {});
        let constrain = |fixture: &mut Fixture, constraints: &[&str]| {
            fixture.service("web", |service| {
                service.spec.task_template.placement = Some(Placement {
                    constraints: constraints.iter().map(|&text| text.into()).collect(),
                    ..Placement::default()
                });
            });
        };
        constrain(&mut fixture, &["node.labels.zone!=west"]);
        let spec = fixture.state.service("web").unwrap().spec.clone();
        task(&mut fixture, "t", 0);
        fixture.task("t", |task| task.spec = spec.task_template.clone());
        // While the service does not mind, the node comes to be where its tasks are not to be.
        constrain(&mut fixture, &[]);
        let west = |node: &mut Node| drop(node.spec.labels.insert("zone".into(), "west".into()));
        fixture.node("a", west);
        assert!(enforce(&mut fixture).is_empty());
        constrain(&mut fixture, &["node.labels.zone!=west"]);
        assert_eq!(enforce(&mut fixture), ["t"], "no update replaces it");
    }

    #[test]
    fn a_label_that_goes_takes_tasks_with_it_but_a_new_constraint_does_not() {
        let mut fixture = Fixture::default();
        let label = |node: &mut Node| drop(node.spec.labels.insert("zone".into(), "1".into()));
        fixture.node("a", label);
        fixture.replicas("web", 1);
        task(&mut fixture, "t", 0);
        let constrain = |fixture: &mut Fixture, text: &str| {
            fixture.service("web", |service| {
                service.spec.task_template.placement = Some(Placement {
                    constraints: vec![text.into()],
                    ..Placement::default()
                });
            });
        };
        constrain(&mut fixture, "node.labels.zone==2");
        assert!(enforce(&mut fixture).is_empty(), "the update replaces it");
        fixture.node("a", |node| node.status.message = "as good as ever".into());
        assert!(enforce(&mut fixture).is_empty(), "nothing it is placed by");
        constrain(&mut fixture, "node.labels.zone==1");
        fixture.node("a", |node| node.spec.availability = Availability::Pause);
        fixture.node("a", |node| node.spec.labels.clear());
        assert!(enforce(&mut fixture).is_empty(), "a paused node keeps them");
        fixture.node("a", |node| node.spec.availability = Availability::Active);
        assert_eq!(enforce(&mut fixture), ["t"]);
        let task = fixture.state.task("t").unwrap();
        assert_eq!(task.status.state, TaskState::Running);
        // It hears of its end in time; what its node says until then is no news.
        fixture.task("t", |task| task.desired_state = TaskState::Shutdown);
        for (said, state) in [
            (TaskState::Running, TaskState::Running),
            (TaskState::Shutdown, TaskState::Rejected),
        ] {
            let said = TaskStatus {
                state: said,
                message: "of its node".into(),
                ..TaskStatus::default()
            };
            fixture.said("t", said);
            let status = &fixture.state.task("t").unwrap().status;
            assert_eq!(status.state, state);
            assert_eq!(status.message, "task rejected by constraint enforcer");
            assert_eq!(status.err, "assigned node no longer meets constraints");
        }
    }

    #[test]
    fn a_node_that_shrinks_loses_its_newest_tasks() {
        let mut fixture = Fixture::default();
        fixture.node("a", |_| {});
        fixture.replicas("web", 3);
        for id in ["z-oldest", "b", "c-newest"] {
            task(&mut fixture, id, 2 << 30);
        }
        assert!(enforce(&mut fixture).is_empty());
        fixture.node("a", |node| {
            node.description.resources.memory_bytes = 5 << 30;
        });
        assert_eq!(enforce(&mut fixture), ["c-newest"]);
    }

    /// A container may run that nobody was told of yet: until its node says that it has ended, it has its addresses.
    #[test]
    fn what_its_node_may_have_begun_is_rejected_once_it_has_ended() {
        for state in [TaskState::Assigned, TaskState::Ready, TaskState::Starting] {
            let mut fixture = Fixture::default();
            fixture.node("a", |_| {});
            fixture.replicas("web", 1);
            task(&mut fixture, "t", 2 << 30);
            fixture.task("t", |task| task.status.state = state);
            fixture.node("a", |node| {
                node.description.resources.memory_bytes = 1 << 30
            });
            assert_eq!(enforce(&mut fixture), ["t"]);
            let found = fixture.state.task("t").unwrap();
            assert_eq!(found.status.state, state);
            assert!(found.holds_addresses());
            fixture.task("t", |task| task.desired_state = TaskState::Shutdown);
            let ended = TaskStatus {
                state: TaskState::Shutdown,
                ..TaskStatus::default()
            };
            fixture.said("t", ended);
            assert_eq!(
                fixture.state.task("t").unwrap().status.state,
                TaskState::Rejected
            );
        }
    }
}
