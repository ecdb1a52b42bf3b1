//! The secrets and configs of one node's tasks, as one agent was told of them.

use serde::Serialize;
use skein_model::{State, Task};
use skein_proto::node::AssignmentsMessage;
use std::{collections::BTreeSet, sync::Arc};

/// Objects in one message, in bytes; one alone may be longer. Agents take several times as much, and
/// have the rest of the message to come.
const MESSAGE_BYTES: usize = 8 << 20;

/// IDs of the secrets and configs that an agent has.
#[derive(Default)]
pub(super) struct Dependencies {
    secrets: BTreeSet<String>,
    configs: BTreeSet<String>,
}

/// What an agent must be told: the messages before the one with the tasks, and what belongs in that.
pub(super) struct News {
    pub(super) before: Vec<AssignmentsMessage>,
    pub(super) removed_secret_ids: Vec<String>,
    pub(super) removed_config_ids: Vec<String>,
}

impl Dependencies {
    /// What must be told so that the agent has what its `tasks` need, and nothing else. What never
    /// changes is told once: the data of a secret or config does not.
    pub(super) fn next<'a>(
        &mut self,
        state: &State,
        tasks: impl Iterator<Item = &'a Arc<Task>>,
    ) -> News {
        let mut secrets = BTreeSet::new();
        let mut configs = BTreeSet::new();
        // A task that has ended will read nothing any more.
        for task in tasks.filter(|task| !task.status.state.is_terminal()) {
            let spec = &task.spec.container_spec;
            secrets.extend(spec.secrets.iter().map(|secret| secret.secret_id.as_str()));
            configs.extend(spec.configs.iter().map(|config| config.config_id.as_str()));
        }
        let secrets: BTreeSet<String> = secrets
            .into_iter()
            .filter(|id| state.secret(id).is_some())
            .map(str::to_owned)
            .collect();
        let configs: BTreeSet<String> = configs
            .into_iter()
            .filter(|id| state.config(id).is_some())
            .map(str::to_owned)
            .collect();
        let mut batches = Batches::default();
        for secret in secrets
            .difference(&self.secrets)
            .filter_map(|id| state.secret(id))
        {
            batches.add(&**secret, |message| &mut message.secrets);
        }
        for config in configs
            .difference(&self.configs)
            .filter_map(|id| state.config(id))
        {
            batches.add(&**config, |message| &mut message.configs);
        }
        let news = News {
            before: batches.messages,
            removed_secret_ids: self.secrets.difference(&secrets).cloned().collect(),
            removed_config_ids: self.configs.difference(&configs).cloned().collect(),
        };
        *self = Self { secrets, configs };
        news
    }
}

/// Messages of bounded length.
#[derive(Default)]
pub(super) struct Batches {
    pub(super) messages: Vec<AssignmentsMessage>,
    /// Of the last message.
    bytes: usize,
}

impl Batches {
    /// Puts an object into a list of the last message, or of a new one where that is full.
    pub(super) fn add(
        &mut self,
        object: &impl Serialize,
        list: impl Fn(&mut AssignmentsMessage) -> &mut Vec<Vec<u8>>,
    ) {
        let Ok(json) = serde_json::to_vec(object) else {
            return;
        };
        if self.messages.is_empty() || self.bytes + json.len() > MESSAGE_BYTES {
            self.messages.push(AssignmentsMessage::default());
            self.bytes = 0;
        }
        self.bytes += json.len();
        if let Some(last) = self.messages.last_mut() {
            list(last).push(json);
        }
    }
}
