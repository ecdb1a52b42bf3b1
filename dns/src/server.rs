//! The DNS server: UDP and TCP.
//!
//! Only known askers are answered; so no question that this server itself, or its host, asks upstream
//! can come back to be asked again, and nobody outside can use it.

use crate::{
    limits::{Limits, Place},
    message::{Packet, Question, Transport},
    upstream::{Failure, Upstream, framed},
    zone::Zone,
};
use arc_swap::ArcSwap;
use hickory_proto::op::ResponseCode;
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    task::{JoinError, JoinSet},
    time::timeout,
};

/// Foreign questions that wait for an answer, from all askers: as many as the engine's own resolver
/// allows. Each holds a socket.
const FORWARDS_MAX: usize = 1_024;
/// And from one asker.
const FORWARDS_PER_SOURCE: usize = 256;
/// TCP connections, of all askers: they are opened for long answers alone.
const CONNECTIONS_MAX: usize = 512;
/// And of one asker.
const CONNECTIONS_PER_SOURCE: usize = 32;
/// A connection on which nothing happens for so long is closed.
const IDLE: Duration = Duration::from_secs(10);
/// After the socket failed.
const RETRY: Duration = Duration::from_millis(100);
/// Tasks that take packets from the UDP socket.
const UDP_LOOPS: usize = 2;
/// The longest question over UDP, in bytes: one has a name, and options of EDNS.
const QUESTION_MAX: usize = 4_096;

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asker {
    /// IDs of the networks that it is on, in the order in which they are searched.
    pub networks: Vec<String>,
}

/// Knows the askers.
pub trait Askers: Send + Sync + 'static {
    /// The one with this address; `None`: it is to be refused. Is asked for every packet.
    fn asker(&self, address: IpAddr) -> Option<Asker>;
}

/// A DNS server for the tasks of a node.
pub struct Server {
    /// What it knows; may be replaced at any time.
    pub zone: Arc<ArcSwap<Zone>>,
    /// Whom it asks what it does not know; may be replaced at any time.
    pub upstreams: Arc<ArcSwap<Vec<SocketAddr>>>,
    askers: Box<dyn Askers>,
    upstream: Upstream,
    forwards: Arc<Limits>,
    connections: Arc<Limits>,
}

/// What becomes of a packet.
enum Step {
    Ignore,
    Reply(Vec<u8>),
    Forward(Box<Question>, Place),
}

impl Server {
    /// A server that knows nothing yet.
    pub fn new(askers: impl Askers) -> Self {
        Self {
            zone: Arc::default(),
            upstreams: Arc::default(),
            askers: Box::new(askers),
            upstream: Upstream::default(),
            forwards: Limits::new(FORWARDS_MAX, FORWARDS_PER_SOURCE),
            connections: Limits::new(CONNECTIONS_MAX, CONNECTIONS_PER_SOURCE),
        }
    }

    /// Serves until it is dropped.
    ///
    /// # Errors
    /// One of its tasks panicked.
    pub async fn serve(self: Arc<Self>, udp: UdpSocket, tcp: TcpListener) -> Result<(), JoinError> {
        let udp = Arc::new(udp);
        let mut loops = JoinSet::new();
        for _ in 0..UDP_LOOPS {
            loops.spawn(Arc::clone(&self).serve_udp(Arc::clone(&udp)));
        }
        loops.spawn(self.serve_tcp(tcp));
        // None of them ends by itself.
        while let Some(ended) = loops.join_next().await {
            ended?;
        }
        Ok(())
    }

    async fn serve_udp(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0; QUESTION_MAX];
        // At most FORWARDS_MAX.
        let mut forwards = JoinSet::new();
        loop {
            while forwards.try_join_next().is_some() {}
            let (length, from) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    tracing::warn!(%error, "cannot receive DNS questions");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            let packet = &buffer[..length];
            match self.step(packet, Transport::Udp, from.ip()) {
                Step::Ignore => {}
                Step::Reply(reply) => send(&socket, &reply, from).await,
                Step::Forward(question, place) => {
                    let (server, socket) = (Arc::clone(&self), Arc::clone(&socket));
                    let packet = packet.to_vec();
                    forwards.spawn(async move {
                        let reply = server.forward(&packet, &question).await;
                        send(&socket, &reply, from).await;
                        drop(place);
                    });
                }
            }
        }
    }

    async fn serve_tcp(self: Arc<Self>, listener: TcpListener) {
        // At most CONNECTIONS_MAX.
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let (stream, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept DNS connections");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            let Some(place) = self.connections.take(from.ip()) else {
                tracing::debug!(%from, "too many DNS connections");
                continue;
            };
            let server = Arc::clone(&self);
            connections.spawn(async move {
                if let Err(error) = server.connection(stream, from.ip()).await {
                    tracing::debug!(%from, %error, "a DNS connection ended");
                }
                drop(place);
            });
        }
    }

    /// One question after the other.
    async fn connection(&self, mut stream: TcpStream, from: IpAddr) -> io::Result<()> {
        loop {
            let read = async {
                let mut packet = vec![0; usize::from(stream.read_u16().await?)];
                stream.read_exact(&mut packet).await?;
                io::Result::Ok(packet)
            };
            let packet = match timeout(IDLE, read).await? {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                packet => packet?,
            };
            let reply = match self.step(&packet, Transport::Tcp, from) {
                Step::Ignore => continue,
                Step::Reply(reply) => reply,
                Step::Forward(question, _place) => self.forward(&packet, &question).await,
            };
            timeout(IDLE, stream.write_all(&framed(&reply)?)).await??;
        }
    }

    fn step(&self, packet: &[u8], transport: Transport, from: IpAddr) -> Step {
        let question = match Packet::read(packet, transport) {
            Packet::Question(question) => question,
            Packet::Refused(reply) => return Step::Reply(reply),
            Packet::Ignored => return Step::Ignore,
        };
        let Some(asker) = self.askers.asker(from) else {
            let why = "only tasks on networks of the cluster are answered";
            return Step::Reply(question.error(ResponseCode::Refused, why));
        };
        let query = &question.query;
        let answer = self.zone.load().answer(
            &asker.networks,
            &query.name,
            query.query_type,
            &mut rand::rng(),
        );
        if let Some(reply) = question.reply(answer) {
            return Step::Reply(reply);
        }
        match self.forwards.take(from) {
            Some(place) => Step::Forward(question, place),
            None => {
                let why = "too many questions wait for other DNS servers";
                Step::Reply(question.error(ResponseCode::Refused, why))
            }
        }
    }

    async fn forward(&self, packet: &[u8], question: &Question) -> Vec<u8> {
        let servers = self.upstreams.load_full();
        let reply = self
            .upstream
            .ask(packet, question.transport(), &servers)
            .await;
        reply.unwrap_or_else(|failure| {
            let name = &question.query.name;
            tracing::debug!(%name, %failure, "a DNS question has no answer");
            // With nobody to ask, a name without a dot is nobody's; of others it is not known.
            let code = match failure {
                Failure::NoServers if name.num_labels() <= 1 => ResponseCode::NXDomain,
                _ => ResponseCode::ServFail,
            };
            question.error(code, &failure.to_string())
        })
    }
}

async fn send(socket: &UdpSocket, reply: &[u8], to: SocketAddr) {
    if let Err(error) = socket.send_to(reply, to).await {
        tracing::debug!(%to, %error, "cannot send a DNS reply");
    }
}
