//! Images, and registries that want to know who asks.

use super::{Engine, EngineError, failure};
use base64::Engine as _;
use bollard::{auth::DockerCredentials, query_parameters::CreateImageOptionsBuilder};
use futures::StreamExt as _;
use std::time::Duration;
use tokio::time::timeout;

/// A pull may take long, but not say nothing for as long as this.
const PULL_SILENCE: Duration = Duration::from_secs(120);

impl Engine {
    /// Pulls an image unless the engine has it: what is there needs no registry.
    pub async fn ensure_image(&self, image: &str, registry_auth: &str) -> Result<(), EngineError> {
        if self.has_image(image).await? {
            return Ok(());
        }
        let pulled = self.pull(image, registry_auth).await;
        pulled.map_err(|error| no_such_image(image, error))
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

    async fn pull(&self, image: &str, registry_auth: &str) -> Result<(), EngineError> {
        const WHAT: &str = "pulling the image";
        let docker = self.ready().await?;
        let options = CreateImageOptionsBuilder::new()
            .from_image(&pull_reference(image))
            .build();
        let mut progress = docker.create_image(Some(options), None, credentials(registry_auth));
        loop {
            match timeout(PULL_SILENCE, progress.next()).await {
                Ok(None) => return Ok(()),
                Ok(Some(Ok(step))) => {
                    if let Some(message) = step.error_detail.and_then(|error| error.message) {
                        return Err(EngineError::Refused {
                            status: 500,
                            message,
                        });
                    }
                }
                Ok(Some(Err(error))) => return Err(failure(WHAT, error)),
                Err(_) => {
                    let seconds = PULL_SILENCE.as_secs();
                    return Err(EngineError::Refused {
                        status: 504,
                        message: format!(
                            "pulling {image}: the registry sent nothing for {seconds} s; load the \
                             image into the engine of this node, or make the registry reachable"
                        ),
                    });
                }
            }
        }
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

/// Without a tag the engine would pull all of a repository's images.
fn pull_reference(image: &str) -> String {
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

    #[test]
    fn an_image_that_is_not_to_be_had_is_named_with_the_reason() {
        let refused = EngineError::Refused {
            status: 500,
            message: "network is unreachable".into(),
        };
        let said = no_such_image("nope:1", refused).to_string();
        assert_eq!(said, "No such image: nope:1: network is unreachable");
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
