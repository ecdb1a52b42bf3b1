//! The cluster's certificates and join tokens.
