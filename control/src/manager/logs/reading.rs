//! One reader of logs at work.

use super::{LogOptions, LogRecord, LogSelector, READER_PATIENCE, STREAM_ERROR, broker::Broker};
use crate::manager::store::{self, Store};
use bytes::Bytes;
use skein_model::{State, TaskState};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep_until, timeout},
};

/// How long agents may send nothing before a reader that does not follow gets what there is.
const AGENT_PATIENCE: Duration = Duration::from_secs(20);

/// One reader at work.
pub(super) struct Reading<S: Store> {
    pub broker: Broker,
    pub store: S,
    pub id: String,
    pub selector: LogSelector,
    pub options: LogOptions,
    pub records: mpsc::Sender<LogRecord>,
    /// The tasks that were asked for.
    pub asked: BTreeSet<String>,
}

impl<S: Store> Drop for Reading<S> {
    fn drop(&mut self) {
        self.broker.close(&self.id);
    }
}

impl<S: Store> Reading<S> {
    pub(super) async fn run(mut self, progress: Arc<Notify>) {
        let mut states = self.store.watch();
        let mut leadership = self.store.leadership();
        let state = states.borrow_and_update().clone();
        let mut failures = self.ask(&state, self.options);
        failures.extend(self.without_node(&state));
        loop {
            if self.options.follow {
                self.broker.resume(&self.id);
            }
            if !self.options.follow && self.broker.is_complete(&self.id) {
                break;
            }
            let patience = Instant::now() + AGENT_PATIENCE;
            tokio::select! {
                () = progress.notified() => {}
                () = self.records.closed() => return,
                changed = states.changed(), if self.options.follow => {
                    if changed.is_err() {
                        return;
                    }
                    let state = states.borrow_and_update().clone();
                    // Of tasks that come later all is new.
                    let all = LogOptions { tail: -1, since: 0, ..self.options };
                    // Whoever follows gets what there is: clients take the first word of a failure for the end, and
                    // an old task on a node that is gone would keep all others from being read.
                    let _ = self.ask(&state, all);
                }
                () = store::no_leader(&mut leadership) => {
                    self.say("the manager that collected the logs leads no more: ask again").await;
                    return;
                }
                // Looks again for what could not be asked for.
                () = sleep_until(patience), if self.options.follow => {}
                () = sleep_until(patience), if !self.options.follow => {
                    let seconds = AGENT_PATIENCE.as_secs();
                    let silent = self.broker.awaited(&self.id).into_iter();
                    failures.extend(silent.map(|id| format!("node {id} sent nothing for {seconds} seconds")));
                    break;
                }
            }
        }
        failures.extend(self.broker.failures(&self.id));
        if !failures.is_empty() {
            let reasons = failures.join(", ");
            // As the error of the managers that it is in Swarm.
            self.say(&format!(
                "rpc error: code = Unknown desc = warning: incomplete log stream. some logs could not be \
                 retrieved for the following reasons: {reasons}"
            ))
            .await;
        }
    }

    /// Asks for the tasks that were not asked for yet and have a node; what failed.
    fn ask(&mut self, state: &State, options: LogOptions) -> Vec<String> {
        let of_services = self.selector.services.iter();
        let of_services = of_services.flat_map(|service| state.tasks_of_service(service));
        let single = self.selector.tasks.iter().filter_map(|id| state.task(id));
        let mut by_node: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for task in of_services.chain(single) {
            // Without following, a task that never ran has nothing to say. One that is followed is known to its node for
            // sure once that says that it starts; asked before, it might say that there is no such task.
            let least = if self.options.follow {
                TaskState::Starting
            } else {
                TaskState::Running
            };
            if task.status.state >= least
                && !task.node_id.is_empty()
                && !self.asked.contains(&task.id)
            {
                let tasks = by_node.entry(task.node_id.clone()).or_default();
                tasks.insert(task.id.clone());
            }
        }
        self.asked.extend(by_node.values().flatten().cloned());
        self.broker.subscribe(&self.id, &by_node, options)
    }

    /// The tasks that were named and run nowhere.
    fn without_node(&self, state: &State) -> Vec<String> {
        let tasks = self.selector.tasks.iter().filter_map(|id| state.task(id));
        tasks
            .filter(|task| task.node_id.is_empty())
            .map(|task| format!("task {} has not been scheduled", task.id))
            .collect()
    }

    /// Tells the reader something of the collection itself.
    async fn say(&self, text: &str) {
        let record = LogRecord {
            task_id: String::new(),
            node_id: String::new(),
            stream: STREAM_ERROR,
            timestamp: self.store.now().to_string(),
            details: String::new(),
            data: Bytes::copy_from_slice(text.as_bytes()),
        };
        // A reader that is gone or stuck does not need to know.
        let _ = timeout(READER_PATIENCE, self.records.send(record)).await;
    }
}
