//! The kernel's socket diagnostics: `sock_diag(7)`.

use super::Namespace;
use netlink_packet_core_of_sock_diag::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use netlink_sys::{Socket, SocketAddr as NetlinkAddress, protocols::NETLINK_SOCK_DIAG};
use nix::{
    sched::{CloneFlags, setns},
    sys::{
        socket::{setsockopt, sockopt::ReceiveTimeout},
        time::TimeVal,
    },
};
use std::{fs::File, io, net::SocketAddr};

/// The kernel is itself.
const KERNEL: u32 = 0;
/// For an answer, which the kernel gives at once: seconds.
const PATIENCE: i64 = 1;

/// # Errors
/// The namespace cannot be entered, or the kernel has no diagnostics, or refuses.
pub(super) fn tcp_listeners(of: Namespace) -> io::Result<Vec<SocketAddr>> {
    let mut socket = match of {
        Namespace::Own => open()?,
        Namespace::OfProcess(id) => open_in(id)?,
    };
    let mut found = Vec::new();
    for (family, any) in [
        (AF_INET, SocketId::new_v4()),
        (AF_INET6, SocketId::new_v6()),
    ] {
        ask(&socket, family, any)?;
        take(&mut socket, &mut found)?;
    }
    Ok(found)
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&NetlinkAddress::new(KERNEL, 0))?;
    let patience = TimeVal::new(PATIENCE, 0);
    setsockopt(&socket, ReceiveTimeout, &patience)?;
    Ok(socket)
}

/// A socket stays in the namespace that it was opened in: a thread enters it, and ends.
fn open_in(process: i32) -> io::Result<Socket> {
    let namespace = File::open(format!("/proc/{process}/ns/net"))?;
    let open = || {
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        open()
    };
    std::thread::scope(|scope| match scope.spawn(open).join() {
        Ok(socket) => socket,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

fn ask(socket: &Socket, family: u8, socket_id: SocketId) -> io::Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let request = InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::LISTEN,
        socket_id,
    };
    let payload = SockDiagMessage::InetRequest(request).into();
    let mut message = NetlinkMessage::new(header, payload);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0).map(drop)
}

/// Takes the messages of one answer.
fn take(socket: &mut Socket, found: &mut Vec<SocketAddr>) -> io::Result<()> {
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest);
            let message = message.map_err(|error| io::Error::other(error.to_string()))?;
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    let id = response.header.socket_id;
                    found.push(SocketAddr::new(id.source_address, id.source_port));
                }
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
            let length = usize::try_from(message.header.length).unwrap_or(usize::MAX);
            // Messages begin at multiples of four bytes.
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}
