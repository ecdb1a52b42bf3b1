//! What the process that plays the nodes tells the benchmark: a line of JSON each.

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::io::Write;

/// Services whose tasks' ways to the nodes are told of are named so.
pub const PROBE: &str = "probe-";

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    /// A node has joined: it has a certificate.
    Joined,
    /// A node has a session with the leader.
    Registered,
    /// A session ended.
    Ended {
        /// Why.
        reason: String,
    },
    /// A node could not join, and will not.
    Refused {
        /// Why.
        reason: String,
    },
    /// A node was told of a task of a service named [`PROBE`]`…`.
    Arrived {
        /// The service.
        service: String,
        /// Whether the task is to run; else it is to end.
        runs: bool,
    },
}

impl Told {
    /// Writes it, at once.
    ///
    /// # Errors
    /// Nobody reads any more.
    pub fn write(&self, to: &mut impl Write) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        to.write_all(&line)
            .context("nobody reads what the nodes tell")?;
        to.flush().context("nobody reads what the nodes tell")
    }

    /// Reads a line.
    ///
    /// # Errors
    /// It is none of these.
    pub fn read(line: &str) -> anyhow::Result<Self> {
        serde_json::from_str(line).with_context(|| format!("the nodes tell no JSON: {line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_they_were_written() {
        let reason = || "a\nb".to_owned();
        for told in [
            Told::Joined,
            Told::Registered,
            Told::Ended { reason: reason() },
            Told::Refused { reason: reason() },
            Told::Arrived {
                service: "probe-1".into(),
                runs: true,
            },
        ] {
            let mut written = Vec::new();
            told.write(&mut written).unwrap();
            let text = String::from_utf8(written).unwrap();
            let line = text.strip_suffix('\n').unwrap();
            assert!(!line.contains('\n'), "{line}");
            assert_eq!(Told::read(line).unwrap(), told);
        }
        assert!(Told::read("{").is_err());
    }
}
