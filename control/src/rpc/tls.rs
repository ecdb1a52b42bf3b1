//! Mutual TLS, with certificates that change while connections live.

use super::RpcError;
use crate::identity::{Identity, IdentityError, MANAGER_OU, role_ou};
use arc_swap::ArcSwap;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    server::WebPkiClientVerifier,
};
use skein_model::{NodeRole, Timestamp};
use std::{io, sync::Arc, time::Duration};
use tokio::{net::TcpStream, sync::watch, time::timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};

/// Both ends speak HTTP/2 and nothing else.
const ALPN: &[u8] = b"h2";
/// TCP and TLS handshake: several round trips of the slowest sane network.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A peer that vanished is noticed after this long twice, so that no call hangs on it.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// This node's certificate in the form TLS wants, for both ends. Clones share it; what is put in
/// its place holds for new connections.
#[derive(Clone)]
pub struct Credentials {
    current: Arc<ArcSwap<Material>>,
    /// Grows with every replacement.
    generation: Arc<watch::Sender<u64>>,
}

struct Material {
    identity: Identity,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Credentials {
    /// Makes an identity usable.
    ///
    /// # Errors
    /// Its certificate, key or root is broken.
    pub fn new(identity: Identity) -> Result<Self, IdentityError> {
        let material = Material::new(identity)?;
        Ok(Self {
            current: Arc::new(ArcSwap::from_pointee(material)),
            generation: Arc::new(watch::Sender::new(0)),
        })
    }

    /// Puts a renewed identity in place of this one.
    ///
    /// # Errors
    /// As for [`new`](Self::new); the old one stays then.
    pub fn replace(&self, identity: Identity) -> Result<(), IdentityError> {
        self.current.store(Arc::new(Material::new(identity)?));
        self.generation.send_modify(|generation| *generation += 1);
        Ok(())
    }

    /// Changes whenever another identity takes the place of the one before.
    pub fn generation(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// The identity as it is now.
    pub fn identity(&self) -> Identity {
        self.current.load().identity.clone()
    }

    /// A channel to a manager that connects when it is used, and again when it broke.
    ///
    /// # Errors
    /// `address` is not `host:port`.
    pub fn channel(&self, address: &str) -> Result<Channel, RpcError> {
        let current = self.current.clone();
        lazy_channel(address, move || current.load().client.clone())
    }

    /// A connector to servers on the web that one of these roots (PEM) vouches for, and that may ask for
    /// this node's certificate.
    ///
    /// # Errors
    /// A root is broken.
    pub(crate) fn https(&self, roots_pem: &[&str]) -> Result<TlsConnector, IdentityError> {
        let identity = self.identity();
        let client = client_builder()?
            .with_root_certificates(roots(roots_pem)?)
            .with_client_auth_cert(certificates(&identity.cert_pem)?, identity.key()?)
            .map_err(invalid)?;
        Ok(Arc::new(client).into())
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.current.load().server.clone().into()
    }
}

impl Material {
    fn new(identity: Identity) -> Result<Self, IdentityError> {
        let roots = roots(&[&identity.root_pem])?;
        let chain = certificates(&identity.cert_pem)?;
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots.clone(), Arc::new(provider()))
                .allow_unauthenticated()
                .build()
                .map_err(invalid)?;
        let mut server = ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_safe_default_protocol_versions()
            .map_err(invalid)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), identity.key()?)
            .map_err(invalid)?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        let mut client = client_builder()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, identity.key()?)
            .map_err(invalid)?;
        client.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self {
            identity,
            server: Arc::new(server),
            client: Arc::new(client),
        })
    }
}

/// A channel of a caller that has no certificate yet, to a server that the root vouches for.
///
/// # Errors
/// A broken root, or an address that is not `host:port`.
pub fn anonymous_channel(address: &str, root_pem: &str) -> Result<Channel, RpcError> {
    let config = || {
        let mut client = client_builder()?
            .with_root_certificates(roots(&[root_pem])?)
            .with_no_client_auth();
        client.alpn_protocols = vec![ALPN.to_vec()];
        Ok::<_, IdentityError>(Arc::new(client))
    };
    let client = config().map_err(|error| RpcError::connect(address, &error))?;
    lazy_channel(address, move || client.clone())
}

/// A channel to a server that nothing vouches for. Only for what is checked by other means.
///
/// # Errors
/// An address that is not `host:port`.
pub fn unverified_channel(address: &str) -> Result<Channel, RpcError> {
    let config = || {
        let mut client = client_builder()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unverified(provider())))
            .with_no_client_auth();
        client.alpn_protocols = vec![ALPN.to_vec()];
        Ok::<_, IdentityError>(Arc::new(client))
    };
    let client = config().map_err(|error| RpcError::connect(address, &error))?;
    lazy_channel(address, move || client.clone())
}

fn provider() -> CryptoProvider {
    ring::default_provider()
}

fn client_builder()
-> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, IdentityError> {
    ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_safe_default_protocol_versions()
        .map_err(invalid)
}

fn invalid(error: impl std::fmt::Display) -> IdentityError {
    IdentityError::Invalid(error.to_string())
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(invalid)
}

fn roots(pems: &[&str]) -> Result<Arc<RootCertStore>, IdentityError> {
    let mut roots = RootCertStore::empty();
    for pem in pems {
        let root = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(invalid)?;
        roots.add(root).map_err(invalid)?;
    }
    Ok(Arc::new(roots))
}

/// Checks that those who trust `root_pem` take a node's certificate (PEM, with the intermediates after it)
/// for a client's, and for that of a server of this role.
///
/// # Errors
/// They do not.
pub(crate) fn verify_node(
    chain_pem: &str,
    root_pem: &str,
    role: NodeRole,
    now: Timestamp,
) -> Result<(), IdentityError> {
    let chain = certificates(chain_pem)?;
    let Some((own, links)) = chain.split_first() else {
        return Err(invalid("there is no certificate"));
    };
    let (roots, provider) = (roots(&[root_pem])?, Arc::new(provider()));
    let secs = u64::try_from(now.unix_nanos() / 1_000_000_000).map_err(invalid)?;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(secs));
    let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
    let clients = clients.build().map_err(invalid)?;
    clients
        .verify_client_cert(own, links, now)
        .map_err(invalid)?;
    let servers = WebPkiServerVerifier::builder_with_provider(roots, provider);
    let servers = servers.build().map_err(invalid)?;
    let name = ServerName::try_from(role_ou(role)).map_err(invalid)?;
    let verified = servers.verify_server_cert(own, links, &name, &[], now);
    verified.map(drop).map_err(invalid)
}

fn lazy_channel(
    address: &str,
    config: impl Fn() -> Arc<ClientConfig> + Send + Sync + 'static,
) -> Result<Channel, RpcError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| RpcError::connect(address, &error))?
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    let address: Arc<str> = address.into();
    let connector = tower::service_fn(move |_: http::Uri| {
        let (address, config) = (address.clone(), config());
        async move {
            let stream = timeout(CONNECT_TIMEOUT, connect(&address, config));
            stream.await.map_err(|_| io::ErrorKind::TimedOut)?
        }
    });
    Ok(endpoint.connect_with_connector_lazy(connector))
}

async fn connect(
    address: &str,
    config: Arc<ClientConfig>,
) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(MANAGER_OU).map_err(io::Error::other)?;
    let stream = TlsConnector::from(config).connect(name, stream).await?;
    Ok(TokioIo::new(stream))
}

/// Takes any certificate, as long as the server holds its key.
#[derive(Debug)]
struct Unverified(CryptoProvider);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock,
        identity::{create_root, cross_sign},
        testing::linked_credentials as credentials,
    };
    use tokio::net::TcpListener;

    /// Whether both take each other's certificate.
    async fn shake_hands(server: &Credentials, client: &Credentials) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let acceptor = server.acceptor();
        let accepted = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let stream = acceptor.accept(stream).await.ok()?;
            let known = stream.get_ref().1.peer_certificates().is_some();
            known.then_some(())
        });
        let config = client.current.load().client.clone();
        let connected = connect(&address, config).await.is_ok();
        connected && accepted.await.unwrap().is_some()
    }

    #[tokio::test]
    async fn while_the_root_changes_all_members_know_each_other() {
        let root = || create_root(clock::now()).unwrap();
        let (old, new) = (root(), root());
        let link = cross_sign(&old, &new, clock::now()).unwrap();
        let before = credentials(&old, "", &old);
        let between = credentials(&new, &link, &old);
        let after = credentials(&new, &link, &new);
        let renewed = credentials(&new, "", &new);
        for (one, other, know) in [
            (&before, &between, true),
            (&between, &between, true),
            (&between, &after, true),
            (&after, &after, true),
            (&after, &renewed, true),
            // Who did not change over in time is none of them any more, nor is a stranger.
            (&before, &after, false),
            (&before, &renewed, false),
            (&credentials(&root(), "", &new), &after, false),
        ] {
            assert_eq!(shake_hands(one, other).await, know);
            assert_eq!(shake_hands(other, one).await, know);
        }
    }
}
