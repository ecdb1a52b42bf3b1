//! What `skein status` prints for people. Pure.

use crate::output::Table;
use skein_proto::inspect::{
    Backend, ClusterNode, ClusterStatus, MapFill, Member, NodeStatus, Port, Service, Share, Vip,
};
use std::fmt::Write as _;

/// From this fill of a map on, in per cent, it is pointed at.
const NEARLY_FULL: u64 = 80;
/// How much of an ID tells objects apart, as docker shows them.
const SHORT_ID: usize = 12;

/// What each daemon says, if it says something.
pub fn text(node: Option<&NodeStatus>, cluster: Option<&ClusterStatus>) -> String {
    let mut text = String::new();
    if let Some(node) = node {
        self::node(&mut text, node);
    }
    if let Some(cluster) = cluster {
        section(&mut text, "CLUSTER", &self::cluster(cluster));
    }
    text
}

fn section(text: &mut String, title: &str, table: &Table) {
    line(text, "");
    line(text, title);
    text.push_str(&table.text());
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

fn node(text: &mut String, node: &NodeStatus) {
    let mut of = Table::default();
    let mut say = |what: &str, value: String| of.row([what.to_owned(), value]);
    match node.node_id.as_str() {
        "" => say("Node:", "no member of a swarm".to_owned()),
        id => {
            let (hostname, address) = (&node.hostname, &node.address);
            say("Node:", format!("{hostname}, {address}, ID {id}"));
        }
    }
    let (dataplane, layout) = (&node.dataplane, node.layout);
    say(
        "Dataplane:",
        format!("{dataplane}, layout {layout} of the kernel's maps"),
    );
    let (wanted, has) = (node.wanted_version, node.kernel_version);
    say(
        "Network state:",
        match wanted == has {
            true => format!("version {has}, whole in the kernel"),
            false => format!("version {wanted} wanted, {has} whole in the kernel: see PROBLEMS"),
        },
    );
    if let Some(tunnel) = &node.tunnel {
        let (mode, address, port) = (&tunnel.mode, &tunnel.address, tunnel.port);
        say(
            "Encryption:",
            format!("WireGuard, {mode}: {}", tunnel.reason),
        );
        say(
            "Tunnels:",
            format!(
                "to {} nodes, from UDP port {port}, by {address} in them",
                tunnel.peers
            ),
        );
    }
    let repairs = node.repairs.unwrap_or_default();
    if repairs.failed > 0 {
        say(
            "Repairs:",
            format!(
                "{} of the {} times that the kernel was not as wanted",
                repairs.repaired, repairs.failed
            ),
        );
    }
    if repairs.differing > 0 {
        say(
            "Changed by others:",
            format!(
                "{} entries and devices, since it started: made anew",
                repairs.differing
            ),
        );
    }
    text.push_str(&of.text());
    section(text, "MEMBERS", &members(&node.members));
    section(text, "PROGRAMS", &programs(node));
    section(text, "MAPS", &maps(&node.maps));
    if node.drops.iter().any(|drops| drops.packets > 0) {
        section(text, "DROPS", &drops(node));
    }
    if !node.services.is_empty() {
        line(text, "");
        line(text, "SERVICES");
        for service in &node.services {
            self::service(text, service);
        }
    }
    if !node.problems.is_empty() {
        let mut problems = Table::new(&["OF", "WHAT"]);
        for problem in &node.problems {
            let of = format!("{} {}", problem.kind, short(&problem.id));
            problems.row([of.trim_end().to_owned(), problem.message.clone()]);
        }
        section(text, "PROBLEMS", &problems);
    }
}

fn members(members: &[Member]) -> Table {
    let mut table = Table::new(&["NODE", "ADDRESS", "STATE", "FORWARDING", "WHY SO"]);
    for member in members {
        let state = match member {
            Member { own: true, .. } => "this node",
            Member { up: false, .. } => "down",
            Member {
                suspected: true, ..
            } => "silent: gets no new flows",
            _ => "up",
        };
        table.row([
            member.hostname.clone(),
            member.address.clone(),
            state.to_owned(),
            member.forwarding.clone(),
            member.forwarding_reason.clone(),
        ]);
    }
    table
}

fn programs(node: &NodeStatus) -> Table {
    let mut table = Table::new(&["DEVICE", "HOOK", "PROGRAM", "WHY THIS HOOK"]);
    for program in &node.programs {
        let device = match program.device.as_str() {
            "" => "(host's sockets)",
            device => device,
        };
        table.row([
            device.to_owned(),
            program.hook.clone(),
            program.program.clone(),
            program.reason.clone(),
        ]);
    }
    table
}

fn maps(maps: &[MapFill]) -> Table {
    let mut table = Table::new(&["MAP", "ENTRIES", "LIMIT", "FILL", "WHEN FULL"]);
    for map in maps {
        let percent = u64::from(map.entries) * 100 / u64::from(map.limit.max(1));
        let full = match map.forgets {
            true => "forgets the least used",
            false => "refuses",
        };
        let pointer = if percent >= NEARLY_FULL { " (!)" } else { "" };
        table.row([
            map.name.clone(),
            map.entries.to_string(),
            map.limit.to_string(),
            format!("{percent}%{pointer}"),
            full.to_owned(),
        ]);
    }
    table
}

fn drops(node: &NodeStatus) -> Table {
    let mut table = Table::new(&["REASON", "PACKETS", "MEANING", "WHAT TO DO"]);
    for drops in node.drops.iter().filter(|drops| drops.packets > 0) {
        table.row([
            drops.reason.clone(),
            drops.packets.to_string(),
            drops.explanation.clone(),
            drops.advice.clone(),
        ]);
    }
    table
}

fn service(text: &mut String, service: &Service) {
    let name = match service.name.as_str() {
        "" => format!("{} (gone, its last tasks drain)", short(&service.id)),
        name => name.to_owned(),
    };
    let mode = match (service.host_mode, service.return_mode.as_str()) {
        (true, _) => ", in host mode".to_owned(),
        (false, "" | "symmetric") => String::new(),
        (false, mode) => format!(", answers go back by {mode}"),
    };
    line(text, &format!("{name}{mode}"));
    for port in &service.ports {
        line(text, &format!("  {}", self::port(port)));
    }
    if !service.sources.is_empty() {
        let sources = list(service.sources.iter().cloned());
        line(text, &format!("  takes clients of: {sources}"));
    }
    if service.client_affinity {
        line(text, "  all flows of a client come to one task");
    }
    if !service.ports.is_empty() {
        line(text, &format!("  new flows: {}", shares(&service.nodes)));
        line(text, &format!("  tasks here: {}", backends(&service.local)));
    }
    for Vip {
        network,
        address,
        backends: behind,
    } in &service.vips
    {
        let behind = backends(behind);
        line(text, &format!("  VIP {address} on {network}: {behind}"));
    }
}

fn port(port: &Port) -> String {
    let Port {
        protocol,
        published,
        target,
        taken,
        bound,
        addresses,
    } = port;
    let taken = match taken {
        true => ", not published here: a program of the host listens on it",
        false => "",
    };
    let addresses = match bound {
        true => format!(", at {} of this node", list(addresses.iter().cloned())),
        false => String::new(),
    };
    format!("{protocol} {published} -> {target}{addresses}{taken}")
}

fn shares(shares: &[Share]) -> String {
    list(shares.iter().map(|share| {
        let node = match share.hostname.as_str() {
            "" => &share.address,
            hostname => hostname,
        };
        match share.tasks {
            1 => format!("{node} (1 task)"),
            tasks => format!("{node} ({tasks} tasks)"),
        }
    }))
}

fn backends(backends: &[Backend]) -> String {
    list(backends.iter().map(|backend| {
        let mut shown = backend.address.clone();
        if !backend.task_id.is_empty() {
            // Into memory: never fails.
            let _ = write!(shown, " (task {})", short(&backend.task_id));
        }
        if backend.draining {
            shown.push_str(" draining");
        }
        shown
    }))
}

fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    match items.is_empty() {
        true => "none".to_owned(),
        false => items.join(", "),
    }
}

fn short(id: &str) -> String {
    id.chars().take(SHORT_ID).collect()
}

fn cluster(cluster: &ClusterStatus) -> Table {
    let mut table = Table::new(&[
        "NODE",
        "ADDRESS",
        "ROLE",
        "STATE",
        "AVAILABILITY",
        "NETWORK STATE IN THE KERNEL",
    ]);
    for node in &cluster.nodes {
        table.row([
            node.hostname.clone(),
            node.address.clone(),
            node.role.clone(),
            node.state.clone(),
            node.availability.clone(),
            progress(node),
        ]);
    }
    table
}

fn progress(node: &ClusterNode) -> String {
    let (told, has) = (node.told_version, node.kernel_version);
    let progress = match (told, node.behind) {
        (0, _) => "not known to this leader".to_owned(),
        (_, true) => format!("BEHIND: {has} of {told}"),
        (_, false) => format!("version {has}"),
    };
    match node.problem.as_str() {
        "" => progress,
        problem => format!("{progress}; {problem}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_proto::inspect::{Drops, Problem, Program, Repairs, Tunnel};

    fn status() -> NodeStatus {
        NodeStatus {
            dataplane: "0.1.0".to_owned(),
            layout: 7,
            node_id: "id".to_owned(),
            hostname: "n1".to_owned(),
            address: "198.18.0.1".to_owned(),
            wanted_version: 9,
            kernel_version: 8,
            members: vec![Member {
                hostname: "n2".to_owned(),
                up: true,
                suspected: true,
                forwarding: "vxlan".to_owned(),
                forwarding_reason: "it shares no segment with this node".to_owned(),
                ..Member::default()
            }],
            programs: vec![Program {
                device: "eth0".to_owned(),
                hook: "xdp".to_owned(),
                program: "skein_uplink_x".to_owned(),
                reason: "its driver has native XDP".to_owned(),
            }],
            maps: vec![MapFill {
                name: "CONNTRACK".to_owned(),
                entries: 90,
                limit: 100,
                forgets: true,
            }],
            services: vec![Service {
                name: "web".to_owned(),
                ports: vec![Port {
                    protocol: "tcp".to_owned(),
                    published: 8080,
                    target: 80,
                    taken: true,
                    bound: true,
                    addresses: vec!["127.0.0.1".to_owned()],
                }],
                sources: vec!["10.0.0.0/8".to_owned()],
                client_affinity: true,
                nodes: vec![Share {
                    hostname: "n2".to_owned(),
                    tasks: 2,
                    ..Share::default()
                }],
                vips: vec![Vip {
                    network: "back".to_owned(),
                    address: "10.0.1.2".to_owned(),
                    backends: vec![Backend {
                        address: "10.0.1.5".to_owned(),
                        task_id: "abcdefghijklmnop".to_owned(),
                        draining: true,
                    }],
                }],
                host_mode: true,
                ..Service::default()
            }],
            problems: vec![Problem {
                kind: "node".to_owned(),
                message: "no room".to_owned(),
                ..Problem::default()
            }],
            repairs: Some(Repairs {
                failed: 2,
                repaired: 1,
                differing: 4,
            }),
            drops: [("no_task", 3), ("ttl", 0)]
                .map(|(reason, packets)| Drops {
                    reason: reason.to_owned(),
                    packets,
                    explanation: format!("It is {reason}."),
                    advice: "Wait.".to_owned(),
                })
                .into(),
            tunnel: Some(Tunnel {
                mode: "userspace".to_owned(),
                reason: "the kernel has no WireGuard".to_owned(),
                address: "100.66.0.1".to_owned(),
                port: 4_793,
                public_key: "key".to_owned(),
                peers: 2,
            }),
        }
    }

    #[test]
    fn everything_that_is_wrong_is_seen() {
        let text = text(Some(&status()), None);
        for expected in [
            "n1, 198.18.0.1, ID id",
            "version 9 wanted, 8 whole in the kernel",
            "1 of the 2 times",
            "silent: gets no new flows",
            "it shares no segment with this node",
            "eth0     xdp    skein_uplink_x   its driver has native XDP",
            "90%",
            "(!)",
            "web, in host mode",
            "tcp 8080 -> 80, at 127.0.0.1 of this node, not published here",
            "takes clients of: 10.0.0.0/8",
            "all flows of a client come to one task",
            "new flows: n2 (2 tasks)",
            "tasks here: none",
            "VIP 10.0.1.2 on back: 10.0.1.5 (task abcdefghijkl) draining",
            "node   no room",
            "no_task   3         It is no_task.   Wait.",
            "WireGuard, userspace: the kernel has no WireGuard",
            "to 2 nodes, from UDP port 4793, by 100.66.0.1 in them",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in\n{text}");
        }
        for quiet in ["CLUSTER", "ttl"] {
            assert!(!text.contains(quiet), "{quiet} is in\n{text}");
        }
    }

    #[test]
    fn another_return_mode_than_most_have_is_told() {
        let shown = |mode: &str, host_mode| {
            let service = Service {
                name: "web".to_owned(),
                return_mode: mode.to_owned(),
                host_mode,
                ..Service::default()
            };
            let mut text = String::new();
            super::service(&mut text, &service);
            text
        };
        assert_eq!(shown("symmetric", false), "web\n");
        assert_eq!(shown("", true), "web, in host mode\n");
        assert_eq!(shown("dsr", false), "web, answers go back by dsr\n");
    }

    #[test]
    fn a_healthy_node_complains_of_nothing() {
        let healthy = NodeStatus {
            wanted_version: 9,
            kernel_version: 9,
            ..NodeStatus::default()
        };
        let text = text(Some(&healthy), None);
        assert!(text.contains("version 9, whole in the kernel"), "{text}");
        assert!(text.contains("no member of a swarm"), "{text}");
        for quiet in ["PROBLEMS", "Repairs", "DROPS", "Encryption", "Tunnels"] {
            assert!(!text.contains(quiet), "{text}");
        }
    }

    #[test]
    fn who_is_behind_stands_out() {
        let node = |hostname: &str, told_version, kernel_version| ClusterNode {
            hostname: hostname.to_owned(),
            told_version,
            kernel_version,
            behind: kernel_version < told_version,
            ..ClusterNode::default()
        };
        let cluster = ClusterStatus {
            version: 9,
            nodes: vec![
                node("n1", 7, 7),
                node("n2", 7, 5),
                node("n3", 0, 0),
                ClusterNode {
                    problem: "skein-dataplane is away".to_owned(),
                    ..node("n4", 7, 6)
                },
            ],
        };
        let text = text(None, Some(&cluster));
        let says = |hostname: &str, what: &str| {
            let mut lines = text.lines();
            lines.any(|line| line.starts_with(hostname) && line.ends_with(what))
        };
        assert!(says("n1", "version 7"), "{text}");
        assert!(says("n2", "BEHIND: 5 of 7"), "{text}");
        assert!(says("n3", "not known to this leader"), "{text}");
        assert!(
            says("n4", "BEHIND: 6 of 7; skein-dataplane is away"),
            "{text}"
        );
    }
}
