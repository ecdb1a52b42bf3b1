//! What `skein trace` prints for people. Pure.

use crate::output::Table;
use skein_proto::inspect::TraceReply;

/// The packet, each decision, and the outcome.
pub fn text(reply: &TraceReply) -> String {
    let mut table = Table::default();
    let mut say = |what: &str, value: &str| table.row([what.to_owned(), value.to_owned()]);
    say("Packet:", &reply.packet);
    say("Seen at:", &reply.seen_at);
    for (decision, nth) in reply.decisions.iter().zip(0..) {
        say(if nth == 0 { "Decided:" } else { "" }, decision);
    }
    if !reply.rewritten.is_empty() {
        say("Becomes:", &reply.rewritten);
    }
    say("Outcome:", &reply.outcome);
    if !reply.advice.is_empty() {
        say("Advice:", &reply.advice);
    }
    for (run, nth) in reply.runs.iter().zip(0..) {
        let ran = format!("{} {}: {}", run.program, run.result, run.packet);
        say(if nth == 0 { "Programs:" } else { "" }, &ran);
    }
    if !reply.not_run.is_empty() {
        say("Programs:", &format!("were not run: {}", reply.not_run));
    }
    if !reply.disagreement.is_empty() {
        say("But:", &reply.disagreement);
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_decisions_stand_below_each_other() {
        let reply = TraceReply {
            packet: "tcp a -> b".to_owned(),
            seen_at: "an uplink".to_owned(),
            decisions: vec!["first".to_owned(), "second".to_owned()],
            outcome: "it is dropped".to_owned(),
            not_run: "no device".to_owned(),
            ..TraceReply::default()
        };
        let expected = "Packet:     tcp a -> b\n\
            Seen at:    an uplink\n\
            Decided:    first\n            second\n\
            Outcome:    it is dropped\n\
            Programs:   were not run: no device\n";
        assert_eq!(text(&reply), expected);
    }
}
