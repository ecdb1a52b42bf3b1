//! The bytes of a snapshot, as openraft reads and writes them piece by piece. Those that send one share its bytes with
//! all who have it: a snapshot is as long as the store.

use std::{
    io::{self, SeekFrom},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncSeek, AsyncWrite, ReadBuf};

/// What is in a snapshot. Clones share it.
pub type Bytes = Arc<Vec<u8>>;

/// A place in a snapshot's bytes.
#[derive(Debug, Default)]
pub struct Reader {
    bytes: Bytes,
    at: usize,
}

impl Reader {
    /// At the beginning.
    pub fn new(bytes: Bytes) -> Self {
        Self { bytes, at: 0 }
    }

    /// All of them.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = self.bytes.get(self.at..).unwrap_or_default();
        let count = left.len().min(buffer.remaining());
        buffer.put_slice(&left[..count]);
        self.at += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Reader {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        piece: &[u8],
    ) -> Poll<io::Result<usize>> {
        let (at, end) = (self.at, self.at + piece.len());
        // One that is being received is nobody else's yet, and is not copied.
        let bytes = Arc::make_mut(&mut self.bytes);
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[at..end].copy_from_slice(piece);
        self.at = end;
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncSeek for Reader {
    fn start_seek(mut self: Pin<&mut Self>, to: SeekFrom) -> io::Result<()> {
        let (from, by) = match to {
            SeekFrom::Start(at) => (Some(0), i64::try_from(at).ok()),
            SeekFrom::End(by) => (i64::try_from(self.bytes.len()).ok(), Some(by)),
            SeekFrom::Current(by) => (i64::try_from(self.at).ok(), Some(by)),
        };
        let at = from.zip(by).and_then(|(from, by)| from.checked_add(by));
        let at = at.and_then(|at| usize::try_from(at).ok());
        self.at = at.ok_or_else(|| io::Error::other("no such place in a snapshot"))?;
        Ok(())
    }

    fn poll_complete(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Poll::Ready(u64::try_from(self.at).map_err(io::Error::other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn pieces_are_written_where_they_belong_and_read_from_where_they_are() {
        let mut received = Reader::default();
        received.write_all(b"a snap").await.unwrap();
        // A piece that comes twice, and one behind it.
        received.seek(SeekFrom::Start(2)).await.unwrap();
        received.write_all(b"snapshot").await.unwrap();
        assert!(received.seek(SeekFrom::Current(-99)).await.is_err());
        let bytes = received.into_bytes();
        assert_eq!(*bytes, b"a snapshot");

        let mut sent = Reader::new(bytes.clone());
        sent.seek(SeekFrom::Start(2)).await.unwrap();
        let mut piece = [0; 4];
        sent.read_exact(&mut piece).await.unwrap();
        assert_eq!(&piece, b"snap");
        let mut rest = Vec::new();
        sent.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"shot");
        assert_eq!(sent.seek(SeekFrom::End(5)).await.unwrap(), 15);
        assert_eq!(sent.read(&mut piece).await.unwrap(), 0);
        assert_eq!(Arc::strong_count(&bytes), 2, "it was copied");
    }
}
