//! What the demo and the end-to-end tests do to a cluster, and what must hold on it.

pub mod load;
pub mod names;
pub mod nodes;
pub mod requests;
pub mod return_mode;
pub mod services;
pub mod status;
