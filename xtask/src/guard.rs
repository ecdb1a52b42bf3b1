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
use std::{
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{Command, ExitCode},
};

/// Set for the guarded process, to the number of its guard: processes further down inherit it, and are
/// not guarded by it.
const GUARD: &str = "SKEIN_XTASK_GUARD";
/// What a shell gives as the exit code of a process that a signal ended: this plus the signal's number.
const SIGNAL_EXIT: i32 = 128;

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
    let mut run = run.process_group(0).spawn().context("cannot start xtask")?;
    let group = Pid::from_raw(run.id().cast_signed());
    ctrlc::set_handler(move || {
        // It may have ended already.
        let _ = killpg(group, Signal::SIGTERM);
    })
    .context("cannot handle signals")?;
    let status = run.wait().context("cannot wait for xtask")?;
    cluster::sweep()?;
    let code = status.code().or(status.signal().map(|n| SIGNAL_EXIT + n));
    let code = code.and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}
