//! The mounts of a task.

use super::SpecError;
use bollard::models::{
    Mount as EngineMount, MountBindOptions, MountBindOptionsPropagationEnum as Propagation,
    MountTmpfsOptions, MountType, MountVolumeOptions, MountVolumeOptionsDriverConfig,
    VolumeCreateRequest,
};
use skein_model::{BindOptions, Mount, MountKind, VolumeOptions};
use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
};

/// A spec's mounts, checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Mounts {
    pub mounts: Vec<EngineMount>,
    pub bind_sources: Vec<PathBuf>,
    pub volumes: Vec<VolumeCreateRequest>,
}

pub(super) fn mounts(specs: &[Mount]) -> Result<Mounts, SpecError> {
    let mut found = Mounts::default();
    for spec in specs {
        let source = spec.source.clone();
        let target = spec.target.clone();
        if !target.starts_with('/') {
            return Err(SpecError::RelativeTarget(target));
        }
        let mut mount = EngineMount {
            target: Some(target),
            source: Some(source.clone()).filter(|source| !source.is_empty()),
            read_only: spec.read_only.then_some(true),
            consistency: Some(spec.consistency.clone()).filter(|value| !value.is_empty()),
            ..EngineMount::default()
        };
        match spec.kind {
            MountKind::Bind => {
                if !source.starts_with('/') {
                    return Err(SpecError::RelativeBindSource(source));
                }
                found.bind_sources.push(source.into());
                mount.typ = Some(MountType::BIND);
                mount.bind_options = spec.bind_options.as_ref().map(bind_options).transpose()?;
            }
            MountKind::Volume => {
                if source.starts_with('/') {
                    return Err(SpecError::AbsoluteVolumeSource(source));
                }
                mount.typ = Some(MountType::VOLUME);
                if let Some(options) = &spec.volume_options {
                    if let (Some(driver), false) = (&options.driver_config, source.is_empty()) {
                        found.volumes.push(VolumeCreateRequest {
                            name: Some(source),
                            driver: Some(driver.name.clone()).filter(|name| !name.is_empty()),
                            driver_opts: Some(map(&driver.options)),
                            labels: Some(map(&options.labels)),
                            cluster_volume_spec: None,
                        });
                    }
                    mount.volume_options = Some(volume_options(options));
                }
            }
            MountKind::Tmpfs => {
                if !source.is_empty() {
                    return Err(SpecError::TmpfsSource);
                }
                mount.typ = Some(MountType::TMPFS);
                mount.tmpfs_options = spec.tmpfs_options.as_ref().map(|tmpfs| MountTmpfsOptions {
                    size_bytes: Some(tmpfs.size_bytes).filter(|size| *size != 0),
                    mode: Some(i64::from(tmpfs.mode)).filter(|mode| *mode != 0),
                    options: Some(tmpfs.options.clone()).filter(|options| !options.is_empty()),
                });
            }
            MountKind::Npipe => return Err(SpecError::MountKind("npipe".into())),
            MountKind::Cluster => return Err(SpecError::MountKind("cluster".into())),
        }
        found.mounts.push(mount);
    }
    Ok(found)
}

fn bind_options(options: &BindOptions) -> Result<MountBindOptions, SpecError> {
    let propagation = match options.propagation.as_str() {
        "" => None,
        "private" => Some(Propagation::PRIVATE),
        "rprivate" => Some(Propagation::RPRIVATE),
        "shared" => Some(Propagation::SHARED),
        "rshared" => Some(Propagation::RSHARED),
        "slave" => Some(Propagation::SLAVE),
        "rslave" => Some(Propagation::RSLAVE),
        other => return Err(SpecError::Propagation(other.to_owned())),
    };
    Ok(MountBindOptions {
        propagation,
        non_recursive: options.non_recursive.then_some(true),
        ..MountBindOptions::default()
    })
}

fn volume_options(options: &VolumeOptions) -> MountVolumeOptions {
    MountVolumeOptions {
        no_copy: options.no_copy.then_some(true),
        labels: Some(map(&options.labels)).filter(|labels| !labels.is_empty()),
        driver_config: options.driver_config.as_ref().map(|driver| {
            MountVolumeOptionsDriverConfig {
                name: Some(driver.name.clone()),
                options: Some(map(&driver.options)),
            }
        }),
        subpath: Some(options.subpath.clone()).filter(|path| !path.is_empty()),
    }
}

fn map(values: &BTreeMap<String, String>) -> HashMap<String, String> {
    values.clone().into_iter().collect()
}
