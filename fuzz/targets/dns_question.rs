//! What a task sends to the DNS server of its node: whatever it is, the reply is a message, has the question's
//! ID, and is no longer than the asker takes.
#![no_main]

use hickory_proto::op::{Message, ResponseCode};
use libfuzzer_sys::fuzz_target;
use skein_dns::{
    Endpoint, Network, Service, Zone,
    message::{Packet, Transport},
    zone::Answer,
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
                let networks = ["net".to_owned()];
                let answer = match question.name() {
                    Some(name) => ZONE.answer(&networks, name.as_str(), question.kind()),
                    None => Answer::Foreign,
                };
                let mut reply = Vec::new();
                if !question.reply(answer, &mut rand::rng(), &mut reply) {
                    question.error(ResponseCode::ServFail, "nobody knows", &mut reply);
                }
                assert!(!question.to_string().is_empty());
                (reply, max)
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
