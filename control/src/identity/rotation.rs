//! Changing the cluster's root, and when it is done. [`super::ca_config`] has how it begins.
//!
//! The new root signs at once, through an intermediate that the old one has signed, so that those who
//! trust the old root accept it. Nodes renew their certificates one batch after the other. Once all
//! have, the new root takes the old one's place, and with it the digest in the join tokens.

use super::{AuthorityError, JoinToken, tls_info};
use skein_model::{Cluster, JoinTokens, Node, TlsInfo};

/// Who is to have issued every node's certificate, and the root that nodes trust now.
///
/// # Errors
/// The root is broken.
pub fn wanted_issuer(cluster: &Cluster) -> Result<TlsInfo, AuthorityError> {
    let issuer = match &cluster.root_rotation {
        Some(rotation) => &rotation.root,
        None => &cluster.root_ca,
    };
    Ok(TlsInfo {
        trust_root: cluster.root_ca.cert_pem.clone(),
        ..tls_info(&issuer.cert_pem)?
    })
}

/// Whether the node has said that its certificate is of the issuer wanted.
pub fn is_converted(node: &Node, wanted: &TlsInfo) -> bool {
    let has = &node.description.tls_info;
    has.cert_issuer_public_key == wanted.cert_issuer_public_key
        && has.cert_issuer_subject == wanted.cert_issuer_subject
}

/// The new root takes the old one's place, and the join tokens change with it.
pub fn finish_rotation(cluster: &mut Cluster) {
    if let Some(rotation) = cluster.root_rotation.take() {
        cluster.root_ca = rotation.root;
        rotate_tokens(cluster, true, true);
    }
}

/// Makes new join tokens.
pub fn rotate_tokens(cluster: &mut Cluster, worker: bool, manager: bool) {
    let Cluster {
        root_ca,
        join_tokens:
            JoinTokens {
                worker: workers,
                manager: managers,
            },
        ..
    } = cluster;
    for (asked, token) in [(worker, workers), (manager, managers)] {
        if asked {
            let new = JoinToken::generate(&root_ca.cert_pem, &mut rand::rng());
            new.as_str().clone_into(token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{ca_config::apply_alone, create_root};
    use skein_model::{CaConfig, Timestamp};

    #[test]
    fn a_forced_rotation_ends_with_a_new_root_and_new_tokens() {
        let now = Timestamp::from_unix_nanos(1_800_000_000_000_000_000);
        let mut cluster = Cluster {
            root_ca: create_root(now).unwrap(),
            ..Cluster::default()
        };
        rotate_tokens(&mut cluster, true, true);
        let (root, tokens) = (cluster.root_ca.clone(), cluster.join_tokens.clone());
        apply_alone(&mut cluster, CaConfig::default(), now).unwrap();
        assert_eq!(cluster.root_rotation, None);
        let force = CaConfig {
            force_rotate: 1,
            ..CaConfig::default()
        };
        apply_alone(&mut cluster, force, now).unwrap();
        let wanted = wanted_issuer(&cluster).unwrap();
        assert_eq!(wanted.trust_root, root.cert_pem);
        let mut node = Node::default();
        node.description.tls_info = tls_info(&root.cert_pem).unwrap();
        assert!(!is_converted(&node, &wanted));
        assert_eq!(cluster.join_tokens, tokens);
        finish_rotation(&mut cluster);
        assert_ne!(cluster.root_ca, root);
        node.description.tls_info = tls_info(&cluster.root_ca.cert_pem).unwrap();
        assert!(is_converted(&node, &wanted));
        let token = JoinToken::parse(&cluster.join_tokens.worker).unwrap();
        assert!(token.matches_root(&cluster.root_ca.cert_pem));
        assert_ne!(cluster.join_tokens, tokens);
    }
}
