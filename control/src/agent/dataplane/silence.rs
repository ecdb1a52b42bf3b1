//! Notices that the dataplane owes an answer for long, and says so where operators look.

use super::super::network::NetworkState;
use std::{path::Path, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// How long the dataplane may take to answer what it was told until that is said to the managers and in the log: it
/// is silent for less while it is started anew, and programs the largest state in less.
pub(super) const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// Since when the dataplane owes an answer, and why no connection is made, as far as that is known.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Silence {
    pub since: Instant,
    /// "": it is connected.
    pub away: String,
}

/// What is known of the dataplane's silence; `None`: it has answered all.
#[derive(Clone)]
pub(super) struct Silent(pub(super) watch::Sender<Option<Silence>>);

impl Silent {
    pub fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// It owes an answer, if it did not before.
    pub fn begin(&self) {
        self.0.send_if_modified(|silence| {
            let begins = silence.is_none();
            silence.get_or_insert_with(|| Silence {
                since: Instant::now(),
                away: String::new(),
            });
            begins
        });
    }

    /// It cannot be told anything.
    pub fn away(&self, why: &str) {
        self.begin();
        self.0.send_modify(|silence| {
            if let Some(silence) = silence {
                why.clone_into(&mut silence.away);
            }
        });
    }

    /// It is connected, and owes its answer still.
    pub fn connected(&self) {
        self.away("");
    }

    /// It has answered. `owes`: not all yet that it was told.
    pub fn answered(&self, owes: bool) {
        self.0.send_replace(None);
        if owes {
            self.begin();
        }
    }

    /// Ends once it has owed an answer for so long.
    pub async fn lasts(&self, time: Duration) -> Silence {
        let mut watched = self.0.subscribe();
        loop {
            let silence = watched.borrow_and_update().clone();
            let due = async {
                match &silence {
                    Some(silence) => sleep_until(silence.since + time).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // Before the time: what has changed may be that it answered.
                biased;
                changed = watched.changed() => if changed.is_err() {
                    std::future::pending::<()>().await;
                },
                () = due => if let Some(silence) = silence {
                    return silence;
                },
            }
        }
    }

    /// Ends once it has answered.
    pub async fn ends(&self) {
        // The sender is this.
        drop(self.0.subscribe().wait_for(Option::is_none).await);
    }
}

/// Says in the log and to the managers whenever the dataplane has not answered for long.
pub(super) async fn complain(networks: &NetworkState, socket: &Path, silent: &Silent) {
    loop {
        let silence = silent.lasts(ANSWER_PATIENCE).await;
        let what = match silence.away.as_str() {
            "" => format!(
                "skein-dataplane takes what it is told and has not answered for {ANSWER_PATIENCE:?}: look into its \
                 log, and start it anew; what is connected goes on"
            ),
            why => format!(
                "skein-dataplane has been away for {ANSWER_PATIENCE:?} ({why}): start it; what is connected goes on"
            ),
        };
        tracing::warn!(socket = %socket.display(), "{what}");
        networks.unanswered(what);
        silent.ends().await;
        tracing::info!("the dataplane answers again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{sleep, timeout};

    #[tokio::test(start_paused = true)]
    async fn silence_is_noticed_and_so_is_its_end() {
        let silent = Silent::new();
        let within = |time| timeout(time, silent.lasts(ANSWER_PATIENCE));
        assert!(
            within(ANSWER_PATIENCE * 9).await.is_err(),
            "it owes nothing"
        );
        silent.begin();
        sleep(ANSWER_PATIENCE / 2).await;
        silent.begin();
        let silence = within(ANSWER_PATIENCE).await.unwrap();
        assert_eq!(silence.since.elapsed(), ANSWER_PATIENCE, "since the first");
        silent.away("refused");
        assert_eq!(within(ANSWER_PATIENCE).await.unwrap().away, "refused");
        silent.connected();
        assert_eq!(within(ANSWER_PATIENCE).await.unwrap().away, "");
        // It answers one thing, and owes another.
        silent.answered(true);
        sleep(ANSWER_PATIENCE / 2).await;
        assert!(within(ANSWER_PATIENCE / 4).await.is_err());
        silent.answered(false);
        assert!(within(ANSWER_PATIENCE * 9).await.is_err());
        timeout(Duration::ZERO, silent.ends()).await.unwrap();
    }
}
