//! What differs between two sessions, and which of it is meant to.

use super::{Outcome, Step, normal};
use regex::Regex;
use std::{collections::BTreeMap, fmt};

/// A difference that is wanted, or that the machine makes.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// A pattern in the step's command.
    pub command: &'static str,
    /// A pattern in the differing line, which begins with `swarm: ` or `skein: `.
    pub line: &'static str,
    /// Why.
    pub reason: &'static str,
    /// Whether it must be there: one that is gone is to be struck off the list.
    pub always: bool,
}

/// A step that went differently.
#[derive(Clone, Debug)]
pub struct Difference {
    /// Which.
    pub step: Step,
    /// What only one of the two said, `swarm: …` or `skein: …`.
    pub lines: Vec<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} $ {}", self.step.place, self.step.command)?;
        self.lines
            .iter()
            .try_for_each(|line| writeln!(f, "    {line}"))
    }
}

/// What differs and is not wanted; and which of the wanted differences there were.
///
/// # Errors
/// A pattern is none.
pub fn unexplained(
    steps: &[Step],
    swarm: &[Outcome],
    skein: &[Outcome],
    wanted: &[Wanted],
) -> anyhow::Result<(Vec<Difference>, Vec<bool>)> {
    let patterns = wanted
        .iter()
        .map(|wanted| Ok((Regex::new(wanted.command)?, Regex::new(wanted.line)?)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut seen = vec![false; wanted.len()];
    let mut differences = Vec::new();
    for ((step, swarm), skein) in steps.iter().zip(swarm).zip(skein) {
        let mut lines = differing(step, swarm, skein);
        let known: Vec<_> = (0..patterns.len())
            .filter(|at| patterns[*at].0.is_match(&step.command))
            .collect();
        lines.retain(|line| {
            let mut explained = false;
            for at in &known {
                if patterns[*at].1.is_match(line) {
                    (seen[*at], explained) = (true, true);
                }
            }
            !explained
        });
        lines.extend(unreached(step, swarm, skein));
        if !lines.is_empty() {
            let step = step.clone();
            differences.push(Difference { step, lines });
        }
    }
    Ok((differences, seen))
}

/// Which of the two never said what it was waited for: where neither does, they agree, and nothing is shown.
fn unreached(step: &Step, swarm: &Outcome, skein: &Outcome) -> Option<String> {
    let text = step.until.as_ref()?;
    let reached = |outcome: &Outcome| outcome.says(text);
    let whose = match (reached(swarm), reached(skein)) {
        (true, true) => return None,
        (false, false) => "both",
        (false, true) => "swarm",
        (true, false) => "skein",
    };
    Some(format!("{whose}: (never says {text:?})"))
}

fn differing(step: &Step, swarm: &Outcome, skein: &Outcome) -> Vec<String> {
    let said = |outcome: &Outcome| {
        let mut lines = Vec::new();
        if !step.mute {
            lines = normal::lines(&outcome.stdout);
            let errors = normal::lines(&outcome.stderr);
            lines.extend(errors.into_iter().map(|line| format!("(stderr) {line}")));
        }
        lines.push(format!("(exit {})", outcome.code));
        if step.sorted {
            lines.sort();
        }
        lines
    };
    let (swarm, skein) = (said(swarm), said(skein));
    if swarm == skein {
        return Vec::new();
    }
    let mut count = BTreeMap::new();
    for line in &swarm {
        *count.entry(line).or_insert(0) += 1;
    }
    for line in &skein {
        *count.entry(line).or_insert(0) -= 1;
    }
    let mut only = |lines: &[String], who: &str, sign: i32| {
        let mut found = Vec::new();
        for line in lines {
            if let Some(count) = count.get_mut(line)
                && *count * sign > 0
            {
                *count -= sign;
                found.push(format!("{who}: {line}"));
            }
        }
        found
    };
    let mut lines = only(&swarm, "swarm", 1);
    lines.extend(only(&skein, "skein", -1));
    if lines.is_empty() {
        lines.push(format!("skein: other order: {skein:?}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parity::Script;

    fn outcome(stdout: &str) -> Outcome {
        let (stdout, stderr) = (stdout.to_owned(), String::new());
        Outcome {
            code: 0,
            stdout,
            stderr,
        }
    }

    #[test]
    fn only_what_no_reason_is_given_for_is_told() {
        let mut script = Script::default();
        script.add("f", "$ docker a\nsorted $ docker b").unwrap();
        let swarm = [outcome("x\ny\n"), outcome("1\n2\n")];
        let skein = [outcome("x\nz\n"), outcome("2\n1\n")];
        let of = |wanted: &[Wanted]| unexplained(&script.steps, &swarm, &skein, wanted).unwrap();
        let (differences, _) = of(&[]);
        assert_eq!(differences.len(), 1);
        assert_eq!(differences[0].lines, ["swarm: y", "skein: z"]);
        let wanted = |line| Wanted {
            command: "docker a",
            line,
            reason: "",
            always: true,
        };
        let (differences, seen) = of(&[wanted("^swarm: y$"), wanted("^skein: z$"), wanted("none")]);
        assert!(differences.is_empty());
        assert_eq!(seen, [true, true, false]);
        let (order, _) = unexplained(
            &script.steps,
            &[outcome("1\n2\n")],
            &[outcome("2\n1\n")],
            &[],
        )
        .unwrap();
        assert!(order[0].lines[0].contains("other order"), "{order:?}");
    }

    #[test]
    fn what_neither_ever_says_is_told_though_they_agree() {
        let mut script = Script::default();
        script.add("f", "until/up/ $ docker a").unwrap();
        let lines = |swarm, skein| {
            let (swarm, skein) = ([outcome(swarm)], [outcome(skein)]);
            let (differences, _) = unexplained(&script.steps, &swarm, &skein, &[]).unwrap();
            let lines = differences.into_iter().flat_map(|found| found.lines);
            lines.collect::<Vec<_>>()
        };
        assert_eq!(lines("is up", "is up"), [""; 0]);
        assert_eq!(lines("down", "down"), ["both: (never says \"up\")"]);
        let lines = lines("is up", "down");
        assert!(
            lines.contains(&"skein: (never says \"up\")".to_owned()),
            "{lines:?}"
        );
    }
}
