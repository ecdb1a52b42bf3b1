//! cfssl's signing requests, as Swarm sends them, and the answers.

use super::client::ExternalError;
use crate::{
    exchange::word,
    identity::{AuthorityError, Named, host_names, role_ou},
};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use x509_parser::{
    oid_registry::OID_X509_EXT_BASIC_CONSTRAINTS,
    x509::{AttributeTypeAndValue, X509Name},
};

/// The profile under which a CA is asked to sign another CA's certificate.
const CROSS_SIGN_PROFILE: &str = "CA";

/// A request. Its authority decides by the profile how long the certificate is good, and for what.
#[derive(Serialize)]
pub(super) struct SignRequest<'a> {
    hosts: Vec<String>,
    certificate_request: &'a str,
    subject: Subject,
    profile: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    extensions: Vec<Extension>,
}

#[derive(Serialize)]
struct Subject {
    #[serde(rename = "CN")]
    common_name: String,
    names: Vec<Name>,
}

#[derive(Default, PartialEq, Serialize)]
struct Name {
    #[serde(rename = "C", skip_serializing_if = "String::is_empty")]
    country: String,
    #[serde(rename = "ST", skip_serializing_if = "String::is_empty")]
    state: String,
    #[serde(rename = "L", skip_serializing_if = "String::is_empty")]
    locality: String,
    #[serde(rename = "O", skip_serializing_if = "String::is_empty")]
    organization: String,
    #[serde(rename = "OU", skip_serializing_if = "String::is_empty")]
    unit: String,
}

#[derive(Serialize)]
struct Extension {
    /// Dotted.
    id: String,
    critical: bool,
    /// DER, in hex.
    value: String,
}

/// A request for a node's certificate.
pub(super) fn for_node<'a>(
    csr_pem: &'a str,
    (cluster_id, node_id, role): Named<'_>,
) -> SignRequest<'a> {
    SignRequest {
        hosts: host_names(node_id, role),
        certificate_request: csr_pem,
        subject: Subject {
            common_name: node_id.to_owned(),
            names: vec![Name {
                organization: cluster_id.to_owned(),
                unit: role_ou(role).to_owned(),
                ..Name::default()
            }],
        },
        profile: "",
        extensions: Vec::new(),
    }
}

/// A request for the certificate that links another root (PEM) to the authority's own.
///
/// # Errors
/// It is no certificate.
pub(super) fn for_link<'a>(
    csr_pem: &'a str,
    root_pem: &str,
) -> Result<SignRequest<'a>, AuthorityError> {
    let failed = |reason: &dyn std::fmt::Display| AuthorityError::Failed {
        what: "read the new root certificate",
        reason: reason.to_string(),
    };
    let (_, pem) = x509_parser::pem::parse_x509_pem(root_pem.as_bytes()).map_err(|e| failed(&e))?;
    let root = pem.parse_x509().map_err(|error| failed(&error))?;
    // cfssl takes none of the request's own but the names that it is good for.
    let extensions = root.extensions().iter();
    let extensions = extensions.filter(|extension| extension.oid == OID_X509_EXT_BASIC_CONSTRAINTS);
    Ok(SignRequest {
        hosts: Vec::new(),
        certificate_request: csr_pem,
        subject: subject_of(root.subject()),
        profile: CROSS_SIGN_PROFILE,
        extensions: extensions
            .map(|extension| Extension {
                id: extension.oid.to_id_string(),
                critical: extension.critical,
                value: hex(extension.value),
            })
            .collect(),
    })
}

/// A name in cfssl's form: the nth of each kind together.
fn subject_of(name: &X509Name<'_>) -> Subject {
    let parts = [
        texts(name.iter_country()),
        texts(name.iter_state_or_province()),
        texts(name.iter_locality()),
        texts(name.iter_organization()),
        texts(name.iter_organizational_unit()),
    ];
    let most = parts.iter().map(Vec::len).max().unwrap_or_default();
    let nth = |at: usize| {
        let [country, state, locality, organization, unit] = parts
            .each_ref()
            .map(|values| values.get(at).cloned().unwrap_or_default());
        Name {
            country,
            state,
            locality,
            organization,
            unit,
        }
    };
    Subject {
        common_name: texts(name.iter_common_name()).concat(),
        names: (0..most).map(nth).collect(),
    }
}

fn texts<'a>(values: impl Iterator<Item = &'a AttributeTypeAndValue<'a>>) -> Vec<String> {
    values
        .filter_map(|value| value.as_str().ok().map(str::to_owned))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string never fails.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    success: bool,
    #[serde(default)]
    result: Option<Signed>,
    #[serde(default)]
    errors: Option<Vec<Fault>>,
}

#[derive(Deserialize)]
struct Signed {
    certificate: String,
}

#[derive(Deserialize)]
struct Fault {
    #[serde(default)]
    code: i64,
    #[serde(default)]
    message: String,
}

/// The certificate in an answer, PEM, as it came.
pub(super) fn certificate_in(status: StatusCode, body: &[u8]) -> Result<String, ExternalError> {
    let envelope: Result<Envelope, _> = serde_json::from_slice(body);
    // cfssl says no with a status for bad requests, and why in the envelope.
    let refuses = status.is_client_error()
        && !matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
        );
    let envelope = match envelope {
        Ok(envelope) if status == StatusCode::OK || (refuses && envelope.errors.is_some()) => {
            envelope
        }
        Err(error) if status == StatusCode::OK => {
            let reason = format!("unable to parse JSON response: {error}");
            return Err(ExternalError::Away(reason));
        }
        _ => {
            let said = word(&String::from_utf8_lossy(body));
            let status = status.as_u16();
            return Err(ExternalError::Away(format!(
                "unexpected status code in CSR response: {status} - {said}"
            )));
        }
    };
    match envelope.result {
        Some(signed) if envelope.success && status == StatusCode::OK => Ok(signed.certificate),
        _ => {
            let faults = envelope.errors.unwrap_or_default();
            let faults = faults.iter().map(|fault| {
                let said = word(&fault.message);
                format!("{said} (code {})", fault.code)
            });
            let faults: Vec<_> = faults.collect();
            Err(ExternalError::Refused(match faults.is_empty() {
                true => "certificate signing request failed".to_owned(),
                false => format!("it refuses: {}", word(&faults.join("; "))),
            }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{authority::link_request, create_root};
    use serde_json::json;
    use skein_model::{NodeRole, Timestamp};

    #[test]
    fn requests_are_as_swarms() {
        let request = for_node("csr", ("c1", "n1", NodeRole::Manager));
        assert_eq!(
            serde_json::to_value(request).unwrap(),
            json!({
                "hosts": ["swarm-manager", "n1", "swarm-ca"],
                "certificate_request": "csr",
                "subject": {"CN": "n1", "names": [{"O": "c1", "OU": "swarm-manager"}]},
                "profile": "",
            })
        );
        let root = create_root(Timestamp::from_unix_nanos(0)).unwrap();
        let csr = link_request(&root).unwrap();
        assert_eq!(
            serde_json::to_value(for_link(&csr, &root.cert_pem).unwrap()).unwrap(),
            json!({
                "hosts": [],
                "certificate_request": csr,
                "subject": {"CN": "swarm-ca", "names": []},
                "profile": "CA",
                // SEQUENCE { TRUE, 1 }
                "extensions": [{"id": "2.5.29.19", "critical": true, "value": "30060101ff020101"}],
            })
        );
        assert!(for_link(&csr, "nonsense").is_err());
    }

    #[test]
    fn an_answer_is_a_certificate_or_a_reason() {
        let said = |status: u16, body: &str| {
            let status = StatusCode::from_u16(status).unwrap();
            certificate_in(status, body.as_bytes())
        };
        let away = |reason: &str| Err(ExternalError::Away(reason.into()));
        let refused = |reason: &str| Err(ExternalError::Refused(reason.into()));
        let good = r#"{"success":true,"result":{"certificate":"pem"},"errors":[],"messages":[]}"#;
        assert_eq!(said(200, good), Ok("pem".to_owned()));
        let no =
            r#"{"success":false,"result":null,"errors":[{"code":5100,"message":"a\npolicy"}]}"#;
        let why = refused("it refuses: a policy (code 5100)");
        assert_eq!(said(200, no), why);
        assert_eq!(said(400, no), why);
        assert_eq!(
            said(200, r#"{"success":true}"#),
            refused("certificate signing request failed")
        );
        let busy = "unexpected status code in CSR response: 503 - busy";
        assert_eq!(said(503, "busy"), away(busy));
        assert_eq!(
            said(404, "x"),
            away("unexpected status code in CSR response: 404 - x")
        );
        assert!(matches!(said(500, no), Err(ExternalError::Away(_))));
        assert!(matches!(said(400, good), Err(ExternalError::Refused(_))));
        let Err(ExternalError::Away(garbage)) = said(200, "<html>") else {
            panic!("garbage is taken")
        };
        assert!(garbage.starts_with("unable to parse JSON response: "));
    }
}
