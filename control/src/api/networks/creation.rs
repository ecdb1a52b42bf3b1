//! What a create asks for: the body, and what of it is refused before the swarm is asked. Pure.

use crate::api::{error::ApiError, json};
use http::StatusCode;
use serde_json::Value;
use skein_model::{Ipam, IpamConfig, NetworkSpec, OVERLAY};
use std::str::FromStr;
use tonic::Code;

/// Reads the body.
///
/// # Errors
/// 400: it is none.
pub fn parse(value: Value) -> Result<NetworkSpec, ApiError> {
    if value["EnableIPv4"] == false {
        return Err(ApiError::invalid(
            "IPv4 cannot be disabled in a Swarm scoped network",
        ));
    }
    let configs = value["IPAM"]["Config"].as_array();
    let config = configs
        .into_iter()
        .flatten()
        .map(ipam_config)
        .collect::<Result<_, _>>()?;
    let ipam = Ipam {
        driver: value["IPAM"]["Driver"].as_str().unwrap_or_default().into(),
        options: match value["IPAM"].get("Options") {
            None | Some(Value::Null) => Default::default(),
            Some(options) => json::typed(options.clone())?,
        },
        config,
    };
    let mut fields = value;
    if let Some(fields) = fields.as_object_mut() {
        fields.remove("IPAM");
        fields.remove("Predefined");
    }
    let mut spec: NetworkSpec = json::typed(fields)?;
    spec.ipam = ipam;
    if spec.driver.is_empty() {
        spec.driver = OVERLAY.into();
    }
    Ok(spec)
}

fn ipam_config(config: &Value) -> Result<IpamConfig, ApiError> {
    Ok(IpamConfig {
        subnet: address(config, "Subnet", "subnet")?,
        ip_range: address(config, "IPRange", "range")?,
        gateway: address(config, "Gateway", "gateway")?,
        auxiliary_addresses: match config.get("AuxiliaryAddresses") {
            Some(addresses) => json::typed(addresses.clone())?,
            None => Default::default(),
        },
    })
}

fn address<T: FromStr>(config: &Value, field: &str, what: &str) -> Result<Option<T>, ApiError> {
    match config[field].as_str() {
        None | Some("") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| {
            ApiError::rpc(
                Code::InvalidArgument,
                format_args!("ipam configuration: invalid {what} {text}"),
            )
        }),
    }
}

/// Drivers that engines have themselves: others are plugins, which networks of the swarm have none of.
const BUILT_IN: [&str; 6] = ["bridge", "host", "ipvlan", "macvlan", "null", OVERLAY];

/// Whether engines have a driver themselves.
pub fn is_built_in(driver: &str) -> bool {
    BUILT_IN.contains(&driver)
}

/// The refusal of a network of the swarm whose driver is a plugin, or nobody's: `managed` are the names of the
/// plugins that the engine manages, of which `NAME` is `NAME:latest`, and `drivers` those of all that it has.
pub fn plugin_refused(driver: &str, managed: &[&str], drivers: &[&str]) -> ApiError {
    let latest = format!("{driver}:latest");
    if managed
        .iter()
        .any(|name| *name == driver || *name == latest)
    {
        return ApiError::rpc(
            Code::Unimplemented,
            format_args!(
                "networks of plugin {driver} are not supported in the swarm: make one on each node (--scope local) \
                 for containers that are no task's, or use the drivers overlay, bridge, ipvlan or macvlan"
            ),
        );
    }
    if drivers.contains(&driver) {
        return ApiError::rpc(
            Code::InvalidArgument,
            format_args!(
                "legacy plugin {driver} of type NetworkDriver is not supported in swarm mode"
            ),
        );
    }
    ApiError::not_found(format!("plugin {driver:?} not found"))
}

/// What an engine refuses before it asks the swarm, and in its own words.
///
/// # Errors
/// 403; 404 for a driver that there is not.
pub fn check(spec: &NetworkSpec) -> Result<(), ApiError> {
    if !is_built_in(&spec.driver) {
        return Err(plugin_refused(&spec.driver, &[], &[]));
    }
    let forbidden = |what: &str| Err(ApiError::new(StatusCode::FORBIDDEN, what));
    let ipam = &spec.ipam;
    let says_nothing = ipam.is_of_swarm()
        && ipam.options.is_empty()
        && ipam.config.is_empty()
        && spec.labels.is_empty()
        && !spec.enable_ipv6;
    if spec.config_from().is_some() && !says_nothing {
        return forbidden(
            "user specified configurations are not supported if the network depends on a configuration \
             network",
        );
    }
    if spec.config_from().is_some() && !spec.options.is_empty() {
        return forbidden(
            "network driver options are not supported if the network depends on a configuration network",
        );
    }
    if spec.ingress && spec.is_node_local() {
        return forbidden("Ingress network can only be global scope network");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use skein_model::{DEFAULT_IPAM, NetworkReference};

    #[test]
    fn what_the_cli_sends_is_read() {
        let body = br#"{"Name":"web","CheckDuplicate":true,"Driver":"overlay","Scope":"","EnableIPv6":false,"Predefined":true,
            "IPAM":{"Driver":"default","Options":{"a":"1"},"Config":[{"Subnet":"10.9.0.0/24","Gateway":""}]},
            "Internal":false,"Attachable":true,"Ingress":false,"ConfigOnly":false,"ConfigFrom":null,"Options":{},"Labels":{}}"#;
        let spec = parse(json::parse(body).unwrap()).unwrap();
        assert!(spec.attachable && !spec.predefined);
        assert_eq!(
            spec.ipam.config[0].subnet,
            Some("10.9.0.0/24".parse().unwrap())
        );
        assert_eq!(spec.ipam.config[0].gateway, None);
        assert_eq!(spec.ipam.options["a"], "1");
    }

    #[test]
    fn bad_addresses_are_refused_in_the_references_words() {
        let value = json!({"Name": "a", "IPAM": {"Config": [{"Subnet": "10.9.0.0"}]}});
        let error = parse(value).unwrap_err();
        assert_eq!(error.status, 400);
        assert!(
            error
                .message
                .ends_with("ipam configuration: invalid subnet 10.9.0.0")
        );
    }

    #[test]
    fn a_driver_that_is_nobody_s_is_not_found() {
        let with = |driver: &str| {
            let spec = NetworkSpec {
                driver: driver.into(),
                ..NetworkSpec::default()
            };
            check(&spec).map_err(|error| (error.status.as_u16(), error.message))
        };
        with("macvlan").unwrap();
        let expected = (404, "plugin \"bogus\" not found".to_owned());
        assert_eq!(with("bogus"), Err(expected));
    }

    #[test]
    fn plugins_are_refused_by_what_they_are() {
        let (managed, drivers) = (
            ["weave:latest", "other:2"],
            ["bridge", "weave:latest", "old"],
        );
        for (driver, status, said) in [
            (
                "weave",
                501,
                "rpc error: code = Unimplemented desc = networks of plugin weave",
            ),
            (
                "other:2",
                501,
                "rpc error: code = Unimplemented desc = networks of plugin other:2",
            ),
            (
                "old",
                400,
                "rpc error: code = InvalidArgument desc = legacy plugin old of type NetworkDriver is not supported in \
                 swarm mode",
            ),
            ("other", 404, "plugin \"other\" not found"),
        ] {
            let refused = plugin_refused(driver, &managed, &drivers);
            assert_eq!(refused.status, status);
            assert!(refused.message.starts_with(said), "{}", refused.message);
        }
    }

    #[test]
    fn what_is_made_of_another_says_nothing_itself() {
        let with = |change: &dyn Fn(&mut NetworkSpec)| {
            let mut spec = NetworkSpec {
                name: "lan".into(),
                driver: "macvlan".into(),
                config_from: Some(NetworkReference {
                    network: "lan-here".into(),
                }),
                ..NetworkSpec::default()
            };
            change(&mut spec);
            check(&spec).map_err(|error| (error.status, error.message))
        };
        with(&|n| n.ipam.driver = DEFAULT_IPAM.into()).unwrap();
        with(&|n| (n.config_from, n.enable_ipv6) = (None, true)).unwrap();
        type Change = fn(&mut NetworkSpec);
        let configured = "user specified configurations are not supported";
        let refusals: [(Change, &str); 7] = [
            (
                |n| drop(n.labels.insert("a".into(), "b".into())),
                configured,
            ),
            (|n| n.ipam.config.push(IpamConfig::default()), configured),
            (
                |n| drop(n.ipam.options.insert("a".into(), "b".into())),
                configured,
            ),
            (|n| n.ipam.driver = "bogus".into(), configured),
            (|n| n.enable_ipv6 = true, configured),
            (
                |n| drop(n.options.insert("parent".into(), "eth0".into())),
                "network driver options are not supported",
            ),
            (
                |n| (n.ingress, n.config_from) = (true, None),
                "Ingress network can only be global scope network",
            ),
        ];
        for (change, said) in refusals {
            let (status, message) = with(&change).unwrap_err();
            assert_eq!(status, StatusCode::FORBIDDEN);
            assert!(message.starts_with(said), "{message}");
        }
    }
}
