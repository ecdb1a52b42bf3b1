//! To whom a service offers its published ports, by which addresses, and whether a client keeps its task: as users
//! choose it by labels of the service.

use crate::return_mode::RETURN_MODE_LABEL;
use ipnet::Ipv4Net;
use skein_proto::network::{Bind, Offer};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

/// What all labels about published ports begin with. Those that are none of the known ones are refused: a service
/// whose label has a slip in it would be open to everybody.
const PREFIX: &str = "skein.ingress.";
/// The ranges of clients that may call, with commas between them: `10.0.0.0/8,192.0.2.7`.
pub const SOURCES_LABEL: &str = "skein.ingress.sources";
/// What of a node the ports are bound to, with commas between them: addresses, networks of which a node's addresses
/// are meant, devices. `skein.ingress.bind.PORT` is of one published port.
pub const BIND_LABEL: &str = "skein.ingress.bind";
/// `client`: all flows of a client come to one task. `none`: each flow is balanced.
pub const AFFINITY_LABEL: &str = "skein.ingress.affinity";

/// Ranges of one service: hundreds of them are a list that somebody else keeps, which belongs into a firewall.
pub const SOURCES_MAX: usize = 256;
/// What a port is bound to: more is all that a node has.
pub const BINDS_MAX: usize = 16;
/// Names of devices are shorter than this (`IFNAMSIZ`).
const DEVICE_LEN_MAX: usize = 15;

/// What labels ask for; ports that have a label of their own are `published`, or the spec may leave their choice to
/// the swarm.
///
/// # Errors
/// A label is none of the known ones, or has a value that it cannot have, which the message says.
pub fn offer(labels: &BTreeMap<String, String>) -> Result<Offer, String> {
    let mut offer = Offer::default();
    // In any case: who writes one of them otherwise means no other.
    let is_one = |label: &str| label.to_lowercase().starts_with(PREFIX);
    for (label, value) in labels.iter().filter(|(label, _)| is_one(label)) {
        let wrong = |why: String| format!("label {label}={value:?}: {why}");
        match label.as_str() {
            RETURN_MODE_LABEL => {}
            SOURCES_LABEL => offer.sources = sources(value).map_err(wrong)?,
            AFFINITY_LABEL => {
                offer.client_affinity = match value.as_str() {
                    "client" => true,
                    "none" => false,
                    _ => return Err(wrong("it may be client or none".into())),
                }
            }
            _ => {
                let port = port_of(label).map_err(wrong)?;
                let to = binds(value).map_err(wrong)?;
                offer.binds.push(Bind { port, to });
            }
        }
    }
    Ok(offer)
}

/// The published port that a label binds; 0: all of the service that have no label of their own.
fn port_of(label: &str) -> Result<u32, String> {
    let unknown = || {
        format!(
            "there is no such label: there are {RETURN_MODE_LABEL}, {SOURCES_LABEL}, {AFFINITY_LABEL}, {BIND_LABEL} \
             and {BIND_LABEL}.PORT"
        )
    };
    let rest = label.strip_prefix(BIND_LABEL).ok_or_else(unknown)?;
    if rest.is_empty() {
        return Ok(0);
    }
    let port = rest.strip_prefix('.').ok_or_else(unknown)?;
    match port.parse::<u16>() {
        Ok(port) if port != 0 => Ok(port.into()),
        _ => Err(format!(
            "{port:?} is no port: a number from 1 to 65535 is expected"
        )),
    }
}

fn items(value: &str, most: usize) -> Result<BTreeSet<&str>, String> {
    let items: BTreeSet<&str> = value.split(',').map(str::trim).collect();
    if items.contains("") {
        return Err("an item is empty: to narrow nothing, leave the label out".into());
    }
    match items.len() <= most {
        true => Ok(items),
        false => Err(format!(
            "{} items are given, and there may be at most {most}",
            items.len()
        )),
    }
}

/// An address is a range of one.
fn range(item: &str) -> Option<Ipv4Net> {
    let address = || item.parse::<Ipv4Addr>().ok().map(Ipv4Net::from);
    item.parse::<Ipv4Net>().ok().or_else(address)
}

fn sources(value: &str) -> Result<Vec<String>, String> {
    let ranges: Result<BTreeSet<Ipv4Net>, String> = items(value, SOURCES_MAX)?
        .into_iter()
        .map(|item| {
            let wrong =
                || format!("{item:?} is neither an IPv4 address nor a range of them (10.0.0.0/8)");
            range(item).map(|range| range.trunc()).ok_or_else(wrong)
        })
        .collect();
    Ok(ranges?.iter().map(ToString::to_string).collect())
}

fn binds(value: &str) -> Result<Vec<String>, String> {
    let items = items(value, BINDS_MAX)?.into_iter();
    let binds = items.map(|item| match range(item) {
        // As Docker means it: all addresses.
        Some(range) if range.addr().is_unspecified() => Ok("0.0.0.0/0".to_owned()),
        Some(range) => Ok(range.to_string()),
        None if is_device(item) => Ok(item.to_owned()),
        None => Err(format!(
            "{item:?} is neither an IPv4 address, nor a range of them (10.0.0.0/8), nor a device (eth0)"
        )),
    });
    binds.collect()
}

/// Whether a network device may have this name. A number, or an address that is cut short, is rather a slip.
fn is_device(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-@".contains(c);
    name.len() <= DEVICE_LEN_MAX
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = |(label, value): &(&str, &str)| ((*label).to_owned(), (*value).to_owned());
        labels.iter().map(owned).collect()
    }

    #[test]
    fn labels_narrow_what_is_offered() {
        assert_eq!(offer(&labels(&[("tier", "front")])), Ok(Offer::default()));
        let asked = offer(&labels(&[
            (SOURCES_LABEL, "192.0.2.7, 10.1.2.3/8,10.0.0.0/8"),
            (AFFINITY_LABEL, "client"),
            (BIND_LABEL, "127.0.0.1"),
            ("skein.ingress.bind.8080", "eth0,198.18.0.1/16"),
            (RETURN_MODE_LABEL, "dsr"),
        ]));
        let asked = asked.unwrap();
        assert_eq!(asked.sources, ["10.0.0.0/8", "192.0.2.7/32"]);
        assert!(asked.client_affinity);
        let bind = |port, to: &[&str]| Bind {
            port,
            to: to.iter().map(|to| (*to).to_owned()).collect(),
        };
        let all = offer(&labels(&[(BIND_LABEL, "0.0.0.0")])).unwrap();
        assert_eq!(all.binds, [bind(0, &["0.0.0.0/0"])]);
        let expected = [
            bind(0, &["127.0.0.1/32"]),
            bind(8080, &["198.18.0.1/16", "eth0"]),
        ];
        assert_eq!(asked.binds, expected);
    }

    #[test]
    fn what_is_no_such_label_is_refused() {
        for (label, value, part) in [
            (
                "skein.ingress.source",
                "10.0.0.0/8",
                "there is no such label",
            ),
            ("skein.ingress.bindings", "eth0", "there is no such label"),
            ("Skein.Ingress.Bind", "127.0.0.1", "there is no such label"),
            ("skein.ingress.bind.0", "eth0", "\"0\" is no port"),
            ("skein.ingress.bind.http", "eth0", "\"http\" is no port"),
            (SOURCES_LABEL, "", "an item is empty"),
            (SOURCES_LABEL, "10.0.0.0/8,", "an item is empty"),
            (SOURCES_LABEL, "10.0.0.0/33", "neither an IPv4 address nor"),
            (SOURCES_LABEL, "eth0", "neither an IPv4 address nor"),
            (BIND_LABEL, "10.0.0", "nor a device"),
            (BIND_LABEL, "a-name-too-long-for-a-device", "nor a device"),
            (BIND_LABEL, "::1", "nor a device"),
            (AFFINITY_LABEL, "cookie", "it may be client or none"),
        ] {
            let refused = offer(&labels(&[(label, value)])).unwrap_err();
            assert!(
                refused.starts_with(&format!("label {label}={value:?}: ")),
                "{refused}"
            );
            assert!(refused.contains(part), "{refused}");
        }
        let many: Vec<String> = (0..=SOURCES_MAX)
            .map(|n| format!("10.0.{}.{}", n / 256, n % 256))
            .collect();
        let refused = offer(&labels(&[(SOURCES_LABEL, &many.join(","))])).unwrap_err();
        assert!(
            refused.ends_with("257 items are given, and there may be at most 256"),
            "{refused}"
        );
    }

    proptest! {
        /// Whatever is taken says the same when it is given again, and takes nothing that was not asked for.
        #[test]
        fn what_is_taken_is_what_was_asked_for(ranges in prop::collection::vec((any::<u32>(), 0u8..=32), 1..20)) {
            let net = |(addr, len): &(u32, u8)| Ipv4Net::new((*addr).into(), *len).unwrap();
            let asked: Vec<String> = ranges.iter().map(|range| net(range).to_string()).collect();
            let taken = offer(&labels(&[(SOURCES_LABEL, &asked.join(","))])).unwrap().sources;
            let again = offer(&labels(&[(SOURCES_LABEL, &taken.join(","))])).unwrap().sources;
            prop_assert_eq!(&taken, &again);
            let expected: BTreeSet<String> = ranges.iter().map(|range| net(range).trunc().to_string()).collect();
            prop_assert_eq!(taken.into_iter().collect::<BTreeSet<_>>(), expected);
        }
    }
}
