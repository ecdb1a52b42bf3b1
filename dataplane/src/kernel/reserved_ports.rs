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
        let present = from_ranges(fs::read_to_string(format!("/proc/sys/{SYSCTL}"))?.trim());
        let (all, own) = reserved(&present, &from_ranges(&self.ours), &ports);
        let wanted = to_ranges(&own);
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

/// What is to be reserved in all, what others have reserved included; and what of it is ours: no port that
/// others had before, so that it stays when it is no longer published.
fn reserved(
    present: &BTreeSet<u16>,
    ours: &BTreeSet<u16>,
    published: &BTreeSet<u16>,
) -> (BTreeSet<u16>, BTreeSet<u16>) {
    let others: BTreeSet<u16> = present.difference(ours).copied().collect();
    let own = published.difference(&others).copied().collect();
    (others.union(published).copied().collect(), own)
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
        // What the kernel has, and what is ours, with ports published one after the other.
        let mut kernel = from_ranges("22,8080");
        let mut ours = BTreeSet::new();
        let mut publish = |kernel: &mut BTreeSet<u16>, ports: &str| {
            let ports = from_ranges(ports);
            let (all, own) = reserved(kernel, &ours, &ports);
            (*kernel, ours) = (all, own);
            to_ranges(kernel)
        };
        assert_eq!(publish(&mut kernel, "80,8080"), "22,80,8080");
        assert_eq!(
            publish(&mut kernel, "443"),
            "22,443,8080",
            "8080 was theirs"
        );
        // A reboot: the kernel has forgotten, the file has not.
        kernel.clear();
        assert_eq!(publish(&mut kernel, "443"), "443");
        assert_eq!(publish(&mut kernel, ""), "");
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
