//! What a change of the store is in the words of Docker's events. Pure.

use serde::{Serialize, Serializer};
use skein_model::{
    Event as Change, Node, Object, Reachability, Service, ServiceMode, Timestamp, UpdateStatus,
};
use std::collections::BTreeMap;

/// One event of `GET /events`, of scope `swarm`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Message {
    /// `service`, `node`, `network`, `secret` or `config`.
    #[serde(rename = "Type")]
    pub kind: &'static str,
    /// `create`, `update` or `remove`.
    #[serde(rename = "Action")]
    pub action: &'static str,
    /// To what.
    #[serde(rename = "Actor")]
    pub actor: Actor,
    /// `swarm`
    pub scope: &'static str,
    /// Seconds, and once more nanoseconds, since the Unix epoch.
    #[serde(flatten, serialize_with = "both_times")]
    pub at: Timestamp,
}

/// An object, and what an event tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Actor {
    /// Its full ID.
    #[serde(rename = "ID")]
    pub id: String,
    /// `name`; of an update also what changed, as `<what>.old` and `<what>.new`.
    #[serde(rename = "Attributes")]
    pub attributes: Attributes,
}

/// Texts by name.
pub type Attributes = BTreeMap<String, String>;

fn both_times<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    use serde::ser::SerializeMap as _;
    let nanos = at.unix_nanos();
    let mut map = serializer.serialize_map(Some(2))?;
    map.serialize_entry("time", &nanos.div_euclid(1_000_000_000))?;
    map.serialize_entry("timeNano", &i64::try_from(nanos).unwrap_or(i64::MAX))?;
    map.end()
}

impl Message {
    /// What a change tells; nothing, of tasks and of the cluster itself. `now` is when an object that
    /// is gone went: nothing in the store says so.
    pub fn of_change(change: &Change, now: Timestamp) -> Option<Self> {
        // A network that pends its deletion is gone for all who listen.
        let present = |object: &&Object| !matches!(object, Object::Network(network) if network.pending_deletion);
        let before = change.before.as_ref().filter(present);
        let after = change.after.as_ref().filter(present);
        let subject = after.or(before)?;
        let (kind, name) = name(subject)?;
        let mut attributes = Attributes::from([("name".to_owned(), name)]);
        let (action, at) = match (before, after) {
            (None, _) => ("create", subject.meta().created_at),
            (_, None) => ("remove", now),
            (Some(before), Some(after)) => {
                differences(&mut attributes, before, after);
                ("update", after.meta().updated_at)
            }
        };
        Some(Self::new(kind, action, subject.id(), attributes, at))
    }

    /// That a node leads from now on, or no longer.
    pub fn of_leadership(node: &Node, leads: bool, now: Timestamp) -> Self {
        let mut attributes = Attributes::from([("name".to_owned(), name_of_node(node))]);
        differ(
            &mut attributes,
            "leader",
            &(!leads).to_string(),
            &leads.to_string(),
        );
        Self::new("node", "update", &node.id, attributes, now)
    }

    /// That a manager answers the leader, or no longer.
    pub fn of_reachability(node: &Node, reachable: bool, now: Timestamp) -> Self {
        let mut attributes = Attributes::from([("name".to_owned(), name_of_node(node))]);
        let name = |reachable| match reachable {
            true => Reachability::Reachable,
            false => Reachability::Unreachable,
        };
        differ(
            &mut attributes,
            "reachability",
            &name(!reachable),
            &name(reachable),
        );
        Self::new("node", "update", &node.id, attributes, now)
    }

    fn new(
        kind: &'static str,
        action: &'static str,
        id: &str,
        attributes: Attributes,
        at: Timestamp,
    ) -> Self {
        Self {
            kind,
            action,
            actor: Actor {
                id: id.to_owned(),
                attributes,
            },
            scope: "swarm",
            at,
        }
    }
}

/// The type of an object's events, and its name.
fn name(object: &Object) -> Option<(&'static str, String)> {
    match object {
        Object::Node(node) => Some(("node", name_of_node(node))),
        Object::Service(service) => Some(("service", service.spec.name.clone())),
        Object::Network(network) => Some(("network", network.spec.name.clone())),
        Object::Secret(secret) => Some(("secret", secret.spec.name.clone())),
        Object::Config(config) => Some(("config", config.spec.name.clone())),
        Object::Cluster(_) | Object::Task(_) => None,
    }
}

fn name_of_node(node: &Node) -> String {
    let own = &node.spec.name;
    let name = if own.is_empty() {
        &node.description.hostname
    } else {
        own
    };
    name.clone()
}

fn differences(attributes: &mut Attributes, before: &Object, after: &Object) {
    match (before, after) {
        (Object::Node(before), Object::Node(after)) => of_node(attributes, before, after),
        (Object::Service(before), Object::Service(after)) => of_service(attributes, before, after),
        _ => {}
    }
}

fn of_node(attributes: &mut Attributes, before: &Node, after: &Node) {
    differ(
        attributes,
        "availability",
        &before.spec.availability,
        &after.spec.availability,
    );
    differ(attributes, "role", &before.spec.role, &after.spec.role);
    differ(
        attributes,
        "state",
        &before.status.state,
        &after.status.state,
    );
}

fn of_service(attributes: &mut Attributes, before: &Service, after: &Service) {
    let image = |service: &Service| service.spec.task_template.container_spec.image.clone();
    differ(attributes, "image", &image(before), &image(after));
    differ(attributes, "replicas", &replicas(before), &replicas(after));
    let state = |service: &Service| {
        service
            .update_status
            .as_ref()
            .map(|status: &UpdateStatus| status.state)
    };
    differ(attributes, "updatestate", &state(before), &state(after));
}

/// Of services that have a number of them.
fn replicas(service: &Service) -> Option<u64> {
    match &service.spec.mode {
        ServiceMode::Replicated { replicas } => Some(*replicas),
        _ => None,
    }
}

/// Adds `<what>.old` and `<what>.new` if they differ, each where there is one.
fn differ<T: Serialize + PartialEq>(attributes: &mut Attributes, what: &str, old: &T, new: &T) {
    if old == new {
        return;
    }
    for (suffix, value) in [("old", old), ("new", new)] {
        if let Some(text) = text(value) {
            attributes.insert(format!("{what}.{suffix}"), text);
        }
    }
}

/// A value as its JSON, a text without quotes. `None` for null.
fn text(value: &impl Serialize) -> Option<String> {
    match serde_json::to_value(value).ok()? {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some(text),
        other => Some(other.to_string()),
    }
}
