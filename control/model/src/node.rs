//! Nodes: what is asked of them, what they say of themselves, how they are.

use crate::{GenericResource, Meta, Version, is_default};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::Ipv4Addr};

/// A member of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct Node {
    /// Also the common name (CN) of its certificate.
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(flatten)]
    pub meta: Meta,
    pub spec: NodeSpec,
    pub description: NodeDescription,
    pub status: NodeStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manager_status: Option<ManagerStatus>,
    /// The role it has now; `spec.role` is the one wanted.
    #[serde(rename = "X-Skein-Role")]
    pub role: NodeRole,
    /// IPv4 address of the data path; "" until the node registers.
    #[serde(rename = "X-Skein-DataPathAddr")]
    pub data_path_addr: String,
    /// Its end of the tunnels that encrypted overlays go by; `None` until its dataplane has said it.
    #[serde(rename = "X-Skein-Tunnel", skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<TunnelEnd>,
    /// Version of the node when anything last changed that placement constraints read of it. The store sets
    /// it; zero of a node that has not changed so since an earlier version of Skein kept it.
    #[serde(rename = "X-Skein-TraitsVersion", skip_serializing_if = "is_default")]
    pub traits_version: Version,
    /// What lists can be filtered by.
    #[serde(rename = "X-Skein-Membership", skip_serializing_if = "is_default")]
    pub membership: Membership,
}

/// Whether a node has been taken into the cluster: all are. But as with Docker, what users change of a node has
/// no such field, so that it is as nothing from then on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Membership {
    #[default]
    Accepted,
    Pending,
}

impl Membership {
    /// Its name in the Docker Engine API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Pending => "pending",
        }
    }
}

/// A node's end of the tunnels between nodes (WireGuard).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TunnelEnd {
    /// X25519. It is the node's own: it comes by the node's own session.
    pub public_key: [u8; 32],
    /// UDP port, at the node's data path address.
    pub port: u16,
    /// Inside the tunnels: of no other node. `None` until the allocator has given it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
}

impl Node {
    /// Whether no placement constraint can tell the two apart.
    pub(crate) fn has_traits_of(&self, other: &Self) -> bool {
        fn traits(node: &Node) -> impl PartialEq + '_ {
            let described = &node.description;
            (
                (&node.id, node.role, &node.spec.labels, &node.status.addr),
                (&described.hostname, &described.platform),
                &described.engine.labels,
            )
        }
        traits(self) == traits(other)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct NodeSpec {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub role: NodeRole,
    pub availability: Availability,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum NodeRole {
    #[default]
    Worker,
    Manager,
}

/// Whether a node takes tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Availability {
    /// Takes tasks.
    #[default]
    Active,
    /// Keeps its tasks, takes no new ones.
    Pause,
    /// Its tasks move elsewhere.
    Drain,
}

impl Availability {
    /// Its name in the Docker Engine API, and between nodes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Pause => "pause",
            Self::Drain => "drain",
        }
    }

    /// The one of that name; "" is the default.
    pub fn of_name(name: &str) -> Option<Self> {
        if name.is_empty() {
            return Some(Self::default());
        }
        let all = [Self::Active, Self::Pause, Self::Drain];
        all.into_iter().find(|one| one.name() == name)
    }
}

/// What a node says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct NodeDescription {
    pub hostname: String,
    pub platform: Platform,
    pub resources: NodeResources,
    pub engine: EngineDescription,
    #[serde(rename = "TLSInfo")]
    pub tls_info: TlsInfo,
}

/// A node's or an image's platform. Empty strings match anything in a placement.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct Platform {
    /// As `uname -m` says it.
    pub architecture: String,
    #[serde(rename = "OS")]
    pub os: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct NodeResources {
    /// Billionths of a CPU.
    #[serde(rename = "NanoCPUs")]
    pub nano_cpus: i64,
    pub memory_bytes: i64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub generic_resources: Vec<GenericResource>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct EngineDescription {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub engine_version: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub plugins: Vec<EnginePlugin>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct EnginePlugin {
    /// `Network`, `Volume`, `Log`, …
    #[serde(rename = "Type")]
    pub kind: String,
    pub name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct TlsInfo {
    /// PEM.
    pub trust_root: String,
    /// Base64 of the DER subject.
    pub cert_issuer_subject: String,
    /// Base64 of the DER public key.
    pub cert_issuer_public_key: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct NodeStatus {
    pub state: NodeState,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    pub addr: String,
}

/// What the managers know of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Not heard of since a change of leader.
    #[default]
    Unknown,
    /// Missed its heartbeats.
    Down,
    /// Heard of.
    Ready,
    /// Its manager went away; it looks for another.
    Disconnected,
}

impl NodeState {
    /// Every one.
    pub const ALL: &[Self] = &[Self::Unknown, Self::Down, Self::Ready, Self::Disconnected];
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct ManagerStatus {
    #[serde(skip_serializing_if = "is_default")]
    pub leader: bool,
    pub reachability: Reachability,
    pub addr: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Reachability {
    #[default]
    Unknown,
    Unreachable,
    Reachable,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn availabilities_have_the_names_that_their_json_has() {
        for one in [
            Availability::Active,
            Availability::Pause,
            Availability::Drain,
        ] {
            assert_eq!(serde_json::to_value(one).unwrap(), one.name());
            assert_eq!(Availability::of_name(one.name()), Some(one));
        }
        assert_eq!(Availability::of_name(""), Some(Availability::Active));
        assert_eq!(Availability::of_name("gone"), None);
    }
}
