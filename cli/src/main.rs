//! `skein`: what the docker CLI has no word for.
//!
//! It asks the daemons of its own node, by their sockets, and changes nothing. Whatever it can have of one
//! daemon it shows while the other is away.
//!
//! - [`args`]: the command line; [`generate`]: completions and manual pages of it.
//! - [`dataplane`], [`control`]: the daemons, as clients see them.
//! - [`status`]: what `skein status` prints (pure).
//! - [`trace`]: what `skein trace` prints (pure).
//! - [`flows`]: what `skein flows` prints (pure); [`capture`]: what `skein capture` writes; [`follow`]: both, as they
//!   come.
//! - [`output`]: tables, and standard output.

mod args;
mod capture;
mod control;
mod dataplane;
mod flows;
mod follow;
mod generate;
mod output;
mod status;
mod trace;

use args::{Args, Command, Format};
use clap::Parser as _;
use control::Answer;
use serde::Serialize;
use skein_proto::inspect::{ClusterStatus, NodeStatus, TraceRequest};
use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args).await {
        Ok(code) => code,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::Status { format } => show_status(args, *format).await,
        Command::Trace {
            source,
            destination,
            udp,
            source_port,
            mid_stream,
            forwarded_by,
            format,
        } => {
            let request = TraceRequest {
                source: source.clone(),
                destination: destination.clone(),
                protocol: if *udp { "udp" } else { "tcp" }.to_owned(),
                source_port: source_port.unwrap_or_default().into(),
                mid_stream: *mid_stream,
                forwarded_by: forwarded_by.clone().unwrap_or_default(),
            };
            let reply = dataplane::trace(&args.inspect, request).await?;
            let text = match format {
                Format::Text => trace::text(&reply),
                Format::Json => json(&reply)?,
            };
            output::print(text.as_bytes())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Flows {
            filter,
            follow,
            last,
            format,
        } => follow::flows(args, filter, *follow, *last, *format).await,
        Command::Capture {
            filter,
            write,
            snap_length,
            count,
        } => follow::capture(args, filter, write, *snap_length, *count).await,
        Command::Completion { shell } => {
            output::print(&generate::completion(*shell))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { dir } => {
            generate::man(dir)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn json(value: &impl Serialize) -> anyhow::Result<String> {
    Ok(format!("{}\n", serde_json::to_string_pretty(value)?))
}

fn complain(error: &anyhow::Error) {
    eprintln!("skein: {error:#}");
}

/// What `skein status --format json` prints.
#[derive(Serialize)]
struct Status<'a> {
    /// `None`: skein-dataplane does not answer.
    node: Option<&'a NodeStatus>,
    /// `None`: this node is no manager, or skein-control does not answer.
    cluster: Option<&'a ClusterStatus>,
}

/// Fails if a daemon is away, with what the other one says.
async fn show_status(args: &Args, format: Format) -> anyhow::Result<ExitCode> {
    let (node, cluster) =
        tokio::join!(dataplane::status(&args.inspect), control::status(&args.api));
    let mut code = ExitCode::SUCCESS;
    let node = node.inspect_err(|error| {
        complain(error);
        code = ExitCode::FAILURE;
    });
    let cluster = match cluster {
        Ok(Answer::Status(status)) => Some(status),
        Ok(Answer::NotManager(message)) => {
            eprintln!("skein: of the other nodes a manager tells: {message}");
            None
        }
        Err(error) => {
            complain(&error);
            code = ExitCode::FAILURE;
            None
        }
    };
    let (node, cluster) = (node.as_ref().ok(), cluster.as_ref());
    let text = match format {
        Format::Text => status::text(node, cluster),
        Format::Json => json(&Status { node, cluster })?,
    };
    output::print(text.as_bytes())?;
    Ok(code)
}
