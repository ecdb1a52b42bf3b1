//! Placement constraints: read or refused, and what is read can be asked of any node.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skein_model::Node;
use skein_orchestration::scheduler::Constraint;
use std::sync::LazyLock;

static NODE: LazyLock<Node> = LazyLock::new(|| {
    let mut node = Node {
        id: "n1".into(),
        ..Node::default()
    };
    node.spec.labels.insert("zone".into(), "east".into());
    node.description.hostname = "alpha".into();
    node.status.addr = "10.1.2.3".into();
    node
});

fuzz_target!(|text: &str| {
    let expressions: Vec<String> = text.lines().map(str::to_owned).collect();
    if let Ok(constraints) = Constraint::parse_all(&expressions) {
        Constraint::all_match(&constraints, &NODE);
        // One that a node must meet twice it meets as often as once.
        let twice = [&constraints[..], &constraints[..]].concat();
        assert_eq!(
            Constraint::all_match(&twice, &NODE),
            Constraint::all_match(&constraints, &NODE)
        );
    }
});
