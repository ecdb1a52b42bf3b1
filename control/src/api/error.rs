//! Errors as Docker's clients expect them: a status and `{"message": …}`.

use super::json;
use crate::{
    node::{NodeError, NodeErrorKind},
    raft::{NO_LEADER, ProposeError},
};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use skein_model::{LookupError, Rejection};
use skein_orchestration::validate::{SpecError, SpecErrorKind};
use std::fmt;
use tonic::Code;

/// An answer that is no success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// Of the HTTP response.
    pub status: StatusCode,
    /// For the user.
    pub message: String,
    /// This manager does not lead, and has done nothing: the request can be sent again.
    led_by_other: bool,
}

/// Among the extensions of a response: the request was not answered, as this manager does not lead
/// any more. Nothing was done; the request is to be sent to whoever leads.
#[derive(Clone, Copy, Debug)]
pub(super) struct LedByOther;

impl ApiError {
    /// An error of a status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            led_by_other: false,
        }
    }

    /// 400
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 404
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// 500
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// 503
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    /// An error of the cluster's managers: Swarm shows those as the gRPC errors they are there, and
    /// clients look for that text.
    pub fn rpc(code: Code, message: impl fmt::Display) -> Self {
        Self::new(
            status_of(code),
            format!("rpc error: code = {code:?} desc = {message}"),
        )
    }

    /// Too few managers are up to know a leader.
    pub fn no_leader() -> Self {
        Self::rpc(Code::Unknown, NO_LEADER)
    }
}

/// The HTTP status that Docker gives each gRPC code.
fn status_of(code: Code) -> StatusCode {
    match code {
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => {
            StatusCode::BAD_REQUEST
        }
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let message = serde_json::json!({ "message": self.message });
        let mut response = json::respond(self.status, &message);
        if self.led_by_other {
            response.extensions_mut().insert(LedByOther);
        }
        response
    }
}

impl From<LookupError> for ApiError {
    fn from(error: LookupError) -> Self {
        let status = match error {
            LookupError::NotFound { .. } => StatusCode::NOT_FOUND,
            LookupError::Ambiguous { .. } => StatusCode::BAD_REQUEST,
        };
        Self::new(status, error.to_string())
    }
}

impl From<SpecError> for ApiError {
    fn from(error: SpecError) -> Self {
        let code = match error.kind {
            SpecErrorKind::Invalid => Code::InvalidArgument,
            SpecErrorKind::Forbidden => Code::PermissionDenied,
            SpecErrorKind::NotFound => Code::NotFound,
            SpecErrorKind::Precondition => Code::FailedPrecondition,
            SpecErrorKind::Unimplemented => Code::Unimplemented,
            SpecErrorKind::Internal => return Self::internal(error.message),
        };
        Self::rpc(code, error.message)
    }
}

impl From<Rejection> for ApiError {
    fn from(rejection: Rejection) -> Self {
        let code = match &rejection {
            // The reference's error has no type here.
            Rejection::NetworkMissing { .. } => return Self::internal(rejection.to_string()),
            // 500: a quirk of Swarm that clients know by its text.
            Rejection::OutOfSequence | Rejection::TooLarge { .. } => Code::Unknown,
            Rejection::NameConflict { .. }
            | Rejection::Exists { .. }
            | Rejection::IngressPresent { .. } => Code::AlreadyExists,
            Rejection::NotFound { .. } => Code::NotFound,
            Rejection::TooManyActions(_)
            | Rejection::PayloadsMissing { .. }
            | Rejection::PayloadInUse { .. } => Code::InvalidArgument,
            Rejection::IngressMissing
            | Rejection::NetworkPredefined { .. }
            | Rejection::IngressInUse { .. }
            | Rejection::NetworkInUse { .. } => Code::FailedPrecondition,
        };
        Self::rpc(code, rejection)
    }
}

impl From<ProposeError> for ApiError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::Rejected(rejection) => rejection.into(),
            ProposeError::NotLeader { .. } => Self {
                led_by_other: true,
                ..Self::no_leader()
            },
            ProposeError::NoLeader => Self::no_leader(),
            ProposeError::Refused(reason) => Self::rpc(Code::FailedPrecondition, reason),
            ProposeError::Unavailable(reason) => {
                Self::rpc(Code::Unknown, format_args!("{NO_LEADER} ({reason})"))
            }
        }
    }
}

impl From<NodeError> for ApiError {
    fn from(error: NodeError) -> Self {
        let status = match error.kind {
            NodeErrorKind::AlreadyMember
            | NodeErrorKind::NotMember
            | NodeErrorKind::NotManager
            | NodeErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            NodeErrorKind::Invalid => StatusCode::BAD_REQUEST,
            NodeErrorKind::WrongKey => StatusCode::UNAUTHORIZED,
            NodeErrorKind::Conflict => StatusCode::CONFLICT,
            NodeErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_model::Kind;

    #[test]
    fn a_stale_version_is_500_with_the_text_that_clients_know() {
        let error = ApiError::from(ProposeError::Rejected(Rejection::OutOfSequence));
        assert_eq!(error.status, 500);
        assert_eq!(
            error.message,
            "rpc error: code = Unknown desc = update out of sequence"
        );
    }

    #[test]
    fn a_lost_quorum_is_said_once() {
        let error = ApiError::from(ProposeError::NoLeader);
        assert_eq!(
            (
                error.status.as_u16(),
                error.message.matches("leader").count()
            ),
            (500, 1)
        );
        assert_eq!(error, ApiError::no_leader());
    }

    #[test]
    fn what_is_needed_or_missing_is_said_as_by_swarm() {
        let (id, user, name) = ("n1".to_owned(), "s1".to_owned(), "key".to_owned());
        let answer = |rejection: Rejection| {
            let error = ApiError::from(ProposeError::Rejected(rejection));
            (error.status.as_u16(), error.message)
        };
        let (kind, by) = (Kind::Secret, Kind::Service);
        for (rejection, status, said) in [
            (
                Rejection::NetworkInUse {
                    id: id.clone(),
                    by,
                    user,
                },
                400,
                "rpc error: code = FailedPrecondition desc = network n1 is in use by service s1",
            ),
            (
                Rejection::PayloadInUse {
                    kind,
                    name: name.clone(),
                    services: vec!["a".into(), "b".into()],
                },
                400,
                "rpc error: code = InvalidArgument desc = secret 'key' is in use by the following \
                 services: a, b",
            ),
            (
                Rejection::PayloadsMissing {
                    kind,
                    names: vec![name],
                },
                400,
                "rpc error: code = InvalidArgument desc = secret not found: key",
            ),
            (
                Rejection::IngressMissing,
                400,
                "rpc error: code = FailedPrecondition desc = service needs ingress network, but no \
                 ingress network is present",
            ),
            (
                Rejection::IngressPresent { id: id.clone() },
                409,
                "rpc error: code = AlreadyExists desc = ingress network (n1) is already present",
            ),
            (
                Rejection::NetworkMissing { id },
                500,
                "network n1 not found",
            ),
        ] {
            assert_eq!(answer(rejection), (status, said.to_owned()));
        }
    }

    #[test]
    fn a_taken_name_is_409_and_an_unknown_one_404() {
        let (kind, name) = (Kind::Service, "web".to_owned());
        let error = ApiError::from(Rejection::NameConflict { kind, name });
        assert_eq!(error.status, 409);
        assert_eq!(
            error.message,
            "rpc error: code = AlreadyExists desc = name conflicts with an existing object: service web already exists"
        );
        let reference = "x".to_owned();
        let error = ApiError::from(LookupError::NotFound { kind, reference });
        assert_eq!(
            (error.status.as_u16(), &*error.message),
            (404, "service x not found")
        );
    }
}
