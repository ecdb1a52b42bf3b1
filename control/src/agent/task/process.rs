//! A container's first process, whose end the kernel tells at once, whether or not the engine is there.

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::{io, os::fd::OwnedFd};
use tokio::io::{Interest, unix::AsyncFd};

/// A process of a container that ran when it was first looked at.
pub(super) struct Process {
    pid: i64,
    /// `None` once it has ended.
    running: Option<AsyncFd<OwnedFd>>,
}

impl Process {
    /// Begins to watch process `pid` of a container.
    ///
    /// # Errors
    /// This agent sees no such process, or it is none of the container's: it ended just now, or the
    /// engine counts processes in another namespace.
    pub(super) async fn watch(pid: i64, container_id: &str) -> io::Result<Self> {
        let known = i32::try_from(pid).ok().filter(|pid| *pid > 0);
        let known = known.and_then(Pid::from_raw);
        let known = known.ok_or_else(|| io::Error::other(format!("{pid} is no process ID")))?;
        let process = pidfd_open(known, PidfdFlags::empty())?;
        // Asked only now: the ID stays this process's for as long as it is not in the group of another.
        let groups = tokio::fs::read_to_string(format!("/proc/{pid}/cgroup")).await?;
        if container_id.is_empty() || !groups.contains(container_id) {
            return Err(io::Error::other(format!(
                "process {pid} is not in a control group of container {container_id}"
            )));
        }
        Self::of(pid, process)
    }

    fn of(pid: i64, process: OwnedFd) -> io::Result<Self> {
        // SAFETY: an `OwnedFd` is open and the same for as long as it lives, and nothing takes this one
        // out of the `AsyncFd`.
        let running = unsafe { AsyncFd::register_with_interest(process, Interest::READABLE) };
        let running = running.map_err(|error| error.into_parts().1)?;
        Ok(Self {
            pid,
            running: Some(running),
        })
    }

    /// Its ID.
    pub(super) fn pid(&self) -> i64 {
        self.pid
    }

    /// Whether [`ended`](Self::ended) has found that it has.
    pub(super) fn has_ended(&self) -> bool {
        self.running.is_none()
    }

    /// Waits for its end.
    pub(super) async fn ended(&mut self) {
        let Some(running) = &self.running else { return };
        match running.readable().await {
            Ok(_) => self.running = None,
            // The runtime ends, and who waits with it.
            Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::{process::Command, time::timeout};

    #[tokio::test]
    async fn the_end_of_a_process_is_heard_of_at_once() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let id = child.id().unwrap();
        let pid = Pid::from_raw(i32::try_from(id).unwrap()).unwrap();
        let fd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let mut process = Process::of(id.into(), fd).unwrap();
        let early = timeout(Duration::from_millis(50), process.ended()).await;
        assert!(early.is_err() && !process.has_ended());
        child.start_kill().unwrap();
        let heard = timeout(Duration::from_secs(5), process.ended()).await;
        assert!(heard.is_ok() && process.has_ended());
        process.ended().await;
        child.wait().await.unwrap();
    }

    #[tokio::test]
    async fn a_process_that_is_not_the_containers_is_not_watched() {
        let own = i64::from(std::process::id());
        let id = "0123456789abcdef";
        for (pid, container) in [(own, id), (own, ""), (0, id), (-1, id), (i64::MAX, id)] {
            assert!(Process::watch(pid, container).await.is_err(), "{pid}");
        }
    }
}
