//! What has ended stays so: a task's state never leaves its end, no engine starts a task's container a
//! second time, and a part of a job that is complete is not done again in the same run.

use super::{Invariant, has_ended};
use crate::history::Seen;
use skein_model::{State, Task, TaskState};
use std::collections::BTreeSet;

#[derive(Default)]
pub struct CompletedTasks {
    /// Tasks whose containers ran.
    started: BTreeSet<String>,
    /// Service, run, slot and node of what is complete.
    complete: BTreeSet<(String, u64, u64, String)>,
}

fn part_of(task: &Task) -> Option<(String, u64, u64, String)> {
    let node = match task.mode.is_global() {
        true => task.node_id.clone(),
        false => String::new(),
    };
    let run = task.job_iteration?.index;
    Some((task.service_id.clone(), run, task.slot, node))
}

impl CompletedTasks {
    fn changed(&mut self, before: &State, after: &State) -> Result<(), String> {
        for task in after.tasks() {
            let (id, now) = (&task.id, task.status.state);
            let earlier = before.task(id);
            if let Some(earlier) = earlier {
                let was = earlier.status.state;
                if has_ended(was) && now != was {
                    return Err(format!("task {id} was {was}, and is {now}"));
                }
            } else if let Some(part) = part_of(task)
                && self.complete.contains(&part)
            {
                let (service, run, slot, node) = part;
                return Err(format!(
                    "task {id} is made for slot {slot}{node} of job {service}, which is complete in \
                     run {run}"
                ));
            }
            if now == TaskState::Complete
                && earlier.is_none_or(|earlier| earlier.status.state != now)
                && let Some(part) = part_of(task)
            {
                self.complete.insert(part);
            }
        }
        Ok(())
    }
}

impl Invariant for CompletedTasks {
    fn name(&self) -> &'static str {
        "no task runs again after it completed"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Changed { before, after, .. } => self.changed(before, after),
            Seen::Started { host, task } => {
                if !self.started.insert(task.id.clone()) {
                    return Err(format!("{host:?} starts task {} again", task.id));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        invariants::testing::{changed, next, service, task},
        network::Host,
    };
    use skein_model::{JobStatus, ServiceMode};
    use std::time::Duration;

    fn step(invariant: &mut CompletedTasks, state: &State, task: &Task) -> Result<State, String> {
        let after = next(state, vec![task.clone().into()]);
        invariant.see(&changed(Duration::ZERO, state, &after))?;
        Ok(after)
    }

    #[test]
    fn a_task_that_leaves_its_end_is_noticed() {
        let mut invariant = CompletedTasks::default();
        let mut task = task("a", &service("web"), 1);
        let state = step(&mut invariant, &State::default(), &task).unwrap();
        task.status.state = TaskState::Failed;
        let state = step(&mut invariant, &state, &task).unwrap();
        task.status.state = TaskState::Running;
        step(&mut invariant, &state, &task).unwrap_err();
    }

    #[test]
    fn a_second_start_is_noticed() {
        let mut invariant = CompletedTasks::default();
        let task = task("a", &service("web"), 1);
        let started = Seen::Started {
            host: Host(1),
            task: &task,
        };
        invariant.see(&started).unwrap();
        invariant.see(&started).unwrap_err();
    }

    #[test]
    fn a_part_of_a_job_is_done_once_in_a_run() {
        let mut invariant = CompletedTasks::default();
        let mut job = service("job");
        job.spec.mode = ServiceMode::ReplicatedJob {
            max_concurrent: 1,
            total_completions: 2,
        };
        job.job_status = Some(JobStatus::default());
        let mut first = task("a", &job, 0);
        first.status.state = TaskState::Complete;
        let state = step(&mut invariant, &State::default(), &first).unwrap();
        let state = step(&mut invariant, &state, &task("b", &job, 1)).unwrap();
        step(&mut invariant, &state, &task("c", &job, 0)).unwrap_err();
        let mut again = task("d", &job, 0);
        again.job_iteration = Some(skein_model::Version { index: 1 });
        step(&mut invariant, &state, &again).unwrap();
    }
}
