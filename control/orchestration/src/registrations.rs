//! How often a node may register: each time is a write to the store, and one whose sessions break at once would come
//! for ever. Its agent waits longer from time to time, but who says that it is the agent?

use std::{collections::BTreeMap, time::Duration};

/// Registrations are counted in windows of this length: Swarm's.
const WINDOW: Duration = Duration::from_secs(8);
/// How many a node has in a window: Swarm's.
const WINDOW_MAX: u32 = 3;

/// The registrations of all nodes. Times are of a clock that never goes back.
#[derive(Clone, Debug, Default)]
pub struct Registrations {
    by_node: BTreeMap<String, Window>,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    begun: Duration,
    count: u32,
}

impl Window {
    fn is_over(&self, now: Duration) -> bool {
        now.saturating_sub(self.begun) >= WINDOW
    }
}

impl Registrations {
    /// Counts a registration. False: the node has had as many as it may in this window.
    pub fn admit(&mut self, node_id: &str, now: Duration) -> bool {
        if let Some(window) = self.by_node.get_mut(node_id)
            && !window.is_over(now)
        {
            window.count += 1;
            return window.count <= WINDOW_MAX;
        }
        // Nodes that are removed leave nothing for long.
        self.by_node.retain(|_, window| !window.is_over(now));
        let window = Window {
            begun: now,
            count: 1,
        };
        self.by_node.insert(node_id.to_owned(), window);
        true
    }
}

/// Swarm's words for a registration too many.
pub fn too_many(node_id: &str) -> String {
    format!("node {node_id} exceeded rate limit count of registrations")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_registers_three_times_in_a_window_and_holds_up_no_other() {
        let mut registrations = Registrations::default();
        let second = Duration::from_secs;
        for at in 1..=3 {
            assert!(registrations.admit("a", second(at)), "{at}");
        }
        assert!(!registrations.admit("a", second(4)));
        assert!(registrations.admit("b", second(4)));
        assert!(!registrations.admit("a", second(8)));
        assert!(registrations.admit("a", second(9)), "another window");
        assert!(registrations.admit("c", second(30)));
        assert_eq!(registrations.by_node.len(), 1, "what is over is forgotten");
    }
}
