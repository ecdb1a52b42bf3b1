//! Who serves the records: Skein, dnsmasq and unbound, on one host, each at a port of its own.

use super::records::{self, Mix, TTL};
use anyhow::{Context as _, ensure};
use rand::RngCore;
use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};
use xtask::{Step, cluster::Host, wait_until};

/// As reports call them.
pub const SKEIN: &str = "Skein";
pub const UNBOUND: &str = "unbound";
const DNSMASQ: &str = "dnsmasq";
/// Private to the host, as all of `/run`.
const FOLDER: &str = "/run/bench";
/// From a server's start to its first answer: it reads all records.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Questions whose answers are compared.
const SAMPLE: usize = 40;

/// A server that runs.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    /// As the report calls it.
    pub name: &'static str,
    /// Where it listens, on loopback.
    pub port: u16,
}

const ALL: [Server; 3] = [
    Server {
        name: SKEIN,
        port: 5_301,
    },
    Server {
        name: DNSMASQ,
        port: 5_302,
    },
    Server {
        name: UNBOUND,
        port: 5_303,
    },
];

/// Which of the two has a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who answers.
    Server,
    /// Who asks.
    Client,
}

/// How a command line begins of a program that keeps to its side's processor.
pub fn pinned(side: Side) -> String {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let processor = match side {
        Side::Server => 0,
        Side::Client => 1.min(all - 1),
    };
    format!("taskset -c {processor}")
}

/// A file that [`start`] has written, as the host sees it.
pub fn file(name: &str) -> String {
    format!("{FOLDER}/{name}")
}

/// Starts all, and sees that they answer the same.
///
/// # Errors
/// One does not start, or says something else.
pub fn start(host: &Host, rng: &mut dyn RngCore) -> anyhow::Result<[Server; 3]> {
    let step = Step::begin(&format!("start {SKEIN}, {DNSMASQ} and {UNBOUND}"));
    let outside = host.outside(FOLDER);
    fs::create_dir_all(&outside).with_context(|| format!("cannot make {}", outside.display()))?;
    let write = |name: &str, content: &str| {
        let path = outside.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))
    };
    for mix in Mix::ALL {
        write(mix.file(), &mix.questions(rng))?;
    }
    // Nobody outside is asked, by any of them.
    write("resolv.conf", "")?;
    host.run(&format!(
        "mount --bind {FOLDER}/resolv.conf /etc/resolv.conf"
    ))?;
    write("hosts", &records::hosts())?;
    let [skein, dnsmasq, unbound] = ALL;
    write("dnsmasq.conf", &dnsmasq_config(dnsmasq.port))?;
    write("unbound.conf", &unbound_config(unbound.port))?;
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let lines = [
        format!("{} names --port {}", own.display(), skein.port),
        format!("dnsmasq --keep-in-foreground --conf-file={FOLDER}/dnsmasq.conf"),
        format!("unbound -d -c {FOLDER}/unbound.conf"),
    ];
    for (server, line) in ALL.iter().zip(lines) {
        let log = fs::File::create(outside.join(format!("{}.log", server.name)))?;
        let line = format!("exec {} {line}", pinned(Side::Server));
        let mut command: Command = host.command("sh");
        command.args(["-c", &line]).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        // It ends with the host.
        let mut process = command
            .spawn()
            .with_context(|| format!("cannot start {}", server.name))?;
        wait_until(&format!("{} answers", server.name), START_TIMEOUT, || {
            ensure!(
                process.try_wait()?.is_none(),
                "it ended: {}",
                fs::read_to_string(outside.join(format!("{}.log", server.name)))?
            );
            let found = ask(host, server.port, "service-0 A")?;
            ensure!(found.contains("10.64."), "it says {found:?}");
            Ok(())
        })?;
    }
    for mix in Mix::ALL {
        for question in mix.questions(rng).lines().take(SAMPLE) {
            let [one, other, third] = ALL;
            let said = ask(host, one.port, question)?;
            for server in [other, third] {
                let other = ask(host, server.port, question)?;
                ensure!(
                    said == other,
                    "to {question} {} says {said:?}, and {} {other:?}",
                    one.name,
                    server.name
                );
            }
        }
    }
    step.end("they say the same");
    Ok(ALL)
}

/// What a server says: its code, and the records in order.
fn ask(host: &Host, port: u16, question: &str) -> anyhow::Result<String> {
    let options = "+noall +comments +answer +tries=1 +time=2";
    let said = host.run(&format!("dig @127.0.0.1 -p {port} {options} {question}"))?;
    let status = said.lines().find_map(|line| {
        let (_, status) = line.split_once("status: ")?;
        status.split(',').next()
    });
    let mut records: Vec<String> = said
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with(';'))
        .map(|record| record.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    records.sort();
    let status = status.with_context(|| format!("dig says {said}"))?;
    Ok(format!("{status}: {}", records.join(", ")))
}

/// What it is not told it is to know does not exist.
fn dnsmasq_config(port: u16) -> String {
    format!(
        "port={port}\nlisten-address=127.0.0.1\nbind-interfaces\nuser=root\npid-file\nno-resolv\nno-poll\n\
         no-hosts\naddn-hosts={FOLDER}/hosts\nlocal=/#/\nlocal-ttl={TTL}\nno-negcache\n"
    )
}

/// The same of unbound: its root is a zone that has all there is.
fn unbound_config(port: u16) -> String {
    let data = records::local_data();
    format!(
        "server:\n  interface: 127.0.0.1\n  port: {port}\n  num-threads: 1\n  do-ip6: no\n  \
         do-daemonize: no\n  username: \"\"\n  chroot: \"\"\n  directory: \"{FOLDER}\"\n  pidfile: \"\"\n  \
         use-syslog: no\n  module-config: \"iterator\"\n  local-zone: \".\" static\n{data}\
         remote-control:\n  control-enable: no\n"
    )
}
