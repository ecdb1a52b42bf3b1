//! One task on this node.

pub mod machine;
