//! Networks of the swarm as Docker shows them.

use crate::agent::engine::{CONFIG_LABEL, DRIVER, TWIN_LABEL};
use serde_json::{Value, json};
use skein_model::{DEFAULT_IPAM, Network, OVERLAY};
use skein_orchestration::allocator::VNI_OPTION;
use skein_proto::plugin::OWN_OPTIONS;
use std::collections::BTreeMap;

/// The scope of the swarm's networks.
pub const SCOPE: &str = "swarm";

/// What Swarm adds to options for the driver of addresses: the next one is given before those that were
/// given back.
const SERIAL_OPTION: &str = "com.docker.network.ipam.serial";

/// What the user asked for, and the network identifiers.
fn options(network: &Network) -> BTreeMap<String, String> {
    let mut options = network.spec.options.clone();
    if let Some(allocation) = &network.allocation {
        let vnis: Vec<_> = allocation
            .subnets
            .iter()
            .map(|s| s.vni.to_string())
            .collect();
        options.insert(VNI_OPTION.into(), vnis.join(","));
    }
    options
}

/// The subnets: as given by the allocator, or else as asked for. Those of the nodes are their own.
fn ipam_config(network: &Network) -> Value {
    if network.spec.is_node_local() {
        return json!([]);
    }
    match &network.allocation {
        Some(allocation) => {
            let subnets = allocation.subnets.iter().map(|given| {
                let mut config = json!({"Subnet": given.subnet, "Gateway": given.gateway});
                if given.range != given.subnet {
                    config["IPRange"] = given.range.to_string().into();
                }
                config
            });
            subnets.collect()
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
        "Scope": SCOPE,
        "Driver": spec.driver,
        "EnableIPv4": true,
        "EnableIPv6": spec.enable_ipv6,
        "IPAM": {
            "Driver": if spec.is_node_local() { "" } else { DEFAULT_IPAM },
            "Options": driver_of_addresses(network).get("Options"),
            "Config": ipam_config(network),
        },
        "Internal": spec.internal,
        "Attachable": spec.attachable,
        "Ingress": spec.ingress,
        "ConfigFrom": {"Network": spec.config_from().unwrap_or_default()},
        "ConfigOnly": false,
        "Containers": null,
        "Options": if spec.is_node_local() { Value::Null } else { json!(options(network)) },
        "Labels": if spec.labels.is_empty() { Value::Null } else { json!(spec.labels) },
    })
}

/// Who gives the addresses, and how; of networks of the nodes nobody in the swarm does.
fn driver_of_addresses(network: &Network) -> Value {
    let options = &network.spec.ipam.options;
    if network.spec.is_node_local() {
        return json!({});
    }
    let mut driver = json!({"Name": DEFAULT_IPAM});
    if !options.is_empty() {
        driver["Options"] = json!(options);
        driver["Options"][SERIAL_OPTION] = "true".into();
    }
    driver
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
        false => json!({"Driver": {"Name": DEFAULT_IPAM}}),
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
        "Scope": SCOPE,
    });
    // Nobody asked for those that every engine has.
    if !spec.predefined {
        shown["IPAMOptions"] = ipam_options(network);
    }
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
    if let Some(from) = spec.config_from() {
        shown["ConfigFrom"] = json!({"Network": from});
    }
    let mut driver = json!({"Name": spec.driver});
    let mut ipam = json!({"Driver": driver_of_addresses(network)});
    if !spec.is_node_local() {
        driver["Options"] = json!(options(network));
        ipam["Configs"] = ipam_config(network);
    }
    json!({
        "ID": network.id,
        "Version": network.meta.version,
        "CreatedAt": network.meta.created_at,
        "UpdatedAt": network.meta.updated_at,
        "Spec": shown,
        "DriverState": driver,
        "IPAMOptions": ipam,
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
    twin["Scope"] = SCOPE.into();
    if twin["Driver"] == DRIVER {
        twin["Driver"] = OVERLAY.into();
        twin["IPAM"]["Driver"] = "default".into();
        twin["IPAM"]["Options"] = Value::Null;
    }
    let mut config_from = None;
    if let Some(labels) = twin["Labels"].as_object_mut() {
        labels.remove(TWIN_LABEL);
        config_from = labels.remove(CONFIG_LABEL);
    }
    if let Some(name) = config_from {
        twin["ConfigFrom"] = json!({"Network": name});
    }
    if let Some(options) = twin["Options"].as_object_mut() {
        options.retain(|name, _| !name.starts_with(OWN_OPTIONS));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_model::{NetworkSpec, SubnetAllocation};

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
            allocation: Some(SubnetAllocation::whole(4097, "10.0.1.0/24".parse().unwrap()).into()),
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
    fn a_network_of_the_nodes_has_no_more_than_they_have() {
        let spec = json!({
            "Name": "lan", "Driver": "macvlan", "ConfigFrom": {"Network": "lan-here"},
            "Options": {"parent": "none"}, "IPAM": {"Config": [{"Subnet": "10.9.0.0/24"}]},
        });
        let network = Network {
            spec: serde_json::from_value(spec).unwrap(),
            ..Network::default()
        };
        let shown = shown(&network);
        assert_eq!(
            shown["IPAM"],
            json!({"Driver": "", "Options": null, "Config": []})
        );
        assert_eq!(shown["Options"], Value::Null);
        assert_eq!(shown["ConfigFrom"], json!({"Network": "lan-here"}));
        let in_task = in_task(&network);
        assert_eq!(in_task["DriverState"], json!({"Name": "macvlan"}));
        assert_eq!(in_task["IPAMOptions"], json!({"Driver": {}}));
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

        let mut twin = json!({
            "Name": "lan", "Id": "ffff", "Driver": "macvlan", "Scope": "local",
            "ConfigFrom": {"Network": ""}, "IPAM": {"Driver": "default", "Config": []},
            "Options": {"parent": "eth0"},
            "Labels": {"com.skein.network": "n1", "com.skein.config-from": "lan-here"},
        });
        from_twin(&mut twin);
        assert_eq!(
            twin,
            json!({
                "Name": "lan", "Id": "n1", "Driver": "macvlan", "Scope": "swarm",
                "ConfigFrom": {"Network": "lan-here"}, "IPAM": {"Driver": "default", "Config": []},
                "Options": {"parent": "eth0"}, "Labels": {},
            })
        );
    }
}
