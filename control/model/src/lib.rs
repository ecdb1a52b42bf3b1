//! Skein's cluster objects and the replicated store that holds them: pure, no I/O.
