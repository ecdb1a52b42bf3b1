//! Which of the swarm's networks a list asks for. Pure.

use super::shape;
use crate::api::filters::Filters;
use serde_json::Value;
use skein_model::Network;
use std::collections::BTreeMap;

/// The filters of lists of networks.
pub const FILTERS: [&str; 7] = [DANGLING, "driver", "id", LABEL, "name", "scope", "type"];
/// The one that says whether networks are to be in use.
pub const DANGLING: &str = "dangling";
/// The one by label.
pub const LABEL: &str = "label";

/// Whether a list asks for a network of the swarm, which is in use or is not.
pub fn asks_for(filters: &Filters, network: &Network, is_used: impl Fn() -> bool) -> bool {
    let spec = &network.spec;
    !spec.predefined
        && fits(filters, &network.id, &spec.name, &spec.driver, &spec.labels)
        && filters.any(DANGLING, |on| matches!(on, "true" | "1") != is_used())
}

/// Whether a list asks for the network of the swarm that a twin stands for, which has been made
/// [what it stands for](shape::from_twin), whether it is in use or not.
pub fn asks_for_twin(filters: &Filters, network: &Value) -> bool {
    let text = |field: &str| network[field].as_str().unwrap_or_default();
    let labels = network["Labels"].as_object().into_iter().flatten();
    let labels = labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
    fits(
        filters,
        text("Id"),
        text("Name"),
        text("Driver"),
        &labels.collect(),
    )
}

fn fits(
    filters: &Filters,
    id: &str,
    name: &str,
    driver: &str,
    labels: &BTreeMap<String, String>,
) -> bool {
    filters.any("driver", |asked| asked == driver)
        && filters.any("id", |asked| id.contains(asked))
        && filters.any("name", |asked| name.contains(asked))
        && filters.any("scope", |asked| asked == shape::SCOPE)
        && filters.any("type", |asked| asked == "custom")
        && filters.labels(LABEL, labels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_twin_is_asked_for_as_what_it_stands_for() {
        let network = json!({
            "Id": "n1abc", "Name": "front", "Driver": "overlay", "Scope": "swarm",
            "Labels": {"tier": "web", "a": "1"},
        });
        for (filters, expected) in [
            (json!({}), true),
            (json!({"driver": ["overlay", "bridge"]}), true),
            (json!({"driver": ["skein"]}), false),
            (json!({"scope": ["swarm"]}), true),
            (json!({"scope": ["local"]}), false),
            (json!({"label": ["tier=web", "a"]}), true),
            (json!({"label": ["tier=web", "b"]}), false),
            (json!({"label": ["com.skein.network"]}), false),
            (json!({"name": ["ron"]}), true),
            (json!({"id": ["1ab"]}), true),
            (json!({"id": ["ffff"]}), false),
            (json!({"type": ["custom"]}), true),
            (json!({"type": ["builtin"]}), false),
        ] {
            let read = Filters::parse(&filters.to_string(), &FILTERS).unwrap();
            assert_eq!(asks_for_twin(&read, &network), expected, "{filters}");
            let mut of_swarm = Network {
                id: "n1abc".into(),
                ..Network::default()
            };
            of_swarm.spec.name = "front".into();
            of_swarm.spec.driver = "overlay".into();
            let labels = [("tier", "web"), ("a", "1")];
            let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
            of_swarm.spec.labels = labels.into();
            assert_eq!(asks_for(&read, &of_swarm, || true), expected, "{filters}");
        }
    }
}
