//! A secret driver: a plugin as Docker's legacy ones are, an HTTP server on a socket in a node's folder
//! of plugins.

use anyhow::Context as _;
use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};
use xtask::cluster::Host;

/// How long a manager may take for a request.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the plugin answers, and what it was asked.
#[derive(Default)]
struct Script {
    answer: Option<Answer>,
    asked: Vec<Value>,
}

/// From a request to an answer of the protocol.
pub type Answer = Box<dyn Fn(&Value) -> Value + Send>;

/// The plugin; it serves until the test's end.
#[derive(Clone)]
pub struct SecretDriver {
    script: Arc<Mutex<Script>>,
}

impl SecretDriver {
    /// Serves a plugin of this name on a node. It has no answers yet.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn serve(node: &Host, name: &str) -> anyhow::Result<Self> {
        let folder = node.outside("/run/docker/plugins");
        fs::create_dir_all(&folder).context("make the folder of plugins")?;
        let socket = folder.join(format!("{name}.sock"));
        let listener = UnixListener::bind(&socket)
            .with_context(|| format!("listen on {}", socket.display()))?;
        let driver = Self {
            script: Arc::default(),
        };
        let serving = driver.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if let Err(error) = serving.answer(stream) {
                    eprintln!("the secret driver's connection: {error:#}");
                }
            }
        });
        Ok(driver)
    }

    /// From now on, this is what it answers.
    pub fn set_answer(&self, answer: impl Fn(&Value) -> Value + Send + 'static) {
        self.script().answer = Some(Box::new(answer));
    }

    /// All requests for secrets so far.
    pub fn asked(&self) -> Vec<Value> {
        self.script().asked.clone()
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers one request.
    fn answer(&self, stream: UnixStream) -> anyhow::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut reader = BufReader::new(stream);
        let mut first = String::new();
        reader.read_line(&mut first)?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let line = line.trim().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let answer = match first.split(' ').nth(1) {
            Some("/Plugin.Activate") => json!({"Implements": ["secretprovider"]}),
            Some("/SecretProvider.GetSecret") => {
                let request: Value = serde_json::from_slice(&body)?;
                let mut script = self.script();
                let answer = script.answer.as_ref().map(|answer| answer(&request));
                script.asked.push(request);
                answer.unwrap_or_else(|| json!({"Err": "no answer is set"}))
            }
            other => anyhow::bail!("asked for {other:?}"),
        };
        let answer = answer.to_string();
        write!(
            reader.into_inner(),
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{answer}",
            answer.len()
        )?;
        Ok(())
    }
}
