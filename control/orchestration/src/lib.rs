//! Skein's decisions: orchestrators, scheduler, allocator, restart, update, reaper. Pure step functions.
