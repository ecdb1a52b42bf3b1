//! Writes to a swarm that are remembered as the clients who made them would: what was acknowledged must
//! hold from then on, what was not may have happened or not.

use crate::api;
use anyhow::{Context as _, ensure};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};
use xtask::cluster::Host;

/// The least between two writes, so that a run of many rounds stays within what a store of secrets and
/// configs is made for.
const PAUSE: Duration = Duration::from_millis(50);

/// What was acknowledged, of configs: each a few bytes, so that writes cost only what agreement costs.
#[derive(Debug, Default)]
pub struct Ledger {
    /// ID by name, of those that are there.
    present: BTreeMap<String, String>,
    /// Names of those that were removed.
    removed: BTreeSet<String>,
    /// When each write was begun and acknowledged, in order.
    times: Vec<(Instant, Instant)>,
}

impl Ledger {
    /// Creates configs one after the other at one manager, from now until `until` says so. Names begin
    /// with `prefix`, and each is tried once: one whose answer was lost may be there.
    pub fn write(&mut self, manager: &Host, prefix: &str, mut until: impl FnMut(&Self) -> bool) {
        for n in 0.. {
            if until(self) {
                return;
            }
            let name = format!("{prefix}-{n}");
            let began = Instant::now();
            let body = format!(r#"{{"Name":"{name}","Data":"c2tlaW4="}}"#);
            if let Ok(answer) = api::send(manager, "POST", "/configs/create", &body)
                && answer.status == 201
                && let Ok(answer) = answer.json()
                && let Some(id) = answer["ID"].as_str()
            {
                self.present.insert(name, id.to_owned());
                self.times.push((began, Instant::now()));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// When the first acknowledged write that was begun after `moment` was acknowledged.
    pub fn resumed(&self, moment: Instant) -> Option<Instant> {
        let after = |(began, done): &(Instant, Instant)| (*began >= moment).then_some(*done);
        self.times.iter().find_map(after)
    }

    /// The longest time from one acknowledged write to the next, since `moment`.
    pub fn longest_pause(&self, moment: Instant) -> Option<Duration> {
        let mut last = moment;
        let since = self.times.iter().filter(|(_, done)| *done >= moment);
        let pauses =
            since.map(|(_, done)| done.duration_since(std::mem::replace(&mut last, *done)));
        pauses.max()
    }

    /// How many writes were acknowledged, removals left out.
    pub fn acknowledged(&self) -> usize {
        self.times.len()
    }

    /// Removes all that is there, at one manager.
    ///
    /// # Errors
    /// One is not removed, or not there.
    pub fn remove_all(&mut self, manager: &Host) -> anyhow::Result<()> {
        while let Some((name, id)) = self.present.pop_first() {
            let answer = api::ask(manager, "DELETE", &format!("/configs/{id}"))?;
            ensure!(answer.status == 204, "{name} is not removed: {answer:?}");
            self.removed.insert(name);
        }
        Ok(())
    }

    /// Whether a manager knows all that was acknowledged.
    ///
    /// # Errors
    /// It does not answer, has lost what was created, or has again what was removed.
    pub fn check(&self, manager: &Host) -> anyhow::Result<()> {
        let configs = api::ask(manager, "GET", "/configs")?.json()?;
        let configs = configs.as_array().context("no list of configs")?;
        let names = configs
            .iter()
            .filter_map(|config| config["Spec"]["Name"].as_str());
        let known: BTreeSet<&str> = names.collect();
        let is_lost = |name: &&String| !known.contains(name.as_str());
        let lost: Vec<_> = self.present.keys().filter(is_lost).collect();
        let is_back = |name: &&String| known.contains(name.as_str());
        let back: Vec<_> = self.removed.iter().filter(is_back).collect();
        let at = manager.name();
        ensure!(lost.is_empty(), "{at} lost {lost:?}");
        ensure!(back.is_empty(), "{at} has again what was removed: {back:?}");
        Ok(())
    }
}
