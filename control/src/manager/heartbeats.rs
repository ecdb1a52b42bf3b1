//! Which nodes were heard, and when.

use crate::raft::platform::{self, Instant, Platform};
use parking_lot::Mutex;
use skein_model::Draft;
use skein_orchestration::{heartbeats::Heartbeats, registrations::Registrations};
use std::time::Duration;
use tokio::sync::Notify;

/// The heartbeats that reached this manager, by its steady clock.
pub(super) struct Pulse<P: Platform> {
    start: Instant<P>,
    heard: Mutex<Heard>,
    registered: Notify,
}

/// What was heard in one term of leadership.
struct Heard {
    term: u64,
    beats: Heartbeats,
    registrations: Registrations,
}

impl Heard {
    fn new(term: u64, now: Duration) -> Self {
        Self {
            term,
            beats: Heartbeats::new(now),
            registrations: Registrations::default(),
        }
    }

    /// A new term begins with nothing, whoever is first to notice it: the leader's loop, or a node
    /// that registers.
    fn in_term(&mut self, term: u64, now: Duration) -> &mut Self {
        if term > self.term {
            *self = Self::new(term, now);
        }
        self
    }
}

impl<P: Platform> Pulse<P> {
    pub(super) fn new() -> Self {
        let heard = Heard::new(0, Duration::ZERO);
        Self {
            start: platform::now::<P>(),
            heard: Mutex::new(heard),
            registered: Notify::new(),
        }
    }

    fn elapsed(&self) -> Duration {
        platform::now::<P>() - self.start
    }

    /// This manager leads.
    pub(super) fn begin(&self, term: u64) {
        self.heard.lock().in_term(term, self.elapsed());
    }

    /// A node lives, and is told to send the next heartbeat after `period`.
    pub(super) fn heard(&self, term: u64, node_id: &str, period: Duration) {
        let now = self.elapsed();
        let mut heard = self.heard.lock();
        heard.in_term(term, now).beats.heard(node_id, now, period);
    }

    /// Whether a node may register now, see [`Registrations`].
    pub(super) fn admits(&self, term: u64, node_id: &str) -> bool {
        let now = self.elapsed();
        let mut heard = self.heard.lock();
        heard.in_term(term, now).registrations.admit(node_id, now)
    }

    /// A node begins to be listened to, which the leader must take note of.
    pub(super) fn registered(&self, term: u64, node_id: &str, period: Duration) {
        self.heard(term, node_id, period);
        self.registered.notify_one();
    }

    /// Ends once a node has registered.
    pub(super) async fn registration(&self) {
        self.registered.notified().await;
    }

    /// Marks the nodes that are not heard of; returns when to look again.
    pub(super) fn judge(&self, draft: &mut Draft) -> Option<Instant<P>> {
        let again = self.heard.lock().beats.run(draft, self.elapsed());
        again.map(|after_start| self.start + after_start)
    }
}
