//! The Docker API spoken by hand, for what no docker CLI would send.

use anyhow::Context as _;
use serde_json::Value;
use xtask::cluster::Host;

/// Where a node serves it.
const SOCKET: &str = "/run/skein/docker.sock";

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Of HTTP.
    pub status: u16,
    /// The whole body.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Errors
    /// It is none.
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("no JSON: {self:?}"))
    }

    /// What an error says. Errors have nothing beside it.
    ///
    /// # Errors
    /// It is no error in Docker's form.
    pub fn message(&self) -> anyhow::Result<String> {
        let value = self.json()?;
        let fields = value.as_object().filter(|fields| fields.len() == 1);
        let message = fields.and_then(|fields| fields.get("message")?.as_str());
        let message = message.with_context(|| format!("no error in Docker's form: {self:?}"))?;
        Ok(message.to_owned())
    }
}

/// Asks a node without a body.
///
/// # Errors
/// It does not answer.
pub fn ask(host: &Host, method: &str, path: &str) -> anyhow::Result<Answer> {
    curl(host, method, path, &[])
}

/// Sends JSON to a node.
///
/// # Errors
/// It does not answer.
pub fn send(host: &Host, method: &str, path: &str, json: &str) -> anyhow::Result<Answer> {
    let header = "Content-Type: application/json";
    curl(host, method, path, &["-H", header, "--data-binary", json])
}

/// Asks with curl's own options.
///
/// # Errors
/// There is no answer.
pub fn curl(host: &Host, method: &str, path: &str, options: &[&str]) -> anyhow::Result<Answer> {
    let mut command = host.command("curl");
    command.args(["-sS", "-m", "30", "--unix-socket", SOCKET, "-X", method]);
    command.args(["-w", "\n%{http_code}"]).args(options);
    let said = xtask::output(command.arg(format!("http://docker{path}")))?;
    let (body, status) = said.rsplit_once('\n').context("curl said no status")?;
    Ok(Answer {
        status: status.parse()?,
        body: body.to_owned(),
    })
}
