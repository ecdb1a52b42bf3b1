//! What many measurements of the same thing say: median, spread, and how sure both are.
//!
//! Nothing is assumed of how measurements are distributed; intervals come from resampling (the
//! percentile bootstrap of Efron and Tibshirani).

use rand::{Rng, RngCore};
use serde::Serialize;

/// Samples that an interval is drawn from: its ends are then good to about a tenth of its width.
const RESAMPLES: usize = 2_000;
/// How much of the resamples an interval leaves out at either end: 95% are within.
const TAIL: f64 = 0.025;

/// Some measurements of one thing, in one unit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// How many there are; at least one.
    pub count: usize,
    /// Half of them are at or below.
    pub median: f64,
    /// The lower and the upper quartile: half of them are within.
    pub quartiles: (f64, f64),
    /// The smallest and the largest.
    pub range: (f64, f64),
    /// Where the median of more of them is to be expected: 95%.
    pub interval: (f64, f64),
}

/// One contender's median as a multiple of another's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ratio {
    /// The medians' ratio.
    pub value: f64,
    /// Where it is to be expected: 95%.
    pub interval: (f64, f64),
}

/// The value that the share `q` (0 to 1) of `sorted` is at or below, between neighbours in proportion.
/// `None` of nothing.
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = q.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    let share = place - place.floor();
    Some(sorted[below] + (sorted[above] - sorted[below]) * share)
}

/// In ascending order.
pub fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn median(values: &[f64]) -> Option<f64> {
    quantile(&sorted(values), 0.5)
}

/// What the values say together. `None` of nothing.
pub fn summary(values: &[f64], rng: &mut dyn RngCore) -> Option<Summary> {
    let ascending = sorted(values);
    let at = |q| quantile(&ascending, q);
    let mut medians = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        medians.extend(median(&resample(values, rng)));
    }
    Some(Summary {
        count: values.len(),
        median: at(0.5)?,
        quartiles: (at(0.25)?, at(0.75)?),
        range: (at(0.0)?, at(1.0)?),
        interval: interval(&medians)?,
    })
}

/// The median of `of` as a multiple of the median of `to`. `None` where one is empty or the latter zero.
pub fn ratio(of: &[f64], to: &[f64], rng: &mut dyn RngCore) -> Option<Ratio> {
    let divide = |of: &[f64], to: &[f64]| Some(median(of)? / median(to)?).filter(|r| r.is_finite());
    let value = divide(of, to)?;
    let mut ratios = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        ratios.extend(divide(&resample(of, rng), &resample(to, rng)));
    }
    Some(Ratio {
        value,
        interval: interval(&ratios)?,
    })
}

fn interval(values: &[f64]) -> Option<(f64, f64)> {
    let ascending = sorted(values);
    Some((
        quantile(&ascending, TAIL)?,
        quantile(&ascending, 1.0 - TAIL)?,
    ))
}

/// As many as there are, each drawn from all of them.
fn resample(values: &[f64], rng: &mut dyn RngCore) -> Vec<f64> {
    let draw = |_| values[rng.random_range(0..values.len())];
    (0..values.len()).map(draw).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha8Rng;

    fn rng() -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(1)
    }

    #[test]
    fn quantiles_lie_between_neighbours() {
        let values = [1.0, 2.0, 3.0, 4.0, 5.0];
        for (q, expected) in [(0.0, 1.0), (0.25, 2.0), (0.5, 3.0), (0.9, 4.6), (1.0, 5.0)] {
            assert!(
                (quantile(&values, q).unwrap() - expected).abs() < 1e-9,
                "{q}"
            );
        }
        assert_eq!(quantile(&[7.0], 0.99), Some(7.0));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn a_summary_does_not_mind_the_order_nor_one_outlier() {
        let summary = summary(&[5.0, 1.0, 900.0, 2.0, 3.0], &mut rng()).unwrap();
        assert_eq!((summary.count, summary.median), (5, 3.0));
        assert_eq!(summary.quartiles, (2.0, 5.0));
        assert_eq!(summary.range, (1.0, 900.0));
        let (low, high) = summary.interval;
        assert!((1.0..=3.0).contains(&low) && (3.0..=900.0).contains(&high));
    }

    #[test]
    fn an_interval_narrows_with_more_of_the_same() {
        let few: Vec<f64> = (0..5).map(f64::from).collect();
        let many: Vec<f64> = (0..500).map(|n| f64::from(n % 5)).collect();
        let width = |values: &[f64]| {
            let (low, high) = summary(values, &mut rng()).unwrap().interval;
            high - low
        };
        assert!(width(&many) < width(&few));
    }

    #[test]
    fn a_ratio_is_of_medians_and_its_interval_holds_it() {
        let ratio = ratio(&[2.0, 2.2, 1.8], &[4.0, 4.4, 3.6], &mut rng()).unwrap();
        assert!((ratio.value - 0.5).abs() < 1e-9);
        assert!(ratio.interval.0 <= 0.5 && ratio.interval.1 >= 0.5);
        assert!(ratio.interval.0 >= 1.8 / 4.4 && ratio.interval.1 <= 2.2 / 3.6);
    }

    #[test]
    fn nothing_compares_with_nothing() {
        assert_eq!(summary(&[], &mut rng()), None);
        assert_eq!(ratio(&[], &[1.0], &mut rng()), None);
        assert_eq!(ratio(&[1.0], &[], &mut rng()), None);
        assert_eq!(ratio(&[1.0], &[0.0], &mut rng()), None);
    }
}
