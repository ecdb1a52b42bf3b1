use super::*;
use proptest::{collection::vec, prelude::*};

const MEMBER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
const SEAT: Seat = Seat {
    ifindex: 2,
    mac: [2, 0, 0, 0, 0, 2],
    own_mac: [2, 0, 0, 0, 0, 1],
    mtu: 1_500,
};
const OTHER_SEAT: Seat = Seat {
    mac: [2, 0, 0, 0, 0, 3],
    ..SEAT
};
const START: u64 = 1 << 40;

/// A member, and a network that delivers or not.
struct World {
    pairs: Pairs,
    now: u64,
    heard: Heard,
}

impl World {
    fn new(forwarding: Forwarding) -> Self {
        Self {
            pairs: Pairs::new(forwarding),
            now: START,
            heard: Heard::default(),
        }
    }

    /// One round; its probe is answered or not.
    fn round_at(&mut self, seat: Result<Seat, Apart>, answers: bool) -> Round {
        let heard = self.heard;
        let round = self
            .pairs
            .step(&[(MEMBER, seat)].into(), |_| heard, self.now);
        if answers && let [(_, port)] = round.probes[..] {
            self.heard.answered = self.now + 1_000_000;
            self.heard.answered_port = port.to_be();
        }
        self.now += PERIOD.as_nanos() as u64;
        round
    }

    fn round(&mut self, answers: bool) -> Round {
        self.round_at(Ok(SEAT), answers)
    }

    /// Rounds of one kind until requests go so; how many.
    fn until(&mut self, answers: bool, by: By) -> u32 {
        for n in 0..2 * ENOUGH_MAX {
            if self.round(answers).ways[&MEMBER].requests == by {
                return n;
            }
        }
        panic!("never {by:?}: {:?}", self.pairs);
    }
}

#[test]
fn l2_is_used_once_it_was_shown_to_work_and_says_so() {
    let mut world = World::new(Forwarding::Auto);
    let first = world.round(true);
    assert_eq!(first.ways[&MEMBER].requests, By::Vxlan);
    let [(seat, port)] = first.probes[..] else {
        panic!("{first:?}");
    };
    assert_eq!((seat, port & PROBE_USES), (SEAT, 0));
    assert_eq!(world.until(true, By::L2), ENOUGH - 1);
    let round = world.round(true);
    assert_eq!(round.probes[0].1 & PROBE_USES, PROBE_USES);
    assert_eq!(
        round.leases[&MEMBER].replies_until, 0,
        "it asks for nothing"
    );
}

#[test]
fn a_network_that_drops_is_left_within_two_seconds() {
    let mut world = World::new(Forwarding::Auto);
    world.until(true, By::L2);
    let rounds = world.until(false, By::Vxlan);
    assert!(PERIOD * rounds <= Duration::from_secs(2), "{rounds}");
    assert!(world.round(false).ways[&MEMBER].reason.contains("no probe"));
    assert_eq!(world.round(false).probes[0].1 & PROBE_USES, 0);
}

#[test]
fn the_programs_stop_by_themselves_if_nobody_decides() {
    let mut world = World::new(Forwarding::Auto);
    world.until(true, By::L2);
    let lease = world.round(true).leases[&MEMBER];
    assert!(lease.requests_until > world.now);
    assert!(lease.requests_until <= world.now + LEASE);
}

#[test]
fn an_answer_that_is_late_or_to_another_round_shows_nothing() {
    let mut world = World::new(Forwarding::Auto);
    let old = world.round(true);
    for _ in 0..2 * ENOUGH {
        // The first one's, again and again.
        let round = world.round(false);
        world.heard.answered = world.now;
        world.heard.answered_port = old.probes[0].1.to_be();
        assert_eq!(round.ways[&MEMBER].requests, By::Vxlan);
    }
}

#[test]
fn who_has_failed_is_tried_for_longer_each_time() {
    let mut world = World::new(Forwarding::Auto);
    let mut before = world.until(true, By::L2);
    for _ in 0..3 {
        world.until(false, By::Vxlan);
        let rounds = world.until(true, By::L2);
        assert!(rounds > before, "{rounds} after {before}");
        before = rounds;
    }
    for _ in 0..20 {
        world.until(false, By::Vxlan);
        before = world.until(true, By::L2);
    }
    assert!(before <= ENOUGH_MAX + 1, "{before}");
    for _ in 0..ENOUGH_MAX {
        world.round(true);
    }
    world.until(false, By::Vxlan);
    assert!(world.until(true, By::L2) <= ENOUGH, "as at first");
}

#[test]
fn half_a_network_is_none() {
    let mut world = World::new(Forwarding::Auto);
    world.until(true, By::L2);
    let lost = (0..2 * MEASURED).any(|n| {
        let round = world.round(n % 5 < 2);
        round.ways[&MEMBER].requests == By::Vxlan
    });
    assert!(lost, "{:?}", world.pairs);
}

#[test]
fn another_way_is_tried_anew() {
    let mut world = World::new(Forwarding::Auto);
    world.until(true, By::L2);
    let round = world.round_at(Ok(OTHER_SEAT), true);
    assert_eq!(round.leases[&MEMBER], Lease::default());
    assert_eq!(round.probes[0].0, OTHER_SEAT);
    for apart in [Apart::NoMac, Apart::NoSegment] {
        world.until(true, By::L2);
        let round = world.round_at(Err(apart), false);
        assert_eq!(round.leases[&MEMBER], Lease::default());
        assert!(round.probes.is_empty());
    }
}

#[test]
fn replies_go_as_the_other_side_asks() {
    let mut world = World::new(Forwarding::Auto);
    world.round(false);
    world.heard.asked = world.now;
    world.heard.asked_port = (PORT_MIN | PROBE_USES).to_be();
    let way = &world.round(false).ways[&MEMBER];
    assert_eq!((way.requests, way.replies), (By::Vxlan, By::L2));
    world.heard.asked_port = PORT_MIN.to_be();
    assert_eq!(world.round(false).ways[&MEMBER].replies, By::Vxlan);
    world.heard.asked_port = (PORT_MIN | PROBE_USES).to_be();
    world.now += LEASE;
    assert_eq!(
        world.round(false).ways[&MEMBER].replies,
        By::Vxlan,
        "long ago"
    );
}

#[test]
fn the_operator_is_obeyed() {
    let mut world = World::new(Forwarding::Vxlan);
    world.heard.asked = world.now;
    world.heard.asked_port = PROBE_USES.to_be();
    let round = world.round(true);
    assert!(round.probes.is_empty());
    assert_eq!(round.leases[&MEMBER], Lease::default());
    assert_eq!(round.ways[&MEMBER].reason, "--forwarding vxlan");

    let mut world = World::new(Forwarding::L2);
    for _ in 0..2 * LOST {
        let round = world.round(false);
        assert_eq!(round.ways[&MEMBER].requests, By::L2);
        assert_eq!(round.ways[&MEMBER].replies, By::L2);
        assert_eq!(
            round.probes[0].1 & PROBE_USES,
            PROBE_USES,
            "so that the other side does"
        );
    }
    let reason = world.round(false).ways[&MEMBER].reason.clone();
    assert!(reason.contains("answers no probe"), "{reason}");
}

#[test]
fn a_new_dataplane_goes_on_where_the_last_one_was() {
    let used = Lease {
        requests_until: START + LEASE / 2,
        replies_until: 0,
    };
    for (lease, expected) in [(used, By::L2), (Lease::default(), By::Vxlan)] {
        let mut world = World::new(Forwarding::Auto);
        world.pairs.resume(MEMBER, SEAT, lease, START);
        for _ in 0..2 {
            assert_eq!(world.round(true).ways[&MEMBER].requests, expected);
        }
    }
    let mut world = World::new(Forwarding::Auto);
    world.pairs.resume(MEMBER, SEAT, used, START);
    let moved = world.round_at(Ok(OTHER_SEAT), true);
    assert_eq!(moved.ways[&MEMBER].requests, By::Vxlan);
}

#[test]
fn who_is_no_member_is_forgotten() {
    let mut world = World::new(Forwarding::Auto);
    world.until(true, By::L2);
    let round = world
        .pairs
        .step(&BTreeMap::new(), |_| Heard::default(), world.now);
    assert_eq!(round, Round::default());
    assert!(world.pairs.pairs.is_empty());
}

proptest! {
    /// Whatever is answered: requests go by l2 only for so long after an answer, and whoever is told that l2 is
    /// used hears it before a lease is over.
    #[test]
    fn l2_is_never_used_long_after_the_last_answer(answers in vec(proptest::bool::weighted(0.7), 1..200)) {
        let mut world = World::new(Forwarding::Auto);
        for answers in answers {
            let heard = world.heard.answered;
            let round = world.round(answers);
            let until = round.leases[&MEMBER].requests_until;
            prop_assert!(until <= heard + LEASE);
            if round.ways[&MEMBER].requests == By::L2 {
                prop_assert_eq!(round.probes[0].1 & PROBE_USES, PROBE_USES);
            }
        }
    }
}
