//! Which flows and packets somebody wants to see. Pure.

use super::names::{Known, Seen};
use anyhow::{Context as _, bail};
use ipnet::Ipv4Net;
use skein_abi::{ICMP, SCTP, TCP, UDP, addr, from_addr, port, sight::Watch, verdict::Counter};
use skein_proto::inspect::FlowFilter;
use std::net::Ipv4Addr;

/// As [`Flow.verdict`](skein_proto::inspect::Flow) has them, but for what nobody is told of.
const VERDICTS: [&str; 7] = [
    "forwarded",
    "delivered",
    "sent",
    "host",
    "answered",
    "refused",
    "dropped",
];

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    services: Vec<String>,
    tasks: Vec<String>,
    nodes: Vec<String>,
    clients: Vec<Ipv4Net>,
    ports: Vec<u16>,
    protocols: Vec<u8>,
    verdicts: Vec<String>,
    reasons: Vec<String>,
}

impl Filter {
    /// What a request means.
    ///
    /// # Errors
    /// It names what there cannot be.
    pub fn of(asked: &FlowFilter) -> anyhow::Result<Self> {
        let ports = asked.ports.iter().map(|number| {
            let port = u16::try_from(*number).ok().filter(|port| *port != 0);
            port.with_context(|| format!("port {number}: ports are 1 to 65535"))
        });
        let protocols = asked.protocols.iter().map(|name| match name.as_str() {
            "tcp" => Ok(TCP),
            "udp" => Ok(UDP),
            "sctp" => Ok(SCTP),
            "icmp" => Ok(ICMP),
            other => bail!("protocol {other:?}: there are tcp, udp, sctp and icmp"),
        });
        for verdict in &asked.verdicts {
            if !VERDICTS.contains(&verdict.as_str()) {
                bail!("verdict {verdict:?}: there are {}", VERDICTS.join(", "));
            }
        }
        for reason in &asked.reasons {
            let mut reasons = Counter::drops().filter_map(Counter::drop_reason);
            if !reasons.any(|known| known == reason) {
                let known: Vec<&str> = Counter::drops().filter_map(Counter::drop_reason).collect();
                bail!("reason {reason:?}: there are {}", known.join(", "));
            }
        }
        Ok(Self {
            services: asked.services.clone(),
            tasks: asked.tasks.clone(),
            nodes: asked.nodes.clone(),
            clients: asked
                .clients
                .iter()
                .map(|text| net(text))
                .collect::<Result<_, _>>()?,
            ports: ports.collect::<Result<_, _>>()?,
            protocols: protocols.collect::<Result<_, _>>()?,
            verdicts: asked.verdicts.clone(),
            reasons: asked.reasons.clone(),
        })
    }

    /// Whether somebody wants to see it.
    pub fn wants(&self, seen: &Seen) -> bool {
        let flow = &seen.flow;
        let [packet, to] = &seen.tuples;
        let addresses = [packet.src, packet.dst, to.src, to.dst].map(from_addr);
        let ports = [packet.sport, packet.dport, to.sport, to.dport].map(u16::from_be);
        meets(&self.services, |name| seen.service.is(name))
            && meets(&self.tasks, |name| {
                seen.tasks.iter().any(|task| task.is_or_begins(name))
            })
            && meets(&self.nodes, |name| seen.node.is(name))
            && meets(&self.clients, |net| {
                addresses.iter().any(|address| net.contains(address))
            })
            && meets(&self.ports, |port| ports.contains(port))
            && meets(&self.protocols, |proto| {
                *proto == packet.proto && !flow.protocol.is_empty()
            })
            && meets(&self.verdicts, |verdict| *verdict == flow.verdict)
            && meets(&self.reasons, |reason| *reason == flow.reason)
    }

    /// What the kernel's programs can ask by themselves of packets that are captured: less, never more.
    pub fn narrow(&self, watch: &mut Watch) {
        watch.capture_mask = 0;
        watch.capture_net = 0;
        if let [net] = &self.clients[..] {
            watch.capture_net = addr(net.network());
            watch.capture_mask = addr(net.netmask());
        }
        watch.capture_port = match self.ports[..] {
            [number] => port(number),
            _ => 0,
        };
        watch.capture_proto = match self.protocols[..] {
            [proto] => proto,
            _ => 0,
        };
    }
}

/// Nothing asked is all wanted.
fn meets<T>(asked: &[T], is_it: impl Fn(&T) -> bool) -> bool {
    asked.is_empty() || asked.iter().any(is_it)
}

fn net(text: &str) -> anyhow::Result<Ipv4Net> {
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Ok(address.into());
    }
    let net = text.parse::<Ipv4Net>();
    let net = net.with_context(|| {
        format!("{text:?} is neither an IPv4 address nor a network as 203.0.113.0/24")
    })?;
    Ok(net.trunc())
}

impl Known {
    fn is(&self, name: &str) -> bool {
        self.id == name || self.names.iter().any(|known| known == name)
    }

    fn is_or_begins(&self, name: &str) -> bool {
        self.is(name) || !name.is_empty() && self.id.starts_with(name)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::names::tests::{names, request},
        *,
    };
    use proptest::prelude::*;
    use skein_abi::flow::Tuple;

    fn seen() -> Seen {
        let mut record = request();
        record.action = skein_packet::Action::Endpoint.number() as u8;
        record.endpoint = 7;
        record.to.dst = addr([10, 0, 1, 5].into());
        names().tell(&record, String::new(), |_| String::new())
    }

    fn filter(fill: impl Fn(&mut FlowFilter)) -> Filter {
        let mut asked = FlowFilter::default();
        fill(&mut asked);
        Filter::of(&asked).unwrap()
    }

    #[test]
    fn each_word_of_a_filter_must_be_met() {
        let wants = |fill: fn(&mut FlowFilter)| filter(fill).wants(&seen());
        assert!(wants(|_| {}));
        let met: [fn(&mut FlowFilter); 8] = [
            |asked| asked.services = vec!["other".into(), "web".into()],
            |asked| asked.services = vec!["web-id".into()],
            |asked| asked.tasks = vec!["t".into()],
            |asked| asked.clients = vec!["203.0.113.77/24".into()],
            |asked| asked.clients = vec!["10.0.1.5".into()],
            |asked| asked.ports = vec![8080],
            |asked| asked.protocols = vec!["tcp".into()],
            |asked| asked.verdicts = vec!["delivered".into()],
        ];
        for fill in met {
            assert!(wants(fill));
            let both = filter(|asked| {
                fill(asked);
                asked.ports = vec![1];
            });
            assert!(!both.wants(&seen()));
        }
        let unmet: [fn(&mut FlowFilter); 7] = [
            |asked| asked.services = vec!["api".into()],
            |asked| asked.tasks = vec!["x".into()],
            |asked| asked.nodes = vec!["host-a".into()],
            |asked| asked.clients = vec!["203.0.114.0/24".into()],
            |asked| asked.protocols = vec!["udp".into()],
            |asked| asked.verdicts = vec!["dropped".into()],
            |asked| asked.reasons = vec!["no_task".into()],
        ];
        for fill in unmet {
            assert!(!wants(fill));
        }
        let forwarded = names().tell(&request(), String::new(), |_| String::new());
        assert!(filter(|asked| asked.nodes = vec!["host-a".into()]).wants(&forwarded));
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_can() {
        type Change = fn(&mut FlowFilter);
        let refused: [(Change, &str); 5] = [
            (|asked| asked.ports = vec![65_536], "1 to 65535"),
            (|asked| asked.protocols = vec!["ipx".into()], "icmp"),
            (|asked| asked.verdicts = vec!["lost".into()], "forwarded, "),
            (|asked| asked.reasons = vec!["bad".into()], "no_task"),
            (|asked| asked.clients = vec!["::1".into()], "IPv4"),
        ];
        for (fill, said) in refused {
            let mut asked = FlowFilter::default();
            fill(&mut asked);
            let error = format!("{:#}", Filter::of(&asked).unwrap_err());
            assert!(error.contains(said), "{error}");
        }
    }

    proptest! {
        /// The programs let through whatever the reader wants.
        #[test]
        fn what_the_kernel_asks_is_never_more(
            src in any::<[u8; 4]>(), dst in any::<[u8; 4]>(),
            sport in 1..9_u16, dport in 1..9_u16, wanted in prop::collection::vec(1..9_u32, 0..3),
            bits in 0..=32_u8, is_udp in any::<bool>(), asks_udp in any::<bool>(),
        ) {
            let packet = Tuple {
                src: addr(src.into()),
                dst: addr(dst.into()),
                sport: port(sport),
                dport: port(dport),
                proto: if is_udp { UDP } else { TCP },
                pad: [0; 3],
            };
            let filter = filter(|asked| {
                asked.ports = wanted.clone();
                asked.clients = vec![format!("{}/{bits}", Ipv4Addr::from(src))];
                asked.protocols = if asks_udp { vec!["udp".into()] } else { Vec::new() };
            });
            let mut watch = Watch::default();
            filter.narrow(&mut watch);
            let mut record = request();
            record.packet = packet;
            record.to = packet;
            let seen = names().tell(&record, String::new(), |_| String::new());
            prop_assert!(!filter.wants(&seen) || watch.may_want(&packet, &packet));
        }
    }
}
