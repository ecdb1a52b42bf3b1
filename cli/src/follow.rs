//! Flows and packets, as they come: until what was asked for is there, the daemon ends it, or the user does.

use crate::{
    args::{Args, Filter, Format},
    capture::File,
    complain, dataplane, flows, output,
};
use anyhow::Context as _;
use skein_proto::inspect::{CaptureRequest, FlowsRequest, capture_reply, flows_reply};
use std::{
    io::{BufWriter, Write},
    path::Path,
    process::ExitCode,
    time::Duration,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How many flows are shown if nothing else is asked for.
const LAST: u32 = 20;
/// What is captured is handed on after so long without a packet: to whoever reads it from a pipe.
const FLUSH_AFTER: Duration = Duration::from_millis(100);

/// `skein flows`.
///
/// # Errors
/// The daemon is away, or refuses.
pub async fn flows(
    args: &Args,
    filter: &Filter,
    follow: bool,
    last: Option<u32>,
    format: Format,
) -> anyhow::Result<ExitCode> {
    let request = FlowsRequest {
        filter: Some(filter.into()),
        last: last.unwrap_or(if follow { 0 } else { LAST }),
        follow,
    };
    let mut interrupted = interruption()?;
    let mut coming = tokio::select! {
        coming = dataplane::flows(&args.inspect, request) => coming?,
        () = interrupted.wait() => return Ok(ExitCode::SUCCESS),
    };
    loop {
        let told = tokio::select! {
            told = coming.message() => told.map_err(|status| dataplane::ended(&status))?,
            () = interrupted.wait() => return Ok(ExitCode::SUCCESS),
        };
        let Some(told) = told else {
            return Ok(ExitCode::SUCCESS);
        };
        let line = match (told.told, format) {
            (Some(flows_reply::Told::Flow(flow)), Format::Text) => flows::line(&flow),
            (Some(flows_reply::Told::Flow(flow)), Format::Json) => serde_json::to_string(&flow)?,
            (Some(flows_reply::Told::Lost(lost)), Format::Text) => {
                eprintln!("skein: {}", flows::lost(&lost));
                continue;
            }
            (Some(flows_reply::Told::Lost(lost)), Format::Json) => {
                serde_json::json!({ "lost": lost }).to_string()
            }
            (None, _) => continue,
        };
        if !output::print_line(&line)? {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// `skein capture`.
///
/// # Errors
/// The daemon is away, or refuses; or the file cannot be written.
pub async fn capture(
    args: &Args,
    filter: &Filter,
    path: &Path,
    snap_length: Option<u32>,
    count: Option<u64>,
) -> anyhow::Result<ExitCode> {
    let request = CaptureRequest {
        filter: Some(filter.into()),
        snap_length: snap_length.unwrap_or(0),
    };
    let mut interrupted = interruption()?;
    let mut coming = tokio::select! {
        coming = dataplane::capture(&args.inspect, request) => coming?,
        () = interrupted.wait() => return Ok(ExitCode::SUCCESS),
    };
    let writer: Box<dyn Write> = match path.as_os_str() == "-" {
        true => Box::new(std::io::stdout().lock()),
        false => {
            let file = std::fs::File::create(path);
            Box::new(file.with_context(|| format!("cannot write {}", path.display()))?)
        }
    };
    let mut file = File::begin(BufWriter::new(writer))?;
    let (mut packets, mut lost) = (0, 0);
    while count.is_none_or(|count| packets < count) {
        let told = tokio::select! {
            told = tokio::time::timeout(FLUSH_AFTER, coming.message()) => told,
            () = interrupted.wait() => break,
        };
        let Ok(told) = told else {
            if is_gone(file.flush())? {
                return Ok(ExitCode::SUCCESS);
            }
            continue;
        };
        // What there is stays, whatever ends it.
        let told = match told {
            Ok(Some(told)) => told.told,
            Ok(None) => break,
            Err(status) => {
                file.flush()?;
                return Err(dataplane::ended(&status));
            }
        };
        match told {
            Some(capture_reply::Told::Packet(packet)) => {
                let comment = packet.flow.as_ref().map_or_else(String::new, flows::line);
                if is_gone(file.add(&packet, &comment))? {
                    return Ok(ExitCode::SUCCESS);
                }
                packets += 1;
            }
            Some(capture_reply::Told::Lost(more)) => lost += more,
            Some(capture_reply::Told::Begun(_)) => eprintln!("skein: capturing"),
            None => {}
        }
    }
    if is_gone(file.flush())? {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("skein: {packets} packets captured, {lost} lost");
    if lost > 0 {
        complain(&anyhow::anyhow!(
            "packets came too fast: ask for fewer by a filter, or for less of each by --snap-length"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether whoever read it is gone: that ends a capture, and is no failure.
fn is_gone(written: anyhow::Result<()>) -> anyhow::Result<bool> {
    let Err(error) = written else {
        return Ok(false);
    };
    let mut causes = error.chain();
    let is_closed = causes.any(|cause| {
        let cause = cause.downcast_ref::<std::io::Error>();
        cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
    });
    if is_closed { Ok(true) } else { Err(error) }
}

/// The user's wish to end it.
struct Interruption([Signal; 2]);

fn interruption() -> anyhow::Result<Interruption> {
    let on = |kind| signal(kind).context("cannot wait for signals");
    Ok(Interruption([
        on(SignalKind::interrupt())?,
        on(SignalKind::terminate())?,
    ]))
}

impl Interruption {
    async fn wait(&mut self) {
        let [interrupt, terminate] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn a_reader_that_goes_is_no_failure() {
        let failed = |kind| Err(anyhow::Error::from(io::Error::from(kind)).context("writing"));
        assert!(is_gone(failed(io::ErrorKind::BrokenPipe)).unwrap());
        assert!(!is_gone(Ok(())).unwrap());
        is_gone(failed(io::ErrorKind::StorageFull)).unwrap_err();
    }
}
