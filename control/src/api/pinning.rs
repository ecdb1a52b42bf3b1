//! Images by digest: clients of older versions of the API leave it to the daemon to ask the registry what a tag
//! names, so that all tasks of a service run the same. Later ones do it themselves.

use super::{
    Local, body, error::ApiError, proxy::Relayed, services::REGISTRY_AUTH, version::ApiVersion,
};
use crate::agent::engine::pull_reference;
use axum::{body::Body, extract::Request};
use http::{HeaderMap, header};
use serde_json::Value;
use skein_orchestration::validate::is_image_reference;
use std::time::Duration;

/// The first version whose clients do it.
pub const BY_CLIENTS_SINCE: ApiVersion = ApiVersion::new(1, 30);

/// How long a registry may take. It is asked by the engine, and a service without its answer is made all the same.
const REGISTRY_PATIENCE: Duration = Duration::from_secs(20);

/// Where a service's spec names its image.
pub const IMAGE: &str = "/TaskTemplate/ContainerSpec/Image";

/// Writes the digest to the image of a service's spec, as `headers` allow the engine to ask for it. Where the
/// registry does not say it, the image stays as it is, and a warning is returned.
pub async fn pin(local: &Local, headers: &HeaderMap, spec: &mut Value) -> Pinned {
    let image = spec.pointer_mut(IMAGE);
    let Some((image, tagged)) = image.and_then(|image| {
        let tagged = tagged(image.as_str()?)?;
        Some((image, tagged))
    }) else {
        return Pinned::AsItWas;
    };
    match local.digest(&tagged, headers).await {
        Ok(digest) => {
            *image = format!("{tagged}@{digest}").into();
            Pinned::Done
        }
        Err(error) => {
            tracing::warn!(image = tagged, %error, "a registry does not say what an image is");
            Pinned::Unknown {
                warning: not_pinned(image.as_str().unwrap_or_default()),
            }
        }
    }
}

/// What became of a spec's image.
pub enum Pinned {
    /// It has a digest already, or is no name.
    AsItWas,
    /// It has a digest now.
    Done,
    /// No registry says its digest.
    Unknown {
        /// For whoever made the service.
        warning: String,
    },
}

/// An image's name with a tag; `None` where it has a digest, or is no name.
fn tagged(image: &str) -> Option<String> {
    (is_image_reference(image) && !image.contains('@')).then(|| pull_reference(image))
}

/// Swarm's words.
fn not_pinned(image: &str) -> String {
    format!(
        "image {image} could not be accessed on a registry to record\nits digest. Each node will access \
         {image} independently,\npossibly leading to different nodes running different\nversions of the \
         image.\n"
    )
}

impl Local {
    /// What the registry has under a tag now, as the engine hears of it.
    async fn digest(&self, image: &str, headers: &HeaderMap) -> Result<String, ApiError> {
        let mut request = Request::get(format!("/distribution/{image}/json"));
        request = request.header(header::HOST, "docker");
        if let Some(auth) = headers.get(REGISTRY_AUTH) {
            request = request.header(REGISTRY_AUTH, auth);
        }
        let request = request
            .body(Body::empty())
            .map_err(|error| ApiError::invalid(error.to_string()))?;
        let answer = match self.engine.relay(request, REGISTRY_PATIENCE).await? {
            Relayed::Json(answer) => answer,
            Relayed::Refusal(refusal) => {
                let status = refusal.status();
                let said = body::read(refusal.into_body()).await?;
                return Err(ApiError::new(status, String::from_utf8_lossy(&said)));
            }
        };
        let digest = answer["Descriptor"]["digest"].as_str();
        digest
            .map(str::to_owned)
            .ok_or_else(|| ApiError::internal("the engine tells of no digest"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_get_a_tag_and_digests_stay() {
        let digest = format!("a@sha256:{}", "0".repeat(64));
        for (image, named) in [
            ("nginx", Some("nginx:latest")),
            ("r.example:5000/a/b:2", Some("r.example:5000/a/b:2")),
            (&*digest, None),
            ("No Image", None),
            ("", None),
        ] {
            assert_eq!(tagged(image).as_deref(), named, "{image}");
        }
    }
}
