//! Asking other servers: packets go there and back byte by byte, but for their ID.

use crate::message::{Transport, question_of};
use futures::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, Shared, WeakShared},
    stream::FuturesUnordered,
};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

/// The port of DNS.
const PORT: u16 = 53;
/// As many servers are asked: resolvers of the C libraries read no more.
const SERVERS_MAX: usize = 3;
/// After so long without an answer the next server is asked as well.
const NEXT_AFTER: Duration = Duration::from_millis(1_200);
/// After so long the asker hears that nobody answered: sooner than the engine's own resolver, which
/// stands between it and this server, gives up (4 s).
const DEADLINE: Duration = Duration::from_millis(3_600);
/// The longest message over UDP, in bytes.
const UDP_MAX: usize = 65_535;

/// Why nobody answered a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// There is nobody to ask.
    NoServers,
    /// What each server did, as far as it was asked.
    NoAnswer(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoServers => write!(
                f,
                "not a name of the cluster, and the node has no other DNS server: see its resolv.conf"
            ),
            Self::NoAnswer(why) => write!(f, "not a name of the cluster, and {why}"),
        }
    }
}

/// The servers that a resolv.conf names, without `own`, which must never ask itself.
pub fn servers(resolv_conf: &str, own: IpAddr) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let keyword = words.next()?;
        let address: IpAddr = words.next()?.parse().ok()?;
        (keyword == "nameserver" && address != own && !address.is_unspecified())
            .then_some(SocketAddr::new(address, PORT))
    };
    resolv_conf
        .lines()
        .filter_map(server)
        .take(SERVERS_MAX)
        .collect()
}

type Reply = Result<Arc<Vec<u8>>, Failure>;
/// How it is asked, whom, and the packet without its ID.
type Key = (Transport, Arc<Vec<SocketAddr>>, Vec<u8>);

#[derive(Default)]
struct Asked {
    /// Counts the questions: an equal one may come after another was given up.
    last: u64,
    under_way: HashMap<Key, (u64, WeakShared<BoxFuture<'static, Reply>>)>,
}

/// Asks other servers. Of equal questions only one is under way: so a server that in turn asks this
/// one, through a task, waits for itself until the deadline instead of going round.
#[derive(Clone, Default)]
pub struct Upstream {
    asked: Arc<Mutex<Asked>>,
}

impl Upstream {
    /// Asks the servers one after the other until one of them answers. The reply has the packet's ID.
    ///
    /// # Errors
    /// None answered, or there is none.
    pub async fn ask(
        &self,
        packet: &[u8],
        transport: Transport,
        servers: &Arc<Vec<SocketAddr>>,
    ) -> Result<Vec<u8>, Failure> {
        let Some((id, rest)) = packet.split_first_chunk::<2>() else {
            return Err(Failure::NoAnswer("the question has no ID".into()));
        };
        if servers.is_empty() {
            return Err(Failure::NoServers);
        }
        let reply = self
            .shared((transport, Arc::clone(servers), rest.to_vec()))
            .await?;
        let mut reply = reply.to_vec();
        if let Some(reply_id) = reply.first_chunk_mut::<2>() {
            *reply_id = *id;
        }
        Ok(reply)
    }

    fn shared(&self, key: Key) -> Shared<BoxFuture<'static, Reply>> {
        let mut asked = self.asked.lock();
        let same = asked.under_way.get(&key);
        if let Some(shared) = same.and_then(|(_, weak)| weak.upgrade()) {
            return shared;
        }
        asked.last += 1;
        let number = asked.last;
        let forget = Forget {
            asked: Arc::clone(&self.asked),
            key: key.clone(),
            number,
        };
        let shared = async move {
            let (transport, servers, rest) = &forget.key;
            ask_all(rest, *transport, servers).await.map(Arc::new)
        };
        let shared = shared.boxed().shared();
        if let Some(weak) = shared.downgrade() {
            asked.under_way.insert(key, (number, weak));
        }
        shared
    }
}

/// Takes a question from those under way, answered or given up.
struct Forget {
    asked: Arc<Mutex<Asked>>,
    key: Key,
    number: u64,
}

impl Drop for Forget {
    fn drop(&mut self) {
        let mut asked = self.asked.lock();
        let same = asked.under_way.get(&self.key);
        if same.is_some_and(|(number, _)| *number == self.number) {
            asked.under_way.remove(&self.key);
        }
    }
}

/// Each next server is asked when the one before fails, or takes long; who answers first counts.
async fn ask_all(
    rest: &[u8],
    transport: Transport,
    servers: &[SocketAddr],
) -> Result<Vec<u8>, Failure> {
    let mut waiting = servers.iter();
    let mut asked = FuturesUnordered::new();
    let mut failed = Vec::new();
    let deadline = tokio::time::sleep(DEADLINE);
    tokio::pin!(deadline);
    loop {
        if let Some(&server) = waiting.next() {
            asked.push(async move { (server, ask_one(rest, transport, server).await) });
        } else if asked.is_empty() {
            return Err(Failure::NoAnswer(failed.join(", ")));
        }
        let next = async {
            match waiting.len() {
                0 => std::future::pending().await,
                _ => tokio::time::sleep(NEXT_AFTER).await,
            }
        };
        tokio::select! {
            Some((server, answer)) = asked.next() => match answer {
                Ok(reply) => return Ok(reply),
                Err(error) => failed.push(format!("{}: {error}", server.ip())),
            },
            () = next => {}
            () = &mut deadline => {
                failed.push(format!("no answer within {} s", DEADLINE.as_secs_f32()));
                return Err(Failure::NoAnswer(failed.join(", ")));
            }
        }
    }
}

async fn ask_one(rest: &[u8], transport: Transport, server: SocketAddr) -> io::Result<Vec<u8>> {
    let mut packet = rand::random::<[u8; 2]>().to_vec();
    packet.extend_from_slice(rest);
    let reply = match transport {
        Transport::Udp => over_udp(&packet, server).await?,
        Transport::Tcp => over_tcp(&packet, server).await?,
    };
    match reply.get(3).map_or(0, |flags| flags & 0xf) {
        2 => Err(io::Error::other("it failed (SERVFAIL)")),
        5 => Err(io::Error::other("it refused (REFUSED)")),
        _ => Ok(reply),
    }
}

async fn over_udp(packet: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    // A socket, so a port, for each question: whoever forges an answer must guess it and the ID.
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(packet).await?;
    let mut reply = vec![0; UDP_MAX];
    loop {
        let length = socket.recv(&mut reply).await?;
        if answers(&reply[..length], packet) {
            reply.truncate(length);
            return Ok(reply);
        }
    }
}

async fn over_tcp(packet: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = timeout(DEADLINE, TcpStream::connect(server)).await??;
    stream.write_all(&framed(packet)?).await?;
    let mut reply = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut reply).await?;
    if answers(&reply, packet) {
        Ok(reply)
    } else {
        Err(io::Error::other("it answered another question"))
    }
}

/// A message with its length before it, as TCP carries it.
pub(crate) fn framed(message: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    Ok(framed)
}

/// Whether a packet is a reply with the ID and the question of another.
pub fn answers(reply: &[u8], question: &[u8]) -> bool {
    let is_reply = reply.get(2).is_some_and(|flags| flags & 0x80 != 0);
    let same_id = reply.get(..2) == question.get(..2);
    let same_question = match (question_of(reply), question_of(question)) {
        (Some(one), Some(other)) => one.eq_ignore_ascii_case(other),
        _ => false,
    };
    is_reply && same_id && same_question
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::{
        op::{Message, MessageType, OpCode, Query, ResponseCode},
        rr::{Name, RecordType},
    };
    use std::sync::atomic::{AtomicU32, Ordering};

    fn packet(id: u16) -> Vec<u8> {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        let name = Name::from_ascii("example.org.").unwrap();
        message.add_query(Query::query(name, RecordType::A));
        message.to_vec().unwrap()
    }

    /// A server that gives every question this code; `None`: that does not answer.
    async fn server(code: Option<ResponseCode>, asked: Arc<AtomicU32>) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                asked.fetch_add(1, Ordering::Relaxed);
                let Some(code) = code else { continue };
                let mut reply = Message::from_vec(&buffer[..length]).unwrap();
                reply.metadata.message_type = MessageType::Response;
                reply.metadata.response_code = code;
                // A forged one first: it must be passed over.
                let mut forged = reply.clone();
                forged.metadata.id ^= 1;
                forged.metadata.response_code = ResponseCode::Refused;
                let forged = forged.to_vec().unwrap();
                socket.send_to(&forged, from).await.unwrap();
                let reply = reply.to_vec().unwrap();
                socket.send_to(&reply, from).await.unwrap();
            }
        });
        address
    }

    #[test]
    fn servers_come_from_resolv_conf_and_never_include_oneself() {
        let own = "100.65.0.1".parse().unwrap();
        let text = "# nameserver 9.9.9.9\nsearch example.org\nnameserver 100.65.0.1\n\
                    nameserver  192.0.2.1 \nnameserver 0.0.0.0\nnameserver fe80::1%eth0\n\
                    nameserver 2001:db8::1\nnameserver\nnameserver 127.0.0.53\nnameserver 192.0.2.4\n";
        let found = servers(text, own);
        let found: Vec<_> = found.iter().map(SocketAddr::to_string).collect();
        assert_eq!(found, ["192.0.2.1:53", "[2001:db8::1]:53", "127.0.0.53:53"]);
        assert!(servers("", own).is_empty());
    }

    #[tokio::test]
    async fn a_failing_server_hands_over_to_the_next() {
        let asked: [Arc<AtomicU32>; 2] = Default::default();
        let bad = server(Some(ResponseCode::ServFail), Arc::clone(&asked[0])).await;
        let good = server(Some(ResponseCode::NXDomain), Arc::clone(&asked[1])).await;
        let upstream = Upstream::default();
        let servers = Arc::new(vec![bad, good]);
        let reply = upstream.ask(&packet(9), Transport::Udp, &servers).await;
        let reply = Message::from_vec(&reply.unwrap()).unwrap();
        assert_eq!(reply.metadata.id, 9, "the asker's own");
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
        let only = Arc::new(vec![bad]);
        let failure = upstream.ask(&packet(9), Transport::Udp, &only).await;
        assert!(failure.unwrap_err().to_string().contains("SERVFAIL"));
        let none = Arc::default();
        let failure = upstream.ask(&packet(9), Transport::Udp, &none).await;
        assert_eq!(failure, Err(Failure::NoServers));
        assert!(upstream.asked.lock().under_way.is_empty());
    }

    #[tokio::test]
    async fn equal_questions_are_asked_once_and_end_at_the_deadline() {
        let asked: [Arc<AtomicU32>; 2] = Default::default();
        let silent = [
            server(None, Arc::clone(&asked[0])).await,
            server(None, Arc::clone(&asked[1])).await,
        ];
        let upstream = Upstream::default();
        let servers = Arc::new(silent.to_vec());
        let begin = tokio::time::Instant::now();
        let all = (1..=20).map(|id| {
            let (upstream, servers) = (upstream.clone(), Arc::clone(&servers));
            async move { upstream.ask(&packet(id), Transport::Udp, &servers).await }
        });
        for answer in futures::future::join_all(all).await {
            assert!(matches!(answer, Err(Failure::NoAnswer(_))));
        }
        assert!(begin.elapsed() < DEADLINE + NEXT_AFTER);
        for asked in &asked {
            assert_eq!(asked.load(Ordering::Relaxed), 1);
        }
        assert!(upstream.asked.lock().under_way.is_empty());
    }
}
