//! When a core wants to be asked again.

use skein_model::Timestamp;
use std::time::Duration;

/// How far the clocks of two managers may be apart: a new leader may find what the last one noted to lie so far
/// ahead. Clocks kept by NTP are apart by less than a second; more than this costs waits that end early.
const CLOCKS_APART_MAX: Duration = Duration::from_secs(10);

/// When something is to be decided next that no change of the store announces: the earliest moment
/// that any core asked for, or when a node's kernel has got further.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wake {
    moment: Option<Timestamp>,
    awaits_nodes: bool,
}

impl Wake {
    /// Asks for a moment.
    pub fn at(&mut self, moment: Timestamp) {
        self.moment = Some(self.moment.map_or(moment, |earlier| earlier.min(moment)));
    }

    /// Whether a wait of this length, that ends at `end`, is not over; then asks for its end.
    ///
    /// One that would last longer than that from now on began before the clock was set back. Nobody knows how
    /// long it has been, so it is over: an hour that comes twice keeps no task waiting for an hour.
    pub(crate) fn waits(&mut self, now: Timestamp, end: Timestamp, wait: Duration) -> bool {
        let waits = now < end && end.since(now) <= wait + CLOCKS_APART_MAX;
        if waits {
            self.at(end);
        }
        waits
    }

    /// Asks for the moment at which any node's kernel has more of the network state.
    pub fn on_programmed(&mut self) {
        self.awaits_nodes = true;
    }

    /// The earliest moment asked for.
    pub fn earliest(self) -> Option<Timestamp> {
        self.moment
    }

    /// Whether more in a node's kernel is to be told of at once.
    pub fn awaits_nodes(self) -> bool {
        self.awaits_nodes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_in_time_and_with_a_clock_that_was_set_back() {
        let now = Timestamp::from_unix_nanos(1_800_000_000_000_000_000);
        let wait = Duration::from_secs(5);
        let lasts = |end: Timestamp| {
            let mut wake = Wake::default();
            let lasts = wake.waits(now, end, wait);
            assert_eq!(wake.earliest(), lasts.then_some(end));
            lasts
        };
        assert!(!lasts(now));
        assert!(lasts(now + Duration::from_nanos(1)));
        assert!(lasts(now + wait));
        assert!(
            lasts(now + wait + CLOCKS_APART_MAX),
            "another manager's clock"
        );
        assert!(!lasts(
            now + wait + CLOCKS_APART_MAX + Duration::from_nanos(1)
        ));
        assert!(
            !lasts(now + Duration::from_secs(3600)),
            "set back by an hour"
        );
    }
}
