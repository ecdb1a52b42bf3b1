//! The simulator itself.

use super::*;
use std::{collections::BTreeSet, time::Duration};

/// Short worlds: what is looked at here shows early.
fn setup() -> Setup {
    Setup {
        faults: Duration::from_secs(10),
        ..Setup::default()
    }
}

#[test]
fn the_same_seed_is_the_same_world_and_another_is_another() {
    let first = simulate(7, &setup());
    assert_eq!(simulate(7, &setup()), first);
    assert_ne!(simulate(8, &setup()).fingerprint, first.fingerprint);
}

/// Enough worlds for all that may happen: what is drawn most seldom is in every tenth or so.
const BUSY_SEEDS: u64 = 40;

#[test]
fn worlds_are_busy() {
    let mut wanted: BTreeSet<&str> = [
        "acknowledged",
        "fault",
        "started",
        "ended",
        "leader",
        "snapshot-built",
        "snapshot-installed",
        "handed-over",
        "joined",
        "left",
        "certified",
        "seat",
    ]
    .into();
    for seed in 0..BUSY_SEEDS {
        let outcome = simulate(seed, &Setup::default());
        assert_eq!(outcome.violation, None, "{seed}");
        wanted.retain(|kind| !outcome.counts.contains_key(kind));
        if wanted.is_empty() {
            return;
        }
    }
    panic!("in {BUSY_SEEDS} worlds there is no {wanted:?}");
}

/// How many worlds are tried at most: in few of them, most members lose the same.
const LYING_SEEDS: u64 = 200;

/// A whole world whose disks lose what they said they had: found by the invariant that is about it.
#[test]
fn a_disk_that_lies_is_found_out() {
    let setup = Setup {
        disks_lie: true,
        ..Setup::default()
    };
    // What is found first in each world.
    let mut found = Vec::new();
    for seed in 0..LYING_SEEDS {
        let world = || simulate(seed, &setup).violation;
        match std::panic::catch_unwind(world) {
            Ok(Some(violation)) if violation.invariant.contains("acknowledged") => return,
            Ok(violation) => found.extend(violation.map(|v| v.invariant)),
            Err(_) => found.push("panicked"),
        }
    }
    panic!("{LYING_SEEDS} worlds lost nothing: {found:?}");
}

#[test]
fn addresses_name_hosts() {
    assert_eq!(host_at(&address_of(Host(3))), Some(Host(3)));
    assert_eq!(host_at("198.18.0.3:1"), None);
    assert_eq!(host_at("10.0.0.3:2377"), None);
}
