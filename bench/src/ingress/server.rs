//! The server that all ask: nginx with one worker, which answers from its configuration, and an iperf3
//! beside it. Skein's task and the one that the others lead to are the same program with the same
//! configuration, each in a network namespace of its own behind a veth pair of its node.

use anyhow::Context as _;
use std::{fs, net::Ipv4Addr, os::unix::fs::PermissionsExt as _};
use xtask::{
    IMAGE,
    cluster::{Daemon, Host},
};

/// Where the server answers HTTP, and every entry: nobody has a port to translate.
pub const HTTP: u16 = 30_080;
/// Where iperf3 answers.
pub const BULK: u16 = 30_201;
/// What the services of a swarm are called that have these.
pub const SERVICES: [&str; 2] = ["web", "bulk"];
/// A path that is answered with the address that the server sees.
pub const WHO_ASKS: &str = "/who";
/// Private to a host, as all of `/run`.
const FOLDER: &str = "/run/bench";
/// Whoever asks; with the headers a few hundred bytes, one segment.
const ANSWER: &str = "As short as answers are: what is measured is the way here and back.";
/// `nobody`, on Debian. It is root nowhere, so that it is the same process in a container.
const USER: u16 = 65_534;

/// nginx's configuration. Connections stay open for as many requests as come.
fn config() -> String {
    let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|of| format!("  {of}_temp_path {FOLDER}/{of};\n"))
        .concat();
    format!(
        "worker_processes 1;\npid {FOLDER}/nginx.pid;\nerror_log {FOLDER}/error.log;\n\
         events {{ worker_connections 4096; }}\nhttp {{\n{temp}  access_log off;\n  \
         keepalive_timeout 1h;\n  keepalive_requests 1000000000;\n  server {{\n    \
         listen {HTTP} backlog=4096;\n    location / {{ return 200 \"{ANSWER}\"; }}\n    \
         location {WHO_ASKS} {{ return 200 \"$remote_addr\"; }}\n  }}\n}}\n"
    )
}

/// A folder that a host's programs, and the server's user, may write to.
///
/// # Errors
/// The host is gone.
pub fn folder(host: &Host) -> anyhow::Result<std::path::PathBuf> {
    let folder = host.outside(FOLDER);
    fs::create_dir_all(&folder)
        .and_then(|()| fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)))
        .with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// Writes a file of a program's into that folder; returns where the host has it.
///
/// # Errors
/// The host is gone.
pub fn write(host: &Host, name: &str, content: &str) -> anyhow::Result<String> {
    let path = folder(host)?.join(name);
    fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(format!("{FOLDER}/{name}"))
}

/// Starts a program on a host that goes to the background by itself. It ends with the host.
///
/// # Errors
/// It does not start; with what it said.
pub fn start(host: &Host, line: &str) -> anyhow::Result<()> {
    let said = format!("{FOLDER}/said");
    folder(host)?;
    // A program in the background that kept our pipe would look as if it was not done.
    let script = format!("{line} >{said} 2>&1 </dev/null || {{ cat {said} >&2; exit 1; }}");
    host.shell(&script)
        .with_context(|| format!("cannot start {line} on {}", host.name()))?;
    Ok(())
}

/// Starts the server on a host.
///
/// # Errors
/// A program does not start.
pub fn serve(host: &Host) -> anyhow::Result<()> {
    let config = write(host, "server.conf", &config())?;
    let as_user = format!("setpriv --reuid {USER} --regid {USER} --clear-groups");
    start(
        host,
        &format!("{as_user} nginx -e {FOLDER}/error.log -c {config}"),
    )?;
    start(
        host,
        &format!("{as_user} iperf3 --server --port {BULK} --daemon"),
    )
}

/// Makes the server a service of a swarm, with its ports published: its task is on `node`. The programs
/// are those of this machine, which the task sees.
///
/// # Errors
/// The swarm refuses.
pub fn publish(manager: &Host, node: &Host, swarm: Daemon) -> anyhow::Result<()> {
    let config = write(node, "server.conf", &config())?;
    let on_node = format!("node.hostname=={}", node.name());
    let user = format!("{USER}:{USER}");
    // In the image only root may write.
    let temp = format!("TMPDIR={FOLDER}");
    let mut mounts = vec![format!("type=bind,src={FOLDER},dst={FOLDER}")];
    mounts.extend(["/usr", "/lib", "/lib64"].map(|of| format!("type=bind,src={of},dst={of},ro")));
    let error_log = format!("{FOLDER}/error.log");
    let bulk = BULK.to_string();
    let nginx = ["-e", &error_log, "-c", &config, "-g", "daemon off;"];
    let iperf = ["--server", "--port", &bulk];
    for (name, ports, program, args) in [
        (
            SERVICES[0],
            vec![format!("{HTTP}:{HTTP}")],
            "/usr/sbin/nginx",
            &nginx[..],
        ),
        (
            SERVICES[1],
            vec![format!("{BULK}:{BULK}"), format!("{BULK}:{BULK}/udp")],
            "/usr/bin/iperf3",
            &iperf[..],
        ),
    ] {
        let mut create = vec![
            "service",
            "create",
            "-d",
            "--no-resolve-image",
            "--name",
            name,
        ];
        create.extend(["--constraint", &on_node, "--user", &user]);
        create.extend(["--env", &temp]);
        create.extend(ports.iter().flat_map(|port| ["--publish", port]));
        create.extend(mounts.iter().flat_map(|mount| ["--mount", mount]));
        create.extend(["--entrypoint", program, IMAGE]);
        create.extend(args);
        manager
            .docker_of(swarm, &create)
            .with_context(|| format!("cannot create the service {name} on {}", manager.name()))?;
    }
    Ok(())
}

/// Where a published port, or the server itself, answers HTTP.
pub fn url(address: Ipv4Addr, path: &str) -> String {
    format!("http://{address}:{HTTP}{path}")
}
