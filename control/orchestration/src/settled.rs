//! Which services need no decision: those that have come to rest, and have not changed since.
//!
//! Of a service at rest nothing is due, whatever the time and whatever the nodes' kernels have: so what
//! a pass over it gave, which is nothing, it gives again for as long as neither it nor what all of them
//! depend on has changed. That costs no look at its tasks: states share what did not change.

use crate::{node_failure, slot};
use skein_model::{Draft, Service, State, Task, TaskState, Timestamp, UpdateState};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// All are decided on after this long, at rest or not: were one forgotten, the cluster still moves.
const ALL_EVERY: Duration = Duration::from_secs(30);

/// The services, by ID, that a pass decides on: those that are no more as well while they have tasks,
/// and "" for tasks that are no service's.
#[derive(Clone, Debug)]
pub(crate) struct Scope(BTreeSet<String>);

impl Scope {
    /// All there are.
    pub(crate) fn all(state: &State) -> Self {
        let services = state.services().map(|service| &service.id);
        Self(services.chain(state.services_of_tasks()).cloned().collect())
    }

    /// The services that there are, by ID.
    pub(crate) fn services<'a>(
        &'a self,
        state: &'a State,
    ) -> impl Iterator<Item = &'a Arc<Service>> {
        self.0.iter().filter_map(|id| state.service(id))
    }

    /// The tasks of one service after the other, by ID.
    pub(crate) fn tasks<'a>(&'a self, state: &'a State) -> impl Iterator<Item = &'a Arc<Task>> {
        self.0.iter().flat_map(|id| state.tasks_of_service(id))
    }
}

/// What one leader knows to be at rest. Without it, it decides on all: nothing else depends on it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settled {
    last: Option<Pass>,
}

#[derive(Clone, Debug)]
struct Pass {
    /// The state that it made.
    state: State,
    settled: BTreeSet<String>,
    /// When all were decided on.
    all_at: Timestamp,
}

impl Settled {
    /// What the next pass must decide on.
    pub(crate) fn scope(&self, draft: &Draft) -> Scope {
        let mut scope = Scope::all(draft);
        let Some(last) = &self.last else {
            return scope;
        };
        let age = draft.now().since(last.all_at);
        // Where the clock was set back, nobody knows how long it has been.
        let is_recent = draft.now() >= last.all_at && age < ALL_EVERY;
        if is_recent && draft.is_same_but_for_services(&last.state) {
            let changed = |id: &String| !last.state.is_same_service(draft, id);
            scope
                .0
                .retain(|id| !last.settled.contains(id) || changed(id));
        }
        scope
    }

    /// A pass has decided on these, and the draft is what came of it.
    pub(crate) fn note(&mut self, draft: &Draft, scope: &Scope) {
        let before = self.last.take();
        let everything = Scope::all(draft);
        let all_at = match &before {
            Some(last) if scope.0.len() < everything.0.len() => last.all_at,
            _ => draft.now(),
        };
        let mut settled = before.map(|last| last.settled).unwrap_or_default();
        settled.retain(|id| everything.0.contains(id));
        for id in &scope.0 {
            // What it changed must be agreed on first.
            if draft.base().is_same_service(draft, id) && is_at_rest(draft, id) {
                settled.insert(id.clone());
            } else {
                settled.remove(id);
            }
        }
        self.last = Some(Pass {
            state: draft.state().clone(),
            settled,
            all_at,
        });
    }
}

/// Whether nothing is under way: all tasks run that are to, the others have ended, and nothing waits for
/// a moment, a node, room or an address.
fn is_at_rest(state: &State, service_id: &str) -> bool {
    let Some(service) = state.service(service_id) else {
        return false;
    };
    let update = service.update_status.as_ref().map(|status| status.state);
    let is_updating = matches!(
        update,
        Some(UpdateState::Updating | UpdateState::RollbackStarted)
    );
    let is_allocated = service.allocated_version == Some(service.spec_version);
    // Jobs end by themselves.
    !is_updating
        && is_allocated
        && !service.spec.mode.is_job()
        && state
            .tasks_of_service(service_id)
            .all(|task| is_task_at_rest(state, task))
}

fn is_task_at_rest(state: &State, task: &Task) -> bool {
    if !slot::is_live(task) {
        return task.status.state.is_terminal();
    }
    task.status.state == TaskState::Running
        && task.desired_state == TaskState::Running
        && task.status.given_up.is_none()
        && !node_failure::must_leave(state, &task.node_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Fixture;
    use skein_model::{Kind, NodeState};

    fn scope(settled: &Settled, fixture: &Fixture) -> Vec<String> {
        settled.scope(&fixture.draft()).0.into_iter().collect()
    }

    /// A pass that changes nothing.
    fn note(settled: &mut Settled, fixture: &Fixture) {
        let draft = fixture.draft();
        let scope = settled.scope(&draft);
        settled.note(&draft, &scope);
    }

    /// Services `a` and `b`, with a task each that runs.
    fn cluster() -> Fixture {
        let mut fixture = Fixture::default();
        fixture.node("n", |_| {});
        for name in ["a", "b"] {
            fixture.service(name, |service| {
                service.allocated_version = Some(service.spec_version);
            });
            fixture.task(&format!("{name}1"), |task| {
                task.service_id = name.into();
                task.node_id = "n".into();
                task.status.state = TaskState::Running;
            });
        }
        fixture
    }

    #[test]
    fn what_is_at_rest_is_decided_on_again_once_it_changes() {
        let (mut fixture, mut settled) = (cluster(), Settled::default());
        assert_eq!(scope(&settled, &fixture), ["a", "b"]);
        note(&mut settled, &fixture);
        assert!(scope(&settled, &fixture).is_empty());

        fixture.report("a1", TaskState::Failed);
        assert_eq!(scope(&settled, &fixture), ["a"]);
        note(&mut settled, &fixture);
        assert_eq!(scope(&settled, &fixture), ["a"], "it is not at rest");

        fixture.replicas("b", 2);
        assert_eq!(scope(&settled, &fixture), ["a", "b"]);
    }

    #[test]
    fn what_a_pass_changed_is_not_at_rest_before_that_is_agreed_on() {
        let (fixture, mut settled) = (cluster(), Settled::default());
        let mut draft = fixture.draft();
        let mut task = Task::clone(draft.task("a1").unwrap());
        task.slot = 7;
        draft.put(task);
        let all = settled.scope(&draft);
        settled.note(&draft, &all);
        assert_eq!(scope(&settled, &fixture), ["a"]);
    }

    #[test]
    fn all_are_decided_on_when_a_node_changes_and_after_a_while() {
        let (mut fixture, mut settled) = (cluster(), Settled::default());
        let begin = fixture.now;
        note(&mut settled, &fixture);
        fixture.pass(ALL_EVERY.as_secs_f64() - 1.0);
        assert!(scope(&settled, &fixture).is_empty());
        note(&mut settled, &fixture);
        fixture.pass(1.0);
        assert_eq!(scope(&settled, &fixture), ["a", "b"]);
        note(&mut settled, &fixture);
        assert!(scope(&settled, &fixture).is_empty());
        fixture.now = begin;
        assert_eq!(scope(&settled, &fixture), ["a", "b"], "a clock set back");
        note(&mut settled, &fixture);

        fixture.node("n", |node| node.status.state = NodeState::Down);
        note(&mut settled, &fixture);
        assert_eq!(scope(&settled, &fixture), ["a", "b"], "their node is down");
    }

    #[test]
    fn tasks_of_services_that_are_gone_and_of_none_are_never_left_out() {
        let (mut fixture, mut settled) = (cluster(), Settled::default());
        fixture.task("attachment", |task| task.node_id = "n".into());
        note(&mut settled, &fixture);
        let mut draft = fixture.draft();
        draft.remove(Kind::Service, "a");
        fixture.commit(draft);
        for _ in 0..2 {
            assert_eq!(scope(&settled, &fixture), ["", "a"]);
            note(&mut settled, &fixture);
        }
    }
}
