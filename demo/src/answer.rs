//! What the server says about itself and about the one who asked.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Serialize;

/// Who this server is. Fields of which nothing is known are empty.
#[derive(Clone)]
pub struct Identity {
    /// The container's host name.
    pub hostname: String,
    /// Host name of the node.
    pub node: String,
    /// Name of the task.
    pub task: String,
}

/// The answer to one request.
#[derive(Serialize)]
pub struct Answer<'a> {
    /// See [`Identity::hostname`].
    pub hostname: &'a str,
    /// See [`Identity::node`].
    pub node: &'a str,
    /// See [`Identity::task`].
    pub task: &'a str,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// Address of the client, as this end of the connection sees it.
    pub client: String,
    /// Port of the client, likewise.
    pub client_port: u16,
    /// HTTP method; empty for a datagram.
    pub method: &'a str,
    /// HTTP path; empty for a datagram.
    pub path: &'a str,
    /// HTTP headers; empty for a datagram.
    pub headers: BTreeMap<String, String>,
}

impl Identity {
    /// The answer to `client`, to be filled in with what the protocol knows more.
    pub fn answer(&self, protocol: &'static str, client: SocketAddr) -> Answer<'_> {
        Answer {
            hostname: &self.hostname,
            node: &self.node,
            task: &self.task,
            protocol,
            client: client.ip().to_canonical().to_string(),
            client_port: client.port(),
            method: "",
            path: "",
            headers: BTreeMap::new(),
        }
    }
}

impl Answer<'_> {
    /// One line of JSON.
    pub fn to_line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// The host name, as the kernel has it.
pub fn hostname() -> std::io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/hostname")?
        .trim_end()
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_client_by_its_v4_address_on_a_v6_socket() {
        let identity = Identity {
            hostname: "h".into(),
            node: "n1".into(),
            task: "web.1.x".into(),
        };
        let client: SocketAddr = "[::ffff:198.18.0.9]:4711".parse().unwrap();
        let line = identity.answer("tcp", client).to_line();
        let json: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(json["client"], "198.18.0.9");
        assert_eq!(json["client_port"], 4711);
        assert_eq!(json["node"], "n1");
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
    }
}
