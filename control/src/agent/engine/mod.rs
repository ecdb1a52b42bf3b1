//! The node's container engine: every call has a deadline, and says whether it may be tried again.

mod client;
mod containers;
mod describe;
mod guests;
mod images;
mod networks;
mod twin;

pub use describe::describe;
pub use guests::Guest;
pub(crate) use images::pull_reference;
pub use twin::{CONFIG_LABEL, DRIVER, TWIN_LABEL, TwinSpec};

use crate::single_flight::SingleFlight;
use bollard::Docker;
use std::{
    future::Future,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::{RwLock, Semaphore};

/// For a sign of life, which costs the engine nothing.
const PING_DEADLINE: Duration = Duration::from_secs(5);
/// Calls that only read.
const READ_DEADLINE: Duration = Duration::from_secs(20);
/// Calls that make or remove something: an engine whose network plugin is away waits 15 s for each
/// of a container's networks before it gives up.
const CHANGE_DEADLINE: Duration = Duration::from_secs(120);
/// bollard's own limit must be above all of ours: stopping waits for the grace period, and a log
/// that is followed says nothing for hours.
const CLIENT_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);
/// How the engine begins what it says of a plugin that the task itself asks for, for a volume or its log, and
/// that it cannot use.
const CHOSEN_PLUGINS: [&str; 2] = [
    "error looking up volume plugin",
    "error looking up logging plugin",
];
/// Containers that are made or started at a time. More only slow each other down in the engine.
const CHANGES_AT_ONCE: usize = 8;

/// Why the engine did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// It did not answer: nothing is known of what it did. Worth another try.
    #[error("{what}: the container engine does not answer: {reason}")]
    Away {
        /// What was tried.
        what: &'static str,
        /// What the attempt ended with.
        reason: String,
    },
    /// It answered with an error.
    #[error("{message}")]
    Refused {
        /// Of the HTTP answer.
        status: u16,
        /// In the engine's words.
        message: String,
    },
}

impl EngineError {
    /// What was named is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// A container of that name is there already.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { status: 409, .. })
    }

    /// Worth another try: the engine is away, or it could not reach what the network depends on. The
    /// task has no part in that; but volumes, and who serves them, are the task's choice.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Away { .. } => true,
            Self::Refused { message, .. }
                if CHOSEN_PLUGINS.iter().any(|sign| message.contains(sign)) =>
            {
                false
            }
            Self::Refused { message, .. } => [
                "NetworkDriver.",
                "IpamDriver.",
                "skein.sock",
                "plugin \"skein\"",
                "legacy plugin",
            ]
            .iter()
            .any(|sign| message.contains(sign)),
        }
    }
}

/// The engine. Clones share its connections.
#[derive(Clone)]
pub struct Engine {
    docker: Docker,
    /// The API version is agreed upon.
    negotiated: Arc<AtomicBool>,
    /// See [`CHANGES_AT_ONCE`].
    changes: Arc<Semaphore>,
    /// Nobody looks for a twin, or makes one, while another one is removed.
    twins: Arc<RwLock<()>>,
    /// Whoever needs a network's twin that is not there shares its making, as the engine would make two of one
    /// name. By the network's ID.
    making: Arc<SingleFlight<String, Result<String, EngineError>>>,
    /// Tasks that start together share a pull.
    pulls: Arc<SingleFlight<images::Pull, images::PullResult>>,
    /// Whether an image that is there is good enough, whatever its registry has by now.
    prefers_present_images: bool,
}

impl Engine {
    /// The engine behind `socket`; it need not be up yet.
    ///
    /// # Errors
    /// The client cannot be made, whatever the engine does.
    pub fn at(socket: &Path) -> Result<Self, EngineError> {
        let docker = client::connect(socket, CLIENT_LIMIT)
            .map_err(|error| failure("connecting to it", error))?;
        Ok(Self {
            docker,
            negotiated: Arc::default(),
            changes: Arc::new(Semaphore::new(CHANGES_AT_ONCE)),
            twins: Arc::default(),
            making: Arc::default(),
            pulls: Arc::default(),
            prefers_present_images: false,
        })
    }

    /// The same engine; whether tasks start with an image that it has without asking a registry.
    #[must_use]
    pub fn preferring_present_images(self, prefers_present_images: bool) -> Self {
        Self {
            prefers_present_images,
            ..self
        }
    }

    /// The client, once its API version is one that the engine speaks.
    async fn ready(&self) -> Result<&Docker, EngineError> {
        if !self.negotiated.load(Ordering::Acquire) {
            // Clones share the version that this settles.
            let negotiation = self.docker.clone().negotiate_version();
            answer("negotiating the API version", READ_DEADLINE, negotiation).await?;
            self.negotiated.store(true, Ordering::Release);
        }
        Ok(&self.docker)
    }

    /// Whether it answers at all.
    ///
    /// # Errors
    /// It does not, or not in time.
    pub async fn ping(&self) -> Result<(), EngineError> {
        let ping = self.docker.ping();
        answer("asking for a sign of life", PING_DEADLINE, ping).await?;
        Ok(())
    }

    /// Streams of the engine: events and logs. The caller sees to it that they end.
    pub async fn streams(&self) -> Result<Docker, EngineError> {
        self.ready().await.cloned()
    }

    /// The engine may have been exchanged: its API version is to be agreed upon anew.
    pub fn reconnected(&self) {
        self.negotiated.store(false, Ordering::Release);
    }

    async fn read<'a, T, F>(
        &'a self,
        what: &'static str,
        call: impl FnOnce(&'a Docker) -> F,
    ) -> Result<T, EngineError>
    where
        F: Future<Output = Result<T, bollard::errors::Error>> + 'a,
    {
        answer(what, READ_DEADLINE, call(self.ready().await?)).await
    }

    async fn change<'a, T, F>(
        &'a self,
        what: &'static str,
        call: impl FnOnce(&'a Docker) -> F,
    ) -> Result<T, EngineError>
    where
        F: Future<Output = Result<T, bollard::errors::Error>> + 'a,
    {
        answer(what, CHANGE_DEADLINE, call(self.ready().await?)).await
    }
}

/// Awaits an answer for as long as `deadline`.
async fn answer<T>(
    what: &'static str,
    deadline: Duration,
    call: impl Future<Output = Result<T, bollard::errors::Error>>,
) -> Result<T, EngineError> {
    match tokio::time::timeout(deadline, call).await {
        Ok(answer) => answer.map_err(|error| failure(what, error)),
        Err(_) => Err(EngineError::Away {
            what,
            reason: format!("no answer in {} s", deadline.as_secs()),
        }),
    }
}

fn failure(what: &'static str, error: bollard::errors::Error) -> EngineError {
    use bollard::errors::Error;
    match error {
        Error::DockerResponseServerError {
            status_code,
            message,
        } => EngineError::Refused {
            status: status_code,
            message,
        },
        // An error in the midst of a pull: the HTTP status was sent before it.
        Error::DockerStreamError { error } => EngineError::Refused {
            status: 500,
            message: error,
        },
        other => EngineError::Away {
            what,
            reason: reason(&other),
        },
    }
}

/// An error with its causes: bollard's outermost words are mostly "error trying to connect".
fn reason(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn refused(status: u16, message: &str) -> EngineError {
        EngineError::Refused {
            status,
            message: message.into(),
        }
    }

    #[test]
    fn failures_of_the_network_plugin_are_not_the_tasks() {
        for (error, passing) in [
            (
                refused(
                    500,
                    "failed to create endpoint a on network b: error while ... Post \
                     \"http://%2Frun%2Fdocker%2Fplugins%2Fskein.sock/NetworkDriver.CreateEndpoint\"",
                ),
                true,
            ),
            (refused(400, "IpamDriver.RequestAddress: not yet"), true),
            (refused(404, "plugin \"skein\" not found"), true),
            (
                EngineError::Away {
                    what: "starting",
                    reason: "refused".into(),
                },
                true,
            ),
            (refused(500, "legacy plugin: plugin not found"), true),
            (
                refused(
                    500,
                    "error looking up volume plugin nfs: legacy plugin: Post \
                     \"http://%2Frun%2Fdocker%2Fplugins%2Fnfs.sock/Plugin.Activate\": dial unix",
                ),
                false,
            ),
            (
                refused(
                    404,
                    "error looking up volume plugin skein: plugin \"skein\" not found",
                ),
                false,
            ),
            (
                refused(400, "OCI runtime create failed: no such file"),
                false,
            ),
            (refused(404, "No such image: web:1"), false),
        ] {
            assert_eq!(error.is_passing(), passing, "{error}");
        }
        assert!(refused(404, "").is_not_found() && !refused(409, "").is_not_found());
        assert!(refused(409, "").is_conflict() && !refused(500, "").is_conflict());
    }

    #[tokio::test]
    async fn an_engine_that_is_not_there_is_away() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("none.sock");
        let engine = Engine::at(&path).unwrap();
        let error = engine.container("c").await.unwrap_err();
        assert!(matches!(error, EngineError::Away { .. }), "{error}");
        assert!(error.is_passing());

        // The same client reaches it once it is there.
        let _engine = testing::engine(&path, async |_, path| match &*path {
            "/version" => (200, testing::VERSION),
            _ => (404, r#"{"message":"No such container: c"}"#),
        });
        let error = engine.container("c").await;
        assert_eq!(error, Ok(None));
    }
}
