//! Renews the node's certificate: in time, and when the managers say so.

use super::persist::Kept;
use crate::{
    agent::Orders,
    backoff, clock,
    identity::{Identity, key_and_request},
    rpc::{self, Credentials, Managers},
};
use rand::Rng as _;
use skein_model::Timestamp;
use skein_proto::node::{RenewRequest, ca_client::CaClient};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Pause after a failed renewal, whoever has asked for it: the first, as short as people wait for a
/// promotion, and the longest. It doubles, and is jittered, as all nodes renew while the root changes.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(3600);
/// The longest pause where the swarm's external certificate authority is what fails: all nodes wait for one
/// server then, and go on soon once it is back.
const CA_RETRY_MAX: Duration = Duration::from_secs(60);
/// Signing reads from a quorum.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// The part of a certificate's life after which it is renewed: a random point between the two, so
/// that nodes which joined together do not come back together.
const RENEW_FROM: f64 = 0.5;
const RENEW_UNTIL: f64 = 0.8;
/// Longest sleep: the clock of the machine may be set meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);

/// What renewing needs.
pub(super) struct Renewal {
    pub credentials: Credentials,
    pub managers: Managers,
    pub kept: Kept,
    pub orders: watch::Receiver<Orders>,
    pub forced: Arc<Notify>,
}

/// Runs until `shutdown`.
pub(super) async fn run(mut renewal: Renewal, shutdown: CancellationToken) {
    shutdown.run_until_cancelled(renewal.follow()).await;
}

/// Why there is no new certificate.
struct NotRenewed {
    reason: String,
    /// How long the next attempt may be put off.
    retry_max: Duration,
}

impl From<String> for NotRenewed {
    fn from(reason: String) -> Self {
        Self {
            reason,
            retry_max: RETRY_MAX,
        }
    }
}

impl From<&Status> for NotRenewed {
    fn from(status: &Status) -> Self {
        let retry_max = match rpc::is_awaiting_ca(status) {
            true => CA_RETRY_MAX,
            false => RETRY_MAX,
        };
        Self {
            reason: status.message().to_owned(),
            retry_max,
        }
    }
}

impl Renewal {
    async fn follow(&mut self) {
        let mut failures = 0;
        let mut point = random_point();
        let mut forced = false;
        loop {
            let orders = self.orders.borrow_and_update().clone();
            let identity = self.credentials.identity();
            let ordered = forced || asks_to_renew(&orders, &identity);
            let pause = match identity.validity() {
                _ if ordered => Duration::ZERO,
                Ok(validity) => due_in(validity, point, clock::now()),
                Err(_) => Duration::ZERO,
            };
            if pause.is_zero() {
                match self.renew().await {
                    Ok(()) => (failures, point, forced) = (0, random_point(), false),
                    Err(NotRenewed { reason, retry_max }) => {
                        let retry = backoff::pause(RETRY_MIN, RETRY_MAX, failures).min(retry_max);
                        tracing::warn!(reason, ?retry, "could not renew the node's certificate");
                        failures += 1;
                        forced |= self.pause(retry, &mut failures).await;
                    }
                }
                continue;
            }
            // Once the certificate is of the new root: those who trust that one alone take it.
            if adopts_root(&orders, &identity) {
                match self.adopt(identity.with_root(orders.root_pem)).await {
                    Ok(()) => failures = 0,
                    Err(error) => {
                        let retry = backoff::pause(RETRY_MIN, RETRY_MAX, failures);
                        tracing::warn!(
                            error,
                            ?retry,
                            "could not take over the swarm's new root certificate"
                        );
                        failures += 1;
                        forced |= self.pause(retry, &mut failures).await;
                    }
                }
                continue;
            }
            tokio::select! {
                () = sleep(pause.min(LOOK_AGAIN)) => {}
                () = self.forced.notified() => forced = true,
                changed = self.orders.changed() => if changed.is_err() {
                    // The agent has ended; so will this.
                    std::future::pending::<()>().await;
                },
            }
        }
    }

    /// Waits before the next attempt, unless there is another reason for it: then the pauses begin
    /// anew. Whether a renewal was forced meanwhile.
    async fn pause(&mut self, retry: Duration, failures: &mut u32) -> bool {
        tokio::select! {
            () = sleep(retry) => false,
            () = self.forced.notified() => {
                *failures = 0;
                true
            }
            changed = self.orders.changed() => {
                if changed.is_err() {
                    // The agent has ended; so will this.
                    std::future::pending::<()>().await;
                }
                *failures = 0;
                false
            }
        }
    }

    async fn renew(&self) -> Result<(), NotRenewed> {
        let pair = key_and_request().map_err(|error| error.to_string())?;
        let channel = self.managers.leader().await;
        let channel = channel.map_err(|error| error.to_string())?;
        let mut client = CaClient::new(channel);
        let request = RenewRequest {
            csr_pem: pair.csr_pem,
        };
        let call = tokio::time::timeout(CALL_TIMEOUT, client.renew(request)).await;
        let response = call
            .map_err(|_| {
                let seconds = CALL_TIMEOUT.as_secs();
                format!("the managers' leader did not answer within {seconds} s")
            })?
            .map_err(|status| {
                self.managers.redirect(&status);
                NotRenewed::from(&status)
            })?;
        let root_pem = self.credentials.identity().root_pem;
        let certificate = response.into_inner().certificate_pem;
        let identity = Identity::new(root_pem, certificate, pair.key_pem);
        let identity = identity.map_err(|error| error.to_string())?;
        let role = identity.role;
        self.adopt(identity).await?;
        tracing::info!(?role, "renewed the node's certificate");
        Ok(())
    }

    /// Makes an identity the node's, on disk first.
    async fn adopt(&self, identity: Identity) -> Result<(), String> {
        let saved = identity.clone();
        let kept = self.kept.with_vault(move |vault| vault.save(&saved)).await;
        kept.map_err(|error| error.to_string())?;
        let replaced = self.credentials.replace(identity);
        replaced.map_err(|error| error.to_string())
    }
}

/// Whether the managers want another certificate than this one.
fn asks_to_renew(orders: &Orders, identity: &Identity) -> bool {
    let other_role = orders.role.is_some_and(|role| role != identity.role);
    let other_issuer = || {
        let issuer = identity.tls_info().unwrap_or_default();
        !orders.issuer_key.is_empty() && issuer.cert_issuer_public_key != orders.issuer_key
    };
    other_role || (orders.renew && other_issuer())
}

/// Whether the managers trust another root, of which this certificate already is.
fn adopts_root(orders: &Orders, identity: &Identity) -> bool {
    if orders.root_pem.is_empty() || orders.root_pem == identity.root_pem {
        return false;
    }
    let issuer = identity.tls_info().unwrap_or_default();
    issuer.cert_issuer_public_key == orders.issuer_key
}

fn random_point() -> f64 {
    rand::rng().random_range(RENEW_FROM..RENEW_UNTIL)
}

/// How long until a part of a certificate's life is over.
fn due_in((from, until): (Timestamp, Timestamp), point: f64, now: Timestamp) -> Duration {
    (from + until.since(from).mul_f64(point)).since(now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{create_root, cross_sign, sign, tls_info};
    use skein_model::NodeRole;

    #[test]
    fn a_certificate_is_renewed_at_its_point() {
        let at = |secs: i128| Timestamp::from_unix_nanos(secs * 1_000_000_000);
        let validity = (at(100), at(300));
        assert_eq!(due_in(validity, 0.5, at(150)), Duration::from_secs(50));
        assert_eq!(due_in(validity, 0.75, at(150)), Duration::from_secs(100));
        assert_eq!(due_in(validity, 0.5, at(250)), Duration::ZERO);
    }

    #[test]
    fn a_new_root_is_adopted_after_the_certificate_is_of_it() {
        let now = clock::now();
        let (old, new) = (create_root(now).unwrap(), create_root(now).unwrap());
        let pair = key_and_request().unwrap();
        let day = Duration::from_secs(86_400);
        let node = ("c", "n", NodeRole::Worker);
        let identity = |root, link: &str, trusted: &str| {
            let signed = sign(root, &pair.csr_pem, node, day, now).unwrap();
            let trusted = trusted.to_owned();
            Identity::new(trusted, signed + link, pair.key_pem.clone()).unwrap()
        };
        let link = cross_sign(&old, &new, now).unwrap();
        let before = identity(&old, "", &old.cert_pem);
        let between = identity(&new, &link, &old.cert_pem);
        let mut orders = Orders {
            role: Some(NodeRole::Worker),
            root_pem: old.cert_pem.clone(),
            issuer_key: tls_info(&new.cert_pem).unwrap().cert_issuer_public_key,
            renew: false,
            removed: false,
            place: Default::default(),
        };
        assert!(!asks_to_renew(&orders, &before));
        orders.renew = true;
        assert!(asks_to_renew(&orders, &before) && !asks_to_renew(&orders, &between));
        assert!(!adopts_root(&orders, &between));
        orders.root_pem.clone_from(&new.cert_pem);
        assert!(adopts_root(&orders, &between) && !adopts_root(&orders, &before));
        let after = between.with_root(new.cert_pem);
        assert!(!adopts_root(&orders, &after) && !asks_to_renew(&orders, &after));
        orders.role = Some(NodeRole::Manager);
        assert!(asks_to_renew(&orders, &after));
    }
}
