//! Asks the drivers of secrets what a node is to have, while the node is told all else.

use super::values::{Ask, Values};
use crate::{
    manager::{
        drivers::{Drivers, Request},
        sessions::Session,
    },
    raft::platform::{self, Platform},
};
use parking_lot::Mutex;
use skein_model::State;
use std::sync::Arc;

/// What asks on behalf of one session.
pub(super) struct Asking {
    pub(super) drivers: Arc<dyn Drivers>,
    /// Where the answers go.
    pub(super) values: Arc<Mutex<Values>>,
    /// Woken when there is something new in them.
    pub(super) session: Session,
}

impl Asking {
    /// Begins to ask; the answer, and after a failure the end of the rest, are news.
    pub(super) fn ask<P: Platform>(&self, state: &State, ask: Ask) {
        let (secret, task) = (state.secret(&ask.secret_id), state.task(&ask.task_id));
        let Some((secret, task)) = secret.zip(task) else {
            return;
        };
        let Some(driver) = &secret.spec.driver else {
            return;
        };
        let answer = self.drivers.get(&driver.name, Request::of(secret, task));
        let (values, session) = (self.values.clone(), self.session.clone());
        let ended = session.ended.clone();
        let asking = async move {
            let answer = answer.await;
            if let Err(error) = &answer {
                tracing::debug!(secret = ask.secret_id, task = ask.task_id, "{error}");
            }
            let rest = values.lock().take(&ask, answer);
            session.wake();
            if let Some(rest) = rest {
                platform::sleep::<P>(rest).await;
                values.lock().rested(&ask);
                session.wake();
            }
        };
        platform::spawn::<P>(async move {
            tokio::select! {
                biased;
                () = ended.cancelled() => {}
                () = asking => {}
            }
        });
    }
}
