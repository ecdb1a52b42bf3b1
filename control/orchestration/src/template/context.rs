//! What templates can read of their task.

use super::value::Value;
use skein_model::{NodeDescription, Payload, Task};
use std::{collections::BTreeMap, sync::Arc};

/// What a template can read.
#[derive(Clone, Debug, Default)]
pub struct Context {
    service_id: String,
    service_name: String,
    service_labels: BTreeMap<String, String>,
    node_id: String,
    node_hostname: String,
    node_os: String,
    node_architecture: String,
    task_id: String,
    task_name: String,
    task_slot: String,
    /// `None` where it cannot be read.
    pub(super) attached: Option<Attached>,
}

/// What only payloads can read: the task's secrets and configs by the names of their files, and its
/// environment.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Attached {
    pub secrets: BTreeMap<String, Payload>,
    pub configs: BTreeMap<String, Payload>,
    pub env: BTreeMap<String, String>,
}

impl Context {
    /// The context of a task on the node so described.
    pub fn new(task: &Task, node: &NodeDescription) -> Self {
        Self {
            service_id: task.service_id.clone(),
            service_name: task.service_name.clone(),
            service_labels: task.service_labels.clone(),
            node_id: task.node_id.clone(),
            node_hostname: node.hostname.clone(),
            node_os: node.platform.os.clone(),
            node_architecture: node.platform.architecture.clone(),
            task_id: task.id.clone(),
            task_name: task.name(),
            // A task that is bound to a node has the node for its slot.
            task_slot: match task.slot {
                0 => task.node_id.clone(),
                slot => slot.to_string(),
            },
            attached: None,
        }
    }

    /// The context of the payloads of a task's secrets and configs. As in Docker, of the node they
    /// can read no more than its ID.
    pub fn of_payloads(task: &Task, attached: Attached) -> Self {
        Self {
            attached: Some(attached),
            ..Self::new(task, &NodeDescription::default())
        }
    }

    /// What templates read by names: `.Task.ID`, and so on.
    pub(super) fn root(&self) -> Value {
        let text = |text: &String| Value::from(text.as_str());
        let platform = [
            ("Architecture", text(&self.node_architecture)),
            ("OS", text(&self.node_os)),
        ];
        let service = [
            ("ID", text(&self.service_id)),
            ("Name", text(&self.service_name)),
            ("Labels", Value::Map(Arc::new(self.service_labels.clone()))),
        ];
        let node = [
            ("ID", text(&self.node_id)),
            ("Hostname", text(&self.node_hostname)),
            ("Platform", Value::fields(platform)),
        ];
        let task = [
            ("ID", text(&self.task_id)),
            ("Name", text(&self.task_name)),
            ("Slot", text(&self.task_slot)),
        ];
        Value::fields([
            ("Service", Value::fields(service)),
            ("Node", Value::fields(node)),
            ("Task", Value::fields(task)),
        ])
    }
}
