//! The signer as a program: a new root, or the server of one.

use anyhow::Context as _;
use clap::Parser;
use skein_signer::{Authority, Tls, new_root, serve};
use std::{fs, io::Read as _, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::net::TcpListener;

/// A certificate authority for tests.
#[derive(Parser)]
enum Args {
    /// Makes a root.
    Root {
        /// Its common name.
        #[arg(long)]
        name: String,
        #[command(flatten)]
        files: Files,
    },
    /// Serves one until its input ends. Says a line once it listens, and what it has signed as an error.
    Serve {
        #[command(flatten)]
        files: Files,
        /// Where it listens, and is called.
        #[arg(long)]
        listen: SocketAddr,
        /// The roots that clients must be of, PEM.
        #[arg(long)]
        clients: PathBuf,
        /// How long what it signs is good.
        #[arg(long, default_value_t = 86_400)]
        seconds: u64,
    },
}

/// A root's files, PEM.
#[derive(clap::Args)]
struct Files {
    /// Its certificate.
    #[arg(long)]
    cert: PathBuf,
    /// Its key.
    #[arg(long)]
    key: PathBuf,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    match Args::parse() {
        Args::Root { name, files } => {
            let (cert, key) = new_root(&name)?;
            fs::write(&files.cert, cert).context("write the certificate")?;
            fs::write(&files.key, key).context("write the key")
        }
        Args::Serve {
            files,
            listen,
            clients,
            seconds,
        } => {
            let read = |path: &PathBuf| {
                fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
            };
            let (cert, key) = (read(&files.cert)?, read(&files.key)?);
            let authority = Authority::new(&cert, &key, Duration::from_secs(seconds));
            let certificate = authority.server_certificate(&[listen.ip().to_string()])?;
            let listener = TcpListener::bind(listen).await.context("listen")?;
            let tls = Tls {
                certificate,
                clients,
            };
            println!("listening");
            let authority = Arc::new(authority);
            let answer = move |body: &[u8]| authority.answer(body).into();
            let ended = tokio::task::spawn_blocking(|| {
                // Whoever started it is gone, then.
                std::io::stdin().read_to_end(&mut Vec::new())
            });
            tokio::select! {
                () = serve(listener, tls, answer) => {}
                ended = ended => drop(ended?),
            }
            Ok(())
        }
    }
}
