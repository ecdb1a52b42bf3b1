//! The process that a host is: the first of its own namespaces, and the keeper that waits for it.

use super::cgroup::CGROUP_MOUNT;
use anyhow::Context as _;
use clap::Args;
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{
        prctl,
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{ForkResult, fork, sethostname},
};
use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::ChildStdin,
    time::Duration,
};

/// Arguments of the process that becomes a host.
#[derive(Args)]
pub struct HoldArgs {
    /// Host name.
    #[arg(long)]
    name: String,
    /// Folder with what is private to it.
    #[arg(long)]
    folder: PathBuf,
    /// Its directory in the cgroup v2 hierarchy.
    #[arg(long)]
    cgroup: PathBuf,
}

/// What a host has of its own, below its folder.
pub(super) const PRIVATE: [(&str, &str); 2] =
    [("var-lib", "/var/lib"), ("etc-docker", "/etc/docker")];
/// What unties a host from the process that made it, written to its keeper's standard input.
const UNTIE: &[u8] = b"!";

/// What ties a host to this process: if it ends, however it does, so does the host.
pub(super) struct Tie(pub(super) ChildStdin);

impl Tie {
    /// The host outlives this process.
    pub(super) fn untie(mut self) -> anyhow::Result<()> {
        let written = self.0.write_all(UNTIE);
        written.context("a host ended before the cluster was whole")
    }
}

/// The process that makes a host and waits for it. It prints the number of the host's first process
/// when that is ready.
///
/// # Errors
/// Namespaces or mounts are refused.
pub fn hold(args: &HoldArgs) -> anyhow::Result<()> {
    // In the new mount namespace the cgroup's path is hidden by the host's own: so it is opened now.
    let flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC;
    unshare(flags).context("the kernel refuses new namespaces")?;
    let (mut ready, tell) = UnixStream::pair()?;
    // SAFETY: this process has one thread, so the child may do whatever the parent could.
    match unsafe { fork() }.context("cannot fork")? {
        ForkResult::Child => {
            drop(ready);
            let end = be_host(args, tell).map(drop);
            end.with_context(|| format!("host {}", args.name))
        }
        ForkResult::Parent { child } => {
            drop(tell);
            let mut said = [0];
            ready
                .read_exact(&mut said)
                .context("the host ended before it was ready")?;
            println!("{child}");
            // No thread may be made here: it would belong to the new pid namespace.
            let input = std::io::stdin();
            fcntl(&input, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            let mut tied = true;
            while waitpid(child, Some(WaitPidFlag::WNOHANG)) == Ok(WaitStatus::StillAlive) {
                if tied {
                    match (&input).read(&mut said) {
                        // Whoever made the host has ended.
                        Ok(0) => drop(kill(child, Signal::SIGKILL)),
                        Ok(_) => tied = false,
                        Err(_) => {}
                    }
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            Ok(())
        }
    }
}

fn be_host(args: &HoldArgs, mut tell: UnixStream) -> anyhow::Result<std::convert::Infallible> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    sethostname(&args.name)?;
    let none = None::<&str>;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(none, "/", none, private, none).context("cannot make the mounts private")?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none).context("/proc")?;
    for (name, at) in PRIVATE {
        let from = args.folder.join(name);
        mount(Some(&from), at, none, MsFlags::MS_BIND, none).with_context(|| at.to_owned())?;
    }
    let mode = Some("mode=755");
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), mode).context("/run")?;
    for folder in [
        "/run/skein",
        "/run/docker/plugins",
        "/run/pids",
        "/run/lock",
    ] {
        fs::create_dir_all(folder)?;
    }
    let bpffs = "/sys/fs/bpf";
    mount(Some("bpf"), bpffs, Some("bpf"), MsFlags::empty(), none).context(bpffs)?;
    let bind = MsFlags::MS_BIND;
    mount(Some(&args.cgroup), CGROUP_MOUNT, none, bind, none)
        .or_else(|_| mount(Some(&args.cgroup), "/sys/fs/cgroup", none, bind, none))
        .context("cannot show the host its cgroup")?;
    tell.write_all(b"!")?;
    drop(tell);
    loop {
        // The first process inherits orphans; there are none only before the first start.
        if waitpid(None, None).is_err() {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}
