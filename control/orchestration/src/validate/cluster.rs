//! The cluster: what is refused.

use super::SpecError;
use crate::return_mode::return_mode;
use skein_model::ClusterSpec;

/// The shortest validity of node certificates, in nanoseconds.
const CERT_EXPIRY_MIN: i64 = 3_600_000_000_000;

/// Checks all of a cluster's spec but its certificate authority, which depends on what it was before.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn check_cluster(spec: &ClusterSpec) -> Result<(), SpecError> {
    let expiry = spec.ca_config.node_cert_expiry;
    if expiry != 0 && expiry < CERT_EXPIRY_MIN {
        return Err(SpecError::invalid(
            "minimum certificate expiry time is: 1h0m0s",
        ));
    }
    if spec.dispatcher.heartbeat_period < 0 {
        return Err(SpecError::invalid(
            "heartbeat time period cannot be a negative duration",
        ));
    }
    if spec.name != "default" {
        return Err(SpecError::invalid(
            "modification of cluster name is not allowed",
        ));
    }
    return_mode(&spec.labels).map_err(SpecError::invalid)?;
    Ok(())
}
