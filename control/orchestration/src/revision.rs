//! What a service is when its user creates, changes or rolls it back.

use skein_model::{
    JobStatus, Service, ServiceSpec, State, Timestamp, UpdateState, UpdateStatus, Version,
};

/// A new service.
pub fn created(state: &State, id: String, spec: ServiceSpec, now: Timestamp) -> Service {
    Service {
        id,
        job_status: next_run(&spec, None, now),
        spec,
        spec_version: next_version(state),
        ..Service::default()
    }
}

/// The service with another spec. Its registry's credentials stay until others are given.
pub fn updated(state: &State, current: &Service, spec: ServiceSpec, now: Timestamp) -> Service {
    Service {
        previous_spec: Some(current.spec.clone()),
        spec,
        spec_version: next_version(state),
        update_status: None,
        // Of the spec before.
        allocation_error: String::new(),
        previous_registry_auth: current.registry_auth.clone(),
        job_status: next_run(&current.spec, current.job_status.as_ref(), now),
        ..current.clone()
    }
}

/// The service whose spec and previous spec have changed places; `None` if there is no previous one.
pub fn rolled_back(state: &State, current: &Service, now: Timestamp) -> Option<Service> {
    let previous = current.previous_spec.clone()?;
    Some(Service {
        previous_spec: Some(current.spec.clone()),
        job_status: next_run(&previous, current.job_status.as_ref(), now),
        spec: previous,
        spec_version: next_version(state),
        allocation_error: String::new(),
        registry_auth: current.previous_registry_auth.clone(),
        previous_registry_auth: current.registry_auth.clone(),
        // Jobs begin anew, and are not rolled out.
        update_status: (!current.spec.mode.is_job()).then(|| UpdateStatus {
            state: UpdateState::RollbackStarted,
            started_at: Some(now),
            completed_at: None,
            message: "manually requested rollback".into(),
        }),
        ..current.clone()
    })
}

/// What a job's next run is; `None` for services that are none.
fn next_run(spec: &ServiceSpec, before: Option<&JobStatus>, now: Timestamp) -> Option<JobStatus> {
    let index = before.map_or(0, |status| status.job_iteration.index + 1);
    spec.mode.is_job().then_some(JobStatus {
        job_iteration: Version { index },
        last_execution: now,
    })
}

/// Greater than that of any spec before it.
fn next_version(state: &State) -> Version {
    Version {
        index: state.index() + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_model::ServiceMode;

    fn spec(image: &str) -> ServiceSpec {
        let mut spec = ServiceSpec::default();
        spec.task_template.container_spec.image = image.into();
        spec
    }

    #[test]
    fn a_rollback_undoes_an_update_as_a_newer_version() {
        let mut state = State::default();
        let now = Timestamp::from_unix_nanos(1);
        let first = created(&state, "a".into(), spec("one"), now);
        assert_eq!((first.spec_version.index, &first.job_status), (1, &None));
        state.skip_to(5);
        let mut second = updated(&state, &first, spec("two"), now);
        assert_eq!(second.previous_spec, Some(first.spec.clone()));
        state.skip_to(9);
        second.allocation_error = "full".into();
        let third = rolled_back(&state, &second, now).unwrap();
        assert_eq!(third.allocation_error, "");
        assert_eq!(
            updated(&state, &second, spec("3"), now).allocation_error,
            ""
        );
        assert_eq!((&third.spec, third.spec_version.index), (&first.spec, 10));
        let status = third.update_status.unwrap();
        assert_eq!(status.state, UpdateState::RollbackStarted);
        assert_eq!(rolled_back(&state, &first, now), None);
    }

    #[test]
    fn every_change_of_a_job_is_another_run_and_no_rollout() {
        let state = State::default();
        let now = Timestamp::from_unix_nanos(1);
        let mut job = spec("job");
        job.mode = ServiceMode::GlobalJob {};
        let run = |service: &Service| service.job_iteration().unwrap().index;
        let first = created(&state, "a".into(), job.clone(), now);
        let second = updated(&state, &first, job, now);
        let third = rolled_back(&state, &second, now).unwrap();
        assert_eq!([run(&first), run(&second), run(&third)], [0, 1, 2]);
        assert_eq!(third.update_status, None);
    }
}
