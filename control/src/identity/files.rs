//! A node's certificate and key on disk.

use super::{AuthorityError, issuer_of, keyfile::KeyFileError, peer_identity, validity};
use atomicwrites::{AtomicFile, OverwriteBehavior::AllowOverwrite};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use skein_model::{NodeRole, Timestamp, TlsInfo};
use std::{
    fmt,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

pub(super) const ROOT_FILE: &str = "swarm-root-ca.crt";
pub(super) const CERT_FILE: &str = "swarm-node.crt";
pub(super) const KEY_FILE: &str = "swarm-node.key";

/// A node's certificate, its key, and the root that vouches for it.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// CN of the certificate.
    pub node_id: String,
    /// OU of the certificate.
    pub role: NodeRole,
    /// O of the certificate.
    pub cluster_id: String,
    /// The root that the node trusts, PEM.
    pub root_pem: String,
    /// The certificate, PEM; after it the intermediate that links it to an older root, if any.
    pub cert_pem: String,
    /// PEM.
    key_pem: String,
}

/// The node's certificate or key is unusable.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file could not be read or written.
    #[error("could not {what} {path}: {source}")]
    File {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: String,
        /// What came of it.
        source: io::Error,
    },
    /// What was read is not what it should be.
    #[error("the node's certificate is unusable: {0}")]
    Invalid(String),
    /// See [`AuthorityError`].
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// See [`KeyFileError`].
    #[error(transparent)]
    Key(#[from] KeyFileError),
}

impl Identity {
    /// Puts together what belongs together.
    ///
    /// # Errors
    /// The certificate is not a node's.
    pub fn new(root_pem: String, cert_pem: String, key_pem: String) -> Result<Self, IdentityError> {
        let invalid = |reason: &dyn fmt::Display| IdentityError::Invalid(reason.to_string());
        let der = CertificateDer::from_pem_slice(cert_pem.as_bytes()).map_err(|e| invalid(&e))?;
        let peer = peer_identity(&der).ok_or_else(|| invalid(&"it names no node or no role"))?;
        let (_, certificate) =
            x509_parser::parse_x509_certificate(&der).map_err(|e| invalid(&e))?;
        let cluster_id = certificate
            .subject()
            .iter_organization()
            .next()
            .and_then(|name| name.as_str().ok())
            .ok_or_else(|| invalid(&"it names no cluster"))?
            .to_owned();
        Ok(Self {
            node_id: peer.node_id,
            role: peer.role,
            cluster_id,
            root_pem,
            cert_pem,
            key_pem,
        })
    }

    /// The private key, for TLS.
    pub(crate) fn key(&self) -> Result<PrivateKeyDer<'static>, IdentityError> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes())
            .map_err(|e| IdentityError::Invalid(e.to_string()))
    }

    /// The private key, PKCS #8.
    pub(super) fn key_der(&self) -> Result<Vec<u8>, IdentityError> {
        Ok(self.key()?.secret_der().to_vec())
    }

    /// Whether the key is the certificate's.
    pub(super) fn is_whole(&self) -> bool {
        let certificate = CertificateDer::from_pem_slice(self.cert_pem.as_bytes());
        let (Ok(certificate), Ok(pair)) = (certificate, rcgen::KeyPair::from_pem(&self.key_pem))
        else {
            return false;
        };
        let certificate = x509_parser::parse_x509_certificate(&certificate);
        certificate.is_ok_and(|(_, certificate)| {
            let public = &certificate.public_key().subject_public_key.data;
            public.as_ref() == pair.public_key_raw()
        })
    }

    /// The same certificate, of a node that trusts another root.
    pub fn with_root(&self, root_pem: String) -> Self {
        Self {
            root_pem,
            ..self.clone()
        }
    }

    /// What the node shows of its certificate.
    ///
    /// # Errors
    /// The certificate cannot be read.
    pub fn tls_info(&self) -> Result<TlsInfo, AuthorityError> {
        issuer_of(&self.cert_pem, &self.root_pem)
    }

    /// From when to when the certificate is good.
    ///
    /// # Errors
    /// The certificate cannot be read.
    pub fn validity(&self) -> Result<(Timestamp, Timestamp), AuthorityError> {
        validity(&self.cert_pem)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("node_id", &self.node_id)
            .field("role", &self.role)
            .field("cluster_id", &self.cluster_id)
            .finish_non_exhaustive()
    }
}

/// Writes a file (0600) through a temporary one beside it, so that a crash leaves the old or the new.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut private = OpenOptions::new();
    private.write(true).create(true).truncate(true).mode(0o600);
    AtomicFile::new(path, AllowOverwrite)
        .write_with_options(|file| file.write_all(content), private)
        .map_err(io::Error::from)
}

/// A key (PKCS #8) as PEM.
pub(super) fn key_pem(der: &[u8]) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new("PRIVATE KEY", der), config)
}

pub(super) fn read(path: &Path) -> Result<String, IdentityError> {
    fs::read_to_string(path).map_err(failed("read", path))
}

pub(super) fn read_if_there(path: &Path) -> Result<Option<String>, IdentityError> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some).map_err(failed("read", path)),
    }
}

pub(super) fn write(path: &Path, content: &str) -> Result<(), IdentityError> {
    write_private(path, content.as_bytes()).map_err(failed("write", path))
}

pub(super) fn create_dir(dir: &Path) -> Result<(), IdentityError> {
    let created = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    created.map_err(failed("create", dir))
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    let path = path.display().to_string();
    move |source| IdentityError::File { what, path, source }
}
