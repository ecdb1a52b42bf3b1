//! Skein's decisions: orchestrators, scheduler, allocator, restart, update, reaper.
//!
//! Pure: each core reads and writes a [`skein_model::Draft`], level-triggered over the whole state;
//! the clock and randomness are passed in. What a core remembers between steps only ever makes its
//! choices better; all that must survive a change of leader is in the store.

pub mod allocator;
pub mod scheduler;
pub mod validate;

#[cfg(test)]
mod testing;
