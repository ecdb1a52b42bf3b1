//! Skein's control plane.

pub mod agent;
