//! What `skein status` says on a node.

use crate::{cluster::Host, wait_until};
use anyhow::{Context as _, ensure};
use serde_json::Value;
use std::time::Duration;

/// From a change to its place in every kernel, from a node's silence to its being suspected, or from a network
/// that delivers, or does not, to l2 that is used, or not: a second or two, but on a loaded machine.
pub const SEEN_WITHIN: Duration = Duration::from_secs(20);

/// What it said.
pub struct Said {
    /// Every daemon was asked.
    pub succeeded: bool,
    /// Its JSON.
    pub status: Value,
    /// Of whom it could not ask.
    pub complaints: String,
}

impl Said {
    /// The one item of a list of this node's whose field is `value`.
    ///
    /// # Errors
    /// There is none.
    pub fn item(&self, list: &str, field: &str, value: &str) -> anyhow::Result<&Value> {
        let items = self.status["node"][list].as_array();
        let mut items = items.into_iter().flatten();
        let found = items.find(|item| item[field] == value);
        found.with_context(|| format!("no {list} has the {field} {value} in {}", self.status))
    }
}

/// Asks on a node.
///
/// # Errors
/// It prints no JSON.
pub fn status(node: &Host) -> anyhow::Result<Said> {
    let json = "/run/status.json";
    let complaints = node.shell(&format!(
        "if skein status --format json 2>&1 >{json}; then echo succeeded; fi"
    ))?;
    let text = node.run(&format!("cat {json}"))?;
    let status = serde_json::from_str(&text);
    Ok(Said {
        succeeded: complaints.ends_with("succeeded\n"),
        status: status.with_context(|| format!("{text:?}; {complaints}"))?,
        complaints,
    })
}

/// Waits until a node sends requests to another one by this forwarding, and the answers to its; says why.
///
/// # Errors
/// It does not in time.
pub fn await_forwarding(
    node: &Host,
    to: &Host,
    requests: &str,
    replies: &str,
) -> anyhow::Result<String> {
    let what = format!("{requests} from {} to {}", node.name(), to.name());
    wait_until(&what, SEEN_WITHIN, || {
        let said = status(node)?;
        let member = said.item("members", "hostname", to.name())?;
        ensure!(
            member["forwarding"] == requests && member["replies"] == replies,
            "{member}"
        );
        let reason = member["forwarding_reason"].as_str();
        Ok(reason.context("no reason")?.to_owned())
    })
}
