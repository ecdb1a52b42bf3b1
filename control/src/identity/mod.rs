//! The cluster's identity: root certificate, node certificates, join tokens.
//!
//! A node's certificate carries its ID (CN), its role (OU) and the cluster's ID (O). The root's key
//! is in the store, so that every manager can sign; or no manager has it, and an external authority signs
//! ([`ExternalCas`]).

mod authority;
mod ca_config;
mod external;
mod files;
mod keyfile;
mod rotation;
mod seal;
mod service;
mod spec;
mod token;
mod vault;

pub use authority::{
    AuthorityError, KeyAndRequest, Named, certificate_count, create_root, cross_sign, import_root,
    issuer_of, key_and_request, normal_pem, sign, tls_info, validity,
};
use authority::{host_names, is_ca};
#[cfg(test)]
pub(crate) use ca_config::apply_alone;
pub use external::{
    ExternalCas, ExternalError, InvalidProtocol, Signer, normalize as normalize_external_cas,
    signer,
};
pub(crate) use files::write_private;
pub use files::{Identity, IdentityError};
pub use keyfile::KeyFileError;
pub use rotation::{finish_rotation, is_converted, rotate_tokens, wanted_issuer};
pub use seal::{CannotOpen, InvalidUnlockKey, SecretKey};
pub use service::{CaService, joining};
pub use spec::{SpecError, apply_spec, cert_expiry};
pub use token::{InvalidToken, JoinToken};
pub use vault::{LogKeys, Stored, Vault};

use crate::rpc::PeerIdentity;
use skein_model::NodeRole;

/// OU of a manager's certificate; also the name that servers are verified by.
pub const MANAGER_OU: &str = "swarm-manager";
/// OU of a worker's certificate.
pub const WORKER_OU: &str = "swarm-worker";

/// The OU of a role.
pub fn role_ou(role: NodeRole) -> &'static str {
    match role {
        NodeRole::Manager => MANAGER_OU,
        NodeRole::Worker => WORKER_OU,
    }
}

/// Whose certificate this is. `None` for one that is not a node's.
pub fn peer_identity(der: &[u8]) -> Option<PeerIdentity> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let subject = certificate.subject();
    let node_id = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let role = match subject.iter_organizational_unit().next()?.as_str().ok()? {
        MANAGER_OU => NodeRole::Manager,
        WORKER_OU => NodeRole::Worker,
        _ => return None,
    };
    Some(PeerIdentity { node_id, role })
}
