//! Why a step did not work, and whether it is worth another try.

use crate::agent::engine::EngineError;

/// A step that did not work.
pub(super) enum Failure {
    /// Worth another try.
    Passing(String),
    /// The end of the task.
    Final(String),
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        if error.is_passing() {
            Self::Passing(error.to_string())
        } else {
            Self::Final(error.to_string())
        }
    }
}
