//! Clients on the nodes themselves.

use anyhow::ensure;
use skein_tests::{
    sockets::{call_program, program_on},
    swarm,
};
use std::collections::BTreeSet;
use xtask::{
    check::{
        requests::{ask, await_published},
        services,
    },
    cluster::Host,
};

#[test]
fn a_node_reaches_published_ports_by_each_of_its_addresses() -> anyhow::Result<()> {
    let cluster = swarm("local-clients", 2, 1)?;
    let first = cluster.host("n1")?;
    let options = ["-p", "30100:8080", "-p", "30101:8080/udp"];
    let on_first = [&options[..], &["--constraint", "node.hostname==n1"]].concat();
    services::create(first, "web", 1, &on_first)?;
    await_published(&cluster, cluster.nodes(), 30_100)?;
    // The first has the task, the second has not.
    for node in cluster.nodes() {
        let own = node.address().to_string();
        let other = cluster.nodes().find(|other| other.name() != node.name());
        let other = other.map_or_else(String::new, |other| other.address().to_string());
        for address in ["127.0.0.1", "localhost", &own, &other] {
            for answer in ask(node, address, 30_100, 10)? {
                ensure!(
                    answer.client == own,
                    "to {address} on {} the task saw {}",
                    node.name(),
                    answer.client
                );
            }
        }
        for address in ["127.0.0.1", &own, &other] {
            for kind in ["UDP4", "UDP4-SENDTO"] {
                let said = datagram(node, kind, address)?;
                ensure!(
                    said.contains("\"hostname\""),
                    "{kind} to {address} on {} got {said:?}",
                    node.name()
                );
            }
        }
    }
    cluster.down()
}

/// `UDP4` connects its socket; `UDP4-SENDTO` does not, and takes answers only from whom it asked.
fn datagram(node: &Host, kind: &str, address: &str) -> anyhow::Result<String> {
    node.shell(&format!("echo hello | socat -t 2 - {kind}:{address}:30101"))
}

#[test]
fn one_socket_may_call_two_ports_by_two_addresses() -> anyhow::Result<()> {
    let cluster = swarm("two-calls", 1, 1)?;
    let node = cluster.host("n1")?;
    let ports = [
        "-p",
        "30100:8080",
        "-p",
        "30101:8080/udp",
        "-p",
        "30102:8080/udp",
    ];
    services::create(node, "web", 1, &ports)?;
    await_published(&cluster, cluster.nodes(), 30_100)?;
    let own = node.address();
    // Both calls before the first answer is read. (perl is on every Debian.)
    let script = format!(
        "use Socket; socket(S, PF_INET, SOCK_DGRAM, 0) or die; alarm 5; \
         send(S, 'a', 0, sockaddr_in(30101, inet_aton('127.0.0.1'))) or die; \
         send(S, 'b', 0, sockaddr_in(30102, inet_aton('{own}'))) or die; \
         for (1, 2) {{ my ($port, $from) = sockaddr_in(recv(S, my $said, 9000, 0)); \
         print inet_ntoa($from), ':', $port, ' '; }}"
    );
    let said = xtask::output(node.command("perl").args(["-e", &script]))?;
    let answered: BTreeSet<_> = said.split_whitespace().collect();
    let called = ["127.0.0.1:30101".to_owned(), format!("{own}:30102")];
    let called: BTreeSet<_> = called.iter().map(String::as_str).collect();
    ensure!(answered == called, "answers came from {answered:?}");
    cluster.down()
}

#[test]
fn a_port_of_a_host_program_stays_its_own() -> anyhow::Result<()> {
    let cluster = swarm("taken-port", 2, 1)?;
    let (first, second) = (cluster.host("n1")?, cluster.host("n2")?);
    let server = program_on(first, 30_100)?;
    services::create(first, "web", 1, &["-p", "30100:8080"])?;
    await_published(&cluster, [second], 30_100)?;
    ask(cluster.client()?, &second.address().to_string(), 30_100, 5)?;
    let hosts = call_program(cluster.client()?, first, 30_100)?;
    server.end()?;
    ensure!(hosts == "host", "the host's own client got {hosts:?}");
    cluster.down()
}
