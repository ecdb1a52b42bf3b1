//! The order in which the leader's cores run.

use crate::{
    Wake,
    allocator::Allocator,
    drain::{Drain, Late, Programmed},
    enforcer, global, job, node_failure, reaper, replicated, restart,
    scheduler::Scheduler,
    settled::Settled,
    update,
};
use rand::Rng;
use skein_model::Draft;

/// All decisions of the leader, one after the other.
#[derive(Clone, Debug, Default)]
pub struct Orchestration {
    allocator: Allocator,
    scheduler: Scheduler,
    drain: Drain,
    settled: Settled,
}

impl Orchestration {
    /// Brings the draft nearer to what its specs ask for. Run again after every change of the store
    /// and when the answer says; a settled cluster gets no changes. `programmed` is what the nodes'
    /// kernels have of the network state.
    pub fn run(&mut self, draft: &mut Draft, programmed: &Programmed, rng: &mut impl Rng) -> Wake {
        let mut wake = Wake::default();
        let scope = self.settled.scope(draft);
        node_failure::orphan(draft, &scope, &mut wake);
        enforcer::run(draft, &scope);
        restart::replace(draft, &scope, &mut wake, rng);
        replicated::run(draft, &scope, rng);
        global::run(draft, &scope, rng);
        job::run(draft, &scope, rng);
        update::run(draft, &scope, &mut self.drain, programmed, &mut wake, rng);
        restart::release(draft, &scope, &mut wake);
        reaper::run(draft, &scope);
        self.allocator.run_within(draft, &scope);
        self.scheduler.run_within(draft, &scope);
        self.drain.run(draft, &scope, programmed, &mut wake);
        self.settled.note(draft, &scope);
        wake
    }

    /// The nodes that tasks no longer waited for, since this was last asked.
    pub fn take_late(&mut self) -> Vec<Late> {
        self.drain.take_late()
    }
}

#[cfg(test)]
mod tests;
