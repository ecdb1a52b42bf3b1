//! When a core wants to be asked again.

use skein_model::Timestamp;

/// When something is to be decided next that no change of the store announces: the earliest moment
/// that any core asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wake(Option<Timestamp>);

impl Wake {
    /// Asks for a moment.
    pub fn at(&mut self, moment: Timestamp) {
        self.0 = Some(self.0.map_or(moment, |earlier| earlier.min(moment)));
    }

    /// The earliest moment asked for.
    pub fn earliest(self) -> Option<Timestamp> {
        self.0
    }
}
