//! The kernel's tables under `/proc`.

use super::Namespace;
use procfs::{
    ProcResult,
    net::{TcpState, UdpState},
    process::Process,
};
use std::net::SocketAddr;

pub(super) fn tcp_listeners(of: Namespace) -> Vec<SocketAddr> {
    let Some(process) = process(of) else {
        return Vec::new();
    };
    let sockets = rows([process.tcp(), process.tcp6()]);
    let listening = sockets.filter(|socket| socket.state == TcpState::Listen);
    listening.map(|socket| socket.local_address).collect()
}

pub(super) fn is_tcp_connected(of: Namespace, local: SocketAddr, remote: SocketAddr) -> bool {
    let Some(process) = process(of) else {
        return false;
    };
    let mut sockets = rows([process.tcp(), process.tcp6()]);
    sockets.any(|socket| {
        socket.state != TcpState::Listen
            && (socket.local_address, socket.remote_address) == (local, remote)
    })
}

pub(super) fn udp_bound(of: Namespace) -> Vec<SocketAddr> {
    let Some(process) = process(of) else {
        return Vec::new();
    };
    let sockets = rows([process.udp(), process.udp6()]);
    // So the kernel calls what is not connected.
    let bound = sockets.filter(|socket| socket.state == UdpState::Close);
    bound.map(|socket| socket.local_address).collect()
}

fn process(of: Namespace) -> Option<Process> {
    let found = match of {
        Namespace::Own => Process::myself(),
        Namespace::OfProcess(id) => Process::new(id),
    };
    found.ok()
}

/// The process may have just ended, and a kernel without IPv6 has no tables of it.
fn rows<T>(tables: [ProcResult<Vec<T>>; 2]) -> impl Iterator<Item = T> {
    tables.into_iter().flatten().flatten()
}
