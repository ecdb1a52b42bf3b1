//! The DNS server: UDP and TCP.
//!
//! Only known askers are answered; so no question that this server itself, or its host, asks upstream
//! can come back to be asked again, and nobody outside can use it.

use crate::{
    datagrams::{Inbox, Outbox},
    limits::{Limits, Place},
    message::{Packet, Transport},
    upstream::{Failure, Upstream, framed},
    zone::{Answer, Zone},
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

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asker {
    /// IDs of the networks that it is on, in the order in which they are searched.
    pub networks: Arc<[String]>,
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
    /// The reply is written.
    Reply,
    /// It is to be asked elsewhere.
    Forward(Place),
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

    /// Serves until it is dropped. Of several UDP sockets each has a task of its own: the kernel deals what comes out to
    /// those that share an address.
    ///
    /// # Errors
    /// One of its tasks panicked.
    pub async fn serve(
        self: Arc<Self>,
        udp: Vec<UdpSocket>,
        tcp: TcpListener,
    ) -> Result<(), JoinError> {
        let mut loops = JoinSet::new();
        for socket in udp {
            loops.spawn(Arc::clone(&self).serve_udp(Arc::new(socket)));
        }
        loops.spawn(self.serve_tcp(tcp));
        // None of them ends by itself.
        while let Some(ended) = loops.join_next().await {
            ended?;
        }
        Ok(())
    }

    async fn serve_udp(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let (mut inbox, mut outbox) = (Inbox::new(), Outbox::new());
        // At most FORWARDS_MAX.
        let mut forwards = JoinSet::new();
        loop {
            while forwards.try_join_next().is_some() {}
            if let Err(error) = inbox.receive(&socket).await {
                tracing::warn!(%error, "cannot receive DNS questions");
                tokio::time::sleep(RETRY).await;
                continue;
            }
            for (packet, from) in inbox.iter() {
                let Some(reply) = outbox.next() else { break };
                match self.step(packet, Transport::Udp, from.ip(), reply) {
                    Step::Ignore => {}
                    Step::Reply => outbox.push(from),
                    Step::Forward(place) => {
                        let (server, socket) = (Arc::clone(&self), Arc::clone(&socket));
                        let packet = packet.to_vec();
                        forwards.spawn(async move {
                            let reply = server.forward(&packet, Transport::Udp).await;
                            if let Err(error) = socket.send_to(&reply, from).await {
                                tracing::debug!(to = %from, %error, "cannot send a DNS reply");
                            }
                            drop(place);
                        });
                    }
                }
            }
            outbox.send(&socket).await;
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
        let mut reply = Vec::new();
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
            match self.step(&packet, Transport::Tcp, from, &mut reply) {
                Step::Ignore => continue,
                Step::Reply => {}
                Step::Forward(_place) => reply = self.forward(&packet, Transport::Tcp).await,
            }
            timeout(IDLE, stream.write_all(&framed(&reply)?)).await??;
        }
    }

    /// What is answered at once is written into `reply`, instead of what was there.
    fn step(&self, packet: &[u8], transport: Transport, from: IpAddr, reply: &mut Vec<u8>) -> Step {
        let question = match Packet::read(packet, transport) {
            Packet::Question(question) => question,
            Packet::Refused(refusal) => {
                *reply = refusal;
                return Step::Reply;
            }
            Packet::Ignored => return Step::Ignore,
        };
        let Some(asker) = self.askers.asker(from) else {
            let why = "only tasks on networks of the cluster are answered";
            question.error(ResponseCode::Refused, why, reply);
            return Step::Reply;
        };
        let zone = self.zone.load();
        let answer = match question.name() {
            Some(name) => zone.answer(&asker.networks, name.as_str(), question.kind()),
            None => Answer::Foreign,
        };
        if question.reply(answer, &mut rand::rng(), reply) {
            return Step::Reply;
        }
        match self.forwards.take(from) {
            Some(place) => Step::Forward(place),
            None => {
                let why = "too many questions wait for other DNS servers";
                question.error(ResponseCode::Refused, why, reply);
                Step::Reply
            }
        }
    }

    /// The answer of other servers to what [`Self::step`] has read.
    async fn forward(&self, packet: &[u8], transport: Transport) -> Vec<u8> {
        let servers = self.upstreams.load_full();
        let failure = match self.upstream.ask(packet, transport, &servers).await {
            Ok(reply) => return reply,
            Err(failure) => failure,
        };
        let mut reply = Vec::new();
        if let Packet::Question(question) = Packet::read(packet, transport) {
            tracing::debug!(name = %question, %failure, "a DNS question has no answer");
            // With nobody to ask, a name without a dot is nobody's; of others it is not known.
            let code = match failure {
                Failure::NoServers if question.is_single_label() => ResponseCode::NXDomain,
                _ => ResponseCode::ServFail,
            };
            question.error(code, &failure.to_string(), &mut reply);
        }
        reply
    }
}
