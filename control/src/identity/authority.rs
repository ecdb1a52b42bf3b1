//! Making and reading certificates. Pure but for the keys it draws.

use super::role_ou;
use base64::{Engine, prelude::BASE64_STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData as _, SubjectPublicKeyInfo,
};
use skein_model::{NodeRole, RootCa, Timestamp, TlsInfo};
use std::time::Duration;
use time::OffsetDateTime;
use x509_parser::{asn1_rs::Tag, certificate::X509Certificate, x509::X509Name};

/// How long a root certificate is good: 20 years of 365 days.
const ROOT_VALIDITY: time::Duration = time::Duration::days(7300);
/// Certificates are good from this long before they were made, as clocks of machines differ.
const BACKDATE: time::Duration = time::Duration::hours(1);
/// The shortest validity of a node's certificate.
const VALIDITY_MIN: time::Duration = time::Duration::hours(1);
const ROOT_NAME: &str = "swarm-ca";

/// A certificate could not be made or read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AuthorityError {
    #[allow(missing_docs, reason = "the message says it")]
    #[error("could not {what}: {reason}")]
    Failed { what: &'static str, reason: String },
    /// In the reference's words.
    #[error("certificate key mismatch")]
    KeyMismatch,
}

fn failed<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> AuthorityError {
    move |reason| AuthorityError::Failed {
        what,
        reason: reason.to_string(),
    }
}

/// A new self-signed root (ECDSA P-256).
///
/// # Errors
/// The machine gives no randomness.
pub fn create_root(now: Timestamp) -> Result<RootCa, AuthorityError> {
    let failed = failed("create the root certificate");
    let key = KeyPair::generate().map_err(&failed)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, printable(ROOT_NAME));
    let now = moment(now);
    params.not_before = now - BACKDATE;
    params.not_after = now + ROOT_VALIDITY;
    // Room for the intermediate that links the next root to this one.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).map_err(&failed)?;
    Ok(RootCa {
        cert_pem: certificate.pem(),
        key_pem: key.serialize_pem(),
    })
}

/// A node's new key and its request for a certificate, PEM.
pub struct KeyAndRequest {
    /// Stays on the node.
    pub key_pem: String,
    /// Only its public key is looked at.
    pub csr_pem: String,
}

/// A new key (ECDSA P-256), and a request for a certificate of it.
///
/// # Errors
/// The machine gives no randomness.
pub fn key_and_request() -> Result<KeyAndRequest, AuthorityError> {
    let failed = failed("create the node's key");
    let key = KeyPair::generate().map_err(&failed)?;
    let request = CertificateParams::default()
        .serialize_request(&key)
        .map_err(&failed)?;
    Ok(KeyAndRequest {
        key_pem: key.serialize_pem(),
        csr_pem: request.pem().map_err(&failed)?,
    })
}

/// Whom a node's certificate names: the cluster's ID (O), the node's (CN), its role (OU).
pub type Named<'a> = (&'a str, &'a str, NodeRole);

/// The names that a node's certificate is good for as a server's.
pub(super) fn host_names(node_id: &str, role: NodeRole) -> Vec<String> {
    let mut names = vec![role_ou(role).to_owned(), node_id.to_owned()];
    if role == NodeRole::Manager {
        names.push(ROOT_NAME.to_owned());
    }
    names
}

/// Signs a node's certificate. Nothing of the request counts but its public key. `validity` is the
/// cluster's `NodeCertExpiry`.
///
/// # Errors
/// The request or the root is broken.
pub fn sign(
    root: &RootCa,
    csr_pem: &str,
    (cluster_id, node_id, role): Named<'_>,
    validity: Duration,
    now: Timestamp,
) -> Result<String, AuthorityError> {
    let request = read_request(csr_pem)?;
    let failed = failed("sign the certificate");
    let root_key = KeyPair::from_pem(&root.key_pem).map_err(&failed)?;
    let issuer = Issuer::from_ca_cert_pem(&root.cert_pem, root_key).map_err(&failed)?;
    let mut params = CertificateParams::new(host_names(node_id, role)).map_err(&failed)?;
    params.distinguished_name = DistinguishedName::new();
    for (kind, value) in [
        (DnType::OrganizationName, cluster_id),
        (DnType::OrganizationalUnitName, role_ou(role)),
        (DnType::CommonName, node_id),
    ] {
        params.distinguished_name.push(kind, printable(value));
    }
    let now = moment(now);
    params.not_before = now - BACKDATE;
    let validity = time::Duration::try_from(validity).unwrap_or(ROOT_VALIDITY);
    params.not_after = now + validity.clamp(VALIDITY_MIN, ROOT_VALIDITY);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    let certificate = params
        .signed_by(&request.public_key, &issuer)
        .map_err(&failed)?;
    Ok(certificate.pem())
}

fn read_request(csr_pem: &str) -> Result<CertificateSigningRequestParams, AuthorityError> {
    CertificateSigningRequestParams::from_pem(csr_pem)
        .map_err(failed("read the certificate request"))
}

/// The bits of the public key of a request, which is checked to hold the private one.
///
/// # Errors
/// The request is broken.
pub(super) fn request_key(csr_pem: &str) -> Result<Vec<u8>, AuthorityError> {
    Ok(read_request(csr_pem)?.public_key.der_bytes().to_vec())
}

/// From when to when a certificate is good.
///
/// # Errors
/// It is not a certificate.
pub fn validity(cert_pem: &str) -> Result<(Timestamp, Timestamp), AuthorityError> {
    let failed = "read the certificate";
    let (_, pem) =
        x509_parser::pem::parse_x509_pem(cert_pem.as_bytes()).map_err(self::failed::<_>(failed))?;
    let certificate = pem.parse_x509().map_err(self::failed::<_>(failed))?;
    let at = |time: x509_parser::time::ASN1Time| {
        Timestamp::from_unix_nanos(i128::from(time.timestamp()) * 1_000_000_000)
    };
    let validity = certificate.validity();
    Ok((at(validity.not_before), at(validity.not_after)))
}

/// What nodes and clients show of the root.
///
/// # Errors
/// It is not a certificate.
pub fn tls_info(root_pem: &str) -> Result<TlsInfo, AuthorityError> {
    shown(root_pem, root_pem.as_bytes())
}

/// What a node shows: the root it trusts, and who issued its certificate. That is the intermediate
/// which follows the certificate, else the root.
///
/// # Errors
/// One of them is not a certificate.
pub fn issuer_of(chain_pem: &str, root_pem: &str) -> Result<TlsInfo, AuthorityError> {
    let parsed = pem::parse_many(chain_pem).map_err(failed("read the certificate"))?;
    match parsed.get(1) {
        Some(link) => shown(root_pem, pem::encode(link).as_bytes()),
        None => tls_info(root_pem),
    }
}

fn shown(root_pem: &str, issuer_pem: &[u8]) -> Result<TlsInfo, AuthorityError> {
    let failed = "read the root certificate";
    let (_, pem) =
        x509_parser::pem::parse_x509_pem(issuer_pem).map_err(self::failed::<_>(failed))?;
    let certificate = pem.parse_x509().map_err(self::failed::<_>(failed))?;
    Ok(TlsInfo {
        trust_root: root_pem.to_owned(),
        cert_issuer_subject: BASE64_STANDARD.encode(certificate.subject().as_raw()),
        cert_issuer_public_key: BASE64_STANDARD.encode(certificate.public_key().raw),
    })
}

const LINK: &str = "link the new root certificate to the old one";

/// The intermediate by which those who trust `old` come to trust what `next` signs: the name and the
/// key of `next`, signed by `old`.
///
/// # Errors
/// One of them is broken, or the name is of a kind that cannot be copied.
pub fn cross_sign(old: &RootCa, next: &RootCa, now: Timestamp) -> Result<String, AuthorityError> {
    let (_, pem) =
        x509_parser::pem::parse_x509_pem(next.cert_pem.as_bytes()).map_err(failed(LINK))?;
    let certificate = pem.parse_x509().map_err(failed(LINK))?;
    let mut params = link_params(&certificate)?;
    let now = moment(now);
    params.not_before = now - BACKDATE;
    params.not_after = now + ROOT_VALIDITY;
    let key = SubjectPublicKeyInfo::from_der(certificate.public_key().raw).map_err(failed(LINK))?;
    let old_key = KeyPair::from_pem(&old.key_pem).map_err(failed(LINK))?;
    let issuer = Issuer::from_ca_cert_pem(&old.cert_pem, old_key).map_err(failed(LINK))?;
    let linked = params.signed_by(&key, &issuer).map_err(failed(LINK))?;
    Ok(linked.pem())
}

/// What a link to `certificate` says of it.
fn link_params(certificate: &X509Certificate<'_>) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = copied_name(certificate.subject()).map_err(failed(LINK))?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// What another authority is asked for that is to link `next` to a root of which only it has the key: a
/// request (PEM) with the name and the key of `next`.
///
/// # Errors
/// `next` is broken, or the name is of a kind that cannot be copied.
pub(super) fn link_request(next: &RootCa) -> Result<String, AuthorityError> {
    let (_, pem) =
        x509_parser::pem::parse_x509_pem(next.cert_pem.as_bytes()).map_err(failed(LINK))?;
    let params = link_params(&pem.parse_x509().map_err(failed(LINK))?)?;
    let key = KeyPair::from_pem(&next.key_pem).map_err(failed(LINK))?;
    let request = params.serialize_request(&key).map_err(failed(LINK))?;
    request.pem().map_err(failed(LINK))
}

/// A part of a name in the form that Swarm's certificates have: clients compare the bytes.
fn printable(text: &str) -> DnValue {
    match text.try_into() {
        Ok(text) => DnValue::PrintableString(text),
        Err(_) => DnValue::Utf8String(text.to_owned()),
    }
}

fn copied_name(name: &X509Name<'_>) -> Result<DistinguishedName, String> {
    let mut copy = DistinguishedName::new();
    for attribute in name.iter_attributes() {
        let oid: Vec<u64> = attribute.attr_type().iter().into_iter().flatten().collect();
        let value = attribute.as_str().map_err(|error| error.to_string())?;
        let value = match attribute.attr_value().tag() {
            Tag::Utf8String => DnValue::Utf8String(value.to_owned()),
            Tag::PrintableString => {
                DnValue::PrintableString(value.try_into().map_err(|_| "a broken name")?)
            }
            Tag::Ia5String => DnValue::Ia5String(value.try_into().map_err(|_| "a broken name")?),
            tag => return Err(format!("its name has a {tag}")),
        };
        copy.push(DnType::from_oid(&oid), value);
    }
    Ok(copy)
}

const IMPORT: &str = "use the signing certificate and key";

/// A root that the user has given: the certificate, and its key in whatever form OpenSSL writes.
///
/// # Errors
/// One of them is unusable, or they do not belong together.
pub fn import_root(cert_pem: &str, key_pem: &str) -> Result<RootCa, AuthorityError> {
    let key_pem = to_pkcs8(key_pem).ok_or_else(|| failed_with("failed to parse the key"))?;
    let key = KeyPair::from_pem(&key_pem).map_err(failed(IMPORT))?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(cert_pem.as_bytes()).map_err(failed(IMPORT))?;
    let certificate = pem.parse_x509().map_err(failed(IMPORT))?;
    if certificate.public_key().subject_public_key.as_ref() != key.public_key_raw() {
        return Err(AuthorityError::KeyMismatch);
    }
    if !certificate.is_ca() {
        return Err(failed_with("the certificate is not a CA's"));
    }
    Ok(RootCa {
        cert_pem: normal_pem(cert_pem).map_err(failed(IMPORT))?,
        key_pem,
    })
}

fn failed_with(reason: &str) -> AuthorityError {
    failed(IMPORT)(reason)
}

/// Whether a certificate may sign others.
///
/// # Errors
/// It is not a certificate.
pub(super) fn is_ca(cert_pem: &str) -> Result<bool, AuthorityError> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(cert_pem.as_bytes()).map_err(failed(IMPORT))?;
    Ok(pem.parse_x509().map_err(failed(IMPORT))?.is_ca())
}

/// Certificates in the one form that digests are taken of.
///
/// # Errors
/// It is not PEM.
pub fn normal_pem(text: &str) -> Result<String, AuthorityError> {
    let blocks = pem::parse_many(text).map_err(failed("read the certificate"))?;
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    Ok(pem::encode_many_config(&blocks, config))
}

/// How many certificates a PEM text has.
pub fn certificate_count(text: &str) -> usize {
    pem::parse_many(text).map_or(0, |blocks| blocks.len())
}

/// OpenSSL writes keys of elliptic curves as SEC 1, which is wrapped here; PKCS #8 stays as it is.
fn to_pkcs8(key_pem: &str) -> Option<String> {
    const EC_KEY: [u8; 7] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    const P256: [u8; 8] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    const P384: [u8; 5] = [0x2b, 0x81, 0x04, 0x00, 0x22];
    let blocks = pem::parse_many(key_pem).ok()?;
    if let Some(block) = blocks.iter().find(|block| block.tag() == "PRIVATE KEY") {
        return Some(pem::encode(block));
    }
    let block = blocks.iter().find(|b| b.tag() == "EC PRIVATE KEY")?;
    let sec1 = block.contents();
    let names = |oid: &[u8]| sec1.windows(oid.len()).any(|part| part == oid);
    let curve = match (names(&P256), names(&P384)) {
        (true, _) => &P256[..],
        (_, true) => &P384[..],
        _ => return None,
    };
    let algorithm = der(0x30, &[der(0x06, &EC_KEY), der(0x06, curve)].concat());
    let parts = [der(0x02, &[0]), algorithm, der(0x04, sec1)];
    let wrapped = der(0x30, &parts.concat());
    Some(pem::encode(&pem::Pem::new("PRIVATE KEY", wrapped)))
}

/// A DER element of up to 65535 bytes.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let [.., high, low] = content.len().to_be_bytes();
    let head = match content.len() {
        0..=0x7f => vec![tag, low],
        0x80..=0xff => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    [head, content.to_vec()].concat()
}

fn moment(at: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(at.unix_nanos()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::peer_identity;
    use rustls_pki_types::{CertificateDer, pem::PemObject};

    #[test]
    fn a_certificate_names_the_node_and_nothing_of_the_request() {
        let now = Timestamp::from_unix_nanos(1_800_000_000_000_000_000);
        let root = create_root(now).unwrap();
        let request = key_and_request().unwrap();
        let day = Duration::from_secs(86_400);
        for role in [NodeRole::Manager, NodeRole::Worker] {
            let pem = sign(&root, &request.csr_pem, ("c1", "n1", role), day, now).unwrap();
            let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
            let peer = peer_identity(&der).unwrap();
            assert_eq!((peer.node_id.as_str(), peer.role), ("n1", role));
            let (from, until) = validity(&pem).unwrap();
            assert_eq!(now.since(from), Duration::from_secs(3600));
            assert_eq!(until.since(now), day);
        }
        let root_der = CertificateDer::from_pem_slice(root.cert_pem.as_bytes()).unwrap();
        assert_eq!(peer_identity(&root_der), None);
        let shown = tls_info(&root.cert_pem).unwrap();
        assert!(!shown.cert_issuer_subject.is_empty() && !shown.cert_issuer_public_key.is_empty());
    }

    #[test]
    fn a_broken_request_is_an_error() {
        let now = Timestamp::from_unix_nanos(0);
        let root = create_root(now).unwrap();
        let node = ("c1", "n1", NodeRole::Worker);
        let error = sign(&root, "nonsense", node, Duration::ZERO, now).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("could not read the certificate request")
        );
    }
}
