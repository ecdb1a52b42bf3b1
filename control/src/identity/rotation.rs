//! Changing the cluster's root: what a new `CAConfig` asks for, and when it is done.
//!
//! The new root signs at once, through an intermediate that the old one has signed, so that those who
//! trust the old root accept it. Nodes renew their certificates one batch after the other. Once all
//! have, the new root takes the old one's place, and with it the digest in the join tokens.

use super::{
    AuthorityError, JoinToken, certificate_count, create_root, cross_sign, import_root, normal_pem,
    tls_info, validity,
};
use skein_model::{CaConfig, Cluster, JoinTokens, Node, RootCa, RootRotation, Timestamp, TlsInfo};
use std::time::Duration;

/// A root that users bring must be good for at least this long.
const ROOT_VALIDITY_MIN: Duration = Duration::from_secs(365 * 86_400);

/// Does what a new `CAConfig` asks for. It comes back without certificate and key, which are not
/// kept in the spec.
///
/// # Errors
/// In Swarm's words.
pub fn apply_ca_config(
    cluster: &mut Cluster,
    mut next: CaConfig,
    now: Timestamp,
) -> Result<(), String> {
    let failed = |error: AuthorityError| error.to_string();
    let (cert, key) = (
        std::mem::take(&mut next.signing_ca_cert),
        std::mem::take(&mut next.signing_ca_key),
    );
    if cert.is_empty() && !key.is_empty() {
        return Err(
            "if a signing CA key is provided, the signing CA cert must also be provided".into(),
        );
    }
    if !next.external_cas.is_empty() {
        return Err(no_external_ca(&cert));
    }
    let forced = cluster.spec.ca_config.force_rotate != next.force_rotate;
    if cert.is_empty() {
        if forced {
            begin(cluster, create_root(now).map_err(failed)?, now)?;
        }
        cluster.spec.ca_config = next;
        return Ok(());
    }
    match certificate_count(&cert) {
        0 => return Err("could not parse the desired CA certificate".into()),
        1 => {}
        _ => return Err("the desired CA certificate cannot contain multiple certificates".into()),
    }
    let (_, until) = validity(&cert).map_err(failed)?;
    if until < now + ROOT_VALIDITY_MIN {
        return Err("CA certificate expires too soon".into());
    }
    let cert = normal_pem(&cert).map_err(failed)?;
    if key.is_empty() {
        return Err(no_external_ca(&cert));
    }
    let wanted = import_root(&cert, &key).map_err(failed)?;
    if normal_pem(&cluster.root_ca.cert_pem).map_err(failed)? == cert {
        // Back to where it began.
        cluster.root_ca.key_pem = wanted.key_pem;
        cluster.root_rotation = None;
    } else if let Some(rotation) = &mut cluster.root_rotation
        && rotation.root.cert_pem == cert
    {
        rotation.root.key_pem = wanted.key_pem;
    } else {
        begin(cluster, wanted, now)?;
    }
    cluster.spec.ca_config = next;
    Ok(())
}

/// Skein signs with its own key alone, so that no external CA is ever reachable.
fn no_external_ca(desired: &str) -> String {
    let which = if desired.is_empty() {
        "current"
    } else {
        "desired"
    };
    format!(
        "there must be at least one valid, reachable external CA corresponding to the {which} CA \
         certificate (Skein signs with the cluster's own key only: give certificate and key)"
    )
}

fn begin(cluster: &mut Cluster, root: RootCa, now: Timestamp) -> Result<(), String> {
    let failed = |error: AuthorityError| error.to_string();
    let shown = |pem: &str| tls_info(pem).map_err(failed);
    let same_key = shown(&root.cert_pem)?.cert_issuer_public_key
        == shown(&cluster.root_ca.cert_pem)?.cert_issuer_public_key;
    if same_key {
        return Err("Cannot update to a cert with an identical key".into());
    }
    let cross_signed_pem = cross_sign(&cluster.root_ca, &root, now).map_err(failed)?;
    cluster.root_rotation = Some(RootRotation {
        root,
        cross_signed_pem,
    });
    Ok(())
}

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

    fn now() -> Timestamp {
        Timestamp::from_unix_nanos(1_800_000_000_000_000_000)
    }

    fn cluster() -> Cluster {
        Cluster {
            root_ca: create_root(now()).unwrap(),
            ..Cluster::default()
        }
    }

    fn asked(root: &RootCa) -> CaConfig {
        CaConfig {
            signing_ca_cert: root.cert_pem.clone(),
            signing_ca_key: root.key_pem.clone(),
            ..CaConfig::default()
        }
    }

    #[test]
    fn a_forced_rotation_ends_with_a_new_root_and_new_tokens() {
        let mut cluster = cluster();
        rotate_tokens(&mut cluster, true, true);
        let (root, tokens) = (cluster.root_ca.clone(), cluster.join_tokens.clone());
        apply_ca_config(&mut cluster, CaConfig::default(), now()).unwrap();
        assert_eq!(cluster.root_rotation, None);
        let force = CaConfig {
            force_rotate: 1,
            ..CaConfig::default()
        };
        apply_ca_config(&mut cluster, force, now()).unwrap();
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

    #[test]
    fn a_root_of_the_users_own_replaces_or_aborts() {
        let mut cluster = cluster();
        let (old, new) = (cluster.root_ca.clone(), create_root(now()).unwrap());
        apply_ca_config(&mut cluster, asked(&new), now()).unwrap();
        assert_eq!(
            cluster.root_rotation.as_ref().unwrap().root.cert_pem,
            new.cert_pem
        );
        assert_eq!(cluster.spec.ca_config, CaConfig::default());
        let again = cluster.clone();
        apply_ca_config(&mut cluster, asked(&new), now()).unwrap();
        assert_eq!(
            again.root_rotation.unwrap().cross_signed_pem,
            cluster.root_rotation.as_ref().unwrap().cross_signed_pem
        );
        apply_ca_config(&mut cluster, asked(&old), now()).unwrap();
        assert_eq!(
            (&cluster.root_rotation, &cluster.root_ca.cert_pem),
            (&None, &old.cert_pem)
        );
    }

    #[test]
    fn what_cannot_be_a_root_is_refused_in_swarms_words() {
        let old = Timestamp::from_unix_nanos(0) + Duration::from_secs(600_000_000);
        let (root, aged) = (create_root(now()).unwrap(), create_root(old).unwrap());
        let refused = |config: CaConfig, now| apply_ca_config(&mut cluster(), config, now);
        let mut config = asked(&root);
        config.signing_ca_cert.clear();
        assert_eq!(
            refused(config, now()).unwrap_err(),
            "if a signing CA key is provided, the signing CA cert must also be provided"
        );
        let mut config = asked(&root);
        config.signing_ca_cert.push_str(&aged.cert_pem);
        assert_eq!(
            refused(config, now()).unwrap_err(),
            "the desired CA certificate cannot contain multiple certificates"
        );
        let late = old + Duration::from_secs(630_720_000 - 86_400);
        assert_eq!(
            refused(asked(&aged), late).unwrap_err(),
            "CA certificate expires too soon"
        );
        let mut config = asked(&root);
        config.signing_ca_key = aged.key_pem;
        let mismatch = refused(config, now()).unwrap_err();
        assert_eq!(mismatch, "certificate key mismatch");
        let mut config = asked(&root);
        config.signing_ca_key.clear();
        let external = "there must be at least one valid, reachable external CA corresponding to \
                        the desired CA certificate";
        assert!(refused(config, now()).unwrap_err().starts_with(external));
        let config = CaConfig {
            external_cas: vec![skein_model::ExternalCa::default()],
            ..CaConfig::default()
        };
        let current = external.replace("desired", "current");
        assert!(refused(config, now()).unwrap_err().starts_with(&current));
    }
}
