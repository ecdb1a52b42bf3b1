//! A service's replicas on one node: from the call that creates it until all of them run.

use super::Nodes;
use crate::{
    api::{Api, wait},
    machine,
    report::{Bar, Comparison, Limit, Section, Unit},
    rounds::{Contender, told_in_turns},
};
use anyhow::Context as _;
use bollard::models::{ContainerCreateBody, HostConfig};
use rand::RngCore;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use xtask::{IMAGE, cluster::Daemon};

/// Tasks of the service.
const REPLICAS: usize = 30;
const ROUNDS: usize = 7;
const ROUNDS_QUICK: usize = 2;
/// Between two looks at the tasks: the finest that a time is known to.
const POLL: Duration = Duration::from_millis(20);
/// For all of them to run; Docker needs about eight seconds, more on a loaded machine.
const RUN_LIMIT: Duration = Duration::from_secs(180);
/// For the containers of a removed service to go.
const GONE_LIMIT: Duration = Duration::from_secs(180);
/// Of Docker Swarm's time.
const RATIO_MAX: f64 = 0.5;

const SKEIN: &str = "Skein";
const SWARM: &str = "Docker Swarm";
const FLOOR: &str = "the engine alone";

/// It ends services at once, so that rounds do not wait for them.
const STOP: &str = "SIGKILL";
/// What every contender's containers run.
const COMMAND: [&str; 2] = ["/bin/sleep", "86400"];

/// A swarm, and the engine that its containers are on.
struct Side {
    swarm: Api,
    engine: Api,
}

impl Side {
    /// The time from the call that creates a service until its tasks run; it is gone afterwards.
    fn turn(&self, spec: &Value) -> anyhow::Result<f64> {
        let begun = Instant::now();
        let id = self.swarm.create_service(spec)?;
        let count = || self.swarm.running_tasks(&id);
        let ran = wait("all replicas run", POLL, RUN_LIMIT, count, |n| {
            *n == REPLICAS
        });
        let took = begun.elapsed();
        // It must not be there for the next one, whatever came of it.
        self.swarm.remove_service(&id)?;
        let count = || self.engine.container_count();
        let poll = Duration::from_millis(200);
        wait("no container is left", poll, GONE_LIMIT, count, |n| *n == 0)?;
        ran?;
        Ok(took.as_secs_f64())
    }
}

/// Measures all contenders in turns.
pub fn measure(nodes: &Nodes<'_>, quick: bool, rng: &mut dyn RngCore) -> anyhow::Result<Section> {
    let rounds = if quick { ROUNDS_QUICK } else { ROUNDS };
    let api = |host: &xtask::cluster::Host, daemon| Api::at(&host.socket_of(daemon));
    let skein = Side {
        swarm: api(nodes.skein, Daemon::Control)?,
        engine: api(nodes.skein, Daemon::Engine)?,
    };
    let swarm = Side {
        swarm: api(nodes.swarm, Daemon::Engine)?,
        engine: api(nodes.swarm, Daemon::Engine)?,
    };
    let bare = api(nodes.bare, Daemon::Engine)?;
    let body = ContainerCreateBody {
        image: Some(format!("{IMAGE}:latest")),
        entrypoint: Some(COMMAND.map(str::to_owned).to_vec()),
        host_config: Some(HostConfig::default()),
        ..ContainerCreateBody::default()
    };
    let floor = || -> anyhow::Result<f64> {
        let took = bare.start_containers(&body, REPLICAS, POLL);
        bare.remove_containers()?;
        Ok(took?.as_secs_f64())
    };
    let mut section = Section {
        title: format!("{REPLICAS} replicas, from create to all running"),
        about: format!(
            "One node each, all up at the same time, in turns; a sleeping busybox from an image that the \
             node has. From the call that creates the service until `GET /tasks`, asked every {} ms, says \
             that {REPLICAS} run; then it is removed, and the next turn begins when its containers are \
             gone. The engine alone: {REPLICAS} containers created and started at once through its API. \
             {rounds} rounds after one that does not count.",
            POLL.as_millis()
        ),
        ..Section::default()
    };
    let alone = sleeping();
    let mut contenders = [
        Contender::new(SKEIN, || skein.turn(&alone)),
        Contender::new(SWARM, || swarm.turn(&alone)),
        Contender::new(FLOOR, floor),
    ];
    let what = format!("{REPLICAS} replicas without networks");
    compare(&mut section, &what, rounds, &mut contenders, rng);
    drop(contenders);
    section.bars.push(Bar {
        what: format!("{REPLICAS} replicas, to Docker Swarm"),
        limit: Limit::AtMost(RATIO_MAX),
        found: section.comparisons[0].ratio_of(SKEIN),
        unit: Unit::Ratio,
    });

    let network = "bench";
    let published = serving(network);
    let create = ["network", "create", "--driver", "overlay", network];
    nodes
        .skein
        .docker(&create)
        .context("an overlay of Skein's")?;
    let mut contenders = vec![Contender::new(SKEIN, || skein.turn(&published))];
    if machine::has_ipvs() {
        nodes
            .swarm
            .engine(&create)
            .context("an overlay of Docker's")?;
        contenders.push(Contender::new(SWARM, || swarm.turn(&published)));
    } else {
        section.notes.push(format!(
            "With an overlay and a published port Skein stands alone: {}.",
            machine::NO_IPVS
        ));
    }
    let what = format!("{REPLICAS} replicas of a server on an overlay, with a published port");
    compare(&mut section, &what, rounds, &mut contenders, rng);
    Ok(section)
}

/// Measures contenders in turns, and adds what came of it to a section.
fn compare(
    section: &mut Section,
    what: &str,
    rounds: usize,
    contenders: &mut [Contender<'_>],
    rng: &mut dyn RngCore,
) {
    let show = |time: &f64| Unit::Seconds.show(*time);
    let turns = told_in_turns(what, rounds, contenders, rng, show);
    let comparison = Comparison::new(what, Unit::Seconds, SWARM, &turns, rng);
    section.comparisons.push(comparison);
}

/// A service that sleeps.
fn sleeping() -> Value {
    let container = json!({
        "Image": format!("{IMAGE}:latest"),
        "Command": [COMMAND[0]],
        "Args": [COMMAND[1]],
        "StopSignal": STOP,
    });
    service(&container, &json!([]), &json!([]))
}

/// A service on a network whose port is published. It listens there, as tasks of Skein run once they do.
fn serving(network: &str) -> Value {
    let container = json!({"Image": format!("{IMAGE}:latest"), "StopSignal": STOP});
    let ports = json!([{"TargetPort": 8080, "Protocol": "tcp", "PublishMode": "ingress"}]);
    service(&container, &json!([{"Target": network}]), &ports)
}

fn service(container: &Value, networks: &Value, ports: &Value) -> Value {
    json!({
        "Name": "bench",
        "TaskTemplate": {"ContainerSpec": container, "Networks": networks},
        "Mode": {"Replicated": {"Replicas": REPLICAS}},
        "EndpointSpec": {"Ports": ports},
    })
}
