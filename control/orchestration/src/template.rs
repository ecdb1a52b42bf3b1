//! Templates in a service's spec: `{{.Task.Slot}}`, `{{if eq .Node.Hostname "a"}}…{{end}}`, …
//!
//! Docker evaluates these with Go's `text/template`. This is that language, but for what has no use here: templates
//! that define others, and the functions `call` and `js`. It has fields, literals, variables, pipelines, `if`,
//! `range` and `with`, the functions of Go, and Docker's `join` (in the payloads of secrets and configs also
//! `secret`, `config` and `env`). Anything else is an error that names it, never text that is silently passed on.
//! What a template can cost is bounded: its output, its work, and how deep it nests.

mod container;
mod context;
mod evaluation;
mod format;
mod functions;
mod parser;
mod syntax;
mod value;

pub use container::{FieldError, expand_container};
pub use context::{Attached, Context};

use parser::DEPTH_MAX;

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
    #[error("template: unexpected EOF: an if, range or with has no {{{{end}}}}")]
    NoEnd,
    #[error("template: {0} is not supported: there is one template in a field")]
    Unsupported(String),
    #[error("template: missing value for command")]
    Empty,
    #[error("template: non executable command in pipeline: a function is to stand behind each |")]
    NoFunction,
    #[error("template: undefined variable {0:?}")]
    UnknownVariable(String),
    #[error(
        "template: can't evaluate field {0}; there are .Service.{{ID,Name,Labels}}, \
         .Node.{{ID,Hostname,Platform.OS,Platform.Architecture}} and .Task.{{ID,Name,Slot}}"
    )]
    UnknownField(String),
    #[error(
        "template: function {0:?} not defined; there are and, or, not, eq, ne, lt, le, gt, ge, len, index, slice, \
         print, printf, println, html, urlquery and join, and in secrets and configs also secret, config and env"
    )]
    UnknownFunction(String),
    #[error("template: map has no entry for key {0:?}")]
    NoEntry(String),
    #[error("template: range can't iterate over a {0}: it is no map")]
    NoRange(&'static str),
    #[error("template: {0} wants {1}")]
    Arguments(&'static str, &'static str),
    #[error("template: error calling {function}: {reason}")]
    Call {
        function: &'static str,
        reason: String,
    },
    #[error(
        "template: max expression depth exceeded: parentheses and blocks nest at most {DEPTH_MAX} deep"
    )]
    TooDeep,
    #[error("template: the text becomes longer than {OUTPUT_MAX} bytes")]
    TooLong,
    #[error(
        "template: it goes on for too long: ranges in ranges make more than a node has time for"
    )]
    TooMuch,
}

/// What a text comes to as a template.
pub fn expand(text: &str, context: &Context) -> Result<String, TemplateError> {
    let nodes = parser::parse(text, context.attached.is_some())?;
    evaluation::evaluate(&nodes, context)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
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
    fn templates_decide_repeat_and_remember_as_in_go() {
        for (template, expected) in [
            ("{{.Task}}", "{t1 web.3.t1 3}"),
            (
                "{{.}}",
                "{{s1 web map[tier:front]} {n1 alpha {x86_64 linux}} {t1 web.3.t1 3}}",
            ),
            ("{{printf \"%s/%s\" .Service.Name .Task.Slot}}", "web/3"),
            ("{{.Task.ID | join \",\"}}", "t1"),
            ("{{.Task.ID | printf \"%q %s\" .Node.ID}}", "\"n1\" t1"),
            ("{{index .Service.Labels}}", "map[tier:front]"),
            ("{{(index .Service.Labels \"tier\") | len}}", "5"),
            ("{{(.Service).Name}}", "web"),
            ("{{(.Service).Labels.tier}}", "front"),
            (r#"{{if eq .Node.Hostname "alpha"}}a{{else}}b{{end}}"#, "a"),
            (
                r#"{{if eq .Task.Slot "1" "2"}}a{{else if eq .Task.Slot "3"}}b{{else}}c{{end}}"#,
                "b",
            ),
            (r#"{{if index .Service.Labels "none"}}a{{end}}."#, "."),
            ("{{if not .Task.Slot}}a{{else}}b{{end}}", "b"),
            (
                r#"{{or (index .Service.Labels "none") "default"}}"#,
                "default",
            ),
            (r#"{{and .Task.ID (index .Service.Labels "none")}}."#, "."),
            // What decides nothing any more is not looked at.
            ("{{or .Task.ID .Service.Labels.none}}", "t1"),
            ("{{if true}}a{{else}}{{.Service.Labels.none}}{{end}}", "a"),
            ("{{range .Service.Labels}}<{{.}}>{{end}}", "<front>"),
            (
                "{{range $k, $v := .Service.Labels}}{{$k}}={{$v}} on {{$.Node.ID}};{{end}}",
                "tier=front on n1;",
            ),
            ("{{range $v := .Service.Labels}}{{$v}}{{end}}", "front"),
            ("{{range .Service.Labels}}a{{break}}b{{end}}c", "ac"),
            (
                "{{range .Service.Labels}}a{{if true}}{{continue}}{{end}}b{{else}}c{{end}}",
                "a",
            ),
            (
                r#"{{with index .Service.Labels "tier"}}{{.}}{{else}}none{{end}}"#,
                "front",
            ),
            (
                r#"{{with index .Service.Labels "none"}}{{.}}{{else}}none{{end}}"#,
                "none",
            ),
            (
                "{{with .Node}}{{.ID}} {{.Platform.OS}} {{$.Task.ID}}{{end}}",
                "n1 linux t1",
            ),
            ("{{with $n := .Node}}{{$n.ID}}{{end}}", "n1"),
            (
                "{{$x := .Task.Slot}}{{if true}}{{$x := 1}}{{$x}}{{end}}{{$x}}",
                "13",
            ),
            ("{{$x := 1}}{{if true}}{{$x = 2}}{{end}}{{$x}}", "2"),
            ("{{$x := .Node}}{{$x.Platform.OS}}", "linux"),
            ("{{- if true -}} a {{- end -}} .", "a."),
            ("{{/* don't }} */}}a", "a"),
            ("{{len .Service.Labels}}{{len .Task.ID}}", "12"),
            ("{{slice .Node.Hostname 1 3}}{{slice .Task.ID 1}}", "lp1"),
            (
                "{{lt 1 2}} {{ge \"b\" \"a\"}} {{ne 1.5 1.5}} {{eq true true}}",
                "true true false true",
            ),
            ("{{print 1 2 \"a\" 3}}{{println 1 \"a\"}}", "1 2a31 a\n"),
            (
                "{{html \"<a&'>\"}}{{urlquery \"a b/é\"}}",
                "&lt;a&amp;&#39;&gt;a+b%2F%C3%A9",
            ),
            (
                "{{0x1f}} {{-3}} {{1_000}} {{'a'}} {{1.50}} {{1e3}} {{1e21}} {{0.00001}}",
                "31 -3 1000 97 1.5 1000 1e+21 1e-05",
            ),
            (r#"{{"A\u00e9\t\\"}}"#, "Aé\t\\"),
            ("{{`a}}\\n`}}", "a}}\\n"),
            ("{{index \"abc\" 1}}", "98"),
        ] {
            let expanded = expand(template, &context(3));
            assert_eq!(expanded.as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn numbers_and_texts_are_written_as_go_writes_them() {
        for (arguments, expected) in [
            (
                "\"%d|%5d|%-5d|%05d|%+d|% d\" 7 7 7 7 7 7",
                "7|    7|7    |00007|+7| 7",
            ),
            ("\"%d|%05d|%.3d\" -7 -7 7", "-7|-0007|007"),
            (
                "\"%x|%X|%#x|%o|%b|%c\" 255 255 255 8 5 65",
                "ff|FF|0xff|10|101|A",
            ),
            (
                "\"%s|%5s|%-5s|%.2s|%q|%x\" \"abc\" \"abc\" \"abc\" \"abc\" \"a\\n\\\"\" \"abc\"",
                "abc|  abc|abc  |ab|\"a\\n\\\"\"|616263",
            ),
            (
                "\"%v|%v|%v|%t|%T|%%\" 1 \"a\" true false 1.5",
                "1|a|true|false|float64|%",
            ),
            (
                "\"%f|%.1f|%8.2f|%e|%g\" 1.5 1.25 3.14159 1500.0 2.5",
                "1.500000|1.2|    3.14|1.500000e+03|2.5",
            ),
            ("\"%*d|%-*d\" 4 7 3 7", "   7|7  "),
            ("\"%d|%s\" \"a\" 7", "%!d(string=a)|%!s(int=7)"),
            ("\"%d\"", "%!d(MISSING)"),
            ("\"%d\" 1 2 \"a\"", "1%!(EXTRA int=2, string=a)"),
            ("\"a%\"", "a%!(NOVERB)"),
            ("\"%03d\" .Task.Slot", "%!d(string=003)"),
            (
                "\"%v %s\" .Service.Labels .Node.Platform",
                "map[tier:front] {x86_64 linux}",
            ),
        ] {
            let template = format!("{{{{printf {arguments}}}}}");
            let expanded = expand(&template, &context(3));
            assert_eq!(expanded.as_deref(), Ok(expected), "{template}");
        }
        for (format, error) in [("%65535d", None), ("%65536d", Some(TemplateError::TooLong))] {
            let template = format!("{{{{printf \"{format}\" 1}}}}");
            let expanded = expand(&template, &context(3)).map(|text| text.len());
            assert_eq!(expanded, error.map_or(Ok(65_535), Err));
        }
    }

    #[test]
    fn what_a_template_costs_has_a_limit() {
        let labels = (0..100)
            .map(|n| (format!("l{n}"), "x".to_owned()))
            .collect();
        let task = Task {
            service_labels: labels,
            ..Task::default()
        };
        let context = Context::new(&task, &NodeDescription::default());
        let ranges = |depth: usize, inside: &str| {
            let range = "{{range $.Service.Labels}}".repeat(depth);
            format!("{range}{inside}{}", "{{end}}".repeat(depth))
        };
        assert_eq!(expand(&ranges(2, "."), &context).unwrap().len(), 10_000);
        assert_eq!(
            expand(&ranges(DEPTH_MAX, ""), &context),
            Err(TemplateError::TooMuch)
        );
        assert_eq!(
            expand(&ranges(DEPTH_MAX + 1, ""), &context),
            Err(TemplateError::TooDeep)
        );
        let doubled = "{{$x := \"ab\"}}".to_owned() + &"{{$x = print $x $x}}".repeat(30);
        assert_eq!(expand(&doubled, &context), Err(TemplateError::TooLong));
        let branches =
            "{{if false}}a".to_owned() + &"{{else if false}}b".repeat(10_000) + "{{end}}";
        assert_eq!(expand(&branches, &context).unwrap(), "");
    }

    proptest! {
        /// Whatever is made of the pieces of templates is expanded or refused; text that is none stays.
        #[test]
        fn no_template_breaks_anything(pieces in proptest::collection::vec(proptest::sample::select(vec![
            "{{", "}}", "{{-", "-}}", " ", "a", "é", "\"", "`", "'", "\\", "(", ")", ".", "|", ",", "=", ":=", "-", "+", "0",
            "9", "0x", "1e9", "%", "*", "$", "$x", "/*", "*/", ".Task", ".Task.Slot", ".Service.Labels", "if ", "range ",
            "with ", "else", "end", "break", "continue", "and ", "or ", "not ", "eq ", "lt ", "len ", "index ", "slice ",
            "print ", "printf \"%5.3d|%-08q|%*v|%x\" ", "println ", "html ", "urlquery ", "join ", "secret ", "true",
            "{{if .Task.ID}}", "{{range $k, $v := .Service.Labels}}", "{{with .Node}}", "{{else}}", "{{end}}", "{{$x := 1}}",
        ], ), 0..24)) {
            let text = pieces.concat();
            let payload = Context::of_payloads(&Task::default(), Attached::default());
            for context in [context(3), payload] {
                if let Ok(expanded) = expand(&text, &context) {
                    prop_assert!(expanded.len() <= OUTPUT_MAX);
                    if !text.contains("{{") {
                        prop_assert_eq!(&expanded, &text);
                    }
                }
            }
        }

        /// Branches are what they are in the language that this is written in.
        #[test]
        fn branches_are_taken_as_conditions_say(a in 0_i64..3, b in 0_i64..3, is in any::<bool>()) {
            let text = format!(
                "{{{{if and (lt {a} {b}) {is}}}}}1{{{{else if or (eq {a} {b}) (not {is})}}}}2{{{{else}}}}3{{{{end}}}}"
            );
            let expected = if a < b && is { "1" } else if a == b || !is { "2" } else { "3" };
            prop_assert_eq!(expand(&text, &context(1)), Ok(expected.to_owned()));
        }

        #[test]
        fn strings_are_what_they_are_quoted_from(text in "\\PC{0,20}", width in 0_usize..12) {
            let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
            let template = format!("{{{{\"{escaped}\"}}}}");
            prop_assert_eq!(expand(&template, &context(1)), Ok(text.clone()));
            let template = format!("{{{{printf \"%-{width}s\" \"{escaped}\"}}}}");
            let padded = format!("{text:<width$}");
            prop_assert_eq!(expand(&template, &context(1)), Ok(padded));
        }
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
            "{{.Foo}}",
            "{{.Task.ID.Foo}}",
            "{{.Service.Labels.none}}",
            "{{.Task.ID | .Task.ID}}",
            "{{.Task.ID |}}",
            "{{| join}}",
            "{{.Task.ID .Task.ID}}",
            "{{index .Task.ID \"a\"}}",
            "{{index .Task.ID 2}}",
            "{{slice .Task.ID 1 9}}",
            "{{slice .Task.ID 1 0}}",
            "{{slice \"é\" 1}}",
            "{{if .Task.ID}}a",
            "{{if .Task.ID}}a{{else}}b",
            "{{if .Task.ID}}a{{else}}b{{else}}c{{end}}",
            "{{if}}a{{end}}",
            "{{end}}",
            "{{else}}",
            "{{break}}",
            "{{if .Task.ID}}{{continue}}{{end}}",
            "{{range .Task.ID}}a{{end}}",
            "{{range .Service.Labels}}a{{else if .Task.ID}}b{{end}}",
            "{{range $k, $v, $w := .Service.Labels}}a{{end}}",
            "{{$a, $b := .Service.Labels}}",
            "{{with $x := .Task.ID}}a{{end}}{{$x}}",
            "{{$x = 1}}",
            "{{1 := 2}}",
            "{{define \"a\"}}b{{end}}",
            "{{template \"a\"}}",
            "{{eq .Task.Slot 3}}",
            "{{eq .Service .Service}}",
            "{{eq 1}}",
            "{{lt true false}}",
            "{{and}}",
            "{{not}}",
            "{{len 3}}",
            "{{printf 3}}",
            "{{printf \"%*d\" \"a\" 3}}",
            "{{call .Task.ID}}",
            "{{0x}}",
            "{{1e999}}",
            "{{'ab'}}",
            "{{nil}}",
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
