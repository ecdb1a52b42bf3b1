//! The same session with the docker CLI on Docker Swarm and on Skein, and what differs.

mod compare;
mod normal;
mod script;

pub use compare::{Difference, Wanted, unexplained};
pub use script::{Engine, Outcome, Script, Step, With};
