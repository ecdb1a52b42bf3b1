//! Which nodes do not answer: they are skipped for new flows at once, long before the managers find
//! them down.
//!
//! The probe is an ICMP echo to the data path address, which the other node's kernel answers: a node
//! whose daemons restart still carries traffic, and must not be skipped. Only a node that has
//! answered before can be suspected, so that a network that filters ICMP suspects nobody.

use super::checksum::checksum;
use anyhow::Context as _;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};
use tokio::{
    net::UdpSocket,
    sync::{mpsc, watch},
};

/// Between two probes of one node.
const PERIOD: Duration = Duration::from_millis(200);
/// Silence after which a node is suspected: three lost probes, and time for a late answer. With a period more, and
/// what the kernel's tables take, no new flow goes there from a second after it was lost.
const SILENCE: Duration = Duration::from_millis(700);
/// Echo identifier: below the ports of translated sources, so that answers are the host's own.
const IDENTIFIER: u16 = 0x534b;

/// The nodes to watch: ID and address.
pub type Watched = BTreeMap<String, Ipv4Addr>;

/// Who was heard when. Pure.
#[derive(Debug, Default)]
struct Hearing {
    heard: BTreeMap<String, Instant>,
    suspects: BTreeSet<String>,
}

impl Hearing {
    fn hears(&mut self, node: &str, now: Instant) {
        self.heard.insert(node.to_owned(), now);
    }

    /// The suspects, if they changed.
    fn judge(&mut self, watched: &Watched, now: Instant) -> Option<&BTreeSet<String>> {
        self.heard.retain(|node, _| watched.contains_key(node));
        let suspects: BTreeSet<String> = self
            .heard
            .iter()
            .filter(|(_, heard)| now.saturating_duration_since(**heard) > SILENCE)
            .map(|(node, _)| node.clone())
            .collect();
        if suspects == self.suspects {
            return None;
        }
        self.suspects = suspects;
        Some(&self.suspects)
    }
}

/// Probes the watched nodes for ever, and tells of every change of the suspects.
///
/// # Errors
/// No raw socket.
pub async fn run(
    mut watched: watch::Receiver<Watched>,
    suspects: mpsc::Sender<BTreeSet<String>>,
) -> anyhow::Result<()> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Raw,
        SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
        SockProtocol::Icmp,
    )
    .context("cannot open a raw socket for probes of other nodes")?;
    // Raw and UDP sockets are sent and received by the same calls.
    let socket = UdpSocket::from_std(socket.into())?;
    let mut hearing = Hearing::default();
    let mut period = tokio::time::interval(PERIOD);
    // A process that was stopped for a while must first hear before it judges.
    period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last_tick = Instant::now();
    loop {
        tokio::select! {
            ready = socket.readable() => {
                ready?;
                let nodes = watched.borrow().clone();
                drain(&socket, &nodes, &mut hearing);
            }
            now = period.tick() => {
                let nodes = watched.borrow_and_update().clone();
                let now = now.into_std();
                drain(&socket, &nodes, &mut hearing);
                let was_away = now.saturating_duration_since(last_tick) > SILENCE;
                last_tick = now;
                if !was_away && let Some(changed) = hearing.judge(&nodes, now) {
                    tracing::info!(suspects = ?changed, "nodes that do not answer");
                    if suspects.send(changed.clone()).await.is_err() {
                        return Ok(());
                    }
                }
                for address in nodes.values() {
                    probe(&socket, *address);
                }
            }
        }
    }
}

fn probe(socket: &UdpSocket, address: Ipv4Addr) {
    let [high, low] = IDENTIFIER.to_be_bytes();
    let mut echo = [8, 0, 0, 0, high, low, 0, 1];
    [echo[2], echo[3]] = checksum(&echo).to_be_bytes();
    // What cannot be sent is not heard: that is the answer.
    let _ = socket.try_send_to(&echo, (address, 0).into());
}

/// Notes all answers that have come.
fn drain(socket: &UdpSocket, watched: &Watched, hearing: &mut Hearing) {
    let mut packet = [0; 128];
    while let Ok((len, from)) = socket.try_recv_from(&mut packet) {
        if is_answer(&packet[..len])
            && let IpAddr::V4(from) = from.ip()
            && let Some((node, _)) = watched.iter().find(|(_, address)| **address == from)
        {
            hearing.hears(node, Instant::now());
        }
    }
}

/// Whether an IPv4 packet is an echo reply to a probe of ours.
fn is_answer(packet: &[u8]) -> bool {
    let header = packet
        .first()
        .map_or(0, |first| usize::from(first & 0x0f) * 4);
    let identifier = IDENTIFIER.to_be_bytes();
    matches!(packet.get(header..), Some([0, 0, _, _, high, low, ..]) if [*high, *low] == identifier)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_answered_before_and_then_fell_silent_is_suspect() {
        let address = Ipv4Addr::new(198, 18, 0, 1);
        let watched: Watched = ["a", "b"].map(|node| (node.to_owned(), address)).into();
        let start = Instant::now();
        let mut hearing = Hearing::default();
        hearing.hears("a", start);
        assert!(hearing.judge(&watched, start).is_none());
        let late = start + SILENCE + Duration::from_millis(1);
        let suspects = hearing.judge(&watched, late).unwrap();
        assert_eq!(suspects.iter().collect::<Vec<_>>(), ["a"]);
        assert!(hearing.judge(&watched, late).is_none(), "said once");
        hearing.hears("a", late);
        assert!(hearing.judge(&watched, late).unwrap().is_empty());
    }

    #[test]
    fn other_icmp_is_no_answer() {
        let mut packet = vec![0x45; 20];
        packet.extend([0, 0, 0, 0, 0x53, 0x4b, 0, 1]);
        assert!(is_answer(&packet));
        packet[20] = 8;
        assert!(!is_answer(&packet), "a request");
        assert!(!is_answer(&packet[..22]), "cut short");
        assert!(!is_answer(&[]));
    }
}
