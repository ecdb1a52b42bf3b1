//! What the control plane tells the dataplane by way of the engine: options of endpoints.

/// Option of an endpoint: how its container's packets leave the network.
pub const GATEWAY_OPTION: &str = "skein.gateway";
/// Not by this network: another of the container's leads out.
pub const GATEWAY_NONE: &str = "none";
