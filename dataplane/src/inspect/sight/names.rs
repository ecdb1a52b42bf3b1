//! From the programs' records to the words that people have for them. Pure.

use crate::kernel::{Metered, Shown};
use skein_abi::{
    Addr, ICMP, SCTP, TCP, UDP, addr,
    flow::Tuple,
    from_addr,
    overlay::OverlayKey,
    protocol_name,
    sight::{
        EVENT_CLOSED, EVENT_DROPPED, EVENT_OPENED, RECORD_ANSWER, RECORD_UNREAD, Record,
        SEEN_LOCAL, SEEN_UPLINK, SEEN_VETH, SEEN_VXLAN, SEEN_XDP,
    },
    verdict::Counter,
};
use skein_packet::Action;
use skein_proto::{inspect::Flow, network};
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4},
};

/// What people may ask for of a task or node or service: any of its names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    pub id: String,
    pub names: Vec<String>,
}

/// A record in words, with what filters ask for beside them.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub flow: Flow,
    /// Before and after translation.
    pub tuples: [Tuple; 2],
    pub service: Known,
    /// At both ends.
    pub tasks: Vec<Known>,
    /// That it is sent to.
    pub node: Known,
}

/// Whom numbers and addresses are of.
#[derive(Debug, Default)]
pub struct Names {
    own: String,
    nodes: BTreeMap<Addr, Known>,
    services: BTreeMap<u32, Known>,
    /// Names by VNI, and by ID.
    networks: BTreeMap<u32, (String, String)>,
    names_by_id: BTreeMap<String, String>,
    /// Tasks by network ID and address.
    tasks: BTreeMap<(String, Ipv4Addr), Known>,
    /// Network ID and address by endpoint index.
    endpoints: BTreeMap<u32, (String, Ipv4Addr)>,
}

impl Names {
    /// As of one moment.
    pub fn of(shown: &Shown) -> Self {
        let desired = &shown.desired;
        let settings = desired.settings.as_ref();
        let own = settings.and_then(|settings| desired.nodes.get(&settings.node_id));
        let nodes = desired.nodes.values().filter_map(|node| {
            let known = Known {
                id: node.id.clone(),
                names: vec![node.hostname.clone(), node.address.clone()],
            };
            Some((addr(node.address.parse().ok()?), known))
        });
        let endpoints = desired.endpoints.values().filter_map(|endpoint| {
            let known = Known {
                id: endpoint.task_id.clone(),
                names: endpoint.names.clone(),
            };
            let address = endpoint.address.parse().ok()?;
            Some(((endpoint.network_id.clone(), address), known))
        });
        let networks = desired.networks.values();
        let vips = vips(shown);
        let services = shown.meters.iter().filter_map(|(number, metered)| {
            let id = match metered {
                Metered::Port(service, _) => service,
                Metered::Vip(key) => vips.get(key)?,
            };
            let service = desired.services.get(id);
            let known = Known {
                id: id.clone(),
                names: service
                    .map(|service| service.name.clone())
                    .into_iter()
                    .collect(),
            };
            Some((*number, known))
        });
        Self {
            own: own.map_or_else(String::new, |node| node.hostname.clone()),
            nodes: nodes.collect(),
            services: services.collect(),
            networks: networks
                .clone()
                .map(|network| (network.vni, (network.id.clone(), network.name.clone())))
                .collect(),
            names_by_id: networks
                .map(|network| (network.id.clone(), network.name.clone()))
                .collect(),
            tasks: endpoints.collect(),
            endpoints: shown.endpoints.clone(),
        }
    }

    /// A record in words. `time` is when it was, `device` names a device by its number.
    pub fn tell(&self, record: &Record, time: String, device: impl Fn(u32) -> String) -> Seen {
        let (packet, to) = (record.packet, record.to);
        let is_unread = record.flags & RECORD_UNREAD != 0;
        let is_answer = record.flags & RECORD_ANSWER != 0;
        let verdict = verdict(record);
        let reason = Counter::of_drop(record.reason).and_then(Counter::drop_reason);
        let (receiver, mut network) = self.receiver(record);
        let sender = record.sender.checked_sub(1);
        let sender = sender.and_then(|index| self.endpoints.get(&index));
        let from = sender.and_then(|place| self.tasks.get(place)).cloned();
        if let (Some((id, _)), None) = (sender, &network) {
            network = self.names_by_id.get(id).cloned();
        }
        let service = self.services.get(&record.meter.into()).cloned();
        let node = match Action::of_number(record.action.into()) {
            Action::Tunnel | Action::Segment => self.node(record.node),
            _ => Known::default(),
        };
        let (task, from_task) = match is_answer {
            true => (from.clone(), None),
            false => (receiver.clone(), from.clone()),
        };
        let id = |known: Option<Known>| known.map_or_else(String::new, |known| known.id);
        let end = |address, port| match (is_unread, packet.proto) {
            (true, _) => String::new(),
            (_, TCP | UDP) => SocketAddrV4::new(from_addr(address), u16::from_be(port)).to_string(),
            _ => from_addr(address).to_string(),
        };
        let flow = Flow {
            time,
            node: self.own.clone(),
            event: event(record.event).to_owned(),
            verdict: verdict.to_owned(),
            reason: reason.unwrap_or_default().to_owned(),
            protocol: match is_unread {
                true => String::new(),
                false => protocol(packet.proto),
            },
            source: end(packet.src, packet.sport),
            destination: end(packet.dst, packet.dport),
            translated: match verdict {
                "dropped" | "refused" => String::new(),
                _ => translated(&packet, &to, &end(to.src, to.sport), &end(to.dst, to.dport)),
            },
            answer: is_answer,
            service: service
                .as_ref()
                .map_or_else(String::new, |known| known.shown().to_owned()),
            task: id(task),
            from_task: id(from_task),
            to_node: node.shown().to_owned(),
            network: network.unwrap_or_default(),
            seen_at: place(record.place).to_owned(),
            device: device(record.ifindex),
            tcp_flags: flags(packet.proto, record.tcp_flags),
            length: record.frame,
        };
        Seen {
            flow,
            tuples: [packet, to],
            service: service.unwrap_or_default(),
            tasks: receiver.into_iter().chain(from).collect(),
            node,
        }
    }

    /// The task that gets a packet, and the name of the network that it gets it by.
    fn receiver(&self, record: &Record) -> (Option<Known>, Option<String>) {
        let network = self.networks.get(&record.vni);
        let place = match (Action::of_number(record.action.into()), network) {
            (Action::Endpoint, _) => self.endpoints.get(&record.endpoint).cloned(),
            (Action::Tunnel | Action::Segment, Some((id, _))) => {
                Some((id.clone(), from_addr(record.to.dst)))
            }
            _ => None,
        };
        let Some(place) = place else {
            return (None, None);
        };
        let name = self.names_by_id.get(&place.0).cloned();
        (self.tasks.get(&place).cloned(), name)
    }

    fn node(&self, address: Addr) -> Known {
        let known = self.nodes.get(&address).cloned();
        known.unwrap_or_else(|| Known {
            id: from_addr(address).to_string(),
            names: Vec::new(),
        })
    }
}

impl Known {
    /// By its first name, or its ID.
    fn shown(&self) -> &str {
        self.names.first().unwrap_or(&self.id)
    }
}

/// The services that VIPs are of.
pub fn vips(shown: &Shown) -> BTreeMap<OverlayKey, String> {
    let desired = &shown.desired;
    let services = desired.services.values();
    let vips = services.flat_map(|service: &network::Service| {
        service.networks.iter().filter_map(|on| {
            let key = OverlayKey {
                vni: desired.networks.get(&on.network_id)?.vni,
                addr: addr(on.vip.parse().ok()?),
            };
            Some((key, service.id.clone()))
        })
    });
    vips.collect()
}

fn event(event: u8) -> &'static str {
    match event {
        EVENT_OPENED => "opened",
        EVENT_CLOSED => "closed",
        EVENT_DROPPED => "dropped",
        _ => "packet",
    }
}

/// What becomes of the packet.
fn verdict(record: &Record) -> &'static str {
    let action = Action::of_number(record.action.into());
    let reason = Counter::of_drop(record.reason);
    match (action, reason) {
        (Action::Drop, _) => "dropped",
        // Whoever sent it is told.
        (_, Some(Counter::DropNoTask | Counter::DropTooBig)) => "refused",
        (_, Some(_)) => "dropped",
        (Action::Tunnel | Action::Segment, None) => "forwarded",
        (Action::Endpoint, None) => "delivered",
        (Action::Out, None) => "sent",
        (Action::Host, None) => "host",
        (Action::Echo, None) => "answered",
        _ => "passed",
    }
}

fn place(place: u8) -> &'static str {
    match place {
        SEEN_XDP => "xdp",
        SEEN_UPLINK => "uplink",
        SEEN_VXLAN => "vxlan",
        SEEN_VETH => "veth",
        SEEN_LOCAL => "local",
        _ => "",
    }
}

/// By its name; those that have none here by their number.
fn protocol(proto: u8) -> String {
    match proto {
        TCP | UDP | SCTP | ICMP => protocol_name(proto).to_owned(),
        other => other.to_string(),
    }
}

/// What has changed.
fn translated(packet: &Tuple, to: &Tuple, source: &str, destination: &str) -> String {
    let changed = |a: (Addr, u16), b: (Addr, u16)| a != b;
    let is_source = changed((packet.src, packet.sport), (to.src, to.sport));
    let is_destination = changed((packet.dst, packet.dport), (to.dst, to.dport));
    match (is_source, is_destination) {
        (false, false) => String::new(),
        (true, false) => source.to_owned(),
        (false, true) => destination.to_owned(),
        (true, true) => format!("{source} -> {destination}"),
    }
}

fn flags(proto: u8, flags: u8) -> String {
    const NAMES: [&str; 6] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG"];
    if proto != TCP {
        return String::new();
    }
    let set = NAMES.iter().enumerate();
    let set = set.filter(|(bit, _)| flags & (1 << bit) != 0);
    let names: Vec<&str> = set.map(|(_, name)| *name).collect();
    names.join(" ")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::inspect::status::tests::{BACKEND, look};
    use skein_abi::{ingress::PublishedKey, port};

    /// Of the node that `look` shows, where 7 counts the port of `web` and 8 its VIP.
    pub fn names() -> Names {
        let look = look();
        let key = PublishedKey {
            port: port(8080),
            proto: TCP,
            pad: 0,
        };
        let vip = OverlayKey {
            vni: 4_096,
            addr: addr([10, 0, 1, 2].into()),
        };
        Names::of(&Shown {
            desired: look.desired,
            meters: [
                (7, Metered::Port("web-id".to_owned(), key)),
                (8, Metered::Vip(vip)),
            ]
            .into(),
            endpoints: look.endpoints,
        })
    }

    /// A client's request, as the entry sees it.
    pub fn request() -> Record {
        let packet = Tuple {
            src: addr([203, 0, 113, 9].into()),
            dst: addr([198, 18, 0, 2].into()),
            sport: port(40_000),
            dport: port(8080),
            proto: TCP,
            pad: [0; 3],
        };
        Record {
            packet,
            to: packet,
            node: addr([198, 18, 0, 1].into()),
            vni: 1,
            meter: 7,
            event: EVENT_OPENED,
            place: SEEN_XDP,
            action: Action::Tunnel.number() as u8,
            tcp_flags: 0x12,
            frame: 74,
            ifindex: 3,
            ..Record::default()
        }
    }

    fn told(record: &Record) -> Flow {
        let device = |index| format!("eth{index}");
        names().tell(record, "now".to_owned(), device).flow
    }

    #[test]
    fn numbers_become_names() {
        let flow = told(&request());
        let expected = Flow {
            time: "now".to_owned(),
            node: "host-b".to_owned(),
            event: "opened".to_owned(),
            verdict: "forwarded".to_owned(),
            protocol: "tcp".to_owned(),
            source: "203.0.113.9:40000".to_owned(),
            destination: "198.18.0.2:8080".to_owned(),
            service: "web".to_owned(),
            to_node: "host-a".to_owned(),
            seen_at: "xdp".to_owned(),
            device: "eth3".to_owned(),
            tcp_flags: "SYN ACK".to_owned(),
            length: 74,
            ..Flow::default()
        };
        assert_eq!(flow, expected);
    }

    #[test]
    fn the_tasks_at_both_ends_are_told() {
        let mut record = request();
        record.action = Action::Endpoint.number() as u8;
        record.endpoint = 7;
        record.to.dst = addr(BACKEND.into());
        record.to.dport = port(80);
        let flow = told(&record);
        assert_eq!(
            (
                flow.verdict.as_str(),
                flow.task.as_str(),
                flow.network.as_str()
            ),
            ("delivered", "t", "backend")
        );
        assert_eq!(flow.translated, "10.0.1.5:80");
        // Its answer.
        let record = Record {
            packet: record.to.reversed(),
            to: record.packet.reversed(),
            sender: 8,
            flags: RECORD_ANSWER,
            event: EVENT_CLOSED,
            action: Action::Out.number() as u8,
            ..record
        };
        let flow = told(&record);
        assert_eq!(
            (flow.verdict.as_str(), flow.event.as_str()),
            ("sent", "closed")
        );
        assert_eq!((flow.task.as_str(), flow.from_task.as_str()), ("t", ""));
        assert_eq!(flow.translated, "198.18.0.2:8080");
        // To a VIP, whose task is elsewhere.
        let record = Record {
            sender: 8,
            meter: 8,
            vni: 4_096,
            to: Tuple {
                dst: addr(BACKEND.into()),
                ..request().packet
            },
            ..request()
        };
        let flow = told(&record);
        assert_eq!((flow.service.as_str(), flow.task.as_str()), ("web", "t"));
        assert_eq!(flow.from_task, "t");
    }

    #[test]
    fn drops_are_told_from_refusals() {
        let dropped = Record {
            event: EVENT_DROPPED,
            reason: Counter::DropNoTask as u32,
            action: Action::Out.number() as u8,
            ..request()
        };
        let flow = told(&dropped);
        assert_eq!(
            (flow.verdict.as_str(), flow.reason.as_str()),
            ("refused", "no_task")
        );
        let unread = Record {
            event: EVENT_DROPPED,
            reason: Counter::DropNotIpv4 as u32,
            action: Action::Drop.number() as u8,
            flags: RECORD_UNREAD,
            place: SEEN_VETH,
            ..Record::default()
        };
        let flow = told(&unread);
        assert_eq!(
            (
                flow.verdict.as_str(),
                flow.reason.as_str(),
                flow.source.as_str()
            ),
            ("dropped", "not_ipv4", "")
        );
        let no_way = Record {
            reason: Counter::DropNoRoute as u32,
            ..dropped
        };
        assert_eq!(told(&no_way).verdict, "dropped");
    }
}
