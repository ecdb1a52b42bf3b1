//! Clients on the nodes themselves.

use anyhow::ensure;
use skein_tests::swarm;
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
fn a_port_of_a_host_program_stays_its_own() -> anyhow::Result<()> {
    let cluster = swarm("taken-port", 2, 1)?;
    let (first, second) = (cluster.host("n1")?, cluster.host("n2")?);
    let mut server = first.command("socat");
    server.args(["TCP4-LISTEN:30100,fork,reuseaddr", "SYSTEM:echo host"]);
    let mut server = server.spawn()?;
    let listens = || {
        let said = first.shell("ss -Hltn sport = :30100")?;
        ensure!(!said.is_empty(), "it does not listen yet");
        Ok(())
    };
    xtask::wait_until("a host program listens", services::SETTLE_TIMEOUT, listens)?;
    services::create(first, "web", 1, &["-p", "30100:8080"])?;
    await_published(&cluster, [second], 30_100)?;
    ask(cluster.client()?, &second.address().to_string(), 30_100, 5)?;
    let hosts = cluster.client()?.shell(&format!(
        "socat -t 2 - TCP4:{}:30100 </dev/null",
        first.address()
    ))?;
    server.kill()?;
    server.wait()?;
    ensure!(
        hosts.trim() == "host",
        "the host's own client got {hosts:?}"
    );
    cluster.down()
}
