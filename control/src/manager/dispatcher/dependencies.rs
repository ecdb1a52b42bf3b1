//! The secrets and configs of one node's tasks, as one agent was told of them.

use super::values::{Told, Values, has_driver};
use serde::Serialize;
use skein_model::{Payload, Secret, State, Task};
use skein_proto::node::{AssignmentsMessage, WithheldSecret};
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Objects in one message, in bytes; one alone may be longer. Agents take several times as much, and
/// have the rest of the message to come.
const MESSAGE_BYTES: usize = 8 << 20;

/// IDs of the secrets and configs that an agent has; of secrets that it waits for, why.
#[derive(Default)]
pub(super) struct Dependencies {
    secrets: BTreeMap<String, Waits>,
    configs: BTreeSet<String>,
}

/// Why a secret is not there; `None` if it is.
type Waits = Option<String>;

/// What an agent is to have of one secret.
struct Wanted<'a> {
    secret: &'a Secret,
    /// `None`: that of the store.
    value: Option<Payload>,
    waits: Waits,
}

/// What an agent must be told: the messages before the one with the tasks, and what belongs in that.
pub(super) struct News {
    pub(super) before: Vec<AssignmentsMessage>,
    pub(super) removed_secret_ids: Vec<String>,
    pub(super) removed_config_ids: Vec<String>,
}

impl Dependencies {
    /// What must be told so that the agent has what its `tasks` need, and nothing else; `values` are those
    /// of drivers. What never changes is told once: the data of a secret or config does not.
    pub(super) fn next<'a>(
        &mut self,
        state: &State,
        values: &Values,
        tasks: impl Iterator<Item = &'a Arc<Task>>,
    ) -> News {
        let mut secrets = BTreeMap::new();
        let mut configs = BTreeSet::new();
        // A task that has ended will read nothing any more.
        for task in tasks.filter(|task| !task.status.state.is_terminal()) {
            let spec = &task.spec.container_spec;
            for reference in &spec.secrets {
                if let Some(secret) = state.secret(&reference.secret_id) {
                    secrets.extend(wanted(secret, values, task));
                }
            }
            configs.extend(spec.configs.iter().map(|config| config.config_id.as_str()));
        }
        let configs: BTreeSet<String> = configs
            .into_iter()
            .filter(|id| state.config(id).is_some())
            .map(str::to_owned)
            .collect();
        let mut batches = Batches::default();
        for (id, wanted) in &secrets {
            let told = self.secrets.get(id);
            if told.is_some_and(|waits| *waits == wanted.waits) {
                continue;
            }
            match &wanted.waits {
                None => batches.add(&*wanted.named(id), |message| &mut message.secrets),
                Some(reason) => batches.withhold(id, reason),
            }
        }
        for config in configs
            .difference(&self.configs)
            .filter_map(|id| state.config(id))
        {
            batches.add(&**config, |message| &mut message.configs);
        }
        let told = self.secrets.keys();
        let news = News {
            before: batches.messages,
            removed_secret_ids: told
                .filter(|id| !secrets.contains_key(*id))
                .cloned()
                .collect(),
            removed_config_ids: self.configs.difference(&configs).cloned().collect(),
        };
        let secrets = secrets.into_iter().map(|(id, wanted)| (id, wanted.waits));
        *self = Self {
            secrets: secrets.collect(),
            configs,
        };
        news
    }
}

/// What the agent of a task is to have of a secret, by the ID under which it knows it.
fn wanted<'a>(secret: &'a Secret, values: &Values, task: &Task) -> Option<(String, Wanted<'a>)> {
    let (id, value, waits) = match has_driver(secret) {
        false => (secret.id.clone(), None, None),
        true => match values.told(secret, task)? {
            Told::Value(id, value) => (id, Some(value), None),
            Told::Withheld(id, reason) => (id, None, Some(reason)),
        },
    };
    let wanted = Wanted {
        secret,
        value,
        waits,
    };
    Some((id, wanted))
}

impl Wanted<'_> {
    /// The secret as the agent is told of it.
    fn named(&self, id: &str) -> Cow<'_, Secret> {
        let Some(value) = &self.value else {
            return Cow::Borrowed(self.secret);
        };
        let mut secret = self.secret.clone();
        secret.id = id.to_owned();
        secret.spec.data = value.clone();
        Cow::Owned(secret)
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
    /// Puts an object into a list of a message that has room for it.
    pub(super) fn add(
        &mut self,
        object: &impl Serialize,
        list: impl Fn(&mut AssignmentsMessage) -> &mut Vec<Vec<u8>>,
    ) {
        let Ok(json) = serde_json::to_vec(object) else {
            return;
        };
        list(self.room_for(json.len())).push(json);
    }

    /// Says that a secret is not there yet.
    fn withhold(&mut self, id: &str, reason: &str) {
        let withheld = WithheldSecret {
            id: id.to_owned(),
            reason: reason.to_owned(),
        };
        let message = self.room_for(id.len() + reason.len());
        message.withheld_secrets.push(withheld);
    }

    /// The last message, or a new one where that is full.
    fn room_for(&mut self, bytes: usize) -> &mut AssignmentsMessage {
        if self.messages.is_empty() || self.bytes + bytes > MESSAGE_BYTES {
            self.messages.push(AssignmentsMessage::default());
            self.bytes = 0;
        }
        self.bytes += bytes;
        let last = self.messages.len() - 1;
        &mut self.messages[last]
    }
}
