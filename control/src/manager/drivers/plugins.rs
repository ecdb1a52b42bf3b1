//! The plugins of this machine that Docker calls legacy: processes that listen where a socket or a file
//! of a well-known folder says. JSON over HTTP; the engine's managed plugins are not among them.

use super::{DriverError, DriverResponse, Drivers, Request};
use crate::exchange::{exchange, word};
use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::Full;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpStream, UnixStream},
    sync::Semaphore,
    time::timeout,
};

/// Where sockets are.
const SOCKETS: &str = "/run/docker/plugins";
/// Where files are that say where a plugin listens, in the order in which they are looked into.
const SPECS: [&str; 2] = ["/etc/docker/plugins", "/usr/lib/docker/plugins"];
/// What a plugin must say that it is.
const CAPABILITY: &str = "secretprovider";
/// The version of the protocol.
const MEDIA_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";
/// How long a plugin may take for one value, the wait for a turn included: what it asks in turn may be
/// on another continent, and the task waits all the same.
const DEADLINE: Duration = Duration::from_secs(10);
/// The longest answer: a secret of the greatest length in base64 takes two thirds of it.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// The longest file that says where a plugin listens.
const SPEC_BYTES_MAX: usize = 64 << 10;
/// Calls of one plugin at once; more wait for their turn. A plugin that hangs keeps none but its own.
const CALLS_MAX: usize = 32;

/// The machine's plugins. Clones are the same.
#[derive(Clone)]
pub struct Plugins(Arc<Inner>);

struct Inner {
    sockets: PathBuf,
    specs: Vec<PathBuf>,
    deadline: Duration,
    /// Those who are being called, and for how many more calls there is room.
    turns: Mutex<BTreeMap<String, Arc<Semaphore>>>,
}

impl Default for Plugins {
    fn default() -> Self {
        Self(Arc::new(Inner {
            sockets: SOCKETS.into(),
            specs: SPECS.map(PathBuf::from).into(),
            deadline: DEADLINE,
            turns: Mutex::default(),
        }))
    }
}

/// Where a plugin listens.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Address {
    Unix(PathBuf),
    /// `host:port`
    Tcp(String),
}

/// What a JSON file says.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Spec {
    addr: String,
    #[serde(rename = "TLSConfig")]
    tls_config: Option<serde_json::Value>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Activation {
    implements: Vec<String>,
}

impl Plugins {
    /// Checks that a plugin is there, and is a secret provider.
    ///
    /// # Errors
    /// It is not.
    pub async fn check(&self, name: &str) -> Result<(), DriverError> {
        self.within_deadline(name, async {
            let address = self.find(name).await?;
            activate(name, &address).await
        })
        .await
    }

    async fn ask(&self, name: &str, request: &Request) -> Result<DriverResponse, DriverError> {
        let turns = self.turns(name);
        self.within_deadline(name, async {
            // It is never closed.
            let _turn = turns.acquire().await;
            let address = self.find(name).await?;
            activate(name, &address).await?;
            let answer: DriverResponse =
                call(name, &address, "/SecretProvider.GetSecret", request).await?;
            answer.checked(name)
        })
        .await
    }

    fn turns(&self, name: &str) -> Arc<Semaphore> {
        let mut turns = self.0.turns.lock();
        turns.retain(|other, turns| other == name || Arc::strong_count(turns) > 1);
        let fresh = || Arc::new(Semaphore::new(CALLS_MAX));
        turns.entry(name.to_owned()).or_insert_with(fresh).clone()
    }

    async fn within_deadline<T>(
        &self,
        name: &str,
        work: impl Future<Output = Result<T, DriverError>>,
    ) -> Result<T, DriverError> {
        let late = |_| unusable(name, format!("no answer within {:?}", self.0.deadline));
        timeout(self.0.deadline, work).await.map_err(late)?
    }

    /// Where a plugin listens, by the first of these that is there: its socket, then its file.
    async fn find(&self, name: &str) -> Result<Address, DriverError> {
        // A name is that of a file, and leads nowhere else.
        if name.contains(['/', '\0']) || name.starts_with('.') {
            return Err(DriverError::NotFound(name.to_owned()));
        }
        for socket in candidates(&self.0.sockets, name, "sock") {
            if is_socket(&socket).await {
                return Ok(Address::Unix(socket));
            }
        }
        for folder in &self.0.specs {
            for extension in ["spec", "json"] {
                for path in candidates(folder, name, extension) {
                    if let Some(found) = read_spec(&path).await.transpose() {
                        let shown = path.display();
                        let text =
                            found.map_err(|error| unusable(name, format!("{shown}: {error}")))?;
                        return parse_spec(&text, extension == "json")
                            .map_err(|reason| unusable(name, format!("{shown}: {reason}")));
                    }
                }
            }
        }
        Err(DriverError::NotFound(name.to_owned()))
    }
}

impl Drivers for Plugins {
    fn get(
        &self,
        driver: &str,
        request: Request,
    ) -> BoxFuture<'static, Result<DriverResponse, DriverError>> {
        let (plugins, name) = (self.clone(), driver.to_owned());
        Box::pin(async move { plugins.ask(&name, &request).await })
    }
}

fn unusable(name: &str, reason: impl ToString) -> DriverError {
    DriverError::Unusable {
        name: name.to_owned(),
        reason: reason.to_string(),
    }
}

fn candidates(folder: &Path, name: &str, extension: &str) -> [PathBuf; 2] {
    let file = format!("{name}.{extension}");
    [folder.join(&file), folder.join(name).join(&file)]
}

async fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    let found = tokio::fs::metadata(path).await;
    found.is_ok_and(|found| found.file_type().is_socket())
}

async fn read_spec(path: &Path) -> io::Result<Option<String>> {
    use tokio::io::AsyncReadExt as _;
    let file = match tokio::fs::File::open(path).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    let most = u64::try_from(SPEC_BYTES_MAX).unwrap_or(u64::MAX);
    file.take(most).read_to_string(&mut text).await?;
    Ok(Some(text))
}

fn parse_spec(text: &str, is_json: bool) -> Result<Address, String> {
    if !is_json {
        return parse_address(text.trim());
    }
    let spec: Spec = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if spec.tls_config.is_some_and(|config| !config.is_null()) {
        return Err(
            "TLS between managers and plugins is not supported: let the plugin listen on a unix socket"
                .to_owned(),
        );
    }
    parse_address(&spec.addr)
}

fn parse_address(address: &str) -> Result<Address, String> {
    if let Some(path) = address.strip_prefix("unix://") {
        return Ok(Address::Unix(path.into()));
    }
    let mut schemes = ["tcp://", "http://"].into_iter();
    match schemes.find_map(|scheme| address.strip_prefix(scheme)) {
        Some(host) => Ok(Address::Tcp(host.trim_end_matches('/').to_owned())),
        None => Err(format!(
            "cannot connect to '{address}': unix://, tcp:// and http:// are known"
        )),
    }
}

/// Asks what a plugin is: each time, as it may have become another since.
async fn activate(name: &str, address: &Address) -> Result<(), DriverError> {
    let nothing = serde_json::Map::new();
    let activation: Activation = call(name, address, "/Plugin.Activate", &nothing).await?;
    if activation.implements.iter().any(|what| what == CAPABILITY) {
        return Ok(());
    }
    Err(unusable(
        name,
        format!(
            "it is no {CAPABILITY}: it implements {:?}",
            activation.implements
        ),
    ))
}

/// One call, on a connection of its own.
async fn call<T: DeserializeOwned>(
    name: &str,
    address: &Address,
    path: &str,
    body: &impl Serialize,
) -> Result<T, DriverError> {
    let failed = |error: &dyn std::fmt::Display| unusable(name, format!("{path}: {error}"));
    let body = serde_json::to_vec(body).map_err(|error| failed(&error))?;
    let request = http::Request::post(path)
        .header("host", "plugin")
        .header("accept", MEDIA_TYPE)
        .header("content-type", MEDIA_TYPE)
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| failed(&error))?;
    let answered = match address {
        Address::Unix(path) => match UnixStream::connect(path).await {
            Ok(stream) => exchange(stream, request, ANSWER_BYTES_MAX).await,
            Err(error) => Err(format!("could not connect to {}: {error}", path.display())),
        },
        Address::Tcp(host) => match TcpStream::connect(host).await {
            Ok(stream) => exchange(stream, request, ANSWER_BYTES_MAX).await,
            Err(error) => Err(format!("could not connect to {host}: {error}")),
        },
    };
    let (status, body) = answered.map_err(|error| failed(&error))?;
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(|error| failed(&error));
    }
    let said: DriverResponse = serde_json::from_slice(&body).unwrap_or_default();
    let said = match &*said.err {
        "" => String::from_utf8_lossy(&body),
        err => err.into(),
    };
    Err(failed(&format_args!("{status}: {}", word(&said))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::serve;
    use axum::{Json, Router, routing::post};
    use serde_json::{Value, json};
    use skein_model::{Secret, Task};
    use std::{fs, future};
    use tokio::net::UnixListener;

    fn plugins(dir: &Path) -> Plugins {
        Plugins(Arc::new(Inner {
            sockets: dir.join("sockets"),
            specs: vec![dir.join("etc"), dir.join("lib")],
            deadline: Duration::from_secs(1),
            turns: Mutex::default(),
        }))
    }

    /// A plugin that is a secret provider unless `is` says otherwise, and answers so.
    fn router(is: &'static str, answer: Value) -> Router {
        let implements = Json(json!({"Implements": [is]}));
        Router::new()
            .route("/Plugin.Activate", post(async || implements))
            .route("/SecretProvider.GetSecret", post(async || Json(answer)))
    }

    async fn ask(plugins: &Plugins, name: &str) -> Result<String, String> {
        let request = Request::of(&Secret::default(), &Task::default());
        let answer = plugins.get(name, request).await;
        let text = |answer: DriverResponse| String::from_utf8(answer.value.to_vec()).unwrap();
        answer.map(text).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn plugins_are_where_docker_looks_for_them() {
        let dir = tempfile::tempdir().unwrap();
        let plugins = plugins(dir.path());
        let value = |text: &str| json!({"Value": Payload::from(text)});
        use skein_model::Payload;
        let sockets = dir.path().join("sockets");
        let elsewhere = dir.path().join("elsewhere.sock");
        let _servers = [
            (sockets.join("plain.sock"), "a"),
            (sockets.join("deep/deep.sock"), "b"),
            (elsewhere.clone(), "c"),
        ]
        .map(|(socket, said)| serve(&socket, router(CAPABILITY, value(said))));
        fs::create_dir_all(dir.path().join("etc")).unwrap();
        fs::create_dir_all(dir.path().join("lib")).unwrap();
        let address = format!("unix://{}", elsewhere.display());
        fs::write(dir.path().join("etc/spec.spec"), format!("{address}\n")).unwrap();
        let spec = json!({"Name": "other", "Addr": address}).to_string();
        fs::write(dir.path().join("lib/json.json"), spec).unwrap();
        let tls = json!({"Addr": "tcp://127.0.0.1:1", "TLSConfig": {"InsecureSkipVerify": true}});
        fs::write(dir.path().join("lib/tls.json"), tls.to_string()).unwrap();
        fs::write(dir.path().join("lib/odd.spec"), "ftp://x").unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("tcp://{}", listener.local_addr().unwrap());
        fs::write(dir.path().join("lib/tcp.spec"), address).unwrap();
        let served = router(CAPABILITY, value("d"));
        tokio::spawn(async move { axum::serve(listener, served).await });
        for (name, said) in [
            ("plain", Ok("a")),
            ("deep", Ok("b")),
            ("spec", Ok("c")),
            ("json", Ok("c")),
            ("tcp", Ok("d")),
            ("none", Err("plugin \"none\" not found")),
            ("../elsewhere", Err("plugin \"../elsewhere\" not found")),
        ] {
            let expected = said.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(ask(&plugins, name).await, expected);
        }
        let tls = ask(&plugins, "tls").await.unwrap_err();
        assert!(tls.contains("TLS") && tls.contains("tls.json"), "{tls}");
        let odd = ask(&plugins, "odd").await.unwrap_err();
        assert!(
            odd.ends_with("unix://, tcp:// and http:// are known"),
            "{odd}"
        );
    }

    #[tokio::test]
    async fn what_a_plugin_does_wrong_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let plugins = plugins(dir.path());
        let socket = |name: &str| dir.path().join(format!("sockets/{name}.sock"));
        let long = json!({"Value": "A".repeat(ANSWER_BYTES_MAX)});
        let fails = Router::new().route(
            "/Plugin.Activate",
            post(async || (http::StatusCode::BAD_GATEWAY, r#"{"Err":"no backend"}"#)),
        );
        let hangs = Router::new().route("/Plugin.Activate", post(future::pending::<()>));
        let _servers = [
            ("volume", router("VolumeDriver", json!({}))),
            ("refuses", router(CAPABILITY, json!({"Err": "sealed"}))),
            ("long", router(CAPABILITY, long)),
            ("broken", router(CAPABILITY, json!({"Value": 7}))),
            ("fails", fails),
            ("hangs", hangs),
        ]
        .map(|(name, router)| serve(&socket(name), router));
        drop(UnixListener::bind(socket("dead")).unwrap());
        for (name, said) in [
            (
                "volume",
                "it is no secretprovider: it implements [\"VolumeDriver\"]",
            ),
            ("refuses", "refuses: sealed"),
            ("long", "/SecretProvider.GetSecret: length limit exceeded"),
            ("broken", "/SecretProvider.GetSecret: invalid type"),
            ("fails", "/Plugin.Activate: 502 Bad Gateway: no backend"),
            ("hangs", "no answer within 1s"),
            ("dead", "/Plugin.Activate: could not connect to"),
        ] {
            let error = ask(&plugins, name).await.unwrap_err();
            let begin = format!("plugin \"{name}\"");
            assert!(error.starts_with(&begin) && error.contains(said), "{error}");
        }
        plugins.check("refuses").await.unwrap();
        assert!(plugins.check("volume").await.is_err());
    }
}
