//! When each of the other members last answered this one.

use super::platform::{self, Instant, Platform};
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc, time::Duration};

/// A member that answered within this time is reachable: a few heartbeats.
const REACHABLE: Duration = Duration::from_secs(3);

/// When each member last answered this one.
#[derive(Clone, Default)]
pub struct Contacts<P: Platform> {
    last: Arc<Mutex<HashMap<u64, Instant<P>>>>,
}

impl<P: Platform> Contacts<P> {
    /// Whether a member answered lately.
    pub fn reachable(&self, raft_id: u64) -> bool {
        self.within(raft_id, REACHABLE)
    }

    /// Whether a member answered this one within a time.
    pub fn within(&self, raft_id: u64, time: Duration) -> bool {
        let last = self.last.lock().get(&raft_id).copied();
        last.is_some_and(|last| platform::now::<P>() - last < time)
    }

    /// A member has answered.
    pub fn answered(&self, raft_id: u64) {
        self.last.lock().insert(raft_id, platform::now::<P>());
    }
}
