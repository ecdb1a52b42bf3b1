//! Cgroups of hosts: each has one of its own in every hierarchy.

use crate::run::{sh, wait_until};
use anyhow::Context as _;
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// Where a host sees its own part of the cgroup v2 hierarchy.
pub(super) const CGROUP_MOUNT: &str = "/sys/fs/cgroup/unified";
/// From the end of a host's processes to that of its cgroups.
const EMPTY_TIMEOUT: Duration = Duration::from_secs(20);

/// Where the cgroup v2 hierarchy is mounted on this machine.
pub(super) fn cgroup2_root() -> anyhow::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let found = mounts.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let at = mount.split(' ').nth(4)?;
        (filesystem.starts_with("cgroup2 ") && at.starts_with("/sys/fs/cgroup")).then_some(at)
    });
    if let Some(found) = found {
        return Ok(found.into());
    }
    let at = Path::new(CGROUP_MOUNT);
    fs::create_dir_all(at).context("cannot make a mount point for cgroup v2")?;
    sh(&format!("mount -t cgroup2 none {CGROUP_MOUNT}"))?;
    Ok(at.into())
}

/// All cgroup hierarchies: the v1 controllers, and v2.
///
/// # Errors
/// The mounts cannot be read.
pub fn cgroup_roots() -> anyhow::Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let roots = mounts.lines().filter_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let at = mount.split(' ').nth(4)?;
        filesystem.starts_with("cgroup").then(|| at.into())
    });
    Ok(roots.collect())
}

/// Holds all processes of a host where they are, or lets them go on.
pub(super) fn set_frozen(cgroup: &str, frozen: bool) -> anyhow::Result<()> {
    let path = cgroup2_root()?.join(cgroup).join("cgroup.freeze");
    let value = if frozen { "1" } else { "0" };
    fs::write(&path, value).with_context(|| format!("cannot write {}", path.display()))
}

/// Whether a host's processes are held.
pub(super) fn is_frozen(cgroup: &str) -> anyhow::Result<bool> {
    let path = cgroup2_root()?.join(cgroup).join("cgroup.freeze");
    let frozen =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(frozen.trim() == "1")
}

/// Removes a cgroup and those below it, deepest first; processes in it may take a moment to go.
pub(super) fn remove_cgroup(cgroup: &Path) -> anyhow::Result<()> {
    if !cgroup.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    wait_until("a cgroup empties", EMPTY_TIMEOUT, || {
        fs::remove_dir(cgroup).with_context(|| format!("cannot remove {}", cgroup.display()))
    })
}
