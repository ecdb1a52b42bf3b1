//! Containers that are no task's come to networks of the swarm, and leave them.

use super::{
    local::encoded,
    rewriting::{self, Connect, Endpoint},
    shape,
};
use crate::{
    agent::{
        attachments::{Attached, Attachments, Refusal, Wish},
        container::LABEL_TASK,
    },
    api::{Local, Original, body, error::ApiError, json},
};
use axum::{
    body::Body,
    extract::{Path, Request, State},
    response::Response,
};
use http::{StatusCode, Uri};
use serde_json::{Value, json};

/// What a container may name that is never a network of the swarm.
const MODES: [&str; 5] = ["", "default", "bridge", "host", "none"];
/// Work of a request that a client's leaving must not stop half-way broke.
const BROKE: &str = "the request broke; see the log of skein-control";

impl Local {
    /// By what the managers know a network that a container names; `None` if it is the engine's own.
    async fn swarms(&self, reference: &str) -> Result<Option<String>, ApiError> {
        if MODES.contains(&reference) || reference.starts_with("container:") {
            return Ok(None);
        }
        match self.engines_network(reference).await {
            Ok(Some(network)) => Ok(shape::twin_of(&network).map(|id| {
                // One of that name may just be new, and this one about to go.
                let by_name = network["Name"] == reference;
                if by_name { reference } else { id }.to_owned()
            })),
            Ok(None) => Ok(Some(reference.to_owned())),
            // Twins of one name.
            Err(error) if error.status == StatusCode::BAD_REQUEST => Ok(Some(reference.to_owned())),
            Err(error) => Err(error),
        }
    }
}

async fn attach(
    attachments: &Attachments,
    reference: &str,
    known_as: &str,
    endpoint: &Endpoint,
) -> Result<Attached, ApiError> {
    rewriting::check(&endpoint.settings)?;
    let wish = Wish {
        network: known_as.to_owned(),
        address: endpoint.address()?,
        aliases: endpoint.aliases(),
    };
    let attached = attachments.attach(&wish).await;
    attached.map_err(|refusal| refused(reference, refusal))
}

/// In Docker's words.
fn refused(reference: &str, refusal: Refusal) -> ApiError {
    let mut error = match refusal {
        Refusal::Managers(status) => ApiError::rpc(status.code(), status.message()),
        Refusal::Late(reason) => {
            return ApiError::internal(format!(
                "attaching to network failed, make sure your network options are correct and check \
                 manager logs: context deadline exceeded: {reason}"
            ));
        }
        Refusal::Engine(error) => ApiError::unavailable(error.to_string()),
    };
    error.message = format!("Could not attach to network {reference}: {}", error.message);
    error
}

/// `POST /containers/create`
pub async fn create_container(
    State(local): State<Local>,
    request: Request,
) -> Result<Response, ApiError> {
    let attachments = local.member.attachments();
    let Some(attachments) = attachments else {
        return Ok(local.pass_to_engine(request).await);
    };
    let (parts, body) = request.into_parts();
    let body = body::read(body).await?;
    // What is no JSON is the engine's to refuse.
    let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
    let endpoints = rewriting::endpoints(&asked);
    let mut swarms = Vec::with_capacity(endpoints.len());
    for endpoint in &endpoints {
        swarms.push(local.swarms(&endpoint.reference).await?);
    }
    if swarms.iter().all(Option::is_none) {
        let request = Request::from_parts(parts, Body::from(body));
        return Ok(local.pass_to_engine(request).await);
    }
    let uri = match parts.extensions.get::<Original>() {
        Some(Original(uri)) => uri.clone(),
        None => parts.uri,
    };
    let creation = Creation {
        local,
        attachments,
        uri,
        asked,
        endpoints,
    };
    // A client that goes away leaves nothing half-made.
    let made = tokio::spawn(creation.run(swarms)).await;
    made.map_err(|_| ApiError::internal(BROKE))?
}

/// A container on its way to networks of the swarm.
struct Creation {
    local: Local,
    attachments: Attachments,
    /// As the client wrote it.
    uri: Uri,
    asked: Value,
    endpoints: Vec<Endpoint>,
}

impl Creation {
    /// `swarms`: by what the managers know the network of each endpoint, if it is theirs.
    async fn run(mut self, swarms: Vec<Option<String>>) -> Result<Response, ApiError> {
        let made = self.make(swarms).await;
        let is_made = matches!(&made, Ok((StatusCode::CREATED, _)));
        for endpoint in &self.endpoints {
            match &endpoint.attached {
                Some(attached) if is_made => self.attachments.settle(&attached.task_id),
                Some(attached) => self.attachments.give_up(&attached.task_id).await,
                None => {}
            }
        }
        let (status, answer) = match made {
            // As with Docker, a network is first missed at the start. Clients take a create's 404 for a
            // missing image, and pull it.
            Err(error) if error.status == StatusCode::NOT_FOUND => {
                let request = http::Request::post(self.uri.clone());
                self.local.engine.ask(request, &self.asked).await?
            }
            made => made?,
        };
        Ok(json::respond(status, &answer))
    }

    async fn make(&mut self, swarms: Vec<Option<String>>) -> Result<(StatusCode, Value), ApiError> {
        if swarms.first().is_some_and(Option::is_some) {
            rewriting::check(&self.asked)?;
        }
        // Those with settings first: an address that one asks for is not to be another's by chance.
        for (endpoint, known_as) in self.endpoints.iter_mut().zip(swarms).rev() {
            if let Some(known_as) = known_as {
                let reference = &endpoint.reference;
                let attached = attach(&self.attachments, reference, &known_as, endpoint).await?;
                endpoint.attached = Some(attached);
            }
        }
        if let Some(too_many) = rewriting::merge(&mut self.endpoints) {
            self.attachments.give_up(&too_many.task_id).await;
        }
        let connects = rewriting::create(&mut self.asked, &self.endpoints);
        let engine = &self.local.engine;
        let request = http::Request::post(self.uri.clone());
        let (status, answer) = engine.ask(request, &self.asked).await?;
        let id = answer["Id"].as_str().unwrap_or_default().to_owned();
        if status != StatusCode::CREATED || id.is_empty() {
            return Ok((status, answer));
        }
        for connect in &connects {
            if let Some(refusal) = self.connect(&id, connect).await {
                self.remove(&id).await;
                return refusal;
            }
        }
        Ok((status, answer))
    }

    /// What the client is told if it fails.
    async fn connect(
        &self,
        id: &str,
        connect: &Connect,
    ) -> Option<Result<(StatusCode, Value), ApiError>> {
        let path = format!("/networks/{}/connect", encoded(&connect.network));
        let body = json!({ "Container": id, "EndpointConfig": connect.settings });
        match self
            .local
            .engine
            .ask(http::Request::post(path), &body)
            .await
        {
            Ok((StatusCode::OK, _)) => None,
            refusal => Some(refusal),
        }
    }

    async fn remove(&self, id: &str) {
        let path = format!("/containers/{id}?force=true&v=true");
        let request = http::Request::delete(path);
        match self.local.engine.ask(request, &Value::Null).await {
            Ok((status, _)) if status.is_success() => {}
            Ok((status, answer)) => {
                tracing::warn!(container = id, %status, %answer, "a half-made container stays");
            }
            Err(error) => tracing::warn!(container = id, %error, "a half-made container stays"),
        }
    }
}

/// `POST /networks/{id}/connect`
pub async fn connect(
    State(local): State<Local>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    // First: a client that is still writing would not see a refusal.
    let body = body::read(body).await?;
    let known_as = match local.member.attachments() {
        Some(attachments) => local.swarms(&id).await?.map(|known| (attachments, known)),
        None => None,
    };
    let Some((attachments, known_as)) = known_as else {
        let request = Request::from_parts(parts, Body::from(body));
        return Ok(local.pass_to_engine(request).await);
    };
    let asked: Value = serde_json::from_slice(&body)
        .map_err(|error| ApiError::invalid(format!("invalid JSON: {error}")))?;
    let connecting = tokio::spawn(async move {
        let (status, answer) = join(&local, &attachments, &id, &known_as, &asked).await?;
        Ok(passed_on(status, &answer))
    });
    connecting.await.map_err(|_| ApiError::internal(BROKE))?
}

async fn join(
    local: &Local,
    attachments: &Attachments,
    reference: &str,
    known_as: &str,
    asked: &Value,
) -> Result<(StatusCode, Value), ApiError> {
    let name = asked["Container"].as_str().unwrap_or_default();
    if name.is_empty() {
        return Err(ApiError::invalid("no container is named to connect"));
    }
    let path = format!("/containers/{}/json", encoded(name));
    let container = local.engine.get(&path).await?;
    if container["Config"]["Labels"].get(LABEL_TASK).is_some() {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            format!("container {name} is a task of a service: its networks are the service's"),
        ));
    }
    let twins = local.twins().await?;
    let endpoint = Endpoint::new(reference, &asked["EndpointConfig"]);
    let attached = attach(attachments, reference, known_as, &endpoint).await?;
    let networks = container["NetworkSettings"]["Networks"].as_object();
    let mut networks = networks.into_iter().flatten();
    let present = networks.find(|(_, network)| network["NetworkID"] == attached.twin.as_str());
    let joined = if let Some((network, _)) = present {
        let name = container["Name"].as_str().unwrap_or(name);
        let name = name.trim_start_matches('/');
        Err(ApiError::new(
            StatusCode::FORBIDDEN,
            format!("{name} is already attached to network {network}"),
        ))
    } else {
        let body = rewriting::connect(asked, &container, &twins, &attached);
        let path = format!("/networks/{}/connect", encoded(&attached.twin));
        local.engine.ask(http::Request::post(path), &body).await
    };
    match &joined {
        Ok((StatusCode::OK, _)) => attachments.settle(&attached.task_id),
        _ => attachments.give_up(&attached.task_id).await,
    }
    joined
}

/// `POST /networks/{id}/disconnect`
pub async fn disconnect(
    State(local): State<Local>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let Some(attachments) = local.member.attachments() else {
        return Ok(local.pass_to_engine(request).await);
    };
    let (parts, body) = request.into_parts();
    let body = body::read(body).await?;
    let twin = match local.engines_network(&id).await? {
        Some(network) if shape::twin_of(&network).is_some() => Some(network),
        Some(_) => None,
        None => local.twin(&id).await?,
    };
    let Some(twin) = twin.as_ref().and_then(|twin| twin["Id"].as_str()) else {
        let request = Request::from_parts(parts, Body::from(body));
        return Ok(local.pass_to_engine(request).await);
    };
    let asked: Value = serde_json::from_slice(&body)
        .map_err(|error| ApiError::invalid(format!("invalid JSON: {error}")))?;
    let path = format!("/networks/{twin}/disconnect");
    let (status, answer) = local.engine.ask(http::Request::post(path), &asked).await?;
    attachments.look_soon();
    Ok(passed_on(status, &answer))
}

/// An answer of the engine's, which may be empty.
fn passed_on(status: StatusCode, answer: &Value) -> Response {
    match answer {
        Value::Null => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = status;
            response
        }
        answer => json::respond(status, answer),
    }
}
