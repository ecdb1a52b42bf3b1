use super::{AuthorityError, peer_identity, validity};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use skein_model::{NodeRole, Timestamp};
use std::{
    fmt,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

const ROOT_FILE: &str = "swarm-root-ca.crt";
const CERT_FILE: &str = "swarm-node.crt";
const KEY_FILE: &str = "swarm-node.key";

/// A node's certificate, its key, and the root that vouches for it.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// CN of the certificate.
    pub node_id: String,
    /// OU of the certificate.
    pub role: NodeRole,
    /// O of the certificate.
    pub cluster_id: String,
    /// PEM.
    pub root_pem: String,
    /// PEM.
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

    /// Reads what [`save`](Self::save) wrote; `None` if there is nothing.
    ///
    /// # Errors
    /// A file is there but unusable.
    pub fn load(dir: &Path) -> Result<Option<Self>, IdentityError> {
        let read = |name: &str| {
            let path = dir.join(name);
            fs::read_to_string(&path).map_err(|source| (path, source))
        };
        let error = |(path, source): (std::path::PathBuf, io::Error)| IdentityError::File {
            what: "read",
            path: path.display().to_string(),
            source,
        };
        // Written last: without it there is no membership.
        let cert_pem = match read(CERT_FILE) {
            Err((_, source)) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(error)?,
        };
        let root_pem = read(ROOT_FILE).map_err(error)?;
        let key_pem = read(KEY_FILE).map_err(error)?;
        Self::new(root_pem, cert_pem, key_pem).map(Some)
    }

    /// Writes all of it, each file whole or not at all, only for the owner to read.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        let file = |what, path: &Path| {
            let path = path.display().to_string();
            move |source| IdentityError::File { what, path, source }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(file("create", dir))?;
        for (name, content) in [
            (ROOT_FILE, &self.root_pem),
            (KEY_FILE, &self.key_pem),
            (CERT_FILE, &self.cert_pem),
        ] {
            let path = dir.join(name);
            write_private(&path, content.as_bytes()).map_err(file("write", &path))?;
        }
        Ok(())
    }

    /// The private key, for TLS.
    pub(crate) fn key(&self) -> Result<PrivateKeyDer<'static>, IdentityError> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes())
            .map_err(|e| IdentityError::Invalid(e.to_string()))
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
    let temporary = path.with_extension("tmp");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{create_root, key_and_request, sign};
    use std::{os::unix::fs::PermissionsExt, time::Duration};

    #[test]
    fn what_is_saved_is_loaded_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("certificates");
        assert_eq!(Identity::load(&dir).unwrap(), None);
        let now = Timestamp::from_unix_nanos(0);
        let root = create_root(now).unwrap();
        let pair = key_and_request().unwrap();
        let node = ("c1", "n1", NodeRole::Worker);
        let cert = sign(&root, &pair.csr_pem, node, Duration::from_secs(9999), now).unwrap();
        let identity = Identity::new(root.cert_pem, cert, pair.key_pem).unwrap();
        assert_eq!((&*identity.node_id, &*identity.cluster_id), ("n1", "c1"));
        identity.save(&dir).unwrap();
        assert_eq!(Identity::load(&dir).unwrap(), Some(identity));
        let mode = fs::metadata(dir.join(KEY_FILE)).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        fs::write(dir.join(CERT_FILE), "broken").unwrap();
        assert!(Identity::load(&dir).is_err());
    }
}
