//! The health check of an image that has no shell and no curl.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long the server may take: well below docker's default of 30 s for a health check.
const DEADLINE: Duration = Duration::from_secs(3);
/// The status line of a good answer; both versions, for the server may choose.
const GOOD: [&[u8]; 2] = [b"HTTP/1.0 200", b"HTTP/1.1 200"];

/// Fails unless the server on this machine's `port` says that it is well.
pub async fn check(port: u16) -> anyhow::Result<()> {
    tokio::time::timeout(DEADLINE, ask(port))
        .await
        .with_context(|| format!("no answer from port {port} within {DEADLINE:?}"))?
}

async fn ask(port: u16) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .await
        .with_context(|| format!("connect to port {port} of this host"))?;
    stream
        .write_all(b"GET /health HTTP/1.0\r\n\r\n")
        .await
        .context("send the request")?;
    let mut status = [0; GOOD[0].len()];
    stream
        .read_exact(&mut status)
        .await
        .context("read the answer")?;
    if !GOOD.contains(&&status[..]) {
        bail!(
            "port {port} answered {:?}",
            String::from_utf8_lossy(&status)
        );
    }
    Ok(())
}
