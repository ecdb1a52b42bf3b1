//! The tasks of this node.

mod failure;
mod host_ports;
pub mod listening;
pub mod machine;
mod preparation;
mod process;
mod registry;
mod supervisor;

pub use host_ports::HostPorts;
pub use registry::{Environment, Tasks};
