//! Names, as a task sees them.

use super::services::container_of;
use crate::cluster::Host;

/// The addresses of a name, asked with dig inside a task of `service` on this node; in order.
///
/// # Errors
/// No answer; a name that does not exist is an empty one.
pub fn resolve(host: &Host, service: &str, name: &str) -> anyhow::Result<Vec<String>> {
    resolve_with(host, service, name, "")
}

/// [`resolve`] with options of dig.
///
/// # Errors
/// No answer.
pub fn resolve_with(
    host: &Host,
    service: &str,
    name: &str,
    options: &str,
) -> anyhow::Result<Vec<String>> {
    let container = container_of(host, service)?;
    let pid = host.engine(&["inspect", "--format", "{{.State.Pid}}", &container])?;
    let answer = host.run(&format!(
        "nsenter --net --target {} dig +short +time=3 +tries=2 {options} @127.0.0.11 {name}",
        pid.trim()
    ))?;
    let mut addresses: Vec<_> = answer.lines().map(str::to_owned).collect();
    addresses.sort();
    Ok(addresses)
}
