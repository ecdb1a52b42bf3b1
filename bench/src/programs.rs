//! A node's programs over its own maps, run on frames that nobody sent.

use anyhow::{Context as _, ensure};
use skein_abi::{
    Addr, addr,
    names::{MAP_ENDPOINTS, MAP_LOCAL_ADDRS},
    overlay::Endpoint,
};
use skein_dataplane::kernel::{Fate, Layer, Programs, open_map};
use std::{net::Ipv4Addr, path::PathBuf, time::Duration};
use xtask::cluster::{Host, within_network};

/// Where the hosts have the BPF filesystem.
const BPFFS: &str = "/sys/fs/bpf";

/// The programs are those that the node's dataplane has, loaded once more, with the maps that it has pinned: they
/// see what its packets would.
pub struct NodePrograms<'a> {
    host: &'a Host,
    bpffs: PathBuf,
    programs: Programs,
}

impl<'a> NodePrograms<'a> {
    /// Loads a node's programs.
    ///
    /// # Errors
    /// Its dataplane has not pinned its maps, or the kernel refuses.
    pub fn of(host: &'a Host) -> anyhow::Result<Self> {
        let bpffs = host.outside(BPFFS);
        let programs = Programs::load(&bpffs)
            .with_context(|| format!("cannot load the programs of {}", host.name()))?;
        Ok(Self {
            host,
            bpffs,
            programs,
        })
    }

    /// The node's address.
    pub fn address(&self) -> Ipv4Addr {
        self.host.address()
    }

    /// The device that has it.
    ///
    /// # Errors
    /// Its dataplane knows of none.
    pub fn uplink(&self) -> anyhow::Result<u32> {
        let devices: aya::maps::HashMap<_, Addr, u32> = open_map(&self.bpffs, MAP_LOCAL_ADDRS)?;
        let device = devices.get(&addr(self.address()), 0);
        device.with_context(|| format!("no device of {} has its address", self.host.name()))
    }

    /// The host's end of the veth pair of the task that has an address.
    ///
    /// # Errors
    /// No task has it.
    pub fn veth_of(&self, task: Ipv4Addr) -> anyhow::Result<u32> {
        let endpoints: aya::maps::Array<_, Endpoint> = open_map(&self.bpffs, MAP_ENDPOINTS)?;
        let found = endpoints.iter().find_map(|endpoint| {
            endpoint
                .ok()
                .filter(|endpoint| endpoint.ifindex != 0 && endpoint.addr == addr(task))
        });
        let found = found.with_context(|| format!("no task on {} has {task}", self.host.name()))?;
        Ok(found.ifindex)
    }

    /// Runs a program on one frame after the other: the frame that the last one became, and what each took. All of
    /// them are to have the same fate.
    ///
    /// # Errors
    /// The kernel refuses to run it, or it comes to something else.
    pub fn run(
        &mut self,
        layer: Layer,
        device: u32,
        wanted: Fate,
        frames: &[Vec<u8>],
    ) -> anyhow::Result<(Vec<u8>, Vec<Duration>)> {
        let Self { host, programs, .. } = self;
        within_network(&host.network(), || {
            let mut last = Vec::new();
            let mut took = Vec::with_capacity(frames.len());
            for frame in frames {
                let (mut ran, mut time) = programs.run(layer, device, frame)?;
                // XDP leaves one packet a second to each neighbour to the stack, by which that stays known.
                if layer == Layer::Xdp && ran.fate == Fate::Passed && wanted != Fate::Passed {
                    (ran, time) = programs.run(layer, device, frame)?;
                }
                ensure!(
                    ran.fate == wanted,
                    "{} on {} came to {:?}, not {wanted:?}",
                    ran.program,
                    host.name(),
                    ran.fate
                );
                took.push(time);
                last = ran.frame;
            }
            Ok((last, took))
        })
    }
}
