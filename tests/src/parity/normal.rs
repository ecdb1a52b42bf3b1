//! What is another in every run, put in one form: IDs, times, keys, versions.

use regex::{Captures, Regex};
use serde_json::Value;
use std::sync::LazyLock;

/// What stands for what, in order.
static FORMS: LazyLock<Vec<(Regex, &'static str)>> = LazyLock::new(|| {
    let form = |(pattern, stands): (&str, &'static str)| {
        (Regex::new(pattern).expect("a constant pattern"), stands)
    };
    [
        (
            r"-----BEGIN [A-Z ]+-----(?s:.*?)-----END [A-Z ]+-----(\n|\\n)?",
            "<pem>",
        ),
        (r"SWMTKN-1-[0-9a-z]{50}-[0-9a-z]{25}", "<token>"),
        (r"SWMKEY-1-[0-9A-Za-z+/]{43}", "<key>"),
        (
            "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE[0-9A-Za-z+/]{86}==",
            "<public key>",
        ),
        (r"sha256:[0-9a-f]{64}", "<digest>"),
        (r"\b[0-9a-f]{64}\b", "<container>"),
        (
            r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)",
            "<time>",
        ),
        (
            r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)? \+0000 (utc|UTC)",
            "<time>",
        ),
        (
            r"(Less than a second|About an? (minute|hour)|\d+ (second|minute|hour)s?) ago",
            "<ago>",
        ),
        // Columns are as wide as what is in them.
        (r" {2,}", "  "),
        (r"[ \t]+\n", "\n"),
    ]
    .map(form)
    .into()
});

/// IDs, whole or as far as tables show them. Of the short ones, in the middle of a line, only those
/// with a digit: else they might be words.
static IDS: LazyLock<Regex> = LazyLock::new(|| {
    let ids = r"(?m)(^|\.\d+\.)[0-9a-z]{12}\b|\b[0-9a-z]{25}\b|\b[0-9a-z]{12}\b";
    Regex::new(ids).expect("a constant pattern")
});

/// An address of a subnet that the swarm has given a network, out of its pool.
static GIVEN: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^10\.0\.\d+\.\d+/24$").expect("a constant pattern"));

/// Whether a value is a VIP or the address of a task: which of its network's it is differs, as Swarm spends some on
/// the nodes' own balancers.
fn is_given(path: &str) -> bool {
    path.contains("VirtualIPs[") && path.ends_with(".Addr")
        || path.contains("NetworksAttachments[") && path.contains(".Addresses[")
}

/// Puts a text in the common form.
pub fn text(text: &str) -> String {
    let mut text = text.replace('\r', "\n");
    for (pattern, stands) in &*FORMS {
        text = pattern.replace_all(&text, *stands).into_owned();
    }
    let id = |found: &Captures<'_>| {
        let word = &found[0];
        match found.get(1) {
            Some(before) => format!("{}<id12>", before.as_str()),
            None if word.len() == 25 => "<id>".to_owned(),
            None if word.bytes().any(|c| c.is_ascii_digit()) => "<id12>".to_owned(),
            None => word.to_owned(),
        }
    };
    IDS.replace_all(&text, id).into_owned()
}

/// What a command printed, as lines: a table or a text as it is, JSON as one line for each value in
/// it, `PATH = VALUE`. A list of the API's, which has no order, is in the order of what it holds.
pub fn lines(output: &str) -> Vec<String> {
    // `api` prints the status in a last line.
    let (body, status) = match output.trim_end().rsplit_once('\n') {
        Some((body, status)) if status.len() == 3 && status.parse::<u16>().is_ok() => {
            (body, Some(status))
        }
        _ => (output.trim_end(), None),
    };
    let Ok(mut value) = serde_json::from_str::<Value>(body) else {
        return text(output).lines().map(str::to_owned).collect();
    };
    if let (Value::Array(items), Some(_)) = (&mut value, status) {
        items.sort_by_cached_key(|item| {
            let mut lines = Vec::new();
            flatten("", item, &mut lines);
            lines
        });
    }
    let mut lines = Vec::new();
    flatten("", &value, &mut lines);
    lines.extend(status.map(|status| format!("status {status}")));
    lines
}

fn flatten(path: &str, value: &Value, lines: &mut Vec<String>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            let mut fields: Vec<_> = fields
                .iter()
                .map(|(name, value)| (text(name), value))
                .collect();
            fields.sort_by(|a, b| a.0.cmp(&b.0));
            for (name, value) in fields {
                flatten(&format!("{path}.{name}"), value, lines);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (at, item) in items.iter().enumerate() {
                flatten(&format!("{path}[{at}]"), item, lines);
            }
        }
        Value::Number(number) if path.ends_with(".Version.Index") => {
            debug_assert!(number.is_u64());
            lines.push(format!("{path} = <index>"));
        }
        Value::Number(number) if path.ends_with(".PID") => {
            debug_assert!(number.is_u64());
            lines.push(format!("{path} = <pid>"));
        }
        // Go writes no fraction where there is none.
        Value::Number(number) if number.is_f64() => {
            lines.push(format!("{path} = {}", number.as_f64().unwrap_or_default()));
        }
        Value::String(string) if is_given(path) && GIVEN.is_match(string) => {
            lines.push(format!("{path} = <address of the pool>"));
        }
        Value::String(string) => lines.push(format!("{path} = {:?}", text(string))),
        other => lines.push(format!("{path} = {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_in_every_run_has_one_form() {
        for (said, stands) in [
            ("an organization", "an organization"),
            ("x  kzx8d4zq2w1m0v9c7b6n5a4s3  y", "x  <id>  y"),
            ("kzxadazqawam  web.1.abcdefghijkl", "<id12>  web.1.<id12>"),
            ("kzx8d4zq2w1m *   web", "<id12> *  web"),
            ("Running 5 seconds ago", "Running <ago>"),
            ("Ready About a minute ago  ", "Ready <ago>  "),
            ("2026-01-02T03:04:05.6789Z", "<time>"),
            ("2026-01-02 03:04:05.6789 +0000 utc", "<time>"),
            (
                "SWMKEY-1-7c37Cc8654o6p38HnroywCi19pllOnGtbdZEgtKxZu8",
                "<key>",
            ),
        ] {
            assert_eq!(text(said), stands, "{said}");
        }
    }

    #[test]
    fn json_is_a_line_for_each_value() {
        let said = "[{\"B\": {}, \"A\": [1, null], \"Version\": {\"Index\": 7}}]\n";
        let flat = [
            "[0].A[0] = 1",
            "[0].A[1] = null",
            "[0].B = {}",
            "[0].Version.Index = <index>",
        ];
        assert_eq!(lines(said), flat);
        assert_eq!(lines("[2, 1]\n200\n"), ["[0] = 1", "[1] = 2", "status 200"]);
        assert_eq!(lines("a\nb\n"), ["a", "b"]);
        let vips = |addr: &str| lines(&format!(r#"{{"VirtualIPs":[{{"Addr":"{addr}"}}]}}"#));
        assert_eq!(vips("10.0.1.7/24"), vips("10.0.3.9/24"));
        assert_ne!(vips("10.0.1.7/24"), vips(""));
        assert_ne!(vips("10.0.1.7/24"), vips("10.1.1.7/24"));
    }
}
