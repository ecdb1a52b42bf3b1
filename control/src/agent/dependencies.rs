//! The secrets and configs that the node's tasks need: in memory only.

use super::container::Known;
use parking_lot::Mutex;
use skein_model::{Config, Secret, Task};
use skein_proto::node::AssignmentsMessage;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// What the managers have told. Clones share it.
#[derive(Clone, Default)]
pub struct Dependencies {
    held: Arc<Mutex<Held>>,
}

#[derive(Default)]
struct Held {
    known: Known,
    /// All was told: what is not here is not to come.
    complete: bool,
}

impl Dependencies {
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
        let known = &mut held.known;
        for secret in secrets {
            known.secrets.insert(secret.id.clone(), Arc::new(secret));
        }
        for config in configs {
            known.configs.insert(config.id.clone(), Arc::new(config));
        }
        for id in &message.removed_secret_ids {
            known.secrets.remove(id);
        }
        for id in &message.removed_config_ids {
            known.configs.remove(id);
        }
        if message.complete {
            let live = || {
                let live = tasks.iter().filter(|t| !t.status.state.is_terminal());
                live.map(|task| &task.spec.container_spec)
            };
            let secrets = live().flat_map(|spec| &spec.secrets);
            let secrets: BTreeSet<_> = secrets.map(|secret| secret.secret_id.as_str()).collect();
            let configs = live().flat_map(|spec| &spec.configs);
            let configs: BTreeSet<_> = configs.map(|config| config.config_id.as_str()).collect();
            known.secrets.retain(|id, _| secrets.contains(id.as_str()));
            known.configs.retain(|id, _| configs.contains(id.as_str()));
            held.complete = true;
        }
        Ok(())
    }

    /// Those of a task.
    pub fn of(&self, task: &Task) -> Known {
        let spec = &task.spec.container_spec;
        let held = self.held.lock();
        let known = &held.known;
        Known {
            secrets: pick(
                &known.secrets,
                spec.secrets.iter().map(|secret| &secret.secret_id),
            ),
            configs: pick(
                &known.configs,
                spec.configs.iter().map(|config| &config.config_id),
            ),
        }
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

fn pick<'a, T>(
    from: &BTreeMap<String, Arc<T>>,
    ids: impl Iterator<Item = &'a String>,
) -> BTreeMap<String, Arc<T>> {
    ids.filter_map(|id| Some((id.clone(), from.get(id)?.clone())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_model::{SecretReference, TaskState};

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
    fn a_broken_secret_is_an_error() {
        let broken = AssignmentsMessage {
            secrets: vec![b"{".to_vec()],
            ..AssignmentsMessage::default()
        };
        assert!(Dependencies::default().take(&broken, &[]).is_err());
    }
}
