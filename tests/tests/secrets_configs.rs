//! Secrets and configs, from the docker CLI to the files in the containers.

use anyhow::{Context as _, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};
use skein_tests::{cli, plugin::SecretDriver, swarm};
use xtask::{
    check::services,
    cluster::{Cluster, Daemon, Host},
    wait_until,
};

/// What is in the secrets: not to be found anywhere by chance.
const FIRST: &str = "first-secret-2f7c0a";
const SECOND: &str = "second-secret-91be44";

#[test]
fn tasks_see_their_secrets_and_configs_as_files() -> anyhow::Result<()> {
    let cluster = swarm("secrets-configs", 2, 1)?;
    for cli in cli::installed()? {
        scenario(&cluster, &cli.path).with_context(|| format!("by {}", cli.path))?;
    }
    cluster.down()
}

fn scenario(cluster: &Cluster, cli: &str) -> anyhow::Result<()> {
    let first = cluster.host("n1")?;
    let docker = |args: &[&str]| first.docker_by(cli, args);
    let refused = |args: &[&str]| match docker(args) {
        Ok(said) => anyhow::bail!("{args:?} was not refused: {said}"),
        Err(error) => Ok(format!("{error:#}")),
    };
    for (file, text) in [
        ("first", FIRST),
        ("second", SECOND),
        (
            "template",
            r#"{{.Service.Name}}/{{secret "key"}}/{{env "COLOR"}}"#,
        ),
    ] {
        first.shell(&format!("printf %s '{text}' > /run/{file}"))?;
    }
    docker(&["secret", "create", "-l", "of=test", "one", "/run/first"])?;
    docker(&["secret", "create", "two", "/run/second"])?;
    let create = ["config", "create", "--template-driver", "golang", "conf"];
    docker(&[&create[..], &["/run/template"]].concat())?;
    let shown = docker(&["secret", "inspect", "one"])?;
    ensure!(
        shown.contains("\"of\": \"test\"") && !shown.contains("Data"),
        "{shown}"
    );
    let said = refused(&["secret", "create", "one", "/run/first"])?;
    ensure!(said.contains("secret one already exists"), "{said}");

    // What is asked for is there, as it is asked for.
    let options = [
        "--env=COLOR=blue",
        "--secret=source=one,target=key,uid=7,gid=8,mode=0400",
        "--secret=one",
        "--config=source=conf,target=/app/conf,mode=0440",
    ];
    create_by(first, cli, &options)?;
    for node in cluster.nodes() {
        sees(node, "/run/secrets/key", "400 7:8", FIRST)?;
        sees(node, "/run/secrets/one", "444 0:0", FIRST)?;
        sees(node, "/app/conf", "440 0:0", &format!("web/{FIRST}/blue"))?;
        let written = services::exec(node, "web", "busybox touch /run/secrets/one");
        ensure!(written.is_err(), "a secret can be written");
        ensure!(files(node)? == 3, "{} has other files", node.name());
    }
    let second = cluster.host("n2")?;
    ensure_not_on_disk(second, FIRST)?;
    let format = "{{range .Spec.TaskTemplate.ContainerSpec.Secrets}}{{.SecretName}}:{{.File.Name}}:{{.File.UID}}:{{.File.Mode}} {{end}}";
    let read = docker(&["service", "inspect", "--format", format, "web"])?;
    ensure!(
        read.contains("one:key:7:-r--------") && read.contains("one:one:0:-r--r--r--"),
        "{read}"
    );

    // What is used stays.
    let said = refused(&["secret", "rm", "one"])?;
    let used = "secret 'one' is in use by the following service: web";
    ensure!(said.contains(used), "{said}");
    let said = refused(&["config", "rm", "conf"])?;
    let used = "config 'conf' is in use by the following service: web";
    ensure!(said.contains(used), "{said}");

    // An update replaces it; the agent of the worker has just been started anew.
    second.kill(&[Daemon::Control])?;
    second.start(&[Daemon::Control])?;
    let update = ["service", "update", "-d", "--secret-rm=one"];
    docker(&[&update[..], &["--secret-add=source=two,target=key", "web"]].concat())?;
    updated(first)?;
    for node in cluster.nodes() {
        sees(node, "/run/secrets/key", "444 0:0", SECOND)?;
        sees(node, "/app/conf", "440 0:0", &format!("web/{SECOND}/blue"))?;
        let gone = services::exec(node, "web", "cat /run/secrets/one");
        ensure!(gone.is_err(), "{} has the old secret", node.name());
    }
    ensure_not_on_disk(second, SECOND)?;
    wait_until(
        "the old tasks' files are gone",
        services::SETTLE_TIMEOUT,
        || {
            for node in cluster.nodes() {
                let count = files(node)?;
                ensure!(count == 2, "{} has {count} files", node.name());
            }
            Ok(())
        },
    )?;
    docker(&["secret", "rm", "one"])?;
    let template_without_secret = ["--config-rm=conf", "--secret-rm=two", "web"];
    docker(&[&["service", "update", "-d"], &template_without_secret[..]].concat())?;
    updated(first)?;
    docker(&["config", "rm", "conf"])?;

    // No file outlives its task, and nothing is left on a worker's disk.
    let add = ["service", "update", "-d", "--secret-add=two", "web"];
    docker(&add)?;
    updated(first)?;
    docker(&["service", "rm", "web"])?;
    docker(&["secret", "rm", "two"])?;
    wait_until("all files are gone", services::SETTLE_TIMEOUT, || {
        for node in cluster.nodes() {
            let count = files(node)?;
            ensure!(count == 0, "{} has {count} files", node.name());
        }
        Ok(())
    })?;
    for text in [FIRST, SECOND] {
        ensure_not_on_disk(second, text)?;
    }
    Ok(())
}

/// Nothing of a secret is where a node keeps what outlives it: files for tasks are in memory.
fn ensure_not_on_disk(node: &Host, secret: &str) -> anyhow::Result<()> {
    let found = node.shell(&format!("grep -rlaF {secret} /var/lib || true"))?;
    ensure!(
        found.is_empty(),
        "a secret is on the disk of {}: {found}",
        node.name()
    );
    Ok(())
}

fn create_by(host: &Host, cli: &str, options: &[&str]) -> anyhow::Result<()> {
    let create = ["service", "create", "-d", "--name=web", "--replicas=2"];
    let image = ["--no-resolve-image", xtask::IMAGE];
    host.docker_by(cli, &[&create[..], options, &image].concat())?;
    services::settled(host, "web", 2)
}

fn updated(host: &Host) -> anyhow::Result<()> {
    services::await_update(host, "web", "completed", services::SETTLE_TIMEOUT)?;
    services::settled(host, "web", 2)
}

/// Checks mode, owner and content of a file in the task on a node.
fn sees(node: &Host, path: &str, stat: &str, content: &str) -> anyhow::Result<()> {
    let found = services::exec(node, "web", &format!("busybox stat -c %a_%u:%g {path}"))?;
    let found = found.trim().replace('_', " ");
    ensure!(found == stat, "{path} on {} is {found}", node.name());
    let found = services::exec(node, "web", &format!("cat {path}"))?;
    ensure!(found == content, "{path} on {} has {found:?}", node.name());
    Ok(())
}

#[test]
fn tasks_have_what_the_driver_of_a_secret_gives_them() -> anyhow::Result<()> {
    let cluster = swarm("secret-drivers", 2, 1)?;
    let first = cluster.host("n1")?;
    let create = |name: &str, driver: &str| {
        let label = "--label=path=a/b";
        first.docker(&["secret", "create", label, "--driver", driver, name])
    };
    let refused = create("key", "none");
    let said = format!("{:#}", refused.err().context("an absent driver is taken")?);
    ensure!(said.contains("plugin \"none\" not found"), "{said}");
    let driver = SecretDriver::serve(first, "vault")?;
    driver.set_answer(|_| json!({"Err": "it is sealed"}));
    create("key", "vault")?;
    let shown = first.docker(&["secret", "inspect", "--format={{.Spec.Driver.Name}}", "key"])?;
    ensure!(shown.trim() == "vault", "{shown}");

    // While the driver fails, its tasks wait and say why; others do not.
    let create = [
        "service",
        "create",
        "-d",
        "--replicas=2",
        "--no-resolve-image",
    ];
    let with = ["--name=web", "--secret=key", xtask::IMAGE];
    first.docker(&[&create[..], &with].concat())?;
    first.docker(&[&create[..], &["--name=other", xtask::IMAGE]].concat())?;
    services::settled(first, "other", 2)?;
    let why = "waiting for secret key: plugin \"vault\" refuses: it is sealed";
    wait_until(
        "both tasks say why they wait",
        services::SETTLE_TIMEOUT,
        || {
            let format = "--format={{.CurrentState}} {{.Error}}";
            let tasks = first.docker(&["service", "ps", "--no-trunc", format, "web"])?;
            let mut lines = tasks.lines();
            ensure!(
                tasks.lines().count() == 2
                    && lines.all(|line| line.starts_with("Preparing") && line.contains(why)),
                "{tasks}"
            );
            Ok(())
        },
    )?;

    // Then each has its own.
    driver.set_answer(|request| {
        let task = request["TaskID"].as_str().unwrap_or_default();
        json!({"Value": BASE64.encode(format!("{FIRST}-{task}")), "DoNotReuse": true})
    });
    services::settled(first, "web", 2)?;
    for node in cluster.nodes() {
        let task = task_on(first, node)?;
        sees(
            node,
            "/run/secrets/key",
            "444 0:0",
            &format!("{FIRST}-{task}"),
        )?;
        let of_task = |request: &&Value| request["TaskID"] == *task;
        let asked = driver.asked();
        let request = asked.iter().find(of_task).context("it was not asked for")?;
        ensure!(
            request["SecretName"] == "key"
                && request["SecretLabels"]["path"] == "a/b"
                && request["ServiceName"] == "web"
                && request["TaskName"]
                    .as_str()
                    .is_some_and(|name| name.ends_with(&task)),
            "{request}"
        );
        ensure_not_on_disk(node, FIRST)?;
    }
    first.docker(&["service", "rm", "web", "other"])?;
    cluster.down()
}

/// The ID of the task of `web` that runs on a node.
fn task_on(manager: &Host, node: &Host) -> anyhow::Result<String> {
    let filter = format!("--filter=node={}", node.name());
    let ps = [
        "service",
        "ps",
        "-q",
        "--no-trunc",
        "--filter=desired-state=running",
    ];
    let found = manager.docker(&[&ps[..], &[&filter, "web"]].concat())?;
    Ok(found.trim().to_owned())
}

/// How many files a node keeps for its tasks.
fn files(node: &Host) -> anyhow::Result<usize> {
    let found = node.shell("find /run/skein/tasks -type f 2>/dev/null || true")?;
    Ok(found.lines().count())
}
