use super::*;
use serde_json::{Value, json};
use skein_model::Platform;

fn node() -> NodeDescription {
    NodeDescription {
        hostname: "alpha".into(),
        platform: Platform {
            architecture: "x86_64".into(),
            os: "linux".into(),
        },
        ..NodeDescription::default()
    }
}

/// A task of service `web` with the given task template and whatever else is given of a task.
fn task(template: Value, rest: Value) -> Task {
    let mut task = json!({
        "ID": "t1", "ServiceID": "s1", "Slot": 2, "NodeID": "n1",
        "X-Skein-ServiceName": "web", "X-Skein-ServiceLabels": {"tier": "front"},
        "Spec": template,
    });
    let fields = task.as_object_mut().unwrap();
    fields.extend(rest.as_object().unwrap().clone());
    serde_json::from_value(task).unwrap()
}

fn body(plan: &Plan) -> Value {
    serde_json::to_value(&plan.body).unwrap()
}

fn overlay(network: &str, address: [u8; 4]) -> Endpoint {
    Endpoint {
        network: network.into(),
        place: Place::Overlay(address.into()),
        driver_opts: BTreeMap::new(),
    }
}

fn error(container_spec: Value) -> SpecError {
    let task = task(json!({ "ContainerSpec": container_spec }), json!({}));
    plan(&task, &node(), &[], &[]).unwrap_err()
}

#[test]
fn the_least_task() {
    let task = task(json!({"ContainerSpec": {"Image": "demo"}}), json!({}));
    let plan = plan(&task, &node(), &[], &["198.18.0.1".parse().unwrap()]).unwrap();
    assert_eq!(plan.name, "web.2.t1");
    assert!(plan.connect.is_empty() && plan.volumes.is_empty() && plan.bind_sources.is_empty());
    assert_eq!(
        body(&plan),
        json!({
            "Image": "demo",
            "Labels": {
                "com.docker.swarm.task": "",
                "com.docker.swarm.task.id": "t1",
                "com.docker.swarm.task.name": "web.2.t1",
                "com.docker.swarm.node.id": "n1",
                "com.docker.swarm.service.id": "s1",
                "com.docker.swarm.service.name": "web",
            },
            "HostConfig": {"RestartPolicy": {"Name": "no"}},
        })
    );
}

#[test]
fn every_field_of_the_spec() {
    let template = json!({
        "ContainerSpec": {
            "Image": "demo:1",
            "Labels": {"a": "b", "com.docker.swarm.task.id": "forged"},
            "Command": ["/bin/demo"], "Args": ["-v", "{{.Task.Slot}}"],
            "Hostname": "{{.Service.Name}}-{{.Task.Slot}}",
            "Env": ["NODE={{.Node.Hostname}}", "EMPTY=", "UNSET", "EQ=a=b"],
            "Dir": "/srv", "User": "7:8", "Groups": ["audio"],
            "Privileges": {
                "SELinuxContext": {"User": "u", "Role": "r", "Type": "t", "Level": "l"},
                "Seccomp": {"Mode": "custom", "Profile": "eyJ4IjoxfQ=="},
                "AppArmor": {"Mode": "disabled"},
                "NoNewPrivileges": true,
            },
            "Init": true, "StopSignal": "SIGUSR1", "TTY": true, "OpenStdin": true,
            "ReadOnly": true,
            "StopGracePeriod": 3_000_000_000_i64,
            "Healthcheck": {
                "Test": ["CMD", "/bin/demo", "check"], "Interval": 1_000_000_000,
                "Timeout": 2_000_000_000, "Retries": 3, "StartPeriod": 4_000_000_000_i64,
                "StartInterval": 5_000_000,
            },
            "Hosts": ["10.1.1.1 db database", "broken"],
            "DNSConfig": {
                "Nameservers": ["9.9.9.9"], "Search": ["example.org"], "Options": ["timeout:3"],
            },
            "Sysctls": {"net.core.somaxconn": "7"},
            "CapabilityAdd": ["CAP_NET_ADMIN"], "CapabilityDrop": ["ALL"],
            "Ulimits": [{"Name": "nofile", "Soft": 5, "Hard": 6}],
            "OomScoreAdj": -5,
        },
        "Resources": {
            "Limits": {"NanoCPUs": 500_000_000, "MemoryBytes": 8_000_000, "Pids": 9},
            "Reservations": {"NanoCPUs": 1, "MemoryBytes": 4},
            "SwapBytes": 1_000_000, "MemorySwappiness": 10,
        },
        "LogDriver": {"Name": "json-file", "Options": {"max-size": "1m"}},
    });
    let rest = json!({"GenericResources": [
        {"NamedResourceSpec": {"Kind": "gpu", "Value": "g1"}},
        {"NamedResourceSpec": {"Kind": "gpu", "Value": "g2"}},
        {"DiscreteResourceSpec": {"Kind": "ssd", "Value": 3}},
    ]});
    let endpoints = [
        overlay("net1", [10, 0, 1, 5]),
        overlay("net2", [10, 0, 2, 6]),
    ];
    let dns = ["198.18.0.1".parse().unwrap()];
    let plan = plan(&task(template, rest), &node(), &endpoints, &dns).unwrap();
    assert_eq!(
        body(&plan),
        json!({
            "Hostname": "web-2",
            "User": "7:8",
            "Tty": true,
            "OpenStdin": true,
            "Env": [
                "NODE=alpha", "EMPTY=", "UNSET", "EQ=a=b",
                "DOCKER_RESOURCE_GPU=g1,g2", "DOCKER_RESOURCE_SSD=3",
            ],
            "Entrypoint": ["/bin/demo"],
            "Cmd": ["-v", "{{.Task.Slot}}"],
            "Healthcheck": {
                "Test": ["CMD", "/bin/demo", "check"], "Interval": 1_000_000_000,
                "Timeout": 2_000_000_000, "Retries": 3, "StartPeriod": 4_000_000_000_i64,
                "StartInterval": 5_000_000,
            },
            "Image": "demo:1",
            "WorkingDir": "/srv",
            "StopSignal": "SIGUSR1",
            "Labels": {
                "a": "b",
                "com.docker.swarm.task": "",
                "com.docker.swarm.task.id": "t1",
                "com.docker.swarm.task.name": "web.2.t1",
                "com.docker.swarm.node.id": "n1",
                "com.docker.swarm.service.id": "s1",
                "com.docker.swarm.service.name": "web",
            },
            "HostConfig": {
                "Memory": 8_000_000, "MemorySwap": 9_000_000, "MemorySwappiness": 10,
                "NanoCpus": 500_000_000, "PidsLimit": 9, "Init": true,
                "Ulimits": [{"Name": "nofile", "Soft": 5, "Hard": 6}],
                "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}},
                "NetworkMode": "net1",
                "RestartPolicy": {"Name": "no"},
                "CapAdd": ["CAP_NET_ADMIN"], "CapDrop": ["ALL"],
                "Dns": ["198.18.0.1", "9.9.9.9"],
                "DnsOptions": ["timeout:3"],
                "DnsSearch": ["example.org"],
                "ExtraHosts": ["db:10.1.1.1"],
                "GroupAdd": ["audio"],
                "OomScoreAdj": -5,
                "ReadonlyRootfs": true,
                "SecurityOpt": [
                    "label=user:u", "label=role:r", "label=type:t", "label=level:l",
                    "seccomp={\"x\":1}", "apparmor=unconfined", "no-new-privileges=true",
                ],
                "Sysctls": {"net.core.somaxconn": "7"},
            },
            "NetworkingConfig": {"EndpointsConfig": {
                "net1": {"IPAMConfig": {"IPv4Address": "10.0.1.5"}, "NetworkID": "net1"},
            }},
        })
    );
    let connect: Vec<_> = plan
        .connect
        .iter()
        .map(|(network, request)| (network.as_str(), serde_json::to_value(request).unwrap()))
        .collect();
    assert_eq!(
        connect,
        [(
            "net2",
            json!({
                "Container": "web.2.t1",
                "EndpointConfig": {"IPAMConfig": {"IPv4Address": "10.0.2.6"}, "NetworkID": "net2"},
            })
        )]
    );
}

#[test]
fn every_kind_of_mount() {
    let template = json!({"ContainerSpec": {"Image": "demo", "Mounts": [
        {"Type": "bind", "Source": "/data/{{.Task.Slot}}", "Target": "/data", "ReadOnly": true,
         "BindOptions": {"Propagation": "rshared", "NonRecursive": true}},
        {"Type": "volume", "Source": "vol", "Target": "/vol", "VolumeOptions": {
            "NoCopy": true, "Labels": {"l": "{{.Task.ID}}"}, "Subpath": "sub",
            "DriverConfig": {"Name": "nfs", "Options": {"o": "{{.Node.ID}}"}}}},
        {"Type": "volume", "Target": "/anonymous"},
        {"Type": "tmpfs", "Target": "/tmp", "TmpfsOptions": {"SizeBytes": 5, "Mode": 511}},
    ]}});
    let plan = plan(&task(template, json!({})), &node(), &[], &[]).unwrap();
    assert_eq!(
        body(&plan)["HostConfig"]["Mounts"],
        json!([
            {"Type": "bind", "Source": "/data/2", "Target": "/data", "ReadOnly": true,
             "BindOptions": {"Propagation": "rshared", "NonRecursive": true}},
            {"Type": "volume", "Source": "vol", "Target": "/vol", "VolumeOptions": {
                "NoCopy": true, "Labels": {"l": "t1"}, "Subpath": "sub",
                "DriverConfig": {"Name": "nfs", "Options": {"o": "n1"}}}},
            {"Type": "volume", "Target": "/anonymous"},
            {"Type": "tmpfs", "Target": "/tmp", "TmpfsOptions": {"SizeBytes": 5, "Mode": 511}},
        ])
    );
    assert_eq!(plan.bind_sources, [PathBuf::from("/data/2")]);
    assert_eq!(
        serde_json::to_value(&plan.volumes).unwrap(),
        json!([{"Name": "vol", "Driver": "nfs", "DriverOpts": {"o": "n1"}, "Labels": {"l": "t1"}}])
    );
}

#[test]
fn the_engine_publishes_what_the_dataplane_does_not_carry() {
    let rest = json!({"X-Skein-Ports": [
        {"Protocol": "sctp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "host"},
        {"Protocol": "sctp", "TargetPort": 53, "PublishMode": "host"},
        {"Protocol": "tcp", "TargetPort": 81, "PublishedPort": 8081, "PublishMode": "host"},
        {"Protocol": "sctp", "TargetPort": 82, "PublishedPort": 8082, "PublishMode": "ingress"},
    ]});
    let task = task(json!({"ContainerSpec": {"Image": "demo"}}), rest);
    let bridge = [Endpoint {
        network: "bridge".into(),
        place: Place::Predefined,
        driver_opts: BTreeMap::new(),
    }];
    let made = body(&plan(&task, &node(), &bridge, &[]).unwrap());
    assert_eq!(made["ExposedPorts"], json!({"53/sctp": {}, "80/sctp": {}}));
    assert_eq!(
        made["HostConfig"]["PortBindings"],
        json!({"80/sctp": [{"HostPort": "8080"}], "53/sctp": [{"HostPort": ""}]})
    );
    assert_eq!(made["HostConfig"]["NetworkMode"], "bridge");
    assert_eq!(made.get("NetworkingConfig"), None);

    let ingress = [overlay("ingress", [10, 0, 0, 5])];
    assert_eq!(
        plan(&task, &node(), &ingress, &[]).unwrap_err(),
        SpecError::EnginePortsOnOverlay
    );
    let rest = json!({"X-Skein-Ports": [
        {"Protocol": "tcp", "TargetPort": 81, "PublishedPort": 8081, "PublishMode": "host"},
    ]});
    let carried = self::task(json!({"ContainerSpec": {"Image": "demo"}}), rest);
    let made = body(&plan(&carried, &node(), &ingress, &[]).unwrap());
    assert_eq!(made["HostConfig"].get("PortBindings"), None);
    let host = [Endpoint {
        network: "host".into(),
        place: Place::Predefined,
        driver_opts: BTreeMap::new(),
    }];
    for task in [task, carried] {
        let error = plan(&task, &node(), &host, &[]).unwrap_err();
        assert_eq!(error, SpecError::HostPortsOnHost);
    }
}

#[test]
fn on_a_network_of_the_engines_own_the_engine_gives_address_and_names() {
    let local = |network: &str| Endpoint {
        network: network.into(),
        place: Place::Local {
            names: vec!["web".into()],
        },
        driver_opts: BTreeMap::new(),
    };
    let task = task(json!({"ContainerSpec": {"Image": "demo"}}), json!({}));
    let dns = ["198.18.0.1".parse().unwrap()];
    let made = plan(&task, &node(), &[local("mac1"), local("mac2")], &dns).unwrap();
    let (first, second) = (body(&made), serde_json::to_value(&made.connect).unwrap());
    assert_eq!(first["HostConfig"]["NetworkMode"], "mac1");
    assert_eq!(first["HostConfig"].get("Dns"), None);
    assert_eq!(
        first["NetworkingConfig"]["EndpointsConfig"]["mac1"],
        json!({"Aliases": ["web"], "NetworkID": "mac1"})
    );
    assert_eq!(
        second[0][1]["EndpointConfig"],
        json!({"Aliases": ["web"], "NetworkID": "mac2"})
    );
}

#[test]
fn a_networks_driver_is_told_what_the_service_says_of_its_tasks_places() {
    let opts = |pairs: &[(&str, &str)]| {
        let pairs = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        pairs.collect::<BTreeMap<_, _>>()
    };
    let overlay = Endpoint {
        driver_opts: opts(&[("com.example.a", "b"), ("skein.gateway", "none")]),
        ..overlay("net1", [10, 0, 1, 5])
    };
    let local = Endpoint {
        network: "mac1".into(),
        place: Place::Local { names: Vec::new() },
        driver_opts: opts(&[("c", "d")]),
    };
    let task = task(json!({"ContainerSpec": {"Image": "demo"}}), json!({}));
    let made = plan(&task, &node(), &[overlay, local], &[]).unwrap();
    let first = &body(&made)["NetworkingConfig"]["EndpointsConfig"]["net1"];
    assert_eq!(
        first["DriverOpts"],
        json!({"com.example.a": "b"}),
        "not Skein's own"
    );
    let second = serde_json::to_value(&made.connect).unwrap();
    let second = &second[0][1]["EndpointConfig"];
    assert_eq!(second["DriverOpts"], json!({"c": "d"}));
    let bridge = |driver_opts| {
        let bridge = Endpoint {
            network: "bridge".into(),
            place: Place::Predefined,
            driver_opts,
        };
        body(&plan(&task, &node(), &[bridge], &[]).unwrap())
    };
    let told = bridge(opts(&[("e", "f")]));
    let told = &told["NetworkingConfig"]["EndpointsConfig"]["bridge"];
    assert_eq!(*told, json!({"DriverOpts": {"e": "f"}}));
    assert_eq!(bridge(opts(&[])).get("NetworkingConfig"), None);
}

#[test]
fn a_resolver_of_the_users_own_keeps_its_options() {
    let template = json!({"ContainerSpec": {
        "Image": "demo", "DNSConfig": {"Options": ["ndots:2"]},
    }});
    let endpoints = [overlay("net1", [10, 0, 1, 5])];
    let dns = ["198.18.0.1".parse().unwrap()];
    let made = body(&plan(&task(template, json!({})), &node(), &endpoints, &dns).unwrap());
    assert_eq!(made["HostConfig"]["DnsOptions"], json!(["ndots:2"]));
}

#[test]
fn what_cannot_be_made_says_why() {
    assert_eq!(error(json!({})).to_string(), "dockerexec: image required");
    for (mount, message) in [
        (
            json!({"Type": "bind", "Source": "/a", "Target": "b"}),
            "invalid mount target, must be an absolute path: b",
        ),
        (
            json!({"Type": "bind", "Source": "a", "Target": "/b"}),
            "invalid bind mount source, must be an absolute path: a",
        ),
        (
            json!({"Type": "volume", "Source": "/a", "Target": "/b"}),
            "invalid volume mount source, must not be an absolute path: /a",
        ),
        (
            json!({"Type": "tmpfs", "Source": "a", "Target": "/b"}),
            "invalid tmpfs source, source must be empty",
        ),
        (
            json!({"Type": "cluster", "Source": "a", "Target": "/b"}),
            "invalid mount type: cluster is not available on this node",
        ),
        (
            json!({"Type": "bind", "Source": "/a", "Target": "/b",
                   "BindOptions": {"Propagation": "sideways"}}),
            "invalid MountPropagation: \"sideways\"",
        ),
    ] {
        let error = error(json!({"Image": "demo", "Mounts": [mount]}));
        assert_eq!(error.to_string(), message);
    }
    let env = error(json!({"Image": "demo", "Env": ["A={{.Nope}}"]}));
    assert!(
        env.to_string().starts_with("expanding env failed: "),
        "{env}"
    );
}
