//! What a certificate must be that a stranger has signed.

use crate::{
    identity::{Named, peer_identity},
    rpc::verify_node,
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use skein_model::{NodeRole, Timestamp};

/// What a node's certificate is to be.
pub(super) struct Wanted<'a> {
    pub named: Named<'a>,
    /// Of the request: the bits of its key.
    pub public_key: Vec<u8>,
    /// The root that is to have signed it, PEM.
    pub root_pem: &'a str,
}

impl Wanted<'_> {
    /// The certificate alone (PEM): what may follow it is not the swarm's.
    ///
    /// # Errors
    /// It is another one than was asked for, or not signed by the root itself.
    pub fn check(&self, answered: &str, now: Timestamp) -> Result<String, String> {
        let block = pem::parse_many(answered).unwrap_or_default();
        let block = block.into_iter().find(|block| block.tag() == "CERTIFICATE");
        let block = block.ok_or("it answers without a certificate")?;
        let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        let certificate = pem::encode_config(&block, config);
        let broken =
            |error: &dyn std::fmt::Display| format!("it signs what cannot be read: {error}");
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|e| broken(&e))?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&der).map_err(|error| broken(&error))?;
        let (cluster_id, node_id, role) = self.named;
        let organization = parsed.subject().iter_organization().next();
        let of_cluster = organization.is_some_and(|name| name.as_str() == Ok(cluster_id));
        let peer = peer_identity(&der);
        let of_node = peer.is_some_and(|peer| (&*peer.node_id, peer.role) == (node_id, role));
        if !(of_cluster && of_node) {
            let subject = parsed.subject();
            return Err(format!(
                "it signs for another name than it was asked to: {subject}"
            ));
        }
        if parsed.public_key().subject_public_key.data != self.public_key.as_slice() {
            return Err("it signs another key than it was asked to".to_owned());
        }
        leads_to(&certificate, self.root_pem, role, now)?;
        Ok(certificate)
    }
}

/// Checks that those who trust `root_pem` take a node's certificate, with the link that may follow it.
///
/// # Errors
/// They do not.
pub(in crate::identity) fn leads_to(
    chain_pem: &str,
    root_pem: &str,
    role: NodeRole,
    now: Timestamp,
) -> Result<(), String> {
    verify_node(chain_pem, root_pem, role, now).map_err(|error| {
        format!("nodes would not take the certificate by the root that it is to be of: {error}")
    })
}
