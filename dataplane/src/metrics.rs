//! What the kernel programs have counted, for Prometheus.

use crate::kernel::{Counters, TunnelCount, TunnelCounts};
use prometheus_client::{
    metrics::{counter::Counter as Metric, family::Family},
    registry::Registry,
};
use skein_abi::verdict::Counter;

/// All counters, as they are now.
///
/// # Errors
/// The kernel does not tell them.
pub fn read(counters: &Counters, tunnels: &TunnelCounts) -> anyhow::Result<Registry> {
    registry(|counter| counters.read(counter), |count| tunnels.get(count))
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
