//! What becomes of an update as a whole: it fails, is rolled back, or is completed.

use super::part::Part;
use crate::Wake;
use skein_model::{
    Draft, FailureAction, Service, Task, UpdateConfig, UpdateState, UpdateStatus, Version,
};
use std::{sync::Arc, time::Duration};

/// How long an update watches its last tasks at least beyond its own delay.
const MONITOR_BEYOND_DELAY: Duration = Duration::from_secs(1);

/// Whether an update, or a rollback, has come to its end.
pub(super) fn is_over(state: UpdateState) -> bool {
    matches!(
        state,
        UpdateState::Completed | UpdateState::RollbackCompleted
    )
}

/// Whether what the service is came from a rollback, be it over or not.
pub(super) fn was_rolled_back(service: &Service) -> bool {
    let status = service.update_status.as_ref();
    let is_over = status.is_some_and(|status| status.state == UpdateState::RollbackCompleted);
    is_over || is_rollback(service)
}

/// Whether a rollback is under way, or has stopped.
pub(super) fn is_rollback(service: &Service) -> bool {
    let status = service.update_status.as_ref();
    status.is_some_and(|status| {
        matches!(
            status.state,
            UpdateState::RollbackStarted | UpdateState::RollbackPaused
        )
    })
}

/// The task because of which the update has failed.
pub(super) fn verdict<'a>(
    service: &Service,
    parts: &'a [Part],
    config: &UpdateConfig,
    monitor: Duration,
) -> Option<&'a Arc<Task>> {
    if config.failure_action == FailureAction::Continue {
        return None;
    }
    let failures: Vec<_> = parts
        .iter()
        .filter_map(|part| part.failure(service, monitor))
        .collect();
    let ratio = failures.len() as f64 / parts.len().max(1) as f64;
    if ratio > config.max_failure_ratio {
        failures.last().copied()
    } else {
        None
    }
}

pub(super) fn fail(draft: &mut Draft, service: &Service, config: &UpdateConfig, task: &str) {
    let cause = format!("due to failure or early termination of task {task}");
    let status = |state, message| UpdateStatus {
        state,
        started_at: service.update_status.as_ref().and_then(|s| s.started_at),
        completed_at: None,
        message,
    };
    if is_rollback(service) {
        let message = format!("rollback paused {cause}");
        set_status(draft, service, status(UpdateState::RollbackPaused, message));
        return;
    }
    let previous = match config.failure_action {
        FailureAction::Rollback => service.previous_spec.as_ref(),
        FailureAction::Pause | FailureAction::Continue => None,
    };
    // What only the previous spec names may be gone by now.
    let possible = previous.map(|previous| {
        let present = draft.check_references(Some(&service.spec), previous);
        present.map(|()| previous)
    });
    match possible {
        Some(Ok(previous)) => {
            let mut rolled = service.clone();
            rolled.spec = previous.clone();
            rolled.previous_spec = None;
            rolled.registry_auth = std::mem::take(&mut rolled.previous_registry_auth);
            // A version that no task was made for yet.
            rolled.spec_version = Version {
                index: draft.index(),
            };
            let message = format!("update rolled back {cause}");
            rolled.update_status = Some(status(UpdateState::RollbackStarted, message));
            draft.put(rolled);
        }
        other => {
            let mut message = format!("update paused {cause}");
            if let Some(Err(lack)) = other {
                message += &format!("; it cannot be rolled back: {lack}");
            }
            set_status(draft, service, status(UpdateState::Paused, message));
        }
    }
}

pub(super) fn finish(
    draft: &mut Draft,
    service: &Service,
    parts: &[Part],
    delay: Duration,
    monitor: Duration,
    wake: &mut Wake,
) {
    let Some(status) = &service.update_status else {
        return;
    };
    let watch = if delay >= monitor {
        delay + MONITOR_BEYOND_DELAY
    } else {
        monitor
    };
    let started = status.started_at.unwrap_or_default();
    let last = parts.iter().filter_map(Part::reached_at).max();
    let end = last.map_or(started, |last| started.max(last + delay)) + watch;
    let now = draft.now();
    if wake.waits(now, end, delay + watch) {
        return;
    }
    let (state, message) = if status.state == UpdateState::RollbackStarted {
        (UpdateState::RollbackCompleted, "rollback completed")
    } else {
        (UpdateState::Completed, "update completed")
    };
    let status = UpdateStatus {
        state,
        started_at: status.started_at,
        completed_at: Some(now),
        message: message.into(),
    };
    set_status(draft, service, status);
}

pub(super) fn set_status(draft: &mut Draft, service: &Service, status: UpdateStatus) {
    let mut service = service.clone();
    service.update_status = Some(status);
    draft.put(service);
}
