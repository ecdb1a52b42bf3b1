//! The tasks of this node.

mod failure;
pub mod listening;
pub mod machine;
mod preparation;
mod process;
mod registry;
mod supervisor;

pub use registry::{Environment, Tasks};
