//! What a client asks of the engine for a container on networks of the swarm, as the engine is to have
//! it. Pure.

use crate::{agent::attachments::Attached, api::error::ApiError};
use serde_json::{Map, Value, json};
use skein_abi::addresses::DNS_ADDRESS;
use skein_proto::plugin::{GATEWAY_NONE, GATEWAY_OPTION};
use std::net::Ipv4Addr;

/// The engine's own network, by which ports are published.
const BRIDGE: &str = "bridge";
/// Where a container is on no network that could be left.
const NO_BRIDGES: [&str; 2] = ["host", "none"];

/// A network that a container is to be on, as its client says.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Name or ID of the network.
    pub reference: String,
    /// `EndpointSettings`; an object.
    pub settings: Value,
    /// The place on it, if it is the swarm's.
    pub attached: Option<Attached>,
}

impl Endpoint {
    pub fn new(reference: &str, settings: &Value) -> Self {
        Self {
            reference: reference.to_owned(),
            settings: match settings {
                Value::Object(_) => settings.clone(),
                _ => json!({}),
            },
            attached: None,
        }
    }

    /// The address that the container is to have.
    ///
    /// # Errors
    /// 400: it is none.
    pub fn address(&self) -> Result<Option<Ipv4Addr>, ApiError> {
        match self.settings["IPAMConfig"]["IPv4Address"].as_str() {
            None | Some("") => Ok(None),
            Some(text) => text
                .parse()
                .map(Some)
                .map_err(|_| ApiError::invalid(format!("invalid IPv4 address: {text}"))),
        }
    }

    /// Further names of the container.
    pub fn aliases(&self) -> Vec<String> {
        let aliases = self.settings["Aliases"].as_array();
        let aliases = aliases.into_iter().flatten().filter_map(Value::as_str);
        aliases.map(str::to_owned).collect()
    }

    /// What the engine calls the network.
    fn network(&self) -> &str {
        match &self.attached {
            Some(attached) => &attached.twin,
            None => &self.reference,
        }
    }

    /// What the engine is to make of it. `leads_out`: the container's default route may lead by it.
    fn engines(&self, leads_out: bool) -> Value {
        let mut settings = self.settings.clone();
        let Some(attached) = &self.attached else {
            return settings;
        };
        if !settings["IPAMConfig"].is_object() {
            settings["IPAMConfig"] = json!({});
        }
        settings["IPAMConfig"]["IPv4Address"] = attached.address.to_string().into();
        // Else the engine goes by the name, which another twin may have that is about to go.
        settings["NetworkID"] = attached.twin.as_str().into();
        if !leads_out {
            if !settings["DriverOpts"].is_object() {
                settings["DriverOpts"] = json!({});
            }
            settings["DriverOpts"][GATEWAY_OPTION] = GATEWAY_NONE.into();
        }
        settings
    }

    fn is_bridge(&self) -> bool {
        let mode = self.reference.as_str();
        self.attached.is_none() && !NO_BRIDGES.contains(&mode) && !mode.starts_with("container:")
    }
}

/// Refuses what a place on a network of the swarm cannot have.
///
/// # Errors
/// 400
pub fn check(settings: &Value) -> Result<(), ApiError> {
    match settings["MacAddress"].as_str() {
        None | Some("") => Ok(()),
        Some(mac) => Err(ApiError::invalid(format!(
            "invalid MAC address {mac}: on a network of the swarm it follows from the IP address; \
             leave it out"
        ))),
    }
}

/// The networks that a create asks for; the container is made on the first.
pub fn endpoints(create: &Value) -> Vec<Endpoint> {
    let mode = create["HostConfig"]["NetworkMode"].as_str();
    let mode = mode.unwrap_or_default();
    let nothing = Map::new();
    let given = create["NetworkingConfig"]["EndpointsConfig"].as_object();
    let given = given.unwrap_or(&nothing);
    let mut endpoints = Vec::with_capacity(given.len() + 1);
    // Without a mode, the engine goes by what is given.
    if !matches!(mode, "" | "default") || given.is_empty() {
        let settings = given.get(mode).unwrap_or(&Value::Null);
        endpoints.push(Endpoint::new(mode, settings));
    }
    let others = given.iter().filter(|(name, _)| {
        let mut known = endpoints.iter();
        known.all(|endpoint| endpoint.reference != **name)
    });
    let others: Vec<_> = others
        .map(|(name, settings)| Endpoint::new(name, settings))
        .collect();
    endpoints.extend(others);
    endpoints
}

/// A create may name a network by its ID as its mode, and by its name with the settings for it: both are
/// one. The place that is one too many then.
pub fn merge(endpoints: &mut Vec<Endpoint>) -> Option<Attached> {
    let (first, others) = endpoints.split_first()?;
    let network = &first.attached.as_ref()?.network_id;
    let is_same = |other: &Endpoint| {
        let attached = other.attached.as_ref();
        attached.is_some_and(|attached| attached.network_id == *network)
    };
    // Two of which each has settings are the engine's to refuse.
    if first.settings != json!({}) {
        return None;
    }
    let other = others.iter().position(is_same)? + 1;
    let other = endpoints.remove(other);
    std::mem::replace(endpoints.first_mut()?, other).attached
}

/// A network that a container joins after it was made.
#[derive(Clone, Debug, PartialEq)]
pub struct Connect {
    /// What the engine calls it.
    pub network: String,
    /// `EndpointSettings`
    pub settings: Value,
}

/// Makes of a client's create one that the engine understands: on the first network only, as engines
/// before API 1.44 take no more. The others are to be joined before the container is started.
pub fn create(create: &mut Value, endpoints: &[Endpoint]) -> Vec<Connect> {
    let has_bridge = endpoints.iter().any(Endpoint::is_bridge);
    // As Docker does it with a bridge of its own: the swarm's networks publish nothing on a node.
    let needs_bridge = publishes(create) && !has_bridge;
    let leads_out = !has_bridge && !needs_bridge;
    let Some((first, others)) = endpoints.split_first() else {
        return Vec::new();
    };
    if !create["HostConfig"].is_object() {
        create["HostConfig"] = json!({});
    }
    let host = &mut create["HostConfig"];
    host["NetworkMode"] = first.network().into();
    let mut servers = vec![Value::from(DNS_ADDRESS.to_string())];
    servers.extend(host["Dns"].as_array().cloned().unwrap_or_default());
    host["Dns"] = servers.into();
    let config = json!({ first.network(): first.engines(leads_out) });
    create["NetworkingConfig"] = json!({ "EndpointsConfig": config });
    let mut connects: Vec<_> = others
        .iter()
        .map(|endpoint| Connect {
            network: endpoint.network().to_owned(),
            settings: endpoint.engines(leads_out),
        })
        .collect();
    if needs_bridge {
        connects.push(Connect {
            network: BRIDGE.to_owned(),
            settings: json!({}),
        });
    }
    connects
}

fn publishes(create: &Value) -> bool {
    let host = &create["HostConfig"];
    let bindings = host["PortBindings"].as_object();
    bindings.is_some_and(|bindings| !bindings.is_empty()) || host["PublishAllPorts"] == true
}

/// The body of a connect of a container, which is as inspected, to a network of the swarm. `twins`: the
/// engine's networks that stand for such.
pub fn connect(request: &Value, container: &Value, twins: &[Value], attached: &Attached) -> Value {
    let networks = container["NetworkSettings"]["Networks"].as_object();
    let mut networks = networks.into_iter().flat_map(Map::values);
    let is_swarms = |network: &Value| twins.iter().any(|twin| twin["Id"] == network["NetworkID"]);
    let mut endpoint = Endpoint::new("", &request["EndpointConfig"]);
    endpoint.attached = Some(attached.clone());
    // One that has a way out by the engine's own networks keeps it.
    let settings = endpoint.engines(networks.all(is_swarms));
    let mut body = request.clone();
    body["EndpointConfig"] = settings;
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attached(twin: &str, last: u8) -> Attached {
        Attached {
            task_id: format!("t{last}"),
            network_id: format!("n{last}"),
            twin: twin.into(),
            address: Ipv4Addr::new(10, 0, 1, last),
        }
    }

    fn request(mode: &str, given: Value) -> Value {
        json!({
            "Image": "demo:1",
            "HostConfig": {"NetworkMode": mode},
            "NetworkingConfig": {"EndpointsConfig": given},
        })
    }

    fn references(create: &Value) -> Vec<String> {
        let endpoints = endpoints(create).into_iter();
        endpoints.map(|endpoint| endpoint.reference).collect()
    }

    #[test]
    fn the_networks_of_a_create_are_its_modes_first() {
        for (mode, given, expected) in [
            ("front", json!({}), vec!["front"]),
            ("front", json!({"front": null}), vec!["front"]),
            (
                "front",
                json!({"back": {}, "front": {}}),
                vec!["front", "back"],
            ),
            ("default", json!({}), vec!["default"]),
            ("default", json!({"front": {}}), vec!["front"]),
            ("bridge", json!({"front": {}}), vec!["bridge", "front"]),
        ] {
            assert_eq!(references(&request(mode, given)), expected, "{mode}");
        }
        assert_eq!(references(&json!({"Image": "demo:1"})), [""]);
    }

    #[test]
    fn a_network_that_is_named_by_id_and_by_name_is_one() {
        let given = json!({"back": {}, "front": {"Aliases": ["db"]}});
        let mut endpoints = endpoints(&request("n5", given));
        let places = [
            attached("ffff", 5),
            attached("eeee", 6),
            attached("ffff", 5),
        ];
        for (endpoint, mut place) in endpoints.iter_mut().zip(places) {
            place.task_id = format!("of-{}", endpoint.reference);
            endpoint.attached = Some(place);
        }
        let too_many = merge(&mut endpoints).unwrap();
        assert_eq!(too_many.task_id, "of-n5");
        let left: Vec<_> = endpoints.iter().map(|e| &*e.reference).collect();
        assert_eq!(left, ["front", "back"]);
        assert_eq!(endpoints[0].aliases(), ["db"]);
        assert_eq!(merge(&mut endpoints), None);
    }

    #[test]
    fn a_create_is_put_on_the_first_twin_with_its_address_and_dns() {
        let mut asked = request("front", json!({"front": {"Aliases": ["db"]}}));
        asked["HostConfig"]["Dns"] = json!(["192.0.2.53"]);
        let mut endpoints = endpoints(&asked);
        assert_eq!(endpoints[0].aliases(), ["db"]);
        endpoints[0].attached = Some(attached("ffff", 5));
        let connects = create(&mut asked, &endpoints);
        assert_eq!(connects, []);
        assert_eq!(
            asked,
            json!({
                "Image": "demo:1",
                "HostConfig": {"NetworkMode": "ffff", "Dns": ["100.65.0.1", "192.0.2.53"]},
                "NetworkingConfig": {"EndpointsConfig": {"ffff": {
                    "Aliases": ["db"],
                    "IPAMConfig": {"IPv4Address": "10.0.1.5"},
                    "NetworkID": "ffff",
                }}},
            })
        );
    }

    #[test]
    fn further_networks_are_joined_before_the_start() {
        let mut asked = request("front", json!({"front": {}, "back": {}}));
        let mut endpoints = endpoints(&asked);
        endpoints[0].attached = Some(attached("ffff", 5));
        endpoints[1].attached = Some(attached("eeee", 6));
        let connects = create(&mut asked, &endpoints);
        let settings = json!({
            "IPAMConfig": {"IPv4Address": "10.0.1.6"}, "NetworkID": "eeee",
        });
        assert_eq!(
            connects,
            [Connect {
                network: "eeee".into(),
                settings
            }]
        );
    }

    #[test]
    fn ports_are_published_by_the_engines_bridge_which_then_leads_out() {
        let without_way_out = json!({GATEWAY_OPTION: GATEWAY_NONE});
        let mut asked = request("front", json!({}));
        asked["HostConfig"]["PortBindings"] = json!({"80/tcp": [{"HostPort": "8080"}]});
        let mut endpoints = endpoints(&asked);
        endpoints[0].attached = Some(attached("ffff", 5));
        let connects = create(&mut asked, &endpoints);
        assert_eq!(
            connects,
            [Connect {
                network: "bridge".into(),
                settings: json!({})
            }]
        );
        let own = &asked["NetworkingConfig"]["EndpointsConfig"]["ffff"];
        assert_eq!(own["DriverOpts"], without_way_out);

        // A bridge that it is on anyway is enough.
        let mut asked = request("mine", json!({"front": {}}));
        asked["HostConfig"]["PublishAllPorts"] = true.into();
        let mut endpoints = super::endpoints(&asked);
        endpoints[1].attached = Some(attached("ffff", 5));
        let connects = create(&mut asked, &endpoints);
        let names: Vec<_> = connects.iter().map(|c| c.network.as_str()).collect();
        assert_eq!(names, ["ffff"]);
        assert_eq!(connects[0].settings["DriverOpts"], without_way_out);
        assert_eq!(asked["HostConfig"]["NetworkMode"], "mine");
    }

    #[test]
    fn a_connected_container_keeps_its_way_out() {
        let asked = json!({"Container": "box", "EndpointConfig": null});
        let place = attached("ffff", 5);
        let twins = [json!({"Id": "ffff"}), json!({"Id": "eeee"})];
        let joined = |networks: Value| {
            let container = json!({"NetworkSettings": {"Networks": networks}});
            connect(&asked, &container, &twins, &place)
        };
        let body = joined(json!({"bridge": {"NetworkID": "dddd"}}));
        assert_eq!(body["Container"], "box");
        let settings = &body["EndpointConfig"];
        assert_eq!(settings["IPAMConfig"]["IPv4Address"], "10.0.1.5");
        assert_eq!(settings["DriverOpts"][GATEWAY_OPTION], GATEWAY_NONE);
        for networks in [json!({}), json!({"back": {"NetworkID": "eeee"}})] {
            let body = joined(networks);
            assert_eq!(body["EndpointConfig"].get("DriverOpts"), None);
        }
    }

    #[test]
    fn addresses_are_read_and_rubbish_is_refused() {
        let endpoint = |config: Value| Endpoint::new("front", &config);
        let of = |address: &str| endpoint(json!({"IPAMConfig": {"IPv4Address": address}}));
        assert_eq!(endpoint(Value::Null).address(), Ok(None));
        assert_eq!(of("").address(), Ok(None));
        assert_eq!(
            of("10.0.1.5").address(),
            Ok(Some(Ipv4Addr::new(10, 0, 1, 5)))
        );
        assert_eq!(of("10.0.1").address().unwrap_err().status, 400);
        assert_eq!(check(&json!({})), Ok(()));
        let error = check(&json!({"MacAddress": "02:42:ac:11:00:02"}));
        assert_eq!(error.unwrap_err().status, 400);
    }
}
