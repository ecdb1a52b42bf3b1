use parking_lot::Mutex;
use skein_model::Draft;
use skein_orchestration::node_failure::Heartbeats;
use std::time::Duration;
use tokio::{sync::Notify, time::Instant};

/// The heartbeats that reached this manager, by its steady clock.
pub(super) struct Pulse {
    start: Instant,
    heard: Mutex<Heartbeats>,
    first_heard: Notify,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            heard: Mutex::new(Heartbeats::new(Duration::ZERO)),
            first_heard: Notify::new(),
        }
    }

    /// Forgets all: this manager leads from now on.
    pub(super) fn begin(&self) {
        *self.heard.lock() = Heartbeats::new(self.start.elapsed());
    }

    /// A node lives.
    pub(super) fn heard(&self, node_id: &str) {
        self.heard.lock().heard(node_id, self.start.elapsed());
    }

    /// A node begins to be listened to, which the leader must take note of.
    pub(super) fn registered(&self, node_id: &str) {
        self.heard(node_id);
        self.first_heard.notify_one();
    }

    /// Ends once a node has registered.
    pub(super) async fn registration(&self) {
        self.first_heard.notified().await;
    }

    /// Marks the nodes that are not heard of; returns when to look again.
    pub(super) fn judge(&self, draft: &mut Draft) -> Option<Instant> {
        let again = self.heard.lock().run(draft, self.start.elapsed());
        again.map(|after_start| self.start + after_start)
    }
}
