//! What a new cluster spec asks for.

use super::{
    ExternalCas, SecretKey,
    ca_config::{Linker, Plan},
    cross_sign,
    external::leads_to,
    key_and_request, sign,
};
use crate::clock;
use skein_model::{Cluster, ClusterSpec, NodeRole, Timestamp};
use skein_orchestration::validate::check_cluster;
use std::time::Duration;
use tonic::Code;

/// Why a spec does not come into force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// It cannot; in Swarm's words.
    #[error("{0}")]
    Invalid(String),
    /// It could, but it did not work out.
    #[error("{0}")]
    Failed(String),
}

impl SpecError {
    /// Swarm's code for it.
    pub fn code(&self) -> Code {
        match self {
            Self::Invalid(_) => Code::InvalidArgument,
            Self::Failed(_) => Code::Internal,
        }
    }
}

/// Puts a spec in place of the cluster's, with what follows from it: a change of the root, for which external
/// CAs may have to be asked, and the key that managers are locked with, which `rotate_unlock_key` replaces.
///
/// # Errors
/// The cluster is as it was then.
pub async fn apply_spec(
    cluster: &mut Cluster,
    next: ClusterSpec,
    rotate_unlock_key: bool,
    external_cas: &ExternalCas,
    now: Timestamp,
) -> Result<(), SpecError> {
    check_cluster(&next).map_err(|error| SpecError::Invalid(error.message))?;
    let plan = Plan::of(cluster, next.ca_config.clone(), now).map_err(SpecError::Invalid)?;
    let link = ask(cluster, &plan, external_cas, now).await?;
    plan.carry_out(cluster, link);
    let ca_config = cluster.spec.ca_config.clone();
    cluster.spec = ClusterSpec { ca_config, ..next };
    let expiry = i64::try_from(cert_expiry(&cluster.spec).as_nanos()).unwrap_or(i64::MAX);
    cluster.longest_cert_expiry = cluster.longest_cert_expiry.max(expiry);
    let locks = cluster.spec.encryption_config.auto_lock_managers;
    let key = &mut cluster.unlock_key.0;
    if !locks {
        key.clear();
    } else if key.is_empty() || rotate_unlock_key {
        *key = SecretKey::generate(&mut rand::rng()).to_unlock_text();
    }
    Ok(())
}

/// Asks the external CAs that a plan needs. The link between the roots, if one takes the other's place.
async fn ask(
    cluster: &Cluster,
    plan: &Plan,
    external_cas: &ExternalCas,
    now: Timestamp,
) -> Result<String, SpecError> {
    let asker = external_cas.asker();
    let named = (&*cluster.id, &*asker.node_id, NodeRole::Manager);
    let current = &cluster.root_ca;
    let request = || {
        let pair = key_and_request().map_err(|error| SpecError::Failed(error.to_string()))?;
        Ok(pair.csr_pem)
    };
    let mut sample = None;
    for needed in plan.needed() {
        let urls: Vec<_> = needed.urls.iter().map(String::as_str).collect();
        let roots = (&*needed.root_pem, &*current.cert_pem);
        let asked = if urls.is_empty() {
            return Err(SpecError::Invalid(needed.error("")));
        } else if needed.must_sign {
            // For nobody: from the first renewal on it is too late to find out that it does not.
            let csr_pem = request()?;
            let issued = external_cas.issue(&urls, roots, &csr_pem, named).await;
            issued.map(|issued| sample = Some(issued))
        } else {
            external_cas.reach(&urls, roots.0).await
        };
        asked.map_err(|error| SpecError::Invalid(needed.error(&error.to_string())))?;
    }
    let Some((root, linker)) = plan.begins(cluster) else {
        return Ok(String::new());
    };
    let unlinked = |reason: &dyn std::fmt::Display| {
        SpecError::Failed(format!(
            "unable to generate a cross-signed certificate for root rotation: {reason}"
        ))
    };
    let link = match linker {
        Linker::Own => cross_sign(current, root, now).map_err(|error| unlinked(&error))?,
        Linker::External(urls) => {
            let linked = external_cas.cross_sign(&urls, &current.cert_pem, root);
            linked.await.map_err(|error| unlinked(&error))?
        }
    };
    let sample = match sample {
        Some(sample) => sample,
        None => {
            sign(root, &request()?, named, Duration::ZERO, now).map_err(|error| unlinked(&error))?
        }
    };
    // Nodes trust the current root until all have changed over.
    let chain = sample + &link;
    leads_to(&chain, &current.cert_pem, NodeRole::Manager, clock::now())
        .map_err(|error| unlinked(&error))?;
    Ok(link)
}

/// How long node certificates are good: what the spec says, or Swarm's time where it says nothing.
pub fn cert_expiry(spec: &ClusterSpec) -> Duration {
    let nanos = match spec.ca_config.node_cert_expiry {
        0 => ClusterSpec::default().ca_config.node_cert_expiry,
        nanos => nanos,
    };
    Duration::from_nanos(u64::try_from(nanos).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        identity::{Signer, create_root, finish_rotation, signer},
        testing::{authority_server, credentials, signs},
    };
    use skein_model::{ExternalCa, RootCa};

    #[tokio::test]
    async fn a_spec_is_checked_and_brings_its_unlock_key() {
        let now = clock::now();
        let mut cluster = Cluster {
            root_ca: create_root(now).unwrap(),
            ..Cluster::default()
        };
        let external_cas = ExternalCas::new(credentials(&cluster.root_ca));
        let mut apply = async |change: &dyn Fn(&mut ClusterSpec), rotate| {
            let mut spec = ClusterSpec::default();
            change(&mut spec);
            let applied = apply_spec(&mut cluster, spec, rotate, &external_cas, now).await;
            applied.map(|()| cluster.unlock_key.0.clone())
        };
        let lock = |spec: &mut ClusterSpec| spec.encryption_config.auto_lock_managers = true;
        assert_eq!(apply(&|_| (), true).await.unwrap(), "");
        let first = apply(&lock, false).await.unwrap();
        assert!(SecretKey::parse_unlock(&first).is_ok());
        assert_eq!(apply(&lock, false).await.unwrap(), first);
        assert_ne!(apply(&lock, true).await.unwrap(), first);
        assert_eq!(apply(&|_| (), false).await.unwrap(), "");
        for (change, message) in [
            (
                &(|spec: &mut ClusterSpec| spec.ca_config.node_cert_expiry = 1)
                    as &dyn Fn(&mut ClusterSpec),
                "minimum certificate expiry time is: 1h0m0s",
            ),
            (
                &|spec: &mut ClusterSpec| spec.dispatcher.heartbeat_period = -1,
                "heartbeat time period cannot be a negative duration",
            ),
            (
                &|spec: &mut ClusterSpec| spec.name = "x".into(),
                "modification of cluster name is not allowed",
            ),
        ] {
            let refused = SpecError::Invalid(message.to_owned());
            assert_eq!(apply(change, false).await.unwrap_err(), refused);
        }
        assert_eq!(cluster.longest_cert_expiry, 7_776_000_000_000_000);
        cluster.spec.ca_config.node_cert_expiry = 0;
        assert_eq!(cert_expiry(&cluster.spec), Duration::from_secs(90 * 86_400));
    }

    fn of_root(root: &RootCa) -> Cluster {
        Cluster {
            id: "c".into(),
            root_ca: root.clone(),
            ..Cluster::default()
        }
    }

    /// A spec that has the cluster's root exchanged for `root`, whose key `url` has.
    fn to_external(root: &RootCa, url: &str) -> ClusterSpec {
        let mut spec = ClusterSpec::default();
        spec.ca_config.signing_ca_cert.clone_from(&root.cert_pem);
        spec.ca_config.external_cas = vec![ExternalCa {
            protocol: "cfssl".into(),
            url: url.into(),
            ca_cert: root.cert_pem.clone(),
            ..ExternalCa::default()
        }];
        spec
    }

    #[tokio::test]
    async fn a_root_becomes_an_external_ones_and_the_managers_own_again() {
        let (dir, now) = (tempfile::tempdir().unwrap(), clock::now());
        let (old, new) = (create_root(now).unwrap(), create_root(now).unwrap());
        let mut cluster = of_root(&old);
        let external_cas = ExternalCas::new(credentials(&old));
        let server = authority_server(dir.path(), &new, &old, signs(&new)).await;
        let spec = to_external(&new, &server.url);
        let applied = apply_spec(&mut cluster, spec, false, &external_cas, now).await;
        assert_eq!(applied, Ok(()));
        assert_eq!(signer(&cluster), Signer::External(vec![&server.url]));
        let rotation = cluster.root_rotation.clone().unwrap();
        assert_eq!(rotation.root.cert_pem, new.cert_pem);
        assert_eq!(rotation.root.key_pem, "");
        assert_ne!(rotation.cross_signed_pem, "");
        finish_rotation(&mut cluster);
        drop(server);

        // From here on nothing changes while it is away.
        let mut stored = cluster.spec.clone();
        let mut unchanged = cluster.clone();
        let same = stored.clone();
        let away = apply_spec(&mut unchanged, same, false, &external_cas, now).await;
        let away = away.unwrap_err().to_string();
        let words = "there must be at least one valid, reachable external CA corresponding to the \
                     current CA certificate: https://127.0.0.1:";
        assert!(away.starts_with(words), "{away}");
        assert_eq!(unchanged, cluster);

        let external_cas = ExternalCas::new(credentials(&new));
        let server = authority_server(dir.path(), &new, &new, signs(&new)).await;
        stored.ca_config.external_cas[0].url.clone_from(&server.url);
        stored.ca_config.force_rotate += 1;
        let applied = apply_spec(&mut cluster, stored, false, &external_cas, now).await;
        assert_eq!(applied, Ok(()));
        let rotation = cluster.root_rotation.clone().unwrap();
        assert_eq!(signer(&cluster), Signer::Own(&rotation.root));
        finish_rotation(&mut cluster);
        assert_eq!(cluster.root_ca, rotation.root);
    }

    #[tokio::test]
    async fn an_external_ca_that_does_not_sign_changes_nothing() {
        let (dir, now) = (tempfile::tempdir().unwrap(), clock::now());
        let (old, new) = (create_root(now).unwrap(), create_root(now).unwrap());
        let mut cluster = of_root(&old);
        let before = cluster.clone();
        let external_cas = ExternalCas::new(credentials(&old));
        let words = "there must be at least one valid, reachable external CA corresponding to the \
                     desired CA certificate";
        // It signs with another key; it is another one's server.
        let other = create_root(now).unwrap();
        let wrong = authority_server(dir.path(), &new, &old, signs(&other)).await;
        let strange = authority_server(dir.path(), &other, &old, signs(&new)).await;
        for (url, reason) in [
            (&*wrong.url, "by the root that it is to be of"),
            (&*strange.url, "could not connect"),
            ("https://127.0.0.1:9", "could not connect"),
            ("http://127.0.0.1:9", "invalid HTTP scheme"),
        ] {
            let spec = to_external(&new, url);
            let refused = apply_spec(&mut cluster, spec, false, &external_cas, now).await;
            let SpecError::Invalid(message) = refused.unwrap_err() else {
                panic!("a wrong code for {url}")
            };
            assert!(message.starts_with(words), "{message}");
            assert!(message.contains(reason), "{message}");
            assert_eq!(cluster, before);
        }
        let mut without = to_external(&new, "x");
        without.ca_config.external_cas.clear();
        let refused = apply_spec(&mut cluster, without, false, &external_cas, now).await;
        assert_eq!(refused, Err(SpecError::Invalid(words.to_owned())));
    }
}
