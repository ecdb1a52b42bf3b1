//! To whom l2 is used. Pure: clock, answers and seats are arguments.
//!
//! Each side decides for what it sends itself. Requests: whoever asks, and is answered, uses l2 as long as it
//! is. Answers to requests: whoever is asked by one that says it uses l2. Both by leases, which end by
//! themselves: when two nodes disagree, or one is gone, what is lost is nothing or a moment.

use super::{
    By, Way, Ways,
    segment::{Apart, Seat},
    wish,
};
use crate::config::Forwarding;
use skein_abi::segment::{Heard, Lease, PROBE_USES};
use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

/// Between two probes of one member.
pub const PERIOD: Duration = Duration::from_millis(250);
/// A lease after what shows that l2 works: long enough for a daemon that is replaced, or a machine that is
/// busy; so long connections stand still at worst when a network stops delivering and no daemon runs.
const LEASE: u64 = 2_000_000_000;
/// Rounds, one after the other, that must be answered first: a second.
const ENOUGH: u32 = 4;
/// As many after l2 has failed again and again, by doubling: a minute. l2 that was used for as long is trusted
/// as at first.
const ENOUGH_MAX: u32 = 240;
/// Rounds, one after the other, that nobody answered, by which l2 has failed: a second.
const LOST: u32 = 4;
/// Of the last [`MEASURED`] rounds, more unanswered ones than this are too many as well.
const LOST_OF_MEASURED: u32 = 8;
const MEASURED: u32 = 16;
/// Source ports of probes are of this half of all, above most that services have.
const PORT_MIN: u16 = 0x8000;

/// See the module.
#[derive(Debug)]
pub struct Pairs {
    forwarding: Forwarding,
    pairs: BTreeMap<Ipv4Addr, Pair>,
    round: u16,
}

#[derive(Clone, Debug)]
struct Pair {
    seat: Option<Seat>,
    /// The last rounds, a bit each, the newest is the lowest: 1 was answered.
    answered: u32,
    /// Of how many rounds that tells, at most 32.
    rounds: u32,
    /// The last ones that were answered, one after the other.
    in_a_row: u32,
    /// The last probe: its source port, and when it was sent.
    sent: Option<(u16, u64)>,
    /// Requests are sent by l2.
    is_used: bool,
    /// Rounds that it was used for.
    used: u32,
    /// Answered rounds before it is used.
    enough: u32,
    /// When it answered last.
    answered_at: u64,
}

impl Default for Pair {
    fn default() -> Self {
        Self {
            seat: None,
            answered: 0,
            rounds: 0,
            in_a_row: 0,
            sent: None,
            is_used: false,
            used: 0,
            enough: ENOUGH,
            answered_at: 0,
        }
    }
}

/// What is to be done in a round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// To ask: the seat, and the source port.
    pub probes: Vec<(Seat, u16)>,
    /// How long l2 is used.
    pub leases: BTreeMap<Ipv4Addr, Lease>,
    /// For people.
    pub ways: Ways,
}

impl Pairs {
    /// Nobody is known.
    pub const fn new(forwarding: Forwarding) -> Self {
        Self {
            forwarding,
            pairs: BTreeMap::new(),
            round: 0,
        }
    }

    /// An earlier dataplane has used l2 to a member until just now, or not.
    pub fn resume(&mut self, member: Ipv4Addr, seat: Seat, lease: Lease, now: u64) {
        let pair = Pair {
            seat: Some(seat),
            is_used: lease.requests_until > now,
            answered_at: lease
                .requests_until
                .min(now.saturating_add(LEASE))
                .saturating_sub(LEASE),
            ..Pair::default()
        };
        self.pairs.insert(member, pair);
    }

    /// The next round: who is where, what was heard of each, and the time (monotonic, ns).
    pub fn step(
        &mut self,
        seats: &BTreeMap<Ipv4Addr, Result<Seat, Apart>>,
        heard: impl Fn(Ipv4Addr) -> Heard,
        now: u64,
    ) -> Round {
        self.pairs.retain(|member, _| seats.contains_key(member));
        self.round = self.round.wrapping_add(1);
        let mut round = Round::default();
        for (member, seat) in seats {
            let pair = self.pairs.entry(*member).or_default();
            let heard = heard(*member);
            match seat {
                Err(apart) => {
                    *pair = Pair::default();
                    round.leases.insert(*member, Lease::default());
                    round.ways.insert(*member, Way::vxlan(apart.reason()));
                }
                Ok(seat) => {
                    pair.listen(*seat, &heard);
                    if self.forwarding != Forwarding::Vxlan {
                        let uses = self.forwarding == Forwarding::L2 || pair.is_used;
                        let port = port_of(self.round, uses);
                        pair.sent = Some((port, now));
                        round.probes.push((*seat, port));
                    }
                    let lease = pair.lease(self.forwarding, &heard);
                    round.leases.insert(*member, lease);
                    round
                        .ways
                        .insert(*member, pair.way(self.forwarding, lease, now));
                }
            }
        }
        round
    }
}

/// The source port of a round's probes.
const fn port_of(round: u16, uses: bool) -> u16 {
    let uses = if uses { PROBE_USES } else { 0 };
    PORT_MIN | (round << 1) | uses
}

impl Apart {
    fn reason(self) -> String {
        match self {
            Self::NoSegment => "it shares no segment with this node",
            Self::NoMac => "its MAC address is not known: does it answer ARP?",
        }
        .to_owned()
    }
}

impl Pair {
    /// Looks at what came of the last round.
    fn listen(&mut self, seat: Seat, heard: &Heard) {
        if self.seat != Some(seat) {
            // Another way, which nothing is known of.
            *self = Self {
                seat: Some(seat),
                enough: self.enough,
                ..Self::default()
            };
            return;
        }
        let Some((port, at)) = self.sent else {
            return;
        };
        let is_answered = heard.answered >= at && heard.answered_port == port.to_be();
        self.answered = self.answered << 1 | u32::from(is_answered);
        self.rounds = (self.rounds + 1).min(u32::BITS);
        self.in_a_row = match is_answered {
            true => self.in_a_row.saturating_add(1),
            false => 0,
        };
        if is_answered {
            self.answered_at = heard.answered;
        }
        match self.is_used {
            true if self.has_failed() => self.stop(),
            true => self.used = self.used.saturating_add(1),
            false if self.in_a_row >= self.enough => {
                self.is_used = true;
                self.used = 0;
                // What was lost before counts no more.
                self.rounds = self.in_a_row.min(u32::BITS);
            }
            false => {}
        }
    }

    /// The last rounds, a bit each: 1 was not answered.
    fn lost(&self) -> u32 {
        let known = self.rounds.min(MEASURED);
        !self.answered & ((1 << known) - 1)
    }

    fn is_silent(&self) -> bool {
        self.lost().trailing_ones() >= LOST
    }

    fn has_failed(&self) -> bool {
        self.is_silent() || self.lost().count_ones() > LOST_OF_MEASURED
    }

    fn stop(&mut self) {
        self.enough = match self.used >= ENOUGH_MAX {
            true => ENOUGH,
            false => (self.enough * 2).min(ENOUGH_MAX),
        };
        self.is_used = false;
        self.in_a_row = 0;
    }

    fn lease(&self, forwarding: Forwarding, heard: &Heard) -> Lease {
        let asks = u16::from_be(heard.asked_port) & PROBE_USES != 0;
        match forwarding {
            Forwarding::Vxlan => Lease::default(),
            Forwarding::L2 => Lease {
                requests_until: u64::MAX,
                replies_until: u64::MAX,
            },
            Forwarding::Auto => Lease {
                requests_until: match self.is_used {
                    true => self.answered_at.saturating_add(LEASE),
                    false => 0,
                },
                replies_until: match asks {
                    true => heard.asked.saturating_add(LEASE),
                    false => 0,
                },
            },
        }
    }

    fn way(&self, forwarding: Forwarding, lease: Lease, now: u64) -> Way {
        let by = |until: u64| if until > now { By::L2 } else { By::Vxlan };
        let missing = self.enough.saturating_sub(self.in_a_row);
        let wish = wish(forwarding);
        let reason = match forwarding {
            Forwarding::Vxlan => wish.to_owned(),
            Forwarding::L2 if self.is_silent() => {
                format!("{wish}, though it answers no probe")
            }
            Forwarding::L2 => wish.to_owned(),
            Forwarding::Auto if self.is_used => "it answers probes".to_owned(),
            Forwarding::Auto if self.is_silent() => {
                "it answers no probe: the network drops frames with the addresses of others, or it runs an older Skein or with --forwarding vxlan"
                    .to_owned()
            }
            Forwarding::Auto if self.enough > ENOUGH => format!(
                "it failed before: l2 is tried for {:.0?} more",
                PERIOD * missing
            ),
            Forwarding::Auto => "it is being tried".to_owned(),
        };
        Way {
            requests: by(lease.requests_until),
            replies: by(lease.replies_until),
            reason,
        }
    }
}

#[cfg(test)]
mod tests;
