//! Skein's cluster objects and the replicated store that holds them.
//!
//! Pure: no I/O, no clock, no ambient randomness. What varies is passed in.
//!
//! - Objects ([`Cluster`], [`Node`], [`Service`], [`Task`], [`Network`], [`Secret`], [`Config`]) have the JSON shape of the
//!   Docker Engine API, with stricter types. What Docker has no field for is in fields whose JSON
//!   name starts with `X-Skein-`; the API layer never shows those.
//! - [`State`] is the whole store at one Raft index. Cloning it is cheap (persistent maps), so every
//!   reader works on a view of its own.
//! - [`Proposal`] is a transaction: all of its actions apply, or none does.

mod cluster;
mod id;
mod meta;
mod network;
mod node;
mod object;
mod payload;
mod service;
mod spec;
mod store;
mod task;
mod timestamp;

pub use cluster::*;
pub use id::{ID_LEN, is_id, new_id, short_id};
pub use meta::{Meta, Version};
pub use network::*;
pub use node::*;
pub use object::{Kind, Object};
pub use payload::*;
pub use service::*;
pub use spec::*;
pub use store::{
    ACTION_BYTES_MAX, Action, Applied, Change, Draft, Event, LookupError, PROPOSAL_ACTIONS_MAX,
    PROPOSAL_BYTES_MAX, Payloads, Proposal, Rejection, State, TaskGroup, check_size,
};
pub use task::*;
pub use timestamp::Timestamp;

/// Whether a value equals its type's default; used to leave such values out of JSON, as Docker does.
pub fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
