//! `docker events`: what happens to the swarm and to the node's own containers, as one stream.

use anyhow::{Context as _, ensure};
use serde_json::Value;
use skein_tests::swarm;
use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Stdio},
    sync::mpsc,
    time::Duration,
};
use xtask::{
    check::services,
    cluster::{Daemon, Host},
    wait_until,
};

/// From a change to its event, on a loaded machine.
const TOLD_TIMEOUT: Duration = Duration::from_secs(20);

/// Events that a listener was told and has not looked at; the client waits then.
const QUEUE_MAX: usize = 1024;

/// `docker events` that goes on.
struct Listener {
    client: Child,
    events: mpsc::Receiver<Value>,
    seen: Vec<Value>,
}

impl Listener {
    fn begin(host: &Host, options: &[&str]) -> anyhow::Result<Self> {
        let mut client = host.command("docker");
        client.args(["--host", &format!("unix://{}", Daemon::Control.socket())]);
        client
            .args(["events", "--format", "{{json .}}"])
            .args(options);
        let mut client = client.stdout(Stdio::piped()).spawn()?;
        let stdout = client.stdout.take().context("no output")?;
        let (tell, events) = mpsc::sync_channel(QUEUE_MAX);
        std::thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            for event in lines.filter_map(|line| serde_json::from_str(&line).ok()) {
                if tell.send(event).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            client,
            events,
            seen: Vec::new(),
        })
    }

    /// Waits for an event, in whatever order, that says all of this.
    fn await_event(
        &mut self,
        kind: &str,
        action: &str,
        attributes: &[(&str, &str)],
    ) -> anyhow::Result<Value> {
        let what = format!("{kind} {action} {attributes:?} is told");
        wait_until(&what, TOLD_TIMEOUT, || {
            self.seen.extend(self.events.try_iter());
            let found = self
                .seen
                .iter()
                .find(|event| says(event, kind, action, attributes));
            found
                .cloned()
                .with_context(|| format!("only {:?} was told", self.seen))
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // It may have ended; then there is nobody to kill.
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

fn says(event: &Value, kind: &str, action: &str, attributes: &[(&str, &str)]) -> bool {
    let has = |(name, value): &(&str, &str)| event["Actor"]["Attributes"][name] == *value;
    event["Type"] == kind && event["Action"] == action && attributes.iter().all(has)
}

#[test]
fn the_swarms_and_the_engines_events_are_one_stream() -> anyhow::Result<()> {
    let cluster = swarm("events", 2, 2)?;
    let (first, second) = (cluster.host("n1")?, cluster.host("n2")?);
    let since = first.run("date +%s.%N")?;
    let since = since.trim();

    // While it happens, on the manager that is not asked to do it.
    let mut live = Listener::begin(second, &[])?;
    let mut services_only = Listener::begin(second, &["--filter", "type=service"])?;
    // A client is connected only once it was told something.
    let socket = format!("unix://{}", Daemon::Control.socket());
    wait_until("listeners are connected", TOLD_TIMEOUT, || {
        let name = format!("probe{}", live.seen.len());
        let volume = ["--host", &socket, "volume", "create", &name];
        xtask::output(second.command("docker").args(volume))?;
        live.seen.extend(live.events.try_iter());
        ensure!(!live.seen.is_empty(), "nothing is told yet");
        Ok(())
    })?;

    first.docker(&["network", "create", "-d", "overlay", "back"])?;
    let network = live.await_event("network", "create", &[("name", "back")])?;
    ensure!(network["scope"] == "swarm", "{network}");
    first.shell("printf x | docker --host unix:///run/skein/docker.sock secret create key -")?;
    live.await_event("secret", "create", &[("name", "key")])?;
    services::create(first, "web", 2, &["--network", "back", "--secret", "key"])?;
    live.await_event("service", "create", &[("name", "web")])?;
    let container = live.await_event(
        "container",
        "start",
        &[("com.docker.swarm.service.name", "web")],
    )?;
    ensure!(container["scope"] == "local", "{container}");
    // The engine's network is the twin of the swarm's, which it is never told of as.
    let connected = live.await_event("network", "connect", &[("name", "back")])?;
    ensure!(
        connected["Actor"]["ID"] == network["Actor"]["ID"]
            && connected["Actor"]["Attributes"]["type"] == "overlay",
        "{connected}"
    );
    first.docker(&["service", "scale", "-d", "web=3"])?;
    let scaled = [
        ("name", "web"),
        ("replicas.old", "2"),
        ("replicas.new", "3"),
    ];
    live.await_event("service", "update", &scaled)?;
    first.docker(&["node", "update", "--availability", "pause", "n2"])?;
    let paused = [
        ("name", "n2"),
        ("availability.old", "active"),
        ("availability.new", "pause"),
    ];
    live.await_event("node", "update", &paused)?;
    services::settled(first, "web", 3)?;
    first.docker(&["service", "rm", "web"])?;
    live.await_event("service", "remove", &[("name", "web")])?;
    services_only.await_event("service", "remove", &[("name", "web")])?;
    let others = services_only
        .seen
        .iter()
        .find(|event| event["Type"] != "service");
    ensure!(others.is_none(), "a filter by type let {others:?} pass");

    // Afterwards, in the order in which it happened.
    let until = first.run("date +%s.%N")?;
    let past = [
        "events",
        "--since",
        since,
        "--until",
        until.trim(),
        "--format",
        "{{json .}}",
    ];
    let past = first.docker(&past)?;
    let past: Vec<Value> = past
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let times: Vec<_> = past
        .iter()
        .filter_map(|event| event["timeNano"].as_i64())
        .collect();
    ensure!(times.len() == past.len() && times.is_sorted(), "{past:?}");
    for (kind, action) in [
        ("network", "create"),
        ("service", "create"),
        ("container", "start"),
        ("service", "remove"),
    ] {
        ensure!(
            past.iter().any(|event| says(event, kind, action, &[])),
            "{kind} {action} is not in {past:?}"
        );
    }
    let early = first.docker(&["events", "--since", since, "--until", since])?;
    ensure!(early.is_empty(), "{early}");

    // Workers tell of themselves only.
    first.docker(&["node", "demote", "n2"])?;
    wait_until("n2 is a worker", TOLD_TIMEOUT, || {
        let info = second.docker(&["info", "--format", "{{.Swarm.ControlAvailable}}"])?;
        ensure!(info.trim() == "false");
        Ok(())
    })?;
    let mut worker = Listener::begin(second, &["--since", since])?;
    worker.await_event(
        "container",
        "start",
        &[("com.docker.swarm.service.name", "web")],
    )?;
    let swarms = worker.seen.iter().find(|event| event["scope"] == "swarm");
    ensure!(swarms.is_none(), "a worker tells {swarms:?}");
    cluster.down()
}
