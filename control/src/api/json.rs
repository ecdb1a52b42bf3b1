//! JSON as Docker writes it: without what is Skein's own.

use super::{error::ApiError, field_names};
use crate::strict;
use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};
use serde::Serialize;
use serde_json::Value;

/// Prefix of the names of fields that the API never shows.
const OWN_FIELD: &str = "X-Skein-";

/// Fields whose keys are the user's, so that nothing in them is a field of Skein's.
pub(super) const USERS_MAPS: [&str; 5] = [
    "Labels",
    "Options",
    "Sysctls",
    "DriverOpts",
    "AuxiliaryAddresses",
];

/// An object of the store as the API shows it.
pub fn shown(object: &impl Serialize) -> Result<Value, ApiError> {
    let mut value = serde_json::to_value(object)
        .map_err(|error| ApiError::internal(format!("cannot encode an object: {error}")))?;
    strip(&mut value);
    Ok(value)
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !name.starts_with(OWN_FIELD));
            for (name, value) in fields {
                if !USERS_MAPS.contains(&name.as_str()) {
                    strip(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

/// Takes away fields that are `null`: to Docker those are the same as absent ones.
pub fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// A request's body, or filters: an object, or nothing (`null`). Its fields have their names as the API has
/// them, in whatever case they came.
///
/// # Errors
/// 400: it is no JSON, or another value.
pub fn parse(body: &[u8]) -> Result<Value, ApiError> {
    if body.is_empty() {
        return Err(ApiError::invalid("invalid JSON: EOF"));
    }
    let mut value: Value = serde_json::from_slice(body)
        .map_err(|error| ApiError::invalid(format!("invalid JSON: {error}")))?;
    // A list would be taken for the values of an object's fields, in their order.
    if !(value.is_object() || value.is_null()) {
        return Err(ApiError::invalid("invalid JSON: an object is expected"));
    }
    drop_nulls(&mut value);
    field_names::normalize(&mut value);
    Ok(value)
}

/// The same, of a type.
///
/// # Errors
/// 400: it is no JSON, or not of the type.
pub fn parse_as<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    typed(parse(body)?)
}

/// A value of a type.
///
/// # Errors
/// 400: it is not of the type.
pub fn typed<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, ApiError> {
    strict::from_value(value).map_err(|error| ApiError::invalid(format!("invalid JSON: {error}")))
}

/// Brings a field that names one of several things into its one spelling: clients may write it in any case. What
/// has another type is left to who takes the value apart.
///
/// # Errors
/// 400: it is none of the names.
pub fn spell(value: &mut Value, field: &str, names: &[&str]) -> Result<(), ApiError> {
    let Some(given) = value.get(field).and_then(Value::as_str) else {
        return Ok(());
    };
    let name = given.to_lowercase();
    if !names.contains(&name.as_str()) {
        return Err(ApiError::invalid(format!("invalid {field}: {given:?}")));
    }
    value[field] = name.into();
    Ok(())
}

/// A response with a JSON body, which ends in a newline as Docker's do.
pub fn respond(status: StatusCode, value: &Value) -> Response {
    let mut text = value.to_string();
    text.push('\n');
    (
        status,
        [(header::CONTENT_TYPE, "application/json")],
        Body::from(text),
    )
        .into_response()
}

/// 200
pub fn ok(value: &Value) -> Response {
    respond(StatusCode::OK, value)
}

/// As the Docker API spells a value that is one word.
pub(crate) fn word(value: impl Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_skeins_own_is_not_shown_but_what_users_write_is() {
        let object = json!({
            "ID": "a", "X-Skein-Role": "worker",
            "Status": {"X-Skein-AppliedAt": 1, "State": "ready"},
            "Nets": [{"X-Skein-Local": {}, "NetworkID": "n"}],
            "Spec": {"Labels": {"X-Skein-mine": "kept"}},
        });
        assert_eq!(
            shown(&object).unwrap(),
            json!({
                "ID": "a", "Status": {"State": "ready"}, "Nets": [{"NetworkID": "n"}],
                "Spec": {"Labels": {"X-Skein-mine": "kept"}},
            })
        );
    }

    #[test]
    fn names_are_spelled_in_one_way_or_refused() {
        let spelled = |value: Value| {
            let mut value = value;
            spell(&mut value, "Availability", &["", "active"]).map(|()| value)
        };
        let ok = |value| spelled(value).unwrap();
        assert_eq!(ok(json!({})), json!({}));
        assert_eq!(
            ok(json!({"Availability": "Active"})),
            json!({"Availability": "active"})
        );
        assert_eq!(
            ok(json!({"Availability": 5})),
            json!({"Availability": 5}),
            "of another type"
        );
        let error = spelled(json!({"Availability": "Gone"})).unwrap_err();
        assert_eq!(
            (error.status.as_u16(), &*error.message),
            (400, "invalid Availability: \"Gone\"")
        );
    }

    #[test]
    fn null_is_absent() {
        let value = parse(br#"{"Labels":null,"A":{"B":null,"C":[{"D":null}]}}"#).unwrap();
        assert_eq!(value, json!({"A": {"C": [{}]}}));
        assert_eq!(parse(b"{").unwrap_err().status, 400);
        assert_eq!(parse(b"").unwrap_err().status, 400);
    }
}
