//! The order in which the leader's cores run.

use crate::{
    Wake,
    allocator::Allocator,
    drain::{Drain, Late, Programmed},
    enforcer, global, job, node_failure, reaper, replicated, restart,
    scheduler::Scheduler,
    update,
};
use rand::Rng;
use skein_model::Draft;

/// All decisions of the leader, one after the other.
#[derive(Debug, Default)]
pub struct Orchestration {
    allocator: Allocator,
    scheduler: Scheduler,
    drain: Drain,
}

impl Orchestration {
    /// Brings the draft nearer to what its specs ask for. Run again after every change of the store
    /// and when the answer says; a settled cluster gets no changes. `programmed` is what the nodes'
    /// kernels have of the network state.
    pub fn run(&mut self, draft: &mut Draft, programmed: &Programmed, rng: &mut impl Rng) -> Wake {
        let mut wake = Wake::default();
        node_failure::orphan(draft, &mut wake);
        enforcer::run(draft);
        restart::replace(draft, &mut wake, rng);
        replicated::run(draft, rng);
        global::run(draft, rng);
        job::run(draft, rng);
        update::run(draft, &mut self.drain, programmed, &mut wake, rng);
        restart::release(draft, &mut wake);
        reaper::run(draft);
        self.allocator.run(draft);
        self.scheduler.run(draft);
        self.drain.run(draft, programmed, &mut wake);
        wake
    }

    /// The nodes that tasks no longer waited for, since this was last asked.
    pub fn take_late(&mut self) -> Vec<Late> {
        self.drain.take_late()
    }
}

#[cfg(test)]
mod tests;
