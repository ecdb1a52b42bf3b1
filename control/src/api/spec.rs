//! Service specs as clients send them: what may be left out or written in several ways becomes what
//! the store has a type for, so that a spec that was read and sent back is the same.

use super::{error::ApiError, json, references, version::ApiVersion};
use serde_json::{Map, Value, json};
use skein_model::ServiceSpec;
use tonic::Code;

type Fields = Map<String, Value>;

/// The first version in which networks are named in the task template alone.
const NETWORKS_IN_TEMPLATE: ApiVersion = ApiVersion::new(1, 44);

/// Fields by the first version that has them; `*` stands for every item of a list. What a client
/// writes in an older one is not meant.
const FIELDS_SINCE: [(ApiVersion, &[&str]); 5] = [
    (
        ApiVersion::new(1, 40),
        &[
            "TaskTemplate/ContainerSpec/Sysctls",
            "TaskTemplate/ContainerSpec/Privileges/CredentialSpec/Config",
            "TaskTemplate/ContainerSpec/Configs/*/Runtime",
            "TaskTemplate/Placement/MaxReplicas",
        ],
    ),
    (
        ApiVersion::new(1, 41),
        &[
            "TaskTemplate/ContainerSpec/CapabilityAdd",
            "TaskTemplate/ContainerSpec/CapabilityDrop",
            "TaskTemplate/ContainerSpec/Ulimits",
            "TaskTemplate/Resources/Limits/Pids",
            "Mode/ReplicatedJob",
            "Mode/GlobalJob",
        ],
    ),
    (
        ApiVersion::new(1, 44),
        &[
            "TaskTemplate/ContainerSpec/Privileges/Seccomp",
            "TaskTemplate/ContainerSpec/Privileges/AppArmor",
            "TaskTemplate/ContainerSpec/Privileges/NoNewPrivileges",
            "TaskTemplate/ContainerSpec/Healthcheck/StartInterval",
        ],
    ),
    (
        ApiVersion::new(1, 46),
        &[
            "TaskTemplate/ContainerSpec/Mounts/*/TmpfsOptions/Options",
            "TaskTemplate/ContainerSpec/OomScoreAdj",
        ],
    ),
    (
        ApiVersion::new(1, 52),
        &[
            "TaskTemplate/Resources/SwapBytes",
            "TaskTemplate/Resources/MemorySwappiness",
        ],
    ),
];

/// Takes away what the version does not have.
fn strip(spec: &mut Fields, version: ApiVersion) {
    let newer = FIELDS_SINCE.iter().filter(|(since, _)| version < *since);
    for path in newer.flat_map(|(_, paths)| *paths) {
        remove(spec, path);
    }
    if version >= NETWORKS_IN_TEMPLATE {
        spec.remove("Networks");
    }
}

fn remove(fields: &mut Fields, path: &str) {
    let Some((name, rest)) = path.split_once('/') else {
        fields.remove(path);
        return;
    };
    match (fields.get_mut(name), rest.strip_prefix("*/")) {
        (Some(Value::Object(inner)), None) => remove(inner, rest),
        (Some(Value::Array(items)), Some(rest)) => {
            for item in items.iter_mut().filter_map(Value::as_object_mut) {
                remove(item, rest);
            }
        }
        _ => {}
    }
}

/// Reads the body of a service's create or update, written in a version of the API.
///
/// # Errors
/// 400, in the reference's words where it has any.
pub fn parse(body: &[u8], version: ApiVersion) -> Result<ServiceSpec, ApiError> {
    let mut value = json::parse(body)?;
    let Some(spec) = value.as_object_mut() else {
        return Err(ApiError::invalid(
            "invalid JSON: a service spec is an object",
        ));
    };
    strip(spec, version);
    check_runtime(spec)?;
    check_mode(spec)?;
    let networks = spec.remove("Networks");
    for name in ["UpdateConfig", "RollbackConfig"] {
        if let Some(config) = fields(spec, name) {
            check_update_config(config)?;
        }
    }
    if let Some(endpoint) = fields(spec, "EndpointSpec") {
        check_endpoint(endpoint)?;
    }
    let Some(template) = fields(spec, "TaskTemplate") else {
        return Err(mismatched());
    };
    // Where older clients name the networks.
    if let Some(networks) = networks.filter(|_| is_empty(template.get("Networks"))) {
        template.insert("Networks".into(), networks);
    }
    check_template(template)?;
    json::typed(value)
}

fn fields<'a>(of: &'a mut Fields, name: &str) -> Option<&'a mut Fields> {
    of.get_mut(name).and_then(Value::as_object_mut)
}

fn is_empty(value: Option<&Value>) -> bool {
    value
        .and_then(Value::as_array)
        .is_none_or(|items| items.is_empty())
}

/// Brings a choice into one of its known forms; "" becomes the first of them.
fn choice(
    of: &mut Fields,
    name: &str,
    known: &[&str],
    refusal: impl Fn(&str) -> String,
) -> Result<(), ApiError> {
    let text = of.get(name).and_then(Value::as_str).unwrap_or_default();
    let form = match text {
        "" => known[0],
        text => *known
            .iter()
            .find(|form| form.eq_ignore_ascii_case(text))
            .ok_or_else(|| ApiError::invalid(refusal(text)))?,
    };
    of.insert(name.into(), form.into());
    Ok(())
}

/// The same where an unknown form silently is the first of the known ones, as in Swarm.
fn choice_or_default(of: &mut Fields, name: &str, known: &[&str]) {
    if choice(of, name, known, str::to_owned).is_err() {
        of.insert(name.into(), known[0].into());
    }
}

/// Exactly one mode, replicated where none is named.
fn check_mode(spec: &mut Fields) -> Result<(), ApiError> {
    let mode = spec.entry("Mode").or_insert_with(|| json!({}));
    let Some(mode) = mode.as_object_mut() else {
        return Err(ApiError::invalid(
            "invalid JSON: a service's Mode is an object",
        ));
    };
    if mode.is_empty() {
        mode.insert("Replicated".into(), json!({"Replicas": 1}));
        return Ok(());
    }
    if mode.len() > 1 {
        return Err(ApiError::invalid("must specify only one service mode"));
    }
    for (kind, number, refusal) in [
        (
            "Replicated",
            "Replicas",
            "Number of replicas must be non-negative",
        ),
        (
            "ReplicatedJob",
            "MaxConcurrent",
            "Maximum concurrent jobs must not be negative",
        ),
        (
            "ReplicatedJob",
            "TotalCompletions",
            "Total completed jobs must not be negative",
        ),
    ] {
        let value = mode.get(kind).and_then(|mode| mode.get(number));
        if value.and_then(Value::as_i64).is_some_and(|n| n < 0) {
            return Err(ApiError::rpc(Code::InvalidArgument, refusal));
        }
    }
    if let Some(job) = fields(mode, "ReplicatedJob") {
        let concurrent = job.entry("MaxConcurrent").or_insert(1.into()).clone();
        job.entry("TotalCompletions").or_insert(concurrent);
    }
    Ok(())
}

fn check_update_config(config: &mut Fields) -> Result<(), ApiError> {
    choice(
        config,
        "FailureAction",
        &["pause", "continue", "rollback"],
        |text| format!("unrecognized update failure action {text}"),
    )?;
    choice(config, "Order", &["stop-first", "start-first"], |text| {
        format!("unrecognized update order {text}")
    })?;
    // No time to watch is the default time.
    if config.get("Monitor").and_then(Value::as_i64) == Some(0) {
        config.remove("Monitor");
    }
    Ok(())
}

fn check_endpoint(endpoint: &mut Fields) -> Result<(), ApiError> {
    choice(endpoint, "Mode", &["vip", "dnsrr"], |text| {
        format!("invalid resolution mode: {text:?}")
    })?;
    for port in each(endpoint, "Ports") {
        for name in ["TargetPort", "PublishedPort"] {
            let number = port.get(name).unwrap_or(&Value::Null);
            let known = number.as_u64().is_some_and(|n| n <= u64::from(u16::MAX));
            if !number.is_null() && !known {
                return Err(ApiError::invalid(format!(
                    "EndpointSpec: invalid {name} {number}: ports are numbers from 1 to 65535"
                )));
            }
        }
        choice_or_default(port, "Protocol", &["tcp", "udp", "sctp"]);
        choice_or_default(port, "PublishMode", &["ingress", "host"]);
    }
    Ok(())
}

fn each<'a>(of: &'a mut Fields, name: &str) -> impl Iterator<Item = &'a mut Fields> {
    let items = of.get_mut(name).and_then(Value::as_array_mut);
    items.into_iter().flatten().filter_map(Value::as_object_mut)
}

/// What a task's runtime must have is missing, or is another's.
fn mismatched() -> ApiError {
    ApiError::invalid("mismatched Runtime and *Spec fields")
}

/// Tasks of services are containers: plugins are refused as by an engine without experimental features, and
/// attachments are nobody's to ask for.
fn check_runtime(spec: &Fields) -> Result<(), ApiError> {
    let template = spec.get("TaskTemplate").and_then(Value::as_object);
    let template = template.ok_or_else(mismatched)?;
    let has = |name: &str| template.get(name).is_some_and(Value::is_object);
    match template.get("Runtime").and_then(Value::as_str) {
        None | Some("" | "container") if has("ContainerSpec") => Ok(()),
        Some("plugin") if has("PluginSpec") => {
            let is_replicated = spec
                .get("Mode")
                .is_some_and(|mode| mode["Replicated"].is_object());
            Err(match is_replicated {
                true => ApiError::invalid("plugins must not use replicated mode"),
                // The reference's error has no type here.
                false => {
                    ApiError::internal("runtime type \"plugin\" only supported in experimental")
                }
            })
        }
        None | Some("" | "container" | "plugin") => Err(mismatched()),
        Some(_) => Err(ApiError::invalid("unsupported runtime")),
    }
}

fn check_template(template: &mut Fields) -> Result<(), ApiError> {
    template.insert("Runtime".into(), "container".into());
    if let Some(policy) = fields(template, "RestartPolicy") {
        choice(
            policy,
            "Condition",
            &["any", "none", "on-failure"],
            |text| format!("invalid RestartCondition: {text:?}"),
        )?;
    }
    let Some(container) = fields(template, "ContainerSpec") else {
        return Err(mismatched());
    };
    choice_or_default(container, "Isolation", &["default", "process", "hyperv"]);
    references::check(container)?;
    for mount in each(container, "Mounts") {
        choice(
            mount,
            "Type",
            &["bind", "volume", "tmpfs", "npipe", "cluster"],
            |text| format!("invalid MountType: {text:?}"),
        )?;
        if let Some(options) = fields(mount, "BindOptions") {
            choice(
                options,
                "Propagation",
                &[
                    "rprivate", "private", "rshared", "shared", "rslave", "slave",
                ],
                |text| format!("invalid MountPropagation: {text:?}"),
            )?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_model::{PortProtocol, PublishMode, ServiceMode};

    const MINIMAL: &str = r#"{"Name":"web","Labels":null,"TaskTemplate":{"ContainerSpec":{"Image":"nginx:latest","Init":false,"DNSConfig":{}},
        "Resources":{"Limits":{},"Reservations":{}},"Placement":{"Platforms":[{"Architecture":"amd64","OS":"linux"}]},"ForceUpdate":0},
        "Mode":{"Replicated":{}},"EndpointSpec":{"Mode":"vip","Ports":[{"Protocol":"tcp","TargetPort":80,"PublishedPort":8080,"PublishMode":"ingress"}]}}"#;

    #[test]
    fn what_the_cli_sends_reads_back_with_the_references_shape() {
        let spec = parse(MINIMAL.as_bytes(), ApiVersion::NEWEST).unwrap();
        assert_eq!(spec.mode, ServiceMode::Replicated { replicas: 1 });
        let shown = json::shown(&spec).unwrap();
        assert_eq!(
            shown,
            json!({
                "Name": "web", "Labels": {},
                "TaskTemplate": {
                    "ContainerSpec": {"Image": "nginx:latest", "Init": false, "DNSConfig": {}, "Isolation": "default"},
                    "Resources": {"Limits": {}, "Reservations": {}},
                    "Placement": {"Platforms": [{"Architecture": "amd64", "OS": "linux"}]},
                    "ForceUpdate": 0, "Runtime": "container",
                },
                "Mode": {"Replicated": {"Replicas": 1}},
                "EndpointSpec": {"Mode": "vip", "Ports": [
                    {"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "ingress"}]},
            })
        );
        let again = parse(shown.to_string().as_bytes(), ApiVersion::NEWEST).unwrap();
        assert_eq!(again, spec, "what was read can be sent back unchanged");
    }

    /// A service that uses every field of the newest version that Swarm keeps.
    const EVERY_FIELD: &str = include_str!("spec/every_field.json");

    #[test]
    fn every_field_of_the_newest_version_is_kept() {
        let spec = parse(EVERY_FIELD.as_bytes(), ApiVersion::NEWEST).unwrap();
        let written: Value = serde_json::from_str(EVERY_FIELD).unwrap();
        assert_eq!(json::shown(&spec).unwrap(), written);
    }

    /// By version: what of those fields is not meant in the one before it.
    const FIELDS_OF_VERSIONS: &str = include_str!("spec/fields_of_versions.json");

    #[test]
    fn every_version_keeps_the_fields_that_it_has() {
        let golden: Value = serde_json::from_str(FIELDS_OF_VERSIONS).unwrap();
        let mut expected: Value = serde_json::from_str(EVERY_FIELD).unwrap();
        // One without its target is refused, not less than it was.
        let configs = expected.pointer_mut("/TaskTemplate/ContainerSpec/Configs");
        configs.unwrap().as_array_mut().unwrap().pop();
        let written = expected.to_string();
        let mut versions: Vec<(ApiVersion, &Value)> = golden
            .as_object()
            .unwrap()
            .iter()
            .map(|(version, fields)| (ApiVersion::parse(version).unwrap(), fields))
            .collect();
        versions.sort_by_key(|(version, _)| *version);
        let mut newer = ApiVersion::NEWEST;
        for (since, fields) in versions.into_iter().rev() {
            for version in [newer, since] {
                let spec = parse(written.as_bytes(), version).unwrap();
                assert_eq!(json::shown(&spec).unwrap(), expected, "{version}");
            }
            for path in fields.as_array().unwrap() {
                let (parent, name) = path.as_str().unwrap().rsplit_once('/').unwrap();
                let parent = expected.pointer_mut(parent).unwrap();
                parent.as_object_mut().unwrap().remove(name).unwrap();
            }
            let text = since.to_string();
            let minor: u16 = text.strip_prefix("1.").unwrap().parse().unwrap();
            newer = ApiVersion::new(1, minor - 1);
        }
        let spec = parse(written.as_bytes(), ApiVersion::OLDEST).unwrap();
        assert_eq!(json::shown(&spec).unwrap(), expected);
    }

    fn with(change: impl FnOnce(&mut Value)) -> Result<ServiceSpec, ApiError> {
        let mut value: Value = serde_json::from_str(MINIMAL).unwrap();
        change(&mut value);
        parse(value.to_string().as_bytes(), ApiVersion::NEWEST)
    }

    #[test]
    fn some_unknown_choices_are_defaults() {
        let spec = with(|spec| {
            let container = &mut spec["TaskTemplate"]["ContainerSpec"];
            container["Isolation"] = "odd".into();
            container["Mounts"] = json!([{"Type": "bind", "BindOptions": {"NonRecursive": true}}]);
            spec["EndpointSpec"]["Ports"][0]["Protocol"] = "odd".into();
        })
        .unwrap();
        let shown = json::shown(&spec).unwrap();
        let container = &shown["TaskTemplate"]["ContainerSpec"];
        assert_eq!(container["Isolation"], "default");
        let propagation = &container["Mounts"][0]["BindOptions"]["Propagation"];
        assert_eq!(propagation, "rprivate");
        assert_eq!(
            spec.endpoint_spec.unwrap().ports[0].protocol,
            PortProtocol::Tcp
        );
    }

    #[test]
    fn unknown_choices_are_refused_in_the_references_words() {
        let cases: [(&str, Value, &str); 11] = [
            (
                "/EndpointSpec/Ports",
                json!([{"TargetPort": 80, "PublishedPort": 65_536}]),
                "EndpointSpec: invalid PublishedPort 65536: ports are numbers from 1 to 65535",
            ),
            (
                "/EndpointSpec/Ports",
                json!([{"TargetPort": -1}]),
                "EndpointSpec: invalid TargetPort -1: ports are numbers from 1 to 65535",
            ),
            (
                "/Mode",
                json!({"Replicated": {}, "Global": {}}),
                "must specify only one service mode",
            ),
            (
                "/Mode",
                json!({"Replicated": {"Replicas": -1}}),
                "rpc error: code = InvalidArgument desc = Number of replicas must be non-negative",
            ),
            (
                "/TaskTemplate/ContainerSpec/Privileges",
                json!({"CredentialSpec": {}}),
                "invalid CredentialSpec: must either provide \"file\", \"registry\", or \"config\" for credential spec",
            ),
            (
                "/TaskTemplate/ContainerSpec/Privileges",
                json!({"CredentialSpec": {"File": "a", "Registry": "b"}}),
                "invalid CredentialSpec: cannot specify both \"file\" and \"registry\" credential specs",
            ),
            (
                "/EndpointSpec/Mode",
                json!("x"),
                "invalid resolution mode: \"x\"",
            ),
            (
                "/TaskTemplate/ContainerSpec/Mounts",
                json!([{"Type": "image"}]),
                "invalid MountType: \"image\"",
            ),
            (
                "/TaskTemplate/RestartPolicy",
                json!({"Condition": "x"}),
                "invalid RestartCondition: \"x\"",
            ),
            (
                "/UpdateConfig",
                json!({"Order": "x"}),
                "unrecognized update order x",
            ),
            (
                "/TaskTemplate/ContainerSpec",
                Value::Null,
                "mismatched Runtime and *Spec fields",
            ),
        ];
        for (path, value, message) in cases {
            let (parent, name) = path.rsplit_once('/').unwrap();
            let error = with(|spec| spec.pointer_mut(parent).unwrap()[name] = value).unwrap_err();
            assert_eq!((error.status.as_u16(), &*error.message), (400, message));
        }
    }

    #[test]
    fn tasks_are_containers() {
        let refused = |runtime: &str, change: &dyn Fn(&mut Value)| {
            let refused = with(|spec| {
                spec["TaskTemplate"]["Runtime"] = runtime.into();
                change(spec);
            });
            let error = refused.unwrap_err();
            (error.status.as_u16(), error.message)
        };
        let mismatched = (400, "mismatched Runtime and *Spec fields".to_owned());
        let none = |spec: &mut Value| spec["TaskTemplate"]["ContainerSpec"] = Value::Null;
        for runtime in ["", "container"] {
            assert_eq!(refused(runtime, &none), mismatched);
        }
        assert_eq!(refused("plugin", &|_| {}), mismatched);
        let plugin = |mode: Value| {
            move |spec: &mut Value| {
                spec["TaskTemplate"]["PluginSpec"] = json!({"name": "p", "remote": "p:1"});
                spec["Mode"] = mode.clone();
            }
        };
        assert_eq!(
            refused("plugin", &plugin(json!({"Replicated": {}}))),
            (400, "plugins must not use replicated mode".to_owned())
        );
        for mode in [json!({}), json!({"Global": {}})] {
            assert_eq!(
                refused("plugin", &plugin(mode)),
                (
                    500,
                    "runtime type \"plugin\" only supported in experimental".to_owned()
                )
            );
        }
        for runtime in ["attachment", "odd"] {
            let unsupported = (400, "unsupported runtime".to_owned());
            assert_eq!(refused(runtime, &|_| {}), unsupported);
        }
    }

    #[test]
    fn empty_choices_are_the_defaults_and_odd_ports_too() {
        let spec = with(|spec| {
            spec["Mode"] = json!({});
            spec["UpdateConfig"] = json!({"FailureAction": "", "Monitor": 0});
            spec["EndpointSpec"] = json!({"Mode": "", "Ports": [{"Protocol": "", "TargetPort": 1, "PublishMode": "odd"}]});
        })
        .unwrap();
        assert_eq!(spec.mode, ServiceMode::Replicated { replicas: 1 });
        assert_eq!(spec.update_config.unwrap().monitor, None);
        let ports = spec.endpoint_spec.unwrap().ports;
        assert_eq!(ports[0].protocol, PortProtocol::Tcp);
        assert_eq!(ports[0].publish_mode, PublishMode::Ingress);
    }

    #[test]
    fn older_clients_do_not_mean_what_their_version_lacks() {
        let mut value: Value = serde_json::from_str(MINIMAL).unwrap();
        value["Mode"] = json!({"ReplicatedJob": {"MaxConcurrent": 3}});
        value["Networks"] = json!([{"Target": "front"}]);
        let template = &mut value["TaskTemplate"];
        template["Placement"]["MaxReplicas"] = 1.into();
        template["Resources"] =
            json!({"Limits": {"Pids": 5, "MemoryBytes": 9_000_000}, "SwapBytes": 1});
        let container = &mut template["ContainerSpec"];
        container["Sysctls"] = json!({"a": "b"});
        container["CapabilityAdd"] = json!(["CAP_NET_ADMIN"]);
        container["Privileges"] = json!({"NoNewPrivileges": true});
        container["OomScoreAdj"] = 5.into();
        container["Mounts"] = json!([{"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"Options": [["noexec"]], "SizeBytes": 9}}]);
        let read = |minor| parse(value.to_string().as_bytes(), ApiVersion::new(1, minor)).unwrap();
        let job = ServiceMode::ReplicatedJob {
            max_concurrent: 3,
            total_completions: 3,
        };
        for minor in [39, 40, 41, 44, 46, 52] {
            let spec = read(minor);
            let (task, since) = (&spec.task_template, |first| minor >= first);
            let container = &task.container_spec;
            let resources = task.resources.as_ref().unwrap();
            let placement = task.placement.as_ref().unwrap();
            let tmpfs = container.mounts[0].tmpfs_options.as_ref().unwrap();
            assert_eq!(!container.sysctls.is_empty(), since(40));
            assert_eq!(placement.max_replicas == 1, since(40));
            assert_eq!(!container.capability_add.is_empty(), since(41));
            assert_eq!(resources.limits.as_ref().unwrap().pids == 5, since(41));
            assert_eq!(spec.mode == job, since(41));
            assert_eq!(task.networks.is_empty(), since(44), "legacy networks");
            assert_eq!(
                container.privileges.as_ref().unwrap().no_new_privileges,
                since(44)
            );
            assert_eq!(!tmpfs.options.is_empty(), since(46));
            assert_eq!(tmpfs.size_bytes, 9);
            assert_eq!(container.oom_score_adj == 5, since(46));
            assert_eq!(resources.swap_bytes.is_some(), since(52));
        }
    }

    #[test]
    fn a_job_reads_back_with_both_of_its_numbers() {
        let spec = with(|spec| spec["Mode"] = json!({"ReplicatedJob": {}})).unwrap();
        assert_eq!(
            json::shown(&spec.mode).unwrap(),
            json!({"ReplicatedJob": {"MaxConcurrent": 1, "TotalCompletions": 1}})
        );
        let spec = with(|spec| spec["Mode"] = json!({"GlobalJob": {}})).unwrap();
        assert_eq!(json::shown(&spec.mode).unwrap(), json!({"GlobalJob": {}}));
    }
}
