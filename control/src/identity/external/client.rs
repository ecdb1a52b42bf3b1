//! The way to external CAs: HTTPS, with this manager's certificate.

use super::{
    check::Wanted,
    protocol::{SignRequest, certificate_in, for_link, for_node},
};
use crate::{
    clock,
    exchange::exchange,
    identity::{AuthorityError, Named, authority, normal_pem},
    rpc::Credentials,
};
use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::Full;
use rustls::pki_types::ServerName;
use skein_model::RootCa;
use std::{sync::Arc, time::Duration};
use tokio::{net::TcpStream, sync::Semaphore, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// How long one CA may take: Swarm's time.
const CA_PATIENCE: Duration = Duration::from_secs(5);
/// How long all may take together, the wait for a turn included: less than nodes wait for an answer
/// (`CALL_TIMEOUT` in `node/certificate_request.rs`), so that they hear why there is none. Where many are configured
/// each has its share.
const PATIENCE: Duration = Duration::from_secs(12);
/// The least share: a handshake on a sane network. Who is left when the time is over is not asked.
const SHARE_MIN: Duration = Duration::from_secs(1);
/// The longest answer: a certificate has a few KiB. Swarm reads as much.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Nodes whose certificates are asked for at once; more wait for their turn. A CA that hangs keeps them no
/// longer than [`PATIENCE`].
const CALLS_MAX: usize = 32;

/// Why no certificate came of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExternalError {
    /// A CA is not there, or does not do its work: later it may.
    #[error("{0}")]
    Away(String),
    /// It will not do what was asked, or does something else.
    #[error("{0}")]
    Refused(String),
}

impl From<AuthorityError> for ExternalError {
    fn from(error: AuthorityError) -> Self {
        Self::Refused(error.to_string())
    }
}

/// Asks external CAs. Clones are handles of the same.
#[derive(Clone)]
pub struct ExternalCas(Arc<Inner>);

struct Inner {
    credentials: Credentials,
    turns: Semaphore,
    patience: Duration,
}

/// What is wanted of one.
enum Asked<'a> {
    /// That it can be connected to, and is whom the roots vouch for.
    Connection,
    /// A certificate for this request.
    Certificate {
        body: Bytes,
        check: &'a (dyn Fn(&str) -> Result<String, String> + Send + Sync),
    },
}

impl ExternalCas {
    /// They are shown this manager's certificate, whichever it is at the time.
    pub fn new(credentials: Credentials) -> Self {
        Self::with_patience(credentials, PATIENCE)
    }

    fn with_patience(credentials: Credentials, patience: Duration) -> Self {
        Self(Arc::new(Inner {
            credentials,
            turns: Semaphore::new(CALLS_MAX),
            patience,
        }))
    }

    /// Who asks, as its certificate says.
    pub(in crate::identity) fn asker(&self) -> crate::identity::Identity {
        self.0.credentials.identity()
    }

    /// Has a node's certificate signed by the first of `urls` that does, and checks it. The CAs' servers,
    /// and what they sign, are to be of the root `root_pem`; their servers may also be of `current_pem`.
    ///
    /// # Errors
    /// None signs what it should.
    pub async fn issue(
        &self,
        urls: &[&str],
        (root_pem, current_pem): (&str, &str),
        csr_pem: &str,
        named: Named<'_>,
    ) -> Result<String, ExternalError> {
        let wanted = Wanted {
            named,
            public_key: authority::request_key(csr_pem)?,
            root_pem,
        };
        let asked = Asked::Certificate {
            body: to_body(&for_node(csr_pem, named))?,
            check: &|answered| wanted.check(answered, clock::now()),
        };
        self.ask(urls, &[root_pem, current_pem], &asked).await
    }

    /// Has the certificate made that links `next`, whose key is here, to the root of the CAs at `urls`. What
    /// comes is not checked.
    ///
    /// # Errors
    /// None signs.
    pub(in crate::identity) async fn cross_sign(
        &self,
        urls: &[&str],
        root_pem: &str,
        next: &RootCa,
    ) -> Result<String, ExternalError> {
        let csr_pem = authority::link_request(next)?;
        let asked = Asked::Certificate {
            body: to_body(&for_link(&csr_pem, &next.cert_pem)?)?,
            check: &|answered| normal_pem(answered).map_err(|error| error.to_string()),
        };
        self.ask(urls, &[root_pem], &asked).await
    }

    /// Whether one of `urls` can be connected to, and is of the root `root_pem`.
    ///
    /// # Errors
    /// None is; with why.
    pub(in crate::identity) async fn reach(
        &self,
        urls: &[&str],
        root_pem: &str,
    ) -> Result<(), ExternalError> {
        let reached = self.ask(urls, &[root_pem], &Asked::Connection).await;
        reached.map(drop)
    }

    /// Asks one after the other, until one gives what is asked for.
    async fn ask(
        &self,
        urls: &[&str],
        trusted: &[&str],
        asked: &Asked<'_>,
    ) -> Result<String, ExternalError> {
        let connector = self.0.credentials.https(trusted);
        let connector = connector.map_err(|error| ExternalError::Refused(error.to_string()))?;
        let count = u32::try_from(urls.len()).unwrap_or(u32::MAX).max(1);
        let share = (self.0.patience / count).clamp(SHARE_MIN.min(self.0.patience), CA_PATIENCE);
        let mut failures = Failures::default();
        let asking = async {
            // It is never closed.
            let _turn = self.0.turns.acquire().await;
            for url in urls {
                let answered = timeout(share, ask_one(url, &connector, asked)).await;
                let late = |_| Err(ExternalError::Away(format!("no answer within {share:?}")));
                match answered.unwrap_or_else(late) {
                    Ok(answer) => return Some(answer),
                    Err(error) => failures.note(url, &error),
                }
            }
            None
        };
        match timeout(self.0.patience, asking).await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(failures.into()),
            Err(_) => {
                let patience = self.0.patience;
                let reason = format!("they take longer than {patience:?}");
                failures.note("external CAs", &ExternalError::Away(reason));
                Err(failures.into())
            }
        }
    }
}

/// What came of those that were asked.
#[derive(Default)]
struct Failures {
    reasons: Vec<String>,
    /// Whether it may be another time.
    away: bool,
}

impl Failures {
    fn note(&mut self, url: &str, error: &ExternalError) {
        tracing::warn!(url, %error, "an external CA gives no certificate");
        self.away |= matches!(error, ExternalError::Away(_));
        self.reasons.push(format!("{url}: {error}"));
    }
}

impl From<Failures> for ExternalError {
    fn from(failures: Failures) -> Self {
        let reasons = failures.reasons.join("; ");
        match failures.away {
            true => Self::Away(reasons),
            false => Self::Refused(reasons),
        }
    }
}

fn to_body(request: &SignRequest<'_>) -> Result<Bytes, ExternalError> {
    let body = serde_json::to_vec(request);
    body.map(Bytes::from)
        .map_err(|error| ExternalError::Refused(error.to_string()))
}

async fn ask_one(
    url: &str,
    connector: &TlsConnector,
    asked: &Asked<'_>,
) -> Result<String, ExternalError> {
    let target = Target::parse(url).map_err(ExternalError::Refused)?;
    let stream = target.connect(connector).await;
    let stream = stream.map_err(ExternalError::Away)?;
    let Asked::Certificate { body, check } = asked else {
        return Ok(String::new());
    };
    let request = Request::post(&target.path)
        .header(header::HOST, &target.authority)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body.clone()))
        .map_err(|error| ExternalError::Refused(error.to_string()))?;
    let answered = exchange(stream, request, ANSWER_BYTES_MAX).await;
    let (status, answer) = answered.map_err(|error| {
        ExternalError::Away(format!(
            "unable to perform certificate signing request: {error}"
        ))
    })?;
    let certificate = certificate_in(status, &answer)?;
    check(&certificate).map_err(ExternalError::Refused)
}

/// Where a URL leads.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    /// As in the URL.
    authority: String,
    host: String,
    port: u16,
    /// With the query.
    path: String,
}

impl Target {
    fn parse(url: &str) -> Result<Self, String> {
        let uri: Uri = url
            .parse()
            .map_err(|error| format!("it is no URL: {error}"))?;
        if uri.scheme() != Some(&http::uri::Scheme::HTTPS) {
            return Err("invalid HTTP scheme: external CAs are asked by https alone".to_owned());
        }
        let authority = uri.authority().ok_or("it names no host")?;
        let host = authority.host();
        let address = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self {
            authority: authority.to_string(),
            host: address.unwrap_or(host).to_owned(),
            port: authority.port_u16().unwrap_or(443),
            path: path.to_owned(),
        })
    }

    async fn connect(&self, connector: &TlsConnector) -> Result<TlsStream<TcpStream>, String> {
        let failed = |error: &dyn std::fmt::Display| {
            format!("could not connect to {}: {error}", self.authority)
        };
        let name = ServerName::try_from(self.host.clone()).map_err(|error| failed(&error))?;
        let stream = TcpStream::connect((&*self.host, self.port)).await;
        let stream = stream.map_err(|error| failed(&error))?;
        let stream = connector.connect(name, stream).await;
        stream.map_err(|error| failed(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        identity::{
            KeyAndRequest, create_root, cross_sign, external::leads_to, key_and_request, sign,
        },
        testing::{authority, authority_server as server, credentials, signs},
    };
    use skein_model::NodeRole;
    use skein_signer::Answer;

    const DAY: Duration = Duration::from_secs(86_400);
    /// What a server does.
    type Behaviour = Arc<dyn Fn(&[u8]) -> Answer + Send + Sync>;

    const NAMED: Named<'_> = ("c", "n1", NodeRole::Worker);

    fn root() -> RootCa {
        create_root(clock::now()).unwrap()
    }

    async fn issue(
        cas: &ExternalCas,
        urls: &[&str],
        root: &RootCa,
    ) -> Result<String, ExternalError> {
        let KeyAndRequest { csr_pem, .. } = key_and_request().unwrap();
        let roots = (&*root.cert_pem, &*root.cert_pem);
        cas.issue(urls, roots, &csr_pem, NAMED).await
    }

    #[tokio::test]
    async fn the_first_that_signs_does_and_only_for_managers_of_the_root() {
        let (dir, root) = (tempfile::tempdir().unwrap(), root());
        let server = server(dir.path(), &root, &root, signs(&root)).await;
        let cas = ExternalCas::new(credentials(&root));
        let urls = ["https://127.0.0.1:9/", "http://127.0.0.1/", &server.url];
        let signed = issue(&cas, &urls, &root).await.unwrap();
        assert_eq!(pem::parse_many(&signed).unwrap().len(), 1);
        let trusted = leads_to(&signed, &root.cert_pem, NodeRole::Worker, clock::now());
        assert_eq!(trusted, Ok(()));
        cas.reach(&urls, &root.cert_pem).await.unwrap();

        let stranger = ExternalCas::new(credentials(&self::root()));
        let refused = issue(&stranger, &[&server.url], &root).await;
        assert!(
            matches!(refused, Err(ExternalError::Away(_))),
            "{refused:?}"
        );
        let other = self::root();
        let unknown = cas.reach(&[&server.url], &other.cert_pem).await;
        assert!(
            matches!(unknown, Err(ExternalError::Away(_))),
            "{unknown:?}"
        );
        let broken = cas
            .issue(&[&server.url], (&root.cert_pem, &root.cert_pem), "x", NAMED)
            .await;
        assert!(
            matches!(broken, Err(ExternalError::Refused(_))),
            "{broken:?}"
        );
    }

    #[tokio::test]
    async fn it_links_a_new_root_to_its_own() {
        let (dir, old, new) = (tempfile::tempdir().unwrap(), root(), root());
        let server = server(dir.path(), &old, &old, signs(&old)).await;
        let cas = ExternalCas::new(credentials(&old));
        let link = cas.cross_sign(&[&server.url], &old.cert_pem, &new).await;
        let KeyAndRequest { csr_pem, .. } = key_and_request().unwrap();
        let signed = sign(&new, &csr_pem, NAMED, DAY, clock::now()).unwrap();
        let trusted = |chain: &str| leads_to(chain, &old.cert_pem, NodeRole::Worker, clock::now());
        assert_eq!(trusted(&(signed.clone() + &link.unwrap())), Ok(()));
        assert!(trusted(&signed).is_err());
        // As the managers' own do.
        let own = cross_sign(&old, &new, clock::now()).unwrap();
        assert_eq!(trusted(&(signed + &own)), Ok(()));
    }

    #[tokio::test]
    async fn what_a_ca_does_wrong_is_said() {
        let (dir, root) = (tempfile::tempdir().unwrap(), root());
        let cas = ExternalCas::with_patience(credentials(&root), Duration::from_secs(2));
        let other = self::root();
        let said = async |answer: Behaviour| {
            let server = server(dir.path(), &root, &root, move |body: &[u8]| answer(body)).await;
            let error = issue(&cas, &[&server.url], &root).await.unwrap_err();
            (matches!(error, ExternalError::Away(_)), error.to_string())
        };
        let plain = |status: u16, body: &str| -> Behaviour {
            let body = body.to_owned();
            Arc::new(move |_| Answer {
                status,
                body: body.clone(),
                delay: Duration::ZERO,
            })
        };
        /// What a CA signs that changes the request before.
        fn changed(
            root: &RootCa,
            change: impl Fn(&mut serde_json::Value) + Send + Sync + 'static,
        ) -> Behaviour {
            let authority = authority(root);
            Arc::new(move |body| {
                let mut asked = serde_json::from_slice(body).unwrap();
                change(&mut asked);
                authority.answer(asked.to_string().as_bytes()).into()
            })
        }
        let slow: Behaviour = Arc::new(|_: &[u8]| Answer {
            status: 200,
            body: String::new(),
            delay: Duration::from_secs(60),
        });
        let other_request = key_and_request().unwrap().csr_pem;
        for (answer, away, words) in [
            (
                changed(&other, |_| ()),
                false,
                "by the root that it is to be of",
            ),
            (
                changed(&root, |asked| asked["subject"]["CN"] = "n2".into()),
                false,
                "another name than it was asked to",
            ),
            (
                changed(&root, |asked| {
                    asked["subject"]["names"][0]["OU"] = "swarm-manager".into();
                }),
                false,
                "another name than it was asked to",
            ),
            (
                changed(&root, |asked| {
                    asked["subject"]["names"][0]["O"] = "other".into();
                }),
                false,
                "another name than it was asked to",
            ),
            (
                changed(&root, move |asked| {
                    asked["certificate_request"] = other_request.clone().into();
                }),
                false,
                "another key than it was asked to",
            ),
            (
                changed(&root, |asked| asked["hosts"] = ["x"].into_iter().collect()),
                false,
                "by the root that it is to be of",
            ),
            (
                changed(&root, |asked| asked["profile"] = "none".into()),
                false,
                "it refuses: no profile",
            ),
            (
                plain(200, r#"{"success":true,"result":{"certificate":"x"}}"#),
                false,
                "without a certificate",
            ),
            (plain(200, "<html>"), true, "unable to parse JSON response"),
            (plain(500, "oh"), true, "response: 500 - oh"),
            (
                plain(200, &"x".repeat(ANSWER_BYTES_MAX + 1)),
                true,
                "length limit exceeded",
            ),
            (slow, true, "no answer within 2s"),
        ] {
            let (is_away, error) = said(answer).await;
            assert!(error.contains(words), "{words}: {error}");
            assert_eq!(is_away, away, "{error}");
            assert!(error.starts_with("https://127.0.0.1:"), "{error}");
        }
    }

    #[test]
    fn urls_are_of_https_servers() {
        let parsed =
            |url: &str| Target::parse(url).map(|target| (target.host, target.port, target.path));
        let target = |host: &str, port, path: &str| Ok((host.to_owned(), port, path.to_owned()));
        assert_eq!(parsed("https://a"), target("a", 443, "/"));
        assert_eq!(parsed("https://a:8/b?c"), target("a", 8, "/b?c"));
        assert_eq!(parsed("https://[::1]:8/b"), target("::1", 8, "/b"));
        for wrong in ["http://a/", "a", "", "/x", "https://", "ftp://a"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
