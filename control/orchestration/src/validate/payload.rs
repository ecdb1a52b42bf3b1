//! Secrets and configs, and what services say of them.

use super::SpecError;
use skein_model::{CONFIG_LIMIT, ContainerSpec, Payload, PayloadSpec, ReferenceFile, SECRET_LIMIT};
use std::collections::BTreeMap;

/// The longest name of a secret or config.
const NAME_MAX: usize = 64;

/// Checks a secret that is to be created. Whether its name is free is the store's to say.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn check_secret(spec: &PayloadSpec) -> Result<(), SpecError> {
    check_name(&spec.name)?;
    match &spec.driver {
        Some(driver) if driver.name.is_empty() => {
            Err(SpecError::invalid("secret driver must have a name"))
        }
        // The data is the driver's.
        Some(_) => Ok(()),
        None => check_secret_data(&spec.data),
    }
}

/// Checks the data of a secret, whoever has it.
///
/// # Errors
/// It is empty, or too long.
pub fn check_secret_data(data: &Payload) -> Result<(), SpecError> {
    check_size("secret", data, SECRET_LIMIT)
}

/// Checks a config that is to be created. Whether its name is free is the store's to say.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn check_config(spec: &PayloadSpec) -> Result<(), SpecError> {
    check_name(&spec.name)?;
    check_size("config", &spec.data, CONFIG_LIMIT)
}

fn check_name(name: &str) -> Result<(), SpecError> {
    if name.is_empty() {
        return Err(SpecError::invalid("name must be provided"));
    }
    let inside = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
    let edge = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    if bytes.len() <= NAME_MAX
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|c| inside(*c))
    {
        return Ok(());
    }
    Err(SpecError::invalid(
        "invalid name, only 64 [a-zA-Z0-9-_.] characters allowed, and the start and end character \
         must be [a-zA-Z0-9]",
    ))
}

fn check_size(kind: &str, data: &Payload, limit: usize) -> Result<(), SpecError> {
    if data.is_empty() || data.len() >= limit {
        return Err(SpecError::invalid(format!(
            "{kind} data must be larger than 0 and less than {limit} bytes"
        )));
    }
    Ok(())
}

/// Checks an update of a secret or config. Fields that are left out stay.
///
/// # Errors
/// More than the labels would change.
pub fn check_payload_update(current: &PayloadSpec, next: &PayloadSpec) -> Result<(), SpecError> {
    if next.name != current.name || (!next.data.is_empty() && next.data != current.data) {
        return Err(SpecError::invalid("only updates to Labels are allowed"));
    }
    Ok(())
}

/// A secret or config as a service names it.
struct Reference<'a> {
    id: &'a str,
    name: &'a str,
    file: Option<&'a ReferenceFile>,
    has_target: bool,
}

/// Checks how a container names the secrets and configs that it is to have. Whether they are there is
/// the store's to say.
pub(super) fn check_references(spec: &ContainerSpec) -> Result<(), SpecError> {
    let secrets: Vec<_> = spec
        .secrets
        .iter()
        .map(|secret| Reference {
            id: &secret.secret_id,
            name: &secret.secret_name,
            file: secret.file.as_ref(),
            has_target: secret.file.is_some(),
        })
        .collect();
    let configs: Vec<_> = spec
        .configs
        .iter()
        .map(|config| Reference {
            id: &config.config_id,
            name: &config.config_name,
            file: config.file.as_ref(),
            has_target: config.file.is_some() || config.runtime.is_some(),
        })
        .collect();
    check_form("secret", &secrets)?;
    check_form("config", &configs)?;
    check_credential_spec(spec)
}

fn check_form(kind: &str, references: &[Reference<'_>]) -> Result<(), SpecError> {
    let mut targets = BTreeMap::new();
    for Reference {
        id,
        name,
        file,
        has_target,
    } in references
    {
        if id.is_empty() || name.is_empty() {
            return Err(SpecError::invalid(format!("malformed {kind} reference")));
        }
        if !has_target {
            return Err(SpecError::invalid(format!(
                "malformed {kind} reference, no target provided"
            )));
        }
        let Some(file) = file else { continue };
        if file.name.is_empty() {
            return Err(SpecError::invalid(format!(
                "malformed file {kind} reference, invalid target file name provided"
            )));
        }
        if let Some(other) = targets.insert(file.name.as_str(), name) {
            return Err(SpecError::invalid(format!(
                "{kind} references '{other}' and '{name}' have a conflicting target: '{}'",
                file.name
            )));
        }
    }
    Ok(())
}

/// A credential spec that is a config must be among the configs that are no files.
fn check_credential_spec(spec: &ContainerSpec) -> Result<(), SpecError> {
    let privileges = spec.privileges.as_ref();
    let credentials = privileges.and_then(|privileges| privileges.credential_spec.as_ref());
    let id = credentials.and_then(|credentials| credentials["Config"].as_str());
    let Some(id) = id.filter(|id| !id.is_empty()) else {
        return Ok(());
    };
    let mut configs = spec.configs.iter();
    if configs.any(|config| config.config_id == id && config.runtime.is_some()) {
        return Ok(());
    }
    Err(SpecError::invalid(format!(
        "CredentialSpec references config '{id}', but that config isn't in config references with RuntimeTarget"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use skein_model::Driver;

    fn spec(name: &str, bytes: usize) -> PayloadSpec {
        PayloadSpec {
            name: name.into(),
            data: vec![0; bytes].into(),
            ..PayloadSpec::default()
        }
    }

    fn message(result: Result<(), SpecError>) -> String {
        result.unwrap_err().message
    }

    #[test]
    fn names_and_sizes_have_limits() {
        check_secret(&spec("a.b-c_d", 511_999)).unwrap();
        check_config(&spec(&"a".repeat(64), 1_023_999)).unwrap();
        for bytes in [0, 512_000] {
            assert_eq!(
                message(check_secret(&spec("a", bytes))),
                "secret data must be larger than 0 and less than 512000 bytes"
            );
        }
        assert_eq!(
            message(check_config(&spec("a", 1_024_000))),
            "config data must be larger than 0 and less than 1024000 bytes"
        );
        let invalid = "invalid name, only 64 [a-zA-Z0-9-_.] characters allowed, and the start and \
                       end character must be [a-zA-Z0-9]";
        for name in ["-a", "a.", "a b", "é", &"a".repeat(65)] {
            assert_eq!(message(check_secret(&spec(name, 1))), invalid, "{name}");
        }
        assert_eq!(message(check_config(&spec("", 1))), "name must be provided");
    }

    #[test]
    fn a_secret_with_a_driver_needs_no_data() {
        let with_driver = |name: &str| PayloadSpec {
            driver: Some(Driver {
                name: name.into(),
                ..Driver::default()
            }),
            ..spec("a", 0)
        };
        check_secret(&with_driver("vault")).unwrap();
        assert_eq!(
            message(check_secret(&with_driver(""))),
            "secret driver must have a name"
        );
    }

    #[test]
    fn only_labels_are_updated() {
        let mut next = spec("a", 3);
        next.labels.insert("k".into(), "v".into());
        check_payload_update(&spec("a", 3), &next).unwrap();
        check_payload_update(&spec("a", 3), &spec("a", 0)).unwrap();
        for other in [spec("b", 3), spec("a", 4)] {
            assert_eq!(
                message(check_payload_update(&spec("a", 3), &other)),
                "only updates to Labels are allowed"
            );
        }
    }

    fn container(value: serde_json::Value) -> ContainerSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn references_are_refused_in_the_references_words() {
        let secret = |id: &str, name: &str, file: serde_json::Value| json!({"SecretID": id, "SecretName": name, "File": file});
        let config = |id: &str, name: &str, file: serde_json::Value| json!({"ConfigID": id, "ConfigName": name, "File": file});
        let file = |name: &str| json!({"Name": name, "UID": "0", "GID": "0", "Mode": 292});
        let good = json!({
            "Secrets": [secret("s1", "key", file("a")), secret("s1", "key", file("b"))],
            // The targets of secrets and of configs are counted apart.
            "Configs": [config("c1", "conf", file("a")), {"ConfigID": "c2", "ConfigName": "other", "Runtime": {}}],
            "Privileges": {"CredentialSpec": {"Config": "c2"}},
        });
        check_references(&container(good)).unwrap();
        for (bad, said) in [
            (
                json!({"Secrets": [secret("", "key", file("a"))]}),
                "malformed secret reference",
            ),
            (
                json!({"Secrets": [secret("s1", "key", json!(null))]}),
                "malformed secret reference, no target provided",
            ),
            (
                json!({"Configs": [config("c1", "conf", file(""))]}),
                "malformed file config reference, invalid target file name provided",
            ),
            (
                json!({"Configs": [config("c1", "conf", file("x")), config("c2", "other", file("x"))]}),
                "config references 'conf' and 'other' have a conflicting target: 'x'",
            ),
            (
                json!({"Configs": [config("c1", "conf", file("a"))], "Privileges": {"CredentialSpec": {"Config": "c1"}}}),
                "CredentialSpec references config 'c1', but that config isn't in config references with RuntimeTarget",
            ),
        ] {
            assert_eq!(message(check_references(&container(bad))), said);
        }
    }
}
