//! How answers go back to the clients of published ports, as users choose it by a label: of a service, or of the
//! cluster's spec for all services that have none.

use skein_proto::network::ReturnMode;
use std::collections::BTreeMap;

/// The label. Its values are `symmetric`, `dsr` and `snat`.
pub const RETURN_MODE_LABEL: &str = "skein.ingress.mode";

/// The mode that labels ask for; [`ReturnMode::Unspecified`] where they say nothing of it.
///
/// # Errors
/// The label has another value, which the message says.
pub fn return_mode(labels: &BTreeMap<String, String>) -> Result<ReturnMode, String> {
    match labels.get(RETURN_MODE_LABEL).map(String::as_str) {
        None => Ok(ReturnMode::Unspecified),
        Some("symmetric") => Ok(ReturnMode::Symmetric),
        Some("dsr") => Ok(ReturnMode::Dsr),
        Some("snat") => Ok(ReturnMode::Snat),
        Some(other) => Err(format!(
            "label {RETURN_MODE_LABEL}={other:?} is no return mode: it may be symmetric, dsr or snat"
        )),
    }
}
