//! Pauses between attempts at what fails.

use rand::Rng as _;
use std::time::Duration;

/// How long to wait before the next attempt, after `failures` earlier ones and one more: from `min`, twice as long each
/// time, up to `max`; and no two nodes the same, that failed together.
pub fn pause(min: Duration, max: Duration, failures: u32) -> Duration {
    jittered(longest(min, max, failures), rand::rng().random())
}

/// Without what makes it differ: for one that nobody else waits for.
pub fn longest(min: Duration, max: Duration, failures: u32) -> Duration {
    let factor = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
    min.saturating_mul(factor).min(max)
}

/// From half to all of it; `jitter` is from 0 to 1.
fn jittered(longest: Duration, jitter: f64) -> Duration {
    longest.mul_f64(0.5 + jitter / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_differ() {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(3));
        for (failures, expected) in [(0, 100), (1, 200), (4, 1600), (5, 3000), (u32::MAX, 3000)] {
            let longest = longest(min, max, failures);
            assert_eq!(longest, Duration::from_millis(expected));
            assert_eq!(jittered(longest, 0.0), longest / 2);
            assert_eq!(jittered(longest, 1.0), longest);
            let drawn = pause(min, max, failures);
            assert!(drawn >= longest / 2 && drawn <= longest);
        }
    }
}
