//! What the control plane tells the dataplane by way of the engine: options of networks and endpoints.

/// How the options of networks and endpoints begin that are Skein's own.
pub const OWN_OPTIONS: &str = "skein.";

/// Option of a network of the engine: the ID of the network of the swarm that it stands for.
pub const NETWORK_OPTION: &str = "skein.network";

/// Option of an endpoint: how its container's packets leave the network.
pub const GATEWAY_OPTION: &str = "skein.gateway";
/// Not by this network: another of the container's leads out.
pub const GATEWAY_NONE: &str = "none";
