//! The calls that need no device: what is stored, and the call, say what the answer is. Pure.

use super::{driver, ipam, store::Stored};
use anyhow::Context as _;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// From what is stored, which it may change, and the call's body to the answer.
pub(super) type Decision = fn(&mut Stored, &[u8]) -> anyhow::Result<Value>;

/// By their paths.
pub(super) const CALLS: [(&str, Decision); 16] = [
    ("/Plugin.Activate", |_, body| {
        anything(body)?;
        Ok(json!({ "Implements": ["NetworkDriver", "IpamDriver"] }))
    }),
    ("/NetworkDriver.GetCapabilities", |_, body| {
        anything(body)?;
        Ok(driver::capabilities())
    }),
    ("/NetworkDriver.CreateNetwork", |stored, body| {
        driver::create_network(stored, parse(body)?)
    }),
    ("/NetworkDriver.DeleteNetwork", |stored, body| {
        driver::delete_network(stored, parse(body)?)
    }),
    ("/NetworkDriver.CreateEndpoint", |stored, body| {
        driver::create_endpoint(stored, parse(body)?)
    }),
    ("/NetworkDriver.EndpointOperInfo", |_, body| {
        anything(body)?;
        Ok(json!({ "Value": {} }))
    }),
    ("/NetworkDriver.DiscoverNew", |_, body| anything(body)),
    ("/NetworkDriver.DiscoverDelete", |_, body| anything(body)),
    ("/NetworkDriver.ProgramExternalConnectivity", |_, body| {
        anything(body)
    }),
    ("/NetworkDriver.RevokeExternalConnectivity", |_, body| {
        anything(body)
    }),
    ("/IpamDriver.GetCapabilities", |_, body| {
        anything(body)?;
        Ok(ipam::capabilities())
    }),
    ("/IpamDriver.GetDefaultAddressSpaces", |_, body| {
        anything(body)?;
        Ok(ipam::address_spaces())
    }),
    ("/IpamDriver.RequestPool", |_, body| {
        ipam::request_pool(parse(body)?)
    }),
    ("/IpamDriver.ReleasePool", |_, body| anything(body)),
    ("/IpamDriver.RequestAddress", |_, body| {
        ipam::request_address(parse(body)?)
    }),
    ("/IpamDriver.ReleaseAddress", |_, body| anything(body)),
];

/// Answers a call by its path. `None`: it needs a device, or there is no such call.
///
/// # Errors
/// The body is no such call, or the call is refused: the text is for the engine's user.
pub fn decide(path: &str, body: &[u8], stored: &mut Stored) -> Option<anyhow::Result<Value>> {
    let (_, decision) = CALLS.iter().find(|(known, _)| *known == path)?;
    Some(decision(stored, body))
}

/// Reads a call's body.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> anyhow::Result<T> {
    // Some calls come without a body at all.
    let text = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(text).context("the engine sent a body that is no such call")
}

/// A call that asks for nothing that is not so already.
fn anything(body: &[u8]) -> anyhow::Result<Value> {
    let _: Value = parse(body)?;
    Ok(json!({}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_proto::plugin::NETWORK_OPTION;

    fn ask(stored: &mut Stored, path: &str, body: Value) -> Result<Value, String> {
        let body = body.to_string();
        let answer = decide(path, body.as_bytes(), stored).expect("a call");
        answer.map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn an_endpoint_is_made_on_a_network_of_the_cluster_alone() {
        let mut stored = Stored::default();
        let create = |stored: &mut Stored, address: &str| {
            let call = json!({
                "NetworkID": "twin", "EndpointID": "e1", "Interface": {"Address": address}, "Options": null,
            });
            ask(stored, "/NetworkDriver.CreateEndpoint", call)
        };
        let refused = create(&mut stored, "10.0.1.5/24").unwrap_err();
        assert!(refused.contains("not one of Skein's"), "{refused}");

        let path = "/NetworkDriver.CreateNetwork";
        let foreign = json!({"NetworkID": "twin", "Options": {}});
        let refused = ask(&mut stored, path, foreign).unwrap_err();
        assert!(refused.contains("docker network create"), "{refused}");
        let generic = json!({"com.docker.network.generic": {(NETWORK_OPTION): "net"}});
        let own = json!({"NetworkID": "twin", "Options": generic});
        assert_eq!(ask(&mut stored, path, own), Ok(json!({})));

        let refused = create(&mut stored, "fd00::1/64").unwrap_err();
        assert!(refused.contains("no IPv4 address"), "{refused}");
        assert!(stored.endpoints.is_empty());
        let made = create(&mut stored, "10.0.1.5/24").unwrap();
        assert!(made["Interface"]["MacAddress"].is_string(), "{made}");
        let endpoint = &stored.endpoints["e1"];
        assert_eq!(endpoint.network_id, "net");
        assert_eq!(endpoint.address.to_string(), "10.0.1.5");
    }

    #[test]
    fn what_is_no_call_is_refused_and_no_body_is_an_empty_one() {
        let mut stored = Stored::default();
        for (path, _) in CALLS {
            let refused = decide(path, b"{", &mut stored).unwrap();
            assert!(refused.is_err(), "{path}");
        }
        let none = decide("/IpamDriver.ReleasePool", b"", &mut stored);
        assert_eq!(none.unwrap().unwrap(), json!({}));
        assert!(decide("/NetworkDriver.Join", b"{}", &mut stored).is_none());
        assert_eq!(stored, Stored::default());
    }
}
