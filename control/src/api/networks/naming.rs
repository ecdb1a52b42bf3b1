//! Networks that services name. What the swarm has not, the engine of the manager that is asked may have: of those
//! that every engine has, the swarm has its own, and others are no services' to use.

use super::shape;
use crate::api::{Local, error::ApiError};
use http::StatusCode;
use serde_json::Value;
use skein_model::State as Model;

/// Those of every engine that the swarm has, too.
const PREDEFINED: [&str; 2] = ["bridge", "host"];
/// The one of every engine that it has not.
const NONE: &str = "none";

/// Puts the swarm's networks in the place of the engine's that a service's spec names. True: there were such.
///
/// # Errors
/// The spec names a network that is the engine's alone.
pub async fn name(local: &Local, state: &Model, spec: &mut Value) -> Result<bool, ApiError> {
    let mut is_renamed = false;
    for target in targets(spec) {
        let Some(reference) = target.as_str().filter(|reference| !reference.is_empty()) else {
            continue;
        };
        if state.find_network(reference).is_ok() {
            continue;
        }
        if let Some(name) = local.in_place_of(reference).await? {
            *target = name.into();
            is_renamed = true;
        }
    }
    Ok(is_renamed)
}

/// The networks that a service's spec names: those of its tasks, or else where older clients name them.
fn targets(spec: &mut Value) -> impl Iterator<Item = &mut Value> {
    let of_tasks = spec["TaskTemplate"]["Networks"].as_array();
    let pointer = match of_tasks.is_none_or(Vec::is_empty) {
        true => "/Networks",
        false => "/TaskTemplate/Networks",
    };
    let networks = spec.pointer_mut(pointer).and_then(Value::as_array_mut);
    let networks = networks.into_iter().flatten();
    networks.filter_map(|network| network.get_mut("Target"))
}

impl Local {
    /// The name of the swarm's network that stands for one of the engine's; `None` where the engine has none
    /// either, or none of its own.
    async fn in_place_of(&self, reference: &str) -> Result<Option<String>, ApiError> {
        // An engine that is away, or finds several, has nothing to say of what may be the swarm's.
        let found = self.engines_network(reference).await.ok().flatten();
        let found = found.filter(|network| shape::twin_of(network).is_none());
        let name = found.as_ref().and_then(|network| network["Name"].as_str());
        match name {
            None => Ok(None),
            Some(name) if PREDEFINED.contains(&name) => Ok(Some(name.to_owned())),
            Some(NONE) => Err(ApiError::not_found(format!(
                "could not find the corresponding predefined swarm network: network {NONE} not found"
            ))),
            Some(name) => Err(ApiError::new(
                StatusCode::FORBIDDEN,
                format!(
                    "The network {name} cannot be used with services. Only networks scoped to the swarm can be \
                     used, such as those created with the overlay driver."
                ),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn networks_are_named_for_the_tasks_or_as_older_clients_do() {
        let of_tasks = json!([{"Target": "a"}, {"Target": "b"}, {"Aliases": ["c"]}]);
        let older = json!([{"Target": "d"}]);
        for (mut spec, expected) in [
            (
                json!({"TaskTemplate": {"Networks": of_tasks}, "Networks": older}),
                &["a", "b"][..],
            ),
            (
                json!({"TaskTemplate": {"Networks": []}, "Networks": older}),
                &["d"],
            ),
            (json!({"Networks": older}), &["d"]),
            (json!({"TaskTemplate": {"Networks": "odd"}}), &[]),
            (Value::Null, &[]),
        ] {
            let found: Vec<_> = targets(&mut spec).collect();
            assert_eq!(found, expected);
        }
    }
}
