//! Places tasks on nodes.

mod constraint;

pub use constraint::{Constraint, ConstraintError};
