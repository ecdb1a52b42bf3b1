//! Secrets, configs and credential specs of a service as clients send them: what the engine itself
//! refuses, before any manager is asked.

use super::error::ApiError;
use serde_json::{Map, Value};

/// Checks a container spec.
///
/// # Errors
/// 400, in the reference's words.
pub fn check(container: &Map<String, Value>) -> Result<(), ApiError> {
    let configs = container.get("Configs").and_then(Value::as_array);
    for config in configs.into_iter().flatten() {
        let refusal = match (config.get("File"), config.get("Runtime")) {
            (None, None) => "either File or Runtime should be set",
            (Some(_), Some(_)) => "cannot specify both File and Runtime",
            _ => continue,
        };
        return Err(ApiError::invalid(format!("invalid Config: {refusal}")));
    }
    let privileges = container.get("Privileges");
    match privileges.and_then(|privileges| privileges.get("CredentialSpec")) {
        Some(credentials) => check_credentials(credentials),
        None => Ok(()),
    }
}

fn check_credentials(credentials: &Value) -> Result<(), ApiError> {
    let given: Vec<_> = ["Config", "File", "Registry"]
        .into_iter()
        .filter(|name| credentials[name].as_str().is_some_and(|v| !v.is_empty()))
        .map(|name| format!("\"{}\"", name.to_lowercase()))
        .collect();
    let refusal = match &given[..] {
        [_] => return Ok(()),
        [] => {
            r#"must either provide "file", "registry", or "config" for credential spec"#.to_owned()
        }
        [first, second] => format!("cannot specify both {first} and {second} credential specs"),
        all => format!(
            "cannot specify both {}, and {} credential specs",
            all[..all.len() - 1].join(", "),
            all[all.len() - 1]
        ),
    };
    Err(ApiError::invalid(format!(
        "invalid CredentialSpec: {refusal}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refusal(container: Value) -> String {
        let error = check(container.as_object().unwrap()).unwrap_err();
        assert_eq!(error.status, 400);
        error.message
    }

    #[test]
    fn a_config_is_a_file_or_a_runtime_target() {
        let good = json!({"Configs": [{"File": {"Name": "a"}}, {"Runtime": {}}]});
        check(good.as_object().unwrap()).unwrap();
        assert_eq!(
            refusal(json!({"Configs": [{"ConfigID": "c"}]})),
            "invalid Config: either File or Runtime should be set"
        );
        assert_eq!(
            refusal(json!({"Configs": [{"File": {}, "Runtime": {}}]})),
            "invalid Config: cannot specify both File and Runtime"
        );
    }

    #[test]
    fn a_credential_spec_has_one_source() {
        let with = |credentials| json!({"Privileges": {"CredentialSpec": credentials}});
        let good = with(json!({"Config": "c", "File": ""}));
        check(good.as_object().unwrap()).unwrap();
        for (credentials, said) in [
            (
                json!({}),
                r#"must either provide "file", "registry", or "config" for credential spec"#,
            ),
            (
                json!({"Config": "a", "Registry": "b"}),
                r#"cannot specify both "config" and "registry" credential specs"#,
            ),
            (
                json!({"Config": "a", "File": "b", "Registry": "c"}),
                r#"cannot specify both "config", "file", and "registry" credential specs"#,
            ),
        ] {
            let said = format!("invalid CredentialSpec: {said}");
            assert_eq!(refusal(with(credentials)), said);
        }
    }
}
