//! How many records a CPU may tell.

/// The budget of one kind of records on one CPU: a virtual clock, which each record sets forward by its `cost` and
/// which is never behind the real one; it may be ahead by `burst` (the generic cell rate algorithm, ITU-T I.371).
/// So no more than `burst / cost` records are told at once, and `1 / cost` in the long run. Returns the virtual clock
/// after one more record; 0: there is none. A `cost` of 0 buys none at all.
#[inline(always)]
pub const fn spend(spent: u64, now: u64, cost: u64, burst: u64) -> u64 {
    let begins = if spent > now { spent } else { now };
    if cost == 0 || begins - now > burst.saturating_sub(cost) {
        return 0;
    }
    begins + cost
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_idle_cpu_has_a_burst_and_then_its_rate() {
        let (mut spent, mut told) = (0, 0);
        for _ in 0..1_000 {
            let next = spend(spent, 5_000, 10, 100);
            if next != 0 {
                spent = next;
                told += 1;
            }
        }
        assert_eq!(told, 10);
        assert_eq!(spend(spent, 5_009, 10, 100), 0);
        assert_ne!(spend(spent, 5_010, 10, 100), 0);
        assert_eq!(spend(0, 5_000, 0, 100), 0, "nothing is to be told");
    }

    proptest! {
        #[test]
        fn never_more_than_the_burst_and_the_rate(
            gaps in prop::collection::vec(0..50_u64, 1..400),
            cost in 1..40_u64,
            burst in 1..400_u64,
        ) {
            let burst = burst.max(cost);
            let (mut now, mut spent, mut told) = (1_000, 0, 0);
            for gap in &gaps {
                now += gap;
                let next = spend(spent, now, cost, burst);
                if next != 0 {
                    prop_assert!(next > now && next >= spent);
                    spent = next;
                    told += 1;
                }
            }
            prop_assert!(told <= burst / cost + (now - 1_000) / cost + 1);
            prop_assert!(told >= 1);
        }
    }
}
