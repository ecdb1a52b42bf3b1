//! Which fields of a container's spec are templates.

use super::{Context, TemplateError, expand};
use skein_model::{ContainerSpec, Mount, VolumeOptions};

/// Why a field has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expanding {what} failed: {error}")]
pub struct FieldError {
    /// The field, as users call it.
    pub what: &'static str,
    /// What is wrong with its template.
    pub error: TemplateError,
}

/// The spec with the values of its templates: hostname, environment, and of mounts the source, the
/// target, and the labels and driver options of a volume. Nothing else of it is a template.
///
/// # Errors
/// The first that has no value.
pub fn expand_container(
    spec: &ContainerSpec,
    context: &Context,
) -> Result<ContainerSpec, FieldError> {
    let expand =
        |what, text: &str| expand(text, context).map_err(|error| FieldError { what, error });
    let mut expanded = spec.clone();
    expanded.hostname = expand("hostname", &spec.hostname)?;
    for entry in &mut expanded.env {
        if let Some((name, value)) = entry.split_once('=') {
            *entry = format!("{name}={}", expand("env", value)?);
        }
    }
    for mount in &mut expanded.mounts {
        expand_mount(mount, &expand)?;
    }
    Ok(expanded)
}

type Expand<'a> = &'a dyn Fn(&'static str, &str) -> Result<String, FieldError>;

fn expand_mount(mount: &mut Mount, expand: Expand<'_>) -> Result<(), FieldError> {
    mount.source = expand("mount source", &mount.source)?;
    mount.target = expand("mount target", &mount.target)?;
    if let Some(options) = &mut mount.volume_options {
        expand_volume(options, expand)?;
    }
    Ok(())
}

fn expand_volume(options: &mut VolumeOptions, expand: Expand<'_>) -> Result<(), FieldError> {
    for value in options.labels.values_mut() {
        *value = expand("volume label", value)?;
    }
    let driver = options.driver_config.iter_mut();
    for value in driver.flat_map(|driver| driver.options.values_mut()) {
        *value = expand("volume driver option", value)?;
    }
    Ok(())
}
