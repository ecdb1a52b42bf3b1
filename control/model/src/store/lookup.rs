//! Finding an object by what a user calls it.

use super::State;
use crate::{Config, Kind, Network, Node, Secret, Service, Task};
use imbl::OrdMap;
use std::sync::Arc;

/// Why a reference to an object does not lead to one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// Nothing matches.
    #[error("{kind} {reference} not found")]
    NotFound {
        /// What was looked for.
        kind: Kind,
        /// By what.
        reference: String,
    },
    /// Several match.
    #[error("{kind} {reference} is ambiguous ({matches} matches found)")]
    Ambiguous {
        /// What was looked for.
        kind: Kind,
        /// By what.
        reference: String,
        /// How many match.
        matches: usize,
    },
}

/// Full ID, else exact name, else prefix of the ID: the order of every look-up in the API.
fn find<'a, T>(
    kind: Kind,
    objects: &'a OrdMap<String, Arc<T>>,
    reference: &str,
    named: impl Fn(&T) -> bool,
) -> Result<&'a Arc<T>, LookupError> {
    find_present(kind, objects, reference, |_| true, named)
}

/// The same among those that are there for users.
fn find_present<'a, T>(
    kind: Kind,
    objects: &'a OrdMap<String, Arc<T>>,
    reference: &str,
    is_present: impl Fn(&T) -> bool,
    named: impl Fn(&T) -> bool,
) -> Result<&'a Arc<T>, LookupError> {
    let present = |object: &&Arc<T>| is_present(object);
    if let Some(object) = objects.get(reference).filter(present) {
        return Ok(object);
    }
    let all = objects.values().filter(present);
    let by_name: Vec<_> = all.filter(|object| named(object)).collect();
    let matches = if by_name.is_empty() && !reference.is_empty() {
        let from = objects.range(reference.to_owned()..);
        from.take_while(|(id, _)| id.starts_with(reference))
            .map(|(_, object)| object)
            .filter(present)
            .collect()
    } else {
        by_name
    };
    match matches[..] {
        [object] => Ok(object),
        [] => Err(LookupError::NotFound {
            kind,
            reference: reference.to_owned(),
        }),
        [..] => Err(LookupError::Ambiguous {
            kind,
            reference: reference.to_owned(),
            matches: matches.len(),
        }),
    }
}

impl State {
    /// A node by ID, hostname or prefix of the ID.
    ///
    /// # Errors
    /// None or several match.
    pub fn find_node(&self, reference: &str) -> Result<&Arc<Node>, LookupError> {
        find(Kind::Node, &self.nodes, reference, |node| {
            node.description.hostname == reference
        })
    }

    /// A service by ID, name or prefix of the ID.
    ///
    /// # Errors
    /// None or several match.
    pub fn find_service(&self, reference: &str) -> Result<&Arc<Service>, LookupError> {
        find(Kind::Service, &self.services, reference, |service| {
            service.spec.name == reference
        })
    }

    /// A task by ID, name or prefix of the ID.
    ///
    /// # Errors
    /// None or several match.
    pub fn find_task(&self, reference: &str) -> Result<&Arc<Task>, LookupError> {
        find(Kind::Task, &self.tasks, reference, |task| {
            task.name() == reference
        })
    }

    /// A network by ID, name or prefix of the ID; none that pends its deletion.
    ///
    /// # Errors
    /// None or several match.
    pub fn find_network(&self, reference: &str) -> Result<&Arc<Network>, LookupError> {
        find_present(
            Kind::Network,
            &self.networks,
            reference,
            |network| !network.pending_deletion,
            |network| network.spec.name == reference,
        )
    }

    /// A secret by ID, name or prefix of the ID.
    ///
    /// # Errors
    /// None or several match.
    pub fn find_secret(&self, reference: &str) -> Result<&Arc<Secret>, LookupError> {
        find(Kind::Secret, &self.secrets, reference, |secret| {
            secret.spec.name == reference
        })
    }

    /// A config by ID, name or prefix of the ID.
    ///
    /// # Errors
    /// None or several match.
    pub fn find_config(&self, reference: &str) -> Result<&Arc<Config>, LookupError> {
        find(Kind::Config, &self.configs, reference, |config| {
            config.spec.name == reference
        })
    }
}
