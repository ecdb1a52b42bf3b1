//! Secrets and configs: bytes under a name, which tasks see as files.

use crate::{Driver, Meta, is_default};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::{collections::BTreeMap, fmt, ops::Deref, sync::Arc};

/// A secret must be smaller than this, in bytes.
pub const SECRET_LIMIT: usize = 512_000;
/// A config must be smaller than this, in bytes.
pub const CONFIG_LIMIT: usize = 1_024_000;

/// What only the nodes that run its readers may see, and no client ever does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct Secret {
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(flatten)]
    pub meta: Meta,
    pub spec: PayloadSpec,
}

/// The same, of what is no secret.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct Config {
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(flatten)]
    pub meta: Meta,
    pub spec: PayloadSpec,
}

/// The ID of a secret whose value is for one task alone, as nodes know it.
pub fn task_secret_id(secret_id: &str, task_id: &str) -> String {
    format!("{secret_id}.{task_id}")
}

/// `SecretSpec` and `ConfigSpec` of the Docker Engine API. Only the labels ever change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct PayloadSpec {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_default")]
    pub data: Payload,
    /// Of secrets only: who has the data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<Driver>,
    /// What makes of the data what a task sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub templating: Option<Driver>,
}

/// Bytes that clones share. Their JSON is base64; they are never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Payload(Arc<[u8]>);

impl Deref for Payload {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl From<&str> for Payload {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().into())
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.0.len())
    }
}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Owned, as a text with escapes cannot be borrowed from its source.
        let text = String::deserialize(deserializer)?;
        match STANDARD.decode(text) {
            Ok(bytes) => Ok(bytes.into()),
            Err(error) => Err(D::Error::custom(format!("illegal base64 data: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_survive_json(bytes: Vec<u8>) {
            let payload = Payload::from(bytes);
            let json = serde_json::to_string(&payload).unwrap();
            prop_assert_eq!(serde_json::from_str::<Payload>(&json).unwrap(), payload);
        }
    }

    #[test]
    fn payloads_are_base64_in_json_and_hidden_in_logs() {
        let secret = Secret {
            spec: PayloadSpec {
                data: "hunter2".into(),
                ..PayloadSpec::default()
            },
            ..Secret::default()
        };
        let json = serde_json::to_value(&secret).unwrap();
        assert_eq!(json["Spec"]["Data"], "aHVudGVyMg==");
        let printed = format!("{secret:?}");
        assert!(printed.contains("Payload(7 bytes)") && !printed.contains("hunter2"));
        assert!(serde_json::from_str::<Payload>("\"a\"").is_err());
        let empty = serde_json::to_value(PayloadSpec::default()).unwrap();
        assert!(empty.get("Data").is_none());
    }
}
