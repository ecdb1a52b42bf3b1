//! The names of fields in requests, whatever their case: Docker's decoder takes any, and clients send them in
//! lower case (docker-py: `{"Mode": {"replicated": …}}`).

use super::json::USERS_MAPS;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, Visitor, value::Error},
    forward_to_deserialize_any,
};
use serde_json::{Map, Value};
use skein_model as model;
use std::{collections::HashMap, sync::LazyLock};

/// Of fields that no type of the model has as its own: those of its variants, and of what it keeps as given.
const OTHERS: [&str; 11] = [
    "Replicas",
    "MaxConcurrent",
    "TotalCompletions",
    "Config",
    "File",
    "Registry",
    "ConfigOnly",
    "ConfigFrom",
    "EnableIPv4",
    "EnableIPv6",
    "CheckDuplicate",
];

/// Every name by its lower-case form.
static NAMES: LazyLock<HashMap<String, &'static str>> = LazyLock::new(|| {
    let names = model_names().into_iter().chain(OTHERS);
    names.map(|name| (name.to_lowercase(), name)).collect()
});

/// Gives the fields of a request their names as the API has them. Keys of maps that are the user's stay.
pub(super) fn normalize(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if fields.keys().any(|name| canonical(name).is_some()) {
                *fields = renamed(std::mem::take(fields));
            }
            for (name, value) in fields {
                if !USERS_MAPS.contains(&name.as_str()) {
                    normalize(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(normalize),
        _ => {}
    }
}

/// The name that is meant, where it is another.
fn canonical(name: &str) -> Option<&'static str> {
    let known = NAMES.get(&name.to_lowercase()).copied();
    known.filter(|known| *known != name)
}

/// What is named exactly goes before what is not.
fn renamed(fields: Map<String, Value>) -> Map<String, Value> {
    let (others, mut renamed): (Map<_, _>, Map<_, _>) = fields
        .into_iter()
        .partition(|(name, _)| canonical(name).is_some());
    for (name, value) in others {
        let name = canonical(&name).map_or(name, str::to_owned);
        renamed.entry(name).or_insert(value);
    }
    renamed
}

fn model_names() -> Vec<&'static str> {
    macro_rules! names_of {
        ($($type:ty),* $(,)?) => {
            [$(names_of::<$type>()),*].concat()
        };
    }
    names_of![
        model::ServiceSpec,
        model::ServiceMode,
        model::TaskSpec,
        model::ContainerSpec,
        model::Privileges,
        model::SelinuxContext,
        model::Seccomp,
        model::AppArmor,
        model::Mount,
        model::BindOptions,
        model::VolumeOptions,
        model::TmpfsOptions,
        model::Driver,
        model::Healthcheck,
        model::DnsConfig,
        model::SecretReference,
        model::ConfigReference,
        model::ReferenceFile,
        model::Ulimit,
        model::ResourceRequirements,
        model::Limits,
        model::Reservations,
        model::GenericResource,
        model::DiscreteResource,
        model::NamedResource,
        model::RestartPolicy,
        model::Placement,
        model::PlacementPreference,
        model::SpreadOver,
        model::NetworkAttachmentConfig,
        model::UpdateConfig,
        model::EndpointSpec,
        model::PortConfig,
        model::Platform,
        model::NetworkSpec,
        model::Ipam,
        model::IpamConfig,
        model::PayloadSpec,
        model::ClusterSpec,
        model::OrchestrationConfig,
        model::RaftConfig,
        model::DispatcherConfig,
        model::CaConfig,
        model::ExternalCa,
        model::EncryptionConfig,
        model::NodeSpec,
        crate::node::InitRequest,
        crate::node::JoinRequest,
        super::swarm::UnlockRequest,
    ]
}

/// The names that a type takes.
fn names_of<'de, T: Deserialize<'de>>() -> Vec<&'static str> {
    let mut names = Vec::new();
    // It is given nothing: what comes of it does not matter.
    let _ = T::deserialize(Probe(&mut names));
    names
}

/// Hears which names are expected.
struct Probe<'a>(&'a mut Vec<&'static str>);

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("names only"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.extend(fields);
        self.deserialize_any(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.extend(variants);
        self.deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn normal(mut value: Value) -> Value {
        normalize(&mut value);
        value
    }

    #[test]
    fn names_are_taken_in_any_case() {
        let service = json!({
            "name": "web",
            "mode": {"replicated": {"replicas": 2}},
            "TASKTEMPLATE": {"containerspec": {"image": "web:1", "dnsconfig": {"nameservers": []}}},
            "endpointspec": {"ports": [{"targetport": 80}]},
        });
        assert_eq!(
            normal(service),
            json!({
                "Name": "web",
                "Mode": {"Replicated": {"Replicas": 2}},
                "TaskTemplate": {"ContainerSpec": {"Image": "web:1", "DNSConfig": {"Nameservers": []}}},
                "EndpointSpec": {"Ports": [{"TargetPort": 80}]},
            })
        );
    }

    #[test]
    fn what_is_the_users_stays() {
        let spec = json!({"Labels": {"name": "x", "MODE": "y"}, "odd": {"Odder": 1}});
        assert_eq!(normal(spec.clone()), spec);
        let twice = json!({"name": "first", "Name": "second"});
        assert_eq!(normal(twice), json!({"Name": "second"}));
    }

    #[test]
    fn no_two_names_differ_by_case_alone() {
        let names: std::collections::BTreeSet<_> =
            model_names().into_iter().chain(OTHERS).collect();
        assert!(names.len() > 150, "{names:?}");
        assert_eq!(NAMES.len(), names.len(), "{names:?}");
    }
}
