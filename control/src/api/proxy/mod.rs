//! The way to the node's own container engine: everything that is not the swarm's goes there, byte
//! for byte.

mod engine;
mod forward;
mod raw;

pub(crate) use engine::{ANSWER_TIMEOUT, CHANGE_TIMEOUT};
pub use engine::{Engine, Relayed};
pub use forward::forward;
pub use raw::{Opening, splice};
