//! Sockets of a host's own network, for what no command line can do: one port for many connections,
//! all open at once.

use anyhow::{Context as _, ensure};
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket},
    os::fd::{AsRawFd as _, FromRawFd as _, IntoRawFd as _},
    process::{Child, Stdio},
    time::Duration,
};
use xtask::{
    check::{requests::Answer, services::pid_of},
    cluster::{Host, within_network},
    wait_until,
};

/// How long a connection may take to be made, and an answer to come.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// A program of a host's own, to be ended by whoever began it.
pub struct Program<'a> {
    host: &'a Host,
    /// What brings it into the host's namespaces, and waits for it there.
    entry: Child,
    /// In the host's PID namespace.
    pid: u32,
}

impl Program<'_> {
    /// Ends it, and waits for its end.
    ///
    /// # Errors
    /// It has ended by itself.
    pub fn end(mut self) -> anyhow::Result<()> {
        self.host.shell(&format!("kill -9 {}", self.pid))?;
        self.entry.wait().context("cannot wait for socat")?;
        Ok(())
    }
}

/// A program of a host's own that listens on a TCP port, and says `host` to whoever connects.
///
/// # Errors
/// It does not start, or does not listen in time.
pub fn program_on(host: &Host, port: u16) -> anyhow::Result<Program<'_>> {
    let listen = format!("TCP4-LISTEN:{port},fork,reuseaddr");
    let line = format!("echo $$; exec socat {listen} 'SYSTEM:echo host'");
    let mut entry = host.command("sh");
    entry.args(["-c", &line]).stdout(Stdio::piped());
    let mut entry = entry.spawn().context("cannot start socat")?;
    let mut pid = String::new();
    let said = entry.stdout.take().context("it has no output")?;
    BufReader::new(said).read_line(&mut pid)?;
    let pid = pid.trim().parse().context("socat has no process ID")?;
    let program = Program { host, entry, pid };
    wait_until("a host program listens", TIMEOUT, || {
        let said = host.shell(&format!("ss -Hltn sport = :{port}"))?;
        ensure!(!said.is_empty(), "it does not listen yet");
        Ok(())
    })?;
    Ok(program)
}

/// What the program of [`program_on`], or whoever has its port, says to `from`.
///
/// # Errors
/// Nobody listens.
pub fn call_program(from: &Host, to: &Host, port: u16) -> anyhow::Result<String> {
    let call = format!("socat -t 2 - TCP4:{}:{port} </dev/null", to.address());
    Ok(from.shell(&call)?.trim().to_owned())
}

/// Does something in a host's network namespace, on a thread of its own. Sockets made there stay in it.
///
/// # Errors
/// The namespace cannot be entered, or what is done fails.
pub fn within<T: Send>(
    host: &Host,
    work: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    within_network(&host.network(), work)
}

/// The same in the namespace of a task of `service` on this node.
///
/// # Errors
/// As above, or there is no task.
pub fn within_task<T: Send>(
    host: &Host,
    service: &str,
    work: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    let path = host.outside(&format!("/proc/{}/ns/net", pid_of(host, service)?));
    within_network(&path, work)
}

/// A socket that sends to `to`, and takes datagrams from there alone.
///
/// # Errors
/// There is no way there.
pub fn connect_udp(to: SocketAddrV4) -> anyhow::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let connected = socket.connect(to);
    connected.with_context(|| format!("no way to {to}"))?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    Ok(socket)
}

/// One datagram, and its answer, which is as long at least.
///
/// # Errors
/// None comes.
pub fn ask_by(socket: &UdpSocket, datagram: &[u8]) -> anyhow::Result<Answer> {
    let mut answer = vec![0; usize::from(u16::MAX)];
    socket.send(datagram)?;
    let len = socket.recv(&mut answer).context("no answer")?;
    ensure!(
        len >= datagram.len(),
        "{len} bytes answer {}",
        datagram.len()
    );
    let answer = answer.get(..len).unwrap_or_default();
    Ok(serde_json::from_slice(answer)?)
}

/// A connection whose own port is `from`, though other connections have it too.
///
/// # Errors
/// Nobody answers at `to`.
pub fn connect_from(from: u16, to: SocketAddrV4) -> anyhow::Result<TcpStream> {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
    };
    let socket = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    let own = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, from));
    bind(socket.as_raw_fd(), &own).with_context(|| format!("cannot use port {from}"))?;
    // SAFETY: the socket is this function's own, and given away.
    let stream = unsafe { TcpStream::from_raw_fd(socket.into_raw_fd()) };
    // The kernel's limit for connects is the one for writes.
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    connect(stream.as_raw_fd(), &SockaddrIn::from(to))
        .with_context(|| format!("cannot connect from port {from} to {to}"))?;
    Ok(stream)
}

/// A connection from a port of the kernel's choice, on which connecting, and each read and write,
/// takes no longer than `limit`.
///
/// # Errors
/// Nobody answers at `to`.
pub fn connect(to: SocketAddrV4, limit: Duration) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to.into(), limit)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(limit))?;
    stream.set_read_timeout(Some(limit))?;
    Ok(stream)
}

/// One request on a connection that stays open.
///
/// # Errors
/// No answer, or no whole one.
pub fn ask_on(stream: &mut TcpStream) -> anyhow::Result<Answer> {
    let (_, body) = request(stream)?;
    Ok(serde_json::from_str(&body)?)
}

/// The head of the answer to a request like that.
///
/// # Errors
/// No answer, or no whole one.
pub fn ask_head(stream: &mut TcpStream) -> anyhow::Result<String> {
    request(stream).map(|(head, _)| head)
}

fn request(stream: &mut TcpStream) -> anyhow::Result<(String, String)> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")?;
    read_answer(stream)
}

/// Head and body of an answer whose head says how long the body is.
///
/// # Errors
/// No answer, or no whole one; the socket's own error as it is.
pub fn read_answer(stream: &mut TcpStream) -> anyhow::Result<(String, String)> {
    let mut said = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&said).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length")
                    .then(|| value.trim().parse::<usize>().ok())?
            });
            let length = length.context("an answer without a length")?;
            if body.len() >= length {
                return Ok((head.to_owned(), body.to_owned()));
            }
        }
        let read = stream.read(&mut piece)?;
        ensure!(read > 0, "closed within an answer: {text:?}");
        said.extend(&piece[..read]);
    }
}
