//! Secrets whose values drivers have.

use super::*;
use crate::manager::drivers::{DriverError, DriverResponse, Request};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use skein_model::{Driver, PayloadSpec, Secret, SecretReference, task_secret_id};

/// Answers in turn what it is told to; then it answers no more.
#[derive(Default)]
struct Scripted {
    answers: Mutex<Vec<Result<DriverResponse, DriverError>>>,
    /// For which tasks it was asked.
    asked: Mutex<Vec<String>>,
}

impl Scripted {
    fn of(mut answers: Vec<Result<DriverResponse, DriverError>>) -> Arc<Self> {
        answers.reverse();
        Arc::new(Self {
            answers: Mutex::new(answers),
            asked: Mutex::default(),
        })
    }
}

impl Drivers for Scripted {
    fn get(
        &self,
        driver: &str,
        request: Request,
    ) -> BoxFuture<'static, Result<DriverResponse, DriverError>> {
        assert_eq!(driver, "vault");
        self.asked.lock().push(request.task_id().to_owned());
        let answer = self.answers.lock().pop();
        Box::pin(async move {
            match answer {
                Some(answer) => answer,
                None => std::future::pending().await,
            }
        })
    }
}

/// A service whose tasks need the secret "key", which the driver "vault" has.
fn keyed(store: &Memory, replicas: u64) {
    let mut service = web(replicas);
    (service.id, service.spec.name) = ("keyed".into(), "keyed".into());
    service.spec.endpoint_spec = None;
    service.spec.task_template.container_spec.secrets = vec![SecretReference {
        secret_id: "key".into(),
        secret_name: "key".into(),
        ..SecretReference::default()
    }];
    store.create(service);
}

fn key(store: &Memory) {
    let driver = Driver {
        name: "vault".into(),
        ..Driver::default()
    };
    store.create(Secret {
        id: "key".into(),
        spec: PayloadSpec {
            name: "key".into(),
            driver: Some(driver),
            ..PayloadSpec::default()
        },
        ..Secret::default()
    });
}

fn refused() -> DriverError {
    DriverError::Refused {
        name: "vault".into(),
        reason: "sealed".into(),
    }
}

type Values = Vec<(String, Vec<u8>)>;
type Reasons = Vec<(String, String)>;

/// What a message tells of secrets: values by ID, and why others are missing.
fn told(message: &proto::AssignmentsMessage) -> (Values, Reasons) {
    let value = |json: &Vec<u8>| {
        let secret: Secret = serde_json::from_slice(json).unwrap();
        (secret.id, secret.spec.data.to_vec())
    };
    let withheld = message.withheld_secrets.iter();
    (
        message.secrets.iter().map(value).collect(),
        withheld
            .map(|withheld| (withheld.id.clone(), withheld.reason.clone()))
            .collect(),
    )
}

/// The next message that tells anything of secrets.
async fn next_of_secrets(agent: &mut agent::Raw) -> proto::AssignmentsMessage {
    loop {
        let message = agent.assignments().await;
        if message.secrets.len() + message.withheld_secrets.len() > 0 {
            return message;
        }
    }
}

/// The IDs of the tasks that a message tells of.
fn tasks(message: &proto::AssignmentsMessage) -> Vec<String> {
    let task = |json: &Vec<u8>| serde_json::from_slice::<Task>(json).unwrap().id;
    message.tasks.iter().map(task).collect()
}

#[tokio::test(start_paused = true)]
async fn a_task_whose_driver_fails_waits_and_is_told_why() {
    let drivers = Scripted::of(vec![Err(refused()), Ok(DriverResponse::of("v", false))]);
    let (store, parts, _shutdown) = cluster_with(&["a"], drivers.clone());
    let mut agent = agent::Raw::open(&parts, "a").await;
    assert!(agent.assignments().await.complete);
    key(&store);
    keyed(&store, 1);
    // Before the task that waits for it.
    let first = agent.assignments().await;
    let (values, withheld) = told(&first);
    assert!(values.is_empty() && first.tasks.is_empty());
    let told_of = tasks(&agent.assignments().await);
    let id = task_secret_id("key", &told_of[0]);
    assert_eq!(
        withheld,
        [(
            id.clone(),
            "waiting for secret key: its driver vault is being asked".to_owned()
        )]
    );
    let (values, withheld) = told(&next_of_secrets(&mut agent).await);
    assert!(values.is_empty());
    let failed = "waiting for secret key: plugin \"vault\" refuses: sealed".to_owned();
    assert_eq!(withheld, [(id.clone(), failed)]);
    let begun = Instant::now();
    let last = next_of_secrets(&mut agent).await;
    assert_eq!(told(&last).0, [("key".to_owned(), b"v".to_vec())]);
    assert!(begun.elapsed() >= Duration::from_millis(900));
    assert_eq!(agent.assignments().await.removed_secret_ids, [id]);
    assert_eq!(*drivers.asked.lock(), [&*told_of[0], &*told_of[0]]);
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_does_not_answer_keeps_no_task_from_its_node() {
    let drivers = Scripted::of(Vec::new());
    let (store, parts, _shutdown) = cluster_with(&["a"], drivers.clone());
    let mut agent = agent::Raw::open(&parts, "a").await;
    assert!(agent.assignments().await.complete);
    key(&store);
    keyed(&store, 1);
    assert_eq!(told(&agent.assignments().await).1.len(), 1);
    assert_eq!(tasks(&agent.assignments().await).len(), 1);
    store.create(web(1));
    assert_eq!(tasks(&agent.assignments().await).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_value_for_one_task_comes_under_an_id_of_its_own() {
    let drivers = Scripted::of(vec![
        Ok(DriverResponse::of("one", true)),
        Ok(DriverResponse::of("two", true)),
    ]);
    let (store, parts, _shutdown) = cluster_with(&["a"], drivers.clone());
    let mut agent = agent::Raw::open(&parts, "a").await;
    assert!(agent.assignments().await.complete);
    key(&store);
    keyed(&store, 2);
    let mut values = Vec::new();
    while values.len() < 2 {
        values.extend(told(&next_of_secrets(&mut agent).await).0);
    }
    let asked = drivers.asked.lock().clone();
    assert_eq!(asked.len(), 2);
    let id = |task: &str| task_secret_id("key", task);
    let expected = [
        (id(&asked[0]), b"one".to_vec()),
        (id(&asked[1]), b"two".to_vec()),
    ];
    assert_eq!(values, expected);
    // Who runs has it, also when the node comes back; nobody is asked again.
    for task in &asked {
        agent.report(task, TaskState::Running).await.unwrap();
    }
    let mut again = agent::Raw::open(&parts, "a").await;
    let all = again.assignments().await;
    assert!(all.complete && all.secrets.is_empty() && all.withheld_secrets.is_empty());
    assert_eq!(*drivers.asked.lock(), asked);
}
