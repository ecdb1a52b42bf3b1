//! What an engine sends to the network plugin: whatever it is, it is answered or refused, and what is stored of it
//! can be read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skein_dataplane::{
    desired::Desired,
    plugin::{Stored, decide, joined},
};
use skein_proto::network::{Network, Subnet};

// A call a line: the path behind its first slash, a space, the body.
fuzz_target!(|text: &str| {
    let mut stored = Stored::default();
    for line in text.lines() {
        let (path, body) = line.split_once(' ').unwrap_or((line, ""));
        let before = stored.clone();
        let Some(answer) = decide(&format!("/{path}"), body.as_bytes(), &mut stored) else {
            continue;
        };
        match answer {
            Ok(answer) => assert!(answer.is_object(), "{answer}"),
            Err(_) => assert_eq!(stored, before, "what is refused changes nothing"),
        }
    }
    let written = serde_json::to_vec(&stored).expect("it can be written");
    let read: Stored = serde_json::from_slice(&written).expect("it can be read");
    assert_eq!(read, stored);
    for (id, endpoint) in &stored.endpoints {
        let mut desired = Desired::default();
        let network = Network {
            id: endpoint.network_id.clone(),
            subnets: ["10.0.0.0/8", "0.0.0.0/0"].map(subnet).into(),
            ..Network::default()
        };
        desired.networks.insert(network.id.clone(), network);
        let answer = joined(&desired, id, endpoint);
        let name = answer["InterfaceName"]["SrcName"].as_str().unwrap_or_default();
        // The kernel takes no longer ones.
        assert!(!name.is_empty() && name.chars().count() <= 15, "{name:?}");
    }
});

fn subnet(of: &str) -> Subnet {
    Subnet {
        subnet: of.into(),
        gateway: "10.0.0.1".into(),
    }
}
