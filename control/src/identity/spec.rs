//! What a new cluster spec asks for.

use super::{SecretKey, apply_ca_config};
use skein_model::{Cluster, ClusterSpec, Timestamp};
use skein_orchestration::validate::check_cluster;
use std::time::Duration;

/// Puts a spec in place of the cluster's, with what follows from it: a change of the root, and the key
/// that managers are locked with, which `rotate_unlock_key` replaces.
///
/// # Errors
/// In Swarm's words.
pub fn apply_spec(
    cluster: &mut Cluster,
    next: ClusterSpec,
    rotate_unlock_key: bool,
    now: Timestamp,
) -> Result<(), String> {
    check_cluster(&next).map_err(|error| error.message)?;
    apply_ca_config(cluster, next.ca_config.clone(), now)?;
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
    use crate::identity::create_root;

    #[test]
    fn a_spec_is_checked_and_brings_its_unlock_key() {
        let now = Timestamp::from_unix_nanos(1_800_000_000_000_000_000);
        let mut cluster = Cluster {
            root_ca: create_root(now).unwrap(),
            ..Cluster::default()
        };
        let mut apply = |change: &dyn Fn(&mut ClusterSpec), rotate| {
            let mut spec = ClusterSpec::default();
            change(&mut spec);
            apply_spec(&mut cluster, spec, rotate, now).map(|()| cluster.unlock_key.0.clone())
        };
        let lock = |spec: &mut ClusterSpec| spec.encryption_config.auto_lock_managers = true;
        assert_eq!(apply(&|_| (), true).unwrap(), "");
        let first = apply(&lock, false).unwrap();
        assert!(SecretKey::parse_unlock(&first).is_ok());
        assert_eq!(apply(&lock, false).unwrap(), first);
        assert_ne!(apply(&lock, true).unwrap(), first);
        assert_eq!(apply(&|_| (), false).unwrap(), "");
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
            assert_eq!(apply(change, false).unwrap_err(), message);
        }
        assert_eq!(cluster.longest_cert_expiry, 7_776_000_000_000_000);
        cluster.spec.ca_config.node_cert_expiry = 0;
        assert_eq!(cert_expiry(&cluster.spec), Duration::from_secs(90 * 86_400));
    }
}
