//! Statuses on their way to the leader: the newest of each task.

use parking_lot::Mutex;
use skein_model::TaskStatus;
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::Notify;

/// Waiting statuses. There are never more than the node has tasks. Clones share them.
#[derive(Clone, Default)]
pub struct Reports {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    waiting: Mutex<BTreeMap<String, TaskStatus>>,
    news: Notify,
}

impl Reports {
    /// A task has a new status.
    pub fn push(&self, task_id: &str, status: TaskStatus) {
        let mut waiting = self.inner.waiting.lock();
        waiting.insert(task_id.to_owned(), status);
        drop(waiting);
        self.inner.news.notify_one();
    }

    /// Up to `max` statuses, once there are any.
    pub async fn take(&self, max: usize) -> Vec<(String, TaskStatus)> {
        loop {
            let batch = {
                let mut waiting = self.inner.waiting.lock();
                let ids: Vec<String> = waiting.keys().take(max).cloned().collect();
                let taken = ids.into_iter().filter_map(|id| waiting.remove_entry(&id));
                taken.collect::<Vec<_>>()
            };
            if !batch.is_empty() {
                return batch;
            }
            self.inner.news.notified().await;
        }
    }

    /// What could not be delivered waits on, unless there is something newer.
    pub fn put_back(&self, batch: Vec<(String, TaskStatus)>) {
        let mut waiting = self.inner.waiting.lock();
        for (id, status) in batch {
            waiting.entry(id).or_insert(status);
        }
        drop(waiting);
        self.inner.news.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_model::TaskState;

    fn status(state: TaskState) -> TaskStatus {
        TaskStatus {
            state,
            ..TaskStatus::default()
        }
    }

    #[tokio::test]
    async fn the_newest_status_of_each_task_is_delivered() {
        let reports = Reports::default();
        reports.push("a", status(TaskState::Accepted));
        reports.push("a", status(TaskState::Preparing));
        reports.push("b", status(TaskState::Running));
        let first = reports.take(1).await;
        assert_eq!(first, [("a".to_owned(), status(TaskState::Preparing))]);
        reports.push("a", status(TaskState::Ready));
        reports.put_back(first);
        let rest = reports.take(10).await;
        let states: Vec<_> = rest.iter().map(|(id, s)| (id.as_str(), s.state)).collect();
        assert_eq!(states, [("a", TaskState::Ready), ("b", TaskState::Running)]);
        let nothing = tokio::time::timeout(std::time::Duration::from_millis(20), reports.take(1));
        assert!(nothing.await.is_err());
    }
}
