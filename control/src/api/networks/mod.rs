//! `/networks`: the engine's and the swarm's as one. What the engine has of a swarm's network (its
//! twin, made so that containers can join it) is never shown as such.

mod attaching;
mod containers;
mod creation;
mod listing;
mod local;
mod naming;
mod prune;
mod rewriting;
mod shape;
mod swarm;
mod verbose;

pub use attaching::{connect, create_container, disconnect};
pub use containers::in_containers;
pub use local::{create, inspect, list, remove};
pub use naming::name;
pub use prune::{prune, prune_swarm};
pub use shape::{in_task, twin_of};
pub use swarm::{create_swarm, inspect_swarm, list_swarm, remove_swarm};
