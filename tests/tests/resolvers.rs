//! Names, asked for from a task by the resolvers that people have: all of them are told the same.

use anyhow::{Context as _, bail, ensure};
use hickory_proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{RData, Record, RecordType, rdata::A},
};
use skein_tests::{sockets::within, swarm};
use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use xtask::{
    check::{names, services},
    cluster::Host,
    output, wait_until,
};

/// A name that the server outside of the cluster knows, in a domain that tasks search, and its address.
const OUTSIDE: &str = "outside.example.test";
const IN_DOMAIN: &str = "outside";
const DOMAIN: &str = "example.test";
const OUTSIDE_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
/// From a change of a node's resolv.conf to the first question for the server in it.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(15);
/// Where the task sees the musl program.
const CLIENTS: &str = "/clients";
/// Between what one client says and the next, in what the task prints: nobody says so by itself.
const MARK: &str = "@@";

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    Dig,
    /// Of BIND.
    Nslookup,
    Busybox,
    /// glibc.
    Getent,
    Musl,
}

const CLIENTS_ALL: [Client; 5] = [
    Client::Dig,
    Client::Nslookup,
    Client::Busybox,
    Client::Getent,
    Client::Musl,
];

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Address,
    /// Of IPv6.
    Aaaa,
    /// The name of an address.
    Pointer,
}

/// What a name leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    /// Addresses, or names.
    All(BTreeSet<String>),
    /// The name is there, but nothing of what was asked for.
    NoData,
    NoName,
    /// The client does not say which of the two.
    Nothing,
}

impl Found {
    fn is_as(&self, expected: &Self) -> bool {
        match self {
            Self::Nothing => matches!(expected, Self::NoData | Self::NoName),
            of => of == expected,
        }
    }
}

struct Question {
    kind: Kind,
    name: String,
    expected: Found,
    /// The task searches a domain.
    searched: bool,
}

impl Question {
    fn is_for(&self, client: Client) -> bool {
        // Engines say that a name needs no dot to be whole (`ndots:0`). Then glibc alone looks into the domain, after
        // the name as it is; and busybox's nslookup, which does not read that, looks there alone.
        match (self.searched, client) {
            (false, _) | (true, Client::Getent) => true,
            (true, Client::Busybox) => self.name != "web",
            (true, _) => self.name != IN_DOMAIN,
        }
    }
}

impl Client {
    fn command(self, kind: Kind, name: &str) -> String {
        let dig = "/usr/bin/dig +search +noall +comments +answer";
        match (self, kind) {
            (Self::Dig, Kind::Address) => format!("{dig} {name} A"),
            (Self::Dig, Kind::Aaaa) => format!("{dig} {name} AAAA"),
            (Self::Dig, Kind::Pointer) => format!("{dig} -x {name}"),
            (Self::Nslookup, Kind::Address) => format!("/usr/bin/nslookup -type=A {name}"),
            (Self::Nslookup, Kind::Aaaa) => format!("/usr/bin/nslookup -type=AAAA {name}"),
            (Self::Nslookup, Kind::Pointer) => format!("/usr/bin/nslookup {name}"),
            (Self::Busybox, Kind::Address) => format!("/bin/busybox nslookup -type=a {name}"),
            (Self::Busybox, Kind::Aaaa) => format!("/bin/busybox nslookup -type=aaaa {name}"),
            (Self::Busybox, Kind::Pointer) => format!("/bin/busybox nslookup {name}"),
            // Both families, as most programs ask.
            (Self::Getent, Kind::Address) => format!("/usr/bin/getent ahosts {name}"),
            (Self::Getent, Kind::Aaaa) => format!("/usr/bin/getent ahostsv6 {name}"),
            (Self::Getent, Kind::Pointer) => format!("/usr/bin/getent hosts {name}"),
            (Self::Musl, Kind::Address) => format!("{CLIENTS}/resolve any {name}"),
            (Self::Musl, Kind::Aaaa) => format!("{CLIENTS}/resolve 6 {name}"),
            (Self::Musl, Kind::Pointer) => format!("{CLIENTS}/resolve name {name}"),
        }
    }

    /// What it has found, by what it printed.
    fn found(self, kind: Kind, said: &str, status: i32) -> anyhow::Result<Found> {
        let lines = said.lines().map(str::trim);
        let mut words = BTreeSet::new();
        match self {
            Self::Dig => {
                let records = lines.filter(|line| !line.is_empty() && !line.starts_with(';'));
                words.extend(records.filter_map(|line| line.split_whitespace().last()));
            }
            Self::Nslookup | Self::Busybox => {
                let after = |line: &'static str| {
                    move |of: &str| of.split_once(line).map(|(_, word)| word.trim().to_owned())
                };
                let values = lines.filter_map(|line| match kind {
                    Kind::Pointer => after("name = ")(line),
                    _ => after("Address:")(line),
                });
                // The server's own has its port.
                let values = values.filter(|word| !word.ends_with(":53") && !word.ends_with("#53"));
                return Ok(match values.collect::<BTreeSet<_>>() {
                    // busybox shows its server alone, and no failure.
                    none if none.is_empty() && self == Self::Busybox && status == 0 => {
                        ensure!(!said.contains("NXDOMAIN"), "it failed with 0: {said}");
                        Found::NoData
                    }
                    none if none.is_empty() => nothing(said)?,
                    found => Found::All(found.iter().map(|word| undotted(word)).collect()),
                });
            }
            Self::Getent => {
                let column = usize::from(kind == Kind::Pointer);
                let values = lines.filter_map(|line| line.split_whitespace().nth(column));
                // IPv4 addresses in the other family's form.
                words.extend(values.filter(|word| !word.starts_with("::ffff:")));
            }
            Self::Musl => words.extend(lines.filter(|_| status == 0)),
        }
        if !words.is_empty() {
            return Ok(Found::All(words.into_iter().map(undotted).collect()));
        }
        match self {
            Self::Dig => nothing(said),
            Self::Getent if matches!(status, 0 | 2) => Ok(Found::Nothing),
            Self::Musl if status == 2 => Ok(Found::Nothing),
            _ => bail!("it failed with {status}: {said}"),
        }
    }
}

fn undotted(name: &str) -> String {
    name.trim_end_matches('.').to_owned()
}

/// What a client that shows no record says of why.
fn nothing(said: &str) -> anyhow::Result<Found> {
    match () {
        () if said.contains("NXDOMAIN") => Ok(Found::NoName),
        () if said.contains("No answer") || said.contains("status: NOERROR") => Ok(Found::NoData),
        () => bail!("it says {said}"),
    }
}

#[test]
fn all_resolvers_are_told_the_same() -> anyhow::Result<()> {
    let cluster = swarm("resolvers", 2, 1)?;
    let (first, client) = (cluster.host("n1")?, cluster.client()?);
    first.docker(&["network", "create", "-d", "overlay", "back"])?;
    let web = ["--network", "name=back,alias=www"];
    services::create(first, "web", 2, &web)?;
    let program = musl_program(first.binaries())?;
    let folder = program.parent().context("a program without a folder")?;
    for (asker, domain) in [("asker", None), ("searcher", Some(DOMAIN))] {
        create_asker(first, asker, folder, domain)?;
    }

    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let outside = scope.spawn(|| within(client, || serve_outside(client.address(), &over)));
        let asked = (|| {
            // The node's own, and not the machine's, which other hosts see as well.
            let conf = format!("nameserver {}", client.address());
            first.shell(&format!(
                "echo {conf} >/run/resolv.conf && mount --bind /run/resolv.conf /etc/resolv.conf"
            ))?;
            wait_until("names outside are asked for there", FOLLOWED_WITHIN, || {
                let found = names::resolve(first, "asker", OUTSIDE)?;
                ensure!(found == [OUTSIDE_ADDRESS.to_string()], "{found:?}");
                Ok(())
            })?;
            ask_all(first)
        })();
        over.store(true, Ordering::Relaxed);
        let served = outside.join();
        served.map_err(|_| anyhow::anyhow!("the server outside panicked"))??;
        asked
    })?;
    cluster.down()
}

/// A task on the first node with the programs of this machine.
fn create_asker(
    first: &Host,
    name: &str,
    clients: &Path,
    domain: Option<&str>,
) -> anyhow::Result<()> {
    let mounts = ["/usr", "/lib", "/lib64", "/etc/nsswitch.conf"];
    let mut mounts: Vec<String> = mounts
        .map(|of| format!("type=bind,src={of},dst={of},ro"))
        .into();
    let clients = clients.display();
    mounts.push(format!("type=bind,src={clients},dst={CLIENTS},ro"));
    let mut options = vec!["--network", "back", "--constraint", "node.hostname==n1"];
    options.extend(mounts.iter().flat_map(|mount| ["--mount", mount]));
    options.extend(
        domain
            .into_iter()
            .flat_map(|domain| ["--dns-search", domain]),
    );
    services::create(first, name, 1, &options)
}

/// Asks all questions by all clients.
fn ask_all(first: &Host) -> anyhow::Result<()> {
    let all = |found: Vec<String>| Found::All(found.into_iter().collect());
    let vip = names::resolve(first, "asker", "web")?;
    let tasks = names::resolve(first, "asker", "tasks.web")?;
    ensure!(vip.len() == 1 && tasks.len() == 2, "{vip:?}, {tasks:?}");
    let one_task = tasks.first().context("no task")?.clone();
    let pointer = names::resolve_with(first, "asker", "", &format!("-x {one_task}"))?;
    let ps = [
        "service",
        "ps",
        "--no-trunc",
        "--format",
        "{{.Name}}.{{.ID}}.back.",
        "web",
    ];
    let tasks_names = first.docker(&ps)?;
    ensure!(
        pointer.len() == 1 && tasks_names.lines().any(|name| name == pointer[0]),
        "{one_task} is {pointer:?}, and the tasks are {tasks_names}"
    );
    let outside = || vec![OUTSIDE_ADDRESS.to_string()];
    let questions = [
        (Kind::Address, "web", all(vip.clone()), false),
        (Kind::Address, "tasks.web", all(tasks), false),
        (Kind::Address, "www", all(vip.clone()), false),
        (Kind::Address, "web.", all(vip.clone()), false),
        (Kind::Address, "web.back.", all(vip.clone()), false),
        (Kind::Aaaa, "web", Found::NoData, false),
        (Kind::Aaaa, "tasks.web", Found::NoData, false),
        (
            Kind::Pointer,
            &one_task,
            all(vec![undotted(&pointer[0])]),
            false,
        ),
        (Kind::Address, "no-such-name", Found::NoName, false),
        (Kind::Address, "tasks.no-such-name", Found::NoName, false),
        (Kind::Address, OUTSIDE, all(outside()), false),
        (
            Kind::Address,
            "no-such-name.example.test",
            Found::NoName,
            false,
        ),
        (Kind::Address, IN_DOMAIN, all(outside()), true),
        // The cluster's own come before those of the domain.
        (Kind::Address, "web", all(vip), true),
        (Kind::Address, "no-such-name", Found::NoName, true),
    ];
    let questions = questions.map(|(kind, name, expected, searched)| Question {
        kind,
        name: name.to_owned(),
        expected,
        searched,
    });
    let mut wrong = Vec::new();
    for (asker, searched) in [("asker", false), ("searcher", true)] {
        let of_asker = questions.iter().filter(|of| of.searched == searched);
        let asked: Vec<(&Question, Client)> = of_asker
            .flat_map(|of| CLIENTS_ALL.map(|client| (of, client)))
            .filter(|(of, client)| of.is_for(*client))
            .collect();
        let script = asked.iter().map(|(of, client)| {
            let command = client.command(of.kind, &of.name);
            format!("{command} 2>&1; echo \"{MARK} $?\"\n")
        });
        let container = services::container_of(first, asker)?;
        let script: String = script.collect();
        let said = first.docker(&["exec", &container, "sh", "-c", &script])?;
        let mut said = said.split_inclusive('\n');
        for (of, client) in asked {
            let mut own = String::new();
            let status = loop {
                let line = said.next();
                let line =
                    line.with_context(|| format!("{client:?} said nothing of {}", of.name))?;
                match line.strip_prefix(MARK) {
                    Some(status) => break status.trim().parse()?,
                    None => own.push_str(line),
                }
            };
            let found = client.found(of.kind, &own, status);
            if !found.as_ref().is_ok_and(|found| found.is_as(&of.expected)) {
                wrong.push(format!(
                    "{client:?} in {asker}: {} ({:?}) is {found:?}, not {:?}: it said {own:?}",
                    of.name, of.kind, of.expected
                ));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Builds the program that asks as musl does; returns where it is.
fn musl_program(binaries: &Path) -> anyhow::Result<PathBuf> {
    let folder = binaries.join("musl");
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    let program = folder.join("resolve");
    let source = xtask::root().join("tests/clients/resolve.c");
    let mut build = Command::new("musl-gcc");
    build.args(["-static", "-O2", "-Wall", "-o"]);
    output(build.arg(&program).arg(source)).context("run `cargo xtask setup`")?;
    Ok(program)
}

/// A DNS server that knows one name, until it is over.
fn serve_outside(address: Ipv4Addr, over: &AtomicBool) -> anyhow::Result<()> {
    let socket = UdpSocket::bind((address, 53)).context("cannot serve DNS on the client")?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut packet = [0; 512];
    while !over.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut packet) else {
            continue;
        };
        let Ok(mut message) = Message::from_vec(&packet[..length]) else {
            continue;
        };
        let [query] = &message.queries[..] else {
            continue;
        };
        let query = query.clone();
        message.metadata.message_type = MessageType::Response;
        message.metadata.recursion_available = true;
        message.edns = None;
        if query.name.to_ascii().trim_end_matches('.') != OUTSIDE {
            message.metadata.response_code = ResponseCode::NXDomain;
        } else if query.query_type == RecordType::A {
            let data = RData::A(A(OUTSIDE_ADDRESS));
            message.answers = vec![Record::from_rdata(query.name.clone(), 60, data)];
        }
        socket.send_to(&message.to_vec()?, from)?;
    }
    Ok(())
}
