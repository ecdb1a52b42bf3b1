//! The same session with Docker Swarm and with Skein: what they say agrees, but for the differences
//! listed here.
//!
//! The sessions are in `tests/parity/*.txt`. Both are run by each docker CLI that is installed, at
//! once on a cluster of dockerd alone and on one of Skein's, which it has for itself. What every step said stays in
//! `target/skein-parity`.

use anyhow::{Context as _, bail};
use skein_tests::{
    cli, outsiders,
    parity::{Engine, Script, Wanted, With, unexplained},
};
use std::{fmt::Write as _, fs, path::Path, thread};
use xtask::cluster::Cluster;

/// Differences that are wanted, each with its reason.
const WANTED: &[Wanted] = &[
    wanted(
        ".",
        r"^(swarm: |skein: )(\(stderr\) )?(Error response from daemon: |\.message = .)[Ii]nvalid filter '",
        "the word is a small one since Docker 23",
    ),
    wanted(
        "network (ls|inspect)",
        "^swarm: .*docker_gwbridge",
        "Skein needs no bridge of its own on every node: tasks leave by their overlay's interface",
    ),
    wanted(
        "name=fro ",
        "^skein: front$",
        "found by a part of its name, as newer engines do",
    ),
    Wanted {
        always: false,
        ..wanted(
            r"info --format '\{\{json .Swarm\}\}'",
            "DefaultAddrPool",
            "Swarm shows the pool that it uses without having been told, or none, as it happens",
        )
    },
    wanted(
        "network inspect|GET '?/networks",
        r"^skein: .*EnableIPv4 = true$",
        "a field of newer versions of the API",
    ),
    wanted(
        "network inspect --verbose",
        r"LocalLBIndex|Tasks\[|VIP",
        "no address goes to a node's own balancer, nor has it a number; endpoints have no IDs",
    ),
    wanted(
        "network inspect ingress",
        r"^(swarm|skein): .*\.(Containers\.ingress-sbox|Peers|Labels)",
        "there is no sandbox that balances, and no gossip that has peers",
    ),
    wanted(
        "network inspect ingress",
        r"^skein: .*\.Containers = null$",
        "there is no sandbox that balances",
    ),
    wanted(
        "docker run .* --network (closed|absent|open --ip 10.82)",
        "See 'docker run|error waiting for container|attach|network absent not found",
        "refused when the container is made, with the reason, and not by a time-out at its start; \
         absent networks in the engine's words",
    ),
    wanted(
        "network inspect open .*Containers",
        "^swarm: open-endpoint",
        "no address of a network goes to a node's own balancer",
    ),
    wanted(
        r#"network create .* --subnet nonsense|POST /networks/create '\{"Name":("odd"|"",)"#,
        "[Ii]nvalid (subnet|name)|^swarm: status 500$|^skein: status 400$|DNS name",
        "the words of newer engines, and 400 for what the client did wrong",
    ),
    wanted(
        "network create -d overlay --(ipv6|subnet fd00)",
        r"^swarm: (<id>|six(-only)?|\(exit 0\))$|^skein: (\(stderr\) .*(IPv6 is not supported|invalid subnet fd00)|\(exit 1\)$)",
        "overlays have no IPv6: Swarm takes it, but gives services no such address",
    ),
    wanted(
        "network create -d overlay --config-from",
        r"^swarm: (<id>|on-lan-here|\(exit 0\))$|^skein: (\(stderr\) .*not made of networks of the nodes|\(exit 1\)$)",
        "the subnet of an overlay is the swarm's to give, not each node's",
    ),
    wanted(
        "--name twice",
        r"twice|^swarm: (<id>|\(exit 0\))$|^skein: \(exit 1\)$",
        "the engine would refuse every task that is twice on a network",
    ),
    wanted(
        "service ls$",
        "^swarm: .*twice",
        "the engine would refuse every task that is twice on a network",
    ),
    wanted(
        "network inspect .* overlap",
        r"10\.77|null",
        "overlapping networks work, so that one is a network like others",
    ),
    wanted(
        r#"POST /services/create( '(\[\]|\{)')?$|POST /secrets/create '.*"Data":"\?\?\?""#,
        r"^(swarm|skein): \.message = .*(unmarshal|JSON|EOF|base64)",
        "the words of another JSON decoder",
    ),
    wanted(
        r"&registryAuthFrom=nobody|GET /services/bare/logs$|/logs\?stdout=1&since=x",
        r"^(swarm|skein): \.message = .*(registryAuthFrom|at least one|since)|^swarm: status 500$|^skein: status 400$",
        "the words of newer engines, and 400 for what the client did wrong",
    ),
    wanted(
        r#"POST /services/create .*"Replicas":-1"#,
        "non-negative|cannot unmarshal number",
        "the reference's own words where its JSON decoder says less",
    ),
    wanted(
        r#"POST /services/create .*("Isolation":"odd"|"Name":"zero")"#,
        r"^skein: \.Warnings = null$",
        "written by newer engines also where there are none",
    ),
    wanted(
        "GET /services/zero",
        r"Networks\[0\]\.Target",
        "networks are kept in one place; older clients still may send them in the other",
    ),
    wanted(
        r"\{\{(\.Nothing|\.Node\.Nothing|\.X|')",
        "expanding (env|hostname|mounts?)",
        "what is wrong with a template, and what there is, without Go's types",
    ),
    wanted(
        "filters=odd",
        "invalid character|invalid filters",
        "the words of another JSON decoder",
    ),
    wanted(
        "service ps .* missing",
        "No such image",
        "says why the image was not to be had",
    ),
    wanted(
        "service ps .* no-source",
        "bind",
        "the words of newer engines",
    ),
    wanted(
        r"docker ps .*\.Ports",
        "^(swarm: 8080/tcp|skein: )$",
        "engines show ports that are exposed only, on networks of their own drivers alone",
    ),
    wanted(
        "RestartPolicy",
        "RestartPolicy|com.docker.swarm",
        "the same policy by its name",
    ),
    wanted(
        "swarm (ca|update) .*external-ca|swarm ca --rotate --ca-cert \\$FILES/ca.pem$",
        "(swarm|skein): .*at least one valid, reachable external CA",
        "with what was tried, and why it did not work",
    ),
    wanted(
        "Ports.* host-port",
        r"8095->8080",
        "Swarm shows the port once for IPv4 and once for IPv6",
    ),
];

const fn wanted(command: &'static str, line: &'static str, reason: &'static str) -> Wanted {
    Wanted {
        command,
        line,
        reason,
        always: true,
    }
}

/// The parts of the session, in order.
const PARTS: &[(&str, &str)] = &[
    ("swarm.txt", include_str!("../parity/swarm.txt")),
    ("nodes.txt", include_str!("../parity/nodes.txt")),
    ("networks.txt", include_str!("../parity/networks.txt")),
    ("attachments.txt", include_str!("../parity/attachments.txt")),
    ("payloads.txt", include_str!("../parity/payloads.txt")),
    ("services.txt", include_str!("../parity/services.txt")),
    ("updates.txt", include_str!("../parity/updates.txt")),
    ("running.txt", include_str!("../parity/running.txt")),
    ("stacks.txt", include_str!("../parity/stacks.txt")),
    ("locks.txt", include_str!("../parity/locks.txt")),
    ("end.txt", include_str!("../parity/end.txt")),
];

/// The nodes of each of the two clusters.
const NODES: u8 = 2;

#[test]
fn a_session_with_the_cli_is_the_same_as_with_swarm() -> anyhow::Result<()> {
    let mut script = Script::default();
    for (name, text) in PARTS {
        script.add(name, text)?;
    }
    let folder = xtask::target_dir()?.join("skein-parity");
    fs::create_dir_all(&folder)?;
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("parity/files");
    let shared = |name: &str| {
        let path = folder.join(name);
        fs::create_dir_all(&path).map(|()| path)
    };
    let (swarms, skeins) = (shared("swarm")?, shared("skein")?);
    let mut seen = vec![false; WANTED.len()];
    let mut told = String::new();
    let clis = cli::installed()?;
    for (nth, cli) in clis.iter().enumerate() {
        let script = script.of_cli(nth > 0);
        // Of their own: an engine that has left a swarm of its own may keep that one's ingress network for good
        // ("timeout while waiting for ingress network removal"), and makes no network in the next one.
        let swarm = Cluster::of_engines("parity-swarm", NODES)?;
        let skein = outsiders("parity-skein", NODES)?;
        let transcript = |name: &str| folder.join(format!("{name}-{}.txt", cli.version));
        let (swarm_said, skein_said) = (transcript("swarm"), transcript("skein"));
        let of_swarm = With {
            cluster: &swarm,
            engine: Engine::Swarm,
            cli: Path::new(&cli.path)
                .parent()
                .context("a CLI without a folder")?,
            files: &files,
            shared: &swarms,
            transcript: &swarm_said,
        };
        let of_skein = With {
            cluster: &skein,
            engine: Engine::Skein,
            shared: &skeins,
            transcript: &skein_said,
            ..of_swarm
        };
        let (of_swarm, of_skein) = thread::scope(|scope| {
            let of_swarm = scope.spawn(|| script.run(&of_swarm));
            let of_skein = script.run(&of_skein);
            let of_swarm = of_swarm.join().expect("a session panicked");
            anyhow::Ok((of_swarm?, of_skein?))
        })?;
        let (differences, explained) = unexplained(&script.steps, &of_swarm, &of_skein, WANTED)?;
        for (seen, explained) in seen.iter_mut().zip(explained) {
            *seen |= explained;
        }
        println!("docker {}: {} steps", cli.version, script.steps.len());
        for difference in differences {
            writeln!(told, "docker {}: {difference}", cli.version)?;
        }
        swarm.down()?;
        skein.down()?;
    }
    // Some differences are those of newer CLIs alone.
    if clis.len() > 1 {
        let missing = WANTED.iter().zip(seen).filter(|(_, seen)| !seen);
        for (wanted, _) in missing.filter(|(wanted, _)| wanted.always) {
            writeln!(told, "there is no such difference any more: {wanted:?}")?;
        }
    }
    if !told.is_empty() {
        bail!("Skein and Docker Swarm differ:\n{told}");
    }
    Ok(())
}
