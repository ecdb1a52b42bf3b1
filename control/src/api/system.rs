//! `/_ping`, `/version` and `/info`: the engine's answers with Skein's part in them.

use super::{Local, error::ApiError, json, swarm, version::Offered};
use crate::node::LocalState;
use axum::{
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderName, HeaderValue, StatusCode, header};
use nix::sys::utsname::UtsName;
use serde_json::{Value, json};
use std::{ffi::OsStr, time::Duration};
use tokio::time::timeout;

/// How long a ping waits for the engine, which answers one at once: it is the first thing that a client
/// asks for, whatever it wants.
const PING_PATIENCE: Duration = Duration::from_secs(2);

/// How long `/info` and `/version` wait for the engine. One that is well answers in a few milliseconds, and
/// under load within a second or two; who asks is to hear of the swarm even from a node whose engine hangs.
const ENGINE_PATIENCE: Duration = Duration::from_secs(5);

/// What Swarm says of two managers, in its own way.
const TWO_MANAGERS: &str = "WARNING: Running Swarm in a two-manager configuration. This configuration provides\n         no fault tolerance, and poses a high risk to lose control over the cluster.\n         Refer to https://docs.docker.com/engine/swarm/admin_guide/ to configure the\n         Swarm for fault-tolerance.";

pub async fn ping(State(local): State<Local>, request: Request) -> Response {
    let membership = local.member.membership();
    // Without an engine, and with one that hangs, the cluster can still be worked with.
    let of_engine = timeout(PING_PATIENCE, local.pass_to_engine(request)).await;
    let mut response = match of_engine {
        Ok(response) if response.status().is_success() => response,
        Ok(_) | Err(_) => (
            [
                (header::CACHE_CONTROL, "no-cache, no-store, must-revalidate"),
                (header::PRAGMA, "no-cache"),
                (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
            ],
            "OK",
        )
            .into_response(),
    };
    let swarm = match (membership.state, membership.is_manager) {
        (LocalState::Inactive, _) => "inactive",
        (LocalState::Pending, _) => "pending",
        (LocalState::Error, _) => "error",
        (LocalState::Locked, _) => "locked",
        (LocalState::Active, true) => "active/manager",
        (LocalState::Active, false) => "active/worker",
    };
    response.headers_mut().insert(
        HeaderName::from_static("swarm"),
        HeaderValue::from_static(swarm),
    );
    response
}

pub async fn version(State(local): State<Local>) -> Result<Response, ApiError> {
    let Offered { oldest, newest } = local.engine.offered().await;
    let (mut version, away) = match asked(&local, "/version").await? {
        Ok(version) => (version, None),
        Err(away) => (unknown_version(), Some(away)),
    };
    let (oldest, newest) = (oldest.to_string(), newest.to_string());
    version["ApiVersion"] = newest.as_str().into();
    version["MinAPIVersion"] = oldest.as_str().into();
    if let Some(components) = version["Components"].as_array_mut() {
        for component in components.iter_mut() {
            if component["Name"] == "Engine" {
                component["Details"]["ApiVersion"] = newest.as_str().into();
                component["Details"]["MinAPIVersion"] = oldest.as_str().into();
            }
        }
        let mut skein =
            json!({"Name": "Skein", "Version": env!("CARGO_PKG_VERSION"), "Details": {}});
        if let Some(away) = away {
            // The only place in which clients show what they have no name for.
            skein["Details"]["Warning"] = away.into();
        }
        components.push(skein);
    }
    Ok(json::ok(&version))
}

pub async fn info(State(local): State<Local>) -> Result<Response, ApiError> {
    let mut info = match asked(&local, "/info").await? {
        Ok(info) => info,
        Err(away) => unknown_info(&away),
    };
    let swarm = membership(&local)?;
    if let Some(warnings) = swarm["Warnings"].as_array().cloned() {
        match info["Warnings"].as_array_mut() {
            Some(all) => all.extend(warnings),
            None => info["Warnings"] = warnings.into(),
        }
    }
    info["Swarm"] = swarm;
    Ok(json::ok(&info))
}

/// What the engine answers to a GET, or why it does not, for who has something to say without it.
///
/// # Errors
/// It answers, and refuses.
async fn asked(local: &Local, path: &str) -> Result<Result<Value, String>, ApiError> {
    match timeout(ENGINE_PATIENCE, local.engine.get(path)).await {
        Ok(Ok(answer)) => Ok(Ok(answer)),
        Ok(Err(error)) if error.status == StatusCode::SERVICE_UNAVAILABLE => Ok(Err(error.message)),
        Ok(Err(error)) => Err(error),
        Err(_) => Ok(Err(format!(
            "The container engine has not answered for {} seconds.",
            ENGINE_PATIENCE.as_secs()
        ))),
    }
}

/// What of `/version` is known without an engine.
fn unknown_version() -> Value {
    let (os, arch) = ("linux", go_arch(std::env::consts::ARCH));
    json!({
        "Version": "",
        "Os": os,
        "Arch": arch,
        "Components": [{"Name": "Engine", "Version": "", "Details": {"Os": os, "Arch": arch}}],
    })
}

/// What of `/info` is known without an engine: clients take what is not there for nothing.
fn unknown_info(away: &str) -> Value {
    // Of a kernel that does not say its name there is none to show.
    let host = nix::sys::utsname::uname().ok();
    let text = |part: fn(&UtsName) -> &OsStr| {
        let part = host.as_ref().map(part).unwrap_or_default();
        part.to_string_lossy().into_owned()
    };
    json!({
        "Name": text(UtsName::nodename),
        "OSType": "linux",
        "Architecture": text(UtsName::machine),
        "KernelVersion": text(UtsName::release),
        "Warnings": [format!(
            "WARNING: {away}\n         What this says of containers, images and the host is not known \
             without it; the swarm's part is."
        )],
    })
}

/// The name that Docker has for an architecture.
fn go_arch(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// `Swarm` of `GET /info`. From what this node knows itself, so that it can be asked when the cluster
/// has no leader.
fn membership(local: &Local) -> Result<Value, ApiError> {
    let membership = local.member.membership();
    let managers: Vec<_> = local
        .member
        .managers()
        .into_iter()
        .map(|manager| json!({"NodeID": manager.node_id, "Addr": manager.address}))
        .collect();
    let store = local.member.store();
    // Docker does not know yet who a locked node is.
    let locked = membership.state == LocalState::Locked;
    let mut swarm = json!({
        "NodeID": if locked { "" } else { &membership.node_id },
        "NodeAddr": membership.node_addr,
        "LocalNodeState": membership.state,
        "ControlAvailable": store.is_some(),
        "Error": membership.error,
        "RemoteManagers": if managers.is_empty() { Value::Null } else { managers.into() },
    });
    let Some(store) = store else {
        return Ok(swarm);
    };
    let state = store.state();
    if let Some(cluster) = state.cluster() {
        swarm["Nodes"] = state.nodes().count().into();
        swarm["Managers"] = cluster.managers.len().into();
        swarm["Cluster"] = swarm::info(cluster)?;
        if let Some(warning) = managers_warning(cluster.managers.len()) {
            swarm["Warnings"] = json!([warning]);
        }
    }
    Ok(swarm)
}

/// What is to be said of a number of managers.
fn managers_warning(managers: usize) -> Option<String> {
    match managers {
        2 => Some(TWO_MANAGERS.to_owned()),
        n if n > 0 && n % 2 == 0 => Some(format!(
            "WARNING: Running Swarm with an even number of managers ({n}). It tolerates no more\n         lost managers than {} would: add or demote one.",
            n - 1
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::testing::{Memory, lonely},
        testing,
    };
    use axum::body::Body;
    use http_body_util::BodyExt as _;
    use skein_model::Action;
    use std::{path::Path, sync::Arc};
    use tokio::{net::UnixListener, time::Instant};
    use tower::ServiceExt as _;

    /// What a node answers whose engine's socket is at `path`.
    async fn answer(path: &Path, asked: &str) -> Value {
        let store = Arc::new(Memory::default());
        let cluster = skein_model::Cluster {
            id: "c".into(),
            root_ca: crate::identity::create_root(crate::clock::now()).unwrap(),
            ..skein_model::Cluster::default()
        };
        store.apply(vec![Action::Create(cluster.into())]).unwrap();
        let router = lonely(store, path);
        let request = Request::get(asked).body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200, "{asked}");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice(&body).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn the_swarms_part_is_known_without_an_engine() {
        let directory = tempfile::tempdir().unwrap();
        let (none, hung) = (directory.path().join("none"), directory.path().join("hung"));
        let _hung = UnixListener::bind(&hung).unwrap();
        for (path, reason) in [
            (&none, "Cannot reach the container engine at unix://"),
            (
                &hung,
                "The container engine has not answered for 5 seconds.",
            ),
        ] {
            let begun = Instant::now();
            let info = answer(path, "/info").await;
            assert!(begun.elapsed() <= ENGINE_PATIENCE, "{:?}", begun.elapsed());
            assert_eq!(info["Swarm"]["LocalNodeState"], "active");
            assert_eq!(info["Swarm"]["Nodes"], 0);
            let warning = info["Warnings"][0].as_str().unwrap();
            let said = warning.strip_prefix("WARNING: ").unwrap();
            assert!(said.starts_with(reason), "{said}");
            let version = answer(path, "/version").await;
            assert_eq!(version["ApiVersion"], Offered::FALLBACK.newest.to_string());
            assert_eq!(version["Components"][0]["Name"], "Engine");
            let skein = &version["Components"][1];
            assert_eq!(skein["Version"], env!("CARGO_PKG_VERSION"));
            let said = skein["Details"]["Warning"].as_str().unwrap();
            assert!(said.starts_with(reason), "{said}");
        }
    }

    #[tokio::test]
    async fn what_the_engine_answers_is_passed_on_with_the_swarms_part() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("engine.sock");
        let _engine = testing::engine(&path, async |_, path| match &*path {
            "/info" => (200, r#"{"Containers":3,"Warnings":["w"]}"#),
            _ => (500, r#"{"message":"out of order"}"#),
        });
        let info = answer(&path, "/info").await;
        assert_eq!(info["Containers"], 3);
        assert_eq!(info["Warnings"], json!(["w"]));
        assert_eq!(info["Swarm"]["LocalNodeState"], "active");
        let request = Request::get("/version").body(Body::empty()).unwrap();
        let router = lonely(Arc::new(Memory::default()), &path);
        assert_eq!(router.oneshot(request).await.unwrap().status(), 500);
    }

    #[test]
    fn even_numbers_of_managers_are_warned_of() {
        for managers in [0, 1, 3, 5] {
            assert_eq!(managers_warning(managers), None, "{managers}");
        }
        assert_eq!(managers_warning(2).unwrap(), TWO_MANAGERS);
        let four = managers_warning(4).unwrap();
        assert!(four.starts_with("WARNING: Running Swarm with an even number of managers (4)."));
    }
}
