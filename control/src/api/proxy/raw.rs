//! Attach and exec as old clients do them: the engine answers 200 and the connection is a raw stream
//! from then on, with no protocol switched. HTTP libraries cannot do that, so such a connection is
//! tied to the engine's before one of them sees it.

use super::{Engine, engine::EngineError};
use crate::api::{request_line::Encoding, version::ApiVersion};
use std::io::{self, Cursor};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Chain, Join},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// Of a request's head, what is read to find the method, the path and whether an upgrade is asked
/// for. The rest is the HTTP server's to read and to limit.
const HEAD_MAX: usize = 16 << 10;

/// The bytes with which a connection starts, already taken from it.
pub struct Opening(Vec<u8>);

/// A connection with its opening put back, and the targets of its requests encoded.
pub type Reopened = Join<Encoding<Chain<Cursor<Vec<u8>>, OwnedReadHalf>>, OwnedWriteHalf>;

impl Opening {
    /// Reads up to the end of the first request's head.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn read(stream: &mut UnixStream) -> io::Result<Self> {
        let mut bytes = Vec::with_capacity(1024);
        while end_of_head(&bytes).is_none() && bytes.len() < HEAD_MAX {
            if stream.read_buf(&mut bytes).await? == 0 {
                break;
            }
        }
        Ok(Self(bytes))
    }

    /// Whether the first request makes its connection a raw stream without switching protocols.
    pub fn is_raw(&self) -> bool {
        let Some(end) = end_of_head(&self.0) else {
            return false;
        };
        let Ok(head) = std::str::from_utf8(&self.0[..end]) else {
            return false;
        };
        let mut lines = head.split("\r\n");
        let Some(path) = lines.next().and_then(|line| line.strip_prefix("POST ")) else {
            return false;
        };
        let path = path.split([' ', '?']).next().unwrap_or_default();
        let (_, path) = ApiVersion::of_path(path);
        let parts: Vec<_> = path.split('/').collect();
        let hijacks = matches!(
            parts[..],
            ["", "containers", _, "attach"] | ["", "exec", _, "start"]
        );
        let upgrades = lines.any(|line| {
            let name = line.split(':').next().unwrap_or_default();
            name.eq_ignore_ascii_case("upgrade")
        });
        hijacks && !upgrades
    }

    /// The connection as if nothing had been read.
    pub fn put_back(self, stream: UnixStream) -> Reopened {
        let (read, write) = stream.into_split();
        tokio::io::join(Encoding::new(Cursor::new(self.0).chain(read)), write)
    }

    /// The bytes with `Connection: close` added to the head: after an answer that is no raw stream,
    /// the engine must not read further requests, which are Skein's to answer.
    fn closing(&self) -> Vec<u8> {
        let line = self.0.windows(2).position(|w| w == b"\r\n");
        let line = line.map_or(0, |at| at + 2);
        let mut bytes = self.0[..line].to_vec();
        bytes.extend_from_slice(b"Connection: close\r\n");
        bytes.extend_from_slice(&self.0[line..]);
        bytes
    }
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|w| w == b"\r\n\r\n")
}

/// Ties a client's connection to a new one of the engine until both have ended.
///
/// # Errors
/// The engine cannot be reached.
pub async fn splice(
    engine: &Engine,
    opening: &Opening,
    mut client: UnixStream,
) -> Result<(), EngineError> {
    let mut server = engine.connect().await?;
    let copied = async {
        server.write_all(&opening.closing()).await?;
        tokio::io::copy_bidirectional(&mut client, &mut server).await
    };
    if let Err(error) = copied.await {
        tracing::debug!(%error, "a raw stream broke");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_old_style_attach_and_exec_are_raw() {
        let raw = |head: &str| Opening(format!("{head}\r\n\r\n").into_bytes()).is_raw();
        assert!(raw(
            "POST /v1.41/containers/abc/attach?stream=1 HTTP/1.1\r\nHost: x"
        ));
        assert!(raw("POST /exec/abc/start HTTP/1.1"));
        assert!(!raw(
            "POST /exec/abc/start HTTP/1.1\r\nConnection: Upgrade\r\nupgrade: tcp"
        ));
        assert!(!raw("GET /containers/abc/attach HTTP/1.1"));
        assert!(!raw("POST /containers/abc/start HTTP/1.1"));
        assert!(!Opening(b"POST /exec/abc/start HTTP/1.1\r\n".to_vec()).is_raw());
    }

    #[test]
    fn the_engine_is_told_to_close() {
        let opening = Opening(b"POST /exec/a/start HTTP/1.1\r\nHost: x\r\n\r\n{}".to_vec());
        assert_eq!(
            opening.closing(),
            b"POST /exec/a/start HTTP/1.1\r\nConnection: close\r\nHost: x\r\n\r\n{}"
        );
    }
}
