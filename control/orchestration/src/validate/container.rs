//! The part of a spec that describes a container.

use super::{SpecError, SpecErrorKind, is_image_reference};
use skein_model::{ContainerSpec, Healthcheck, MountKind, ResourceRequirements, RestartPolicy};
use std::{collections::BTreeSet, net::IpAddr};

/// The least CPU share that can be asked for, in billionths of a CPU.
const CPU_MIN: i64 = 1_000_000;
/// The least memory that a container starts with.
const MEMORY_MIN: i64 = 4 << 20;
/// The shortest time that a health check may name, in nanoseconds.
const HEALTH_TIME_MIN: i64 = 1_000_000;

pub(super) fn check(spec: &ContainerSpec) -> Result<(), SpecError> {
    if spec.image.is_empty() {
        return Err(SpecError::invalid(
            "ContainerSpec: image reference must be provided",
        ));
    }
    if !is_image_reference(&spec.image) {
        return Err(SpecError::invalid(format!(
            "ContainerSpec: \"{}\" is not a valid repository/tag",
            spec.image
        )));
    }
    check_mounts(spec)?;
    if let Some(check) = &spec.healthcheck {
        check_health(check)?;
    }
    check_dns(spec)
}

/// Swarm stores zeroes in place of what is no address, and its tasks resolve nothing.
fn check_dns(spec: &ContainerSpec) -> Result<(), SpecError> {
    let servers = spec.dns_config.iter().flat_map(|dns| &dns.nameservers);
    for server in servers {
        if server.parse::<IpAddr>().is_err() {
            return Err(SpecError::invalid(format!(
                "ContainerSpec: nameserver {server:?} in DNSConfig is not an IP address"
            )));
        }
    }
    Ok(())
}

fn check_mounts(spec: &ContainerSpec) -> Result<(), SpecError> {
    let mut targets = BTreeSet::new();
    for mount in &spec.mounts {
        if !targets.insert(mount.target.as_str()) {
            return Err(SpecError::invalid(format!(
                "ContainerSpec: duplicate mount point: {}",
                mount.target
            )));
        }
        let propagation = mount.bind_options.as_ref().map(|o| o.propagation.as_str());
        let known = [
            "", "private", "rprivate", "shared", "rshared", "slave", "rslave",
        ];
        if let Some(other) = propagation.filter(|p| !known.contains(p)) {
            return Err(SpecError::invalid(format!(
                "invalid MountPropagation: \"{other}\""
            )));
        }
        match mount.kind {
            MountKind::Npipe => {
                return Err(SpecError::invalid(
                    "invalid MountType: \"npipe\": bind, volume and tmpfs are supported",
                ));
            }
            MountKind::Cluster => {
                return Err(SpecError::with(
                    SpecErrorKind::Unimplemented,
                    "mounts of type cluster are not supported: there are no CSI plugins. Mount a volume of the \
                     tasks' nodes (type=volume), by a volume driver that their engines have (volume-driver)",
                ));
            }
            MountKind::Bind | MountKind::Volume | MountKind::Tmpfs => {}
        }
    }
    Ok(())
}

fn check_health(check: &Healthcheck) -> Result<(), SpecError> {
    for (name, value) in [
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
    ] {
        if value != 0 && value < HEALTH_TIME_MIN {
            return Err(SpecError::invalid(format!(
                "ContainerSpec: {name} in HealthConfig cannot be less than 1ms"
            )));
        }
    }
    if check.retries < 0 {
        return Err(SpecError::invalid(
            "ContainerSpec: Retries in HealthConfig cannot be negative",
        ));
    }
    Ok(())
}

pub(super) fn check_resources(resources: &ResourceRequirements) -> Result<(), SpecError> {
    let limits = resources.limits.as_ref();
    let reserved = resources.reservations.as_ref();
    let amounts = [
        limits.map(|l| (l.nano_cpus, l.memory_bytes)),
        reserved.map(|r| (r.nano_cpus, r.memory_bytes)),
    ];
    for (cpus, memory) in amounts.into_iter().flatten() {
        if cpus != 0 && cpus < CPU_MIN {
            return Err(SpecError::invalid(format!(
                "invalid cpu value {}: Must be at least 0.001",
                short_float(cpus as f64 / 1e9)
            )));
        }
        if memory != 0 && memory < MEMORY_MIN {
            return Err(SpecError::invalid(format!(
                "invalid memory value {memory}: Must be at least 4MiB"
            )));
        }
    }
    let limited = limits.is_some_and(|limits| limits.memory_bytes != 0);
    if resources.swap_bytes.is_some_and(|swap| swap != 0) && !limited {
        return Err(SpecError::invalid(
            "memory swap provided, but no memory-limit was set",
        ));
    }
    Ok(())
}

/// A number as Go's `%g` prints it, as far as numbers go here: below 0.0001 with an exponent.
fn short_float(number: f64) -> String {
    if number.abs() >= 1e-4 {
        return number.to_string();
    }
    let text = format!("{number:e}");
    match text.split_once("e-") {
        Some((digits, exponent)) => format!("{digits}e-{exponent:0>2}"),
        None => text,
    }
}

pub(super) fn check_restart(policy: &RestartPolicy) -> Result<(), SpecError> {
    for (name, value) in [("delay", policy.delay), ("window", policy.window)] {
        if value.is_some_and(|value| value < 0) {
            return Err(SpecError::invalid(format!(
                "TaskSpec: restart-{name} cannot be negative"
            )));
        }
    }
    Ok(())
}
