//! Certificates of a swarm whose root's key an external certificate authority has: a real one, that speaks
//! cfssl's protocol, on a host of the nodes' network.

use anyhow::{Context as _, ensure};
use skein_tests::outsiders;
use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Stdio},
    time::Duration,
};
use xtask::{
    cluster::{Cluster, Host},
    wait_until,
};

const PORT: u16 = 8443;
/// How long a change of the nodes' certificates may take on a loaded machine.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long certificates are good while they are to be renewed in time: as short as the rest of the test lets
/// nodes do it.
const SHORT: u32 = 60;
const DAY: u32 = 86_400;

/// The authority: its files, and its server while it runs.
struct Authority<'a> {
    host: &'a Host,
    folder: PathBuf,
    serving: Option<Child>,
}

impl<'a> Authority<'a> {
    fn new(cluster: &'a Cluster) -> anyhow::Result<Self> {
        let folder = xtask::target_dir()?.join("skein-external-ca");
        fs::create_dir_all(&folder)?;
        let authority = Self {
            host: cluster.client()?,
            folder,
            serving: None,
        };
        for name in ["ca", "other"] {
            let (cert, key) = (authority.file(name, "pem"), authority.file(name, "key"));
            let make = format!("skein-signer root --name {name} --cert {cert} --key {key}");
            authority.host.run(&make)?;
        }
        Ok(authority)
    }

    fn file(&self, name: &str, extension: &str) -> String {
        let path = self.folder.join(format!("{name}.{extension}"));
        path.display().to_string()
    }

    fn url(&self) -> String {
        format!("https://{}:{PORT}/api/v1/cfssl/sign", self.host.address())
    }

    /// As the docker CLI is told of it.
    fn option(&self, root: &str) -> String {
        let (url, root) = (self.url(), self.file(root, "pem"));
        format!("protocol=cfssl,url={url},cacert={root}")
    }

    /// Begins to sign with a root, for managers of these roots.
    fn start(&mut self, root: &str, seconds: u32, clients: &[&str]) -> anyhow::Result<()> {
        self.stop()?;
        fs::write(self.file("clients", "pem"), clients.concat())?;
        let mut serve = self.host.command("skein-signer");
        serve.args(["serve", "--cert", &self.file(root, "pem")]);
        serve.args(["--key", &self.file(root, "key")]);
        serve.args(["--clients", &self.file("clients", "pem")]);
        serve.args(["--listen", &format!("{}:{PORT}", self.host.address())]);
        serve.args(["--seconds", &seconds.to_string()]);
        let log = File::options().create(true).append(true).open(self.log())?;
        serve
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log);
        let mut serving = serve.spawn()?;
        let said = serving.stdout.take().context("no output")?;
        self.serving = Some(serving);
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line)?;
        ensure!(line == "listening\n", "the authority says {line:?}");
        Ok(())
    }

    /// It is away.
    fn stop(&mut self) -> anyhow::Result<()> {
        if let Some(mut serving) = self.serving.take() {
            // The end of its input is its end.
            drop(serving.stdin.take());
            serving.wait()?;
        }
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// How often it has signed for a node, or under a profile.
    fn signed(&self, what: &str) -> anyhow::Result<usize> {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines = log.lines().filter(|line| line.starts_with("signed "));
        Ok(lines.filter(|line| line.contains(what)).count())
    }
}

fn refused(host: &Host, args: &[&str]) -> anyhow::Result<String> {
    match host.docker(args) {
        Ok(said) => anyhow::bail!("{args:?} was not refused: {said}"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

fn root(host: &Host) -> anyhow::Result<String> {
    host.docker(&["swarm", "ca"])
}

fn node_id(host: &Host) -> anyhow::Result<String> {
    let id = host.docker(&["info", "--format", "{{.Swarm.NodeID}}"])?;
    Ok(id.trim().to_owned())
}

fn join(host: &Host, manager: &Host, role: &str) -> anyhow::Result<String> {
    let token = manager.docker(&["swarm", "join-token", "-q", role])?;
    let address = format!("{}:2377", manager.address());
    host.docker(&["swarm", "join", "--token", token.trim(), &address])
}

/// Waits until all nodes are ready, with certificates of the root that is wanted.
fn all_ready(manager: &Host, count: usize) -> anyhow::Result<()> {
    wait_until("all nodes are ready", CHANGE_TIMEOUT, || {
        let format = "{{.Status}} {{.TLSStatus}}";
        let nodes = manager.docker(&["node", "ls", "--format", format])?;
        let ready = nodes.lines().filter(|line| *line == "Ready Ready").count();
        ensure!(ready == count, "docker node ls says: {nodes}");
        Ok(())
    })
}

fn is_manager(manager: &Host, host: &Host, is: bool) -> anyhow::Result<()> {
    wait_until("a role changes", CHANGE_TIMEOUT, || {
        let format = "{{.Swarm.ControlAvailable}}";
        let said = host.docker(&["info", "--format", format])?;
        ensure!(said.trim() == is.to_string(), "{} says {said}", host.name());
        Ok(())
    })?;
    all_ready(manager, 3)
}

fn certificate(host: &Host) -> anyhow::Result<String> {
    let path = host.outside("/var/lib/skein/control/certificates/swarm-node.crt");
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

#[test]
fn an_external_authority_signs_for_the_swarm() -> anyhow::Result<()> {
    let cluster = outsiders("external-ca", 4)?;
    let mut authority = Authority::new(&cluster)?;
    // Of the last run.
    File::create(authority.log())?;
    let [first, second, third, fourth] = ["n1", "n2", "n3", "n4"].map(|name| cluster.host(name));
    let (first, second, third, fourth) = (first?, second?, third?, fourth?);
    let (ca, other) = (authority.option("ca"), authority.option("other"));
    let ca_file = authority.file("ca", "pem");
    let ca_pem = fs::read_to_string(&ca_file)?;

    // It may be named before anything is of it: the managers' own key signs.
    let own = first.address().to_string();
    let init = ["swarm", "init", "--advertise-addr", &own];
    first.docker(&[&init[..], &["--external-ca", &ca]].concat())?;
    let info = first.docker(&["info"])?;
    let shown = format!("cfssl: {}\n", authority.url());
    ensure!(
        info.contains("External CAs:\n") && info.contains(&shown),
        "docker info says: {info}"
    );
    join(second, first, "worker")?;
    all_ready(first, 2)?;
    let old_pem = root(first)?;

    // What is away, or signs with another key, comes to nothing.
    let rotate = ["swarm", "ca", "--rotate", "--ca-cert", &ca_file];
    let rotate = [&rotate[..], &["--external-ca", &ca]].concat();
    let desired = "there must be at least one valid, reachable external CA corresponding to the \
                   desired CA certificate";
    let said = refused(first, &rotate)?;
    ensure!(said.contains(desired), "{said}");
    authority.start("other", DAY, &[&old_pem])?;
    let said = refused(first, &rotate)?;
    ensure!(said.contains(desired), "{said}");
    let rotating = [
        "info",
        "--format",
        "{{.Swarm.Cluster.RootRotationInProgress}}",
    ];
    ensure!(first.docker(&rotating)?.trim() == "false", "it began");
    ensure!(root(first)? == old_pem, "another root");

    // From here on it has the key.
    let token = first.docker(&["swarm", "join-token", "-q", "worker"])?;
    authority.start("ca", DAY, &[&old_pem, &ca_pem])?;
    first.docker(&rotate)?;
    ensure!(root(first)?.trim() == ca_pem.trim(), "not its root");
    ensure!(
        first.docker(&["swarm", "join-token", "-q", "worker"])? != token,
        "the old token"
    );
    all_ready(first, 2)?;
    let ids = [node_id(first)?, node_id(second)?];
    for id in &ids {
        ensure!(authority.signed(id)? > 0, "it did not sign for {id}");
    }
    join(third, first, "manager")?;
    is_manager(first, third, true)?;
    ensure!(authority.signed(&node_id(third)?)? == 1, "not for n3");
    let before = authority.signed(&ids[1])?;
    first.docker(&["node", "promote", "n2"])?;
    is_manager(first, second, true)?;
    // It serves before the leader has it in the group, as which it is demoted.
    wait_until("it can be demoted", CHANGE_TIMEOUT, || {
        first.docker(&["node", "demote", "n2"]).map(drop)
    })?;
    is_manager(first, second, false)?;
    ensure!(
        authority.signed(&ids[1])? >= before + 2,
        "its roles are not of it"
    );

    // Away: nothing of the swarm can be changed, and who joins waits for it.
    authority.stop()?;
    let said = refused(first, &["swarm", "update", "--task-history-limit", "3"])?;
    ensure!(
        said.contains("corresponding to the current CA certificate"),
        "{said}"
    );
    let said = join(fourth, first, "worker").err();
    let said = format!("{:#}", said.context("it joined")?);
    ensure!(
        said.contains("Timeout was reached before node joined"),
        "{said}"
    );
    let format = "{{.Swarm.LocalNodeState}} {{.Swarm.Error}}";
    let said = fourth.docker(&["info", "--format", format])?;
    ensure!(
        said.starts_with("pending ") && said.contains("external CA does not sign"),
        "{said}"
    );
    authority.start("ca", SHORT, &[&ca_pem])?;
    all_ready(first, 4)?;
    let joined = certificate(fourth)?;
    wait_until("a certificate is renewed in time", CHANGE_TIMEOUT, || {
        ensure!(certificate(fourth)? != joined, "it has the old one");
        Ok(())
    })?;
    all_ready(first, 4)?;

    // No other external one may take its place, but the managers' own key.
    let other_file = authority.file("other", "pem");
    let exchange = ["swarm", "ca", "--rotate", "--ca-cert", &other_file];
    let both = ["--external-ca", &ca, "--external-ca", &other];
    let said = refused(first, &[&exchange[..], &both].concat())?;
    let unsupported = "rotating from one external CA to a different external CA is not supported";
    ensure!(said.contains(unsupported), "{said}");
    first.docker(&["swarm", "ca", "--rotate"])?;
    ensure!(authority.signed("\"CA\"")? == 1, "nothing links the roots");
    let new_pem = root(first)?;
    ensure!(new_pem != ca_pem && new_pem != old_pem, "an old root");
    authority.stop()?;
    all_ready(first, 4)?;
    first.docker(&["node", "promote", "n4"])?;
    wait_until("n4 is a manager", CHANGE_TIMEOUT, || {
        let said = fourth.docker(&["info", "--format", "{{.Swarm.ControlAvailable}}"])?;
        ensure!(said.trim() == "true", "n4 says {said}");
        Ok(())
    })?;
    cluster.down()
}
