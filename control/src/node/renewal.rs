//! Renews the node's certificate at half its life.

use crate::{
    clock,
    identity::{Identity, key_and_request},
    rpc::{Credentials, Managers},
};
use skein_model::Timestamp;
use skein_proto::node::{RenewRequest, ca_client::CaClient};
use std::{path::Path, path::PathBuf, time::Duration};
use tokio_util::sync::CancellationToken;

/// Pause after a failed renewal; it doubles.
const RETRY_MIN: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(3600);
/// Signing reads from a quorum.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// Runs until `shutdown`.
pub(super) async fn run(
    credentials: Credentials,
    managers: Managers,
    dir: PathBuf,
    shutdown: CancellationToken,
) {
    let mut retry = RETRY_MIN;
    loop {
        let pause = match credentials.identity().validity() {
            Ok(validity) => due_in(validity, clock::now()),
            Err(_) => Duration::ZERO,
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
        match renew(&credentials, &managers, &dir).await {
            Ok(()) => retry = RETRY_MIN,
            Err(error) => {
                tracing::warn!(error, ?retry, "could not renew the node's certificate");
                tokio::select! {
                    () = tokio::time::sleep(retry) => {}
                    () = shutdown.cancelled() => return,
                }
                retry = (retry * 2).min(RETRY_MAX);
            }
        }
    }
}

/// How long until half of a certificate's life is over.
fn due_in((from, until): (Timestamp, Timestamp), now: Timestamp) -> Duration {
    (from + until.since(from) / 2).since(now)
}

async fn renew(credentials: &Credentials, managers: &Managers, dir: &Path) -> Result<(), String> {
    let pair = key_and_request().map_err(|error| error.to_string())?;
    let channel = managers.leader().await.map_err(|error| error.to_string())?;
    let mut client = CaClient::new(channel);
    let request = RenewRequest {
        csr_pem: pair.csr_pem,
    };
    let call = tokio::time::timeout(CALL_TIMEOUT, client.renew(request)).await;
    let response = call.map_err(|_| "no answer")?.map_err(|status| {
        managers.redirect(&status);
        status.message().to_owned()
    })?;
    let root_pem = credentials.identity().root_pem;
    let certificate = response.into_inner().certificate_pem;
    let identity = Identity::new(root_pem, certificate, pair.key_pem).map_err(|e| e.to_string())?;
    let (dir, saved) = (dir.to_owned(), identity.clone());
    tokio::task::spawn_blocking(move || saved.save(&dir))
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())?;
    credentials.replace(identity).map_err(|e| e.to_string())?;
    tracing::info!("renewed the node's certificate");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_at_half_its_life() {
        let at = |secs: i128| Timestamp::from_unix_nanos(secs * 1_000_000_000);
        let validity = (at(100), at(300));
        assert_eq!(due_in(validity, at(150)), Duration::from_secs(50));
        assert_eq!(due_in(validity, at(250)), Duration::ZERO);
    }
}
