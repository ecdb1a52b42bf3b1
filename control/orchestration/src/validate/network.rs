//! Networks: what is refused.

use super::{SpecError, SpecErrorKind, check_name};
use crate::allocator;
use skein_model::{NetworkSpec, OVERLAY, PREDEFINED_LABEL, State};

/// The drivers of networks that are each node's own, as engines have them built in.
const NODE_LOCAL: [&str; 4] = ["bridge", "host", "ipvlan", "macvlan"];

/// The option that limits the size of packets, as Docker's overlay driver has it.
pub(crate) const MTU_OPTION: &str = "com.docker.network.driver.mtu";

/// The least that IPv4 asks of a link (RFC 791).
const MTU_MIN: u32 = 68;
/// The most that the kernel lets a veth pair have.
const MTU_MAX: u32 = 65_535;

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
        if spec.is_node_local() {
            return Err(SpecError::with(
                SpecErrorKind::Unimplemented,
                "only overlay driver is currently supported for ingress network",
            ));
        }
    }
    let driver = spec.driver.as_str();
    if driver != OVERLAY && !NODE_LOCAL.contains(&driver) {
        return Err(no_plugin(driver));
    }
    if !spec.ipam.is_of_swarm() {
        return Err(no_plugin(&spec.ipam.driver));
    }
    match spec.is_node_local() {
        true => Ok(()),
        false => check_overlay(state, spec),
    }
}

fn no_plugin(driver: &str) -> SpecError {
    SpecError::invalid(format!("error during lookup of plugin {driver}"))
}

fn check_overlay(state: &State, spec: &NetworkSpec) -> Result<(), SpecError> {
    let missing = |what| Err(SpecError::with(SpecErrorKind::Unimplemented, what));
    if spec.enable_ipv6 {
        return missing("IPv6 is not supported on overlay networks: create the network without it");
    }
    // What is taken for encrypted must not cross the wire in the clear.
    if spec.ingress && spec.is_encrypted() {
        return missing(
            "encryption is not supported on the ingress network, by which nodes send on what clients sent in \
             the clear: create it without the option \"encrypted\", and encrypt in the application",
        );
    }
    if let Some(text) = spec.options.get(MTU_OPTION) {
        let mtu = text.parse::<u32>().ok();
        if mtu.is_none_or(|mtu| mtu != 0 && !(MTU_MIN..=MTU_MAX).contains(&mtu)) {
            return Err(SpecError::invalid(format!(
                "invalid {MTU_OPTION} '{text}': a number from {MTU_MIN} to {MTU_MAX} is expected, or 0 for \
                 what the nodes' own network has room for"
            )));
        }
    }
    if spec.config_from().is_some() {
        return missing(
            "overlay networks are not made of networks of the nodes: give the network its subnet and \
             options itself",
        );
    }
    allocator::check_network(state, spec).map_err(|error| SpecError::invalid(error.to_string()))
}
