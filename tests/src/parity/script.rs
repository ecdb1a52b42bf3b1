//! Scripts: one command line a step, run by a shell on a host.
//!
//! A step is a line `WORDS $ COMMAND`, continued on the next line by a `\` at its end. The words are:
//! `n2`: on that host, instead of the first. `until/TEXT/`: again and again until it says TEXT (in
//! which a `/` is written `\/`).
//! `mute`: what it says does not matter, only how it ends. `sorted`: the order of lines does not
//! matter. `new`: only for CLIs newer than the required one. Lines that begin with `#` are comments.

use anyhow::{Context as _, bail, ensure};
use regex::Regex;
use std::{
    fs::File,
    io::Write as _,
    path::Path,
    process::{Output, Stdio},
    sync::LazyLock,
    thread::sleep,
    time::{Duration, Instant},
};
use xtask::cluster::{Cluster, Daemon};

/// How long one command may take: an update that is watched waits for its monitor, and more.
const COMMAND_SECONDS: &str = "60";
/// How long a step waits for what it is to see.
const UNTIL_TIMEOUT: Duration = Duration::from_secs(40);
/// Between two looks.
const UNTIL_RETRY: Duration = Duration::from_millis(150);

/// Whom the session is with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// `dockerd` in Swarm mode.
    Swarm,
    /// Skein.
    Skein,
}

impl Engine {
    fn socket(self) -> &'static str {
        match self {
            Self::Swarm => Daemon::Engine.socket(),
            Self::Skein => Daemon::Control.socket(),
        }
    }
}

/// Where a session takes place.
#[derive(Clone, Copy)]
pub struct With<'a> {
    /// The hosts.
    pub cluster: &'a Cluster,
    /// Whom the CLI talks to.
    pub engine: Engine,
    /// The folder with the CLI.
    pub cli: &'a Path,
    /// A folder with what the steps read, as `$FILES`.
    pub files: &'a Path,
    /// An empty folder that all hosts see, as `$SHARED`.
    pub shared: &'a Path,
    /// The file that gets what every step said.
    pub transcript: &'a Path,
}

/// A step of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Where it stands: file and line.
    pub place: String,
    /// The host that it runs on.
    pub host: String,
    /// What it is repeated for to see.
    pub until: Option<String>,
    /// Whether what it says is left out of the comparison.
    pub mute: bool,
    /// Whether the order of its lines does not matter.
    pub sorted: bool,
    /// Whether only newer CLIs have it.
    pub new: bool,
    /// For the shell.
    pub command: String,
}

/// How a step went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Exit code.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it printed as errors.
    pub stderr: String,
}

impl Outcome {
    /// Whether it printed this, anywhere.
    pub fn says(&self, text: &str) -> bool {
        self.stdout.contains(text) || self.stderr.contains(text)
    }
}

/// A session.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// In order.
    pub steps: Vec<Step>,
}

/// What every command may use: the API without the CLI (`api METHOD PATH [JSON]`, in the version that
/// both engines speak).
const PRELUDE: &str = r#"
api() {
    curl -sS -m 30 --unix-socket "$SOCKET" -X "$1" -H 'Content-Type: application/json' \
        -w '\n%{http_code}\n' ${3:+--data-binary "$3"} "http://docker/v1.41$2"
}
"#;

impl Script {
    /// Adds the steps of a file.
    ///
    /// # Errors
    /// A line is no step; with its place.
    pub fn add(&mut self, file: &str, text: &str) -> anyhow::Result<()> {
        let mut lines = text.lines().zip(1..);
        while let Some((line, number)) = lines.next() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let mut whole = line.to_owned();
            while whole.ends_with('\\') {
                let (next, _) = lines.next().context("the last line goes on")?;
                whole.truncate(whole.len() - 1);
                whole.push_str(next.trim_start());
            }
            let place = format!("{file}:{number}");
            let step = Step::parse(&whole, &place).with_context(|| place.clone())?;
            self.steps.push(step);
        }
        Ok(())
    }

    /// The steps of a CLI: of the required one, or of a newer one. What is done without a CLI need not
    /// be done again.
    pub fn of_cli(&self, newer: bool) -> Self {
        let mut steps = self.steps.clone();
        steps.retain(|step| match newer {
            true => !step.command.contains("api "),
            false => !step.new,
        });
        Self { steps }
    }

    /// Runs all steps.
    ///
    /// # Errors
    /// A step cannot be run at all.
    pub fn run(&self, with: &With<'_>) -> anyhow::Result<Vec<Outcome>> {
        let mut transcript = File::create(with.transcript)?;
        let outcome = |step: &Step| {
            let began = Instant::now();
            let outcome = step
                .run(with)
                .with_context(|| format!("{}: {}", step.place, step.command))?;
            let took = began.elapsed().as_secs_f32();
            writeln!(
                transcript,
                "{} ({took:.1} s) $ {}",
                step.place, step.command
            )?;
            let Outcome {
                code,
                stdout,
                stderr,
            } = &outcome;
            writeln!(transcript, "{stdout}{stderr}(exit {code})\n")?;
            Ok(outcome)
        };
        self.steps.iter().map(outcome).collect()
    }
}

/// The first of the line: words, and TEXT in `until/TEXT/`.
static HEAD: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^((?:(?:until/(?:[^/\\]|\\.)*/|[a-z0-9]+) )*)\$ (.*)$")
        .expect("a constant pattern")
});
static WORD: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"until/((?:[^/\\]|\\.)*)/|[a-z0-9]+").expect("a constant pattern")
});

impl Step {
    fn parse(line: &str, place: &str) -> anyhow::Result<Self> {
        let parts = HEAD.captures(line).context("no step")?;
        let mut step = Self {
            place: place.to_owned(),
            host: "n1".to_owned(),
            until: None,
            mute: false,
            sorted: false,
            new: false,
            command: parts[2].to_owned(),
        };
        for word in WORD.captures_iter(&parts[1]) {
            match (word.get(1), &word[0]) {
                (Some(text), _) => step.until = Some(text.as_str().replace('\\', "")),
                (None, "mute") => step.mute = true,
                (None, "sorted") => step.sorted = true,
                (None, "new") => step.new = true,
                (None, host) if host.starts_with('n') => step.host = host.to_owned(),
                (None, other) => bail!("no word of a step: {other}"),
            }
        }
        ensure!(!step.command.is_empty(), "no command");
        Ok(step)
    }

    fn run(&self, with: &With<'_>) -> anyhow::Result<Outcome> {
        let deadline = Instant::now() + UNTIL_TIMEOUT;
        loop {
            let outcome = self.once(with)?;
            let Some(text) = &self.until else {
                return Ok(outcome);
            };
            if outcome.says(text) || Instant::now() > deadline {
                return Ok(outcome);
            }
            sleep(UNTIL_RETRY);
        }
    }

    fn once(&self, with: &With<'_>) -> anyhow::Result<Outcome> {
        let host = with.cluster.host(&self.host)?;
        let mut shell = host.command("timeout");
        shell.args([COMMAND_SECONDS, "bash", "-c"]);
        shell.arg(format!("{PRELUDE}{}", self.command));
        shell.current_dir("/").stdin(Stdio::null());
        shell.env_clear().env("LC_ALL", "C").env("HOME", "/run");
        let socket = with.engine.socket();
        shell.env("DOCKER_HOST", format!("unix://{socket}"));
        shell.env("SOCKET", socket);
        shell.env("FILES", with.files).env("SHARED", with.shared);
        shell.env("SIGNER", host.binaries().join("skein-signer"));
        let path = format!("{}:/usr/bin:/bin:/usr/sbin:/sbin", with.cli.display());
        shell.env("PATH", path);
        for node in with.cluster.nodes() {
            shell.env(node.name().to_uppercase(), node.address().to_string());
        }
        let Output {
            status,
            stdout,
            stderr,
        } = shell.output().context("cannot run a shell on a host")?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Outcome {
            code: status.code().unwrap_or(-1),
            stdout: text(stdout),
            stderr: text(stderr),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read_line_by_line() {
        let mut script = Script::default();
        let text = "# what\n\n$ docker node ls\nn2 until/1\\/b/ sorted $ docker x \\\n  --y $ z\n";
        script.add("a", text).unwrap();
        let [first, second] = &script.steps[..] else {
            panic!("{script:?}");
        };
        assert_eq!((&*first.host, &*first.command), ("n1", "docker node ls"));
        assert_eq!(
            (&*second.host, &*second.command, &*second.place),
            ("n2", "docker x --y $ z", "a:4")
        );
        assert_eq!(second.until.as_deref(), Some("1/b"));
        assert!(second.sorted && !second.mute);
        for wrong in ["docker node ls", "loud $ x", "$ "] {
            assert!(script.add("a", wrong).is_err(), "{wrong}");
        }
    }
}
