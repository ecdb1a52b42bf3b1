//! What other DNS servers send, whom a node asks for what its cluster does not know: only what answers the question
//! is taken, and a resolv.conf names them, whatever is in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skein_dns::upstream::{answers, servers};
use std::net::{IpAddr, Ipv4Addr};

/// Asks for the addresses of `web`.
const QUESTION: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03web\0\0\x01\0\x01";

fuzz_target!(|bytes: &[u8]| {
    if answers(bytes, QUESTION) {
        assert_eq!(bytes[..2], QUESTION[..2], "another ID");
        assert!(bytes[2] & 0x80 != 0, "no reply");
        let asked = &bytes[12..QUESTION.len()];
        assert!(asked.eq_ignore_ascii_case(&QUESTION[12..]), "another question");
    }
    assert!(!answers(QUESTION, bytes), "a question answers nothing");
    if let Ok(text) = std::str::from_utf8(bytes) {
        let own = IpAddr::V4(Ipv4Addr::new(100, 65, 0, 1));
        let named = servers(text, own);
        assert!(named.len() <= 3 && named.iter().all(|server| server.ip() != own));
    }
});
