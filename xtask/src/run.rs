//! Running other programs, waiting, and saying what is going on.

use anyhow::{Context as _, bail};
use process_control::{ChildExt as _, Control as _};
use std::{
    io::Write as _,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// The longest that a command whose output is waited for may take: `docker service create` waits until
/// all its tasks run, and an update of many goes one by one.
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(300);

/// A step that may take a while: says what it does, and how long it took.
pub struct Step {
    began: Instant,
}

impl Step {
    /// Says what begins.
    pub fn begin(what: &str) -> Self {
        print!("{what} ... ");
        // Without a terminal there is nobody to show it to.
        let _ = std::io::stdout().flush();
        Self {
            began: Instant::now(),
        }
    }

    /// Says what begins, and leaves the lines below to the commands that it runs.
    pub fn begin_commands(what: &str) -> Self {
        println!("{what}:");
        Self {
            began: Instant::now(),
        }
    }

    /// Says that it is done, and what came of it.
    pub fn end(self, result: &str) {
        println!("{result} ({:.1} s)", self.began.elapsed().as_secs_f32());
    }
}

/// Waits until `ready` gives a value, asking every 50 ms.
///
/// # Errors
/// It gave none in time: `what` was waited for; with the last reason.
pub fn wait_until<T>(
    what: &str,
    timeout: Duration,
    mut ready: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + timeout;
    loop {
        match ready() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > deadline => {
                let seconds = timeout.as_secs();
                return Err(error).with_context(|| format!("{what}: not within {seconds} s"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

/// Runs a command with our own input and output; its failure is an error. It may take as long as it
/// needs: whoever watches sees what it does, and a build on a slow machine has no known limit.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", describe(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", describe(command));
    }
    Ok(())
}

/// Runs a command and returns what it printed; its failure is an error with what it said, and so is that
/// it took too long.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", describe(command)))?;
    let ended = output_within(child, OUTPUT_TIMEOUT).with_context(|| describe(command))?;
    let Output {
        status,
        stdout,
        stderr,
    } = ended;
    if !status.success() {
        let said = String::from_utf8_lossy(&stderr);
        let said = if said.trim().is_empty() {
            String::from_utf8_lossy(&stdout)
        } else {
            said
        };
        bail!("{} failed: {status}: {}", describe(command), said.trim());
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// Waits for a command and collects what it printed. It is killed if it takes longer than `limit`.
pub(crate) fn output_within(child: Child, limit: Duration) -> anyhow::Result<Output> {
    let ended = child.controlled_with_output();
    let ended = ended.time_limit(limit).terminate_for_timeout().wait()?;
    let ended = ended.with_context(|| format!("killed: not done within {} s", limit.as_secs()))?;
    Ok(ended.into_std_lossy())
}

/// [`output`] of a command line without quoting.
pub fn sh(line: &str) -> anyhow::Result<String> {
    let mut words = line.split_whitespace();
    let program = words.next().context("an empty command line")?;
    output(Command::new(program).args(words))
}
