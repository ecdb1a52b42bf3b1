//! The secrets and configs that the node's tasks need: in memory only.

use super::container::Payloads;
use parking_lot::Mutex;
use skein_model::{Config, Secret, Task, task_secret_id};
use skein_proto::node::AssignmentsMessage;
use std::{collections::BTreeSet, sync::Arc};

/// What the managers have told. Clones share it.
#[derive(Clone, Default)]
pub struct Dependencies {
    held: Arc<Mutex<Held>>,
}

#[derive(Default)]
struct Held {
    known: Payloads,
    /// IDs of secrets that this session has told of.
    told: BTreeSet<String>,
    /// All was told: what is not here is not to come.
    complete: bool,
}

impl Dependencies {
    /// A session begins: what its first, complete list does not tell again of secrets with drivers, no
    /// task is to get any more, and nobody would say later that it is to go.
    pub fn begin(&self) {
        self.held.lock().told.clear();
    }

    /// Takes what a message says of secrets and configs; `tasks` are those that came with it. A
    /// complete message says of all tasks of the node what they are, so that what none of them
    /// needs is forgotten.
    ///
    /// # Errors
    /// A secret or config cannot be read.
    pub fn take(
        &self,
        message: &AssignmentsMessage,
        tasks: &[Task],
    ) -> Result<(), serde_json::Error> {
        let secrets: Vec<Secret> = read(&message.secrets)?;
        let configs: Vec<Config> = read(&message.configs)?;
        let mut held = self.held.lock();
        let Held {
            known,
            told,
            complete,
        } = &mut *held;
        told.extend(message.withheld_secrets.iter().map(|w| w.id.clone()));
        told.extend(secrets.iter().map(|secret| secret.id.clone()));
        for withheld in &message.withheld_secrets {
            let reason = withheld.reason.clone();
            known.withheld.insert(withheld.id.clone(), reason);
        }
        for secret in secrets {
            known.withheld.remove(&secret.id);
            known.secrets.insert(secret.id.clone(), Arc::new(secret));
        }
        for config in configs {
            known.configs.insert(config.id.clone(), Arc::new(config));
        }
        for id in &message.removed_secret_ids {
            known.secrets.remove(id);
            known.withheld.remove(id);
        }
        for id in &message.removed_config_ids {
            known.configs.remove(id);
        }
        if message.complete {
            let live = || tasks.iter().filter(|t| !t.status.state.is_terminal());
            let secrets: BTreeSet<_> = live().flat_map(secret_ids).collect();
            let configs = live().flat_map(|task| &task.spec.container_spec.configs);
            let configs: BTreeSet<_> = configs.map(|config| config.config_id.as_str()).collect();
            known.secrets.retain(|id, secret| {
                secrets.contains(id) && (secret.spec.driver.is_none() || told.contains(id))
            });
            known
                .withheld
                .retain(|id, _| secrets.contains(id) && told.contains(id));
            known.configs.retain(|id, _| configs.contains(id.as_str()));
            *complete = true;
        }
        Ok(())
    }

    /// Those of a task, by the IDs that it knows them by: a value for it alone comes first.
    pub fn of(&self, task: &Task) -> Payloads {
        let spec = &task.spec.container_spec;
        let held = self.held.lock();
        let known = &held.known;
        let mut of_task = Payloads::default();
        for id in spec.secrets.iter().map(|reference| &reference.secret_id) {
            let own = task_secret_id(id, &task.id);
            let shared = || known.secrets.get(id);
            if let Some(secret) = known.secrets.get(&own).or_else(shared) {
                of_task.secrets.insert(id.clone(), secret.clone());
            } else if let Some(reason) = known.withheld.get(&own) {
                of_task.withheld.insert(id.clone(), reason.clone());
            }
        }
        for id in spec.configs.iter().map(|reference| &reference.config_id) {
            if let Some(config) = known.configs.get(id) {
                of_task.configs.insert(id.clone(), config.clone());
            }
        }
        of_task
    }

    /// Whether the managers have told all that there is.
    pub fn are_complete(&self) -> bool {
        self.held.lock().complete
    }
}

fn read<T: serde::de::DeserializeOwned>(objects: &[Vec<u8>]) -> Result<Vec<T>, serde_json::Error> {
    objects
        .iter()
        .map(|json| serde_json::from_slice(json))
        .collect()
}

/// Under which IDs the secrets of a task may come.
fn secret_ids(task: &Task) -> impl Iterator<Item = String> {
    let references = task.spec.container_spec.secrets.iter();
    references.flat_map(|reference| {
        let id = &reference.secret_id;
        [id.clone(), task_secret_id(id, &task.id)]
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_model::{SecretReference, TaskState};
    use skein_proto::node::WithheldSecret;

    fn task(id: &str, secret: &str, state: TaskState) -> Task {
        let mut task = Task {
            id: id.into(),
            ..Task::default()
        };
        task.status.state = state;
        task.spec.container_spec.secrets = vec![SecretReference {
            secret_id: secret.into(),
            ..SecretReference::default()
        }];
        task
    }

    fn secrets(ids: &[&str]) -> AssignmentsMessage {
        let secret = |id: &&str| Secret {
            id: (*id).into(),
            ..Secret::default()
        };
        let json = ids
            .iter()
            .map(|id| serde_json::to_vec(&secret(id)).unwrap());
        AssignmentsMessage {
            secrets: json.collect(),
            ..AssignmentsMessage::default()
        }
    }

    #[test]
    fn what_no_task_needs_is_forgotten() {
        let dependencies = Dependencies::default();
        let has = |id: &str| {
            let known = dependencies.of(&task("t", id, TaskState::Running));
            !known.secrets.is_empty()
        };
        dependencies.take(&secrets(&["a", "b", "c"]), &[]).unwrap();
        assert!(has("a") && has("b") && has("c") && !dependencies.are_complete());
        let complete = AssignmentsMessage {
            complete: true,
            ..AssignmentsMessage::default()
        };
        let tasks = [
            task("t1", "a", TaskState::Running),
            task("t2", "b", TaskState::Failed),
        ];
        dependencies.take(&complete, &tasks).unwrap();
        assert!(has("a") && !has("b") && !has("c") && dependencies.are_complete());
        dependencies.take(&secrets(&["d"]), &[]).unwrap();
        let removed = AssignmentsMessage {
            removed_secret_ids: vec!["a".into()],
            ..AssignmentsMessage::default()
        };
        dependencies.take(&removed, &[]).unwrap();
        assert!(!has("a") && has("d"));
    }

    #[test]
    fn a_value_for_a_task_alone_is_no_other_tasks() {
        let dependencies = Dependencies::default();
        let (one, two) = (
            task("t1", "a", TaskState::Assigned),
            task("t2", "a", TaskState::Assigned),
        );
        let withheld = |task: &str| WithheldSecret {
            id: task_secret_id("a", task),
            reason: format!("for {task}"),
        };
        let waiting = AssignmentsMessage {
            withheld_secrets: vec![withheld("t1"), withheld("t2")],
            ..AssignmentsMessage::default()
        };
        dependencies.take(&waiting, &[]).unwrap();
        assert_eq!(dependencies.of(&one).withheld["a"], "for t1");
        let own = secrets(&[&task_secret_id("a", "t1")]);
        dependencies.take(&own, &[]).unwrap();
        let known = dependencies.of(&one);
        assert_eq!((known.secrets.len(), known.withheld.len()), (1, 0));
        let known = dependencies.of(&two);
        assert_eq!((known.secrets.len(), known.withheld.len()), (0, 1));
        dependencies.take(&secrets(&["a"]), &[]).unwrap();
        assert_eq!(dependencies.of(&one).secrets["a"].id, "a.t1");
        assert_eq!(dependencies.of(&two).secrets["a"].id, "a");
        // All of it stays where a complete list says that the tasks are there, and goes with them.
        let complete = AssignmentsMessage {
            complete: true,
            ..AssignmentsMessage::default()
        };
        dependencies
            .take(&complete, std::slice::from_ref(&one))
            .unwrap();
        assert_eq!(dependencies.of(&one).secrets["a"].id, "a.t1");
        assert!(dependencies.of(&two).withheld.is_empty());
        dependencies.take(&complete, &[]).unwrap();
        assert!(dependencies.of(&one).secrets.is_empty());
    }

    #[test]
    fn what_a_driver_gave_goes_unless_the_next_session_tells_of_it() {
        let dependencies = Dependencies::default();
        let of_driver = |id: &str| {
            let mut secret = Secret {
                id: id.into(),
                ..Secret::default()
            };
            secret.spec.driver = Some(skein_model::Driver::default());
            AssignmentsMessage {
                secrets: vec![serde_json::to_vec(&secret).unwrap()],
                ..AssignmentsMessage::default()
            }
        };
        let complete = AssignmentsMessage {
            complete: true,
            ..AssignmentsMessage::default()
        };
        let running = [task("t", "a", TaskState::Running)];
        let has = || !dependencies.of(&running[0]).secrets.is_empty();
        dependencies.begin();
        dependencies.take(&of_driver("a"), &[]).unwrap();
        dependencies.take(&complete, &running).unwrap();
        assert!(has());
        dependencies.begin();
        dependencies.take(&of_driver("b"), &[]).unwrap();
        dependencies.take(&complete, &running).unwrap();
        assert!(!has(), "its task has its files, and it would never go");
    }

    #[test]
    fn a_broken_secret_is_an_error() {
        let broken = AssignmentsMessage {
            secrets: vec![b"{".to_vec()],
            ..AssignmentsMessage::default()
        };
        assert!(Dependencies::default().take(&broken, &[]).is_err());
    }
}
