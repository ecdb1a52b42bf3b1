//! The query part of a request, in Docker's conventions.

use super::error::ApiError;
use axum::extract::{FromRequestParts, Query};
use http::request::Parts;
use skein_model::Version;
use std::collections::HashMap;

/// The parameters of a request. Of a repeated one, the last counts.
#[derive(Clone, Debug, Default)]
pub struct Params(HashMap<String, String>);

impl Params {
    /// A parameter's text, "" if it is absent.
    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// A switch as Docker reads most of them: anything but a known "no" turns it on.
    pub fn flag(&self, name: &str) -> bool {
        let value = self.text(name).trim().to_lowercase();
        !matches!(&*value, "" | "0" | "no" | "false" | "none")
    }

    /// A switch that must be written as Go's `strconv.ParseBool` reads it; absent is off.
    ///
    /// # Errors
    /// 400
    pub fn strict_flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.text(name) {
            "" | "0" | "f" | "F" | "false" | "False" | "FALSE" => Ok(false),
            "1" | "t" | "T" | "true" | "True" | "TRUE" => Ok(true),
            value => Err(ApiError::invalid(format!(
                "invalid value for {name}: {value}"
            ))),
        }
    }

    /// The version of a `kind` of object that an update is for.
    ///
    /// # Errors
    /// 400: it is absent, or no number.
    pub fn version(&self, kind: &str) -> Result<Version, ApiError> {
        let text = self.text("version");
        match text.parse() {
            Ok(index) => Ok(Version { index }),
            Err(_) => Err(ApiError::invalid(format!(
                "invalid {kind} version '{text}': strconv.ParseUint: parsing \"{text}\": invalid syntax"
            ))),
        }
    }
}

/// A moment as Docker's clients write it: seconds since the Unix epoch, with or without a fraction of up to
/// nine digits. In nanoseconds; `None` if it is none.
pub fn unix_nanos(text: &str) -> Option<i128> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().ok()?;
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanos: i128 = format!("{fraction:0<9}").parse().ok()?;
    Some(i128::from(seconds) * 1_000_000_000 + nanos)
}

impl<const N: usize> From<[(&str, &str); N]> for Params {
    fn from(pairs: [(&str, &str); N]) -> Self {
        Self(pairs.map(|(k, v)| (k.into(), v.into())).into())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(pairs)) => {
                let pairs: Vec<(String, String)> = pairs;
                Ok(Self(pairs.into_iter().collect()))
            }
            Err(error) => Err(ApiError::invalid(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_are_read_as_docker_reads_them() {
        let params = Params::from([("a", "1"), ("b", "False"), ("c", "x"), ("version", "7x")]);
        assert!(params.flag("a") && params.flag("c"));
        assert!(!params.flag("b") && !params.flag("absent"));
        assert_eq!(params.strict_flag("a"), Ok(true));
        let error = params.strict_flag("c").unwrap_err();
        assert_eq!(error.message, "invalid value for c: x");
        let error = params.version("service").unwrap_err();
        assert!(error.message.starts_with("invalid service version '7x': "));
    }
}
