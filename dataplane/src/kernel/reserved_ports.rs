//! Ports that the kernel gives to no socket of the host that asks for any.

use super::devices::set_sysctl;
use skein_abi::{addresses::NAT_PORTS, ingress::PublishedKey};
use std::{collections::BTreeSet, fs, path::PathBuf};

/// Keeps the kernel from giving published ports, and those of translated sources, to sockets that
/// ask for any port. What the administrator has reserved stays.
#[derive(Debug)]
pub struct ReservedPorts {
    /// Holds what we wrote last, so that a restarted dataplane can tell it from the rest.
    path: PathBuf,
    ours: String,
}

const SYSCTL: &str = "net/ipv4/ip_local_reserved_ports";

impl ReservedPorts {
    /// `path`: where to remember what is ours.
    pub fn open(path: PathBuf) -> Self {
        let ours = fs::read_to_string(&path).unwrap_or_default();
        Self { path, ours }
    }

    /// Reserves the published ports, and frees those that are no longer published.
    ///
    /// # Errors
    /// The kernel or the disk refuses.
    pub fn reserve<'a>(
        &mut self,
        published: impl Iterator<Item = &'a PublishedKey>,
    ) -> anyhow::Result<()> {
        let mut ports: BTreeSet<u16> = published.map(|key| u16::from_be(key.port)).collect();
        ports.extend(NAT_PORTS.0..=NAT_PORTS.1);
        let wanted = to_ranges(&ports);
        let present = from_ranges(fs::read_to_string(format!("/proc/sys/{SYSCTL}"))?.trim());
        let all = reserved(&present, &from_ranges(&self.ours), &ports);
        if wanted != self.ours {
            crate::files::replace(&self.path, wanted.as_bytes())?;
            self.ours = wanted;
        }
        // After a reboot the kernel has none of what the file says.
        if all != present {
            set_sysctl(SYSCTL, &to_ranges(&all))?;
        }
        Ok(())
    }
}

/// What is to be reserved: what others have reserved, and ours as of now instead of before.
fn reserved(present: &BTreeSet<u16>, before: &BTreeSet<u16>, now: &BTreeSet<u16>) -> BTreeSet<u16> {
    let others = present.difference(before);
    others.chain(now).copied().collect()
}

/// "80,443,30000-32767"
fn from_ranges(text: &str) -> BTreeSet<u16> {
    let mut ports = BTreeSet::new();
    for range in text.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<u16>(), last.trim().parse()) {
            ports.extend(first..=last);
        }
    }
    ports
}

fn to_ranges(ports: &BTreeSet<u16>) -> String {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for port in ports {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *port => *last = *port,
            _ => ranges.push((*port, *port)),
        }
    }
    let ranges = ranges.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    ranges.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserved_ports_of_others_stay_and_ours_are_there_after_a_reboot() {
        let set = |text: &str| from_ranges(text);
        let all =
            |present, before, now| to_ranges(&reserved(&set(present), &set(before), &set(now)));
        assert_eq!(all("22,80", "80", "443"), "22,443");
        assert_eq!(all("22", "80", "80"), "22,80");
        assert_eq!(all("", "80", "80"), "80");
    }

    #[test]
    fn ranges_are_read_and_written() {
        let ports = from_ranges("80,443,30000-30002");
        assert_eq!(ports.len(), 5);
        assert_eq!(to_ranges(&ports), "80,443,30000-30002");
        assert_eq!(to_ranges(&from_ranges("")), "");
        assert_eq!(to_ranges(&from_ranges("65534-65535")), "65534-65535");
    }
}
