//! What the kernel programs have counted, for Prometheus. `docs/metrics.md` says what each means.

use crate::{
    inspect::vips,
    kernel::{Counted, Counters, Metered, Meters, Shown, TunnelCount, TunnelCounts},
};
use prometheus_client::{
    metrics::{counter::Counter as Metric, family::Family, gauge::Gauge},
    registry::Registry,
};
use skein_abi::{protocol_name, verdict::Counter};
use std::collections::BTreeMap;

/// All counters, as they are now. Blocks, for a tenth of a second at worst.
///
/// # Errors
/// The kernel does not tell them.
pub fn read(
    counters: &Counters,
    tunnels: &TunnelCounts,
    meters: &Meters,
    shown: &Shown,
) -> anyhow::Result<Registry> {
    let mut registry = registry(|counter| counters.read(counter), |count| tunnels.get(count))?;
    let counted = meters.read(shown.meters.keys().copied())?;
    services(&mut registry, shown, &counted);
    Ok(registry)
}

type Labels = [(&'static str, &'static str); 1];

fn registry(
    read: impl Fn(Counter) -> anyhow::Result<u64>,
    of_tunnels: impl Fn(TunnelCount) -> u64,
) -> anyhow::Result<Registry> {
    let packets = Family::<Labels, Metric>::default();
    let dropped = Family::<Labels, Metric>::default();
    for counter in Counter::ALL {
        let metric = match counter.drop_reason() {
            Some(reason) => dropped.get_or_create(&[("reason", reason)]),
            None => packets.get_or_create(&[("event", counter.name())]),
        };
        metric.inc_by(read(*counter)?);
    }
    let tunnels = Family::<Labels, Metric>::default();
    for count in TunnelCount::ALL {
        let metric = tunnels.get_or_create(&[("event", count.name())]);
        metric.inc_by(of_tunnels(*count));
    }
    let mut registry = Registry::with_prefix("skein_dataplane");
    registry.register("packets", "Packets, by what became of them", packets);
    registry.register("dropped_packets", "Packets dropped, by why", dropped);
    registry.register(
        "tunnel_packets",
        "Packets of encrypted networks in this process, by what became of them",
        tunnels,
    );
    Ok(registry)
}

/// Of one published port or VIP: those that it does not have are not there.
type OfService = Vec<(&'static str, String)>;

/// Only what is published now has series.
fn services(registry: &mut Registry, shown: &Shown, counted: &BTreeMap<u32, Counted>) {
    let packets = Family::<OfService, Metric>::default();
    let bytes = Family::<OfService, Metric>::default();
    let opened = Family::<OfService, Metric>::default();
    let active = Family::<OfService, Gauge>::default();
    let dropped = Family::<OfService, Metric>::default();
    let vips = vips(shown);
    for (number, metered) in &shown.meters {
        let Some(counted) = counted.get(number) else {
            continue;
        };
        let (id, rest) = match metered {
            Metered::Port(service, key) => {
                let protocol = protocol_name(key.proto);
                let port = u16::from_be(key.port).to_string();
                let rest = vec![("protocol", protocol.to_owned()), ("port", port)];
                (service, rest)
            }
            Metered::Vip(key) => {
                let Some(service) = vips.get(key) else {
                    continue;
                };
                let mut networks = shown.desired.networks.values();
                let network = networks.find(|network| network.vni == key.vni);
                let name = network.map_or_else(String::new, |network| network.name.clone());
                (service, vec![("network", name)])
            }
        };
        // One that is gone, while its last tasks end, has no name any more.
        let service = shown.desired.services.get(id);
        let service = service.map_or(id, |service| &service.name);
        let with = |more: Option<(&'static str, &str)>| {
            let more = more.map(|(label, value)| (label, value.to_owned()));
            let labels = [("service", service.clone())].into_iter();
            let labels = labels.chain(rest.iter().cloned()).chain(more);
            labels.collect::<OfService>()
        };
        for (way, direction) in ["in", "out"].into_iter().enumerate() {
            let labels = with(Some(("direction", direction)));
            packets
                .get_or_create(&labels)
                .inc_by(counted.meter.packets[way]);
            bytes
                .get_or_create(&labels)
                .inc_by(counted.meter.bytes[way]);
        }
        opened
            .get_or_create(&with(None))
            .inc_by(counted.meter.flows);
        let flows = i64::try_from(counted.active).unwrap_or(i64::MAX);
        active.get_or_create(&with(None)).set(flows);
        for (reason, packets) in &counted.drops {
            let reason = reason.drop_reason().unwrap_or_default();
            let labels = with(Some(("reason", reason)));
            dropped.get_or_create(&labels).inc_by(*packets);
        }
    }
    for (name, help, family) in [
        (
            "packets",
            "Packets from and to the clients of a service, where its tasks or, of a VIP, its clients are",
            packets,
        ),
        ("bytes", "Bytes of those packets", bytes),
        ("opened_flows", "Flows to a service that began", opened),
        (
            "dropped_packets",
            "Packets to a service that were dropped, by why",
            dropped,
        ),
    ] {
        registry.register(format!("service_{name}"), help, family);
    }
    registry.register(
        "service_active_flows",
        "Flows to a service that are open, as of some seconds ago at most",
        active,
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::status_tests::look;
    use skein_abi::{TCP, addr, ingress::PublishedKey, overlay::OverlayKey, port, sight::Meter};

    #[test]
    fn every_counter_has_its_line() {
        let registry = registry(|counter| Ok(counter as u64 + 100), |_| 7).unwrap();
        let text = skein_metrics::text(&registry).unwrap();
        for (line, counter) in [
            (
                "skein_dataplane_packets_total{event=\"overlay\"}",
                Counter::Overlay,
            ),
            (
                "skein_dataplane_dropped_packets_total{reason=\"no_flow\"}",
                Counter::DropNoFlow,
            ),
        ] {
            let line = format!("{line} {}\n", counter as u64 + 100);
            assert!(text.contains(&line), "{line} is not in {text}");
        }
        let values = text.lines().filter(|line| !line.starts_with('#'));
        assert_eq!(values.count(), Counter::ALL.len() + TunnelCount::ALL.len());
        assert!(text.contains("skein_dataplane_tunnel_packets_total{event=\"sent\"} 7\n"));
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn half_the_counters_are_none() {
        let refused = registry(|_| anyhow::bail!("the kernel refuses"), |_| 0).unwrap_err();
        assert_eq!(refused.to_string(), "the kernel refuses");
    }

    /// The port and the VIP of `web`.
    fn shown() -> Shown {
        let look = look();
        let key = PublishedKey {
            port: port(8080),
            proto: TCP,
            pad: 0,
        };
        let vip = |last| OverlayKey {
            vni: 4_096,
            addr: addr([10, 0, 1, last].into()),
        };
        Shown {
            desired: look.desired,
            meters: [
                (7, Metered::Port("web-id".to_owned(), key)),
                (8, Metered::Vip(vip(2))),
                (9, Metered::Vip(vip(3))),
                (
                    10,
                    Metered::Port(
                        "gone".to_owned(),
                        PublishedKey {
                            port: port(81),
                            ..key
                        },
                    ),
                ),
            ]
            .into(),
            endpoints: look.endpoints,
        }
    }

    fn text() -> String {
        let counted = |base: u64| Counted {
            meter: Meter {
                packets: [base, base + 1],
                bytes: [base + 2, base + 3],
                flows: base + 4,
            },
            active: base + 5,
            drops: vec![(Counter::DropNoTask, base + 6)],
        };
        let counted = [
            (7, counted(70)),
            (8, counted(80)),
            (9, counted(90)),
            (10, counted(100)),
        ];
        let mut registry = registry(|_| Ok(0), |_| 0).unwrap();
        services(&mut registry, &shown(), &counted.into());
        skein_metrics::text(&registry).unwrap()
    }

    #[test]
    fn services_are_counted_by_port_and_by_vip() {
        let text = text();
        let port = "service=\"web\",protocol=\"tcp\",port=\"8080\"";
        let vip = "service=\"web\",network=\"backend\"";
        for (name, labels, value) in [
            ("packets_total", format!("{port},direction=\"in\""), 70),
            ("packets_total", format!("{port},direction=\"out\""), 71),
            ("bytes_total", format!("{port},direction=\"out\""), 73),
            ("opened_flows_total", port.to_owned(), 74),
            ("active_flows", port.to_owned(), 75),
            (
                "dropped_packets_total",
                format!("{port},reason=\"no_task\""),
                76,
            ),
            ("packets_total", format!("{vip},direction=\"in\""), 80),
            ("active_flows", vip.to_owned(), 85),
            (
                "active_flows",
                "service=\"gone\",protocol=\"tcp\",port=\"81\"".to_owned(),
                105,
            ),
        ] {
            let line = format!("\nskein_dataplane_service_{name}{{{labels}}} {value}\n");
            assert!(text.contains(&line), "{line} is not in {text}");
        }
        assert!(!text.contains(" 95\n"), "a VIP that nobody has: {text}");
    }

    /// Both ways: what is served is documented, and what is documented is served.
    #[test]
    fn what_is_served_is_documented() {
        skein_metrics::assert_documented(&text(), "skein_dataplane_");
    }
}
