//! What the kernel must have, checked at start, so that what is missing is said by its name.

use anyhow::{Context as _, bail};
use nix::{
    mount::MsFlags,
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use std::path::{Path, PathBuf};

/// The oldest kernel: the first with tcx links, which are what lets a restart lose no packet.
const KERNEL_MIN: (u32, u32) = (6, 6);
/// Where a kernel shows its types.
const BTF: &str = "/sys/kernel/btf/vmlinux";

/// What the machine is, as far as it matters.
struct Facts {
    is_root: bool,
    /// As `uname -r` says it.
    release: String,
    has_btf: bool,
}

/// Checks kernel and permissions, and mounts the BPF filesystem if it is not there.
///
/// # Errors
/// Says what is missing, and what the user can do.
pub fn check(bpffs: &Path) -> anyhow::Result<()> {
    let uname = nix::sys::utsname::uname().context("cannot ask the kernel for its version")?;
    judge(&Facts {
        is_root: nix::unistd::geteuid().is_root(),
        release: uname.release().to_string_lossy().into_owned(),
        has_btf: Path::new(BTF).exists(),
    })?;
    if is_bpffs(bpffs) {
        return Ok(());
    }
    std::fs::create_dir_all(bpffs)
        .with_context(|| format!("cannot make the mount point {}", bpffs.display()))?;
    let (kind, none) = (Some("bpf"), None::<&str>);
    nix::mount::mount(kind, bpffs, kind, MsFlags::empty(), none).with_context(|| {
        format!(
            "{} is no BPF filesystem, and mounting one failed: try `mount -t bpf bpf {0}`",
            bpffs.display()
        )
    })
}

fn judge(facts: &Facts) -> anyhow::Result<()> {
    if !facts.is_root {
        bail!("skein-dataplane loads kernel programs and needs root: run it as root");
    }
    let release = &facts.release;
    match version(release) {
        Some(version) if version >= KERNEL_MIN => {}
        _ => bail!(
            "the kernel is {release}; Skein needs {}.{} or later (tcx, BPF links): upgrade the kernel",
            KERNEL_MIN.0,
            KERNEL_MIN.1
        ),
    }
    if !facts.has_btf {
        bail!(
            "the kernel has no BTF ({BTF} is not there): boot one built with CONFIG_DEBUG_INFO_BTF=y"
        );
    }
    Ok(())
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Where this host's cgroup v2 hierarchy is mounted.
///
/// # Errors
/// It is not.
pub fn cgroup_root() -> anyhow::Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")
        .context("cannot read /proc/self/mountinfo")?;
    find_cgroup2(&mounts, Path::exists).context(
        "no cgroup v2 hierarchy is mounted, which local clients of published ports need: mount one with `mount -t cgroup2 none /sys/fs/cgroup/unified`",
    )
}

/// The last one mounted hides those before it; one that is itself hidden does not count.
fn find_cgroup2(mountinfo: &str, is_there: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let mounts = mountinfo.lines().rev().filter_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        (filesystem.split(' ').next()? == "cgroup2")
            .then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    });
    mounts.into_iter().find(|mount| is_there(mount))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_by_its_name() {
        let judged = |is_root, release: &str, has_btf| {
            let release = release.to_owned();
            let facts = Facts {
                is_root,
                release,
                has_btf,
            };
            judge(&facts).map_err(|error| format!("{error:#}"))
        };
        assert_eq!(judged(true, "6.6.0", true), Ok(()));
        let missing = |facts: Result<(), String>, words: &[&str]| {
            let said = facts.unwrap_err();
            assert!(words.iter().all(|word| said.contains(word)), "{said}");
        };
        missing(judged(false, "6.6.0", true), &["needs root"]);
        missing(judged(true, "6.1.0-9-amd64", true), &["6.1.0-9", "6.6"]);
        missing(judged(true, "odd", true), &["odd", "6.6 or later"]);
        missing(judged(true, "6.6.0", false), &["CONFIG_DEBUG_INFO_BTF=y"]);
    }

    #[test]
    fn a_folder_that_is_no_bpf_filesystem_and_cannot_become_one_is_named() {
        // Nobody makes folders in /proc, and only root may mount.
        let said = format!("{:#}", check(Path::new("/proc/skein")).unwrap_err());
        assert!(
            said.contains("/proc/skein") || said.contains("needs root"),
            "{said}"
        );
        assert!(!is_bpffs(Path::new("/proc")));
    }

    #[test]
    fn kernel_versions_are_numbers() {
        assert_eq!(version("6.18.5"), Some((6, 18)));
        assert_eq!(version("6.6-rc1+"), Some((6, 6)));
        assert_eq!(version("odd"), None);
        assert!(version("6.10.0-amd64") >= Some(KERNEL_MIN));
        assert!(version("6.1.0") < Some(KERNEL_MIN));
    }

    #[test]
    fn the_v2_hierarchy_is_found_beside_v1() {
        let mounts = "30 23 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      31 23 0:27 /a /sys/fs/cgroup/unified rw,nosuid shared:4 - cgroup2 none rw\n";
        let found = find_cgroup2(mounts, |_| true);
        assert_eq!(found, Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(find_cgroup2(mounts, |_| false), None, "hidden");
        let v1 = "30 23 0:26 / /x rw - cgroup cgroup rw";
        assert_eq!(find_cgroup2(v1, |_| true), None);
    }
}
