//! Volumes of the cluster (CSI), of which there are none: who asks for one is told so, and the engine is not asked
//! to make another kind of volume by that name. All other volumes are the engine's.

use super::{Local, Original, body, error::ApiError, json, version::ApiVersion};
use axum::{
    body::Body,
    extract::{Path, Request, State},
    response::Response,
};
use tonic::Code;

/// The first version of the API that has them: who asks in an older one does not mean them.
const SINCE: ApiVersion = ApiVersion::new(1, 42);

/// `POST /volumes/create`
pub async fn create(State(local): State<Local>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let body = body::read(body).await?;
    // What is no JSON is the engine's to refuse.
    let asked = json::parse(&body).unwrap_or_default();
    let is_of_cluster = asked.get("ClusterVolumeSpec").is_some();
    let request = Request::from_parts(parts, Body::from(body));
    if is_of_cluster && knows_cluster_volumes(&request) {
        return Ok(local.cluster.call(request).await);
    }
    Ok(local.pass_to_engine(request).await)
}

/// Whether a request is of a version that has volumes of the cluster.
fn knows_cluster_volumes(request: &Request) -> bool {
    let original = request.extensions().get::<Original>();
    let asked = original.and_then(|Original(uri)| ApiVersion::of_path(uri.path()).0);
    asked.is_none_or(|asked| asked >= SINCE)
}

/// The same on the leader.
pub async fn create_in_cluster() -> ApiError {
    ApiError::rpc(
        Code::Unimplemented,
        "cluster volumes are not supported: there are no CSI plugins. Services can mount volumes of their tasks' \
         nodes (type=volume), by a volume driver that the nodes' engines have (volume-driver)",
    )
}

/// `PUT /volumes/{name}`, which is for volumes of the cluster alone: on a manager there is none of the name. What
/// is no manager has its engine say what it lacks.
pub async fn update(
    State(local): State<Local>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    if local.member.store().is_some() && knows_cluster_volumes(&request) {
        return Err(ApiError::not_found(format!("volume {name} not found")));
    }
    Ok(local.pass_to_engine(request).await)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::response::IntoResponse as _;

    #[tokio::test]
    async fn who_asks_for_a_volume_of_the_cluster_is_told_that_there_are_none() {
        let refused = create_in_cluster().await;
        assert!(
            refused
                .message
                .starts_with("rpc error: code = Unimplemented desc = cluster volumes")
        );
        assert_eq!(refused.into_response().status(), 501);
    }

    #[test]
    fn older_clients_do_not_mean_volumes_of_the_cluster() {
        for (path, knows) in [
            ("/volumes/create", true),
            ("/v1.42/volumes/create", true),
            ("/v1.41/volumes/create", false),
        ] {
            let mut request = Request::new(Body::empty());
            let original = Original(path.parse().unwrap());
            request.extensions_mut().insert(original);
            assert_eq!(knows_cluster_volumes(&request), knows, "{path}");
        }
        assert!(knows_cluster_volumes(&Request::new(Body::empty())));
    }
}
