//! What goes wrong in a world, drawn from its seed. A new kind of fault is a line in [`Fault::draw`]
//! and an arm in [`World::strike`](crate::world::World).

use crate::{
    executor::Random,
    network::{Host, Weather},
};
use rand::{Rng as _, seq::IteratorRandom as _};
use std::{collections::BTreeSet, time::Duration};

/// The worst weather.
const LOSS_MAX: f64 = 0.25;
const DUPLICATION_MAX: f64 = 0.3;
const DELAY_MS_MAX: u64 = 600;
/// How likely a step of a flaky engine fails, at most.
const FLAKINESS_MAX: f64 = 0.3;
/// How long a fault lasts. Some last longer than the leader's patience with a silent node.
const LASTS_MS: (u64, u64) = (200, 18_000);
/// Between two faults.
const PAUSE_MS: (u64, u64) = (500, 5_000);

/// One thing that goes wrong.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// A daemon dies, and comes back later.
    Crash(Host),
    /// Hosts lose their power: their containers end too.
    PowerLoss(BTreeSet<Host>),
    /// Nothing comes from some hosts to the others, nor back.
    Partition(BTreeSet<Host>),
    /// Nothing comes from the others to some hosts; what these say arrives.
    OneWay(BTreeSet<Host>),
    /// The network is bad everywhere.
    Weather(Weather),
    /// An engine fails at what it is asked for, and its containers fail.
    Flaky(Host, f64),
    /// A manager's disk refuses a write, which ends its Raft member.
    Refusal(Host),
    /// A manager makes a snapshot now.
    Snapshot(Host),
    /// Whoever leads hands the lead over.
    LeadershipTransfer,
}

/// What faults of one kind make of one thing: the last that has not passed counts, and one that passes takes none of
/// the others with it.
#[derive(Clone, Debug, Default)]
pub struct Spells<T>(Vec<T>);

impl<T: Copy + Default + PartialEq> Spells<T> {
    /// Another begins.
    pub fn begin(&mut self, spell: T) {
        self.0.push(spell);
    }

    /// It passes.
    pub fn end(&mut self, spell: T) {
        if let Some(nth) = self.0.iter().rposition(|other| *other == spell) {
            self.0.remove(nth);
        }
    }

    /// What counts now; without any, nothing is wrong.
    pub fn now(&self) -> T {
        self.0.last().copied().unwrap_or_default()
    }
}

impl Fault {
    /// The next fault, and how long it lasts.
    pub fn draw(hosts: &[Host]) -> (Self, Duration) {
        let any = || hosts.iter().copied().choose(&mut Random).unwrap_or(Host(0));
        let some = || {
            let count = Random.random_range(1..hosts.len().max(2));
            let some = hosts.iter().copied().choose_multiple(&mut Random, count);
            some.into_iter().collect()
        };
        let fault = match Random.random_range(0..100) {
            0..25 => Self::Crash(any()),
            25..35 => Self::PowerLoss(BTreeSet::from([any()])),
            // What no disk has by now is nowhere.
            35..37 => Self::PowerLoss(hosts.iter().copied().collect()),
            37..52 => Self::Partition(some()),
            52..62 => Self::OneWay(some()),
            62..78 => Self::Weather(Weather {
                loss: Random.random_range(0.0..LOSS_MAX),
                duplication: Random.random_range(0.0..DUPLICATION_MAX),
                delay: Duration::from_millis(Random.random_range(0..DELAY_MS_MAX)),
            }),
            78..90 => Self::Flaky(any(), Random.random_range(0.0..FLAKINESS_MAX)),
            90..93 => Self::Refusal(any()),
            93..97 => Self::Snapshot(any()),
            _ => Self::LeadershipTransfer,
        };
        let lasts = Random.random_range(LASTS_MS.0..=LASTS_MS.1);
        (fault, Duration::from_millis(lasts))
    }

    /// How long until the next one.
    pub fn pause() -> Duration {
        Duration::from_millis(Random.random_range(PAUSE_MS.0..=PAUSE_MS.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spell_that_passes_takes_no_other_with_it() {
        let mut spells = Spells::default();
        spells.begin(1);
        spells.begin(2);
        assert_eq!(spells.now(), 2);
        spells.end(1);
        assert_eq!(spells.now(), 2);
        spells.end(2);
        spells.end(2);
        assert_eq!(spells.now(), 0);
    }
}
