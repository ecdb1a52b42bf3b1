//! The port that managers listen on, and what each kind of caller may call.

use super::{PeerIdentity, tls::Credentials};
use crate::identity::peer_identity;
use skein_model::NodeRole;
use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Sleep, timeout},
};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Status,
    body::Body,
    service::Routes,
    transport::{Server, server::Connected},
};
use tower::{Layer, Service};

/// A client that does not finish its handshake in this time is not one.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes under way at once: so many nodes may come back at the same moment; more wait in the
/// kernel's backlog.
const HANDSHAKES_MAX: usize = 128;
/// Connections of callers without a certificate at once: so many nodes may join at the same moment. More are
/// closed, and try again. Those of nodes are not counted: whoever has a certificate is part of the swarm.
const ANONYMOUS_MAX: usize = 512;
/// How long one of them lasts: a join is a call or two, each of which waits for a quorum for 20 s at most.
const ANONYMOUS_LIFE: Duration = Duration::from_secs(60);
/// After an error of accept(2), such as no descriptor left.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);
/// Finds peers that vanished without a word.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// What callers without a certificate may call.
const OPEN: [&str; 2] = ["/skein.node.Ca/GetRootCertificate", "/skein.node.Ca/Join"];
/// What only managers may call.
const MANAGERS_ONLY: [&str; 2] = [RAFT, API];
/// Each of these checks by itself what a certificate does not say: joining and leaving the group is
/// for the caller alone, and the rest for the members of the group, which a member that lags behind
/// knows better than its store.
const RAFT: &str = "/skein.node.Raft/";
/// Whatever a user may ask for.
const API: &str = "/skein.node.Api/";

/// What the store knows of a node that its certificate does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing: the certificate counts as it is.
    AsCertified,
    /// It is a worker, and a manager's certificate is one from before.
    Worker,
    /// It was removed from the swarm, so that its certificate counts no more.
    Removed,
}

/// Says what is known of a node, by its ID.
pub type Standings = Arc<dyn Fn(&str) -> Standing + Send + Sync>;

/// Serves gRPC over mTLS until `shutdown`. Who may call what is decided here; see [`PeerIdentity`].
///
/// # Errors
/// The server breaks down.
pub async fn serve(
    listener: TcpListener,
    credentials: Credentials,
    routes: Routes,
    standings: Standings,
    shutdown: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let (sender, connections) = mpsc::channel(HANDSHAKES_MAX);
    let accepting = tokio::spawn(accept(listener, credentials, sender, shutdown.clone()));
    let served = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .layer(AuthorizeLayer { standings })
        .add_routes(routes)
        .serve_with_incoming_shutdown(
            ReceiverStream::new(connections),
            shutdown.clone().cancelled_owned(),
        );
    // Streams to agents never end by themselves: what is not done a moment after is cut.
    let result = tokio::select! {
        result = served => result,
        () = async { shutdown.cancelled().await; tokio::time::sleep(ACCEPT_RETRY).await } => Ok(()),
    };
    accepting.abort();
    result
}

async fn accept(
    listener: TcpListener,
    credentials: Credentials,
    sender: mpsc::Sender<io::Result<Connection>>,
    shutdown: CancellationToken,
) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let anonymous = Arc::new(Semaphore::new(ANONYMOUS_MAX));
    loop {
        let Ok(permit) = handshakes.clone().acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let (acceptor, sender) = (credentials.acceptor(), sender.clone());
        let anonymous = anonymous.clone();
        tokio::spawn(async move {
            let handshake = timeout(HANDSHAKE_TIMEOUT, async {
                stream.set_nodelay(true)?;
                acceptor.accept(stream).await
            });
            match handshake.await.unwrap_or_else(|e| Err(e.into())) {
                Ok(stream) => match Connection::admit(stream, address, anonymous) {
                    Some(connection) => drop(sender.send(Ok(connection)).await),
                    None => tracing::warn!(
                        %address,
                        "{ANONYMOUS_MAX} callers without a certificate are connected: closing one more"
                    ),
                },
                Err(error) => tracing::debug!(%address, %error, "TLS handshake failed"),
            }
            drop(permit);
        });
    }
}

/// An accepted connection, handshake done.
struct Connection {
    stream: TlsStream<TcpStream>,
    address: SocketAddr,
    /// Of a caller without a certificate.
    guest: Option<Guest>,
}

/// What bounds a connection of a caller without a certificate.
struct Guest {
    until: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    /// `None`: too many callers without a certificate are connected.
    fn admit(
        stream: TlsStream<TcpStream>,
        address: SocketAddr,
        anonymous: Arc<Semaphore>,
    ) -> Option<Self> {
        let certificates = stream.get_ref().1.peer_certificates();
        let guest = match certificates.is_some_and(|chain| !chain.is_empty()) {
            true => None,
            false => Some(Guest {
                until: Box::pin(tokio::time::sleep(ANONYMOUS_LIFE)),
                _place: anonymous.try_acquire_owned().ok()?,
            }),
        };
        Some(Self {
            stream,
            address,
            guest,
        })
    }
}

/// What is known of the caller of a request.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Where it calls from.
    pub address: SocketAddr,
    identity: Option<PeerIdentity>,
}

#[cfg(test)]
impl Caller {
    /// A caller without a certificate.
    pub fn at(address: SocketAddr) -> Self {
        Self {
            address,
            identity: None,
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        let certificates = self.stream.get_ref().1.peer_certificates();
        Caller {
            address: self.address,
            identity: certificates
                .and_then(|chain| chain.first())
                .and_then(|certificate| peer_identity(certificate)),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(guest) = &mut self.guest
            && guest.until.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[derive(Clone)]
struct AuthorizeLayer {
    standings: Standings,
}

impl<S> Layer<S> for AuthorizeLayer {
    type Service = Authorize<S>;

    fn layer(&self, inner: S) -> Authorize<S> {
        Authorize {
            inner,
            standings: self.standings.clone(),
        }
    }
}

#[derive(Clone)]
struct Authorize<S> {
    inner: S,
    standings: Standings,
}

impl<S> Service<http::Request<Body>> for Authorize<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = futures::future::Either<
        S::Future,
        std::future::Ready<Result<http::Response<Body>, S::Error>>,
    >;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let caller = request.extensions().get::<Caller>();
        let identity = caller.and_then(|caller| caller.identity.clone());
        match authorize(request.uri().path(), identity.as_ref(), &*self.standings) {
            Ok(()) => {
                if let Some(identity) = identity {
                    request.extensions_mut().insert(identity);
                }
                futures::future::Either::Left(self.inner.call(request))
            }
            Err(status) => {
                futures::future::Either::Right(std::future::ready(Ok(status.into_http())))
            }
        }
    }
}

/// Whether a caller may call `path`.
///
/// # Errors
/// It may not.
#[allow(clippy::result_large_err, reason = "tonic's error type")]
pub fn authorize(
    path: &str,
    caller: Option<&PeerIdentity>,
    standings: &dyn Fn(&str) -> Standing,
) -> Result<(), Status> {
    if OPEN.contains(&path) {
        return Ok(());
    }
    let Some(caller) = caller else {
        return Err(Status::unauthenticated(
            "a certificate of a member of the swarm is needed",
        ));
    };
    let standing = standings(&caller.node_id);
    if standing == Standing::Removed {
        let node = &caller.node_id;
        return Err(Status::permission_denied(format!(
            "node {node} was removed from the swarm"
        )));
    }
    let for_managers = MANAGERS_ONLY.iter().any(|prefix| path.starts_with(prefix));
    let demoted = standing == Standing::Worker && path.starts_with(API);
    if for_managers && (caller.role != NodeRole::Manager || demoted) {
        return Err(Status::permission_denied(format!(
            "{path} is for managers only"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    #[test]
    fn calls_need_the_certificate_they_need() {
        let peer = |role| PeerIdentity {
            node_id: "n1".into(),
            role,
        };
        let (worker, manager) = (peer(NodeRole::Worker), peer(NodeRole::Manager));
        use Standing::{AsCertified, Removed, Worker};
        let check = |path, caller, standing| {
            authorize(path, caller, &|_: &str| standing).map_err(|status| status.code())
        };
        assert_eq!(check(OPEN[1], None, AsCertified), Ok(()));
        let session = "/skein.node.Dispatcher/Session";
        assert_eq!(
            check(session, None, AsCertified),
            Err(Code::Unauthenticated)
        );
        assert_eq!(check(session, Some(&worker), AsCertified), Ok(()));
        let gone = check(session, Some(&worker), Removed);
        assert_eq!(gone, Err(Code::PermissionDenied));
        let vote = "/skein.node.Raft/Vote";
        let by_worker = check(vote, Some(&worker), AsCertified);
        assert_eq!(by_worker, Err(Code::PermissionDenied));
        assert_eq!(check(vote, Some(&manager), AsCertified), Ok(()));
        let api = "/skein.node.Api/Call";
        assert_eq!(check(api, Some(&manager), AsCertified), Ok(()));
        let demoted = check(api, Some(&manager), Worker);
        assert_eq!(demoted, Err(Code::PermissionDenied));
        // It may still leave the group, and renew its certificate; the rest is checked there.
        assert_eq!(check(vote, Some(&manager), Worker), Ok(()));
        assert_eq!(check(session, Some(&manager), Worker), Ok(()));
        let renew = "/skein.node.Ca/Renew";
        assert_eq!(check(renew, None, AsCertified), Err(Code::Unauthenticated));
    }
}
