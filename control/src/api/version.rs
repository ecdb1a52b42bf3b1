//! Versions of the Docker Engine API, and paths that name one.

use super::{Original, error::ApiError};
use axum::extract::FromRequestParts;
use http::{HeaderName, HeaderValue, request::Parts};
use std::{convert::Infallible, fmt};

/// Tells the leader which version a request is written in. Managers set it, never clients.
const ASKED: HeaderName = HeaderName::from_static("x-skein-api-version");

/// A version of the Docker Engine API, such as 1.41.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    major: u16,
    minor: u16,
}

impl ApiVersion {
    /// The newest whose swarm endpoints Skein serves.
    pub const NEWEST: Self = Self::new(1, 51);
    /// What is offered where the engine cannot be asked: that of the oldest engine that Skein is
    /// made for.
    pub const FALLBACK: Self = Self::new(1, 41);
    /// The oldest that clients may ask for: Docker's own floor.
    pub const OLDEST: Self = Self::new(1, 24);

    /// Major and minor.
    pub const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor }
    }

    /// `1.41`
    pub fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        Some(Self::new(major.parse().ok()?, minor.parse().ok()?))
    }

    /// The version that a request asks for (`None`: the newest) and the path without it.
    pub fn of_path(path: &str) -> (Option<Self>, &str) {
        let split = || {
            let rest = path.strip_prefix("/v")?;
            let end = rest.find('/').unwrap_or(rest.len());
            Some((Self::parse(&rest[..end])?, &rest[end..]))
        };
        match split() {
            Some((version, "")) => (Some(version), "/"),
            Some((version, rest)) => (Some(version), rest),
            None => (None, path),
        }
    }

    /// Notes on a request that goes to the leader which version it is written in.
    pub fn note(parts: &mut Parts) {
        let asked = parts
            .extensions
            .get::<Original>()
            .and_then(|original| Self::of_path(original.0.path()).0);
        parts.headers.remove(ASKED);
        let value = asked.and_then(|asked| HeaderValue::try_from(asked.to_string()).ok());
        if let Some(value) = value {
            parts.headers.insert(ASKED, value);
        }
    }

    /// Whether a client that speaks this version can be served when `offered` is the newest.
    ///
    /// # Errors
    /// 400: too old or too new.
    pub fn check(self, offered: Self) -> Result<(), ApiError> {
        if self < Self::OLDEST {
            return Err(ApiError::invalid(format!(
                "client version {self} is too old. Minimum supported API version is {}, please upgrade your client to a newer version",
                Self::OLDEST
            )));
        }
        if self > offered {
            return Err(ApiError::invalid(format!(
                "client version {self} is too new. Maximum supported API version is {offered}"
            )));
        }
        Ok(())
    }
}

/// What the request was noted to be written in; the newest if nothing was.
impl<S: Send + Sync> FromRequestParts<S> for ApiVersion {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let noted = parts.headers.get(ASKED).and_then(|v| v.to_str().ok());
        Ok(noted.and_then(Self::parse).unwrap_or(Self::NEWEST))
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_may_name_a_version() {
        let v = |minor| Some(ApiVersion::new(1, minor));
        for (path, version, rest) in [
            ("/v1.41/info", v(41), "/info"),
            ("/v1.51/volumes/v1.2", v(51), "/volumes/v1.2"),
            ("/v1.24", v(24), "/"),
            ("/info", None, "/info"),
            ("/volumes", None, "/volumes"),
            ("/vx.y/info", None, "/vx.y/info"),
        ] {
            assert_eq!(ApiVersion::of_path(path), (version, rest));
        }
    }

    #[tokio::test]
    async fn the_leader_learns_the_version_from_the_manager_alone() {
        for (path, expected) in [
            ("/v1.41/services", ApiVersion::new(1, 41)),
            ("/services", ApiVersion::NEWEST),
        ] {
            let request = http::Request::builder().header(ASKED, "1.24");
            let (mut parts, ()) = request.body(()).unwrap().into_parts();
            parts.extensions.insert(Original(path.parse().unwrap()));
            ApiVersion::note(&mut parts);
            let read = ApiVersion::from_request_parts(&mut parts, &()).await;
            assert_eq!(read, Ok(expected));
        }
    }

    #[test]
    fn versions_compare_by_number() {
        let offered = ApiVersion::new(1, 41);
        assert!(ApiVersion::new(1, 41).check(offered).is_ok());
        assert_eq!(
            ApiVersion::new(1, 100).check(offered).unwrap_err().message,
            "client version 1.100 is too new. Maximum supported API version is 1.41"
        );
        let old = ApiVersion::new(1, 9).check(offered).unwrap_err();
        assert!(old.message.starts_with("client version 1.9 is too old."));
    }
}
