//! Jobs: so many completions, and no task again in a place that is complete.

use super::*;
use proptest::prelude::*;
use skein_model::{Action, JobStatus, Proposal, Rejection, State};

const NODES: [&str; 3] = ["a", "b", "c"];

fn job(world: &mut World, mode: ServiceMode) {
    world.fixture.service("job", |service| {
        service.spec.mode = mode;
        service.job_status.get_or_insert_with(JobStatus::default);
    });
}

fn replicated(max_concurrent: u64, total_completions: u64) -> ServiceMode {
    ServiceMode::ReplicatedJob {
        max_concurrent,
        total_completions,
    }
}

impl World {
    /// The tasks of the present run.
    fn run_of_job(&self) -> Vec<Task> {
        let service = self.fixture.state.service("job").unwrap();
        let tasks = self.fixture.state.tasks_of_service("job");
        tasks
            .filter(|task| task.job_iteration == service.job_iteration())
            .map(|task| (**task).clone())
            .collect()
    }

    fn under_way(&self) -> Vec<Task> {
        let mut tasks = self.run_of_job();
        tasks.retain(|t| t.desired_state <= TaskState::Complete && !t.status.state.is_terminal());
        tasks.sort_by_key(|task| task.slot);
        tasks
    }

    fn completed(&self) -> Vec<Task> {
        let mut tasks = self.run_of_job();
        tasks.retain(|task| task.status.state == TaskState::Complete);
        tasks
    }
}

#[test]
fn a_job_runs_as_many_at_a_time_until_all_are_complete() {
    let mut world = World::new(&["a", "b"]);
    job(&mut world, replicated(2, 5));
    world.decide();
    let under_way = world.under_way();
    let slots: Vec<_> = under_way.iter().map(|task| task.slot).collect();
    assert_eq!(slots, [0, 1]);
    assert!(
        under_way
            .iter()
            .all(|t| t.desired_state == TaskState::Complete)
    );
    for id in under_way.into_iter().map(|task| task.id) {
        world.fixture.report(&id, TaskState::Complete);
    }
    world.decide();
    let slots: Vec<_> = world.under_way().iter().map(|task| task.slot).collect();
    assert_eq!(slots, [2, 3]);
    world.settle();
    assert_eq!(world.completed().len(), 5);
    assert!(world.under_way().is_empty());
    world.run_for(600.0);
    assert_eq!(world.run_of_job().len(), 5, "nothing runs again");
    assert_eq!(world.update_state("job"), None);
}

/// Its node was away, and it was taken for lost; then both are heard of at once.
#[test]
fn what_a_lost_task_has_completed_is_not_done_again_when_its_successor_fails() {
    let mut world = World::new(&["a", "b"]);
    job(&mut world, replicated(1, 1));
    world.decide();
    let first = world.under_way().remove(0);
    world.fixture.report(&first.id, TaskState::Running);
    world.fixture.down(&first.node_id);
    world.decide();
    let mut second = world.under_way();
    second.retain(|task| task.id != first.id);
    let second = second.remove(0);
    world.fixture.up(&first.node_id);
    world.fixture.report(&first.id, TaskState::Complete);
    world.fixture.report(&second.id, TaskState::Failed);
    world.run_for(600.0);
    let ids = world.run_of_job().into_iter().map(|task| task.id);
    let made: Vec<_> = ids
        .filter(|id| *id != first.id && *id != second.id)
        .collect();
    assert!(made.is_empty(), "{made:?}");
}

#[test]
fn a_failed_task_of_a_job_is_tried_again_as_its_policy_says() {
    for (policy, tries) in [
        (restart(|_| {}), 7),
        (restart(|p| p.condition = RestartCondition::OnFailure), 7),
        (restart(|p| p.condition = RestartCondition::None), 1),
        (restart(|p| p.max_attempts = 2), 3),
    ] {
        let mut world = World::new(&["a"]);
        world.fixture.service("job", |service| {
            service.spec.mode = replicated(1, 1);
            service.job_status = Some(JobStatus::default());
            service
                .spec
                .task_template
                .restart_policy
                .clone_from(&policy);
        });
        let mut seen = BTreeSet::new();
        for _ in 0..6 {
            world.decide();
            seen.extend(world.run_of_job().into_iter().map(|task| task.id));
            for task in world.under_way() {
                world.fixture.report(&task.id, TaskState::Failed);
            }
            world.decide();
            world.fixture.pass(5.0);
            seen.extend(world.run_of_job().into_iter().map(|task| task.id));
        }
        assert_eq!(seen.len(), tries, "{policy:?}");
        // Those that failed are history, of which a few are kept.
        let history = &world.fixture.state.cluster().unwrap().spec.orchestration;
        let kept = world.run_of_job().len() as i64;
        assert!(kept <= history.task_history_retention_limit, "{kept} tasks");
    }
}

#[test]
fn every_update_is_a_new_run() {
    let mut world = World::new(&["a"]);
    job(&mut world, replicated(2, 2));
    world.decide();
    let first = world.under_way();
    world.fixture.report(&first[0].id, TaskState::Complete);
    world.fixture.report(&first[1].id, TaskState::Running);
    job(&mut world, replicated(2, 2));
    world.decide();
    assert_eq!(world.under_way().len(), 2, "of the new run");
    let desired =
        |world: &World, task: &Task| world.fixture.state.task(&task.id).unwrap().desired_state;
    assert_eq!(desired(&world, &first[0]), TaskState::Complete);
    assert_eq!(desired(&world, &first[1]), TaskState::Remove);
    world.settle();
    assert_eq!(world.completed().len(), 2);
    assert!(world.fixture.state.task(&first[1].id).is_none());
}

#[test]
fn a_global_job_completes_once_on_every_node_that_is_to_have_it() {
    let mut world = World::new(&NODES);
    world
        .fixture
        .node("b", |node| node.spec.availability = Availability::Pause);
    job(&mut world, ServiceMode::GlobalJob {});
    let nodes = |world: &World| -> Vec<String> {
        let mut nodes: Vec<_> = world.completed().into_iter().map(|t| t.node_id).collect();
        nodes.sort();
        nodes
    };
    world.settle();
    assert_eq!(nodes(&world), ["a", "c"]);
    world
        .fixture
        .node("b", |node| node.spec.availability = Availability::Active);
    world.fixture.node("d", |_| {});
    world
        .fixture
        .node("a", |node| node.spec.availability = Availability::Drain);
    world.settle();
    world
        .fixture
        .node("a", |node| node.spec.availability = Availability::Active);
    world.settle();
    assert_eq!(nodes(&world), ["a", "b", "c", "d"]);
}

#[test]
fn a_task_whose_completion_is_told_meanwhile_gets_no_successor() {
    let mut world = World::new(&["a"]);
    job(&mut world, ServiceMode::GlobalJob {});
    let Fixture { state, .. } = &world.fixture;
    let service = state.service("job").unwrap().clone();
    // Its node was lost, and is back: it has not told yet what became of it.
    world.fixture.task("lost", |task| {
        task.service_id.clone_from(&service.id);
        task.job_iteration = service.job_iteration();
        task.mode = service.spec.mode;
        task.node_id = "a".into();
        task.status.state = TaskState::Preparing;
        task.desired_state = TaskState::Shutdown;
    });
    let mut draft = world.fixture.draft();
    let scope = crate::settled::Scope::all(&draft);
    crate::job::run(&mut draft, &scope, &mut world.fixture.rng);
    let [actions] = draft.into_proposals().try_into().unwrap();
    let propose = |mut state: State| {
        let (index, at) = (state.index() + 1, world.fixture.now);
        let actions = actions.clone();
        state.apply(index, &Proposal { at, actions })
    };
    assert_eq!(
        propose(world.fixture.state.clone()).unwrap().events.len(),
        1
    );
    let mut told = world.fixture.state.clone();
    let mut lost = Task::clone(told.task("lost").unwrap());
    lost.status.state = TaskState::Complete;
    let report = Proposal {
        at: world.fixture.now,
        actions: vec![Action::Update(lost.into())],
    };
    told.apply(told.index() + 1, &report).unwrap();
    assert_eq!(propose(told), Err(Rejection::OutOfSequence));
}

#[derive(Clone, Debug)]
enum Step {
    Again,
    Down(usize),
    Up(usize),
    Drain(usize),
    End(usize, bool),
    Pass(u8),
    NewLeader,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        1 => Just(Step::Again),
        2 => (0usize..3).prop_map(Step::Down),
        2 => (0usize..3).prop_map(Step::Up),
        2 => (0usize..3).prop_map(Step::Drain),
        6 => (0usize..12, any::<bool>()).prop_map(|(n, well)| Step::End(n, well)),
        4 => (0u8..8).prop_map(Step::Pass),
        1 => Just(Step::NewLeader),
    ];
    prop::collection::vec(step, 1..25)
}

fn take(world: &mut World, mode: ServiceMode, step: &Step) {
    let fixture = &mut world.fixture;
    match step {
        Step::Again => job(world, mode),
        Step::Down(node) => fixture.down(NODES[*node]),
        Step::Up(node) => fixture.up(NODES[*node]),
        Step::Drain(node) => fixture.drain(NODES[*node]),
        // Of a node that is down too: it tells when it is back.
        Step::End(n, well) => {
            let id = {
                let mut placed = fixture.state.tasks().filter(|t| !t.node_id.is_empty());
                placed.nth(*n).map(|task| task.id.clone())
            };
            if let Some(id) = id {
                let end = if *well {
                    TaskState::Complete
                } else {
                    TaskState::Failed
                };
                fixture.report(&id, end);
            }
        }
        Step::Pass(seconds) => fixture.pass((*seconds).into()),
        Step::NewLeader => world.leader = Orchestration::default(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever happens: a replicated job completes each of its slots, a global job each node; never
    /// are more under way than may be; and nothing is under way where it is complete.
    #[test]
    fn jobs_complete(steps in steps(), global: bool, concurrent in 1u64..4, total in 0u64..6) {
        let mode = if global { ServiceMode::GlobalJob {} } else { replicated(concurrent, total) };
        let mut world = World::new(&NODES);
        job(&mut world, mode);
        for step in &steps {
            take(&mut world, mode, step);
            world.pass();
            let under_way = world.under_way();
            let done: BTreeSet<_> =
                world.completed().into_iter().map(|t| (t.slot, t.node_id)).collect();
            for task in &under_way {
                let again = done.iter().any(|(slot, node)| {
                    if global { *node == task.node_id } else { *slot == task.slot }
                });
                prop_assert!(!again, "{:#?}", world.summary());
            }
            if !global {
                prop_assert!(under_way.len() as u64 <= concurrent, "{:#?}", world.summary());
            }
        }
        for node in 0..NODES.len() {
            take(&mut world, mode, &Step::Up(node));
        }
        world.run_for(200.0);
        prop_assert!(world.under_way().is_empty(), "{:#?}", world.summary());
        let completed = world.completed().into_iter();
        let places: BTreeSet<_> = completed
            .map(|t| if global { t.node_id } else { t.slot.to_string() })
            .collect();
        let expected = if global { NODES.len() as u64 } else { total };
        prop_assert_eq!(places.len() as u64, expected, "{:#?}", world.summary());
        prop_assert_eq!(world.pass().0, 0);
    }
}
