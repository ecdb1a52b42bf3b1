//! Whose WireGuard it is: the kernel's, or that of this process. Pure.

use crate::config::Wireguard;

/// What the kernel said when it was asked for a device of WireGuard's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// It has made one.
    Has,
    /// It knows no such devices.
    Lacks,
    /// It has refused.
    Refused(String),
}

/// Who encrypts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The kernel.
    Kernel,
    /// Threads of this process.
    Userspace,
}

impl Mode {
    /// What users call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Userspace => "userspace",
        }
    }
}

/// A choice, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Who.
    pub mode: Mode,
    /// Why so.
    pub reason: String,
}

/// Whether the kernel is to be asked at all.
pub const fn asks_kernel(wanted: Wireguard) -> bool {
    !matches!(wanted, Wireguard::Userspace)
}

/// Who encrypts.
///
/// # Errors
/// The kernel is to, and does not.
pub fn choose(wanted: Wireguard, kernel: &Kernel) -> Result<Choice, String> {
    let chosen = |mode, reason: &str| {
        Ok(Choice {
            mode,
            reason: reason.to_owned(),
        })
    };
    match (wanted, kernel) {
        (Wireguard::Userspace, _) => chosen(Mode::Userspace, "--wireguard userspace"),
        (Wireguard::Auto, Kernel::Has) => chosen(Mode::Kernel, "the kernel has WireGuard"),
        (Wireguard::Kernel, Kernel::Has) => chosen(Mode::Kernel, "--wireguard kernel"),
        (Wireguard::Auto, Kernel::Lacks) => chosen(
            Mode::Userspace,
            "the kernel has no WireGuard (CONFIG_WIREGUARD)",
        ),
        (Wireguard::Auto, Kernel::Refused(error)) => chosen(
            Mode::Userspace,
            &format!("the kernel refused a device of WireGuard's: {error}"),
        ),
        (Wireguard::Kernel, Kernel::Lacks) => Err(
            "the kernel has no WireGuard (CONFIG_WIREGUARD), and skein-dataplane was started with \
             --wireguard kernel: start it without, or load the module wireguard"
                .to_owned(),
        ),
        (Wireguard::Kernel, Kernel::Refused(error)) => Err(format!(
            "the kernel refused a device of WireGuard's, and skein-dataplane was started with --wireguard \
             kernel: {error}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_is_taken_where_it_has_one_and_nobody_says_otherwise() {
        let refused = || Kernel::Refused("EPERM".into());
        for (wanted, kernel, expected) in [
            (Wireguard::Auto, Kernel::Has, Some(Mode::Kernel)),
            (Wireguard::Auto, Kernel::Lacks, Some(Mode::Userspace)),
            (Wireguard::Auto, refused(), Some(Mode::Userspace)),
            (Wireguard::Userspace, Kernel::Has, Some(Mode::Userspace)),
            (Wireguard::Userspace, Kernel::Lacks, Some(Mode::Userspace)),
            (Wireguard::Kernel, Kernel::Has, Some(Mode::Kernel)),
            (Wireguard::Kernel, Kernel::Lacks, None),
            (Wireguard::Kernel, refused(), None),
        ] {
            let chosen = choose(wanted, &kernel);
            let mode = chosen.as_ref().ok().map(|choice| choice.mode);
            assert_eq!(mode, expected, "{wanted:?} {kernel:?}");
            // Each says something.
            let said = chosen.map_or_else(|error| error, |choice| choice.reason);
            assert!(said.len() > 10, "{said}");
        }
    }
}
