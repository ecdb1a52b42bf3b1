//! Whom Skein is compared with: each on a host of its own, the entry, configured as its documentation, or
//! kube-proxy, does. They lead to the server behind another host.

use super::{
    server::{self, BULK, HTTP},
    topology::{SERVER, forward},
};
use clap::ValueEnum;
use std::fmt::Write as _;
use xtask::cluster::Host;

/// Another ingress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// DNAT and masquerade by nftables, as kube-proxy's nftables mode writes it.
    Nftables,
    /// The same by iptables, as kube-proxy's iptables mode writes it.
    Iptables,
    /// HAProxy, TCP mode.
    Haproxy,
    /// nginx, stream module.
    Nginx,
    /// Docker Swarm's own mesh, where the kernel has IPVS.
    Docker,
}

/// What it is called in reports, where others must know it.
pub const NFTABLES: &str = "nftables, as kube-proxy";
pub const HAPROXY: &str = "HAProxy, TCP mode";
pub const DOCKER: &str = "Docker's mesh (IPVS)";

/// Addresses of services in the cluster, which kube-proxy writes rules for as well. Nobody asks them.
const CLUSTER_ADDRESSES: [&str; 2] = ["198.19.255.1", "198.19.255.2"];
const CLUSTER_NETWORK: &str = "198.19.255.0/24";
/// The bit by which kube-proxy marks what is to be masqueraded.
const MARK: &str = "0x4000";

/// Of a program: far more than are asked for, and less than its files may be.
const CONNECTIONS_MAX: u32 = 4_096;

/// A published port: its service's name, protocol, number, and the service's address in the cluster.
const PORTS: [(&str, &str, u16, &str); 3] = [
    ("http", "tcp", HTTP, CLUSTER_ADDRESSES[0]),
    ("bulk", "tcp", BULK, CLUSTER_ADDRESSES[1]),
    ("datagrams", "udp", BULK, CLUSTER_ADDRESSES[1]),
];

impl Peer {
    /// All of them.
    pub fn all() -> &'static [Self] {
        Self::value_variants()
    }

    /// As the report calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nftables => NFTABLES,
            Self::Iptables => "iptables, as kube-proxy",
            Self::Haproxy => HAPROXY,
            Self::Nginx => "nginx, stream",
            Self::Docker => DOCKER,
        }
    }

    /// The host that is its entry; `None` for who brings nodes of his own.
    pub fn host(self) -> Option<&'static str> {
        match self {
            Self::Nftables => Some("by-nftables"),
            Self::Iptables => Some("by-iptables"),
            Self::Haproxy => Some("by-haproxy"),
            Self::Nginx => Some("by-nginx"),
            Self::Docker => None,
        }
    }

    /// Whether it takes datagrams to the server as it is configured here.
    pub fn carries_datagrams(self) -> bool {
        !matches!(self, Self::Haproxy | Self::Nginx)
    }

    /// Makes its host lead to the server.
    ///
    /// # Errors
    /// A program is missing, or the kernel refuses.
    pub fn start(self, host: &Host) -> anyhow::Result<()> {
        match self {
            Self::Nftables => {
                forward(host)?;
                let rules = nftables(&host.address().to_string());
                let rules = server::write(host, "rules.nft", &rules)?;
                host.run(&format!("nft -f {rules}")).map(drop)
            }
            Self::Iptables => {
                forward(host)?;
                let rules = server::write(host, "rules.iptables", &iptables())?;
                host.run(&format!("iptables-restore {rules}")).map(drop)
            }
            Self::Haproxy => {
                let config = server::write(host, "haproxy.cfg", &haproxy())?;
                server::start(host, &format!("haproxy -D -f {config}"))
            }
            Self::Nginx => {
                let config = server::write(host, "stream.conf", &nginx())?;
                server::start(host, &format!("nginx -e stderr -c {config}"))
            }
            Self::Docker => Ok(()),
        }
    }
}

/// What `nft -f` takes: a table as kube-proxy's, for services of type NodePort with one endpoint each.
fn nftables(node: &str) -> String {
    let mut services = String::new();
    let (mut addresses, mut node_ports) = (Vec::new(), Vec::new());
    for (name, protocol, port, cluster) in PORTS {
        addresses.push(format!(
            "{cluster} . {protocol} . {port} : goto service-{name}"
        ));
        node_ports.push(format!("{protocol} . {port} : goto external-{name}"));
        // Writing into a string cannot fail.
        let _ = write!(
            services,
            "
  chain endpoint-{name} {{
    ip saddr {SERVER} jump mark-for-masquerade
    meta l4proto {protocol} dnat to {SERVER}:{port}
  }}
  chain service-{name} {{
    ip daddr {cluster} {protocol} dport {port} ip saddr != {SERVER} jump mark-for-masquerade
    numgen random mod 1 vmap {{ 0 : goto endpoint-{name} }}
  }}
  chain external-{name} {{
    jump mark-for-masquerade
    goto service-{name}
  }}"
        );
    }
    let clusters = CLUSTER_ADDRESSES.join(", ");
    let (addresses, node_ports) = (addresses.join(", "), node_ports.join(", "));
    format!(
        "table ip kube-proxy {{
  set cluster-ips {{ type ipv4_addr; elements = {{ {clusters} }} }}
  set nodeport-ips {{ type ipv4_addr; elements = {{ {node} }} }}
  map no-endpoint-services {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
  map no-endpoint-nodeports {{ type inet_proto . inet_service : verdict; }}
  map firewall-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
  map service-ips {{
    type ipv4_addr . inet_proto . inet_service : verdict; elements = {{ {addresses} }}
  }}
  map service-nodeports {{
    type inet_proto . inet_service : verdict; elements = {{ {node_ports} }}
  }}
  chain firewall-check {{
    ip daddr . meta l4proto . th dport vmap @firewall-ips
  }}
  chain service-endpoints-check {{
    ip daddr . meta l4proto . th dport vmap @no-endpoint-services
  }}
  chain nodeport-endpoints-check {{
    ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
  }}
  chain cluster-ips-check {{
    ip daddr @cluster-ips reject
    ip daddr {CLUSTER_NETWORK} drop
  }}
  chain mark-for-masquerade {{
    meta mark set meta mark or {MARK}
  }}
  chain masquerading {{
    meta mark & {MARK} == 0 return
    meta mark set meta mark xor {MARK}
    masquerade fully-random
  }}{services}
  chain services {{
    ip daddr . meta l4proto . th dport vmap @service-ips
    ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
  }}
  chain filter-prerouting {{
    type filter hook prerouting priority -110;
    ct state new jump firewall-check
  }}
  chain filter-input {{
    type filter hook input priority -110;
    ct state new jump nodeport-endpoints-check
    ct state new jump service-endpoints-check
  }}
  chain filter-forward {{
    type filter hook forward priority -110;
    ct state new jump service-endpoints-check
    ct state new jump cluster-ips-check
  }}
  chain filter-output {{
    type filter hook output priority -110;
    ct state new jump service-endpoints-check
    ct state new jump firewall-check
  }}
  chain filter-output-post-dnat {{
    type filter hook output priority -90;
    ct state new jump cluster-ips-check
  }}
  chain nat-prerouting {{
    type nat hook prerouting priority -100;
    jump services
  }}
  chain nat-output {{
    type nat hook output priority -100;
    jump services
  }}
  chain nat-postrouting {{
    type nat hook postrouting priority 100;
    jump masquerading
  }}
}}
"
    )
}

/// What `iptables-restore` takes: chains as kube-proxy's, for the same services. With one endpoint it
/// writes no `statistic` match: only the last endpoint's rule is left, which has none.
fn iptables() -> String {
    let (mut chains, mut rules, mut node_ports) = (String::new(), String::new(), String::new());
    for (name, protocol, port, cluster) in PORTS {
        let (external, service) = (format!("KUBE-EXT-{name}"), format!("KUBE-SVC-{name}"));
        let endpoint = format!("KUBE-SEP-{name}");
        // Writing into a string cannot fail.
        let _ = write!(
            chains,
            ":{external} - [0:0]\n:{service} - [0:0]\n:{endpoint} - [0:0]\n"
        );
        let _ = writeln!(
            node_ports,
            "-A KUBE-NODEPORTS -p {protocol} --dport {port} -j {external}"
        );
        let _ = write!(
            rules,
            "-A KUBE-SERVICES -d {cluster}/32 -p {protocol} --dport {port} -j {service}
-A {external} -j KUBE-MARK-MASQ
-A {external} -j {service}
-A {service} ! -s {SERVER}/32 -d {cluster}/32 -p {protocol} --dport {port} -j KUBE-MARK-MASQ
-A {service} -j {endpoint}
-A {endpoint} -s {SERVER}/32 -j KUBE-MARK-MASQ
-A {endpoint} -p {protocol} -j DNAT --to-destination {SERVER}:{port}
"
        );
    }
    let new = "-m conntrack --ctstate NEW";
    format!(
        "*filter
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
-A INPUT {new} -j KUBE-PROXY-FIREWALL
-A INPUT -j KUBE-NODEPORTS
-A INPUT {new} -j KUBE-EXTERNAL-SERVICES
-A INPUT -j KUBE-FIREWALL
-A FORWARD {new} -j KUBE-PROXY-FIREWALL
-A FORWARD -j KUBE-FORWARD
-A FORWARD {new} -j KUBE-SERVICES
-A FORWARD {new} -j KUBE-EXTERNAL-SERVICES
-A OUTPUT {new} -j KUBE-PROXY-FIREWALL
-A OUTPUT {new} -j KUBE-SERVICES
-A OUTPUT -j KUBE-FIREWALL
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark {MARK}/{MARK} -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*nat
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
{chains}-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --or-mark {MARK}
-A KUBE-POSTROUTING -m mark ! --mark {MARK}/{MARK} -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark {MARK}
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
{rules}{node_ports}-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
COMMIT
"
    )
}

/// The ports of programs: they carry TCP alone here.
fn tcp_ports() -> impl Iterator<Item = (&'static str, u16)> {
    let tcp = PORTS.iter().filter(|(_, protocol, ..)| *protocol == "tcp");
    tcp.map(|(name, _, port, _)| (*name, *port))
}

/// HAProxy with a thread for each processor, as it comes.
fn haproxy() -> String {
    let listeners = tcp_ports().map(|(name, port)| {
        format!("listen {name}\n  bind :{port}\n  server task {SERVER}:{port}\n")
    });
    format!(
        "global\n  maxconn {CONNECTIONS_MAX}\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  \
         timeout server 1h\n{}",
        listeners.collect::<String>()
    )
}

/// nginx with a worker for each processor.
fn nginx() -> String {
    let servers = tcp_ports()
        .map(|(_, port)| format!("  server {{ listen {port}; proxy_pass {SERVER}:{port}; }}\n"));
    format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\nworker_processes auto;\n\
         pid /run/bench/stream.pid;\nerror_log /run/bench/error.log;\n\
         events {{ worker_connections {CONNECTIONS_MAX}; }}\nstream {{\n  proxy_timeout 1h;\n{}}}\n",
        servers.collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_has_a_way_to_the_server() {
        let (nft, ipt) = (nftables("198.18.0.3"), iptables());
        for (name, protocol, port, _) in PORTS {
            for rule in [
                format!("{protocol} . {port} : goto external-{name}"),
                format!("meta l4proto {protocol} dnat to {SERVER}:{port}"),
            ] {
                assert!(nft.contains(&rule), "{rule}: {nft}");
            }
            for rule in [
                format!("-A KUBE-NODEPORTS -p {protocol} --dport {port} -j KUBE-EXT-{name}\n"),
                format!("-p {protocol} -j DNAT --to-destination {SERVER}:{port}\n"),
            ] {
                assert!(ipt.contains(&rule), "{rule}: {ipt}");
            }
        }
        for config in [haproxy(), nginx()] {
            for port in [HTTP, BULK] {
                assert!(config.contains(&format!("{SERVER}:{port}")), "{config}");
            }
        }
    }

    #[test]
    fn what_comes_to_a_nodes_port_is_masqueraded() {
        let nft = nftables("198.18.0.3");
        assert!(nft.contains("chain external-http {\n    jump mark-for-masquerade"));
        assert!(iptables().contains("-A KUBE-EXT-http -j KUBE-MARK-MASQ\n"));
    }
}
