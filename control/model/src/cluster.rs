//! The cluster object: its settings, its Raft members and its root of trust.

use crate::{Meta, Timestamp, is_default};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The cluster itself: one object, named `default`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Cluster {
    /// Also the organisation (O) of every certificate.
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(flatten)]
    #[allow(missing_docs, reason = "see the type")]
    pub meta: Meta,
    /// What the user may change.
    pub spec: ClusterSpec,
    /// What joining nodes must show.
    pub join_tokens: JoinTokens,
    /// CIDRs that subnets of overlays are cut from.
    pub default_addr_pool: Vec<ipnet::Ipv4Net>,
    /// Prefix length of those subnets, at most 29.
    pub subnet_size: u8,
    /// UDP port of the overlay.
    pub data_path_port: u16,
    /// The root of the cluster's certificates.
    #[serde(rename = "X-Skein-RootCA")]
    pub root_ca: RootCa,
    /// The root that is to take its place, while the nodes change over.
    #[serde(
        rename = "X-Skein-RootRotation",
        skip_serializing_if = "Option::is_none"
    )]
    pub root_rotation: Option<RootRotation>,
    /// What managers seal their keys with (`SWMKEY-1-…`); "" where they are not to be locked.
    #[serde(rename = "X-Skein-UnlockKey")]
    pub unlock_key: UnlockKey,
    /// The Raft ID that the next manager gets. IDs are never used again.
    #[serde(rename = "X-Skein-NextRaftID")]
    pub next_raft_id: u64,
    /// IDs of removed nodes, whose certificates are no longer good, and when the last of those has
    /// expired.
    #[serde(rename = "X-Skein-RemovedNodes")]
    pub removed_nodes: BTreeMap<String, Timestamp>,
    /// The longest `NodeCertExpiry` that the cluster ever had.
    #[serde(rename = "X-Skein-LongestCertExpiry")]
    pub longest_cert_expiry: i64,
    /// The managers by node ID.
    #[serde(rename = "X-Skein-Managers")]
    pub managers: BTreeMap<String, RaftMember>,
}

/// A manager's place in the Raft group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RaftMember {
    /// Its ID in the Raft group.
    pub raft_id: u64,
    /// Where managers and agents reach it: `198.18.0.1:2377`.
    pub addr: String,
}

/// Certificate and key of the cluster's root, PEM.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RootCa {
    /// The root certificate; the digest in the join tokens is of these bytes.
    pub cert_pem: String,
    /// Its key. Never leaves the managers; "" if external authorities alone have it.
    pub key_pem: String,
}

impl std::fmt::Debug for RootCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RootCa")
            .field("cert_pem", &self.cert_pem)
            .finish_non_exhaustive()
    }
}

/// A change of the root under way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RootRotation {
    /// The root that signs now.
    pub root: RootCa,
    /// Name and key of that root, signed by the one that nodes still trust. PEM.
    pub cross_signed_pem: String,
}

/// `SWMKEY-1-…`, or "".
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnlockKey(pub String);

impl std::fmt::Debug for UnlockKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UnlockKey(redacted)")
    }
}

/// `SWMTKN-1-<digest>-<secret>` for each role.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the names say it")]
pub struct JoinTokens {
    pub worker: String,
    pub manager: String,
}

impl std::fmt::Debug for JoinTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JoinTokens(redacted)")
    }
}

/// The part of a cluster that the user may change (`Spec` of `GET /swarm`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct ClusterSpec {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub orchestration: OrchestrationConfig,
    pub raft: RaftConfig,
    pub dispatcher: DispatcherConfig,
    #[serde(rename = "CAConfig")]
    pub ca_config: CaConfig,
    pub task_defaults: TaskDefaults,
    pub encryption_config: EncryptionConfig,
}

impl Default for ClusterSpec {
    fn default() -> Self {
        Self {
            name: "default".into(),
            labels: BTreeMap::new(),
            orchestration: OrchestrationConfig::default(),
            raft: RaftConfig::default(),
            dispatcher: DispatcherConfig::default(),
            ca_config: CaConfig::default(),
            task_defaults: TaskDefaults {},
            encryption_config: EncryptionConfig::default(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct OrchestrationConfig {
    /// Tasks kept per slot, the live one included; negative: all.
    pub task_history_retention_limit: i64,
}

impl Default for OrchestrationConfig {
    fn default() -> Self {
        Self {
            task_history_retention_limit: 5,
        }
    }
}

/// How managers keep the log of what was agreed on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RaftConfig {
    /// Entries of the log between snapshots; 0: as many as managers have memory for, which is also
    /// the most that takes effect. A change holds on every manager at once.
    pub snapshot_interval: u64,
    /// Without effect. Swarm's managers keep so many files of older snapshots, each with the log
    /// since then, and take up the newest that can be read. Here the log and the one snapshot are in
    /// the same file, and change in one transaction: whatever spoils the one, an older one beside it
    /// would be no better, and no way back either, as what was acknowledged since then is gone.
    pub keep_old_snapshots: u64,
    /// Entries of the log kept behind a snapshot, so that a manager that was away a moment needs no
    /// snapshot; as many as managers have memory for at most. A change holds at once.
    pub log_entries_for_slow_followers: u64,
    /// Without effect, as in Swarm, where managers take their times from their engine's
    /// configuration. Skein's are constants. In units of a second.
    pub election_tick: i64,
    /// As `election_tick`.
    pub heartbeat_tick: i64,
}

impl Default for RaftConfig {
    fn default() -> Self {
        Self {
            snapshot_interval: 10_000,
            keep_old_snapshots: 0,
            log_entries_for_slow_followers: 500,
            election_tick: 10,
            heartbeat_tick: 1,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct DispatcherConfig {
    /// Nanoseconds.
    pub heartbeat_period: i64,
}

impl Default for DispatcherConfig {
    fn default() -> Self {
        Self {
            heartbeat_period: 5_000_000_000,
        }
    }
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct CaConfig {
    /// Nanoseconds.
    pub node_cert_expiry: i64,
    #[serde(rename = "ExternalCAs", skip_serializing_if = "Vec::is_empty")]
    pub external_cas: Vec<ExternalCa>,
    /// The root that is wanted; only in requests.
    #[serde(rename = "SigningCACert", skip_serializing_if = "String::is_empty")]
    pub signing_ca_cert: String,
    /// Its key; only in requests.
    #[serde(rename = "SigningCAKey", skip_serializing_if = "String::is_empty")]
    pub signing_ca_key: String,
    #[serde(skip_serializing_if = "is_default")]
    pub force_rotate: u64,
}

impl std::fmt::Debug for CaConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CaConfig")
            .field("node_cert_expiry", &self.node_cert_expiry)
            .field("external_cas", &self.external_cas)
            .field("force_rotate", &self.force_rotate)
            .finish_non_exhaustive()
    }
}

/// A server that signs certificates for the cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct ExternalCa {
    pub protocol: String,
    #[serde(rename = "URL")]
    pub url: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    /// PEM of the root that it signs for; "" for the cluster's own.
    #[serde(rename = "CACert")]
    pub ca_cert: String,
}

impl Default for CaConfig {
    fn default() -> Self {
        Self {
            node_cert_expiry: 7_776_000_000_000_000,
            external_cas: Vec::new(),
            signing_ca_cert: String::new(),
            signing_ca_key: String::new(),
            force_rotate: 0,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "empty in the Docker Engine API")]
pub struct TaskDefaults {}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct EncryptionConfig {
    pub auto_lock_managers: bool,
}
