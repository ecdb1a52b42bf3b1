//! Specs that are refused, in the API's words.

use super::*;
use crate::{return_mode::RETURN_MODE_LABEL, testing::Fixture};
use proptest::prelude::*;
use skein_model::{
    ClusterSpec, EndpointSpec, Healthcheck, Limits, Mount, NetworkAttachmentConfig,
    NetworkReference, NetworkSpec, Placement, PortConfig, PublishMode, Reservations,
    ResolutionMode, ResourceRequirements, RestartPolicy, ServiceMode, ServiceSpec, UpdateConfig,
};
use std::collections::BTreeMap;

fn spec() -> ServiceSpec {
    let mut spec = ServiceSpec {
        name: "web".into(),
        ..ServiceSpec::default()
    };
    spec.task_template.container_spec.image = "demo:1".into();
    spec
}

fn port(published_port: u16, publish_mode: PublishMode) -> PortConfig {
    PortConfig {
        target_port: 80,
        published_port,
        publish_mode,
        ..PortConfig::default()
    }
}

/// What the API would say of a service spec that was changed like this.
fn refusal(change: impl FnOnce(&mut ServiceSpec)) -> (SpecErrorKind, String) {
    let mut spec = spec();
    change(&mut spec);
    let error = check_service(&Fixture::default().state, None, &spec).unwrap_err();
    (error.kind, error.message)
}

fn invalid(change: impl FnOnce(&mut ServiceSpec)) -> String {
    let (kind, message) = refusal(change);
    assert_eq!(kind, SpecErrorKind::Invalid, "{message}");
    message
}

#[test]
fn a_plain_service_passes() {
    check_service(&Fixture::default().state, None, &spec()).unwrap();
}

#[test]
fn templates_are_tried_before_there_is_a_task() {
    let mut service = spec();
    service.labels.insert("tier".into(), "x".into());
    let state = &Fixture::default().state;
    let container = &mut service.task_template.container_spec;
    container.hostname = "{{.Node.Hostname}}-{{.Task.Slot}}".into();
    container.env = vec![
        "TIER={{.Service.Labels.tier}}".into(),
        "{{bare".into(),
        // What a task will have is long enough for any part of it.
        "PART={{slice .Task.ID 0 12}}{{slice .Node.ID 0 12}}".into(),
        "FIRST={{if eq .Task.Slot \"1\"}}yes{{else}}no{{end}}".into(),
    ];
    assert_eq!(check_service(state, None, &service), Ok(()));
    let container = &mut service.task_template.container_spec;
    container.env.push("X={{.Nothing}}".into());
    let error = check_service(state, None, &service).unwrap_err();
    assert_eq!(error.kind, SpecErrorKind::Invalid);
    assert!(
        error.message.starts_with("expanding env failed: "),
        "{error}"
    );
}

#[test]
fn services_are_refused_in_the_references_words() {
    let name = "name must be valid as a DNS name component";
    assert_eq!(invalid(|s| s.name = "a.b".into()), name);
    assert_eq!(invalid(|s| s.name = String::new()), name);
    assert_eq!(invalid(|s| s.name = "web-".into()), name);
    assert_eq!(
        invalid(|s| s.name = "a".repeat(64)),
        "name must be 63 characters or fewer"
    );
    assert_eq!(
        invalid(|s| s.task_template.container_spec.image.clear()),
        "ContainerSpec: image reference must be provided"
    );
    assert_eq!(
        invalid(|s| s.task_template.container_spec.image = "A b".into()),
        "ContainerSpec: \"A b\" is not a valid repository/tag"
    );
    let mount = Mount {
        target: "/x".into(),
        ..Mount::default()
    };
    assert_eq!(
        invalid(|s| s.task_template.container_spec.mounts = vec![mount.clone(), mount]),
        "ContainerSpec: duplicate mount point: /x"
    );
    let of_cluster = Mount {
        kind: skein_model::MountKind::Cluster,
        source: "group:fast".into(),
        target: "/x".into(),
        ..Mount::default()
    };
    let (kind, message) = refusal(|s| s.task_template.container_spec.mounts = vec![of_cluster]);
    assert_eq!(kind, SpecErrorKind::Unimplemented);
    assert!(
        message.starts_with("mounts of type cluster are not supported"),
        "{message}"
    );
    assert_eq!(
        invalid(
            |s| s.task_template.container_spec.healthcheck = Some(Healthcheck {
                timeout: 5,
                ..Healthcheck::default()
            })
        ),
        "ContainerSpec: Timeout in HealthConfig cannot be less than 1ms"
    );
    assert_eq!(
        invalid(|s| {
            let dns = &mut s.task_template.container_spec.dns_config;
            dns.get_or_insert_default().nameservers = vec!["fd00::1".into(), "resolver".into()];
        }),
        "ContainerSpec: nameserver \"resolver\" in DNSConfig is not an IP address"
    );
    assert_eq!(
        invalid(|s| s.task_template.restart_policy = Some(RestartPolicy {
            window: Some(-1),
            ..RestartPolicy::default()
        })),
        "TaskSpec: restart-window cannot be negative"
    );
    assert_eq!(
        invalid(|s| s.update_config = Some(UpdateConfig {
            max_failure_ratio: 1.5,
            ..UpdateConfig::default()
        })),
        "TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1"
    );
    let (kind, message) = refusal(|s| {
        s.task_template.placement = Some(Placement {
            constraints: vec!["n==1".into()],
            ..Placement::default()
        });
    });
    assert_eq!(kind, SpecErrorKind::Internal);
    assert_eq!(
        message,
        "rpc error: code = Unknown desc = key 'n' is invalid"
    );
    assert_eq!(
        invalid(|s| {
            s.mode = ServiceMode::GlobalJob {};
            s.update_config = Some(UpdateConfig::default());
        }),
        "Jobs may not have an update config"
    );
    assert_eq!(
        invalid(|s| s.mode = ServiceMode::Replicated { replicas: u64::MAX }),
        "Number of replicas must be non-negative"
    );
    assert_eq!(
        invalid(|s| {
            s.mode = ServiceMode::ReplicatedJob {
                max_concurrent: 1,
                total_completions: u64::MAX,
            };
        }),
        "Total completed jobs must not be negative"
    );
    for (tasks, refused) in [(100_000, false), (100_001, true)] {
        for mode in [
            ServiceMode::Replicated { replicas: tasks },
            ServiceMode::ReplicatedJob {
                max_concurrent: tasks,
                total_completions: 1,
            },
        ] {
            let mut spec = spec();
            spec.mode = mode;
            let result = check_service(&Fixture::default().state, None, &spec);
            assert_eq!(result.is_err(), refused, "{mode:?}");
        }
    }
}

#[test]
fn resources_have_lower_bounds() {
    let resources = |limits, reservations| {
        invalid(move |s| {
            s.task_template.resources = Some(ResourceRequirements {
                limits,
                reservations,
                ..ResourceRequirements::default()
            });
        })
    };
    let cpu = Some(Limits {
        nano_cpus: 500_000,
        ..Limits::default()
    });
    assert_eq!(
        resources(cpu, None),
        "invalid cpu value 0.0005: Must be at least 0.001"
    );
    let memory = Some(Reservations {
        memory_bytes: 4096,
        ..Reservations::default()
    });
    assert_eq!(
        resources(None, memory),
        "invalid memory value 4096: Must be at least 4MiB"
    );
}

#[test]
fn ports_of_one_service_and_of_others_conflict() {
    let publish = |mode, ports: &[PortConfig]| {
        let ports = ports.to_vec();
        Some(EndpointSpec { mode, ports })
    };
    let twice = [port(80, PublishMode::Ingress), port(80, PublishMode::Host)];
    assert_eq!(
        invalid(|s| s.endpoint_spec = publish(ResolutionMode::Vip, &twice)),
        "EndpointSpec: duplicate published ports provided"
    );
    let ingress = [port(0, PublishMode::Ingress)];
    assert_eq!(
        invalid(|s| s.endpoint_spec = publish(ResolutionMode::Dnsrr, &ingress)),
        "EndpointSpec: port published with ingress mode can't be used with dnsrr mode"
    );
    let mut fixture = Fixture::default();
    let taken = publish(ResolutionMode::Vip, &[port(80, PublishMode::Ingress)]);
    fixture.service("first", |s| s.spec.endpoint_spec = taken.clone());
    let mut second = spec();
    second.endpoint_spec = taken;
    let error = check_service(&fixture.state, None, &second).unwrap_err();
    assert_eq!(
        error.message,
        "port '80' is already in use by service 'first' (first) as an ingress port"
    );
    // The service itself may keep what it has.
    let first = fixture.state.service("first").unwrap().clone();
    check_service(&fixture.state, Some(&first), &first.spec).unwrap();
}

#[test]
fn networks_of_a_service_become_ids() {
    let mut fixture = Fixture::default();
    fixture.network("id-of-front", |n| n.spec.name = "front".into());
    let attach = |target: &str| {
        let mut spec = spec();
        spec.task_template.networks.push(NetworkAttachmentConfig {
            target: target.into(),
            ..NetworkAttachmentConfig::default()
        });
        spec
    };
    let mut by_name = attach("front");
    resolve_networks(&fixture.state, &mut by_name).unwrap();
    assert_eq!(by_name.task_template.networks[0].target, "id-of-front");
    let unknown = resolve_networks(&fixture.state, &mut attach("back")).unwrap_err();
    assert_eq!(unknown.message, "network back not found");
    let ingress = resolve_networks(&fixture.state, &mut attach("ingress")).unwrap_err();
    assert_eq!(
        ingress.message,
        "Service cannot be explicitly attached to the ingress network \"ingress\""
    );
}

#[test]
fn updates_keep_name_and_mode() {
    let (before, mut after) = (spec(), spec());
    after.mode = ServiceMode::Replicated { replicas: 7 };
    check_service_update(&before, &after).unwrap();
    after.mode = ServiceMode::Global {};
    let error = check_service_update(&before, &after).unwrap_err();
    assert_eq!(error.message, "service mode change is not allowed");
    after.name = "other".into();
    let error = check_service_update(&before, &after).unwrap_err();
    assert_eq!(error.kind, SpecErrorKind::Unimplemented);
    assert_eq!(error.message, "renaming services is not supported");
}

#[test]
fn networks_are_refused_in_the_references_words() {
    let fixture = Fixture::default();
    let refusal = |fixture: &Fixture, change: &dyn Fn(&mut NetworkSpec)| {
        let mut spec = NetworkSpec {
            name: "front".into(),
            driver: "overlay".into(),
            ..NetworkSpec::default()
        };
        change(&mut spec);
        check_network(&fixture.state, &spec).map_err(|error| error.message)
    };
    refusal(&fixture, &|_| {}).unwrap();
    assert_eq!(
        refusal(&fixture, &|n| (n.ingress, n.attachable) = (true, true)).unwrap_err(),
        "ingress network cannot be attachable"
    );
    assert_eq!(
        refusal(&fixture, &|n| n.name = "a b".into()).unwrap_err(),
        "name must be valid as a DNS name component"
    );
}

#[test]
fn networks_of_the_nodes_have_what_the_nodes_say() {
    let fixture = Fixture::default();
    let with = |change: &dyn Fn(&mut NetworkSpec)| {
        let mut spec = NetworkSpec {
            name: "lan".into(),
            driver: "macvlan".into(),
            config_from: Some(NetworkReference {
                network: "lan-here".into(),
            }),
            ..NetworkSpec::default()
        };
        change(&mut spec);
        check_network(&fixture.state, &spec).map_err(|error| (error.kind, error.message))
    };
    for driver in ["bridge", "host", "ipvlan", "macvlan"] {
        with(&|n| n.driver = driver.into()).unwrap();
    }
    with(&|n| (n.config_from, n.enable_ipv6) = (None, true)).unwrap();
    let unknown: [&dyn Fn(&mut NetworkSpec); 2] = [&|n| n.driver = "null".into(), &|n| {
        (n.config_from, n.ipam.driver) = (None, "null".into());
    }];
    for change in unknown {
        let (kind, message) = with(change).unwrap_err();
        assert_eq!(kind, SpecErrorKind::Invalid);
        assert_eq!(message, "error during lookup of plugin null");
    }
    let (kind, _) = with(&|n| n.driver = "overlay".into()).unwrap_err();
    assert_eq!(kind, SpecErrorKind::Unimplemented);
}

#[test]
fn networks_that_would_not_be_as_asked_are_refused() {
    let fixture = Fixture::default();
    let refusal = |change: &dyn Fn(&mut NetworkSpec)| {
        let mut spec = NetworkSpec {
            name: "front".into(),
            driver: "overlay".into(),
            ..NetworkSpec::default()
        };
        change(&mut spec);
        let error = check_network(&fixture.state, &spec).unwrap_err();
        (error.kind, error.message)
    };
    let (kind, message) = refusal(&|n| n.ipam.driver = "bogus".into());
    assert_eq!(kind, SpecErrorKind::Invalid);
    assert_eq!(message, "error during lookup of plugin bogus");
    let (kind, message) = refusal(&|n| n.enable_ipv6 = true);
    assert_eq!(kind, SpecErrorKind::Unimplemented);
    assert!(message.starts_with("IPv6 is not supported"), "{message}");
    for value in ["", "true", "false"] {
        // Not what clients of published ports send: all else can be.
        let encrypted = |n: &mut NetworkSpec| {
            n.options.insert("encrypted".into(), value.into());
        };
        let mut spec = NetworkSpec {
            name: "sealed".into(),
            driver: "overlay".into(),
            ..NetworkSpec::default()
        };
        encrypted(&mut spec);
        check_network(&fixture.state, &spec).unwrap();
        let (kind, message) = refusal(&|n| {
            encrypted(n);
            n.ingress = true;
        });
        assert_eq!(kind, SpecErrorKind::Unimplemented);
        assert!(
            message.starts_with("encryption is not supported"),
            "{message}"
        );
    }
}

#[test]
fn defaults_fill_in_only_what_is_left_out() {
    let mut spec = spec();
    spec.update_config = Some(UpdateConfig {
        parallelism: 3,
        ..UpdateConfig::default()
    });
    let full = with_defaults(&spec);
    let update = full.update_config.as_ref().unwrap();
    assert_eq!(
        (update.parallelism, update.monitor),
        (3, Some(5_000_000_000))
    );
    assert_eq!(full.rollback_config.as_ref().unwrap().parallelism, 1);
    let restart = full.task_template.restart_policy.as_ref().unwrap();
    assert_eq!(restart.delay, Some(5_000_000_000));
    assert_eq!(full.endpoint_spec, None);
    assert_eq!(with_defaults(&full), full);
}

proptest! {
    /// The rule of the reference, `[a-zA-Z0-9](?:[-_]*[A-Za-z0-9]+)*`, said another way.
    #[test]
    fn names_are_dns_labels(name in "[-_a-zA-Z0-9.é]{0,6}") {
        let mut rest = name.chars().peekable();
        let mut ok = rest.next().is_some_and(|c| c.is_ascii_alphanumeric());
        while ok && rest.peek().is_some() {
            while rest.next_if(|c| "-_".contains(*c)).is_some() {}
            let mut word = 0;
            while rest.next_if(char::is_ascii_alphanumeric).is_some() {
                word += 1;
            }
            ok = word > 0;
        }
        prop_assert_eq!(check_name(&name).is_ok(), ok);
    }
}

#[test]
fn a_return_mode_that_is_none_is_refused() {
    let labels = |mode: &str| BTreeMap::from([(RETURN_MODE_LABEL.to_owned(), mode.to_owned())]);
    let cluster = |mode| ClusterSpec {
        labels: labels(mode),
        ..ClusterSpec::default()
    };
    for mode in ["symmetric", "dsr", "snat"] {
        let mut spec = spec();
        spec.labels = labels(mode);
        check_service(&Fixture::default().state, None, &spec).unwrap();
        check_cluster(&cluster(mode)).unwrap();
    }
    let message =
        r#"label skein.ingress.mode="DSR" is no return mode: it may be symmetric, dsr or snat"#;
    assert_eq!(invalid(|s| s.labels = labels("DSR")), message);
    let error = check_cluster(&cluster("DSR")).unwrap_err();
    assert_eq!(
        (error.kind, error.message.as_str()),
        (SpecErrorKind::Invalid, message)
    );
}
