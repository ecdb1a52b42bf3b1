//! Programs run on frames that nobody sent (`BPF_PROG_TEST_RUN`), which go nowhere.

use super::programs::Hook;
use aya::{TestRun, TestRunOptions, TestRunResult, programs::ProgramError};
use std::time::Duration;

/// A frame for the programs of a place, which nobody sent.
#[derive(Clone, Debug)]
pub struct Trial {
    /// Which program at tc; in front of it that of XDP, where the device has it.
    pub hook: Hook,
    /// The device.
    pub ifindex: u32,
    /// With its Ethernet header.
    pub frame: Vec<u8>,
}

/// What a program made of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Of [`skein_abi::names`].
    pub program: &'static str,
    /// What becomes of the frame.
    pub fate: Fate,
    /// After it.
    pub frame: Vec<u8>,
}

/// What a program says is to become of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on to whoever is behind.
    Passed,
    /// Nobody gets it.
    Dropped,
    /// It leaves by another way, or goes to a task.
    Sent,
}

/// Where a program gets its frames from, which decides on what it is given and may return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// The driver of an uplink.
    Xdp,
    /// tc ingress of a device.
    Tc(Hook),
}

/// What XDP programs may return (include/uapi/linux/bpf.h).
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;
/// What those at tc may return (include/uapi/linux/pkt_cls.h).
const TC_ACT_OK: u32 = 0;
const TC_ACT_REDIRECT: u32 = 7;
/// Bytes that a program may make longer what it has: outer headers, and room for more.
const GROWTH_MAX: usize = 256;

impl Layer {
    fn fate(self, returned: u32) -> Fate {
        match (self, returned) {
            (Self::Xdp, XDP_PASS) | (Self::Tc(_), TC_ACT_OK) => Fate::Passed,
            (Self::Xdp, XDP_TX | XDP_REDIRECT) | (Self::Tc(_), TC_ACT_REDIRECT) => Fate::Sent,
            _ => Fate::Dropped,
        }
    }

    /// The first fields of the context that its programs have: the kernel takes a shorter one.
    fn context(self, len: u32, ifindex: u32) -> Vec<u8> {
        let fields: &[u32] = match self {
            // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex.
            Self::Xdp => &[0, len, 0, ifindex],
            // `ifindex` is the eleventh field of `struct __sk_buff`; those before it must be 0.
            Self::Tc(_) => &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ifindex],
        };
        fields
            .iter()
            .flat_map(|field| field.to_ne_bytes())
            .collect()
    }
}

/// Runs a program once on a frame as if it had come by a device: what is to become of it, what it is then, and
/// how long that took by the kernel's clock.
///
/// # Errors
/// The kernel refuses.
pub fn run_once<P>(
    program: &P,
    layer: Layer,
    ifindex: u32,
    frame: &[u8],
) -> Result<(Fate, Vec<u8>, Duration), ProgramError>
where
    P: for<'a> TestRun<Opts<'a> = TestRunOptions<'a>, Result = TestRunResult>,
{
    let len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
    let context = layer.context(len, ifindex);
    let mut after = vec![0; frame.len() + GROWTH_MAX];
    let ran = program.test_run(TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut after),
        ctx_in: Some(&context),
        ..TestRunOptions::default()
    })?;
    after.truncate(usize::try_from(ran.data_size_out).unwrap_or(0));
    Ok((layer.fate(ran.return_value), after, ran.duration))
}
