//! Networks of the swarm as Docker shows them.

use crate::agent::engine::TWIN_LABEL;
use serde_json::{Value, json};
use skein_model::Network;
use std::collections::BTreeMap;

/// Where Docker puts the VXLAN network identifiers.
const VNI_OPTION: &str = "com.docker.network.driver.overlay.vxlanid_list";

/// What the user asked for, and the network identifier.
fn options(network: &Network) -> BTreeMap<String, String> {
    let mut options = network.spec.options.clone();
    if let Some(allocation) = &network.allocation {
        options.insert(VNI_OPTION.into(), allocation.vni.to_string());
    }
    options
}

/// The subnets: as given by the allocator, or else as asked for.
fn ipam_config(network: &Network) -> Value {
    match &network.allocation {
        Some(allocation) => {
            let mut config = json!({"Subnet": allocation.subnet, "Gateway": allocation.gateway});
            if allocation.range != allocation.subnet {
                config["IPRange"] = allocation.range.to_string().into();
            }
            json!([config])
        }
        None => json!(network.spec.ipam.config),
    }
}

/// As in `GET /networks`.
pub fn shown(network: &Network) -> Value {
    let spec = &network.spec;
    json!({
        "Name": spec.name,
        "Id": network.id,
        "Created": network.meta.created_at,
        "Scope": "swarm",
        "Driver": spec.driver,
        "EnableIPv4": true,
        "EnableIPv6": spec.enable_ipv6,
        "IPAM": {
            "Driver": if spec.ipam.driver.is_empty() { "default" } else { &spec.ipam.driver },
            "Options": null,
            "Config": ipam_config(network),
        },
        "Internal": spec.internal,
        "Attachable": spec.attachable,
        "Ingress": spec.ingress,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": false,
        "Containers": null,
        "Options": options(network),
        "Labels": if spec.labels.is_empty() { Value::Null } else { json!(spec.labels) },
    })
}

/// What the user asked of the driver; the swarm's own ingress network is without.
fn driver_configuration(network: &Network) -> Value {
    let spec = &network.spec;
    if spec.ingress {
        return json!({});
    }
    let mut driver = json!({"Name": spec.driver});
    if !spec.options.is_empty() {
        driver["Options"] = json!(spec.options);
    }
    driver
}

/// The same of its addresses.
fn ipam_options(network: &Network) -> Value {
    let spec = &network.spec;
    let mut options = match spec.ingress {
        true => json!({"Driver": {}}),
        false => json!({"Driver": {"Name": "default"}}),
    };
    if !spec.ipam.config.is_empty() {
        options["Configs"] = json!(spec.ipam.config);
    }
    options
}

/// As in `NetworksAttachments` of a task.
pub fn in_task(network: &Network) -> Value {
    let spec = &network.spec;
    let mut shown = json!({
        "Name": spec.name,
        "Labels": spec.labels,
        "DriverConfiguration": driver_configuration(network),
        "IPAMOptions": ipam_options(network),
        "Scope": "swarm",
    });
    for (name, on) in [
        ("Internal", spec.internal),
        ("Attachable", spec.attachable),
        ("Ingress", spec.ingress),
        ("IPv6Enabled", spec.enable_ipv6),
    ] {
        if on {
            shown[name] = true.into();
        }
    }
    json!({
        "ID": network.id,
        "Version": network.meta.version,
        "CreatedAt": network.meta.created_at,
        "UpdatedAt": network.meta.updated_at,
        "Spec": shown,
        "DriverState": {"Name": spec.driver, "Options": options(network)},
        "IPAMOptions": {"Driver": {"Name": "default"}, "Configs": ipam_config(network)},
    })
}

/// The ID of the swarm's network whose twin this network of the engine is.
pub fn twin_of(engines: &Value) -> Option<&str> {
    engines["Labels"][TWIN_LABEL].as_str()
}

/// A twin as the network that it stands for: what workers know of it.
pub fn from_twin(twin: &mut Value) {
    let Some(id) = twin_of(twin).map(str::to_owned) else {
        return;
    };
    twin["Id"] = id.into();
    twin["Driver"] = "overlay".into();
    twin["Scope"] = "swarm".into();
    twin["IPAM"]["Driver"] = "default".into();
    twin["IPAM"]["Options"] = Value::Null;
    if let Some(labels) = twin["Labels"].as_object_mut() {
        labels.remove(TWIN_LABEL);
    }
    if let Some(options) = twin["Options"].as_object_mut() {
        options.retain(|name, _| !name.starts_with("skein."));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_model::{NetworkAllocation, NetworkSpec};

    #[test]
    fn a_network_has_dockers_shape() {
        let network = Network {
            id: "n1".into(),
            spec: NetworkSpec {
                name: "web".into(),
                driver: "overlay".into(),
                attachable: true,
                ..NetworkSpec::default()
            },
            allocation: Some(NetworkAllocation {
                vni: 4097,
                subnet: "10.0.1.0/24".parse().unwrap(),
                gateway: "10.0.1.1".parse().unwrap(),
                range: "10.0.1.0/24".parse().unwrap(),
            }),
            ..Network::default()
        };
        assert_eq!(
            shown(&network),
            json!({
                "Name": "web", "Id": "n1", "Created": "0001-01-01T00:00:00Z", "Scope": "swarm",
                "Driver": "overlay", "EnableIPv4": true, "EnableIPv6": false,
                "IPAM": {"Driver": "default", "Options": null,
                    "Config": [{"Subnet": "10.0.1.0/24", "Gateway": "10.0.1.1"}]},
                "Internal": false, "Attachable": true, "Ingress": false,
                "ConfigFrom": {"Network": ""}, "ConfigOnly": false, "Containers": null,
                "Options": {"com.docker.network.driver.overlay.vxlanid_list": "4097"}, "Labels": null,
            })
        );
        let in_task = in_task(&network);
        assert_eq!(in_task["Spec"]["Attachable"], true);
        assert_eq!(in_task["Spec"].get("Ingress"), None);
        assert_eq!(
            in_task["IPAMOptions"]["Configs"][0]["Subnet"],
            "10.0.1.0/24"
        );
    }

    #[test]
    fn a_twin_is_shown_as_what_it_stands_for() {
        let mut twin = json!({
            "Name": "web", "Id": "ffff", "Driver": "skein", "Scope": "local",
            "IPAM": {"Driver": "skein", "Options": {}, "Config": []},
            "Options": {"skein.network": "n1"}, "Labels": {"com.skein.network": "n1", "a": "b"},
        });
        from_twin(&mut twin);
        assert_eq!(
            twin,
            json!({
                "Name": "web", "Id": "n1", "Driver": "overlay", "Scope": "swarm",
                "IPAM": {"Driver": "default", "Options": null, "Config": []},
                "Options": {}, "Labels": {"a": "b"},
            })
        );
    }
}
