//! A service as clients write it: read or refused, checked or refused, and what is read can be written and read
//! again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skein_model::{ServiceSpec, State};
use skein_orchestration::validate::check_service;

fuzz_target!(|text: &[u8]| {
    let Ok(spec) = serde_json::from_slice::<ServiceSpec>(text) else {
        return;
    };
    // What is wrong with it is the fuzzer's.
    let _ = check_service(&State::default(), None, &spec);
    let written = serde_json::to_vec(&spec).expect("a spec can be written");
    let again: ServiceSpec = serde_json::from_slice(&written).expect("what is written can be read");
    assert_eq!(again, spec);
});
