use super::*;
use proptest::prelude::*;
use skein_model::{
    Action, Config, ConfigReference, Kind, Object, PayloadSpec, Proposal, Secret, SecretReference,
    Timestamp,
};
use std::collections::BTreeSet;

const NODES: u8 = 2;

fn spec(name: &str, bytes: usize) -> PayloadSpec {
    PayloadSpec {
        name: name.into(),
        data: vec![7; bytes].into(),
        ..PayloadSpec::default()
    }
}

/// An action that the store may well refuse: that is part of the game.
fn apply(state: &mut State, action: Action) {
    let (index, at) = (state.index() + 1, Timestamp::from_unix_nanos(1));
    let actions = vec![action];
    let _ = state.apply(index, &Proposal { at, actions });
}

fn secret(id: u8) -> Object {
    let id = format!("s{id}");
    let spec = spec(&id, 3);
    let meta = Meta::default();
    Secret { id, spec, meta }.into()
}

fn config(id: u8, bytes: usize) -> Object {
    let id = format!("c{id}");
    let spec = spec(&id, bytes);
    let meta = Meta::default();
    Config { id, spec, meta }.into()
}

/// A task with the secrets and configs whose bits are set.
fn task(id: u8, node: u8, secrets: u8, configs: u8) -> Task {
    let set = |bits: u8| (0..8).filter(move |bit| bits & (1 << bit) != 0);
    let mut task = Task {
        id: format!("t{id}"),
        node_id: format!("n{node}"),
        ..Task::default()
    };
    task.status.state = TaskState::Assigned;
    let spec = &mut task.spec.container_spec;
    spec.secrets = set(secrets)
        .map(|bit| SecretReference {
            secret_id: format!("s{bit}"),
            ..SecretReference::default()
        })
        .collect();
    spec.configs = set(configs)
        .map(|bit| ConfigReference {
            config_id: format!("c{bit}"),
            ..ConfigReference::default()
        })
        .collect();
    task
}

/// What an agent has, by what it was told.
#[derive(Default)]
struct Agent {
    complete: bool,
    tasks: BTreeMap<String, Task>,
    secrets: BTreeSet<String>,
    configs: BTreeSet<String>,
}

impl Agent {
    fn take(&mut self, message: &AssignmentsMessage) {
        assert!(!(message.complete && self.complete), "complete only once");
        self.complete |= message.complete;
        for json in &message.secrets {
            let secret: Secret = serde_json::from_slice(json).unwrap();
            assert!(!secret.spec.data.is_empty());
            assert!(self.secrets.insert(secret.id), "told once");
        }
        for json in &message.configs {
            let config: Config = serde_json::from_slice(json).unwrap();
            assert!(self.configs.insert(config.id), "told once");
        }
        for json in &message.tasks {
            let task: Task = serde_json::from_slice(json).unwrap();
            self.tasks.insert(task.id.clone(), task);
        }
        for id in &message.removed_task_ids {
            assert!(self.tasks.remove(id).is_some());
        }
        for id in &message.removed_secret_ids {
            assert!(self.secrets.remove(id));
        }
        for id in &message.removed_config_ids {
            assert!(self.configs.remove(id));
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Secret(u8),
    Config(u8),
    RemoveSecret(u8),
    RemoveConfig(u8),
    Task(u8, u8, u8, u8),
    End(u8),
    RemoveTask(u8),
    /// The agent of a node opens a new stream.
    Reopen(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        1 => (0..8u8).prop_map(Step::Secret),
        1 => (0..8u8).prop_map(Step::Config),
        1 => (0..8u8).prop_map(Step::RemoveSecret),
        1 => (0..8u8).prop_map(Step::RemoveConfig),
        4 => (0..6u8, 0..NODES, any::<u8>(), any::<u8>())
            .prop_map(|(t, n, s, c)| Step::Task(t, n, s, c)),
        1 => (0..6u8).prop_map(Step::End),
        1 => (0..6u8).prop_map(Step::RemoveTask),
        1 => (0..NODES).prop_map(Step::Reopen),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    /// Whatever happens, after each step an agent has its node's tasks, and exactly those secrets
    /// and configs that are there and that a task of its node which has not ended refers to.
    #[test]
    fn agents_have_what_their_tasks_refer_to_and_no_more(steps in steps()) {
        let mut state = State::default();
        let mut streams: Vec<_> = (0..NODES)
            .map(|node| (Assignments::of(&format!("n{node}")), Agent::default()))
            .collect();
        let remove = |kind, id| Action::Remove { kind, id, version: None };
        for step in steps {
            match step {
                Step::Secret(id) => apply(&mut state, Action::Create(secret(id))),
                Step::Config(id) => apply(&mut state, Action::Create(config(id, 3))),
                Step::RemoveSecret(id) => {
                    apply(&mut state, remove(Kind::Secret, format!("s{id}")));
                }
                Step::RemoveConfig(id) => {
                    apply(&mut state, remove(Kind::Config, format!("c{id}")));
                }
                Step::Task(t, n, s, c) => apply(&mut state, Action::Create(task(t, n, s, c).into())),
                Step::End(id) => {
                    if let Some(task) = state.task(&format!("t{id}")) {
                        let mut task = Task::clone(task);
                        task.status.state = TaskState::Failed;
                        apply(&mut state, Action::Update(task.into()));
                    }
                }
                Step::RemoveTask(id) => apply(&mut state, remove(Kind::Task, format!("t{id}"))),
                Step::Reopen(node) => {
                    streams[usize::from(node)] =
                        (Assignments::of(&format!("n{node}")), Agent::default());
                }
            }
            for (assignments, agent) in &mut streams {
                let (_, messages) = assignments.next(&state);
                let after_complete = messages.iter().skip_while(|message| !message.complete);
                prop_assert!(after_complete.count() <= 1, "the complete one is the last");
                messages.iter().for_each(|message| agent.take(message));
                prop_assert!(agent.complete);
                let tasks = || state.tasks_of_node(&assignments.node_id);
                let ids: Vec<_> = tasks().map(|task| task.id.clone()).collect();
                prop_assert_eq!(agent.tasks.keys().cloned().collect::<Vec<_>>(), ids);
                let live: Vec<_> = tasks().filter(|task| !task.status.state.is_terminal()).collect();
                let secrets: BTreeSet<_> = live
                    .iter()
                    .flat_map(|task| &task.spec.container_spec.secrets)
                    .map(|reference| reference.secret_id.clone())
                    .filter(|id| state.secret(id).is_some())
                    .collect();
                prop_assert_eq!(&agent.secrets, &secrets);
                let configs: BTreeSet<_> = live
                    .iter()
                    .flat_map(|task| &task.spec.container_spec.configs)
                    .map(|reference| reference.config_id.clone())
                    .filter(|id| state.config(id).is_some())
                    .collect();
                prop_assert_eq!(&agent.configs, &configs);
                prop_assert!(assignments.next(&state).1.is_empty(), "nothing is told twice");
            }
        }
    }
}

#[test]
fn large_configs_come_in_several_messages_before_the_tasks() {
    let mut state = State::default();
    for id in 0..8 {
        apply(&mut state, Action::Create(config(id, 1_023_999)));
    }
    apply(&mut state, Action::Create(task(1, 0, 0, 0xff).into()));
    let (_, messages) = Assignments::of("n0").next(&state);
    let counts: Vec<_> = messages
        .iter()
        .map(|message| (message.configs.len(), message.tasks.len(), message.complete))
        .collect();
    assert_eq!(counts, [(6, 0, false), (2, 0, false), (0, 1, true)]);
}

#[test]
fn long_tasks_come_in_several_messages_of_which_the_last_completes() {
    let mut state = State::default();
    for id in 0..50 {
        let mut task = task(id, 0, 0, 0);
        task.spec.container_spec.image = "x".repeat(400_000);
        apply(&mut state, Action::Create(task.into()));
    }
    let (_, messages) = Assignments::of("n0").next(&state);
    let counts: Vec<_> = messages
        .iter()
        .map(|message| (message.tasks.len(), message.complete))
        .collect();
    assert_eq!(counts, [(20, false), (20, false), (10, true)]);
}
