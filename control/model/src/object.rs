//! One type for an object of any kind, as the store and its events carry it.

use crate::{Cluster, Config, Meta, Network, Node, Secret, Service, Task};
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};

/// The kinds of object in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Kind {
    Cluster,
    Node,
    Service,
    Task,
    Network,
    Secret,
    Config,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cluster => "cluster",
            Self::Node => "node",
            Self::Service => "service",
            Self::Task => "task",
            Self::Network => "network",
            Self::Secret => "secret",
            Self::Config => "config",
        })
    }
}

/// Any object of the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Object {
    Cluster(Arc<Cluster>),
    Node(Arc<Node>),
    Service(Arc<Service>),
    Task(Arc<Task>),
    Network(Arc<Network>),
    Secret(Arc<Secret>),
    Config(Arc<Config>),
}

/// Runs one expression for whichever object it is.
macro_rules! each {
    ($object:expr, $o:ident => $body:expr) => {
        match $object {
            Object::Cluster($o) => $body,
            Object::Node($o) => $body,
            Object::Service($o) => $body,
            Object::Task($o) => $body,
            Object::Network($o) => $body,
            Object::Secret($o) => $body,
            Object::Config($o) => $body,
        }
    };
}

impl Object {
    /// What kind of object it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Cluster(_) => Kind::Cluster,
            Self::Node(_) => Kind::Node,
            Self::Service(_) => Kind::Service,
            Self::Task(_) => Kind::Task,
            Self::Network(_) => Kind::Network,
            Self::Secret(_) => Kind::Secret,
            Self::Config(_) => Kind::Config,
        }
    }

    /// Its ID.
    pub fn id(&self) -> &str {
        each!(self, o => &o.id)
    }

    /// Its version and times.
    pub fn meta(&self) -> &Meta {
        each!(self, o => &o.meta)
    }

    /// The same, to be changed by the store alone.
    pub(crate) fn meta_mut(&mut self) -> &mut Meta {
        each!(self, o => &mut Arc::make_mut(o).meta)
    }

    /// The name that must be unique, regardless of case, among objects of the kind.
    pub(crate) fn unique_name(&self) -> Option<&str> {
        match self {
            Self::Network(network) if network.pending_deletion => None,
            Self::Service(service) => Some(&service.spec.name),
            Self::Network(network) => Some(&network.spec.name),
            Self::Secret(secret) => Some(&secret.spec.name),
            Self::Config(config) => Some(&config.spec.name),
            Self::Cluster(_) | Self::Node(_) | Self::Task(_) => None,
        }
    }
}

macro_rules! from {
    ($($kind:ident),*) => {$(
        impl From<$kind> for Object {
            fn from(object: $kind) -> Self {
                Self::$kind(Arc::new(object))
            }
        }
    )*};
}
from!(Cluster, Node, Service, Task, Network, Secret, Config);
