//! What a benchmark found: one value, written as Markdown, JSON and charts.

use crate::{
    chart,
    machine::Machine,
    rounds::Turns,
    stats::{self, Ratio, Summary},
};
use anyhow::Context as _;
use rand::RngCore;
use serde::Serialize;
use std::{
    fmt::{self, Write as _},
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

/// How the document begins that reports are kept in.
const DOCUMENT: &str = "# Benchmarks\n\nWritten by `cargo xtask bench ... --docs`.\n";

/// What a value counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Thousandths of a second.
    Milliseconds,
    /// Millions of bytes.
    Megabytes,
    /// Seconds of one processor.
    CpuSeconds,
    /// Pieces.
    Count,
    /// A multiple of another value.
    Ratio,
    /// Times a second.
    PerSecond,
    /// Millionths of a second of one processor.
    CpuMicroseconds,
    /// Billions of bits a second.
    Gigabits,
    /// Billionths of a second.
    Nanoseconds,
}

impl Unit {
    fn symbol(self) -> &'static str {
        match self {
            Self::Seconds => " s",
            Self::Milliseconds => " ms",
            Self::Megabytes => " MB",
            Self::CpuSeconds => " CPU s",
            Self::Count | Self::Ratio => "",
            Self::PerSecond => "/s",
            Self::CpuMicroseconds => " CPU µs",
            Self::Gigabits => " Gbit/s",
            Self::Nanoseconds => " ns",
        }
    }

    /// A value as people read it: three digits are enough.
    pub fn show(self, value: f64) -> String {
        let decimals = match (self, value.abs()) {
            (Self::Count | Self::PerSecond, _) | (_, 100.0..) => 0,
            (_, 10.0..) => 1,
            (_, 1.0..) => 2,
            _ => 3,
        };
        format!("{value:.decimals$}{}", self.symbol())
    }
}

/// One contender in a comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// Who.
    pub name: String,
    /// All measurements, in the order of the rounds.
    pub values: Vec<f64>,
    /// What they say. `None` where it failed before the first counted.
    pub summary: Option<Summary>,
    /// Against the comparison's base. `None` for the base itself, and where either has failed.
    pub ratio: Option<Ratio>,
    /// Why it is compared with nobody.
    pub error: Option<String>,
}

/// Contenders that did the same.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// What was measured.
    pub what: String,
    /// Of the values.
    pub unit: Unit,
    /// Whom the ratios are to.
    pub base: String,
    /// All of them.
    pub contenders: Vec<Compared>,
}

impl Comparison {
    /// Compares all with `base`. Runs with errors are not compared: only told of.
    pub fn new(what: &str, unit: Unit, base: &str, turns: &[Turns], rng: &mut dyn RngCore) -> Self {
        let mut sound = turns.iter().filter(|of| of.error.is_none());
        let base_values = sound.find(|of| of.name == base);
        let contenders = turns.iter().map(|of| {
            let other = base_values.filter(|other| other.name != of.name && of.error.is_none());
            Compared {
                name: of.name.to_owned(),
                values: of.values.clone(),
                summary: stats::summary(&of.values, rng),
                ratio: other.and_then(|other| stats::ratio(&of.values, &other.values, rng)),
                error: of.error.clone(),
            }
        });
        Self {
            what: what.to_owned(),
            unit,
            base: base.to_owned(),
            contenders: contenders.collect(),
        }
    }

    /// A contender by name.
    pub fn of(&self, name: &str) -> Option<&Compared> {
        self.contenders.iter().find(|of| of.name == name)
    }

    /// The ratio of a contender to the base.
    pub fn ratio_of(&self, name: &str) -> Option<f64> {
        Some(self.of(name)?.ratio?.value)
    }

    /// The ratio of a contender to another one. `None` where either has failed.
    pub fn ratio_between(&self, of: &str, to: &str, rng: &mut dyn RngCore) -> Option<Ratio> {
        let sound = |name| self.of(name).filter(|of| of.error.is_none());
        stats::ratio(&sound(of)?.values, &sound(to)?.values, rng)
    }
}

/// One value that stands by itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// What it is.
    pub what: String,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: Unit,
}

impl Figure {
    /// A value by name.
    pub fn new(what: impl Into<String>, value: f64, unit: Unit) -> Self {
        Self {
            what: what.into(),
            value,
            unit,
        }
    }
}

/// Where a value is to be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub enum Limit {
    /// It is not to exceed this.
    AtMost(f64),
    /// It is not to fall short of this.
    AtLeast(f64),
}

impl Limit {
    fn show(self, unit: Unit) -> String {
        match self {
            Self::AtMost(limit) => format!("at most {}", unit.show(limit)),
            Self::AtLeast(limit) => format!("at least {}", unit.show(limit)),
        }
    }
}

/// What was to be reached.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bar {
    /// What is judged.
    pub what: String,
    /// Where it is to be.
    pub limit: Limit,
    /// What it is; `None` where it could not be measured.
    pub found: Option<f64>,
    /// Of both.
    pub unit: Unit,
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value| self.unit.show(value);
        let found = self.found.map_or_else(|| "?".to_owned(), shown);
        let limit = self.limit.show(self.unit);
        write!(f, "{}: {found}, is to be {limit}", self.what)
    }
}

impl Bar {
    /// Whether it holds; `None` where nothing was measured.
    pub fn holds(&self) -> Option<bool> {
        Some(match self.limit {
            Limit::AtMost(limit) => self.found? <= limit,
            Limit::AtLeast(limit) => self.found? >= limit,
        })
    }

    fn verdict(&self) -> &'static str {
        match self.holds() {
            Some(true) => "holds",
            Some(false) => "**missed**",
            None => "not measured",
        }
    }
}

/// One part of a report.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Section {
    /// Heading.
    pub title: String,
    /// How it was measured.
    pub about: String,
    /// Contenders against each other.
    pub comparisons: Vec<Comparison>,
    /// Values that have no contender.
    pub figures: Vec<Figure>,
    /// What was to be reached.
    pub bars: Vec<Bar>,
    /// What was not measured, and why.
    pub notes: Vec<String>,
}

/// All that one benchmark found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Name of the benchmark, as on the command line.
    pub bench: String,
    /// Where it ran.
    pub machine: Machine,
    /// Of orders and resampling.
    pub seed: u64,
    /// Whether sizes and rounds were cut.
    pub quick: bool,
    /// Its parts.
    pub sections: Vec<Section>,
}

impl Report {
    /// Contenders that failed, and why: what keeps a run from being a comparison.
    pub fn errors(&self) -> Vec<String> {
        let comparisons = self
            .sections
            .iter()
            .flat_map(|section| &section.comparisons);
        let contenders = comparisons.flat_map(|of| of.contenders.iter().map(move |c| (of, c)));
        let failed = contenders.filter_map(|(of, contender)| {
            let error = contender.error.as_ref()?;
            Some(format!("{}: {}: {error}", of.what, contender.name))
        });
        failed.collect()
    }

    /// Bars that a run of full size did not reach, or could not measure. A quick one shows nothing of
    /// them.
    pub fn missed(&self) -> Vec<&Bar> {
        let bars = self.sections.iter().flat_map(|section| &section.bars);
        bars.filter(|bar| !self.quick && bar.holds() != Some(true))
            .collect()
    }

    /// As Markdown. Charts are beside it, by the names of [`chart_name`](Self::chart_name).
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        // Writing into a string cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let machine = &self.machine;
        let quick = if self.quick {
            " Quick: sizes and rounds are cut, so that the figures only show that it works."
        } else {
            ""
        };
        writeln!(text, "## `cargo xtask bench {}`\n", self.bench)?;
        writeln!(
            text,
            "{}, {} processors, {:.0} GB, Linux {}; load {:.1} when it began; a {} build; seed {}.{quick}\n",
            machine.processor,
            machine.processors,
            machine.memory_gb,
            machine.kernel,
            machine.load,
            machine.build,
            self.seed
        )?;
        for (n, section) in self.sections.iter().enumerate() {
            writeln!(text, "### {}\n\n{}\n", section.title, section.about)?;
            for (m, comparison) in section.comparisons.iter().enumerate() {
                write_comparison(text, comparison)?;
                let (what, chart) = (&comparison.what, self.chart_name(n, m));
                writeln!(text, "![{what}]({chart})\n")?;
            }
            if !section.figures.is_empty() {
                writeln!(text, "| | |\n|---|---:|")?;
                for figure in &section.figures {
                    let value = figure.unit.show(figure.value);
                    writeln!(text, "| {} | {value} |", figure.what)?;
                }
                writeln!(text)?;
            }
            if !section.bars.is_empty() {
                writeln!(text, "| bar | is to be | found | |\n|---|---:|---:|---|")?;
                for bar in &section.bars {
                    let found = bar.found.map(|found| bar.unit.show(found));
                    writeln!(
                        text,
                        "| {} | {} | {} | {} |",
                        bar.what,
                        bar.limit.show(bar.unit),
                        found.unwrap_or_default(),
                        bar.verdict()
                    )?;
                }
                writeln!(text)?;
            }
            for note in &section.notes {
                writeln!(text, "- {note}")?;
            }
            if !section.notes.is_empty() {
                writeln!(text)?;
            }
        }
        Ok(())
    }

    /// The file of a comparison's chart.
    pub fn chart_name(&self, section: usize, comparison: usize) -> String {
        format!("{}-{}-{}.svg", self.bench, section + 1, comparison + 1)
    }

    /// Writes Markdown, JSON and charts into a folder; returns the Markdown's path.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn write_to(&self, folder: &Path) -> anyhow::Result<PathBuf> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        self.write_charts(folder)?;
        self.write_json(&folder.join(format!("{}.json", self.bench)))?;
        let path = folder.join(format!("{}.md", self.bench));
        write_file(&path, &self.markdown())?;
        Ok(path)
    }

    /// Writes it into a document that other benchmarks are in, too, in place of its earlier self.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn write_among_others(&self, path: &Path) -> anyhow::Result<()> {
        let before = match fs::read_to_string(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => DOCUMENT.to_owned(),
            other => other.with_context(|| format!("cannot read {}", path.display()))?,
        };
        write_file(path, &put_among(&before, &self.markdown()))
    }

    /// Writes the charts into a folder.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn write_charts(&self, folder: &Path) -> anyhow::Result<()> {
        for (n, section) in self.sections.iter().enumerate() {
            for (m, comparison) in section.comparisons.iter().enumerate() {
                write_file(
                    &folder.join(self.chart_name(n, m)),
                    &chart::bars(comparison)?,
                )?;
            }
        }
        Ok(())
    }

    /// Writes all of it as JSON.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn write_json(&self, path: &Path) -> anyhow::Result<()> {
        write_file(path, &serde_json::to_string_pretty(self)?)
    }
}

fn write_comparison(text: &mut String, of: &Comparison) -> std::fmt::Result {
    let (base, show) = (&of.base, |value| of.unit.show(value));
    writeln!(
        text,
        "| {} | median | quartiles | 95% | to {base} |",
        of.what
    )?;
    writeln!(text, "|---|---:|---:|---:|---:|")?;
    for contender in &of.contenders {
        write!(text, "| {} ", contender.name)?;
        if let Some(error) = &contender.error {
            // A line break would end the table.
            let error = error.replace(['\n', '|'], " ");
            writeln!(text, "| failed, so not compared: {error} | | | |")?;
            continue;
        }
        match &contender.summary {
            Some(of) => write!(
                text,
                "| {} | {} to {} | {} to {} ",
                show(of.median),
                show(of.quartiles.0),
                show(of.quartiles.1),
                show(of.interval.0),
                show(of.interval.1)
            )?,
            None => write!(text, "| | | ")?,
        }
        match &contender.ratio {
            Some(Ratio { value, interval }) => writeln!(
                text,
                "| {value:.2} ({:.2} to {:.2}) |",
                interval.0, interval.1
            )?,
            None => writeln!(text, "| |")?,
        }
    }
    writeln!(text)
}

/// A document with a section, the first line of which is its heading: in place of the one with that
/// heading, or at the end.
fn put_among(document: &str, section: &str) -> String {
    let heading = section.lines().next().unwrap_or_default();
    let section = section.trim_end();
    let mut found = false;
    let mut parts: Vec<&str> = Vec::new();
    // Every part but the first has lost its "## ".
    for (n, part) in document.split("\n## ").enumerate() {
        let is_it = n > 0 && part.lines().next() == heading.strip_prefix("## ");
        found |= is_it;
        let part = if is_it { &section["## ".len()..] } else { part };
        parts.push(part.trim_end());
    }
    if !found {
        parts.push(section.strip_prefix("## ").unwrap_or(section));
    }
    parts.join("\n\n## ") + "\n"
}

fn write_file(path: &Path, content: &str) -> anyhow::Result<()> {
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha8Rng;

    fn turns(name: &'static str, values: &[f64], error: Option<&str>) -> Turns {
        Turns {
            name,
            values: values.to_vec(),
            error: error.map(str::to_owned),
        }
    }

    fn comparison(turns: &[Turns]) -> Comparison {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        Comparison::new("30 replicas", Unit::Seconds, "Swarm", turns, &mut rng)
    }

    fn report(comparison: Comparison) -> Report {
        Report {
            bench: "control".into(),
            machine: Machine::default(),
            seed: 1,
            quick: true,
            sections: vec![Section {
                title: "Replicas".into(),
                about: "In turns.".into(),
                bars: vec![Bar {
                    what: "30 replicas, to Swarm".into(),
                    limit: Limit::AtMost(0.5),
                    found: comparison.ratio_of("Skein"),
                    unit: Unit::Ratio,
                }],
                comparisons: vec![comparison],
                figures: vec![Figure::new("memory", 31.96, Unit::Megabytes)],
                notes: vec!["Swarm has no IPVS here.".into()],
            }],
        }
    }

    #[test]
    fn contenders_are_compared_with_the_base() {
        let of = comparison(&[
            turns("Skein", &[2.0, 2.1, 1.9], None),
            turns("Swarm", &[8.0, 8.2, 7.8], None),
        ]);
        assert!((of.ratio_of("Skein").unwrap() - 0.25).abs() < 1e-9);
        assert_eq!(of.of("Swarm").unwrap().ratio, None);
        let report = report(of);
        let text = report.markdown();
        assert!(text.contains("| Skein | 2.00 s | "), "{text}");
        assert!(text.contains("| 0.25 ("), "{text}");
        assert!(
            text.contains("| 30 replicas, to Swarm | at most 0.500 | 0.250 | holds |"),
            "{text}"
        );
        assert!(text.contains("| memory | 32.0 MB |"), "{text}");
        assert!(text.contains("- Swarm has no IPVS here."), "{text}");
        assert!(text.contains("![30 replicas](control-1-1.svg)"), "{text}");
        assert!(report.errors().is_empty());
    }

    #[test]
    fn runs_with_errors_are_not_compared() {
        for (skein, swarm) in [(None, Some("no engine\nat all")), (Some("it broke"), None)] {
            let of = comparison(&[turns("Skein", &[2.0], skein), turns("Swarm", &[8.0], swarm)]);
            assert_eq!(of.ratio_of("Skein"), None);
            let report = report(of);
            assert_eq!(report.sections[0].bars[0].holds(), None);
            assert_eq!(report.errors().len(), 1);
            let text = report.markdown();
            assert!(text.contains("failed, so not compared: "), "{text}");
            assert!(text.contains("| not measured |"), "{text}");
            assert!(!text.contains("engine\nat"), "{text}");
        }
    }

    #[test]
    fn a_bar_that_is_missed_is_said() {
        let mut of = report(comparison(&[]));
        of.sections[0].bars[0].found = Some(0.51);
        assert_eq!(of.sections[0].bars[0].holds(), Some(false));
        assert!(
            of.markdown()
                .contains("| at most 0.500 | 0.510 | **missed** |")
        );
        assert!(of.missed().is_empty(), "a quick run");
        of.quick = false;
        assert_eq!(of.missed().len(), 1);
        of.sections[0].bars[0].found = None;
        assert_eq!(of.missed().len(), 1);
        of.sections[0].bars[0].found = Some(0.5);
        assert!(of.missed().is_empty());
        of.sections[0].bars[0].limit = Limit::AtLeast(0.6);
        assert_eq!(of.missed().len(), 1);
        assert!(
            of.markdown()
                .contains("| at least 0.600 | 0.500 | **missed** |")
        );
        of.sections[0].bars[0].limit = Limit::AtLeast(0.5);
        assert!(of.missed().is_empty());
    }

    #[test]
    fn contenders_are_compared_with_each_other_unless_they_failed() {
        let of = comparison(&[
            turns("one", &[6.0, 6.0], None),
            turns("other", &[4.0, 4.0], None),
            turns("ill", &[4.0], Some("it broke")),
        ]);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let ratio = of.ratio_between("one", "other", &mut rng).unwrap();
        assert!((ratio.value - 1.5).abs() < 1e-9);
        assert_eq!(of.ratio_between("one", "ill", &mut rng), None);
        assert_eq!(of.ratio_between("nobody", "one", &mut rng), None);
    }

    #[test]
    fn values_are_shown_with_three_digits() {
        for (unit, value, shown) in [
            (Unit::Seconds, 0.0834, "0.083 s"),
            (Unit::Milliseconds, 12.34, "12.3 ms"),
            (Unit::Megabytes, 235.4, "235 MB"),
            (Unit::Count, 7.0, "7"),
            (Unit::PerSecond, 43_210.9, "43211/s"),
            (Unit::Gigabits, 9.414, "9.41 Gbit/s"),
        ] {
            assert_eq!(unit.show(value), shown);
        }
    }

    #[test]
    fn a_report_takes_the_place_of_its_earlier_self() {
        let document = put_among(DOCUMENT, "## a\n\n### one\n\n");
        let document = put_among(&document, "## b\n\nother\n");
        let again = put_among(&document, "## a\n\n### two\n\n");
        let begin = DOCUMENT.trim_end();
        assert_eq!(
            again,
            format!("{begin}\n\n## a\n\n### two\n\n## b\n\nother\n")
        );
        assert_eq!(put_among(&again, "## a\n\n### two\n\n"), again);
    }

    #[test]
    fn all_of_it_is_written() {
        let of = comparison(&[turns("Skein", &[2.0], None), turns("Swarm", &[8.0], None)]);
        let folder = std::env::temp_dir().join(format!("skein-bench-{}", std::process::id()));
        let path = report(of).write_to(&folder).unwrap();
        assert!(fs::read_to_string(&path).unwrap().contains("### Replicas"));
        let json = fs::read(folder.join("control.json")).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(
            json["sections"][0]["comparisons"][0]["contenders"][0]["values"][0],
            2.0
        );
        let chart = fs::read_to_string(folder.join("control-1-1.svg")).unwrap();
        assert!(
            chart.starts_with("<svg") && chart.contains("Swarm"),
            "{chart}"
        );
        fs::remove_dir_all(folder).unwrap();
    }
}
