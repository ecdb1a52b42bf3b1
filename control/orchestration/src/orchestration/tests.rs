//! Whole clusters in motion: every core at once, with nodes that do as they are told.

mod convergence;
mod jobs;
mod rollout;
mod settled;

use super::*;
use crate::{settled::Settled, testing::Fixture};
use skein_model::{
    Availability, FailureAction, Kind, NodeState, RestartCondition, RestartPolicy, Secret,
    SecretReference, Service, ServiceMode, Task, TaskState, UpdateConfig, UpdateOrder, UpdateState,
};
use std::collections::BTreeSet;

/// Steps after which a cluster must have come to rest.
const STEPS_MAX: usize = 60;

struct World {
    fixture: Fixture,
    leader: Orchestration,
    /// What the nodes' kernels have; `None`: all there is.
    programmed: Option<Programmed>,
}

impl World {
    fn new(nodes: &[&str]) -> Self {
        let mut fixture = Fixture::default();
        for node in nodes {
            fixture.node(node, |_| {});
        }
        Self {
            fixture,
            leader: Orchestration::default(),
            programmed: None,
        }
    }

    /// How many tasks of a place are kept that have ended.
    fn keep_history(&mut self, limit: i64) {
        let mut cluster = (**self.fixture.state.cluster().unwrap()).clone();
        let orchestration = &mut cluster.spec.orchestration;
        orchestration.task_history_retention_limit = limit;
        self.fixture.put(cluster);
    }

    /// One pass of the leader; the number of changes, and when it wants to be asked again.
    fn pass(&mut self) -> (usize, Wake) {
        let mut draft = self.fixture.draft();
        let all = || self.fixture.programmed();
        let programmed = self.programmed.clone().unwrap_or_else(all);
        // What is left out because it is at rest must be what nothing would come of.
        let mut of_all = (self.leader.clone(), draft.clone(), self.fixture.rng.clone());
        of_all.0.settled = Settled::default();
        let wake_of_all = of_all.0.run(&mut of_all.1, &programmed, &mut of_all.2);
        let wake = self
            .leader
            .run(&mut draft, &programmed, &mut self.fixture.rng);
        assert_eq!(
            draft.clone().into_proposals(),
            of_all.1.into_proposals(),
            "a decision on all differs from one without what is at rest"
        );
        assert_eq!((wake, &self.fixture.rng), (wake_of_all, &of_all.2));
        (self.fixture.commit(draft), wake)
    }

    /// Passes until nothing changes at this moment, nodes obeying.
    fn settle(&mut self) -> Wake {
        for _ in 0..STEPS_MAX {
            let before = self.fixture.state.index();
            let (_, wake) = self.pass();
            self.fixture.agents_obey();
            if self.fixture.state.index() == before {
                return wake;
            }
        }
        panic!("the cluster does not come to rest: {:#?}", self.summary());
    }

    /// Lets time go by, settling whenever something is due.
    fn run_for(&mut self, seconds: f64) {
        let end = self.fixture.now + std::time::Duration::from_secs_f64(seconds);
        loop {
            let wake = self.settle();
            match wake.earliest() {
                Some(due) if due <= end => self.fixture.now = due.max(self.fixture.now),
                _ => break,
            }
        }
        self.fixture.now = end;
        self.settle();
    }

    fn live(&self, service: &str) -> Vec<Task> {
        let tasks = self.fixture.state.tasks_of_service(service);
        let mut live: Vec<Task> = tasks
            .filter(|task| task.desired_state <= TaskState::Running)
            .map(|task| (**task).clone())
            .collect();
        live.sort_by_key(|task| (task.slot, task.node_id.clone()));
        live
    }

    fn slots(&self, service: &str) -> Vec<u64> {
        self.live(service).iter().map(|task| task.slot).collect()
    }

    fn images(&self, service: &str) -> Vec<String> {
        let live = self.live(service).into_iter();
        live.map(|task| task.spec.container_spec.image).collect()
    }

    fn update_state(&self, service: &str) -> Option<UpdateState> {
        let service = self.fixture.state.service(service).unwrap();
        service.update_status.as_ref().map(|status| status.state)
    }

    fn update(&mut self, image: &str, config: UpdateConfig) {
        self.fixture.service("web", |service| {
            set_image(service, image);
            service.spec.update_config = Some(config);
        });
    }

    /// Passes without the nodes doing anything, until there is nothing more to decide.
    fn decide(&mut self) {
        while self.pass().0 > 0 {}
    }

    fn summary(&self) -> Vec<String> {
        let tasks = self.fixture.state.tasks();
        tasks
            .map(|t| {
                let (state, desired) = (t.status.state, t.desired_state);
                let (image, node) = (&t.spec.container_spec.image, &t.node_id);
                format!(
                    "{} {image} {} on {node}: {state} -> {desired}",
                    t.slot, t.id
                )
            })
            .collect()
    }
}

fn set_image(service: &mut Service, image: &str) {
    service.spec.task_template.container_spec.image = image.into();
}

fn restart(change: impl FnOnce(&mut RestartPolicy)) -> Option<RestartPolicy> {
    let mut policy = RestartPolicy::default();
    change(&mut policy);
    Some(policy)
}

fn config(parallelism: u64) -> UpdateConfig {
    UpdateConfig {
        parallelism,
        ..UpdateConfig::default()
    }
}

#[test]
fn replicas_run_and_follow_the_scale() {
    let mut world = World::new(&["a", "b", "c"]);
    world.fixture.replicas("web", 3);
    world.settle();
    assert_eq!(world.slots("web"), [1, 2, 3]);
    let nodes: BTreeSet<_> = world.live("web").into_iter().map(|t| t.node_id).collect();
    assert_eq!(nodes.len(), 3);
    assert_eq!(world.update_state("web"), None);

    world.fixture.replicas("web", 5);
    world.settle();
    assert_eq!(world.slots("web"), [1, 2, 3, 4, 5]);
    world.fixture.replicas("web", 2);
    world.settle();
    let live = world.live("web");
    assert_eq!(live.len(), 2);
    assert_ne!(live[0].node_id, live[1].node_id);
    // Nothing is left of those that went.
    assert_eq!(world.fixture.state.tasks().count(), 2);
    assert_eq!(world.update_state("web"), None, "scaling is no update");
    assert_eq!(world.pass().0, 0);
}

#[test]
fn slots_that_do_not_run_go_first_and_nodes_are_kept_level() {
    let mut world = World::new(&["a", "b"]);
    for (slot, node, state) in [
        (1, "a", TaskState::Starting),
        (2, "a", TaskState::Running),
        (3, "a", TaskState::Running),
        (4, "b", TaskState::Running),
        (5, "", TaskState::Pending),
    ] {
        world.fixture.task(&format!("t{slot}"), |task| {
            task.service_id = "web".into();
            task.slot = slot;
            task.node_id = node.into();
            task.status.state = state;
        });
    }
    world.fixture.replicas("web", 3);
    let spec = world.fixture.state.service("web").unwrap().spec.clone();
    for slot in 1..=5 {
        world.fixture.task(&format!("t{slot}"), |task| {
            task.spec = spec.task_template.clone()
        });
    }
    world.pass();
    assert_eq!(world.slots("web"), [2, 3, 4]);
    world.fixture.replicas("web", 2);
    world.pass();
    assert_eq!(world.slots("web"), [2, 4]);
}

#[test]
fn a_failed_task_is_replaced_after_the_delay() {
    let mut world = World::new(&["a"]);
    world.fixture.replicas("web", 1);
    world.settle();
    let first = world.live("web").remove(0);
    world.fixture.report(&first.id, TaskState::Failed);
    let wake = world.settle();
    let next = world.live("web").remove(0);
    assert_ne!(next.id, first.id);
    assert_eq!(next.slot, 1);
    // Prepared, but held back.
    assert_eq!(next.desired_state, TaskState::Ready);
    assert_eq!(next.status.state, TaskState::Ready);
    assert_eq!(
        wake.earliest(),
        Some(world.fixture.now + std::time::Duration::from_secs(5))
    );
    world.fixture.pass(4.9);
    world.settle();
    assert_eq!(world.live("web")[0].desired_state, TaskState::Ready);
    world.fixture.pass(0.1);
    world.settle();
    assert_eq!(world.live("web")[0].status.state, TaskState::Running);
    let old = world.fixture.state.task(&first.id).unwrap();
    assert_eq!(old.desired_state, TaskState::Shutdown);
}

#[test]
fn replacements_that_fail_at_once_are_made_no_faster_than_the_delay() {
    let mut world = World::new(&["a"]);
    world.fixture.replicas("web", 1);
    world.settle();
    let first = world.live("web").remove(0);
    world.fixture.report(&first.id, TaskState::Failed);
    let mut made = BTreeSet::new();
    // 20 s, with a delay of 5 s.
    for _ in 0..200 {
        world.settle();
        for task in world.live("web") {
            made.insert(task.id.clone());
            if !task.status.state.is_terminal() {
                world.fixture.report(&task.id, TaskState::Rejected);
            }
        }
        world.fixture.pass(0.1);
    }
    assert!(
        (4..=5).contains(&made.len()),
        "{} tasks in 20 s",
        made.len()
    );
}

#[test]
fn the_restart_policy_decides() {
    for (policy, end, again) in [
        (restart(|_| {}), TaskState::Complete, true),
        (
            restart(|p| p.condition = RestartCondition::OnFailure),
            TaskState::Complete,
            false,
        ),
        (
            restart(|p| p.condition = RestartCondition::OnFailure),
            TaskState::Rejected,
            true,
        ),
        (
            restart(|p| p.condition = RestartCondition::None),
            TaskState::Failed,
            false,
        ),
    ] {
        let mut world = World::new(&["a"]);
        world.fixture.service("web", |service| {
            service
                .spec
                .task_template
                .restart_policy
                .clone_from(&policy);
        });
        world.settle();
        let task = world.live("web").remove(0);
        world.fixture.report(&task.id, end);
        world.run_for(60.0);
        assert_eq!(world.live("web").len(), usize::from(again), "{policy:?}");
    }
}

/// How often a task is started that always fails `life` seconds after its start.
fn starts(policy: RestartPolicy, life: f64, rounds: usize) -> usize {
    let mut world = World::new(&["a"]);
    world.fixture.service("web", |service| {
        service.spec.task_template.restart_policy = Some(policy);
    });
    let mut seen = BTreeSet::new();
    for _ in 0..rounds {
        world.run_for(0.0);
        for task in world.live("web") {
            if task.status.state == TaskState::Running {
                world.fixture.pass(life);
                world.fixture.report(&task.id, TaskState::Failed);
                seen.insert(task.id);
            }
        }
        world.run_for(1.0);
    }
    seen.len()
}

#[test]
fn attempts_are_counted_in_the_whole_life_or_in_a_window() {
    let policy = |attempts, window: i64| RestartPolicy {
        max_attempts: attempts,
        delay: Some(0),
        window: Some(window * 1_000_000_000),
        ..RestartPolicy::default()
    };
    assert_eq!(starts(policy(3, 0), 0.0, 20), 4);
    assert_eq!(starts(policy(3, 1000), 1.0, 20), 4);
    // Two at most are younger than the window when the next one fails.
    assert_eq!(starts(policy(3, 3), 1.0, 20), 20);
}

#[test]
fn tasks_of_a_down_node_are_replaced_and_end_when_it_returns() {
    let mut world = World::new(&["a", "b"]);
    world.fixture.replicas("web", 2);
    world.settle();
    world
        .fixture
        .node("a", |node| node.status.state = NodeState::Down);
    world.run_for(5.0);
    let live = world.live("web");
    assert_eq!(live.len(), 2);
    for task in &live {
        assert_eq!(task.node_id, "b");
        assert_eq!(task.status.state, TaskState::Running);
    }
    world
        .fixture
        .node("a", |node| node.status.state = NodeState::Ready);
    world.settle();
    let on_a: Vec<_> = world.fixture.state.tasks_of_node("a").collect();
    assert_eq!(on_a.len(), 1);
    assert_eq!(on_a[0].status.state, TaskState::Shutdown);
}

#[test]
fn a_drained_node_hands_its_tasks_on_without_delay_once_they_stopped() {
    let mut world = World::new(&["a", "b"]);
    world.fixture.replicas("web", 2);
    world.settle();
    world
        .fixture
        .node("a", |node| node.spec.availability = Availability::Drain);
    world.decide();
    let waiting: Vec<_> = world
        .live("web")
        .into_iter()
        .filter(|task| task.desired_state == TaskState::Ready)
        .collect();
    assert_eq!(waiting.len(), 1, "its predecessor runs still");
    assert_eq!(waiting[0].node_id, "b");
    world.settle();
    let live = world.live("web");
    assert!(live.iter().all(|t| t.status.state == TaskState::Running));
    assert!(live.iter().all(|t| t.node_id == "b"));
}

#[test]
fn a_replacement_waits_a_minute_at_most() {
    let mut world = World::new(&["a", "b"]);
    world.fixture.replicas("web", 2);
    world.settle();
    world
        .fixture
        .node("a", |node| node.spec.availability = Availability::Drain);
    for _ in 0..3 {
        world.decide();
        // Only the node that takes over does anything.
        let ids: Vec<_> = world.live("web").into_iter().map(|task| task.id).collect();
        for id in ids {
            world.fixture.report(&id, TaskState::Ready);
        }
    }
    let ready = |world: &World| {
        let live = world.live("web").into_iter();
        live.filter(|t| t.desired_state == TaskState::Ready).count()
    };
    world.fixture.pass(59.0);
    world.decide();
    assert_eq!(ready(&world), 1);
    world.fixture.pass(1.0);
    world.decide();
    assert_eq!(ready(&world), 0);
}

#[test]
fn an_update_goes_on_one_by_one_and_ends_after_its_watch() {
    for history in [5, 1, 0] {
        goes_on_one_by_one(history);
    }
}

/// Whatever is kept of the tasks that it replaced.
fn goes_on_one_by_one(history: i64) {
    let mut world = World::new(&["a", "b"]);
    world.keep_history(history);
    world.fixture.replicas("web", 3);
    world.settle();
    let mut changed = config(1);
    changed.delay = 2_000_000_000;
    world.update("demo:2", changed);
    world.settle();
    assert_eq!(world.images("web"), ["demo:2", "demo:1", "demo:1"]);
    assert_eq!(world.update_state("web"), Some(UpdateState::Updating));
    world.fixture.pass(2.0);
    world.settle();
    // A new leader goes on where the old one was.
    world.leader = Orchestration::default();
    world.fixture.pass(1.9);
    world.settle();
    assert_eq!(world.images("web"), ["demo:2", "demo:2", "demo:1"]);
    world.fixture.pass(0.1);
    world.settle();
    assert_eq!(world.images("web"), ["demo:2", "demo:2", "demo:2"]);
    world.fixture.pass(6.9);
    world.settle();
    assert_eq!(world.update_state("web"), Some(UpdateState::Updating));
    world.fixture.pass(0.2);
    world.settle();
    assert_eq!(world.update_state("web"), Some(UpdateState::Completed));
    let service = world.fixture.state.service("web").unwrap();
    let status = service.update_status.as_ref().unwrap();
    assert_eq!(status.message, "update completed");
    assert_eq!(status.completed_at, Some(world.fixture.now));
    world.settle();
    let places = 3;
    let kept = world.fixture.state.tasks_of_service("web").count();
    assert_eq!(kept, places * if history > 1 { 2 } else { 1 });
}

#[test]
fn stop_first_starts_the_new_task_when_the_old_one_has_stopped() {
    let mut world = World::new(&["a"]);
    world.fixture.replicas("web", 1);
    world.settle();
    let old = world.live("web").remove(0);
    world.update("demo:2", config(1));
    world.decide();
    let new = world.live("web").remove(0);
    assert_eq!(new.desired_state, TaskState::Ready);
    assert_eq!(
        world.fixture.state.task(&old.id).unwrap().desired_state,
        TaskState::Shutdown
    );
    world.fixture.report(&old.id, TaskState::Shutdown);
    world.decide();
    assert_eq!(world.live("web")[0].desired_state, TaskState::Running);
}

#[test]
fn start_first_stops_the_old_task_when_the_new_one_runs() {
    let mut world = World::new(&["a"]);
    world.fixture.replicas("web", 1);
    world.settle();
    let old = world.live("web").remove(0);
    let mut changed = config(1);
    changed.order = UpdateOrder::StartFirst;
    world.update("demo:2", changed);
    world.decide();
    let live = world.live("web");
    assert_eq!(live.len(), 2);
    let new = live.iter().find(|task| task.id != old.id).unwrap();
    assert_eq!(new.desired_state, TaskState::Running);
    world.fixture.report(&new.id, TaskState::Starting);
    world.decide();
    assert_eq!(world.live("web").len(), 2);
    world.fixture.report(&new.id, TaskState::Running);
    world.decide();
    assert_eq!(world.images("web"), ["demo:2"]);
    world.run_for(10.0);
    assert_eq!(world.update_state("web"), Some(UpdateState::Completed));
}

#[test]
fn a_parallelism_of_zero_is_all_at_once() {
    let mut world = World::new(&["a"]);
    world.fixture.replicas("web", 4);
    world.settle();
    world.update("demo:2", config(0));
    world.pass();
    assert_eq!(world.images("web"), ["demo:2"; 4]);
}

/// An update of three tasks of which every new one fails at once.
fn failing_update(action: FailureAction) -> World {
    failing_update_above(action, 0.0, 5)
}

/// The same where so many may fail, and so many tasks are kept that have ended.
fn failing_update_above(action: FailureAction, ratio: f64, history: i64) -> World {
    let mut world = World::new(&["a"]);
    world.keep_history(history);
    world.fixture.replicas("web", 3);
    world.settle();
    let mut changed = config(1);
    changed.failure_action = action;
    changed.max_failure_ratio = ratio;
    changed.delay = 1_000_000_000;
    world.update("demo:bad", changed);
    let mut service = (**world.fixture.state.service("web").unwrap()).clone();
    service.registry_auth = "new".into();
    service.previous_registry_auth = "old".into();
    world.fixture.put(service);
    for _ in 0..200 {
        world.settle();
        world.fixture.pass(0.5);
        for task in world.live("web") {
            let image = &task.spec.container_spec.image;
            if image == "demo:bad" && task.status.state == TaskState::Running {
                world.fixture.report(&task.id, TaskState::Failed);
            }
        }
    }
    world
}

#[test]
fn a_failing_update_pauses_until_the_next_one() {
    let mut world = failing_update(FailureAction::Pause);
    assert_eq!(world.update_state("web"), Some(UpdateState::Paused));
    let images = world.images("web");
    assert_eq!(images.iter().filter(|i| *i == "demo:1").count(), 2);
    let service = world.fixture.state.service("web").unwrap();
    let message = &service.update_status.as_ref().unwrap().message;
    assert!(
        message.starts_with("update paused due to failure or early termination of task "),
        "{message}"
    );
    world.update("demo:3", config(1));
    world.run_for(60.0);
    assert_eq!(world.images("web"), ["demo:3"; 3]);
    assert_eq!(world.update_state("web"), Some(UpdateState::Completed));
}

#[test]
fn an_update_remembers_what_failed_whatever_the_history_keeps() {
    for history in [5, 1, 0] {
        let world = failing_update_above(FailureAction::Pause, 0.5, history);
        assert_eq!(world.update_state("web"), Some(UpdateState::Paused));
        let images = world.images("web");
        let updated = images.iter().filter(|image| *image == "demo:bad").count();
        assert_eq!(updated, 2, "with a history of {history}");
    }
}

#[test]
fn a_failing_update_rolls_back_if_asked() {
    let mut world = failing_update(FailureAction::Rollback);
    world.run_for(60.0);
    assert_eq!(world.images("web"), ["demo:1"; 3]);
    assert_eq!(
        world.update_state("web"),
        Some(UpdateState::RollbackCompleted)
    );
    let service = world.fixture.state.service("web").unwrap();
    assert_eq!(service.previous_spec, None);
    assert_eq!(service.registry_auth, "old", "credentials go with the spec");
}

#[test]
fn an_update_that_cannot_be_rolled_back_pauses_and_says_why() {
    let mut world = World::new(&["a"]);
    let mut key = Secret {
        id: "s1".into(),
        ..Secret::default()
    };
    key.spec.name = "key".into();
    world.fixture.put(key);
    world.fixture.service("web", |service| {
        let container = &mut service.spec.task_template.container_spec;
        container.secrets.push(SecretReference {
            secret_id: "s1".into(),
            secret_name: "key".into(),
            ..SecretReference::default()
        });
    });
    world.settle();
    world.fixture.service("web", |service| {
        let container = &mut service.spec.task_template.container_spec;
        container.secrets.clear();
        set_image(service, "demo:bad");
        service.spec.update_config = Some(UpdateConfig {
            failure_action: FailureAction::Rollback,
            ..config(1)
        });
    });
    let mut draft = world.fixture.draft();
    draft.remove(Kind::Secret, "s1");
    world.fixture.commit(draft);
    world.settle();
    let id = world.live("web").remove(0).id;
    world.fixture.report(&id, TaskState::Failed);
    world.settle();
    assert_eq!(world.update_state("web"), Some(UpdateState::Paused));
    let service = world.fixture.state.service("web").unwrap();
    let message = &service.update_status.as_ref().unwrap().message;
    let why = "; it cannot be rolled back: secret not found: key";
    assert!(message.ends_with(why), "{message}");
}

#[test]
fn new_credentials_replace_only_tasks_that_wait_for_their_image() {
    let mut world = World::new(&["a"]);
    world.fixture.replicas("web", 1);
    world.settle();
    let id = |world: &World| world.live("web")[0].id.clone();
    let renew = |world: &mut World, auth: &str| {
        world
            .fixture
            .service("web", |service| service.registry_auth = auth.into());
    };
    let running = id(&world);
    renew(&mut world, "second");
    world.run_for(60.0);
    assert_eq!(id(&world), running);

    let mut world = World::new(&[]);
    world.fixture.replicas("web", 1);
    world.settle();
    let waiting = id(&world);
    renew(&mut world, "second");
    world.settle();
    assert_ne!(id(&world), waiting);
    assert_eq!(world.live("web")[0].registry_auth, "second");
}

#[test]
fn a_failing_update_goes_on_if_asked() {
    let world = failing_update(FailureAction::Continue);
    assert_eq!(world.images("web"), ["demo:bad"; 3]);
    assert_eq!(world.update_state("web"), Some(UpdateState::Completed));
}

#[test]
fn only_what_tasks_are_made_of_replaces_them() {
    let mut world = World::new(&["a", "b"]);
    world.fixture.replicas("web", 2);
    world.settle();
    let ids = |world: &World| -> Vec<String> {
        world.live("web").into_iter().map(|task| task.id).collect()
    };
    let before = ids(&world);
    world.fixture.service("web", |service| {
        service.spec.labels.insert("x".into(), "y".into());
        service.spec.update_config = Some(config(3));
        let placement = service.spec.task_template.placement.get_or_insert_default();
        placement.constraints = vec!["node.id!=c".into()];
    });
    world.run_for(30.0);
    assert_eq!(ids(&world), before);
    world.fixture.network("front", |_| {});
    world.fixture.service("web", |service| {
        service.spec.task_template.networks = vec![skein_model::NetworkAttachmentConfig {
            target: "front".into(),
            ..Default::default()
        }];
    });
    world.run_for(30.0);
    assert!(ids(&world).iter().all(|id| !before.contains(id)));
    world.fixture.service("web", |service| {
        let placement = service.spec.task_template.placement.get_or_insert_default();
        placement.constraints = vec!["node.id==b".into()];
    });
    world.run_for(30.0);
    assert!(world.live("web").iter().all(|task| task.node_id == "b"));
}

#[test]
fn a_removed_service_leaves_nothing() {
    let mut world = World::new(&["a"]);
    world.fixture.replicas("web", 3);
    world.settle();
    let mut draft = world.fixture.draft();
    draft.remove(Kind::Service, "web");
    world.fixture.commit(draft);
    world.decide();
    assert_eq!(world.fixture.state.tasks().count(), 3, "they run still");
    world.settle();
    assert_eq!(world.fixture.state.tasks().count(), 0);
}

#[test]
fn a_global_service_has_a_task_on_every_node_that_qualifies() {
    let mut world = World::new(&["a", "b", "c"]);
    world
        .fixture
        .node("b", |node| node.spec.availability = Availability::Pause);
    world.fixture.service("web", |service| {
        service.spec.mode = ServiceMode::Global {};
        let placement = service.spec.task_template.placement.get_or_insert_default();
        placement.constraints = vec!["node.labels.no!=1".into()];
    });
    let nodes = |world: &World| -> Vec<String> {
        let live = world.live("web").into_iter();
        live.filter(|task| task.status.state == TaskState::Running)
            .map(|task| task.node_id)
            .collect()
    };
    world.settle();
    assert_eq!(nodes(&world), ["a", "c"]);
    world.fixture.node("d", |_| {});
    world.fixture.node("c", |node| {
        drop(node.spec.labels.insert("no".into(), "1".into()))
    });
    world
        .fixture
        .node("a", |node| node.spec.availability = Availability::Drain);
    world.settle();
    assert_eq!(nodes(&world), ["d"]);
    world
        .fixture
        .node("a", |node| node.spec.availability = Availability::Active);
    world.settle();
    assert_eq!(nodes(&world), ["a", "d"]);
    world.update("demo:2", config(1));
    world.run_for(30.0);
    assert_eq!(nodes(&world), ["a", "d"]);
    assert_eq!(world.images("web"), ["demo:2"; 2]);
    let mut draft = world.fixture.draft();
    draft.remove(Kind::Node, "d");
    world.fixture.commit(draft);
    world.settle();
    assert_eq!(world.fixture.state.tasks_of_node("d").count(), 0);
}
