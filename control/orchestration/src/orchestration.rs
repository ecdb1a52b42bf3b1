//! The order in which the leader's cores run.

use crate::{
    Wake, allocator::Allocator, enforcer, global, job, node_failure, reaper, replicated, restart,
    scheduler::Scheduler, update,
};
use rand::Rng;
use skein_model::Draft;

/// All decisions of the leader, one after the other.
#[derive(Debug, Default)]
pub struct Orchestration {
    allocator: Allocator,
    scheduler: Scheduler,
}

impl Orchestration {
    /// Brings the draft nearer to what its specs ask for. Run again after every change of the store
    /// and at the moment that is returned; a settled cluster gets no changes.
    pub fn run(&mut self, draft: &mut Draft, rng: &mut impl Rng) -> Wake {
        let mut wake = Wake::default();
        node_failure::orphan(draft, &mut wake);
        enforcer::run(draft);
        restart::replace(draft, &mut wake, rng);
        replicated::run(draft, rng);
        global::run(draft, rng);
        job::run(draft, rng);
        update::run(draft, &mut wake, rng);
        restart::release(draft, &mut wake);
        reaper::run(draft);
        self.allocator.run(draft);
        self.scheduler.run(draft);
        wake
    }
}

#[cfg(test)]
mod tests;
