//! Networks: what is refused.

use super::{SpecError, SpecErrorKind, check_name};
use crate::allocator;
use skein_model::{NetworkSpec, OVERLAY, PREDEFINED_LABEL, State};

/// The drivers of networks that are each node's own, as engines have them built in.
const NODE_LOCAL: [&str; 4] = ["bridge", "host", "ipvlan", "macvlan"];

/// The option by which Swarm's overlays are encrypted between nodes, whatever its value.
const ENCRYPTED_OPTION: &str = "encrypted";

/// Checks all that can be said of a network that is to be created. Whether its name is free, and
/// whether there is an ingress network already, is the store's to say.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn check_network(state: &State, spec: &NetworkSpec) -> Result<(), SpecError> {
    check_configuration(spec)?;
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
        if spec.is_node_local() {
            return Err(SpecError::with(
                SpecErrorKind::Unimplemented,
                "only overlay driver is currently supported for ingress network",
            ));
        }
    }
    match spec.driver.as_str() {
        OVERLAY => check_overlay(state, spec),
        driver if NODE_LOCAL.contains(&driver) => Ok(()),
        driver => Err(SpecError::invalid(format!(
            "error during lookup of plugin {driver}: networks of swarm scope are of the drivers \
             {OVERLAY}, {}",
            NODE_LOCAL.join(", ")
        ))),
    }
}

/// What an engine refuses before it asks the swarm.
fn check_configuration(spec: &NetworkSpec) -> Result<(), SpecError> {
    let forbidden = |what| Err(SpecError::with(SpecErrorKind::Forbidden, what));
    let ipam = &spec.ipam;
    let says_nothing = matches!(ipam.driver.as_str(), "" | "default")
        && ipam.options.is_empty()
        && ipam.config.is_empty()
        && spec.labels.is_empty()
        && !spec.enable_ipv6;
    if spec.config_from().is_some() && !says_nothing {
        return forbidden(
            "user specified configurations are not supported if the network depends on a configuration \
             network",
        );
    }
    if spec.config_from().is_some() && !spec.options.is_empty() {
        return forbidden(
            "network driver options are not supported if the network depends on a configuration network",
        );
    }
    if spec.ingress && NODE_LOCAL.contains(&spec.driver.as_str()) {
        return forbidden("Ingress network can only be global scope network");
    }
    Ok(())
}

fn check_overlay(state: &State, spec: &NetworkSpec) -> Result<(), SpecError> {
    let missing = |what| Err(SpecError::with(SpecErrorKind::Unimplemented, what));
    if spec.enable_ipv6 {
        return missing("IPv6 is not supported on overlay networks: create the network without it");
    }
    // What is taken for encrypted must not cross the wire in the clear.
    if spec.options.contains_key(ENCRYPTED_OPTION) {
        return missing(
            "encryption is not supported on overlay networks: create the network without the option \
             \"encrypted\", or encrypt in the application",
        );
    }
    if spec.config_from().is_some() {
        return missing(
            "overlay networks are not made of networks of the nodes: give the network its subnet and \
             options itself",
        );
    }
    allocator::check_network(state, spec).map_err(|error| SpecError::invalid(error.to_string()))
}
