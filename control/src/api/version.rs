//! Versions of the Docker Engine API, and paths that name one.

use super::{Original, error::ApiError};
use axum::extract::FromRequestParts;
use http::{HeaderName, HeaderValue, request::Parts};
use serde_json::Value;
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
    pub const NEWEST: Self = Self::new(1, 56);
    /// The oldest: Docker's own floor.
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
}

/// The versions that clients may speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offered {
    /// The oldest of them.
    pub oldest: ApiVersion,
    /// The newest of them.
    pub newest: ApiVersion,
}

impl Offered {
    /// What is offered where the engine cannot be asked: up to what the oldest engine speaks that Skein is
    /// made for.
    pub const FALLBACK: Self = Self {
        oldest: ApiVersion::OLDEST,
        newest: ApiVersion::new(1, 41),
    };

    /// What both Skein and an engine know, by that one's `/version`; `None`: it does not say.
    pub fn with(engine: &Value) -> Option<Self> {
        let version = |name: &str| ApiVersion::parse(engine[name].as_str()?);
        let newest = version("ApiVersion")?.min(ApiVersion::NEWEST);
        let oldest = version("MinAPIVersion").map_or(ApiVersion::OLDEST, |engines| {
            engines.max(ApiVersion::OLDEST)
        });
        Some(Self {
            // An engine that has left all behind that Skein knows is spoken to in the last of it.
            oldest: oldest.min(newest),
            newest,
        })
    }

    /// Whether a client that speaks this version can be served.
    ///
    /// # Errors
    /// 400: too old or too new.
    pub fn check(self, asked: ApiVersion) -> Result<(), ApiError> {
        let Self { oldest, newest } = self;
        if asked < oldest {
            return Err(ApiError::invalid(format!(
                "client version {asked} is too old. Minimum supported API version is {oldest}, please upgrade your client to a newer version"
            )));
        }
        if asked > newest {
            return Err(ApiError::invalid(format!(
                "client version {asked} is too new. Maximum supported API version is {newest}"
            )));
        }
        Ok(())
    }
}

/// What the client has written the request in or, on the leader, what it was noted to be written in; the newest if
/// neither says.
impl<S: Send + Sync> FromRequestParts<S> for ApiVersion {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let asked = match parts.extensions.get::<Original>() {
            Some(Original(uri)) => Self::of_path(uri.path()).0,
            None => {
                let noted = parts.headers.get(ASKED).and_then(|v| v.to_str().ok());
                noted.and_then(Self::parse)
            }
        };
        Ok(asked.unwrap_or(Self::NEWEST))
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
    use serde_json::json;

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
            let read = ApiVersion::from_request_parts(&mut parts, &()).await;
            assert_eq!(read, Ok(expected), "on the client's node");
            ApiVersion::note(&mut parts);
            parts.extensions.clear();
            let read = ApiVersion::from_request_parts(&mut parts, &()).await;
            assert_eq!(read, Ok(expected), "on the leader");
        }
    }

    #[test]
    fn versions_compare_by_number() {
        let offered = Offered::FALLBACK;
        assert!(offered.check(ApiVersion::new(1, 41)).is_ok());
        assert_eq!(
            offered.check(ApiVersion::new(1, 100)).unwrap_err().message,
            "client version 1.100 is too new. Maximum supported API version is 1.41"
        );
        let old = offered.check(ApiVersion::new(1, 9)).unwrap_err();
        assert_eq!(
            old.message,
            "client version 1.9 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version"
        );
    }

    #[test]
    fn what_is_offered_both_skein_and_the_engine_know() {
        let v = |minor| ApiVersion::new(1, minor);
        for (newest, oldest, offered) in [
            ("1.41", "1.12", Some((v(24), v(41)))),
            ("1.52", "1.44", Some((v(44), v(52)))),
            ("1.99", "1.40", Some((v(40), ApiVersion::NEWEST))),
            (
                "1.99",
                "1.98",
                Some((ApiVersion::NEWEST, ApiVersion::NEWEST)),
            ),
            ("1.41", "", Some((v(24), v(41)))),
            ("", "1.12", None),
        ] {
            let engine = json!({"ApiVersion": newest, "MinAPIVersion": oldest});
            let offered = offered.map(|(oldest, newest)| Offered { oldest, newest });
            assert_eq!(Offered::with(&engine), offered, "{engine}");
        }
    }
}
