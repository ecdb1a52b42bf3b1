//! Networks: what is refused.

use super::{SpecError, SpecErrorKind, check_name};
use crate::allocator;
use skein_model::{NetworkSpec, PREDEFINED_LABEL, State};

/// The option by which Swarm's overlays are encrypted between nodes, whatever its value.
const ENCRYPTED_OPTION: &str = "encrypted";

/// Checks all that can be said of a network that is to be created. Whether its name is free, and
/// whether there is an ingress network already, is the store's to say.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn check_network(state: &State, spec: &NetworkSpec) -> Result<(), SpecError> {
    check_name(&spec.name)?;
    if spec.labels.contains_key(PREDEFINED_LABEL) {
        return Err(SpecError::with(
            SpecErrorKind::Forbidden,
            format!(
                "label {PREDEFINED_LABEL} is for internally created predefined networks and cannot \
                 be applied by users"
            ),
        ));
    }
    if spec.ingress {
        if spec.attachable {
            return Err(SpecError::invalid("ingress network cannot be attachable"));
        }
        if spec.driver != "overlay" {
            return Err(SpecError::with(
                SpecErrorKind::Unimplemented,
                "only overlay driver is currently supported for ingress network",
            ));
        }
    }
    if spec.driver != "overlay" {
        return Err(SpecError::invalid(format!(
            "error during lookup of plugin {}: only the overlay driver makes networks of swarm scope",
            spec.driver
        )));
    }
    if spec.enable_ipv6 {
        return Err(SpecError::with(
            SpecErrorKind::Unimplemented,
            "IPv6 is not supported on overlay networks: create the network without it",
        ));
    }
    // What is taken for encrypted must not cross the wire in the clear.
    if spec.options.contains_key(ENCRYPTED_OPTION) {
        return Err(SpecError::with(
            SpecErrorKind::Unimplemented,
            "encryption is not supported on overlay networks: create the network without the option \
             \"encrypted\", or encrypt in the application",
        ));
    }
    allocator::check_network(state, spec).map_err(|error| SpecError::invalid(error.to_string()))
}
