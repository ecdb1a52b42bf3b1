//! The network state that managers send: whatever the bytes are, they are refused, or a state, of which names and the
//! kernel's maps are planned within their limits, and which is stored and read again as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use skein_abi::{SCTP, TCP, UDP, limits::LOCAL_BACKENDS_MAX};
use skein_dataplane::{
    desired::Desired,
    kernel::plan::{Local, plan},
    names::zone,
};
use skein_proto::network::NetworkUpdate;

fuzz_target!(|bytes: &[u8]| {
    let Ok(update) = NetworkUpdate::decode(bytes) else {
        return;
    };
    let Ok(desired) = Desired::default().after(&update) else {
        return;
    };
    let stored = desired.to_update().encode_to_vec();
    let read = NetworkUpdate::decode(&stored[..]).expect("what is stored can be read");
    let again = Desired::default().after(&read).expect("it is a whole state");
    assert_eq!(again, desired);

    zone::of(&desired);
    let mut local = Local::default();
    for (index, endpoint) in (0..).zip(desired.endpoints.values()) {
        if let Ok(address) = endpoint.address.parse() {
            let place = (endpoint.network_id.clone(), address);
            local.endpoints.insert(place, index);
        }
    }
    let planned = plan(&desired, &local);
    assert_eq!(plan(&desired, &local), planned, "planned twice");
    for key in planned.published.keys() {
        assert!([TCP, UDP, SCTP].contains(&key.proto) && key.port != 0, "{key:?}");
    }
    for of_group in planned.local.values() {
        let all = [of_group.ready_len, of_group.draining_len].map(|count| count as usize);
        assert!(all.into_iter().all(|count| count <= LOCAL_BACKENDS_MAX), "{all:?}");
    }
});
