//! A small server that says who it is and who asked: the service of Skein's demo and tests.
//!
//! | request | answer |
//! |---|---|
//! | `GET /` | an [`answer::Answer`] as JSON: task, node, the client's address, the request's headers |
//! | `GET /delay?ms=N` | the same, N milliseconds later |
//! | `GET /health` | `ok` |
//! | a UDP datagram to the same port | an [`answer::Answer`] as JSON, at least as long as the datagram |
//!
//! `skein-demo check` asks a running server for `/health`, so that an image without a shell can
//! have a health check. SIGTERM ends the server once open requests are answered; a kept connection has one
//! more, whose answer says `Connection: close`.
//!
//! Node and task come from the environment: create a service with
//! `--env NODE={{.Node.Hostname}} --env TASK={{.Task.Name}}`.

mod answer;
mod check;
mod hold;
mod http;
mod udp;

use std::net::{Ipv4Addr, SocketAddr};

use answer::Identity;
use anyhow::Context as _;
use clap::{Parser, Subcommand};
use tokio::net::{TcpListener, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// Address and port to serve, TCP and UDP.
    #[arg(long, env = "LISTEN", default_value_t = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080)))]
    listen: SocketAddr,
    /// Host name of the node that runs this task.
    #[arg(long, env = "NODE", default_value = "")]
    node: String,
    /// Name of this task.
    #[arg(long, env = "TASK", default_value = "")]
    task: String,
    #[command(flatten)]
    limits: http::Limits,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Ask a running server for its health; the exit status says it.
    Check,
    /// Open many connections to a running server, and ask on each once a line comes on standard input.
    Hold {
        /// The server.
        #[arg(long)]
        to: SocketAddr,
        /// How many.
        #[arg(long)]
        connections: usize,
    },
}

// One thread: many replicas share few cores, and an answer costs microseconds.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let port = arguments.listen.port();
    match arguments.command {
        Some(Command::Check) => return check::check(port).await,
        Some(Command::Hold { to, connections }) => return hold::hold(to, connections).await,
        None => {}
    }
    let identity = Identity {
        hostname: answer::hostname().context("read this machine's host name")?,
        node: arguments.node,
        task: arguments.task,
    };
    let listen = arguments.listen;
    let tcp = TcpListener::bind(listen)
        .await
        .with_context(|| format!("listen on {listen}/tcp"))?;
    let udp = UdpSocket::bind(listen)
        .await
        .with_context(|| format!("listen on {listen}/udp"))?;
    // As process 1 of a container, a signal without a handler is ignored by the kernel.
    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    println!("serving {listen}, tcp and udp");
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tokio::select! {
        () = http::serve(tcp, &identity, arguments.limits, stop) => {}
        error = udp::serve(udp, &identity) => return Err(error).context("serve udp"),
    }
    Ok(())
}
