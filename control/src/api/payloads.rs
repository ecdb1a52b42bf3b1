//! `/secrets` and `/configs`

use super::{
    Leader, Local, body, error::ApiError, filters::Filters, json, query::Params,
    version::ApiVersion,
};
use crate::{manager::Plugins, raft::ProposeError};
use axum::{
    body::Body,
    extract::{Path, Request, State},
    response::Response,
};
use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};
use skein_model::{
    Action, Config, Kind, LookupError, Meta, Object, PayloadSpec, Rejection, Secret,
    State as Model, Version, new_id,
};
use skein_orchestration::validate::{self, SpecError};
use std::sync::Arc;
use tonic::Code;

/// The oldest version of the API that knows templates.
const TEMPLATING_SINCE: ApiVersion = ApiVersion::new(1, 37);

/// What secrets and configs differ in.
pub trait Kept: Clone + Serialize + Into<Object> + 'static {
    /// Which of the two.
    const KIND: Kind;
    /// Filters of lists.
    const FILTERS: &'static [&'static str];
    /// Whether clients may see the data.
    const SHOWS_DATA: bool;

    /// A new one.
    fn new(id: String, spec: PayloadSpec) -> Self;
    /// Its ID.
    fn id(&self) -> &str;
    /// Its version and times.
    fn meta_mut(&mut self) -> &mut Meta;
    /// What the user gave.
    fn spec(&self) -> &PayloadSpec;
    /// The same, to be changed.
    fn spec_mut(&mut self) -> &mut PayloadSpec;
    /// All of them.
    fn all(state: &Model) -> Vec<Arc<Self>>;
    /// One by ID, name or prefix of the ID.
    fn find<'a>(state: &'a Model, reference: &str) -> Result<&'a Arc<Self>, LookupError>;
    /// Checks one that is to be created.
    fn check(spec: &PayloadSpec) -> Result<(), SpecError>;
}

/// Both have the same fields; the names of the store's and the validation's functions differ.
macro_rules! kept {
    (
        $type:ident, $filters:expr, $shows_data:expr,
        $all:ident, $find:ident, $check:ident
    ) => {
        impl Kept for $type {
            const KIND: Kind = Kind::$type;
            const FILTERS: &'static [&'static str] = &$filters;
            const SHOWS_DATA: bool = $shows_data;

            fn new(id: String, spec: PayloadSpec) -> Self {
                Self {
                    id,
                    spec,
                    meta: Meta::default(),
                }
            }
            fn id(&self) -> &str {
                &self.id
            }
            fn meta_mut(&mut self) -> &mut Meta {
                &mut self.meta
            }
            fn spec(&self) -> &PayloadSpec {
                &self.spec
            }
            fn spec_mut(&mut self) -> &mut PayloadSpec {
                &mut self.spec
            }
            fn all(state: &Model) -> Vec<Arc<Self>> {
                state.$all().cloned().collect()
            }
            fn find<'a>(state: &'a Model, reference: &str) -> Result<&'a Arc<Self>, LookupError> {
                state.$find(reference)
            }
            fn check(spec: &PayloadSpec) -> Result<(), SpecError> {
                validate::$check(spec)
            }
        }
    };
}

kept!(
    Secret,
    ["id", "label", "name", "names"],
    false,
    secrets,
    find_secret,
    check_secret
);
kept!(
    Config,
    ["id", "label", "name"],
    true,
    configs,
    find_config,
    check_config
);

pub async fn list<T: Kept>(
    State(leader): State<Leader>,
    params: Params,
) -> Result<Response, ApiError> {
    let filters = Filters::parse(params.text("filters"), T::FILTERS)?;
    let state = leader.read().await?;
    let found = T::all(&state)
        .into_iter()
        .filter(|object| passes(&filters, object.id(), object.spec()))
        .map(|object| shown(&*object))
        .collect::<Result<_, _>>()?;
    Ok(json::ok(&Value::Array(found)))
}

/// Unlike those of other kinds, filters by ID and by name are alternatives.
fn passes(filters: &Filters, id: &str, spec: &PayloadSpec) -> bool {
    let matches = |key: &str, passes: &dyn Fn(&str) -> bool| {
        filters.values(key).iter().any(|value| passes(value))
    };
    let keys = ["id", "name", "names"];
    let named = keys.iter().any(|key| !filters.values(key).is_empty());
    let found = matches("id", &|prefix| id.starts_with(prefix))
        || matches("name", &|prefix| spec.name.starts_with(prefix))
        || matches("names", &|name| spec.name == name);
    (!named || found) && filters.labels("label", &spec.labels)
}

/// As the API shows it: a secret without its data.
fn shown<T: Kept>(object: &T) -> Result<Value, ApiError> {
    if T::SHOWS_DATA {
        return json::shown(object);
    }
    let mut bare = object.clone();
    bare.spec_mut().data = Default::default();
    json::shown(&bare)
}

pub async fn inspect<T: Kept>(
    State(leader): State<Leader>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let state = leader.read().await?;
    Ok(json::ok(&shown(&**T::find(&state, &id)?)?))
}

pub async fn create<T: Kept>(
    State(leader): State<Leader>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let mut spec: PayloadSpec = json::parse_as(&body)?;
    if T::KIND == Kind::Config {
        // The API has no such field there.
        spec.driver = None;
    }
    T::check(&spec)?;
    if let Some(driver) = &spec.driver {
        let checked = Plugins::default().check(&driver.name).await;
        checked.map_err(|error| ApiError::rpc(Code::Unknown, error))?;
    }
    let (id, name) = (new_id(&mut rand::rng()), spec.name.clone());
    let object = T::new(id.clone(), spec);
    let created = leader.propose(Action::Create(object.into()));
    match created.await {
        Err(ProposeError::Rejected(Rejection::NameConflict { kind, .. })) => Err(ApiError::rpc(
            Code::AlreadyExists,
            format_args!("{kind} {name} already exists"),
        )),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(json::respond(StatusCode::CREATED, &json!({"ID": id}))),
    }
}

/// A create on its way to the leader, which does not learn what version of the API it is of.
pub async fn create_of_version(
    State(local): State<Local>,
    version: ApiVersion,
    request: Request,
) -> Result<Response, ApiError> {
    if version >= TEMPLATING_SINCE {
        return Ok(local.cluster.call(request).await);
    }
    let kind = if request.uri().path().starts_with("/secrets") {
        Kind::Secret
    } else {
        Kind::Config
    };
    let (parts, body) = request.into_parts();
    let body = body::read(body).await?;
    check_version(kind, version, &body)?;
    let request = Request::from_parts(parts, Body::from(body));
    Ok(local.cluster.call(request).await)
}

fn check_version(kind: Kind, version: ApiVersion, body: &[u8]) -> Result<(), ApiError> {
    let spec: PayloadSpec = json::parse_as(body)?;
    if version < TEMPLATING_SINCE && spec.templating.is_some() {
        return Err(ApiError::invalid(format!(
            "{kind} templating is not supported on the specified API version: {version}"
        )));
    }
    Ok(())
}

pub async fn update<T: Kept>(
    State(leader): State<Leader>,
    Path(id): Path<String>,
    params: Params,
    body: Bytes,
) -> Result<StatusCode, ApiError> {
    let spec: PayloadSpec = json::parse_as(&body)?;
    let index = params
        .text("version")
        .parse()
        .map_err(|_| ApiError::invalid(format!("invalid {} version", T::KIND)))?;
    let state = leader.read().await?;
    let mut object = T::clone(T::find(&state, &id)?);
    validate::check_payload_update(object.spec(), &spec)?;
    object.meta_mut().version = Version { index };
    object.spec_mut().labels = spec.labels;
    leader.write(Action::Update(object.into())).await?;
    Ok(StatusCode::OK)
}

pub async fn remove<T: Kept>(
    State(leader): State<Leader>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let state = leader.read().await?;
    let object = T::find(&state, &id)?;
    let (kind, id, version) = (T::KIND, object.id().to_owned(), None);
    leader.write(Action::Remove { kind, id, version }).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests;
