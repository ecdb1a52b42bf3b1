//! The secrets and configs of a task, as files of its container.

use bollard::models::{Mount, MountType};
use skein_model::{Config, Payload, PayloadSpec, ReferenceFile, Secret, Task};
use skein_orchestration::template::{self, Attached, Context, TemplateError};
use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

/// Where secrets are that name no other place.
const SECRETS: &str = "/run/secrets";
/// Where configs are that name no other place.
const CONFIGS: &str = "/";
/// The only templating there is.
const GOLANG: &str = "golang";
/// Permission bits of a mode as Go has it, whose other bits are its own.
const PERMISSIONS: u32 = 0o777;
/// Go's bits for set-user-ID, set-group-ID and sticky, and the kernel's.
const GO_BITS: [(u32, u32); 3] = [(1 << 23, 0o4000), (1 << 22, 0o2000), (1 << 20, 0o1000)];

/// Secrets and configs by ID: those of the node that a task refers to.
#[derive(Clone, Default)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Payloads {
    pub secrets: BTreeMap<String, Arc<Secret>>,
    pub configs: BTreeMap<String, Arc<Config>>,
    /// Why a secret is not there yet.
    pub withheld: BTreeMap<String, String>,
}

/// A file in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its absolute path there.
    pub target: String,
    /// What is in it.
    pub data: Payload,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its permissions, as the kernel has them.
    pub mode: u32,
}

/// Why a task cannot have its files.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilesError {
    /// The managers have not told of it.
    #[error("{kind} not found: {name}")]
    #[allow(missing_docs, reason = "the names say it")]
    Unknown { kind: &'static str, name: String },
    /// What a template refers to is not there, or is no text.
    #[error("failed to expand templated {kind} {name}: {error}")]
    #[allow(missing_docs, reason = "the names say it")]
    Template {
        kind: &'static str,
        name: String,
        error: TemplateError,
    },
    /// Only text can be a template.
    #[error("failed to expand templated {kind} {name}: it is not UTF-8")]
    #[allow(missing_docs, reason = "the names say it")]
    NotText { kind: &'static str, name: String },
    /// Templating other than Go's.
    #[error("failed to expand templated {kind} {name}: unrecognized template type")]
    #[allow(missing_docs, reason = "the names say it")]
    Templating { kind: &'static str, name: String },
    /// The name of a user or group, where its number is needed.
    #[error("invalid owner '{owner}' of {kind} {name}: give its number")]
    #[allow(missing_docs, reason = "the names say it")]
    Owner {
        kind: &'static str,
        name: String,
        owner: String,
    },
    /// The managers have told that it is yet to come, and why.
    #[error("{0}")]
    Withheld(String),
}

/// The files of a task.
///
/// # Errors
/// The first of them that it cannot have.
pub fn files(task: &Task, known: &Payloads) -> Result<Vec<File>, FilesError> {
    let spec = &task.spec.container_spec;
    let mut sources = Vec::new();
    for secret in &spec.secrets {
        let (id, name) = (&secret.secret_id, &secret.secret_name);
        let found = known.secrets.get(id).map(|secret| &secret.spec);
        if let (None, Some(reason)) = (found, known.withheld.get(id)) {
            return Err(FilesError::Withheld(reason.clone()));
        }
        let file = secret.file.as_ref();
        sources.push(Source::find("secret", SECRETS, name, file, found)?);
    }
    for config in &spec.configs {
        let (id, name) = (&config.config_id, &config.config_name);
        let found = known.configs.get(id).map(|config| &config.spec);
        let file = config.file.as_ref();
        sources.push(Source::find("config", CONFIGS, name, file, found)?);
    }
    // Only made where there is a template: it holds everything once more.
    let mut context = None;
    let context_of = || Context::of_payloads(task, attached(task, &sources));
    sources
        .iter()
        .filter_map(|source| Some((source, source.file?)))
        .map(|(source, file)| {
            let data = if source.spec.templating.is_some() {
                source.expand(context.get_or_insert_with(context_of))?
            } else {
                source.spec.data.clone()
            };
            source.file(file, data)
        })
        .collect()
}

/// A secret or config that a task refers to.
struct Source<'a> {
    kind: &'static str,
    folder: &'static str,
    name: &'a str,
    spec: &'a PayloadSpec,
    /// `None`: it is no file, but for the engine itself.
    file: Option<&'a ReferenceFile>,
}

impl<'a> Source<'a> {
    fn find(
        kind: &'static str,
        folder: &'static str,
        name: &'a str,
        file: Option<&'a ReferenceFile>,
        found: Option<&'a PayloadSpec>,
    ) -> Result<Self, FilesError> {
        let Some(spec) = found else {
            let name = name.to_owned();
            return Err(FilesError::Unknown { kind, name });
        };
        Ok(Self {
            kind,
            folder,
            name,
            spec,
            file,
        })
    }

    fn expand(&self, context: &Context) -> Result<Payload, FilesError> {
        let (kind, name) = (self.kind, || self.name.to_owned());
        let templating = self.spec.templating.as_ref();
        if templating.is_some_and(|templating| templating.name != GOLANG) {
            return Err(FilesError::Templating { kind, name: name() });
        }
        let text = std::str::from_utf8(&self.spec.data)
            .map_err(|_| FilesError::NotText { kind, name: name() })?;
        let expanded = template::expand(text, context).map_err(|error| FilesError::Template {
            kind,
            name: name(),
            error,
        })?;
        Ok(expanded.into_bytes().into())
    }

    fn file(&self, file: &ReferenceFile, data: Payload) -> Result<File, FilesError> {
        let owner = |owner: &str| match owner {
            "" => Ok(0),
            owner => owner.parse().map_err(|_| FilesError::Owner {
                kind: self.kind,
                name: self.name.to_owned(),
                owner: owner.to_owned(),
            }),
        };
        Ok(File {
            target: target(self.folder, &file.name),
            data,
            uid: owner(&file.uid)?,
            gid: owner(&file.gid)?,
            mode: mode(file.mode),
        })
    }
}

/// Where a file is in its container. `..` leads no further up than to the root.
fn target(folder: &str, name: &str) -> String {
    let mut path = PathBuf::from("/");
    for component in Path::new(folder).join(name).components() {
        match component {
            Component::ParentDir => drop(path.pop()),
            Component::Normal(part) => path.push(part),
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    path.to_string_lossy().into_owned()
}

fn mode(go: u32) -> u32 {
    let special = GO_BITS.iter().filter(|(theirs, _)| go & theirs != 0);
    special.fold(go & PERMISSIONS, |mode, (_, ours)| mode | ours)
}

/// What templates can read by the name of its file.
fn attached(task: &Task, sources: &[Source<'_>]) -> Attached {
    let of_kind = |kind: &str| {
        sources
            .iter()
            .filter(|source| source.kind == kind)
            .filter_map(|source| Some((source.file?.name.clone(), source.spec.data.clone())))
            .collect()
    };
    let mut env = BTreeMap::new();
    for entry in &task.spec.container_spec.env {
        if let Some((name, value)) = entry.split_once('=') {
            env.entry(name.to_owned())
                .or_insert_with(|| value.to_owned());
        }
    }
    Attached {
        secrets: of_kind("secret"),
        configs: of_kind("config"),
        env,
    }
}

/// How the engine is told of files that are at `sources`, in the same order.
pub fn file_mounts(files: &[File], sources: &[PathBuf]) -> Vec<Mount> {
    files
        .iter()
        .zip(sources)
        .map(|(file, source)| Mount {
            target: Some(file.target.clone()),
            source: Some(source.to_string_lossy().into_owned()),
            typ: Some(MountType::BIND),
            read_only: Some(true),
            ..Mount::default()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn known(secrets: Value, configs: Value) -> Payloads {
        let specs = |value: Value| -> BTreeMap<String, PayloadSpec> {
            serde_json::from_value(value).unwrap()
        };
        Payloads {
            secrets: specs(secrets)
                .into_iter()
                .map(|(id, spec)| {
                    let secret = Secret {
                        spec,
                        ..Secret::default()
                    };
                    (id, Arc::new(secret))
                })
                .collect(),
            withheld: BTreeMap::new(),
            configs: specs(configs)
                .into_iter()
                .map(|(id, spec)| {
                    let config = Config {
                        spec,
                        ..Config::default()
                    };
                    (id, Arc::new(config))
                })
                .collect(),
        }
    }

    fn task(container: Value) -> Task {
        let mut task = Task {
            id: "t1".into(),
            service_name: "web".into(),
            node_id: "n1".into(),
            slot: 2,
            ..Task::default()
        };
        task.spec.container_spec = serde_json::from_value(container).unwrap();
        task
    }

    fn data(text: &str) -> Value {
        serde_json::to_value(Payload::from(text)).unwrap()
    }

    fn secret(id: &str, file: Value) -> Value {
        json!({"SecretID": id, "SecretName": format!("name-of-{id}"), "File": file})
    }

    fn config(id: &str, file: Value) -> Value {
        json!({"ConfigID": id, "ConfigName": format!("name-of-{id}"), "File": file})
    }

    fn file(name: &str) -> Value {
        json!({"Name": name, "UID": "0", "GID": "0", "Mode": 0o444})
    }

    #[test]
    fn files_are_where_and_whose_they_are_asked_to_be() {
        let known = known(
            json!({"s1": {"Data": data("one")}}),
            json!({"c1": {"Data": data("two")}, "c2": {"Data": data("for the engine")}}),
        );
        let task = task(json!({
            "Secrets": [
                secret("s1", file("key")),
                secret("s1", json!({"Name": "/etc/k/../key", "UID": "7", "GID": "8", "Mode": 0o400 | 1 << 23})),
            ],
            "Configs": [
                config("c1", json!({"Name": "app/conf", "UID": "", "GID": "", "Mode": 0o640})),
                config("c1", file("../../up")),
                {"ConfigID": "c2", "ConfigName": "name-of-c2", "Runtime": {}},
            ],
        }));
        let files = files(&task, &known).unwrap();
        let seen: Vec<_> = files
            .iter()
            .map(|f| (f.target.as_str(), &*f.data, f.uid, f.gid, f.mode))
            .collect();
        assert_eq!(
            seen,
            [
                ("/run/secrets/key", &b"one"[..], 0, 0, 0o444),
                ("/etc/key", b"one", 7, 8, 0o4400),
                ("/app/conf", b"two", 0, 0, 0o640),
                ("/up", b"two", 0, 0, 0o444),
            ]
        );
        let mounts = file_mounts(&files[..1], &["/run/x/0".into()]);
        assert_eq!(
            serde_json::to_value(&mounts).unwrap(),
            json!([{"Type": "bind", "Source": "/run/x/0", "Target": "/run/secrets/key", "ReadOnly": true}])
        );
    }

    #[test]
    fn templates_read_the_task_and_what_is_attached_to_it() {
        let template = r#"{{.Task.Name}} on {{.Node.ID}}{{.Node.Hostname}}: {{secret "key"}}, {{config "plain"}}, {{env "A"}}{{env "none"}}"#;
        let golang = json!({"Name": "golang"});
        let known = known(
            json!({"s1": {"Data": data("{{.Task.ID}}"), "Templating": golang}}),
            json!({
                "c1": {"Data": data(template), "Templating": golang},
                "c2": {"Data": data("{{plain}}")},
            }),
        );
        let task = task(json!({
            "Env": ["A=1", "A=2", "B"],
            "Secrets": [secret("s1", file("key"))],
            "Configs": [config("c1", file("conf")), config("c2", file("plain"))],
        }));
        let files = files(&task, &known).unwrap();
        let text = |n: usize| std::str::from_utf8(&files[n].data).unwrap().to_owned();
        assert_eq!(text(0), "t1");
        // What is put in is not expanded in turn.
        assert_eq!(text(1), "web.2.t1 on n1: {{.Task.ID}}, {{plain}}, 1");
        assert_eq!(text(2), "{{plain}}");
    }

    #[test]
    fn what_a_task_cannot_have_is_named() {
        let mut known = known(
            json!({
                "s1": {"Data": data("x")},
                "s3": {"Data": data("x"), "Templating": {"Name": "jinja"}},
                "s4": {"Data": data(r#"{{secret "none"}}"#), "Templating": {"Name": "golang"}},
                "s5": {"Data": "/w==", "Templating": {"Name": "golang"}},
            }),
            json!({}),
        );
        known.withheld.insert("s2".into(), "not yet".into());
        let refusal = |id: &str, file: Value| {
            let task = task(json!({"Secrets": [secret(id, file)]}));
            files(&task, &known).unwrap_err().to_string()
        };
        assert_eq!(refusal("s9", file("a")), "secret not found: name-of-s9");
        assert_eq!(refusal("s2", file("a")), "not yet");
        let failed = |id: &str| format!("failed to expand templated secret name-of-{id}: ");
        assert_eq!(
            refusal("s3", file("a")),
            failed("s3") + "unrecognized template type"
        );
        assert_eq!(
            refusal("s4", file("a")),
            failed("s4") + "template: error calling secret: secret target none not found"
        );
        assert_eq!(refusal("s5", file("a")), failed("s5") + "it is not UTF-8");
        let named = json!({"Name": "a", "UID": "root"});
        assert!(refusal("s1", named).starts_with("invalid owner 'root'"));
    }
}
