//! What a task sends to the DNS server of its node: whatever it is, the reply is a message, has the question's
//! ID, and is no longer than the asker takes.
#![no_main]

use hickory_proto::op::{Message, ResponseCode};
use libfuzzer_sys::fuzz_target;
use skein_dns::{
    Endpoint, Network, Service, Zone,
    message::{Packet, Transport},
};
use std::sync::LazyLock;

/// What any asker takes over UDP (RFC 1035, section 4.2.1).
const UDP_MIN: usize = 512;
/// What is sent over UDP at most.
const UDP_MAX: usize = 1232;
/// More than fit into one datagram.
const ENDPOINTS: u8 = 100;

static ZONE: LazyLock<Zone> = LazyLock::new(|| {
    let service = |id: &str, vip: Option<[u8; 4]>| Service {
        id: id.into(),
        name: id.into(),
        vip: vip.map(Into::into),
        aliases: vec!["alias".into()],
    };
    let endpoints = (1..=ENDPOINTS).map(|n| Endpoint {
        service_id: "many".into(),
        address: [10, 0, 1, n].into(),
        names: vec![format!("many.{n}.task")],
    });
    Zone::new([Network {
        id: "net".into(),
        name: "back".into(),
        subnets: "10.0.1.0/24".parse().into_iter().collect(),
        services: vec![service("many", None), service("web", Some([10, 0, 1, 200]))],
        endpoints: endpoints.collect(),
    }])
});

fuzz_target!(|packet: &[u8]| {
    for (transport, max) in [
        (Transport::Udp, UDP_MAX),
        (Transport::Tcp, usize::from(u16::MAX)),
    ] {
        let (reply, max) = match Packet::read(packet, transport) {
            Packet::Ignored => continue,
            Packet::Refused(reply) => (reply, max),
            Packet::Question(question) => {
                let query = &question.query;
                let networks = ["net".to_owned()];
                let kind = query.query_type;
                let answer = ZONE.answer(&networks, &query.name, kind, &mut rand::rng());
                let reply = question.reply(answer);
                let failed = || question.error(ResponseCode::ServFail, "nobody knows");
                (reply.unwrap_or_else(failed), max)
            }
        };
        let message = Message::from_vec(&reply).expect("a reply that can be read");
        assert_eq!(reply[..2], packet[..2], "another ID");
        assert!(
            reply.len() <= max,
            "{} bytes over {transport:?}",
            reply.len()
        );
        let has_edns = message.edns.is_some();
        let is_short = has_edns || transport == Transport::Tcp || reply.len() <= UDP_MIN;
        assert!(is_short, "{} bytes to an asker without EDNS", reply.len());
    }
});
