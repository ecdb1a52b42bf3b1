//! What a node's kernel programs hold and have counted, by bpftool.

use anyhow::{Context as _, ensure};
use serde_json::Value;
use skein_abi::{
    config::{Config, Timeouts},
    names::PINS,
    verdict::Counter,
};
use std::{mem::offset_of, net::Ipv4Addr};
use xtask::cluster::Host;

/// The pinned maps, on every node.
fn maps() -> String {
    format!("/sys/fs/bpf/{PINS}/maps")
}

/// How many packets a node has counted.
///
/// # Errors
/// The map cannot be read.
pub fn count(node: &Host, counter: Counter) -> anyhow::Result<u64> {
    let key = bytes(&(counter as u32).to_ne_bytes());
    let found = node.run(&format!(
        "bpftool -j map lookup pinned {}/COUNTERS key {key}",
        maps()
    ))?;
    let found: Value = serde_json::from_str(&found)?;
    let values = found["formatted"]["values"].as_array();
    let values = values.with_context(|| format!("bpftool says {found}"))?;
    let of_cpu = |value: &Value| value["value"].as_u64().unwrap_or(0);
    Ok(values.iter().map(of_cpu).sum())
}

/// Until when a node's programs capture packets, by the monotonic clock, and that clock now, ns.
///
/// # Errors
/// The map cannot be read.
pub fn captures_until(node: &Host) -> anyhow::Result<(u64, u64)> {
    let found = node.run(&format!(
        "bpftool -j map lookup pinned {}/WATCH key 0 0 0 0",
        maps()
    ))?;
    let found: Value = serde_json::from_str(&found)?;
    let until = found["formatted"]["value"]["capture_until"].as_u64();
    let until = until.with_context(|| format!("bpftool says {found}"))?;
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?;
    let (seconds, nanos) = (now.tv_sec().cast_unsigned(), now.tv_nsec().cast_unsigned());
    Ok((until, seconds * 1_000_000_000 + nanos))
}

/// The same as operators see it: a line of the metrics that the node's dataplane serves, by what stands in
/// front of its value.
///
/// # Errors
/// They are not served, or have no such line.
pub fn metric(node: &Host, line: &str) -> anyhow::Result<u64> {
    let metrics = node.run("curl -sSf -m 5 http://127.0.0.1:9789/metrics")?;
    let mut lines = metrics.lines();
    let value = lines.find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
    let value = value.with_context(|| format!("{line} is not in {metrics}"))?;
    Ok(value.parse()?)
}

/// A program behind a pinned link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linked {
    /// Where the link is pinned.
    pub link: String,
    /// The kernel's number of the program: another one each time that it is loaded.
    pub id: u64,
    /// The kernel's digest of its instructions.
    pub tag: String,
}

/// What is behind each link of a node's devices, in the order of their names.
///
/// # Errors
/// bpftool does not say.
pub fn programs(node: &Host) -> anyhow::Result<Vec<Linked>> {
    let links = format!("/sys/fs/bpf/{PINS}/links");
    let shown = node.shell(&format!(
        "for link in {links}/skein_*-*; do echo $link $(bpftool -j link show pinned $link); done"
    ))?;
    let all: Value = serde_json::from_str(&node.run("bpftool -j prog show")?)?;
    let all = all.as_array().context("bpftool lists no programs")?;
    let linked = |line: &str| {
        let (link, shown) = line.split_once(' ')?;
        let shown: Value = serde_json::from_str(shown).ok()?;
        let id = shown["prog_id"].as_u64()?;
        let program = all.iter().find(|program| program["id"] == id)?;
        Some(Linked {
            link: link.to_owned(),
            id,
            tag: program["tag"].as_str()?.to_owned(),
        })
    };
    shown
        .lines()
        .map(|line| linked(line).with_context(|| format!("bpftool says {line}")))
        .collect()
}

/// Makes all entries of flows live shorter than they do as shipped, by a divisor, until the dataplane compares its settings with the
/// kernel's, once a minute.
///
/// # Errors
/// The settings cannot be read or written.
pub fn shorten_timeouts(node: &Host, by: u64) -> anyhow::Result<()> {
    let map = format!("pinned {}/CONFIG key 0 0 0 0", maps());
    let found: Value = serde_json::from_str(&node.run(&format!("bpftool -j map lookup {map}"))?)?;
    let value = found["value"].as_array().and_then(|value| hex(value));
    let mut value = value.with_context(|| format!("bpftool says {found}"))?;
    ensure!(
        value.len() == size_of::<Config>(),
        "{} bytes of settings",
        value.len()
    );
    let Timeouts {
        established,
        opening,
        closed,
        udp,
        icmp,
        fragment,
    } = Timeouts::default();
    let timeouts = [established, opening, closed, udp, icmp, fragment];
    let shorter = timeouts
        .iter()
        .flat_map(|timeout| (timeout / by).to_ne_bytes());
    let begin = offset_of!(Config, timeouts);
    value.splice(begin..begin + size_of::<Timeouts>(), shorter);
    node.run(&format!("bpftool map update {map} value {}", bytes(&value)))?;
    Ok(())
}

/// Bytes as bpftool writes them.
fn hex(bytes: &[Value]) -> Option<Vec<u8>> {
    let byte = |value: &Value| {
        let text = value.as_str()?.trim_start_matches("0x");
        u8::from_str_radix(text, 16).ok()
    };
    bytes.iter().map(byte).collect()
}

/// Makes a node believe that one other node has all tasks behind a published TCP port.
///
/// # Errors
/// The port is not published, or the maps cannot be written.
pub fn send_all_to(node: &Host, port: u16, to: Ipv4Addr) -> anyhow::Result<()> {
    const TCP: u8 = 6;
    let [high, low] = port.to_be_bytes();
    let found = node.run(&format!(
        "bpftool -j map lookup pinned {}/PUBLISHED key {}",
        maps(),
        bytes(&[high, low, TCP, 0])
    ))?;
    let found: Value = serde_json::from_str(&found)?;
    let value = &found["formatted"]["value"];
    let number = |name: &str| value[name].as_u64();
    let service = number("service").with_context(|| format!("bpftool says {found}"))?;
    let slots = number("slots").with_context(|| format!("bpftool says {found}"))?;
    ensure!(slots > 0, "port {port} leads nowhere on {}", node.name());
    let table = node.run(&format!(
        "bpftool -j map lookup pinned {}/NODE_TABLES key {}",
        maps(),
        bytes(&u32::try_from(service)?.to_ne_bytes())
    ))?;
    let table: Value = serde_json::from_str(&table)?;
    let id = inner_id(&table).with_context(|| format!("bpftool says {table}"))?;
    let value = bytes(&to.octets());
    let update = |slot: u64| {
        let slot = u32::try_from(slot).unwrap_or(u32::MAX);
        let key = bytes(&slot.to_ne_bytes());
        format!("map update id {id} key {key} value {value}\n")
    };
    let batch: String = (0..slots).map(update).collect();
    node.shell(&format!("bpftool batch file - <<'END'\n{batch}END"))?;
    Ok(())
}

fn inner_id(table: &Value) -> Option<u64> {
    if let Some(id) = table["inner_map_id"].as_u64() {
        return Some(id);
    }
    let bytes = hex(table["value"].as_array()?)?;
    let word: [u8; 4] = bytes.try_into().ok()?;
    Some(u32::from_ne_bytes(word).into())
}

fn bytes(bytes: &[u8]) -> String {
    let words: Vec<_> = bytes.iter().map(u8::to_string).collect();
    words.join(" ")
}
