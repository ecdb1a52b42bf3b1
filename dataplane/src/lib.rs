//! Skein's dataplane: everything that touches packets and names on a node.
//!
//! - [`sync`]: the wanted network state comes in; [`desired`]: what it is.
//! - [`kernel`]: programs, maps and devices that make it so.
//! - [`plugin`]: the container engine asks for interfaces.
//! - [`inspect`]: operators ask what the kernel has.
//! - [`metrics`]: operators ask what became of packets.
//! - [`names`]: containers ask for the addresses of each other.

pub mod config;
pub mod desired;
mod files;
pub mod inspect;
pub mod kernel;
pub mod metrics;
pub mod names;
pub mod plugin;
pub mod sync;
