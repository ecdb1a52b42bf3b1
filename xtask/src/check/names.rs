//! Names, as a task sees them.

use super::services::pid_of;
use crate::cluster::Host;
use anyhow::ensure;

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
    let pid = pid_of(host, service)?;
    let answer = host.run(&format!(
        "nsenter --net --target {pid} dig +noall +comments +answer +time=3 +tries=2 {options} \
         @127.0.0.11 {name}"
    ))?;
    addresses(&answer)
}

/// How Skein's server says (RFC 8914) that it does not know a name itself: then it asks the node's servers,
/// none of which a host of a cluster reaches.
const UNKNOWN: &str = "not a name of the cluster";

/// What is in the answer that dig shows with its header: a server that failed has said nothing of the
/// name, but for whose it is not.
fn addresses(answer: &str) -> anyhow::Result<Vec<String>> {
    let status = answer.lines().find_map(|line| {
        let (_, status) = line.split_once("status: ")?;
        status.split(',').next()
    });
    ensure!(
        matches!(status, Some("NOERROR" | "NXDOMAIN")) || answer.contains(UNKNOWN),
        "no answer, but {}: {answer}",
        status.unwrap_or("nothing")
    );
    let records = answer.lines().filter(|line| !line.starts_with(';'));
    let addresses = records.filter_map(|record| record.split_whitespace().last());
    let mut addresses: Vec<_> = addresses.map(str::to_owned).collect();
    addresses.sort();
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_no_empty_answer() {
        let header = |status: &str| {
            format!(
                ";; Got answer:\n;; ->>HEADER<<- opcode: QUERY, status: {status}, id: 7\n\
                 ;; flags: qr rd ra; QUERY: 1, ANSWER: 2\n\n"
            )
        };
        let records =
            ";; ANSWER SECTION:\nweb.\t600\tIN\tA\t10.0.1.4\nweb.\t600\tIN\tA\t10.0.1.3\n\n";
        let found = addresses(&(header("NOERROR") + records)).unwrap();
        assert_eq!(found, ["10.0.1.3", "10.0.1.4"]);
        assert!(addresses(&header("NXDOMAIN")).unwrap().is_empty());
        let unknown =
            header("SERVFAIL") + "; EDE: 0 (Other): (not a name of the cluster, and 10.0.0.1: ...)";
        assert!(addresses(&unknown).unwrap().is_empty());
        for failed in [&*header("SERVFAIL"), ";; no servers could be reached\n", ""] {
            assert!(addresses(failed).is_err(), "{failed}");
        }
    }
}
