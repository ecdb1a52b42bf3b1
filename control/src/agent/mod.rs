//! The agent.

pub mod container;
pub mod task;
pub mod template;
