//! What is proposed to Raft, and what comes of it.

use super::State;
use crate::{Kind, Network, Object, Timestamp, Version};
use serde::{Deserialize, Serialize};
use std::{io, sync::Arc};

/// Actions in one proposal: as many as Swarm changes in one transaction. Larger changes go in several
/// proposals.
pub const PROPOSAL_ACTIONS_MAX: usize = 200;

/// Bytes of a proposal's actions as JSON, of which there is more than one: as many as Swarm has in one
/// transaction. What one Raft entry holds must reach a follower between two heartbeats. Also the most
/// that a client may ask to store in one object, so that what the swarm adds to it, and the tasks made
/// of it, stay below [`ACTION_BYTES_MAX`].
pub const PROPOSAL_BYTES_MAX: usize = 3 << 19;

/// Bytes of one action as JSON: one that is longer than [`PROPOSAL_BYTES_MAX`] goes alone. Nothing that
/// began below that grows to this: what comes to an object most is its ports, which a service has in
/// its spec, in its endpoint's spec and in its endpoint. Far below the transport's message limit, as
/// an entry that the transport cannot carry would keep all after it from being replicated for ever.
pub const ACTION_BYTES_MAX: usize = 8 << 20;

/// A transaction. All of its actions apply, or none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Proposal {
    /// The proposer's clock: every member applies the same time.
    pub at: Timestamp,
    /// In order; later ones see what earlier ones did.
    pub actions: Vec<Action>,
}

/// One change of one object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// A new object; its ID must be free, and its name where names are unique.
    Create(Object),
    /// A changed object; its `meta.version` must be that of the object in the store.
    Update(Object),
    /// Away with an object; the version must match where one is given. A network with tasks on it that
    /// have not ended pends its deletion from then on, and stays.
    Remove {
        /// What it is.
        kind: Kind,
        /// Its full ID.
        id: String,
        /// The version it was read at; `None` removes whatever is there.
        version: Option<Version>,
    },
    /// Changes nothing, and keeps the proposal from changing anything if the object is not what it was
    /// when it was read.
    Expect {
        /// What it is.
        kind: Kind,
        /// Its full ID.
        id: String,
        /// The version it was read at.
        version: Version,
    },
}

/// Why a proposal changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Rejection {
    /// Somebody else changed the object since it was read.
    #[error("update out of sequence")]
    OutOfSequence,
    /// The name is taken.
    #[error("name conflicts with an existing object: {kind} {name} already exists")]
    NameConflict {
        /// Of what kind.
        kind: Kind,
        /// As the proposer wrote it.
        name: String,
    },
    /// The ID is taken.
    #[error("{kind} {id} already exists")]
    Exists {
        /// Of what kind.
        kind: Kind,
        /// Its full ID.
        id: String,
    },
    /// There is no such object.
    #[error("{kind} {id} not found")]
    NotFound {
        /// Of what kind.
        kind: Kind,
        /// Its full ID.
        id: String,
    },
    /// A service names a network that is not there.
    #[error("network {id} not found")]
    NetworkMissing {
        /// As the service names it.
        id: String,
    },
    /// A service names secrets or configs that are not there.
    #[error("{kind}{} not found: {}", plural(names), names.join(", "))]
    PayloadsMissing {
        /// Which of the two.
        kind: Kind,
        /// As the service names them.
        names: Vec<String>,
    },
    /// A service publishes ports on every node.
    #[error("service needs ingress network, but no ingress network is present")]
    IngressMissing,
    /// A second ingress network.
    #[error("ingress network ({id}) is already present")]
    IngressPresent {
        /// The full ID of the first.
        id: String,
    },
    /// A network that is to go belongs to every cluster.
    #[error("network {id} ({name}) is a swarm predefined network and cannot be removed")]
    NetworkPredefined {
        /// Its full ID.
        id: String,
        /// Its name.
        name: String,
    },
    /// The network that is to go carries published ports.
    #[error("ingress network cannot be removed because service {service} depends on it")]
    IngressInUse {
        /// The full ID of one that publishes some.
        service: String,
    },
    /// A network that is to go is needed.
    #[error("network {id} is in use by {by} {user}")]
    NetworkInUse {
        /// Its full ID.
        id: String,
        /// What needs it.
        by: Kind,
        /// The full ID of that.
        user: String,
    },
    /// A secret or config that is to go is needed.
    #[error(
        "{kind} '{name}' is in use by the following service{}: {}",
        plural(services),
        services.join(", ")
    )]
    PayloadInUse {
        /// Which of the two.
        kind: Kind,
        /// Its name.
        name: String,
        /// The names of those that need it.
        services: Vec<String>,
    },
    /// More than [`PROPOSAL_ACTIONS_MAX`] actions.
    #[error("{0} changes in one transaction: at most {PROPOSAL_ACTIONS_MAX} are allowed")]
    TooManyActions(usize),
    /// More than [`PROPOSAL_BYTES_MAX`] bytes in several actions, or than [`ACTION_BYTES_MAX`] in one.
    #[error(
        "raft: raft message is too large and can't be sent: {bytes} bytes to store at once, at most \
         {limit} are allowed"
    )]
    TooLarge {
        /// Of all actions, as JSON.
        bytes: usize,
        /// How many may be.
        limit: usize,
    },
}

fn plural(names: &[String]) -> &'static str {
    if names.len() == 1 { "" } else { "s" }
}

impl Action {
    /// How long it is as JSON, which is how it is replicated.
    pub fn bytes(&self) -> usize {
        let mut counter = Counter(0);
        // What has no JSON could not be replicated either, and is refused there.
        let _ = serde_json::to_writer(&mut counter, self);
        counter.0
    }
}

/// Counts what is written to it.
struct Counter(usize);

impl io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether one Raft entry may hold these actions. Asked before they are proposed: once they are in the
/// log it is too late.
///
/// # Errors
/// [`Rejection::TooManyActions`], [`Rejection::TooLarge`]
pub fn check_size(actions: &[Action]) -> Result<(), Rejection> {
    if actions.len() > PROPOSAL_ACTIONS_MAX {
        return Err(Rejection::TooManyActions(actions.len()));
    }
    let limit = match actions {
        [_] => ACTION_BYTES_MAX,
        _ => PROPOSAL_BYTES_MAX,
    };
    let bytes = actions.iter().map(Action::bytes).sum();
    if bytes > limit {
        return Err(Rejection::TooLarge { bytes, limit });
    }
    Ok(())
}

/// What a proposal did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Applied {
    /// The index it was applied at: the version of every object that it created or updated.
    pub index: u64,
    /// One per action that changes something.
    pub events: Vec<Event>,
}

/// An object before and after one action; at least one is there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// `None`: created.
    pub before: Option<Object>,
    /// `None`: removed.
    pub after: Option<Object>,
}

impl Event {
    /// The object as it is now, or was last.
    pub fn object(&self) -> &Object {
        self.after
            .as_ref()
            .or(self.before.as_ref())
            .expect("an event has a before or an after")
    }
}

impl State {
    /// Applies a committed proposal at a Raft index. Every member computes the same.
    ///
    /// # Errors
    /// A [`Rejection`]; the state then differs only in its index.
    pub fn apply(&mut self, index: u64, proposal: &Proposal) -> Result<Applied, Rejection> {
        assert!(
            index > self.index,
            "index {index} applied after {}",
            self.index
        );
        self.index = index;
        if proposal.actions.len() > PROPOSAL_ACTIONS_MAX {
            return Err(Rejection::TooManyActions(proposal.actions.len()));
        }
        // The clone shares all but what the proposal touches; on an error it is dropped.
        let mut next = self.clone();
        let mut events = Vec::with_capacity(proposal.actions.len());
        for action in &proposal.actions {
            events.extend(next.apply_action(proposal.at, action)?);
        }
        *self = next;
        Ok(Applied { index, events })
    }

    /// Notes that an index passed which holds nothing for the store.
    pub fn skip_to(&mut self, index: u64) {
        assert!(
            index >= self.index,
            "index {index} seen after {}",
            self.index
        );
        self.index = index;
    }

    fn apply_action(&mut self, at: Timestamp, action: &Action) -> Result<Option<Event>, Rejection> {
        let missing = |kind, id: &str| Rejection::NotFound {
            kind,
            id: id.to_owned(),
        };
        self.check_integrity(action)?;
        match action {
            Action::Create(object) => {
                if self.get(object.kind(), object.id()).is_some() {
                    return Err(Rejection::Exists {
                        kind: object.kind(),
                        id: object.id().into(),
                    });
                }
                self.check_name(object)?;
                Ok(Some(Event {
                    before: None,
                    after: Some(self.put(None, at, object)),
                }))
            }
            Action::Update(object) => {
                let before = self
                    .get(object.kind(), object.id())
                    .ok_or_else(|| missing(object.kind(), object.id()))?;
                if before.meta().version != object.meta().version {
                    return Err(Rejection::OutOfSequence);
                }
                self.check_name(object)?;
                let after = self.put(Some(&before), at, object);
                Ok(Some(Event {
                    before: Some(before),
                    after: Some(after),
                }))
            }
            Action::Remove { kind, id, version } => {
                let before = self.get(*kind, id).ok_or_else(|| missing(*kind, id))?;
                if version.is_some_and(|version| version != before.meta().version) {
                    return Err(Rejection::OutOfSequence);
                }
                let after = match &before {
                    Object::Network(network) if self.has_tasks_on(id) => {
                        // For all but these tasks it is gone.
                        if network.pending_deletion {
                            return Err(missing(*kind, id));
                        }
                        let mut network = Network::clone(network);
                        network.pending_deletion = true;
                        Some(self.put(Some(&before), at, &network.into()))
                    }
                    _ => {
                        self.take(*kind, id);
                        None
                    }
                };
                Ok(Some(Event {
                    before: Some(before),
                    after,
                }))
            }
            Action::Expect { kind, id, version } => match self.get(*kind, id) {
                Some(object) if object.meta().version == *version => Ok(None),
                _ => Err(Rejection::OutOfSequence),
            },
        }
    }

    fn put(&mut self, before: Option<&Object>, at: Timestamp, object: &Object) -> Object {
        let mut object = object.clone();
        let version = Version { index: self.index };
        let meta = object.meta_mut();
        meta.version = version;
        meta.created_at = before.map_or(at, |before| before.meta().created_at);
        meta.updated_at = at;
        if let Object::Node(node) = &mut object {
            let node = Arc::make_mut(node);
            node.traits_version = match before {
                Some(Object::Node(before)) if before.has_traits_of(node) => before.traits_version,
                _ => version,
            };
        }
        self.insert(object.clone());
        object
    }

    fn check_name(&self, object: &Object) -> Result<(), Rejection> {
        let Some(name) = object.unique_name() else {
            return Ok(());
        };
        match self.names.get(&(object.kind(), name.to_lowercase())) {
            Some(owner) if owner != object.id() => Err(Rejection::NameConflict {
                kind: object.kind(),
                name: name.to_owned(),
            }),
            _ => Ok(()),
        }
    }
}
