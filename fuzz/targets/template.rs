//! Go templates in a service: they expand, or are refused, in bounded time and to a bounded length.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skein_model::{NodeDescription, Task};
use skein_orchestration::template::{Attached, Context, expand};
use std::sync::LazyLock;

/// What secrets and configs can read as well, which is all that there is.
static CONTEXT: LazyLock<Context> = LazyLock::new(|| {
    let mut task = Task {
        id: "t1".into(),
        service_name: "web".into(),
        slot: 3,
        ..Task::default()
    };
    task.service_labels.insert("tier".into(), "front".into());
    let mut attached = Attached::default();
    attached.env.insert("KEY".into(), "value".into());
    Context::of_payloads(&task, attached)
});

static PLAIN: LazyLock<Context> =
    LazyLock::new(|| Context::new(&Task::default(), &NodeDescription::default()));

fuzz_target!(|text: &str| {
    for context in [&*CONTEXT, &*PLAIN] {
        if let Ok(expanded) = expand(text, context)
            && !text.contains("{{")
        {
            assert_eq!(expanded, text, "what is no template stays as it is");
        }
    }
});
