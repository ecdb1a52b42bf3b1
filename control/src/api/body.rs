//! Bodies of requests: what they must be said to be, how long they may be, how long they may take.

use super::error::ApiError;
use axum::{
    body::{Body, HttpBody as _},
    extract::Request,
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use http::{StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// The longest body of a request that is answered here: what is stored must fit in one Raft entry,
/// whose limit is below this.
const BODY_MAX: usize = 2 << 20;

/// How long a client may send nothing in the midst of a body: many times what a lost packet or a
/// changed route costs a slow link. A client that has gone without a word would be waited for without
/// end, and hold one of the API's connections.
const BODY_PAUSE_MAX: Duration = Duration::from_secs(30);

/// How long all of a body may take: the longest one at 7 kB/s, which no link is slower than that a
/// swarm is run over. Nobody holds a connection with a byte now and then.
const BODY_TIME_MAX: Duration = Duration::from_secs(300);

/// Lets a request pass if what it carries is said to be JSON.
pub async fn check_content_type(request: Request, next: Next) -> Response {
    match content_type(&request) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

fn content_type(request: &Request) -> Result<(), ApiError> {
    let said = request.headers().get(header::CONTENT_TYPE);
    let said = said.map_or("", |said| said.to_str().unwrap_or("?"));
    let essence = said.split(';').next().unwrap_or_default().trim();
    if request.body().is_end_stream() || essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(ApiError::invalid(if said.is_empty() {
        "malformed Content-Type header (): mime: no media type".to_owned()
    } else {
        format!("unsupported Content-Type header ({said}): must be 'application/json'")
    }))
}

/// Reads a request's body.
///
/// # Errors
/// 413: it is longer than anything can be that is answered here. 408: the client sent nothing for
/// [`BODY_PAUSE_MAX`], or was not done within [`BODY_TIME_MAX`]. 400: it broke off.
pub async fn read(body: Body) -> Result<Bytes, ApiError> {
    let mut body = Limited::new(body, BODY_MAX);
    let mut read = BytesMut::new();
    let end = Instant::now() + BODY_TIME_MAX;
    loop {
        let frame = timeout(BODY_PAUSE_MAX, body.frame());
        let frame = match timeout_at(end, frame).await {
            Ok(Ok(frame)) => frame,
            Ok(Err(_)) => {
                return Err(late(read.len(), "nothing more came for", BODY_PAUSE_MAX));
            }
            Err(_) => {
                return Err(late(
                    read.len(),
                    "it was not all there after",
                    BODY_TIME_MAX,
                ));
            }
        };
        match frame {
            None => return Ok(read.freeze()),
            // Trailers say nothing that Docker's clients mean.
            Some(Ok(frame)) => read.extend(frame.into_data().ok()),
            Some(Err(error)) if error.is::<LengthLimitError>() => {
                return Err(ApiError::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    format!("the request's body is longer than {BODY_MAX} bytes"),
                ));
            }
            Some(Err(error)) => {
                let message = format!("cannot read the request's body: {error}");
                return Err(ApiError::invalid(message));
            }
        }
    }
}

fn late(read: usize, what: &str, time: Duration) -> ApiError {
    ApiError::new(
        StatusCode::REQUEST_TIMEOUT,
        format!(
            "cannot read the request's body: after its first {read} bytes {what} {} seconds; nothing \
             was changed, send the request again",
            time.as_secs()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_must_be_said_to_be_json() {
        let refusal = |said: Option<&str>, body: &'static str| {
            let mut request = Request::new(Body::from(body));
            if let Some(said) = said {
                let said = said.parse().unwrap();
                request.headers_mut().insert(header::CONTENT_TYPE, said);
            }
            let error = content_type(&request).err()?;
            Some((error.status.as_u16(), error.message))
        };
        assert_eq!(refusal(None, ""), None);
        assert_eq!(refusal(Some("text/plain"), ""), None, "nothing is said");
        assert_eq!(refusal(Some("Application/JSON; charset=utf-8"), "{}"), None);
        let text = "unsupported Content-Type header (text/plain): must be 'application/json'";
        assert_eq!(refusal(Some("text/plain"), "{}"), Some((400, text.into())));
        let none = "malformed Content-Type header (): mime: no media type";
        assert_eq!(refusal(None, "{}"), Some((400, none.into())));
    }

    #[tokio::test]
    async fn bodies_are_read_up_to_a_limit() {
        assert_eq!(read(Body::from("{}")).await.unwrap(), "{}");
        let longest = vec![b' '; BODY_MAX];
        assert_eq!(read(Body::from(longest)).await.unwrap().len(), BODY_MAX);
        let longer = vec![b' '; BODY_MAX + 1];
        assert_eq!(read(Body::from(longer)).await.unwrap_err().status, 413);
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_are_waited_for_so_long_and_no_longer() {
        let every = |pause: Duration, pieces: usize| {
            Body::from_stream(futures::stream::unfold(0, move |sent| async move {
                if sent == pieces {
                    return None;
                }
                tokio::time::sleep(pause).await;
                Some((Ok::<_, std::io::Error>("x"), sent + 1))
            }))
        };
        let slow = BODY_PAUSE_MAX - Duration::from_secs(1);
        assert_eq!(read(every(slow, 5)).await.unwrap(), "xxxxx");
        let stopped = read(every(BODY_PAUSE_MAX * 2, 1)).await.unwrap_err();
        assert_eq!(stopped.status, 408);
        let begun = Instant::now();
        let dripping = read(every(slow, 1000)).await.unwrap_err();
        assert_eq!(dripping.status, 408);
        assert_eq!(begun.elapsed(), BODY_TIME_MAX);
    }
}
