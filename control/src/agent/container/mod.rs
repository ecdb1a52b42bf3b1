//! The container of a task, as values: what the engine is asked to make ([`plan`]), and what it
//! says there is ([`Container`]). No I/O.

mod files;
mod mounts;
mod observed;
mod plan;

pub use files::{File, FilesError, Known, file_mounts, files};
pub use observed::{Container, Health, observe};
pub use plan::{Endpoint, Plan, SpecError, labels, plan};

/// Label that marks every container of a task; its value is empty.
pub const LABEL_TASK: &str = "com.docker.swarm.task";
/// Label with the ID of the task.
pub const LABEL_TASK_ID: &str = "com.docker.swarm.task.id";
/// Label with the ID of the node.
pub const LABEL_NODE_ID: &str = "com.docker.swarm.node.id";
