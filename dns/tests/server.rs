//! The server on loopback, asked by a real resolver (`dig`).

use arc_swap::ArcSwap;
use hickory_proto::{
    op::{Message, MessageType},
    rr::{RData, Record, rdata},
};
use skein_dns::{Asker, Askers, Endpoint, Network, Server, Service, Zone};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};
use tokio::{
    net::{TcpListener, UdpSocket},
    process::Command,
    task::JoinSet,
};

/// 127.0.0.1 is on the network; 127.0.0.2 is on none; others are unknown.
struct Loopback;

impl Askers for Loopback {
    fn asker(&self, address: IpAddr) -> Option<Asker> {
        let networks: &[&str] = match address.to_string().as_str() {
            "127.0.0.1" => &["n1"],
            "127.0.0.2" => &[],
            _ => return None,
        };
        Some(Asker {
            networks: networks.iter().map(|&id| id.into()).collect(),
        })
    }
}

/// 200 tasks: too many for a UDP message.
fn zone() -> Zone {
    let endpoint = |n: u8| Endpoint {
        service_id: "s1".into(),
        address: Ipv4Addr::new(10, 0, 1, n),
        names: vec![format!("web.{n}.id")],
    };
    Zone::new([Network {
        id: "n1".into(),
        name: "front".into(),
        subnets: vec!["10.0.1.0/24".parse().unwrap()],
        services: vec![Service {
            id: "s1".into(),
            name: "web".into(),
            vip: Some(Ipv4Addr::new(10, 0, 1, 2)),
            aliases: vec![],
        }],
        endpoints: (3..203).map(endpoint).collect(),
    }])
}

/// Another server, that answers every question with one address.
async fn elsewhere() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 1_500];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let mut message = Message::from_vec(&buffer[..length]).unwrap();
            message.metadata.message_type = MessageType::Response;
            let name = message.queries[0].name.clone();
            let data = RData::A(rdata::A(Ipv4Addr::new(192, 0, 2, 7)));
            message.add_answer(Record::from_rdata(name, 60, data));
            let reply = message.to_vec().unwrap();
            socket.send_to(&reply, from).await.unwrap();
        }
    });
    address
}

struct Running {
    port: u16,
    upstreams: Arc<ArcSwap<Vec<SocketAddr>>>,
    /// Serves until it is dropped.
    _serving: JoinSet<()>,
}

impl Running {
    async fn start() -> Self {
        let server = Server::new(Loopback);
        server.zone.store(Arc::new(zone()));
        let upstreams = Arc::clone(&server.upstreams);
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let tcp = TcpListener::bind(any).await.unwrap();
        let port = tcp.local_addr().unwrap().port();
        let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))
            .await
            .unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(async { Arc::new(server).serve(vec![udp], tcp).await.unwrap() });
        Self {
            port,
            upstreams,
            _serving: serving,
        }
    }

    async fn dig(&self, from: &str, question: &str) -> String {
        let dig = Command::new("dig")
            .args(["@127.0.0.1", "-p", &self.port.to_string(), "-b", from])
            .args(["+tries=1", "+time=8", "+nocookie"])
            .args(question.split(' '))
            .output()
            .await;
        let dig = dig.expect("dig must be installed: Debian's bind9-dnsutils");
        String::from_utf8(dig.stdout).unwrap()
    }
}

fn lines(output: &str) -> Vec<&str> {
    output.lines().collect()
}

#[tokio::test]
async fn a_real_resolver_gets_the_names_of_its_networks() {
    let server = Running::start().await;
    let dig = |question| server.dig("127.0.0.1", question);
    assert_eq!(lines(&dig("+short web A").await), ["10.0.1.2"]);
    assert_eq!(lines(&dig("+short WeB.front A").await), ["10.0.1.2"]);
    assert_eq!(lines(&dig("+short web.9.id A").await), ["10.0.1.9"]);
    assert_eq!(lines(&dig("+short -x 10.0.1.9").await), ["web.9.id.front."]);
    let empty = dig("web AAAA").await;
    assert!(empty.contains("NOERROR") && empty.contains("ANSWER: 0"));
    let gone = dig("-x 10.0.1.250").await;
    assert!(gone.contains("NXDOMAIN"), "{gone}");

    let truncated = dig("+ignore tasks.web A").await;
    assert!(truncated.contains(" tc ") && truncated.contains("EDNS"));
    let over_tcp = dig("+short tasks.web A").await;
    assert_eq!(lines(&over_tcp).len(), 200, "retried over TCP");
    let again = dig("+short +tcp tasks.web A").await;
    assert_ne!(again, over_tcp, "in another order");
    let small = dig("+noedns +ignore tasks.web A").await;
    assert!(
        small.contains(" tc ") && small.contains("ANSWER: 30"),
        "{small}"
    );
    let version = dig("+edns=1 +noednsneg web A").await;
    assert!(version.contains("BADVERS"), "{version}");
}

#[tokio::test]
async fn other_names_are_asked_for_elsewhere() {
    let server = Running::start().await;
    let none = server.dig("127.0.0.1", "example.org A").await;
    assert!(
        none.contains("SERVFAIL") && none.contains("resolv.conf"),
        "{none}"
    );
    let label = server.dig("127.0.0.1", "nobody A").await;
    assert!(label.contains("NXDOMAIN"), "{label}");

    server.upstreams.store(Arc::new(vec![elsewhere().await]));
    for from in ["127.0.0.1", "127.0.0.2"] {
        let found = server.dig(from, "+short example.org A").await;
        assert_eq!(lines(&found), ["192.0.2.7"]);
    }
    let scoped = server.dig("127.0.0.2", "+short web A").await;
    assert_eq!(lines(&scoped), ["192.0.2.7"], "it is on no network");
    let own = server.dig("127.0.0.1", "+short web A").await;
    assert_eq!(lines(&own), ["10.0.1.2"]);
}

#[tokio::test]
async fn strangers_are_refused_and_a_server_that_asks_itself_stops() {
    let server = Running::start().await;
    let refused = server.dig("127.0.0.3", "web A").await;
    assert!(refused.contains("REFUSED"), "{refused}");
    // What the server asks comes back to it as a question of 127.0.0.1, which it answers.
    let own = SocketAddr::from((Ipv4Addr::LOCALHOST, server.port));
    server.upstreams.store(Arc::new(vec![own]));
    let looped = server.dig("127.0.0.1", "example.org A").await;
    assert!(looped.contains("SERVFAIL"), "{looped}");
}
