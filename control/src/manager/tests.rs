//! Tests of the manager as a whole, over a store in memory.
