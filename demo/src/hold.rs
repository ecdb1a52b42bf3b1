//! A client with very many connections at once.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// For each connection to be made, and for each answer.
const DEADLINE: Duration = Duration::from_secs(5);

/// Opens connections to a server and says so on standard output; once a line comes on standard input, asks on
/// each of them, says how many were answered, and ends.
pub async fn hold(to: SocketAddr, connections: usize) -> anyhow::Result<()> {
    let mut held = Vec::with_capacity(connections);
    for nth in 0..connections {
        let opened = timeout(DEADLINE, TcpStream::connect(to)).await;
        let opened = opened.context("no answer").and_then(|opened| Ok(opened?));
        held.push(opened.with_context(|| format!("connection {nth} to {to}"))?);
    }
    println!("{} open", held.len());
    // Nothing else goes on meanwhile.
    std::io::stdin()
        .read_line(&mut String::new())
        .context("read standard input")?;
    for (nth, stream) in held.iter_mut().enumerate() {
        let answered = timeout(DEADLINE, ask(stream)).await;
        let answered = answered.context("no answer").and_then(|answered| answered);
        answered.with_context(|| format!("on connection {nth} to {to}"))?;
    }
    println!("{} answered", held.len());
    Ok(())
}

async fn ask(stream: &mut TcpStream) -> anyhow::Result<()> {
    stream
        .write_all(b"GET /health HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n")
        .await
        .context("send the request")?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .await
        .context("read the answer")?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "it said {answer:?}");
    Ok(())
}
