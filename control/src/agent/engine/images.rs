//! Images, and registries that want to know who asks.

use super::{Engine, EngineError, failure};
use base64::Engine as _;
use bollard::{
    auth::DockerCredentials, models::CreateImageInfo, query_parameters::CreateImageOptionsBuilder,
};
use futures::{Stream, StreamExt as _, future::BoxFuture};
use std::{pin::pin, time::Duration};
use tokio::time::timeout;

/// A pull may take long, but not say nothing for as long as this.
const PULL_SILENCE: Duration = Duration::from_secs(120);
/// The same where the engine has the image of an earlier pull: a task is better started with that than
/// kept waiting for a registry that takes every connection and answers none. Registries that work
/// answer within a second or two, and from then on the engine tells how far it is.
const PULL_SILENCE_IF_PRESENT: Duration = Duration::from_secs(10);

/// What a pull ends with.
pub(super) type PullResult = Result<(), EngineError>;

/// What may be pulled only once at a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pull {
    /// As the task names it.
    image: String,
    /// Whoever asks with other credentials may get another answer.
    registry_auth: String,
    /// How long the registry may be silent hangs on it.
    is_present: bool,
}

impl Engine {
    /// Sees to it that the engine has an image, and has it as the registry has it now: what a tag names
    /// may have changed. A pull that fails leaves what is there. What is named by its ID, or by a
    /// digest that is there, cannot have changed, and needs no registry; nor does what is there if
    /// [that is preferred](Self::preferring_present_images).
    pub async fn ensure_image(&self, image: &str, registry_auth: &str) -> Result<(), EngineError> {
        let is_present = self.has_image(image).await?;
        match naming(image) {
            Naming::Id if is_present => return Ok(()),
            Naming::Id => return Err(absent(image)),
            Naming::Digest if is_present => return Ok(()),
            Naming::Tag if is_present && self.prefers_present_images => return Ok(()),
            Naming::Digest | Naming::Tag => {}
        }
        let wanted = Pull {
            image: image.to_owned(),
            registry_auth: registry_auth.to_owned(),
            is_present,
        };
        let (engine, pull) = (self.clone(), wanted.clone());
        let begin = || -> BoxFuture<'static, PullResult> {
            Box::pin(async move { engine.pull(&pull).await })
        };
        self.pulls.join(wanted, begin).await
    }

    /// Whether the engine has an image already.
    pub async fn has_image(&self, image: &str) -> Result<bool, EngineError> {
        let found = self
            .read("looking for the image", |docker| {
                docker.inspect_image(image)
            })
            .await;
        match found {
            Err(error) if error.is_not_found() => Ok(false),
            other => other.map(|_| true),
        }
    }

    async fn pull(&self, pull: &Pull) -> PullResult {
        let image = &pull.image;
        let silence = if pull.is_present {
            PULL_SILENCE_IF_PRESENT
        } else {
            PULL_SILENCE
        };
        let docker = self.ready().await?;
        let options = CreateImageOptionsBuilder::new()
            .from_image(&pull_reference(image))
            .build();
        let progress = docker.create_image(Some(options), None, credentials(&pull.registry_auth));
        match pulled(image, silence, progress).await {
            Err(error) if pull.is_present => {
                tracing::info!(
                    image,
                    %error,
                    "could not pull the image: tasks start with what the engine has of it"
                );
                Ok(())
            }
            pulled => pulled.map_err(|error| no_such_image(image, error)),
        }
    }
}

/// Awaits the end of a pull.
async fn pulled(
    image: &str,
    silence: Duration,
    progress: impl Stream<Item = Result<CreateImageInfo, bollard::errors::Error>>,
) -> PullResult {
    let mut progress = pin!(progress);
    loop {
        match timeout(silence, progress.next()).await {
            Ok(None) => return Ok(()),
            Ok(Some(Ok(step))) => {
                if let Some(message) = step.error_detail.and_then(|error| error.message) {
                    return Err(EngineError::Refused {
                        status: 500,
                        message,
                    });
                }
            }
            Ok(Some(Err(error))) => return Err(failure("pulling the image", error)),
            Err(_) => {
                let seconds = silence.as_secs();
                return Err(EngineError::Refused {
                    status: 504,
                    message: format!(
                        "pulling {image}: the registry sent nothing for {seconds} s; load the image \
                         into the engine of this node, or make the registry reachable"
                    ),
                });
            }
        }
    }
}

/// What an image is named by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Naming {
    /// Its ID, `sha256:…`: no registry knows it by that.
    Id,
    /// The digest that a registry gave it.
    Digest,
    /// A tag, which may move.
    Tag,
}

fn naming(image: &str) -> Naming {
    if image.starts_with("sha256:") {
        Naming::Id
    } else if image.contains('@') {
        Naming::Digest
    } else {
        Naming::Tag
    }
}

/// In the engine's words.
fn absent(image: &str) -> EngineError {
    EngineError::Refused {
        status: 404,
        message: format!("No such image: {image}"),
    }
}

/// Swarm's words for an image that is neither here nor to be had, and why not.
fn no_such_image(image: &str, error: EngineError) -> EngineError {
    match error {
        EngineError::Refused { status, message } => EngineError::Refused {
            status,
            message: format!("No such image: {image}: {message}"),
        },
        away @ EngineError::Away { .. } => away,
    }
}

/// An image as one of a repository's: without a tag the engine would pull all of them.
pub(crate) fn pull_reference(image: &str) -> String {
    let name = image.rsplit('/').next().unwrap_or(image);
    if name.contains(':') || name.contains('@') {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}

/// The content of an `X-Registry-Auth` header, which is base64 of either alphabet, padded or not.
/// One that cannot be read is as none: the registry says what it thinks of that.
fn credentials(registry_auth: &str) -> Option<DockerCredentials> {
    let plain: String = registry_auth
        .trim()
        .trim_end_matches('=')
        .chars()
        .map(|c| match c {
            '-' => '+',
            '_' => '/',
            c => c,
        })
        .collect();
    let json = base64::engine::general_purpose::STANDARD_NO_PAD
        .decode(plain)
        .ok()?;
    let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&json).ok()?;
    let text = |name: &str| {
        let value = fields.get(name)?.as_str()?;
        (!value.is_empty()).then(|| value.to_owned())
    };
    Some(DockerCredentials {
        username: text("username"),
        password: text("password"),
        auth: text("auth"),
        email: text("email"),
        serveraddress: text("serveraddress"),
        identitytoken: text("identitytoken"),
        registrytoken: text("registrytoken"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use std::{
        path::Path,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };
    use tokio::sync::Semaphore;

    #[test]
    fn an_image_that_is_not_to_be_had_is_named_with_the_reason() {
        let refused = EngineError::Refused {
            status: 500,
            message: "network is unreachable".into(),
        };
        let said = no_such_image("nope:1", refused).to_string();
        assert_eq!(said, "No such image: nope:1: network is unreachable");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_registry_is_given_up_sooner_where_the_image_is_there() {
        let begun = tokio::time::Instant::now();
        let silent = futures::stream::pending();
        let error = pulled("web:1", PULL_SILENCE_IF_PRESENT, silent).await;
        assert!(error.unwrap_err().to_string().contains("nothing for 10 s"));
        assert_eq!(begun.elapsed(), PULL_SILENCE_IF_PRESENT);
    }

    #[test]
    fn an_image_is_named_by_id_digest_or_tag() {
        let digest = "0".repeat(64);
        for (image, by) in [
            (format!("sha256:{digest}"), Naming::Id),
            (format!("web@sha256:{digest}"), Naming::Digest),
            (format!("host:5000/a/web:1@sha256:{digest}"), Naming::Digest),
            ("sha256".into(), Naming::Tag),
            ("web".into(), Naming::Tag),
            ("host:5000/a/web:1".into(), Naming::Tag),
        ] {
            assert_eq!(naming(&image), by, "{image}");
        }
    }

    /// An engine that has `web:1` and `web@…`, whose pulls begin and then fail once `go` says so.
    fn engine_without_registry(
        socket: &Path,
        pulls: &Arc<AtomicUsize>,
        go: &Arc<Semaphore>,
    ) -> testing::Server {
        let (pulls, go) = (pulls.clone(), go.clone());
        testing::engine(socket, move |_, path| {
            let (pulls, go) = (pulls.clone(), go.clone());
            async move {
                if path == "/version" {
                    (200, testing::VERSION)
                } else if path.contains("/images/create") {
                    pulls.fetch_add(1, Ordering::Relaxed);
                    let _go = go.acquire().await.unwrap();
                    (500, r#"{"message":"no such host"}"#)
                } else if path.contains("/images/web") {
                    (200, r#"{"Id":"sha256:00"}"#)
                } else {
                    (404, r#"{"message":"No such image"}"#)
                }
            }
        })
    }

    #[tokio::test]
    async fn what_a_tag_names_is_pulled_once_for_all_and_started_without_if_it_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("engine.sock");
        let (pulls, go) = (Arc::default(), Arc::new(Semaphore::new(0)));
        let _serving = engine_without_registry(&path, &pulls, &go);
        let engine = Engine::at(&path).unwrap();
        let digest = format!("web@sha256:{}", "0".repeat(64));
        engine.ensure_image(&digest, "").await.unwrap();
        assert_eq!(pulls.load(Ordering::Relaxed), 0);
        let id = format!("sha256:{}", "0".repeat(64));
        let error = engine.ensure_image(&id, "").await.unwrap_err();
        assert!(error.is_not_found() && pulls.load(Ordering::Relaxed) == 0);

        let starting = futures::future::join_all((0..30).map(|_| engine.ensure_image("web:1", "")));
        let answering = async {
            // All have looked for the image by then, and wait for the same pull.
            tokio::time::sleep(Duration::from_millis(300)).await;
            go.add_permits(1);
        };
        let (answers, ()) = tokio::join!(starting, answering);
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        assert_eq!(pulls.load(Ordering::Relaxed), 1);
        engine.ensure_image("web:1", "").await.unwrap();
        assert_eq!(pulls.load(Ordering::Relaxed), 2);

        let error = engine.ensure_image("absent:1", "").await.unwrap_err();
        assert_eq!(error.to_string(), "No such image: absent:1: no such host");

        let content = engine.preferring_present_images(true);
        content.ensure_image("web:1", "").await.unwrap();
        assert_eq!(pulls.load(Ordering::Relaxed), 3, "not pulled");
        assert!(content.ensure_image("absent:1", "").await.is_err());
        assert_eq!(pulls.load(Ordering::Relaxed), 4, "pulled as it is absent");
    }

    #[test]
    fn references_get_a_tag() {
        for (image, pulled) in [
            ("web", "web:latest"),
            ("web:1", "web:1"),
            ("host:5000/a/web", "host:5000/a/web:latest"),
            ("web@sha256:00", "web@sha256:00"),
            ("host:5000/web:1@sha256:00", "host:5000/web:1@sha256:00"),
        ] {
            assert_eq!(pull_reference(image), pulled);
        }
    }

    #[test]
    fn registry_auth_is_read_in_every_alphabet() {
        // The last two bytes make '/' and '+' of the one alphabet, '_' and '-' of the other.
        let json = r#"{"username":"u?>","password":"ÿ~"}"#;
        for engine in [
            base64::engine::general_purpose::URL_SAFE,
            base64::engine::general_purpose::URL_SAFE_NO_PAD,
            base64::engine::general_purpose::STANDARD,
        ] {
            let read = credentials(&engine.encode(json)).unwrap();
            assert_eq!(read.username.as_deref(), Some("u?>"));
            assert_eq!(read.password.as_deref(), Some("ÿ~"));
            assert_eq!(read.identitytoken, None);
        }
        assert!(credentials("").is_none());
        assert!(credentials("not base64!").is_none());
    }
}
