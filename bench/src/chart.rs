//! Charts, as SVG.

use crate::report::Comparison;
use anyhow::anyhow;
use plotters::{drawing::DrawingAreaErrorKind, prelude::*};

/// Pixels.
const WIDTH: u32 = 760;
const ROW: u32 = 44;
/// Room for the heading, and for the names.
const TOP: u32 = 44;
const LEFT: u32 = 220;
/// Room for the values behind the bars.
const RIGHT: u32 = 110;
const TEXT: u32 = 15;

const FILL: RGBColor = RGBColor(70, 120, 180);
const INK: RGBColor = RGBColor(40, 40, 40);

/// A bar of each contender's median, with a line from its smallest to its largest value. Contenders
/// that failed have none.
///
/// # Errors
/// Nothing can be drawn.
pub fn bars(of: &Comparison) -> anyhow::Result<String> {
    let shown: Vec<_> = of
        .contenders
        .iter()
        .map(|contender| {
            let summary = contender.summary.filter(|_| contender.error.is_none());
            (contender.name.as_str(), summary)
        })
        .collect();
    let largest = shown
        .iter()
        .filter_map(|(_, summary)| Some(summary.as_ref()?.range.1));
    let largest = largest.fold(f64::MIN_POSITIVE, f64::max);
    let scale = f64::from(WIDTH - LEFT - RIGHT) / largest;
    let at = |value: f64| pixel(f64::from(LEFT) + value * scale);
    let rows = u32::try_from(shown.len()).unwrap_or(u32::MAX);
    let height = TOP + ROW.saturating_mul(rows) + ROW / 2;

    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        let draw = || -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
            root.fill(&WHITE)?;
            let text = ("sans-serif", TEXT).into_font().color(&INK);
            root.draw(&Text::new(of.what.clone(), (12, 14), text.clone()))?;
            for (n, (name, summary)) in shown.iter().enumerate() {
                let top = pixel(f64::from(TOP)) + pixel(n as f64 * f64::from(ROW));
                let middle = top + pixel(f64::from(ROW) / 2.0);
                let label = middle - pixel(f64::from(TEXT) / 2.0);
                root.draw(&Text::new((*name).to_owned(), (12, label), text.clone()))?;
                let Some(summary) = summary else {
                    root.draw(&Text::new("failed", (at(0.0) + 4, label), text.clone()))?;
                    continue;
                };
                let corners = [(at(0.0), top + 8), (at(summary.median), top + 36)];
                root.draw(&Rectangle::new(corners, FILL.filled()))?;
                let (low, high) = (at(summary.range.0), at(summary.range.1));
                root.draw(&PathElement::new([(low, middle), (high, middle)], INK))?;
                for end in [low, high] {
                    root.draw(&PathElement::new(
                        [(end, middle - 5), (end, middle + 5)],
                        INK,
                    ))?;
                }
                let value = of.unit.show(summary.median);
                root.draw(&Text::new(value, (high + 8, label), text.clone()))?;
            }
            root.present()
        };
        draw().map_err(|error| anyhow!("cannot draw {}: {error}", of.what))?;
    }
    Ok(svg)
}

/// The nearest pixel. Charts are far smaller than what it cannot hold.
fn pixel(place: f64) -> i32 {
    place.round() as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{report::Unit, rounds::Turns};
    use rand::SeedableRng as _;

    #[test]
    fn bars_are_as_long_as_their_medians() {
        let turns = |name, values: &[f64], error: Option<&str>| Turns {
            name,
            values: values.to_vec(),
            error: error.map(str::to_owned),
        };
        let turns = [
            turns("one", &[1.0], None),
            turns("four", &[4.0], None),
            turns("ill", &[2.0], Some("it broke")),
        ];
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let of = Comparison::new("what", Unit::Seconds, "four", &turns, &mut rng);
        let svg = bars(&of).unwrap();
        let full = f64::from(WIDTH - LEFT - RIGHT);
        let width = |share: f64| format!("width=\"{}\"", pixel(full * share));
        assert!(svg.contains(&width(1.0)), "{svg}");
        assert!(svg.contains(&width(0.25)), "{svg}");
        assert!(!svg.contains(&width(0.5)), "{svg}");
        for text in ["one", "four", "ill", "failed", "4.00 s"] {
            assert!(svg.contains(text), "{text}: {svg}");
        }
    }
}
