//! What `skein flows` prints. Pure.

use skein_proto::inspect::{Flow, FlowsLost};
use std::fmt::Write as _;

/// Characters of a task's ID that people see.
const SHORT: usize = 12;

/// One line: when, what, who to whom, whose, and what became of it.
pub fn line(flow: &Flow) -> String {
    // The day is today's: the time will do.
    let time = flow.time.split_once('T').map_or("", |(_, time)| time);
    let time = time.trim_end_matches('Z').split('.').collect::<Vec<_>>();
    let fraction = time.get(1).copied().unwrap_or_default();
    let mut text = format!(
        "{}.{fraction:0<6}  ",
        time.first().copied().unwrap_or_default()
    );
    let mut say = |word: std::fmt::Arguments<'_>| {
        // Writing to a string does not fail.
        let _ = text.write_fmt(word);
    };
    say(format_args!("{:<8}", flow.event));
    match flow.protocol.as_str() {
        "" => say(format_args!("a frame that is not read")),
        protocol => say(format_args!(
            "{protocol} {} -> {}",
            flow.source, flow.destination
        )),
    }
    if !flow.service.is_empty() {
        let of = if flow.answer { "answer of" } else { "to" };
        say(format_args!("  {of} {}", flow.service));
    }
    if !flow.from_task.is_empty() {
        say(format_args!("  from task {}", short(&flow.from_task)));
    }
    say(format_args!("  {}", flow.verdict));
    match flow.verdict.as_str() {
        "forwarded" if !flow.to_node.is_empty() => say(format_args!(" to {}", flow.to_node)),
        _ => {}
    }
    if !flow.task.is_empty() {
        let end = if flow.answer { "by" } else { "to" };
        say(format_args!(" {end} task {}", short(&flow.task)));
    }
    if !flow.translated.is_empty() {
        say(format_args!(" as {}", flow.translated));
    }
    if !flow.reason.is_empty() {
        say(format_args!(": {}", flow.reason));
    }
    if !flow.network.is_empty() {
        say(format_args!("  on {}", flow.network));
    }
    let device = [&flow.seen_at[..], &flow.device[..]];
    let device: Vec<&str> = device.into_iter().filter(|word| !word.is_empty()).collect();
    say(format_args!("  ({})", device.join(" ")));
    text
}

/// What is missing, for people; "" if nothing is.
pub fn lost(lost: &FlowsLost) -> String {
    let parts = [
        (
            lost.flows,
            "flows were not told of: they began and ended too fast",
        ),
        (lost.drops, "drops were not told of: they came too fast"),
        (
            lost.unread,
            "records were lost: skein-dataplane was too slow",
        ),
        (lost.slow, "records were lost: this command was too slow"),
    ];
    let parts = parts.iter().filter(|(number, _)| *number > 0);
    let parts: Vec<String> = parts
        .map(|(number, what)| format!("{number} {what}"))
        .collect();
    parts.join("; ")
}

fn short(id: &str) -> &str {
    id.get(..SHORT).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_says_it_all() {
        let flow = Flow {
            time: "2026-11-28T23:05:28.5Z".to_owned(),
            event: "opened".to_owned(),
            verdict: "delivered".to_owned(),
            protocol: "tcp".to_owned(),
            source: "203.0.113.9:40000".to_owned(),
            destination: "198.18.0.1:8080".to_owned(),
            translated: "10.0.0.5:80".to_owned(),
            service: "web".to_owned(),
            task: "abcdefghijklmnop".to_owned(),
            network: "ingress".to_owned(),
            seen_at: "uplink".to_owned(),
            device: "eth0".to_owned(),
            ..Flow::default()
        };
        assert_eq!(
            line(&flow),
            "23:05:28.500000  opened  tcp 203.0.113.9:40000 -> 198.18.0.1:8080  to web  delivered to task abcdefghijkl as 10.0.0.5:80  on ingress  (uplink eth0)"
        );
        let dropped = Flow {
            time: "2026-11-28T23:05:28Z".to_owned(),
            event: "dropped".to_owned(),
            verdict: "dropped".to_owned(),
            reason: "not_ipv4".to_owned(),
            from_task: "t".to_owned(),
            seen_at: "veth".to_owned(),
            ..Flow::default()
        };
        assert_eq!(
            line(&dropped),
            "23:05:28.000000  dropped a frame that is not read  from task t  dropped: not_ipv4  (veth)"
        );
    }

    #[test]
    fn what_is_missing_is_told_with_the_cause() {
        assert_eq!(lost(&FlowsLost::default()), "");
        let text = lost(&FlowsLost {
            drops: 7,
            slow: 2,
            ..FlowsLost::default()
        });
        assert!(
            text.starts_with("7 drops") && text.contains("; 2 records"),
            "{text}"
        );
    }
}
