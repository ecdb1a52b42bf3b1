//! Requests about the cluster: answered where this node leads it, else passed on to the manager that
//! does.

use super::{
    body,
    error::{ApiError, LedByOther},
    node_handle::Member,
    version::ApiVersion,
};
use crate::{node::NodeError, rpc};
use axum::{
    Router,
    body::Body,
    extract::Request,
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use http::{HeaderName, HeaderValue, StatusCode};
use skein_proto::node::{ApiRequest, Header, api_client::ApiClient};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, timeout};
use tonic::{Code, Status};
use tower::ServiceExt;

/// How long a request waits for a leader to be found: an election takes a few seconds, and clients
/// are better served late than sent away.
const LEADER_WAIT: Duration = Duration::from_secs(8);

/// Between two attempts to find the leader.
const LEADER_RETRY: Duration = Duration::from_millis(250);

/// How long the leader may take to begin an answer: a proposal takes at most a sixth of that, and one that
/// others were quicker than is made again. How long the answer then goes on is the reader's matter: followed logs may be silent for hours.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// The way to the cluster's own resources. Clones are handles of the same.
#[derive(Clone)]
pub struct Cluster {
    member: Arc<dyn Member>,
    /// What the leader answers; see [`super::leader_table`].
    table: fn(Arc<dyn super::node_handle::Store>) -> Router,
}

/// Where a request is answered.
pub(super) enum Route {
    Local(Router),
    Leader,
    /// No leader is known now.
    Unavailable,
}

impl Cluster {
    pub(super) fn new(
        member: Arc<dyn Member>,
        table: fn(Arc<dyn super::node_handle::Store>) -> Router,
    ) -> Self {
        Self { member, table }
    }

    /// Answers a request about the cluster.
    pub async fn call(&self, request: Request) -> Response {
        self.try_call(request)
            .await
            .unwrap_or_else(IntoResponse::into_response)
    }

    async fn try_call(&self, request: Request) -> Result<Response, ApiError> {
        let (mut parts, body) = request.into_parts();
        ApiVersion::note(&mut parts);
        // The outer table's path parameters would count among the inner one's.
        parts.extensions.clear();
        let body = body::read(body).await?;
        let deadline = Instant::now() + LEADER_WAIT;
        loop {
            match self.route()? {
                Route::Local(router) => {
                    let request = Request::from_parts(parts.clone(), Body::from(body.clone()));
                    if let Some(response) = answer(router, request).await {
                        return Ok(response);
                    }
                }
                Route::Leader => {
                    let request = ApiRequest {
                        method: parts.method.to_string(),
                        uri: parts.uri.to_string(),
                        headers: to_wire(&parts.headers),
                        body: body.to_vec(),
                    };
                    if let Some(response) = self.pass_on(request).await? {
                        return Ok(response);
                    }
                }
                Route::Unavailable => {}
            }
            if Instant::now() >= deadline {
                return Err(ApiError::no_leader());
            }
            self.await_leader().await;
        }
    }

    /// Waits until another leader is known, or for a while.
    async fn await_leader(&self) {
        let news = async {
            let mut leadership = match self.member.store() {
                Some(store) => store.leadership(),
                None => return std::future::pending().await,
            };
            leadership.mark_unchanged();
            if leadership.changed().await.is_err() {
                // This member has ended; another one may be there by the next look.
                std::future::pending().await
            }
        };
        // Its end only says that it took longer.
        let _ = timeout(LEADER_RETRY, news).await;
    }

    pub(super) fn route(&self) -> Result<Route, ApiError> {
        let Some(store) = self.member.store() else {
            return Err(NodeError::not_manager(&self.member.membership()).into());
        };
        let leadership = store.leadership().borrow().clone();
        Ok(match leadership.leader {
            _ if leadership.is_self => Route::Local((self.table)(store)),
            Some(_) => Route::Leader,
            None => Route::Unavailable,
        })
    }

    /// What this manager says to those that take it for the leader.
    pub(super) fn led_by_other(&self) -> Status {
        let store = self.member.store();
        let leader = store.and_then(|store| store.leadership().borrow().leader.clone());
        rpc::not_leader(leader)
    }

    /// `None`: whoever was asked does not lead (any more), and has done nothing.
    async fn pass_on(&self, request: ApiRequest) -> Result<Option<Response>, ApiError> {
        let Ok(channel) = self.member.leader_channel().await else {
            return Ok(None);
        };
        // What only reads may be asked of another one, whatever became of it.
        let only_reads = matches!(request.method.as_str(), "GET" | "HEAD");
        let mut client = ApiClient::new(channel);
        let begun = timeout(ANSWER_TIMEOUT, async {
            let mut chunks = client.call(request).await?.into_inner();
            Ok::<_, Status>((chunks.message().await?, chunks))
        });
        let late = || Status::deadline_exceeded(format!("no answer within {ANSWER_TIMEOUT:?}"));
        let (first, chunks) = match begun.await.unwrap_or_else(|_| Err(late())) {
            Ok((Some(first), chunks)) => (first, chunks),
            Ok((None, _)) => return Err(ApiError::internal("the swarm's leader sent no answer")),
            Err(status) if rpc::is_not_leader(&status) => return Ok(None),
            Err(status) if rpc::was_never_sent(&status) => return Ok(None),
            Err(status) if only_reads && status.code() == Code::Unavailable => return Ok(None),
            Err(status) => return Err(lost(&status)),
        };
        let mut response = Response::new(Body::empty());
        *response.status_mut() = u16::try_from(first.status)
            .ok()
            .and_then(|status| StatusCode::from_u16(status).ok())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        for header in first.headers {
            let name = HeaderName::try_from(header.name);
            if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(header.value)) {
                response.headers_mut().append(name, value);
            }
        }
        let rest = chunks.map(|chunk| chunk.map(|chunk| chunk.data));
        let body = futures::stream::once(async { Ok(first.data) }).chain(rest);
        *response.body_mut() = Body::from_stream(body);
        Ok(Some(response))
    }
}

/// What the leader's table answers; `None`: this manager leads no more, and has done nothing.
pub(super) async fn answer(router: Router, request: Request) -> Option<Response> {
    let response = router.oneshot(request).await.into_response();
    let is_answer = response.extensions().get::<LedByOther>().is_none();
    is_answer.then_some(response)
}

/// The leader was lost on the way: it may have done what was asked, or not.
fn lost(status: &Status) -> ApiError {
    ApiError::rpc(
        Code::Unavailable,
        format_args!("connection to the swarm's leader: {}", status.message()),
    )
}

pub(super) fn to_wire(headers: &http::HeaderMap) -> Vec<Header> {
    let header = |(name, value): (&HeaderName, &HeaderValue)| Header {
        name: name.to_string(),
        value: value.as_bytes().to_vec(),
    };
    headers.iter().map(header).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::ProposeError;

    #[tokio::test]
    async fn what_a_deposed_leader_did_not_do_is_asked_of_the_next() {
        let answered = async |error: ProposeError| {
            let router = Router::new().fallback(async || ApiError::from(error).into_response());
            answer(router, Request::new(Body::empty())).await
        };
        let not_leader = ProposeError::NotLeader { leader: None };
        assert!(answered(not_leader).await.is_none());
        // It may yet be done: the user must hear of it.
        let unknown = answered(ProposeError::NoLeader).await.unwrap();
        assert_eq!(unknown.status(), 500);
        assert!(rpc::is_not_leader(&rpc::not_leader(None)));
        assert!(!rpc::is_not_leader(&ProposeError::NoLeader.into()));
    }
}
