//! `/services`

use super::{
    Leader, error::ApiError, filters::Filters, json, query::Params, random_names, spec,
    version::ApiVersion,
};
use crate::clock;
use axum::{
    extract::{Path, State},
    response::Response,
};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use skein_model::{
    Action, Kind, Object, Service, ServiceMode, ServiceSpec, State as Model, Task, TaskState,
    new_id,
};
use skein_orchestration::{revision, validate};
use tonic::Code;

const FILTERS: [&str; 5] = ["id", "name", "label", "mode", "runtime"];

/// Carries the registry's credentials, for the nodes that pull the image.
pub(super) const REGISTRY_AUTH: &str = "x-registry-auth";

/// The first version in which a list can tell how many tasks run.
const STATUS_SINCE: ApiVersion = ApiVersion::new(1, 41);

pub async fn list(
    State(leader): State<Leader>,
    version: ApiVersion,
    params: Params,
) -> Result<Response, ApiError> {
    let filters = Filters::parse(params.text("filters"), &FILTERS)?;
    let with_status = params.flag("status") && version >= STATUS_SINCE;
    let state = leader.read().await?;
    let services = state
        .services()
        .filter(|service| passes(&filters, service))
        .map(|service| {
            let mut value = shown(service)?;
            if with_status {
                value["ServiceStatus"] = status(&state, service);
            }
            Ok(value)
        })
        .collect::<Result<_, ApiError>>()?;
    Ok(json::ok(&Value::Array(services)))
}

fn passes(filters: &Filters, service: &Service) -> bool {
    let mode = match service.spec.mode {
        ServiceMode::Replicated { .. } => "replicated",
        ServiceMode::Global {} => "global",
        ServiceMode::ReplicatedJob { .. } => "replicated-job",
        ServiceMode::GlobalJob {} => "global-job",
    };
    filters.any("id", |id| service.id.starts_with(id))
        && filters.any("name", |name| service.spec.name.starts_with(name))
        && filters.any("mode", |wanted| wanted == mode)
        && filters.any("runtime", |wanted| wanted == "container")
        && filters.labels("label", &service.spec.labels)
}

/// How many tasks run, how many should, and how many of a job's present run are complete.
fn status(state: &Model, service: &Service) -> Value {
    let count = |passes: &dyn Fn(&Task) -> bool| {
        let tasks = state.tasks_of_service(&service.id);
        tasks.filter(|task| passes(task)).count() as u64
    };
    let is_complete = |task: &Task| task.status.state == TaskState::Complete;
    let desired = match service.spec.mode {
        ServiceMode::Replicated { replicas } => replicas,
        ServiceMode::ReplicatedJob { max_concurrent, .. } => max_concurrent,
        ServiceMode::Global {} => count(&|task| task.desired_state == TaskState::Running),
        ServiceMode::GlobalJob {} => {
            count(&|task| task.desired_state == TaskState::Complete && !is_complete(task))
        }
    };
    let iteration = service.job_iteration();
    let completed =
        |task: &Task| iteration.is_some() && task.job_iteration == iteration && is_complete(task);
    json!({
        "RunningTasks": count(&|task| task.status.state == TaskState::Running),
        "DesiredTasks": desired,
        "CompletedTasks": count(&completed),
    })
}

/// All checks of a spec, whose networks become IDs.
fn check(state: &Model, current: Option<&Service>, spec: &mut ServiceSpec) -> Result<(), ApiError> {
    validate::resolve_networks(state, spec)?;
    Ok(validate::check_service(state, current, spec)?)
}

pub async fn inspect(
    State(leader): State<Leader>,
    Path(id): Path<String>,
    params: Params,
) -> Result<Response, ApiError> {
    let defaults = params.strict_flag("insertDefaults").map_err(|error| {
        let text = params.text("insertDefaults");
        ApiError::invalid(format!(
            "{error}: strconv.ParseBool: parsing \"{text}\": invalid syntax"
        ))
    })?;
    let state = leader.read().await?;
    let mut service = Service::clone(state.find_service(&id)?);
    if defaults {
        service.spec = validate::with_defaults(&service.spec);
    }
    Ok(json::ok(&shown(&service)?))
}

/// A service as the API shows it. Until it is given something, its endpoint is empty.
fn shown(service: &Service) -> Result<Value, ApiError> {
    let mut value = json::shown(service)?;
    if service.endpoint.ports.is_empty() && service.endpoint.virtual_ips.is_empty() {
        value["Endpoint"] = json!({"Spec": {}});
    }
    Ok(value)
}

pub async fn create(
    State(leader): State<Leader>,
    version: ApiVersion,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let mut spec = spec::parse(&body, version)?;
    let state = leader.read().await?;
    let id = new_id(&mut rand::rng());
    if spec.name.is_empty() {
        let taken = |name: &str| state.services().any(|service| service.spec.name == name);
        spec.name = random_names::random(&mut rand::rng(), taken);
    }
    check(&state, None, &mut spec)?;
    let mut service = revision::created(&state, id.clone(), spec, clock::now());
    service.registry_auth = registry_auth(&headers).unwrap_or_default();
    leader.write(Action::Create(Object::from(service))).await?;
    allocated(&leader, &id).await;
    let answer = json!({"ID": id, "Warnings": null});
    Ok(json::respond(StatusCode::CREATED, &answer))
}

fn registry_auth(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(REGISTRY_AUTH)?.to_str().ok()?;
    (!text.is_empty()).then(|| text.to_owned())
}

pub async fn update(
    State(leader): State<Leader>,
    Path(id): Path<String>,
    written_in: ApiVersion,
    params: Params,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let version = params.version("service")?;
    let mut spec = spec::parse(&body, written_in)?;
    let state = leader.read().await?;
    let current = state.find_service(&id)?;
    // Of a rollback too, although nothing of it is used.
    check(&state, Some(current), &mut spec)?;
    let mut service = match params.text("rollback") {
        "" | "none" => updated(&state, current, spec, &params, &headers)?,
        "previous" => rolled_back(&state, current)?,
        other => {
            return Err(ApiError::internal(format!(
                "unrecognized rollback option {other}"
            )));
        }
    };
    service.meta.version = version;
    let id = service.id.clone();
    leader.write(Action::Update(Object::from(service))).await?;
    allocated(&leader, &id).await;
    Ok(json::ok(&json!({"Warnings": null})))
}

/// Waits until a service has its VIPs and ports, or it is said why it has none.
async fn allocated(leader: &Leader, id: &str) {
    let decided = |state: &Model| {
        state.service(id).is_none_or(|service| {
            service.allocated_version == Some(service.spec_version)
                || !service.allocation_error.is_empty()
        })
    };
    // Where it takes longer, the service is there all the same, and gets them later.
    let _ = leader.decided(decided).await;
}

fn updated(
    state: &Model,
    current: &Service,
    spec: ServiceSpec,
    params: &Params,
    headers: &HeaderMap,
) -> Result<Service, ApiError> {
    validate::check_service_update(&current.spec, &spec)?;
    let from = params.text("registryAuthFrom");
    let registry_auth = next_registry_auth(current, headers, from)?;
    let service = revision::updated(state, current, spec, clock::now());
    Ok(Service {
        registry_auth,
        ..service
    })
}

/// The credentials of an updated service: those that the update brings, else those `from` where it says.
fn next_registry_auth(
    current: &Service,
    headers: &HeaderMap,
    from: &str,
) -> Result<String, ApiError> {
    if let Some(given) = registry_auth(headers) {
        return Ok(given);
    }
    match from {
        "" | "spec" => Ok(current.registry_auth.clone()),
        // Without a type in the reference.
        "previous-spec" if current.previous_spec.is_none() => {
            Err(ApiError::internal("service does not have a previous spec"))
        }
        "previous-spec" => Ok(current.previous_registry_auth.clone()),
        other => Err(ApiError::invalid(format!(
            "invalid registryAuthFrom '{other}'"
        ))),
    }
}

fn rolled_back(state: &Model, current: &Service) -> Result<Service, ApiError> {
    revision::rolled_back(state, current, clock::now()).ok_or_else(|| {
        ApiError::rpc(
            Code::FailedPrecondition,
            format_args!("service {} does not have a previous spec", current.id),
        )
    })
}

pub async fn remove(
    State(leader): State<Leader>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let state = leader.read().await?;
    let id = state.find_service(&id)?.id.clone();
    let kind = Kind::Service;
    leader
        .write(Action::Remove {
            kind,
            id,
            version: None,
        })
        .await?;
    Ok(StatusCode::OK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_model::VirtualIp;

    #[test]
    fn credentials_that_are_given_are_kept_from_nowhere() {
        let before = Service {
            registry_auth: "own".into(),
            ..Service::default()
        };
        let mut headers = HeaderMap::new();
        let from = |headers: &HeaderMap, from| {
            let next = next_registry_auth(&before, headers, from);
            next.map_err(|error| (error.status.as_u16(), error.message))
        };
        assert_eq!(from(&headers, "").unwrap(), "own");
        assert_eq!(from(&headers, "spec").unwrap(), "own");
        let none = "service does not have a previous spec";
        let refused = from(&headers, "previous-spec").unwrap_err();
        assert_eq!((refused.0, &*refused.1), (500, none));
        assert_eq!(from(&headers, "x").unwrap_err().0, 400);
        headers.insert("x-registry-auth", "given".parse().unwrap());
        assert_eq!(from(&headers, "previous-spec").unwrap(), "given");
    }

    #[test]
    fn an_endpoint_without_anything_is_empty() {
        let mut service = Service::default();
        let spec = |service: &Service| shown(service).unwrap()["Endpoint"]["Spec"].clone();
        assert_eq!(spec(&service), json!({}));
        service.endpoint.virtual_ips.push(VirtualIp::default());
        assert_eq!(spec(&service), json!({"Mode": "vip"}));
    }
}
