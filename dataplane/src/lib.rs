//! Skein's dataplane: everything that touches packets and names on a node.

pub mod config;
pub mod desired;
pub mod kernel;
