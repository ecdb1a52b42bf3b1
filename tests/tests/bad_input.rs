//! What is wrong gets one clear message, in Docker's status and words, and changes nothing.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use skein_tests::{
    api::{self, Answer},
    swarm,
};
use std::time::Duration;
use xtask::{
    IMAGE,
    check::{
        requests::{ask_each, await_published},
        services,
    },
    cluster::{Cluster, Host},
    target_dir, wait_until,
};

/// From a change on a node to what the managers say of it.
const REPORT_TIMEOUT: Duration = Duration::from_secs(20);

/// A command line without quoting that the docker CLI must refuse, with all of these words.
fn refused(host: &Host, line: &str, words: &[&str]) -> anyhow::Result<()> {
    let arguments: Vec<_> = line.split_whitespace().collect();
    let said = match host.docker(&arguments) {
        Ok(said) => anyhow::bail!("`docker {line}` was not refused: {said}"),
        Err(error) => format!("{error:#}"),
    };
    for word in words {
        ensure!(said.contains(word), "no {word:?} in: {said}");
    }
    Ok(())
}

/// An answer that must be this error.
fn is_error(answer: &Answer, status: u16, message: &str) -> anyhow::Result<()> {
    let said = answer.message()?;
    ensure!(
        answer.status == status && said == message,
        "{} {said:?} instead of {status} {message:?}",
        answer.status
    );
    Ok(())
}

fn invalid(message: &str) -> String {
    format!("rpc error: code = InvalidArgument desc = {message}")
}

fn precondition(message: &str) -> String {
    format!("rpc error: code = FailedPrecondition desc = {message}")
}

const ALREADY: &str = "This node is already part of a swarm. Use \"docker swarm leave\" to leave this swarm and join another one.";
const NEVER: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.";
const WORKER: &str = "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this command on a manager node or promote the current node to a manager.";
const ADVERTISE: &str = "advertise address must be a non-zero IP address or network interface (with optional port number)";
const LISTEN: &str =
    "listen address must be an IP address or network interface (with optional port number)";
const MULTIPLE: &str = "could not choose an IP address to advertise since this system has multiple addresses on interface eth0 (";
const NO_LOCAL: &str = "must specify a listening address because the address to advertise is not recognized as a system address, and a system's IP address to use could not be uniquely identified";

#[test]
fn memberships_are_refused() -> anyhow::Result<()> {
    let cluster = skein_tests::outsiders("bad-memberships", 3)?;
    let (first, third) = (cluster.host("n1")?, cluster.host("n3")?);
    outsiders(third).context("a node outside of a swarm")?;
    addresses(first).context("addresses")?;
    joins(&cluster).context("joins")?;
    cluster.down()
}

fn is_outside(host: &Host) -> anyhow::Result<()> {
    let format = "{{.Swarm.LocalNodeState}}/{{.Swarm.NodeID}}/{{.Swarm.Error}}";
    let state = host.docker(&["info", "--format", format])?;
    ensure!(state.trim() == "inactive//", "{} is {state}", host.name());
    Ok(())
}

fn outsiders(host: &Host) -> anyhow::Result<()> {
    for line in [
        "node ls",
        "service ls",
        "service create x",
        "swarm join-token worker",
        "service rm x",
    ] {
        refused(host, line, &[NEVER])?;
    }
    for path in ["/swarm", "/nodes", "/services", "/tasks", "/services/x"] {
        is_error(&api::ask(host, "GET", path)?, 503, NEVER)?;
    }
    let inactive = "cannot create a swarm scoped network when swarm is not active";
    let spec = r#"{"Name":"x","Driver":"overlay"}"#;
    is_error(
        &api::send(host, "POST", "/networks/create", spec)?,
        403,
        inactive,
    )?;
    let outside = "This node is not part of a swarm";
    is_error(&api::ask(host, "POST", "/swarm/leave")?, 503, outside)?;
    is_outside(host)
}

fn addresses(host: &Host) -> anyhow::Result<()> {
    let init =
        |options: &str, words: &[&str]| refused(host, &format!("swarm init {options}"), words);
    init("--advertise-addr eth9", &[ADVERTISE])?;
    init("--advertise-addr 0.0.0.0", &[ADVERTISE])?;
    init("--listen-addr nonsense", &[LISTEN])?;
    init("--listen-addr 10.1.2.3", &["10.1.2.3:2377"])?;
    init(
        "--data-path-addr eth9",
        &[
            "data path address must be a non-zero IP address or network interface (without a port number)",
        ],
    )?;
    init(
        "--data-path-port 80",
        &["Datapath port number is not in valid range (1024-49151) : 80"],
    )?;
    init(
        "--default-addr-pool 10.0.0.0/8 --default-addr-pool-mask-length 30",
        &["subnet size is out of range: 30"],
    )?;
    init(
        "--default-addr-pool 10.1.0.0/28",
        &["invalid CIDR: \"10.1.0.0/28\". Subnet size is too small for pool: 24"],
    )?;
    let odd = r#"{"ListenAddr":"10.1.2.3:port"}"#;
    let answer = api::send(host, "POST", "/swarm/init", odd)?;
    is_error(&answer, 400, "could not parse listen address 10.1.2.3:port")?;
    let empty = "invalid ListenAddr \"\": invalid empty address";
    is_error(&api::send(host, "POST", "/swarm/init", "{}")?, 400, empty)?;
    // A machine with two addresses must be told which.
    host.run("ip address add 198.18.0.201/24 dev eth0")?;
    let (one, other) = (host.address().to_string(), "198.18.0.201");
    init(
        "",
        &[
            MULTIPLE,
            &one,
            other,
            " - specify one with --advertise-addr",
        ],
    )?;
    let several = "interface eth0 has more than one IPv4 address (";
    init("--advertise-addr eth0", &[several, &one, other])?;
    init("--advertise-addr 192.0.2.1", &[NO_LOCAL])?;
    is_outside(host)?;
    host.run("ip address del 198.18.0.201/24 dev eth0")?;
    ensure!(
        host.run("ip address show dev eth0")?.contains(&one),
        "{one} went, too"
    );
    Ok(())
}

/// An address of the clusters' network that no host has.
const NOWHERE: &str = "198.19.255.250";

fn joins(cluster: &Cluster) -> anyhow::Result<()> {
    let (first, second) = (cluster.host("n1")?, cluster.host("n2")?);
    let third = cluster.host("n3")?;
    first.docker(&["swarm", "init"])?;
    let to = format!("{}:2377", first.address());
    let token = || -> anyhow::Result<String> {
        let token = first.docker(&["swarm", "join-token", "-q", "worker"])?;
        Ok(token.trim().to_owned())
    };
    let stale = token()?;
    second.docker(&["swarm", "join", "--token", &stale, &to])?;
    let join = |token: &str, to: &str, words: &[&str]| {
        refused(third, &format!("swarm join --token {token} {to}"), words)?;
        is_outside(third)
    };
    for garbled in [
        "nonsense",
        "SWMTKN-1-x-y",
        &stale[1..],
        &stale[..stale.len() - 1],
    ] {
        join(garbled, &to, &["invalid join token"])?;
    }
    let unknown = invalid("A valid join token is necessary to join this cluster");
    let parts: Vec<_> = stale.split('-').collect();
    let wrong = parts[..3].join("-") + "-" + &"0".repeat(25);
    join(&wrong, &to, &[&unknown])?;
    let foreign = format!("SWMTKN-1-{}-{}", "0".repeat(50), parts[3]);
    join(
        &foreign,
        &to,
        &["remote CA does not match fingerprint. Expected: 0"],
    )?;
    first.docker(&["swarm", "join-token", "--rotate", "worker"])?;
    ensure!(token()? != stale, "the token was not rotated");
    join(&stale, &to, &[&unknown])?;
    let body = |token: &str| json!({"ListenAddr": "0.0.0.0:2377", "RemoteAddrs": [to], "JoinToken": token});
    let answer = api::send(third, "POST", "/swarm/join", &body(&stale).to_string())?;
    is_error(&answer, 400, &unknown)?;
    let nowhere = r#"{"ListenAddr":"0.0.0.0:2377","JoinToken":"x"}"#;
    let answer = api::send(third, "POST", "/swarm/join", nowhere)?;
    is_error(&answer, 400, "at least 1 RemoteAddr is required to join")?;
    // Where nobody listens.
    let closed = format!("{}:2399", second.address());
    join(
        &token()?,
        &closed,
        &["could not reach the manager at ", &closed],
    )?;
    // Where the managers do not reach it. Nothing stays of it there, as the count of nodes below says.
    let manager = first.docker(&["swarm", "join-token", "-q", "manager"])?;
    let unreachable = format!("--advertise-addr {NOWHERE} --token {}", manager.trim());
    refused(
        third,
        &format!("swarm join {unreachable} {to}"),
        &[
            "could not connect to prospective new cluster member using its advertised address",
            NOWHERE,
        ],
    )?;
    is_outside(third)?;
    // Members stay what they are.
    for host in [first, second] {
        refused(host, "swarm init", &[ALREADY])?;
        refused(
            host,
            &format!("swarm join --token {} {to}", token()?),
            &[ALREADY],
        )?;
    }
    for (line, words) in [
        ("service ls", WORKER),
        ("node ls", WORKER),
        ("swarm join-token worker", WORKER),
        (
            "network create -d overlay x",
            "Cannot create a multi-host network from a worker node. Please create the network from a manager node.",
        ),
    ] {
        refused(second, line, &[words])?;
    }
    is_error(&api::ask(second, "GET", "/services")?, 503, WORKER)?;
    let nodes = first.docker(&["node", "ls", "--format", "{{.Hostname}}"])?;
    ensure!(nodes.lines().count() == 2, "the nodes are {nodes}");
    Ok(())
}

#[test]
fn requests_are_refused() -> anyhow::Result<()> {
    let cluster = swarm("bad-requests", 2, 1)?;
    let first = cluster.host("n1")?;
    first.docker(&["network", "create", "-d", "overlay", "back"])?;
    services::create(first, "web", 1, &["-p", "30100:8080", "--network", "back"])?;
    let before = whole(first)?;
    bodies(first).context("bodies")?;
    specs(first).context("specs")?;
    references(first).context("references")?;
    removals(first).context("removals")?;
    versions(first).context("versions")?;
    garbage(first).context("garbage")?;
    let after = whole(first)?;
    ensure!(before == after, "{before}\n became\n{after}");
    tolerated(first).context("what is tolerated")?;
    tasks(first).context("tasks that a node refuses")?;
    taken_ports(&cluster).context("ports that a host's program has")?;
    cluster.down()
}

/// All that the managers hold, but what happens to tasks on their nodes.
fn whole(host: &Host) -> anyhow::Result<Value> {
    let mut whole = Vec::new();
    for path in [
        "/swarm",
        "/nodes",
        "/services",
        "/networks?filters={%22scope%22:[%22swarm%22]}",
    ] {
        let answer = api::curl(host, "GET", path, &["-g"])?;
        ensure!(answer.status == 200, "{answer:?}");
        whole.push(answer.json()?);
    }
    Ok(whole.into())
}

fn create(host: &Host, change: impl FnOnce(&mut Value)) -> anyhow::Result<Answer> {
    let mut spec = json!({
        "Name": "other",
        "TaskTemplate": {"ContainerSpec": {"Image": IMAGE}},
        "Mode": {"Replicated": {"Replicas": 0}},
        "EndpointSpec": {"Mode": "vip"},
    });
    change(&mut spec);
    api::send(host, "POST", "/services/create", &spec.to_string())
}

fn bodies(host: &Host) -> anyhow::Result<()> {
    for path in [
        "/services/create",
        "/networks/create",
        "/swarm/update?version=1",
    ] {
        for body in ["{", "nonsense", ""] {
            let answer = api::send(host, "POST", path, body)?;
            let said = answer.message()?;
            ensure!(
                answer.status == 400 && said.starts_with("invalid JSON: "),
                "POST {path} of {body:?}: {answer:?}"
            );
        }
        let header = "Content-Type: text/plain";
        let answer = api::curl(host, "POST", path, &["-H", header, "--data-binary", "{}"])?;
        let words = "unsupported Content-Type header (text/plain): must be 'application/json'";
        is_error(&answer, 400, words)?;
        // More than any object may have.
        let said = host.shell(&format!(
            "head -c 3000000 /dev/zero | tr '\\0' ' ' | curl -sS -m 30 -o /dev/null \
             -w '%{{http_code}}' -H 'Content-Type: application/json' -H 'Expect:' --data-binary @- \
             --unix-socket /run/skein/docker.sock 'http://docker{path}'"
        ))?;
        ensure!(said == "413", "3 MB to {path}: {said}");
    }
    Ok(())
}

fn specs(host: &Host) -> anyhow::Result<()> {
    let port =
        |published: i64| json!({"TargetPort": 80, "PublishedPort": published, "Protocol": "tcp"});
    let id = host.docker(&["service", "inspect", "web", "--format", "{{.ID}}"])?;
    let taken = format!(
        "port '30100' is already in use by service 'web' ({}) as an ingress port",
        id.trim()
    );
    let long = "a".repeat(64);
    let range = |port: i64| {
        format!("EndpointSpec: invalid PublishedPort {port}: ports are numbers from 1 to 65535")
    };
    let cases: Vec<(&str, Value, u16, String)> = vec![
        ("/EndpointSpec/Ports", json!([port(30_100)]), 400, invalid(&taken)),
        ("/EndpointSpec/Ports", json!([port(65_536)]), 400, range(65_536)),
        ("/EndpointSpec/Ports", json!([port(-1)]), 400, range(-1)),
        (
            "/EndpointSpec/Ports",
            json!([port(30_101), port(30_101)]),
            400,
            invalid("EndpointSpec: duplicate published ports provided"),
        ),
        ("/EndpointSpec/Mode", json!("x"), 400, "invalid resolution mode: \"x\"".into()),
        ("/Name", json!("web!"), 400, invalid("name must be valid as a DNS name component")),
        ("/Name", json!(long), 400, invalid("name must be 63 characters or fewer")),
        (
            "/Name",
            json!("web"),
            409,
            "rpc error: code = AlreadyExists desc = name conflicts with an existing object: service web already exists".into(),
        ),
        ("/TaskTemplate/Networks", json!([{"Target": "nope"}]), 500, "network nope not found".into()),
        (
            "/TaskTemplate/ContainerSpec/Image",
            json!(""),
            400,
            invalid("ContainerSpec: image reference must be provided"),
        ),
        (
            "/TaskTemplate/ContainerSpec/Image",
            json!("A b"),
            400,
            invalid("ContainerSpec: \"A b\" is not a valid repository/tag"),
        ),
        (
            "/TaskTemplate/ContainerSpec/Mounts",
            json!([{"Type": "image", "Target": "/x"}]),
            400,
            "invalid MountType: \"image\"".into(),
        ),
        (
            "/TaskTemplate/ContainerSpec/Mounts",
            json!([{"Type": "tmpfs", "Target": "/x"}, {"Type": "tmpfs", "Target": "/x"}]),
            400,
            invalid("ContainerSpec: duplicate mount point: /x"),
        ),
        (
            "/TaskTemplate/Placement",
            json!({"Constraints": ["node.role=worker"]}),
            500,
            "rpc error: code = Unknown desc = constraint expected one operator from ==, !=".into(),
        ),
        (
            "/Mode",
            json!({"Replicated": {}, "Global": {}}),
            400,
            "must specify only one service mode".into(),
        ),
        (
            "/TaskTemplate/ContainerSpec",
            Value::Null,
            400,
            "mismatched Runtime and *Spec fields".into(),
        ),
    ];
    for (path, value, status, message) in cases {
        let (parent, name) = path.rsplit_once('/').context("a path")?;
        let shown = format!("{path} = {value}");
        let answer = create(host, |spec| {
            if let Some(fields) = spec.pointer_mut(parent) {
                fields[name] = value;
            }
        })?;
        is_error(&answer, status, &message).context(shown)?;
    }
    let network = |name: &str, subnet: &str| {
        let spec =
            json!({"Name": name, "Driver": "overlay", "IPAM": {"Config": [{"Subnet": subnet}]}});
        api::send(host, "POST", "/networks/create", &spec.to_string())
    };
    let taken = "network with name back already exists";
    is_error(&network("back", "10.99.0.0/24")?, 409, taken)?;
    let message = invalid("ipam configuration: invalid subnet 10.99.0.0");
    is_error(&network("x", "10.99.0.0")?, 400, &message)?;
    refused(
        host,
        "service create --network nope x",
        &["network nope not found"],
    )?;
    refused(host, "service create -p 70000:80 x", &["70000"])
}

fn references(host: &Host) -> anyhow::Result<()> {
    for (path, message) in [
        ("/services/nope", "service nope not found"),
        ("/services/nope/logs?stdout=1", "service nope not found"),
        ("/nodes/nope", "node nope not found"),
        ("/networks/nope", "network nope not found"),
        ("/tasks/nope", "task nope not found"),
        (
            "/tasks?filters={\"service\":{\"nope\":true}}",
            "service nope not found",
        ),
    ] {
        let path = path.replace('"', "%22");
        let answer = api::curl(host, "GET", &path, &["-g"])?;
        is_error(&answer, 404, message).context(path)?;
    }
    for (line, message) in [
        ("service ps nope", "no such service: nope"),
        ("service rm nope", "service nope not found"),
        ("service scale nope=2", "service nope not found"),
        ("service update --replicas 2 nope", "service nope not found"),
        ("service logs nope", "no such task or service: nope"),
        ("node ps nope", "node nope not found"),
        ("node rm nope", "node nope not found"),
        ("network rm nope", "nope not found"),
    ] {
        refused(host, line, &[message])?;
    }
    for (path, message) in [
        (
            "/services?filters={\"nope\":[\"x\"]}",
            "invalid filter 'nope'",
        ),
        (
            "/services/web/logs",
            "must specify at least one of 'stdout' or 'stderr'",
        ),
        (
            "/services/web?insertDefaults=x",
            "invalid value for insertDefaults: x: strconv.ParseBool: parsing \"x\": invalid syntax",
        ),
    ] {
        let path = path.replace('"', "%22");
        let answer = api::curl(host, "GET", &path, &["-g"])?;
        is_error(&answer, 400, message).context(path)?;
    }
    Ok(())
}

fn removals(host: &Host) -> anyhow::Result<()> {
    let id_of = |kind: &str, name: &str| -> anyhow::Result<String> {
        let format = if kind == "network" {
            "{{.Id}}"
        } else {
            "{{.ID}}"
        };
        let id = host.docker(&[kind, "inspect", name, "--format", format])?;
        Ok(id.trim().to_owned())
    };
    let (network, service) = (id_of("network", "back")?, id_of("service", "web")?);
    let answer = api::ask(host, "DELETE", "/networks/back")?;
    let message = format!("network {network} is in use by service {service}");
    is_error(&answer, 400, &precondition(&message))?;
    let (manager, worker) = (id_of("node", "n1")?, id_of("node", "n2")?);
    let answer = api::ask(host, "DELETE", &format!("/nodes/{worker}"))?;
    let message = format!("node {worker} is not down and can't be removed");
    is_error(&answer, 400, &precondition(&message))?;
    for query in ["", "?force=1"] {
        let answer = api::ask(host, "DELETE", &format!("/nodes/{manager}{query}"))?;
        let message = format!(
            "node {manager} is a cluster manager and is a member of the raft cluster. It must be demoted to worker before removal"
        );
        is_error(&answer, 400, &precondition(&message))?;
    }
    Ok(())
}

fn versions(host: &Host) -> anyhow::Result<()> {
    let answer = api::ask(host, "GET", "/services/web")?;
    let service = answer.json()?;
    let (spec, version) = (service["Spec"].to_string(), &service["Version"]["Index"]);
    let index = version.as_u64().context("a service without a version")?;
    let update =
        |query: &str| api::send(host, "POST", &format!("/services/web/update{query}"), &spec);
    let stale = "rpc error: code = Unknown desc = update out of sequence";
    for other in [1, index - 1, index + 1] {
        is_error(&update(&format!("?version={other}"))?, 500, stale)?;
    }
    for (query, text) in [
        ("", ""),
        ("?version=", ""),
        ("?version=x", "x"),
        ("?version=-1", "-1"),
    ] {
        let answer = update(query)?;
        let start = format!("invalid service version '{text}': ");
        ensure!(
            answer.status == 400 && answer.message()?.starts_with(&start),
            "{answer:?}"
        );
    }
    let renamed = spec.replacen("\"Name\":\"web\"", "\"Name\":\"wob\"", 1);
    let path = format!("/services/web/update?version={index}");
    let answer = api::send(host, "POST", &path, &renamed)?;
    let message = "rpc error: code = Unimplemented desc = renaming services is not supported";
    is_error(&answer, 501, message)?;
    let node = r#"{"Role":"boss","Availability":"active"}"#;
    let answer = api::send(host, "POST", "/nodes/n2/update?version=1", node)?;
    is_error(&answer, 400, "invalid Role: \"boss\"")?;
    // Of the API itself.
    let version = api::ask(host, "GET", "/version")?.json()?;
    let (newest, oldest) = (&version["ApiVersion"], &version["MinAPIVersion"]);
    let (newest, oldest) = (newest.as_str().unwrap_or(""), oldest.as_str().unwrap_or(""));
    for path in ["/services", "/info", "/containers/json", "/swarm"] {
        let answer = api::ask(host, "GET", &format!("/v1.99{path}"))?;
        let message =
            format!("client version 1.99 is too new. Maximum supported API version is {newest}");
        is_error(&answer, 400, &message)?;
        let answer = api::ask(host, "GET", &format!("/v1.3{path}"))?;
        let message = format!(
            "client version 1.3 is too old. Minimum supported API version is {oldest}, please upgrade your client to a newer version"
        );
        is_error(&answer, 400, &message)?;
    }
    Ok(())
}

/// Nothing that comes in by the socket hurts who comes after.
fn garbage(host: &Host) -> anyhow::Result<()> {
    let socket = "UNIX-CONNECT:/run/skein/docker.sock";
    for bytes in [
        "printf 'garbage\\r\\n\\r\\n'",
        "printf 'GET / HTTP/9.9\\r\\n\\r\\n'",
        "printf 'GET /services HTTP/1.1\\r\\nContent-Length: x\\r\\nHost: d\\r\\n\\r\\n'",
        "printf 'POST /services/create HTTP/1.1\\r\\nHost: d\\r\\nContent-Type: application/json\\r\\nContent-Length: 100\\r\\n\\r\\n{'",
        "head -c 1000000 /dev/urandom",
        "{ printf 'GET / HTTP/1.1\\r\\nX: '; head -c 1000000 /dev/zero | tr '\\0' a; }",
        "printf ''",
    ] {
        let said = host.shell(&format!(
            "{{ {bytes}; }} | socat -t 1 - {socket} 2>&1; true"
        ))?;
        ensure!(
            said.is_empty() || said.starts_with("HTTP/1.1 4") || said.contains("socat"),
            "to {bytes} it said {said:?}"
        );
        let answer = api::ask(host, "GET", "/_ping")?;
        ensure!(answer.status == 200 && answer.body == "OK", "{answer:?}");
    }
    Ok(())
}

/// As Docker does it: unknown fields are passed over, and a prefix of an ID is enough if only one
/// object has it.
fn tolerated(host: &Host) -> anyhow::Result<()> {
    let answer = create(host, |spec| {
        spec["Nonsense"] = json!({"a": 1});
        spec["TaskTemplate"]["ContainerSpec"]["Nonsense"] = json!([1]);
    })?;
    ensure!(answer.status == 201, "{answer:?}");
    host.docker(&["service", "rm", "other"])?;
    // Until two IDs begin alike; there are 36 beginnings.
    let mut firsts = std::collections::BTreeMap::<char, String>::new();
    let mut made = Vec::new();
    let alike = loop {
        let name = format!("alike-{}", made.len());
        let answer = create(host, |spec| spec["Name"] = json!(name))?;
        ensure!(answer.status == 201, "{answer:?}");
        let id = answer.json()?["ID"].as_str().unwrap_or_default().to_owned();
        made.push(id.clone());
        let first = id.chars().next().context("an empty ID")?;
        if firsts.insert(first, id).is_some() {
            break first;
        }
    };
    let services = api::ask(host, "GET", "/services")?.json()?;
    let ids = services.as_array().into_iter().flatten();
    let ids = ids.filter_map(|service| service["ID"].as_str());
    let count = ids.filter(|id| id.starts_with(alike)).count();
    let answer = api::ask(host, "GET", &format!("/services/{alike}"))?;
    let message = format!("service {alike} is ambiguous ({count} matches found)");
    is_error(&answer, 400, &message)?;
    let one = made.first().context("no service")?;
    let answer = api::ask(host, "GET", &format!("/services/{}", &one[..12]))?;
    ensure!(answer.status == 200, "{answer:?}");
    for id in made {
        ensure!(api::ask(host, "DELETE", &format!("/services/{id}"))?.status == 200);
    }
    Ok(())
}

/// What only a node can know shows in `docker service ps`.
fn tasks(host: &Host) -> anyhow::Result<()> {
    let create = |name: &str, options: &str, image: &str| {
        let line = format!(
            "service create -d --no-resolve-image --restart-condition none --name {name} {options} {image}"
        );
        let words: Vec<_> = line.split_whitespace().collect();
        host.docker(&words)
    };
    create("no-image", "", "nope/nothing:1")?;
    create(
        "no-source",
        "--mount type=bind,source=/nowhere,target=/x",
        IMAGE,
    )?;
    create("no-target", "--mount type=bind,source=/tmp,target=x", IMAGE)?;
    for (name, error) in [
        ("no-image", "No such image: nope/nothing:1"),
        (
            "no-source",
            "invalid bind mount source, source path not found: /nowhere",
        ),
        (
            "no-target",
            "invalid mount target, must be an absolute path: x",
        ),
    ] {
        wait_until("a task is rejected", REPORT_TIMEOUT, || {
            let format = "{{.CurrentState}}/{{.Error}}";
            let tasks = host.docker(&["service", "ps", "--no-trunc", "--format", format, name])?;
            ensure!(
                tasks.starts_with("Rejected") && tasks.contains(error),
                "{name}: {tasks}"
            );
            Ok(())
        })?;
        host.docker(&["service", "rm", name])?;
    }
    Ok(())
}

fn taken_ports(cluster: &Cluster) -> anyhow::Result<()> {
    const PORT: u16 = 30_222;
    let (first, second) = (cluster.host("n1")?, cluster.host("n2")?);
    let listener = second.shell(&format!(
        "socat TCP-LISTEN:{PORT},fork,reuseaddr SYSTEM:'echo own' >/dev/null 2>&1 & echo $!"
    ))?;
    wait_until("the host's program listens", REPORT_TIMEOUT, || {
        second.shell(&format!("socat -u TCP:127.0.0.1:{PORT} -"))
    })?;
    let publish = format!("{PORT}:8080");
    services::create(first, "taken", 1, &["-p", &publish])?;
    let error = || -> anyhow::Result<String> {
        let tasks = services::tasks(first, "taken")?;
        Ok(tasks.iter().map(|task| task.error.as_str()).collect())
    };
    let words = format!(
        "n2: port {PORT} is not published on this node: a program of the host listens on it"
    );
    wait_until("service ps says it", REPORT_TIMEOUT, || {
        ensure!(error()?.contains(&words), "the error is {:?}", error()?);
        Ok(())
    })?;
    // The program keeps its port; the other node publishes it.
    let client = cluster.client()?;
    let said = client.shell(&format!("socat -u TCP:{}:{PORT} -", second.address()))?;
    ensure!(said == "own\n", "{said:?}");
    await_published(cluster, [first], PORT)?;
    ask_each(cluster, [first], PORT, 10)?;
    // Once it ends, the port is published there, too.
    second.run(&format!("kill {}", listener.trim()))?;
    wait_until("service ps says nothing", REPORT_TIMEOUT, || {
        ensure!(error()?.is_empty(), "the error is {:?}", error()?);
        Ok(())
    })?;
    await_published(cluster, cluster.nodes(), PORT)?;
    ask_each(cluster, cluster.nodes(), PORT, 10).map(drop)
}

#[test]
fn a_dataplane_without_what_it_needs_says_so() -> anyhow::Result<()> {
    let cluster = skein_tests::outsiders("bad-kernel", 1)?;
    let host = cluster.host("n1")?;
    let program = target_dir()?.join("debug/skein-dataplane");
    let program = program.display();
    // In reach of any user.
    host.shell(&format!(
        "cp {program} /run/dataplane && chmod 755 /run/dataplane"
    ))?;
    let start = |with: &str, options: &str| {
        host.shell(&format!(
            "{with} /run/dataplane --state-dir /run/state {options} 2>&1; echo exit $?"
        ))
    };
    let says = |said: String, words: &[&str]| {
        let lines: Vec<_> = said.lines().collect();
        ensure!(
            lines.len() == 2 && lines[1] != "exit 0" && words.iter().all(|w| said.contains(w)),
            "{said}"
        );
        Ok(())
    };
    says(
        start("setpriv --reuid 65534 --clear-groups", "")?,
        &["skein-dataplane stops: ", "needs root"],
    )?;
    let powerless = "setpriv --bounding-set -sys_admin --inh-caps -sys_admin";
    says(
        start(powerless, "--bpffs /run/bpf")?,
        &["/run/bpf is no BPF filesystem", "mount -t bpf bpf /run/bpf"],
    )?;
    says(
        start("", "--bpffs /proc/nowhere")?,
        &["cannot make the mount point /proc/nowhere"],
    )?;
    ensure!(
        host.shell("ls /run/state 2>&1; true")?
            .contains("No such file")
    );
    cluster.down()
}
