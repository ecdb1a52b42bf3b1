//! A certificate authority that signs over HTTPS as cfssl's `sign` does: what tests give to a swarm as its
//! external one. [`Authority`] decides what to answer, [`serve`] carries it, so that a test may also serve
//! answers that no authority should give.

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SubjectPublicKeyInfo,
};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{path::PathBuf, sync::Arc, time::Duration};
use time::OffsetDateTime;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer as _};

/// The profile that certificates of authorities are asked for under.
const CA_PROFILE: &str = "CA";
/// How long a root is good: Swarm's time.
const ROOT_VALIDITY: Duration = Duration::from_secs(630_720_000);
/// After an error of accept(2), such as no descriptor left.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);
/// How long the server's own certificate is good: longer than any test.
const SERVER_VALIDITY: Duration = Duration::from_secs(30 * 86_400);

/// A request as cfssl reads it.
#[derive(Deserialize)]
struct SignRequest {
    certificate_request: String,
    #[serde(default)]
    hosts: Vec<String>,
    #[serde(default)]
    subject: Subject,
    #[serde(default)]
    profile: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Subject {
    #[serde(rename = "CN")]
    common_name: String,
    names: Vec<Name>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Name {
    #[serde(rename = "O")]
    organization: String,
    #[serde(rename = "OU")]
    unit: String,
}

/// A root certificate and its key, which sign what they are asked to.
pub struct Authority {
    cert_pem: String,
    key_pem: String,
    /// How long what it signs is good.
    validity: Duration,
}

impl Authority {
    /// One with a root of its own, PEM.
    pub fn new(cert_pem: &str, key_pem: &str, validity: Duration) -> Self {
        Self {
            cert_pem: cert_pem.to_owned(),
            key_pem: key_pem.to_owned(),
            validity,
        }
    }

    /// What is answered to the body of a request: cfssl's envelope, whatever comes of it.
    pub fn answer(&self, body: &[u8]) -> Value {
        match self.sign(body) {
            Ok(certificate) => json!({
                "success": true,
                "result": {"certificate": certificate},
                "errors": [],
                "messages": [],
            }),
            Err(error) => json!({
                "success": false,
                "result": null,
                "errors": [{"code": 5000, "message": format!("{error:#}")}],
                "messages": [],
            }),
        }
    }

    fn sign(&self, body: &[u8]) -> anyhow::Result<String> {
        let asked: SignRequest = serde_json::from_slice(body).context("no request")?;
        let key = key_of(&asked.certificate_request)?;
        let mut params = CertificateParams::new(asked.hosts)?;
        params.distinguished_name = distinguished(&asked.subject)?;
        match &*asked.profile {
            "" => {
                params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
                params.extended_key_usages = vec![
                    ExtendedKeyUsagePurpose::ServerAuth,
                    ExtendedKeyUsagePurpose::ClientAuth,
                ];
            }
            CA_PROFILE => {
                params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
                params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            }
            other => anyhow::bail!("no profile {other:?}"),
        }
        let now = OffsetDateTime::now_utc();
        params.not_before = now;
        params.not_after = now + self.validity;
        params.use_authority_key_identifier_extension = true;
        let signed = params.signed_by(&key, &self.issuer()?)?;
        eprintln!("signed {} {:?}", asked.subject.common_name, asked.profile);
        Ok(signed.pem())
    }

    fn issuer(&self) -> anyhow::Result<Issuer<'static, KeyPair>> {
        let key = KeyPair::from_pem(&self.key_pem)?;
        Ok(Issuer::from_ca_cert_pem(&self.cert_pem, key)?)
    }

    /// A certificate for its own server at these names, or addresses, and the certificate's key.
    ///
    /// # Errors
    /// Its root is broken, or a name is none.
    pub fn server_certificate(
        &self,
        names: &[String],
    ) -> anyhow::Result<(CertificateDer<'static>, PrivateKeyDer<'static>)> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names)?;
        let now = OffsetDateTime::now_utc();
        params.not_before = now - time::Duration::hours(1);
        params.not_after = now + SERVER_VALIDITY;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer()?)?;
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes())?;
        Ok((certificate.into(), key))
    }
}

/// The key of a request, which is checked to hold the private one. As with cfssl, nothing else of it counts.
fn key_of(csr_pem: &str) -> anyhow::Result<SubjectPublicKeyInfo> {
    let (_, block) = x509_parser::pem::parse_x509_pem(csr_pem.as_bytes())?;
    let (_, request) = X509CertificationRequest::from_der(&block.contents)?;
    request.verify_signature()?;
    let key = request.certification_request_info.subject_pki.raw;
    Ok(SubjectPublicKeyInfo::from_der(key)?)
}

/// A new root of this name, and its key, PEM.
///
/// # Errors
/// The machine gives no randomness.
pub fn new_root(name: &str) -> anyhow::Result<(String, String)> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let now = OffsetDateTime::now_utc();
    params.not_before = now;
    params.not_after = now + ROOT_VALIDITY;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

fn distinguished(subject: &Subject) -> anyhow::Result<DistinguishedName> {
    let mut distinguished = DistinguishedName::new();
    let names = subject.names.iter().flat_map(|name| {
        [
            (DnType::OrganizationName, &name.organization),
            (DnType::OrganizationalUnitName, &name.unit),
        ]
    });
    let names = names.chain([(DnType::CommonName, &subject.common_name)]);
    for (kind, value) in names.filter(|(_, value)| !value.is_empty()) {
        distinguished.push(kind, DnValue::PrintableString(value.as_str().try_into()?));
    }
    Ok(distinguished)
}

/// What a server says, and how long it takes to.
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
    /// Before the answer begins.
    pub delay: Duration,
}

impl From<Value> for Answer {
    fn from(body: Value) -> Self {
        Self {
            status: 200,
            body: body.to_string(),
            delay: Duration::ZERO,
        }
    }
}

/// A server's own part of TLS, and the file of the roots that clients must be of. It is read for each
/// connection.
pub struct Tls {
    /// Its certificate, and the key of it.
    pub certificate: (CertificateDer<'static>, PrivateKeyDer<'static>),
    /// Certificates, PEM.
    pub clients: PathBuf,
}

impl Tls {
    fn acceptor(&self) -> anyhow::Result<TlsAcceptor> {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_file_iter(&self.clients)? {
            roots.add(root?)?;
        }
        ensure!(!roots.is_empty(), "no roots in {}", self.clients.display());
        let provider = Arc::new(ring::default_provider());
        let clients =
            WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build()?;
        let (certificate, key) = &self.certificate;
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![certificate.clone()], key.clone_key())?;
        Ok(Arc::new(config).into())
    }
}

/// Serves answers to the bodies of requests; what goes wrong with a connection is printed.
pub async fn serve(
    listener: TcpListener,
    tls: Tls,
    answer: impl Fn(&[u8]) -> Answer + Clone + Send + Sync + 'static,
) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                eprintln!("signer: {error}");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let (acceptor, answer) = (tls.acceptor(), answer.clone());
        tokio::spawn(async move {
            let served = match acceptor {
                Ok(acceptor) => serve_one(stream, acceptor, answer).await,
                Err(error) => Err(error),
            };
            if let Err(error) = served {
                eprintln!("signer: {error:#}");
            }
        });
    }
}

async fn serve_one(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    answer: impl Fn(&[u8]) -> Answer + Clone,
) -> anyhow::Result<()> {
    let stream = acceptor.accept(stream).await.context("TLS handshake")?;
    let service = service_fn(|request: Request<Incoming>| {
        let answer = answer.clone();
        async move {
            let body = request.into_body().collect().await?.to_bytes();
            let answer = answer(&body);
            tokio::time::sleep(answer.delay).await;
            let response = Response::builder().status(answer.status);
            anyhow::Ok(response.body(Full::new(Bytes::from(answer.body)))?)
        }
    });
    http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await
        .context("HTTP")
}
