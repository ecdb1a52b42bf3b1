//! When a core wants to be asked again.

use skein_model::Timestamp;

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
