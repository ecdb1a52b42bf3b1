//! Skein's control plane: manager, agent and the Docker-compatible API.

fn main() {}
