//! Skein's decisions: orchestrators, scheduler, allocator, restart, update, reaper.
//!
//! Pure: each core reads and writes a [`skein_model::Draft`], level-triggered over the whole state;
//! the clock and randomness are passed in. What a core remembers between steps only ever makes its
//! choices better; all that must survive a change of leader is in the store.
//!
//! [`Orchestration`] runs all of them in their one order.

pub mod allocator;
pub mod attachment;
mod dirty;
pub mod drain;
mod enforcer;
mod global;
pub mod heartbeats;
mod job;
pub mod network_state;
mod node_failure;
mod node_removal;
mod occupancy;
pub mod offer;
mod orchestration;
mod reaper;
pub mod registrations;
mod replicated;
mod report;
mod restart;
pub mod return_mode;
pub mod revision;
pub mod scheduler;
mod settled;
mod slot;
mod task;
pub mod template;
mod update;
pub mod validate;
mod wake;

pub use dirty::is_up_to_date;
pub use node_removal::remove_node;
pub use orchestration::Orchestration;
pub use report::take_report;
pub use wake::Wake;

#[cfg(test)]
mod testing;
