//! The way to the node's own container engine: everything that is not the swarm's goes there, byte
//! for byte.

mod engine;
mod forward;
mod raw;

pub use engine::Engine;
pub(crate) use engine::read_json;
pub use forward::forward;
pub use raw::{Opening, splice};
