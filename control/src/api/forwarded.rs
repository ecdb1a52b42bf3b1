//! What other managers pass on to this one, as the cluster's leader: the other end of [`Cluster::call`].

use super::cluster::{Cluster, Route, answer, to_wire};
use crate::rpc;
use axum::{body::Body, extract::Request};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::Method;
use skein_proto::node::{ApiChunk, ApiRequest, api_server::Api as ApiService};
use std::pin::Pin;
use tonic::Status;

/// Bytes in one chunk of an answer: well under the 4 MiB that a message may have.
const CHUNK_MAX: usize = 1 << 20;

/// The gRPC service that answers the requests which other managers pass on.
pub struct Forwarded {
    cluster: Cluster,
}

impl Forwarded {
    pub(super) fn new(cluster: Cluster) -> Self {
        Self { cluster }
    }
}

type Chunks = Pin<Box<dyn Stream<Item = Result<ApiChunk, Status>> + Send>>;

#[tonic::async_trait]
impl ApiService for Forwarded {
    type CallStream = Chunks;

    async fn call(
        &self,
        request: tonic::Request<ApiRequest>,
    ) -> Result<tonic::Response<Chunks>, Status> {
        let caller = request.extensions().get::<rpc::PeerIdentity>();
        if caller.is_none_or(|caller| caller.role != skein_model::NodeRole::Manager) {
            return Err(Status::permission_denied(
                "only managers may pass requests on",
            ));
        }
        // Never on to yet another manager: where this one does not lead, the caller looks again.
        let router = match self.cluster.route() {
            Ok(Route::Local(router)) => router,
            Ok(Route::Leader | Route::Unavailable) => return Err(self.cluster.led_by_other()),
            Err(error) => return Err(Status::unavailable(error.message)),
        };
        let request = from_wire(request.into_inner())?;
        let Some(response) = answer(router, request).await else {
            return Err(self.cluster.led_by_other());
        };
        let (parts, body) = response.into_parts();
        let first = ApiChunk {
            status: parts.status.as_u16().into(),
            headers: to_wire(&parts.headers),
            data: Vec::new(),
        };
        let rest = body.into_data_stream().flat_map(|data| {
            futures::stream::iter(match data {
                Ok(data) => pieces(data).into_iter().map(Ok).collect(),
                Err(error) => vec![Err(Status::unknown(error.to_string()))],
            })
        });
        let chunks = futures::stream::once(async { Ok(first) }).chain(rest);
        Ok(tonic::Response::new(Box::pin(chunks)))
    }
}

/// Part of a body as chunks of at most [`CHUNK_MAX`] bytes.
fn pieces(data: Bytes) -> Vec<ApiChunk> {
    let pieces = data.chunks(CHUNK_MAX).map(|piece| ApiChunk {
        data: piece.to_vec(),
        ..ApiChunk::default()
    });
    pieces.collect()
}

#[allow(clippy::result_large_err, reason = "tonic's error type")]
fn from_wire(request: ApiRequest) -> Result<Request, Status> {
    let invalid = |error: http::Error| Status::invalid_argument(error.to_string());
    let method = Method::from_bytes(request.method.as_bytes())
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    let mut builder = Request::builder().method(method).uri(request.uri);
    for header in request.headers {
        builder = builder.header(header.name, header.value);
    }
    builder.body(Body::from(request.body)).map_err(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_answer_goes_in_pieces_that_fit_into_messages() {
        let body: Vec<u8> = (0..CHUNK_MAX * 2 + 7)
            .map(|at| at.to_le_bytes()[0])
            .collect();
        let pieces = pieces(Bytes::from(body.clone()));
        assert_eq!(pieces.len(), 3);
        assert!(pieces.iter().all(|piece| piece.data.len() <= CHUNK_MAX));
        let together: Vec<u8> = pieces.into_iter().flat_map(|piece| piece.data).collect();
        assert_eq!(together, body);
    }
}
