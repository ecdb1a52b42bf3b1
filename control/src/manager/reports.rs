//! Status reports of tasks on their way into the store.

use super::store::{self, Store};
use crate::raft::platform;
use skein_model::TaskStatus;
use skein_orchestration::take_report;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Calls that wait for the store; agents call again when theirs is refused.
const QUEUE: usize = 1024;
/// Calls whose reports go into the store together.
const BATCH: usize = 64;

/// What one node says of its tasks: task ID and status.
pub(super) struct Report {
    node_id: String,
    updates: Vec<(String, TaskStatus)>,
    done: oneshot::Sender<Result<(), Status>>,
}

/// The way in for reports.
#[derive(Clone)]
pub(super) struct Reports {
    queue: mpsc::Sender<Report>,
}

impl Reports {
    /// Begins to take reports.
    pub(super) fn start<S: Store>(store: S, shutdown: CancellationToken) -> Self {
        let (queue, mut reports) = mpsc::channel(QUEUE);
        platform::spawn::<S::Platform>(async move {
            let mut batch = Vec::new();
            loop {
                // While one batch is on its way into the store, the next one gathers.
                let count = tokio::select! {
                    biased;
                    () = shutdown.cancelled() => return,
                    count = reports.recv_many(&mut batch, BATCH) => count,
                };
                if count == 0 {
                    return;
                }
                store_batch(&store, std::mem::take(&mut batch)).await;
            }
        });
        Self { queue }
    }

    /// Hands in a report; returns once it is stored.
    pub(super) async fn submit(
        &self,
        node_id: String,
        updates: Vec<(String, TaskStatus)>,
    ) -> Result<(), Status> {
        let (done, stored) = oneshot::channel();
        let report = Report {
            node_id,
            updates,
            done,
        };
        let busy =
            || Status::unavailable("too many status reports are waiting: report again later");
        self.queue.try_send(report).map_err(|_| busy())?;
        stored.await.map_err(|_| busy())?
    }
}

async fn store_batch<S: Store>(store: &S, batch: Vec<Report>) {
    let stored = store::commit(store, |draft| {
        for report in &batch {
            for (task_id, status) in &report.updates {
                take_report(draft, &report.node_id, task_id, status.clone());
            }
        }
        Ok(())
    })
    .await;
    for report in batch {
        // Callers that hung up need no answer.
        let _ = report.done.send(stored.clone());
    }
}
