//! Who signs.

use crate::identity::normal_pem;
use skein_model::{CaConfig, Cluster, RootCa};

/// The one protocol that there is.
const CFSSL: &str = "cfssl";

/// The protocol of an external CA is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid protocol: {0:?}")]
pub struct InvalidProtocol(String);

/// Brings what a client says of external CAs to the form that is stored.
///
/// # Errors
/// A protocol that is none, in Docker's words.
pub fn normalize(config: &mut CaConfig) -> Result<(), InvalidProtocol> {
    for ca in &mut config.external_cas {
        if !ca.protocol.eq_ignore_ascii_case(CFSSL) {
            return Err(InvalidProtocol(ca.protocol.clone()));
        }
        CFSSL.clone_into(&mut ca.protocol);
    }
    Ok(())
}

/// Who signs certificates for the swarm.
#[derive(Debug, PartialEq)]
pub enum Signer<'a> {
    /// The managers, with the root's key.
    Own(&'a RootCa),
    /// The first of these URLs that does; the managers never, even if they have the key, and none does.
    External(Vec<&'a str>),
    /// Nobody can.
    Nobody,
}

/// Who signs for the root that is wanted now: while the root changes, the next one.
pub fn signer(cluster: &Cluster) -> Signer<'_> {
    let wanted = match &cluster.root_rotation {
        Some(rotation) => &rotation.root,
        None => &cluster.root_ca,
    };
    let current = &cluster.root_ca.cert_pem;
    let urls = urls_for(&cluster.spec.ca_config, &wanted.cert_pem, current);
    match urls.is_empty() {
        false => Signer::External(urls),
        true if has_key(wanted) => Signer::Own(wanted),
        true => Signer::Nobody,
    }
}

/// Whether the managers have a root's key.
pub(in crate::identity) fn has_key(root: &RootCa) -> bool {
    !root.key_pem.is_empty()
}

/// The URLs of the external CAs that sign for the root `wanted` (PEM), in order. Those which do not say for
/// which root do for the `current` one.
pub(in crate::identity) fn urls_for<'a>(
    config: &'a CaConfig,
    wanted: &str,
    current: &str,
) -> Vec<&'a str> {
    let Ok(wanted) = normal_pem(wanted) else {
        return Vec::new();
    };
    let signs = |said: &str| {
        let said = if said.is_empty() { current } else { said };
        normal_pem(said).is_ok_and(|said| said == wanted)
    };
    let cas = config.external_cas.iter();
    cas.filter(|ca| signs(&ca.ca_cert))
        .map(|ca| ca.url.as_str())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::create_root;
    use skein_model::{ExternalCa, RootRotation, Timestamp};

    fn ca(url: &str, ca_cert: &str) -> ExternalCa {
        ExternalCa {
            protocol: CFSSL.into(),
            url: url.into(),
            ca_cert: ca_cert.into(),
            ..ExternalCa::default()
        }
    }

    #[test]
    fn those_sign_whose_certificate_is_the_root_that_is_wanted() {
        let root = || create_root(Timestamp::from_unix_nanos(1_800_000_000_000_000_000)).unwrap();
        let (old, new) = (root(), root());
        let keyless = |root: &RootCa| RootCa {
            key_pem: String::new(),
            ..root.clone()
        };
        let mut cluster = Cluster {
            root_ca: old.clone(),
            ..Cluster::default()
        };
        assert_eq!(signer(&cluster), Signer::Own(&old));
        cluster.spec.ca_config.external_cas = vec![ca("of-new", &new.cert_pem)];
        assert_eq!(signer(&cluster), Signer::Own(&old));
        // Line ends are not what counts.
        let windows = old.cert_pem.replace('\n', "\r\n");
        let cas = [ca("a", ""), ca("of-new", &new.cert_pem), ca("b", &windows)];
        cluster.spec.ca_config.external_cas = cas.into();
        assert_eq!(signer(&cluster), Signer::External(vec!["a", "b"]));
        cluster.root_rotation = Some(RootRotation {
            root: keyless(&new),
            ..RootRotation::default()
        });
        assert_eq!(signer(&cluster), Signer::External(vec!["of-new"]));
        cluster.spec.ca_config.external_cas = vec![ca("a", ""), ca("odd", "nonsense")];
        assert_eq!(signer(&cluster), Signer::Nobody);
        cluster.root_rotation.as_mut().unwrap().root = new.clone();
        assert_eq!(signer(&cluster), Signer::Own(&new));
    }

    #[test]
    fn protocols_are_known_in_any_case() {
        let mut config = CaConfig {
            external_cas: vec![ca("a", "")],
            ..CaConfig::default()
        };
        config.external_cas[0].protocol = "CFSSL".into();
        normalize(&mut config).unwrap();
        assert_eq!(config.external_cas[0].protocol, "cfssl");
        config.external_cas[0].protocol = "acme".into();
        let error = normalize(&mut config).unwrap_err();
        assert_eq!(error.to_string(), "invalid protocol: \"acme\"");
    }
}
