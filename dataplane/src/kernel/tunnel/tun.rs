//! The TUN device: what the kernel routes into it is read here, and what is written comes in by it.

use anyhow::Context as _;
use std::{
    fs::{File, OpenOptions},
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
};

/// Where the kernel makes TUN devices.
const CLONE: &str = "/dev/net/tun";
/// Name of a device, with its end (include/uapi/linux/if.h).
const NAME_LEN: usize = 16;

/// `struct ifreq`, as TUNSETIFF has it: name, flags, and the rest of the union.
#[repr(C)]
struct Request {
    name: [u8; NAME_LEN],
    flags: libc::c_short,
    rest: [u8; 22],
}
const _: () = assert!(size_of::<Request>() == size_of::<libc::ifreq>());

nix::ioctl_readwrite_bad!(set_device, libc::TUNSETIFF, Request);
nix::ioctl_write_int_bad!(set_persistent, libc::TUNSETPERSIST);

/// Makes the device, or takes it over from a process that has ended. It outlives this one, too: what is routed into
/// it while nobody reads is dropped, and not sent otherwise.
///
/// # Errors
/// The kernel has no TUN, or another process has the device.
pub fn open(name: &str) -> anyhow::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(CLONE)
        .with_context(|| {
            format!("cannot open {CLONE}: encrypted networks need it where the kernel has no WireGuard; load the module tun")
        })?;
    let mut request = Request {
        name: [0; NAME_LEN],
        flags: (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short,
        rest: [0; 22],
    };
    // The last byte stays its end.
    for (to, from) in request.name[..NAME_LEN - 1].iter_mut().zip(name.bytes()) {
        *to = from;
    }
    // SAFETY: the kernel reads and writes one `struct ifreq`, which `Request` is laid out as, and lives through the call.
    unsafe { set_device(file.as_raw_fd(), &raw mut request) }.with_context(|| {
        format!("cannot make the TUN device {name}: does another process have it?")
    })?;
    // SAFETY: takes a number only.
    unsafe { set_persistent(file.as_raw_fd(), 1) }
        .with_context(|| format!("cannot keep the TUN device {name}"))?;
    Ok(file)
}
