//! What every object carries: its version and its times.

use crate::Timestamp;
use serde::{Deserialize, Serialize};

/// The version of an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Version {
    /// The Raft index of the last change of the object: global, so it jumps.
    pub index: u64,
}

/// What every object carries. The store fills it in; proposers only hand back what they read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Meta {
    /// See [`Version`].
    pub version: Version,
    /// When the object was created, by the leader's clock.
    pub created_at: Timestamp,
    /// When the object was last changed, by the leader's clock.
    pub updated_at: Timestamp,
}
