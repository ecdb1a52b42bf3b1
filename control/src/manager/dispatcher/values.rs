//! The values of secrets that drivers have, as one node is to have them: which are asked for, on behalf
//! of which task, and what has come.
//!
//! Pure: who asks, and when a rest is over, is told from outside.

use crate::manager::drivers::{DriverError, DriverResponse};
use skein_model::{Payload, Secret, State, Task, TaskState, task_secret_id};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Questions of one node that wait for an answer: hundreds of tasks may begin at once.
const ASKING_MAX: usize = 16;
/// Between two questions of a task about the same secret: the first time, and the longest.
const REST_MIN: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(30);

/// All values that one node has, or waits for.
#[derive(Default)]
pub(super) struct Values {
    secrets: BTreeMap<String, SecretState>,
    /// How often something has come from outside.
    answers: u64,
}

/// What is known of one secret.
#[derive(Default)]
struct SecretState {
    /// For whoever needs it.
    shared: Option<Payload>,
    /// A value was for one task alone: each is to ask for its own, without waiting for another's.
    apart: bool,
    tasks: BTreeMap<String, Question>,
}

/// What a task asks of a secret.
#[derive(Default)]
struct Question {
    stage: Stage,
    failures: u32,
    /// Of the last failure.
    reason: String,
}

#[derive(Default, PartialEq)]
enum Stage {
    /// To be asked.
    #[default]
    Due,
    Asking,
    /// Not again before the rest is over.
    Resting,
    /// For this task alone.
    Answered(Payload),
}

/// A question that is to be asked now.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ask {
    pub(super) secret_id: String,
    pub(super) task_id: String,
}

/// What a node is to have of a secret.
pub(super) enum Told {
    /// This, with the ID under which the node knows it.
    Value(String, Payload),
    /// Nothing yet: the ID of what is missing, and why.
    Withheld(String, String),
}

/// The secrets with drivers that live tasks refer to: by secret and task, whether it is still to get them.
type Needs<'a> = BTreeMap<&'a str, BTreeMap<&'a str, bool>>;

fn needs<'a>(state: &State, tasks: impl Iterator<Item = &'a Arc<Task>>) -> Needs<'a> {
    let mut needs = Needs::default();
    for task in tasks.filter(|task| !task.status.state.is_terminal()) {
        for reference in &task.spec.container_spec.secrets {
            let id = reference.secret_id.as_str();
            if state.secret(id).is_some_and(|secret| has_driver(secret)) {
                needs
                    .entry(id)
                    .or_default()
                    .insert(&task.id, is_to_get_files(task));
            }
        }
    }
    needs
}

/// A task that runs has its files, and is never started again.
fn is_to_get_files(task: &Task) -> bool {
    task.status.state < TaskState::Running && task.is_wanted()
}

/// Whether the value is not in the store.
pub(super) fn has_driver(secret: &Secret) -> bool {
    secret.spec.driver.is_some()
}

impl Values {
    /// What is to be asked now for the node's `tasks`. What none of them refers to is forgotten.
    pub(super) fn next<'a>(
        &mut self,
        state: &State,
        tasks: impl Iterator<Item = &'a Arc<Task>>,
    ) -> Vec<Ask> {
        let needs = needs(state, tasks);
        self.secrets.retain(|id, _| needs.contains_key(id.as_str()));
        let mut asks = Vec::new();
        let mut room = ASKING_MAX.saturating_sub(self.asking());
        for (secret_id, tasks) in needs {
            let known = self.secrets.entry(secret_id.to_owned()).or_default();
            known.tasks.retain(|id, _| tasks.contains_key(id.as_str()));
            if known.shared.is_some() {
                continue;
            }
            for (task_id, _) in tasks.into_iter().filter(|(_, is_to_get)| *is_to_get) {
                // The answer to one may do for all.
                if room == 0 || (!known.apart && known.asking() > 0) {
                    break;
                }
                let question = known.tasks.entry(task_id.to_owned()).or_default();
                if question.stage == Stage::Due {
                    question.stage = Stage::Asking;
                    room -= 1;
                    asks.push(Ask {
                        secret_id: secret_id.to_owned(),
                        task_id: task_id.to_owned(),
                    });
                }
            }
        }
        asks
    }

    /// Grows with each answer and each end of a rest: what is told and asked may differ from then on.
    pub(super) fn answers(&self) -> u64 {
        self.answers
    }

    fn asking(&self) -> usize {
        self.secrets.values().map(SecretState::asking).sum()
    }

    fn question(&mut self, ask: &Ask) -> Option<&mut Question> {
        self.secrets
            .get_mut(&ask.secret_id)?
            .tasks
            .get_mut(&ask.task_id)
    }

    /// What came of a question. After a failure: how long to rest before [`Self::rested`].
    pub(super) fn take(
        &mut self,
        ask: &Ask,
        answer: Result<DriverResponse, DriverError>,
    ) -> Option<Duration> {
        self.answers += 1;
        // The task may have ended meanwhile.
        let question = self.question(ask)?;
        match answer {
            Ok(answer) if answer.do_not_reuse => {
                question.stage = Stage::Answered(answer.value);
                self.secrets.get_mut(&ask.secret_id)?.apart = true;
                None
            }
            Ok(answer) => {
                let known = self.secrets.get_mut(&ask.secret_id)?;
                known.shared = Some(answer.value);
                known.apart = false;
                let own = |question: &Question| matches!(question.stage, Stage::Answered(_));
                known.tasks.retain(|_, question| own(question));
                None
            }
            Err(error) => {
                let rest = REST_MIN.saturating_mul(1 << question.failures.min(10));
                question.failures += 1;
                question.reason = error.to_string();
                question.stage = Stage::Resting;
                Some(rest.min(REST_MAX))
            }
        }
    }

    /// A question that failed may be asked again.
    pub(super) fn rested(&mut self, ask: &Ask) {
        self.answers += 1;
        if let Some(question) = self.question(ask)
            && question.stage == Stage::Resting
        {
            question.stage = Stage::Due;
        }
    }

    /// What the node is to have of a secret on behalf of a task; `None` if the task is not to get it any
    /// more, and it is not there.
    pub(super) fn told(&self, secret: &Secret, task: &Task) -> Option<Told> {
        let id = || task_secret_id(&secret.id, &task.id);
        let known = self.secrets.get(&secret.id);
        let question = known.and_then(|known| known.tasks.get(&task.id));
        if let Some(Question {
            stage: Stage::Answered(value),
            ..
        }) = question
        {
            return Some(Told::Value(id(), value.clone()));
        }
        if let Some(value) = known.and_then(|known| known.shared.as_ref()) {
            return Some(Told::Value(secret.id.clone(), value.clone()));
        }
        if !is_to_get_files(task) {
            return None;
        }
        let (name, driver) = (&secret.spec.name, secret.spec.driver.as_ref());
        let reason = match question.map(|question| question.reason.as_str()) {
            None | Some("") => format!(
                "its driver {} is being asked",
                driver.map_or("", |driver| &driver.name)
            ),
            Some(reason) => reason.to_owned(),
        };
        let reason = format!("waiting for secret {name}: {reason}");
        Some(Told::Withheld(id(), reason))
    }

    /// IDs of secrets of which something is known.
    #[cfg(test)]
    fn known(&self) -> std::collections::BTreeSet<&str> {
        self.secrets.keys().map(String::as_str).collect()
    }
}

impl SecretState {
    fn asking(&self) -> usize {
        let questions = self.tasks.values();
        questions.filter(|q| q.stage == Stage::Asking).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_model::{Action, Driver, PayloadSpec, Proposal, SecretReference, Timestamp};

    fn state() -> State {
        let mut state = State::default();
        let secret = |id: &str, driver: Option<Driver>| {
            let spec = PayloadSpec {
                name: id.into(),
                data: if driver.is_some() { "" } else { "x" }.into(),
                driver,
                ..PayloadSpec::default()
            };
            let id = id.into();
            let secret = Secret {
                id,
                spec,
                ..Secret::default()
            };
            Action::Create(secret.into())
        };
        let vault = || Driver {
            name: "vault".into(),
            ..Driver::default()
        };
        let actions = vec![
            secret("own", None),
            secret("key", Some(vault())),
            secret("cert", Some(vault())),
        ];
        let at = Timestamp::from_unix_nanos(1);
        state.apply(1, &Proposal { at, actions }).unwrap();
        state
    }

    fn task(id: &str, state: TaskState, secrets: &[&str]) -> Arc<Task> {
        let mut task = Task {
            id: id.into(),
            ..Task::default()
        };
        task.status.state = state;
        let reference = |id: &&str| SecretReference {
            secret_id: (*id).into(),
            ..SecretReference::default()
        };
        task.spec.container_spec.secrets = secrets.iter().map(reference).collect();
        task.into()
    }

    fn ask(secret: &str, task: &str) -> Ask {
        Ask {
            secret_id: secret.into(),
            task_id: task.into(),
        }
    }

    /// What a task is told of `key`.
    fn told(values: &Values, task: &Task) -> String {
        let state = state();
        match values.told(state.secret("key").unwrap(), task) {
            None => "nothing".to_owned(),
            Some(Told::Value(id, value)) => format!("{id}={}", String::from_utf8_lossy(&value)),
            Some(Told::Withheld(id, reason)) => format!("{id}?{reason}"),
        }
    }

    fn refused(reason: &str) -> DriverError {
        DriverError::Refused {
            name: "vault".into(),
            reason: reason.into(),
        }
    }

    #[test]
    fn one_answer_does_for_all_tasks_of_the_node_that_refer_to_it() {
        let (state, mut values) = (state(), Values::default());
        let tasks = [
            task("a", TaskState::Assigned, &["key", "own"]),
            task("b", TaskState::Assigned, &["key", "cert"]),
            task("c", TaskState::Running, &["key"]),
            task("d", TaskState::Failed, &["key"]),
        ];
        let asks = values.next(&state, tasks.iter());
        assert_eq!(asks, [ask("cert", "b"), ask("key", "a")]);
        assert_eq!(values.next(&state, tasks.iter()), []);
        assert_eq!(
            told(&values, &tasks[1]),
            "key.b?waiting for secret key: its driver vault is being asked"
        );
        assert_eq!(told(&values, &tasks[2]), "nothing");
        assert_eq!(
            values.take(&ask("key", "a"), Ok(DriverResponse::of("v", false))),
            None
        );
        for task in &tasks[..3] {
            assert_eq!(told(&values, task), "key=v");
        }
        assert_eq!(values.next(&state, tasks.iter()), []);
        // While one is there that has it, it is not asked for again.
        let later = [tasks[2].clone(), task("e", TaskState::Assigned, &["key"])];
        assert_eq!(values.next(&state, later.iter()), []);
        assert_eq!(told(&values, &later[1]), "key=v");
        assert_eq!(values.known(), ["key"].into());
        assert_eq!(values.next(&state, [].iter()), []);
        assert_eq!(values.known(), [].into());
        // Too late: nobody waits for it.
        assert_eq!(
            values.take(&ask("cert", "b"), Ok(DriverResponse::of("v", false))),
            None
        );
        assert_eq!(values.known(), [].into());
    }

    #[test]
    fn a_value_for_one_task_is_no_other_tasks() {
        let (state, mut values) = (state(), Values::default());
        let tasks = ["a", "b", "c"].map(|id| task(id, TaskState::Assigned, &["key"]));
        assert_eq!(values.next(&state, tasks.iter()), [ask("key", "a")]);
        values.take(&ask("key", "a"), Ok(DriverResponse::of("1", true)));
        assert_eq!(told(&values, &tasks[0]), "key.a=1");
        // From now on they do not wait for each other.
        let asks = values.next(&state, tasks.iter());
        assert_eq!(asks, [ask("key", "b"), ask("key", "c")]);
        values.take(&ask("key", "c"), Ok(DriverResponse::of("3", true)));
        assert_eq!(told(&values, &tasks[2]), "key.c=3");
        assert!(told(&values, &tasks[1]).starts_with("key.b?"));
        // The plugin has changed its mind; who has one keeps it.
        values.take(&ask("key", "b"), Ok(DriverResponse::of("2", false)));
        let all = tasks.each_ref().map(|task| told(&values, task));
        assert_eq!(all, ["key.a=1", "key=2", "key.c=3"]);
    }

    #[test]
    fn failures_keep_nobody_else_waiting_and_are_tried_again_after_a_rest() {
        let (state, mut values) = (state(), Values::default());
        let tasks = ["a", "b"].map(|id| task(id, TaskState::Assigned, &["key"]));
        assert_eq!(values.next(&state, tasks.iter()), [ask("key", "a")]);
        let first = values.take(&ask("key", "a"), Err(refused("not yours")));
        assert_eq!(first, Some(REST_MIN));
        let why = "key.a?waiting for secret key: plugin \"vault\" refuses: not yours";
        assert_eq!(told(&values, &tasks[0]), why);
        assert_eq!(values.next(&state, tasks.iter()), [ask("key", "b")]);
        assert_eq!(values.next(&state, tasks.iter()), []);
        values.rested(&ask("key", "a"));
        // The other's answer may do.
        assert_eq!(values.next(&state, tasks.iter()), []);
        values.take(&ask("key", "b"), Ok(DriverResponse::of("2", true)));
        let mut rest = REST_MIN;
        for _ in 0..40 {
            assert_eq!(values.next(&state, tasks.iter()), [ask("key", "a")]);
            assert_eq!(told(&values, &tasks[0]), why, "while it is asked again");
            let next = values.take(&ask("key", "a"), Err(refused("not yours")));
            let next = next.unwrap();
            assert!(next >= rest && next <= REST_MAX, "{next:?}");
            rest = next;
            values.rested(&ask("key", "a"));
        }
        assert_eq!(rest, REST_MAX);
    }

    #[test]
    fn so_many_are_asked_for_at_once() {
        let (state, mut values) = (state(), Values::default());
        let task = |n| task(&format!("t{n:03}"), TaskState::Assigned, &["key"]);
        let tasks: Vec<_> = (0..100).map(task).collect();
        let first = values.next(&state, tasks.iter()).remove(0);
        values.take(&first, Ok(DriverResponse::of("1", true)));
        let asks = values.next(&state, tasks.iter());
        assert_eq!(asks.len(), ASKING_MAX);
        values.take(&asks[0], Err(refused("no")));
        assert_eq!(values.next(&state, tasks.iter()).len(), 1);
    }
}
