//! SCTP to published ports. Its packets are made here, byte by byte, and sent and taken by raw sockets: kernels need not
//! have SCTP.

use anyhow::{Context as _, bail, ensure};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use skein_tests::{sockets, swarm};
use std::{
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};
use xtask::{
    check::{
        services,
        status::{SEEN_WITHIN, status},
    },
    wait_until,
};

const PUBLISHED: u16 = 30_132;
const TARGET: u16 = 8080;
const CLIENT: u16 = 40_132;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const DATA: u8 = 0;
/// How long a packet may be on its way.
const TAKEN_WITHIN: Duration = Duration::from_secs(5);

/// A packet (RFC 9260, section 3) of one chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Packet {
    ports: [u16; 2],
    chunk: u8,
    payload: Vec<u8>,
}

impl Packet {
    fn new(ports: [u16; 2], chunk: u8, payload: &[u8]) -> Self {
        Self {
            ports,
            chunk,
            payload: payload.to_vec(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for port in self.ports {
            bytes.extend(port.to_be_bytes());
        }
        bytes.extend([7, 7, 7, 7, 0, 0, 0, 0, self.chunk, 0]);
        let len = u16::try_from(4 + self.payload.len()).unwrap_or(u16::MAX);
        bytes.extend(len.to_be_bytes());
        bytes.extend(&self.payload);
        let checksum = crc32c::crc32c(&bytes);
        bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// What a raw socket took, and who sent it: with its IPv4 header.
    fn taken(bytes: &[u8]) -> anyhow::Result<(Ipv4Addr, Self)> {
        let header = usize::from(bytes.first().context("an IPv4 header")? & 0x0f) * 4;
        ensure!(bytes.len() >= header + 16, "{} bytes", bytes.len());
        let (ip, sctp) = bytes.split_at(header);
        let port = |at: usize| u16::from_be_bytes([sctp[at], sctp[at + 1]]);
        let packet = Self::new([port(0), port(2)], sctp[12], &sctp[16..]);
        ensure!(
            packet.bytes() == sctp,
            "the checksum of {packet:?} is wrong: {sctp:?}"
        );
        Ok((Ipv4Addr::new(ip[12], ip[13], ip[14], ip[15]), packet))
    }
}

/// A raw socket of the thread's network.
fn raw() -> anyhow::Result<OwnedFd> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::Sctp,
    )
    .context("no raw socket")?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(1, 0))?;
    Ok(socket)
}

fn send(socket: &OwnedFd, to: Ipv4Addr, packet: &Packet) -> anyhow::Result<()> {
    let to = SockaddrIn::from(SocketAddrV4::new(to, 0));
    sendto(socket.as_raw_fd(), &packet.bytes(), &to, MsgFlags::empty())?;
    Ok(())
}

/// The next packet to a port.
fn take(socket: &OwnedFd, port: u16) -> anyhow::Result<(Ipv4Addr, Packet)> {
    let begun = Instant::now();
    let mut bytes = vec![0; usize::from(u16::MAX)];
    while begun.elapsed() < TAKEN_WITHIN {
        let Ok(len) = recv(socket.as_raw_fd(), &mut bytes, MsgFlags::empty()) else {
            continue;
        };
        let (from, packet) = Packet::taken(&bytes[..len])?;
        if packet.ports[1] == port {
            return Ok((from, packet));
        }
    }
    bail!("nothing came to port {port} within {TAKEN_WITHIN:?}")
}

#[test]
fn an_association_reaches_its_task_through_every_node() -> anyhow::Result<()> {
    let cluster = swarm("sctp", 2, 1)?;
    let (first, second, client) = (cluster.host("n1")?, cluster.host("n2")?, cluster.client()?);
    let publish = format!("{PUBLISHED}:{TARGET}/sctp");
    let on_second = ["-p", &publish, "--constraint", "node.hostname==n2"];
    services::create(first, "web", 1, &on_second)?;
    for node in cluster.nodes() {
        wait_until("the kernel has the task", SEEN_WITHIN, || {
            let said = status(node)?;
            let web = said.item("services", "name", "web")?;
            ensure!(web["ports"][0]["protocol"] == "sctp", "{web}");
            ensure!(
                web["nodes"]
                    .as_array()
                    .is_some_and(|nodes| !nodes.is_empty()),
                "{web}"
            );
            Ok(())
        })?;
    }
    let server = sockets::within_task(second, "web", raw)?;
    let caller = sockets::within(client, raw)?;
    // The socket of each is in its network, whichever thread uses it.
    for (entry, sport) in cluster.nodes().zip(CLIENT..) {
        for (chunk, length) in [(INIT, 20), (DATA, 1), (DATA, 1_000), (DATA, 1_401)] {
            let payload: Vec<u8> = (0..length).map(|n: usize| n as u8).collect();
            let asked = Packet::new([sport, PUBLISHED], chunk, &payload);
            send(&caller, entry.address(), &asked)?;
            let what = || format!("chunk {chunk} of {length} bytes through {}", entry.name());
            let (from, got) = take(&server, TARGET).with_context(what)?;
            ensure!(from == client.address(), "the task sees {from}");
            ensure!(
                got == Packet {
                    ports: [sport, TARGET],
                    ..asked
                },
                "{got:?}"
            );
            let answer = Packet::new([TARGET, sport], INIT_ACK, &payload);
            send(&server, from, &answer)?;
            let (from, got) = take(&caller, sport).with_context(what)?;
            ensure!(
                from == entry.address(),
                "{from} answers for {}",
                entry.name()
            );
            ensure!(
                got == Packet {
                    ports: [PUBLISHED, sport],
                    ..answer
                },
                "{got:?}"
            );
        }
    }
    cluster.down()
}
