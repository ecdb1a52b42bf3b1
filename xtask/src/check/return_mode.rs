//! Return modes of services, chosen as a user does it.

use super::status::{SEEN_WITHIN, status};
use crate::{cluster::Host, wait_until};
use anyhow::ensure;

/// All of them; the first is the default.
pub const RETURN_MODES: [&str; 3] = ["symmetric", "dsr", "snat"];
/// The label by which they are chosen.
pub const RETURN_MODE_LABEL: &str = "skein.ingress.mode";

/// Gives services a mode, or takes it away, and waits until the kernel of each node has `expected`.
///
/// # Errors
/// A service is not there, or a node does not have it in time.
pub fn choose<'a>(
    manager: &Host,
    nodes: impl IntoIterator<Item = &'a Host>,
    services: &[&str],
    mode: Option<&str>,
    expected: &str,
) -> anyhow::Result<()> {
    let change = match mode {
        Some(mode) => [
            "--label-add".to_owned(),
            format!("{RETURN_MODE_LABEL}={mode}"),
        ],
        None => ["--label-rm", RETURN_MODE_LABEL].map(str::to_owned),
    };
    let [option, value] = &change;
    for service in services {
        manager.docker(&["service", "update", "-d", option, value, service])?;
    }
    await_mode(nodes, services, expected)
}

/// Waits until the kernel of each node has a mode for these services.
///
/// # Errors
/// One does not have it in time.
pub fn await_mode<'a>(
    nodes: impl IntoIterator<Item = &'a Host>,
    services: &[&str],
    expected: &str,
) -> anyhow::Result<()> {
    for node in nodes {
        let what = format!(
            "{expected} of {services:?} in the kernel of {}",
            node.name()
        );
        wait_until(&what, SEEN_WITHIN, || {
            let said = status(node)?;
            for service in services {
                let shown = said.item("services", "name", service)?;
                ensure!(shown["return_mode"] == expected, "{shown}");
            }
            Ok(())
        })?;
    }
    Ok(())
}
