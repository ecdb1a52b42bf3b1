//! Templates in a service's spec: `{{.Task.Slot}}`, `{{index .Service.Labels "k"}}`, …
//!
//! Docker evaluates these with Go's `text/template`. This is the part of that language which has a
//! use here: field paths, string literals, parentheses, and the functions `index` and `join` (in the
//! payloads of secrets and configs also `secret`, `config` and `env`), plus comments and the
//! whitespace trimming of `{{-` and `-}}`. Anything else is an error that names it, never text that
//! is silently passed on.

mod container;
mod context;
mod evaluation;
mod syntax;

pub use container::{FieldError, expand_container};
pub use context::{Attached, Context};

use evaluation::{DEPTH_MAX, evaluate};
use syntax::action_end;

/// The longest text that a template makes, in bytes: several times that of the largest config, so
/// that repetition in a small template cannot take the memory of a node.
const OUTPUT_MAX: usize = 8 << 20;

/// Why a template has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum TemplateError {
    #[error("template: unclosed action in {0:?}")]
    Unclosed(String),
    #[error("template: unterminated string in {0:?}")]
    UnterminatedString(String),
    #[error("template: unexpected {0:?}")]
    Unexpected(String),
    #[error("template: missing value for command")]
    Empty,
    #[error(
        "template: can't evaluate field {0}; there are .Service.{{ID,Name,Labels}}, \
         .Node.{{ID,Hostname,Platform.OS,Platform.Architecture}} and .Task.{{ID,Name,Slot}}"
    )]
    UnknownField(String),
    #[error(
        "template: function {0:?} not defined; there are index and join, and in secrets and configs \
         also secret, config and env"
    )]
    UnknownFunction(String),
    #[error("template: map has no entry for key {0:?}")]
    NoEntry(String),
    #[error("template: {0} wants {1}")]
    Arguments(&'static str, &'static str),
    #[error("template: error calling {function}: {reason}")]
    Call {
        function: &'static str,
        reason: String,
    },
    #[error("template: max expression depth exceeded: parentheses nest at most {DEPTH_MAX} deep")]
    TooDeep,
    #[error("template: the text becomes longer than {OUTPUT_MAX} bytes")]
    TooLong,
}

/// The text with every `{{…}}` replaced by its value.
pub fn expand(text: &str, context: &Context) -> Result<String, TemplateError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find("{{") {
        let (before, action) = rest.split_at(open);
        let action = &action[2..];
        let (action, trim_left) = match action.strip_prefix('-') {
            Some(trimmed) if trimmed.starts_with(char::is_whitespace) => (trimmed, true),
            _ => (action, false),
        };
        out.push_str(if trim_left { before.trim_end() } else { before });
        let close = action_end(action).ok_or_else(|| TemplateError::Unclosed(text.to_owned()))?;
        let (body, after) = action.split_at(close);
        let (body, trim_right) = match body.strip_suffix('-') {
            Some(trimmed) if trimmed.ends_with(char::is_whitespace) => (trimmed, true),
            _ => (body, false),
        };
        let body = body.trim();
        if !(body.starts_with("/*") && body.ends_with("*/") && body.len() >= 4) {
            out.push_str(&evaluate(body, context)?.to_string());
        }
        if out.len() > OUTPUT_MAX {
            return Err(TemplateError::TooLong);
        }
        rest = &after[2..];
        if trim_right {
            rest = rest.trim_start();
        }
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_model::{NodeDescription, Payload, Platform, Task};

    fn context(slot: u64) -> Context {
        let task = Task {
            id: "t1".into(),
            service_id: "s1".into(),
            service_name: "web".into(),
            service_labels: [("tier".to_owned(), "front".to_owned())].into(),
            node_id: "n1".into(),
            slot,
            ..Task::default()
        };
        let node = NodeDescription {
            hostname: "alpha".into(),
            platform: Platform {
                architecture: "x86_64".into(),
                os: "linux".into(),
            },
            ..NodeDescription::default()
        };
        Context::new(&task, &node)
    }

    #[test]
    fn values() {
        for (template, expected) in [
            ("plain } text {", "plain } text {"),
            ("{{.Task.Slot}}", "3"),
            ("{{ .Task.Name }}@{{.Node.Hostname}}", "web.3.t1@alpha"),
            (
                "{{.Service.ID}}/{{.Service.Name}}/{{.Node.ID}}/{{.Task.ID}}",
                "s1/web/n1/t1",
            ),
            (
                "{{.Node.Platform.OS}}-{{.Node.Platform.Architecture}}",
                "linux-x86_64",
            ),
            (r#"{{index .Service.Labels "tier"}}"#, "front"),
            (r#"{{index (.Service.Labels) "none"}}"#, ""),
            ("{{.Service.Labels.tier}}", "front"),
            ("{{.Service.Labels}}", "map[tier:front]"),
            (r#"{{join "-" "a" .Task.Slot `b"`}}"#, "a-3-b\""),
            (
                r#"{{join "," (index .Service.Labels "tier") "}}"}}"#,
                "front,}}",
            ),
            ("a {{- /* nothing */ -}} b", "ab"),
            ("a  {{- .Task.Slot -}}  b", "a3b"),
            (r#"{{"\"\\\n"}}"#, "\"\\\n"),
        ] {
            assert_eq!(
                expand(template, &context(3)).as_deref(),
                Ok(expected),
                "{template}"
            );
        }
        assert_eq!(expand("{{.Task.Slot}}", &context(0)).unwrap(), "n1");
    }

    #[test]
    fn only_payloads_read_what_is_attached() {
        let attached = Attached {
            secrets: [("key".to_owned(), Payload::from("s"))].into(),
            configs: [("conf".to_owned(), Payload::from(vec![0xff]))].into(),
            env: [("A".to_owned(), "b".to_owned())].into(),
        };
        let template = r#"{{join "-" (secret "key") (env "A") (env "none")}}"#;
        let payload = Context::of_payloads(&Task::default(), attached);
        assert_eq!(expand(template, &payload).unwrap(), "s-b-");
        for template in [
            r#"{{secret "none"}}"#,
            r#"{{config "conf"}}"#,
            "{{secret}}",
            r#"{{env "A" "B"}}"#,
        ] {
            assert!(expand(template, &payload).is_err(), "{template}");
        }
        for template in [r#"{{secret "key"}}"#, r#"{{env "A"}}"#] {
            let error = expand(template, &context(1)).unwrap_err();
            assert!(matches!(error, TemplateError::UnknownFunction(_)));
        }
    }

    #[test]
    fn what_a_template_makes_has_a_limit() {
        let attached = Attached {
            env: [("A".to_owned(), "a".repeat(1 << 20))].into(),
            ..Attached::default()
        };
        let context = Context::of_payloads(&Task::default(), attached);
        let text = r#"{{env "A"}}"#;
        assert!(expand(&text.repeat(8), &context).is_ok());
        assert_eq!(
            expand(&text.repeat(9), &context),
            Err(TemplateError::TooLong)
        );
    }

    #[test]
    fn parentheses_nest_only_so_deep() {
        let nested = |depth: usize| {
            let (open, close) = ("(".repeat(depth), ")".repeat(depth));
            format!("{{{{{open}.Task.ID{close}}}}}")
        };
        assert_eq!(expand(&nested(DEPTH_MAX), &context(1)).unwrap(), "t1");
        let side_by_side = nested(1).repeat(DEPTH_MAX + 1);
        assert!(expand(&side_by_side, &context(1)).is_ok());
        let calls = "{{join \"\"".to_owned() + &" (.Task.ID)".repeat(DEPTH_MAX + 1) + "}}";
        assert!(expand(&calls, &context(1)).is_ok());
        for depth in [DEPTH_MAX + 1, 100_000] {
            let error = expand(&nested(depth), &context(1));
            assert_eq!(error, Err(TemplateError::TooDeep));
        }
        let unclosed = "{{".to_owned() + &"(".repeat(100_000) + "}}";
        assert_eq!(expand(&unclosed, &context(1)), Err(TemplateError::TooDeep));
        let calls = "{{".to_owned() + &"(join ".repeat(100_000) + "}}";
        assert_eq!(expand(&calls, &context(1)), Err(TemplateError::TooDeep));
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for template in [
            "{{.Task.Slot",
            "{{}}",
            "{{.}}",
            "{{.Foo}}",
            "{{.Service}}",
            "{{.Service.Labels.none}}",
            "{{printf \"%s\" .Task.ID}}",
            "{{if .Task.ID}}a{{end}}",
            "{{.Task.ID | join \",\"}}",
            "{{.Task.ID .Task.ID}}",
            "{{index .Task.ID \"a\"}}",
            "{{index .Service.Labels}}",
            "{{join}}",
            "{{join \",\" .Service.Labels}}",
            "{{(.Task.ID}}",
            "{{.Task.ID)}}",
            "{{\"a}}",
            "{{\"\\x\"}}",
            "{{$x}}",
        ] {
            assert!(expand(template, &context(1)).is_err(), "{template}");
        }
    }
}
