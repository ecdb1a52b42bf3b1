//! Kernel programs: loaded once at start, attached by links that are pinned.
//!
//! What is pinned under `<bpffs>/skein/v<N>` ([`PINS`]) outlives the process: while no dataplane runs, packets
//! keep flowing by the programs that the last one attached. The next one opens the same maps and puts
//! its own programs into the links, one atomic update each, so that no packet meets none.

use super::{
    trial::{Fate, Layer, Ran, Trial, run_once},
    verifier,
};
use anyhow::{Context as _, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapData, MapError},
    programs::{
        CgroupAttachMode, CgroupSockAddr, LinkOrder, SchedClassifier, TcAttachType, Xdp, XdpMode,
        links::{FdLink, PinnedLink},
        tc::TcAttachOptions,
    },
};
use skein_abi::names::{
    PINNED_MAPS, PINS, PROG_CONNECT4, PROG_GETPEER4, PROG_LOCAL, PROG_RECVMSG4, PROG_SECURE,
    PROG_SENDMSG4, PROG_UPLINK, PROG_UPLINK_XDP, PROG_VETH, PROG_VXLAN,
};
use std::{
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};

/// The programs, built by `cargo xtask ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../ebpf/skein.bpf.o");

/// See the module.
pub struct Programs {
    ebpf: Ebpf,
    /// [`PINS`].
    root: PathBuf,
    links: PathBuf,
}

/// Opens a map that the programs have pinned.
///
/// # Errors
/// It is not there, or not ours.
pub fn open_map<M: TryFrom<Map, Error = MapError>>(bpffs: &Path, name: &str) -> anyhow::Result<M> {
    let pin = map_pin(bpffs, name);
    let open = || anyhow::Ok(Map::from_map_data(MapData::from_pin(&pin)?)?.try_into()?);
    open().with_context(|| format!("cannot open the map {}", pin.display()))
}

/// The tc ingress programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Devices that can carry a packet to an address of the node.
    Uplink,
    /// The external vxlan device.
    Vxlan,
    /// The host's end of a container's veth pair.
    Veth,
    /// The far end of the local pair.
    Local,
    /// The device of the tunnels.
    Secure,
}

impl Hook {
    const ALL: [Self; 5] = [
        Self::Uplink,
        Self::Vxlan,
        Self::Veth,
        Self::Local,
        Self::Secure,
    ];

    fn program(self) -> &'static str {
        match self {
            Self::Uplink => PROG_UPLINK,
            Self::Vxlan => PROG_VXLAN,
            Self::Veth => PROG_VETH,
            Self::Local => PROG_LOCAL,
            Self::Secure => PROG_SECURE,
        }
    }

    fn from_program(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hook| hook.program() == name)
    }
}

/// Where a map is pinned.
pub fn map_pin(bpffs: &Path, name: &str) -> PathBuf {
    maps_of(&bpffs.join(PINS)).join(name)
}

fn maps_of(root: &Path) -> PathBuf {
    root.join("maps")
}

/// A program where it is attached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attached {
    /// The device; `None`: the root of the host's cgroups.
    pub ifindex: Option<u32>,
    /// Of [`skein_abi::names`].
    pub program: String,
}

impl Attached {
    /// By the name of its link's pin: "<program>-<ifindex>"; those of the sockets have no index.
    fn from_pin(name: &str) -> Option<Self> {
        let (program, ifindex) = match name.rsplit_once('-') {
            Some((program, ifindex)) => (program, Some(ifindex.parse().ok()?)),
            None => (name, None),
        };
        Some(Self {
            ifindex,
            program: program.to_owned(),
        })
    }

    /// The kind of place that it is attached to.
    pub fn hook(&self) -> &'static str {
        match (self.ifindex, self.program.as_str()) {
            (None, _) => "cgroup",
            (_, PROG_UPLINK_XDP) => "xdp",
            _ => "tc",
        }
    }
}

impl Programs {
    /// Loads the programs, with the maps that an earlier dataplane pinned or with new ones.
    ///
    /// # Errors
    /// The kernel refuses them.
    pub fn load(bpffs: &Path) -> anyhow::Result<Self> {
        let root = bpffs.join(PINS);
        let (maps, links) = (maps_of(&root), root.join("links"));
        for dir in [&maps, &links] {
            std::fs::create_dir_all(dir)
                .with_context(|| format!("cannot make {} on the BPF filesystem", dir.display()))?;
        }
        let mut loader = EbpfLoader::new();
        for name in PINNED_MAPS {
            loader.map_pin_path(name, maps.join(name));
        }
        let mut ebpf = loader
            .load(OBJECT)
            .context("the kernel refused Skein's maps or their types")?;
        for hook in Hook::ALL {
            let program = classifier(&mut ebpf, hook)?;
            verifier::load(|| program.load())
                .with_context(|| format!("the kernel refused program {}", hook.program()))?;
        }
        let program = xdp(&mut ebpf)?;
        verifier::load(|| program.load())
            .with_context(|| format!("the kernel refused program {PROG_UPLINK_XDP}"))?;
        for name in SOCKET_PROGRAMS {
            let program = socket_program(&mut ebpf, name)?;
            verifier::load(|| program.load())
                .with_context(|| format!("the kernel refused program {name}"))?;
        }
        Ok(Self { ebpf, root, links })
    }

    /// Removes what dataplanes with other layouts of the maps pinned, which detaches their programs.
    /// Call it when ours are attached, so that no packet meets none; until then both act, and flows
    /// that the others knew begin anew.
    ///
    /// # Errors
    /// A pin cannot be removed.
    pub fn remove_other_layouts(&self) -> anyhow::Result<()> {
        remove_others(&self.root)
    }

    /// Takes a map, to be wrapped in its type.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn take_map(&mut self, name: &str) -> anyhow::Result<Map> {
        let map = self.ebpf.take_map(name);
        map.with_context(|| format!("the kernel programs have no map {name}"))
    }

    /// Puts the programs just loaded into every link that an earlier dataplane left, and clears away
    /// the links of devices that are gone.
    ///
    /// # Errors
    /// A link cannot be updated.
    pub fn adopt(&mut self, exists: impl Fn(u32) -> bool) -> anyhow::Result<()> {
        let entries = std::fs::read_dir(&self.links)
            .with_context(|| format!("cannot list {}", self.links.display()))?;
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let Some(Attached {
                ifindex: Some(ifindex),
                program,
            }) = Attached::from_pin(&name)
            else {
                continue;
            };
            match Hook::from_program(&program) {
                Some(hook) if exists(ifindex) => self.update(hook, &path)?,
                None if program != PROG_UPLINK_XDP => {}
                None if exists(ifindex) => self.update_xdp(&path)?,
                _ => remove_pin(&path)?,
            }
        }
        Ok(())
    }

    /// What is attached, by the pins of the links.
    ///
    /// # Errors
    /// They cannot be listed.
    pub fn attached(&self) -> anyhow::Result<Vec<Attached>> {
        let listed = || format!("cannot list {}", self.links.display());
        let mut attached = Vec::new();
        for entry in std::fs::read_dir(&self.links).with_context(listed)? {
            let name = entry.with_context(listed)?.file_name();
            attached.extend(Attached::from_pin(&name.to_string_lossy()));
        }
        attached.sort();
        Ok(attached)
    }

    fn update_xdp(&mut self, pin: &Path) -> anyhow::Result<()> {
        let link = PinnedLink::from_pin(pin)
            .with_context(|| format!("cannot open the link {}", pin.display()))?;
        let link: FdLink = link.into();
        let program = xdp(&mut self.ebpf)?;
        let link = program
            .attach_to_link(link.try_into()?)
            .with_context(|| format!("cannot update the link {}", pin.display()))?;
        drop(program.take_link(link)?);
        Ok(())
    }

    fn update(&mut self, hook: Hook, pin: &Path) -> anyhow::Result<()> {
        let link = PinnedLink::from_pin(pin)
            .with_context(|| format!("cannot open the link {}", pin.display()))?;
        let link: FdLink = link.into();
        let program = classifier(&mut self.ebpf, hook)?;
        let link = program
            .attach_to_link(link.try_into()?)
            .with_context(|| format!("cannot update the link {}", pin.display()))?;
        // The pin keeps it; ours may go.
        drop(program.take_link(link)?);
        Ok(())
    }

    fn pin_of(&self, hook: Hook, ifindex: u32) -> PathBuf {
        self.links.join(format!("{}-{ifindex}", hook.program()))
    }

    /// Attaches a program to tc ingress of a device; nothing happens if it is attached already.
    ///
    /// # Errors
    /// The kernel refuses, or the device is gone.
    pub fn attach(&mut self, hook: Hook, device: &str, ifindex: u32) -> anyhow::Result<()> {
        let pin = self.pin_of(hook, ifindex);
        if pin.exists() {
            return Ok(());
        }
        let program = classifier(&mut self.ebpf, hook)?;
        let link = program
            .attach_with_options(
                device,
                TcAttachType::Ingress,
                TcAttachOptions::TcxOrder(LinkOrder::default()),
            )
            .with_context(|| format!("cannot attach {} to {device}", hook.program()))?;
        let link: FdLink = program.take_link(link)?.try_into()?;
        link.pin(&pin)
            .with_context(|| format!("cannot pin the link {}", pin.display()))?;
        Ok(())
    }

    /// Forgets the link of a device; the program is detached, if the device is there still.
    ///
    /// # Errors
    /// The pin cannot be removed.
    pub fn detach(&mut self, hook: Hook, ifindex: u32) -> anyhow::Result<()> {
        remove_pin(&self.pin_of(hook, ifindex))
    }

    fn xdp_pin_of(&self, ifindex: u32) -> PathBuf {
        self.links.join(format!("{PROG_UPLINK_XDP}-{ifindex}"))
    }

    /// Whether the XDP program of a device is Skein's.
    pub fn has_xdp(&self, ifindex: u32) -> bool {
        self.xdp_pin_of(ifindex).exists()
    }

    /// Attaches the uplink's XDP program, natively; nothing happens if it is attached already.
    ///
    /// # Errors
    /// The kernel or the driver refuses, or another program is there.
    pub fn attach_xdp(&mut self, ifindex: u32) -> anyhow::Result<()> {
        let pin = self.xdp_pin_of(ifindex);
        if pin.exists() {
            return Ok(());
        }
        let program = xdp(&mut self.ebpf)?;
        let link = program.attach_to_if_index(ifindex, XdpMode::Driver)?;
        let link: FdLink = program.take_link(link)?.try_into()?;
        link.pin(&pin)
            .with_context(|| format!("cannot pin the link {}", pin.display()))?;
        Ok(())
    }

    /// Detaches it; nothing happens if it is not attached.
    ///
    /// # Errors
    /// The pin cannot be removed.
    pub fn detach_xdp(&mut self, ifindex: u32) -> anyhow::Result<()> {
        remove_pin(&self.xdp_pin_of(ifindex))
    }

    /// Runs the programs of a place on a frame, see [`super::Kernel::try_frame`].
    ///
    /// # Errors
    /// The kernel refuses: the device may be gone.
    pub fn try_frame(&mut self, trial: &Trial) -> anyhow::Result<Vec<Ran>> {
        let mut ran = Vec::new();
        let mut frame = trial.frame.clone();
        if trial.hook == Hook::Uplink && self.has_xdp(trial.ifindex) {
            let (first, _) = self.run(Layer::Xdp, trial.ifindex, &frame)?;
            let is_passed = first.fate == Fate::Passed;
            frame.clone_from(&first.frame);
            ran.push(first);
            if !is_passed {
                return Ok(ran);
            }
        }
        ran.push(self.run(Layer::Tc(trial.hook), trial.ifindex, &frame)?.0);
        Ok(ran)
    }

    /// Runs one program on a frame as if it had come by a device: what it made of it, and how long that took by the
    /// kernel's clock.
    ///
    /// # Errors
    /// The kernel refuses: the device may be gone.
    pub fn run(
        &mut self,
        layer: Layer,
        ifindex: u32,
        frame: &[u8],
    ) -> anyhow::Result<(Ran, Duration)> {
        let (program, ran) = match layer {
            Layer::Xdp => {
                let program = xdp(&mut self.ebpf)?;
                (PROG_UPLINK_XDP, run_once(program, layer, ifindex, frame))
            }
            Layer::Tc(hook) => {
                let program = classifier(&mut self.ebpf, hook)?;
                (hook.program(), run_once(program, layer, ifindex, frame))
            }
        };
        let (fate, frame, took) = ran.with_context(|| format!("cannot run {program}"))?;
        let ran = Ran {
            program,
            fate,
            frame,
        };
        Ok((ran, took))
    }

    /// Attaches the programs for the host's own sockets to its cgroup root. Those of an earlier
    /// dataplane go when ours are there: for that moment both act, the second on what the first left,
    /// which changes nothing.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn attach_sockets(&mut self, cgroup: &Path) -> anyhow::Result<()> {
        let root = File::open(cgroup)
            .with_context(|| format!("cannot open the cgroup {}", cgroup.display()))?;
        for name in SOCKET_PROGRAMS {
            let program = socket_program(&mut self.ebpf, name)?;
            // A link lets others attach beside it without being asked to.
            let link = program
                .attach(&root, CgroupAttachMode::Single)
                .with_context(|| format!("cannot attach {name} to {}", cgroup.display()))?;
            let link: FdLink = program.take_link(link)?.try_into()?;
            let pin = self.links.join(name);
            remove_pin(&pin)?;
            link.pin(&pin)
                .with_context(|| format!("cannot pin the link {}", pin.display()))?;
        }
        Ok(())
    }
}

const SOCKET_PROGRAMS: [&str; 4] = [PROG_CONNECT4, PROG_SENDMSG4, PROG_RECVMSG4, PROG_GETPEER4];

fn classifier(ebpf: &mut Ebpf, hook: Hook) -> anyhow::Result<&mut SchedClassifier> {
    let name = hook.program();
    let Some(program) = ebpf.program_mut(name) else {
        bail!("the object has no program {name}: rebuild it with `cargo xtask ebpf`");
    };
    Ok(program.try_into()?)
}

fn xdp(ebpf: &mut Ebpf) -> anyhow::Result<&mut Xdp> {
    let Some(program) = ebpf.program_mut(PROG_UPLINK_XDP) else {
        bail!("the object has no program {PROG_UPLINK_XDP}: rebuild it with `cargo xtask ebpf`");
    };
    Ok(program.try_into()?)
}

fn socket_program<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut CgroupSockAddr> {
    let Some(program) = ebpf.program_mut(name) else {
        bail!("the object has no program {name}: rebuild it with `cargo xtask ebpf`");
    };
    Ok(program.try_into()?)
}

fn remove_pin(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot remove {}", path.display())),
    }
}

/// Removes the other `v<N>` folders beside one.
fn remove_others(layout: &Path) -> anyhow::Result<()> {
    let Some(all) = layout.parent() else {
        return Ok(());
    };
    let entries =
        std::fs::read_dir(all).with_context(|| format!("cannot list {}", all.display()))?;
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let number = name.strip_prefix('v').map(str::parse::<u32>);
        if path == layout || !matches!(number, Some(Ok(_))) {
            continue;
        }
        std::fs::remove_dir_all(&path).with_context(|| {
            format!(
                "cannot remove the pins of another version, {}",
                path.display()
            )
        })?;
        tracing::info!(
            "removed the programs of another version, {}",
            path.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_abi::names::LAYOUT;

    #[test]
    fn the_folder_of_the_pins_is_that_of_the_layout() {
        assert_eq!(PINS, format!("skein/v{LAYOUT}"));
    }

    #[test]
    fn what_is_attached_is_told_by_the_pins_of_its_links() {
        let by_pin = |name: &str| {
            let attached = Attached::from_pin(name)?;
            Some((attached.hook(), attached.ifindex, attached.program))
        };
        let of = |hook, ifindex, program: &str| Some((hook, ifindex, program.to_owned()));
        assert_eq!(by_pin("skein_uplink-7"), of("tc", Some(7), PROG_UPLINK));
        assert_eq!(
            by_pin("skein_uplink_x-7"),
            of("xdp", Some(7), PROG_UPLINK_XDP)
        );
        assert_eq!(by_pin("skein_connect4"), of("cgroup", None, PROG_CONNECT4));
        assert_eq!(by_pin("skein_uplink-lo"), None);
    }

    #[test]
    fn only_other_layouts_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["v1", "v2", "v10", "vx", "other"] {
            std::fs::create_dir_all(dir.path().join(name).join("links")).unwrap();
            std::fs::write(dir.path().join(name).join("links/pin"), "").unwrap();
        }
        remove_others(&dir.path().join("v2")).unwrap();
        let left = std::fs::read_dir(dir.path()).unwrap();
        let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["other", "v2", "vx"]);
    }
}
