//! The tasks of this node.

pub mod listening;
pub mod machine;
mod registry;
mod supervisor;

pub use registry::{Environment, Tasks};
