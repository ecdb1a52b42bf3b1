//! What users may ask of the store, in the reference's words: how a spec must be before it enters it, and
//! what may be done to a node.
//!
//! The API calls this on what users send, so that nothing that is wrong in itself is ever proposed; how it
//! is written is the API's own matter. What depends on other objects being there is part of the store's
//! transaction: others may be quicker.

mod cluster;
mod container;
mod image;
mod network;
mod node;
mod payload;
mod service;

pub use cluster::check_cluster;
pub use image::is_image_reference;
pub(crate) use network::MTU_OPTION;
pub use network::check_network;
pub use node::{check_demotion, check_node_removal, demotion_rests_on};
pub use payload::{check_config, check_payload_update, check_secret, check_secret_data};
pub(crate) use service::default_update_config;
pub use service::{
    MONITOR_DEFAULT, RESTART_DELAY_DEFAULT, STOP_GRACE_PERIOD_DEFAULT, check_service,
    check_service_update, resolve_networks, with_defaults,
};

/// Which answer of the API an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecErrorKind {
    /// 400
    Invalid,
    /// 403
    Forbidden,
    /// 404
    NotFound,
    /// 400: not as things are.
    Precondition,
    /// 500: what the reference answers where its own error has no type, and clients know it so.
    Internal,
    /// 501
    Unimplemented,
}

/// Why a spec is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SpecError {
    /// What answer it is.
    pub kind: SpecErrorKind,
    /// For the user, in the reference's words where it has any.
    pub message: String,
}

impl SpecError {
    fn invalid(message: impl Into<String>) -> Self {
        Self {
            kind: SpecErrorKind::Invalid,
            message: message.into(),
        }
    }

    fn with(kind: SpecErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}

/// The longest name of a service or network: that of a DNS label.
const NAME_MAX: usize = 63;

/// Names of services and networks are DNS labels: they are resolved inside tasks.
///
/// # Errors
/// It is none.
pub fn check_name(name: &str) -> Result<(), SpecError> {
    let inside = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
    let edge = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    if !edge(bytes.first()) || !edge(bytes.last()) || !bytes.iter().all(|c| inside(*c)) {
        return Err(SpecError::invalid(
            "name must be valid as a DNS name component",
        ));
    }
    if name.len() > NAME_MAX {
        return Err(SpecError::invalid("name must be 63 characters or fewer"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
