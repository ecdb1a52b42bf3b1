//! Clears away after a run that was interrupted.
//!
//! The run is a process of its own: it may be killed at any point, and hosts that it made end with it.
//! The guard outlives it, passes signals on to it, and removes what is left on disk.

use crate::cluster;
use anyhow::Context as _;
use nix::{
    sys::{
        prctl,
        signal::{Signal, killpg},
    },
    unistd::{Pid, getpid, getppid},
};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
    low_level::signal_name,
};
use std::{
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{Command, ExitCode},
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    time::Duration,
};

/// Set for the guarded process, to the number of its guard: processes further down inherit it, and are
/// not guarded by it.
const GUARD: &str = "SKEIN_XTASK_GUARD";
/// What a shell gives as the exit code of a process that a signal ended: this plus the signal's number.
const SIGNAL_EXIT: i32 = 128;

/// How long the guarded process may take to end by itself: longer than a cluster takes to be taken down.
const END_DEADLINE: Duration = Duration::from_secs(60);

/// Runs `work` in a process of its own, and returns that one's exit code.
///
/// # Errors
/// In the guarded process, those of `work`; else this program cannot be started again.
pub fn guarded(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<ExitCode> {
    if std::env::var(GUARD).is_ok_and(|guard| guard == getppid().to_string()) {
        prctl::set_pdeathsig(Signal::SIGTERM)?;
        return work().map(|()| ExitCode::SUCCESS);
    }
    let mut run = Command::new(crate::own_program()?);
    run.args(std::env::args_os().skip(1))
        .env(GUARD, getpid().to_string());
    let signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).context("cannot handle signals")?;
    let mut run = run.process_group(0).spawn().context("cannot start xtask")?;
    let interrupt = pass_on(signals, Pid::from_raw(run.id().cast_signed()));
    let status = run.wait().context("cannot wait for xtask")?;
    cluster::sweep()?;
    let interrupt = Some(interrupt.load(Ordering::Relaxed)).filter(|signal| *signal != 0);
    if let Some(signal) = interrupt {
        let name = signal_name(signal).unwrap_or("a signal");
        eprintln!("\nxtask: interrupted by {name}; what it made is removed");
    }
    let ended_by = interrupt.or(status.signal());
    let code = ended_by.map(|n| SIGNAL_EXIT + n).or(status.code());
    let code = code.and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}

/// Ends a group of processes when a signal asks this one to end. Returns where the last such signal's
/// number is then: 0 before.
fn pass_on(mut signals: Signals, group: Pid) -> Arc<AtomicI32> {
    let last = Arc::new(AtomicI32::new(0));
    let seen = Arc::clone(&last);
    std::thread::spawn(move || {
        for signal in signals.forever() {
            let first = seen.swap(signal, Ordering::Relaxed) == 0;
            // It may have ended already.
            let _ = killpg(group, Signal::SIGTERM);
            if first {
                std::thread::spawn(move || {
                    std::thread::sleep(END_DEADLINE);
                    let _ = killpg(group, Signal::SIGKILL);
                });
            }
        }
    });
    last
}
