//! Specs of services on their way to the leader. What only the node can say that a client has asked is said here:
//! which network of its engine a name means, and which image a registry has.

use super::{
    Local, body,
    error::ApiError,
    json, networks,
    pinning::{self, Pinned},
    query::Params,
    version::ApiVersion,
};
use axum::{
    body::Body,
    extract::{Request, State},
    response::Response,
};
use http::header;
use serde_json::Value;

/// What is posted about services: `/services/create` and `/services/{id}/update`.
pub async fn forward(
    State(local): State<Local>,
    version: ApiVersion,
    params: Params,
    request: Request,
) -> Result<Response, ApiError> {
    let Some(store) = local.member.store() else {
        return Ok(local.cluster.call(request).await);
    };
    let (mut parts, body) = request.into_parts();
    let mut body = body::read(body).await?;
    // What is no JSON is the leader's to refuse.
    let mut spec = json::parse(&body).unwrap_or_default();
    let mut is_changed = networks::name(&local, &store.state(), &mut spec).await?;
    let mut warning = None;
    // Nothing of what comes with a rollback is used.
    if version < pinning::BY_CLIENTS_SINCE && params.text("rollback") != "previous" {
        match pinning::pin(&local, &parts.headers, &mut spec).await {
            Pinned::AsItWas => {}
            Pinned::Done => is_changed = true,
            Pinned::Unknown { warning: said } => warning = Some(said),
        }
    }
    if is_changed {
        body = spec.to_string().into();
        parts.headers.remove(header::CONTENT_LENGTH);
    }
    let request = Request::from_parts(parts, Body::from(body));
    let response = local.cluster.call(request).await;
    match warning {
        Some(warning) if response.status().is_success() => with_warning(response, warning).await,
        _ => Ok(response),
    }
}

/// The answer to a create or an update, with one warning more.
async fn with_warning(response: Response, warning: String) -> Result<Response, ApiError> {
    let (parts, body) = response.into_parts();
    let mut answer: Value = json::parse(&body::read(body).await?)?;
    match answer["Warnings"].as_array_mut() {
        Some(warnings) => warnings.push(warning.into()),
        None => answer["Warnings"] = [warning].into_iter().collect(),
    }
    Ok(json::respond(parts.status, &answer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::testing::{Memory, lonely_with},
        testing,
    };
    use http_body_util::BodyExt as _;
    use serde_json::json;
    use std::sync::Arc;
    use tower::ServiceExt as _;

    #[tokio::test]
    async fn the_daemon_asks_the_registry_for_clients_before_1_30() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("engine.sock");
        let _engine = testing::engine(&path, async |_, path| match &*path {
            "/distribution/r.example/web:latest/json" => {
                (200, r#"{"Descriptor":{"digest":"sha256:11"}}"#)
            }
            _ => (500, r#"{"message":"no such host"}"#),
        });
        // What arrives where the leader is asked.
        let store = Arc::new(Memory::default());
        store.lead_for(usize::MAX);
        let router = lonely_with(store, &path, |_| {
            axum::Router::new().fallback(async |body: String| {
                let spec: Value = serde_json::from_str(&body).unwrap();
                let image = spec.pointer(pinning::IMAGE).cloned();
                json::ok(&json!({"Got": image, "Warnings": null}))
            })
        });
        for (version, image, got, is_warned) in [
            (
                "1.29",
                "r.example/web",
                "r.example/web:latest@sha256:11",
                false,
            ),
            ("1.30", "r.example/web", "r.example/web", false),
            ("1.29", "r.example/gone:2", "r.example/gone:2", true),
        ] {
            let spec = json!({"TaskTemplate": {"ContainerSpec": {"Image": image}}});
            let mut request = Request::post("/services/create")
                .header("content-type", "application/json")
                .body(Body::from(spec.to_string()))
                .unwrap();
            let original = format!("/v{version}/services/create").parse().unwrap();
            request
                .extensions_mut()
                .insert(crate::api::Original(original));
            let response = router.clone().oneshot(request).await.unwrap();
            let answer = response.into_body().collect().await.unwrap().to_bytes();
            let answer: Value = serde_json::from_slice(&answer).unwrap();
            assert_eq!(answer["Got"], got, "{version} {image}");
            let warning = answer["Warnings"][0].as_str().unwrap_or_default();
            let start = format!("image {image} could not be accessed on a registry to record\n");
            assert_eq!(warning.starts_with(&start), is_warned, "{warning}");
        }
    }
}
