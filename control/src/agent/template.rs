//! Templates in a service's spec: `{{.Task.Slot}}`, `{{index .Service.Labels "k"}}`, …
//!
//! Docker evaluates these with Go's `text/template`. This is the part of that language which has a
//! use here: field paths, string literals, parentheses, and the functions `index` and `join` (in the
//! payloads of secrets and configs also `secret`, `config` and `env`), plus comments and the
//! whitespace trimming of `{{-` and `-}}`. Anything else is an error that names it, never text that
//! is silently passed on.

use skein_model::{NodeDescription, Payload, Task};
use std::collections::BTreeMap;

/// The longest text that a template makes, in bytes: several times that of the largest config, so
/// that repetition in a small template cannot take the memory of a node.
const OUTPUT_MAX: usize = 8 << 20;

/// The deepest that parentheses nest in an action: no template that a person writes comes near, and
/// each of them takes stack.
const DEPTH_MAX: usize = 32;

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
    attached: Option<Attached>,
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

    fn field(&self, path: &[String]) -> Result<Value, TemplateError> {
        let names: Vec<&str> = path.iter().map(String::as_str).collect();
        let text = |value: &String| Ok(Value::Text(value.clone()));
        match names.as_slice() {
            ["Service", "ID"] => text(&self.service_id),
            ["Service", "Name"] => text(&self.service_name),
            ["Service", "Labels"] => Ok(Value::Map(self.service_labels.clone())),
            ["Service", "Labels", key] => lookup(&self.service_labels, key),
            ["Node", "ID"] => text(&self.node_id),
            ["Node", "Hostname"] => text(&self.node_hostname),
            ["Node", "Platform", "OS"] => text(&self.node_os),
            ["Node", "Platform", "Architecture"] => text(&self.node_architecture),
            ["Task", "ID"] => text(&self.task_id),
            ["Task", "Name"] => text(&self.task_name),
            ["Task", "Slot"] => text(&self.task_slot),
            _ => Err(TemplateError::UnknownField(format!(".{}", names.join(".")))),
        }
    }
}

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

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Text(String),
    Map(BTreeMap<String, String>),
}

impl Value {
    fn text(self, function: &'static str) -> Result<String, TemplateError> {
        match self {
            Self::Text(text) => Ok(text),
            Self::Map(_) => Err(TemplateError::Arguments(function, "strings")),
        }
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            // As Go prints a map.
            Self::Map(map) => {
                let pairs: Vec<String> = map.iter().map(|(k, v)| format!("{k}:{v}")).collect();
                write!(f, "map[{}]", pairs.join(" "))
            }
        }
    }
}

fn lookup(map: &BTreeMap<String, String>, key: &str) -> Result<Value, TemplateError> {
    map.get(key)
        .map(|value| Value::Text(value.clone()))
        .ok_or_else(|| TemplateError::NoEntry(key.to_owned()))
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

/// Where the `}}` that ends an action begins; those inside of string literals do not count.
fn action_end(action: &str) -> Option<usize> {
    let bytes = action.as_bytes();
    let (mut at, mut quote) = (0, None);
    while at < bytes.len() {
        match (quote, bytes[at]) {
            (Some(b'"'), b'\\') => at += 1,
            (Some(q), c) if q == c => quote = None,
            (None, c @ (b'"' | b'`')) => quote = Some(c),
            (None, b'}') if bytes.get(at + 1) == Some(&b'}') => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Text(String),
    Field(Vec<String>),
    Word(String),
    Open,
    Close,
}

fn tokens(body: &str) -> Result<Vec<Token>, TemplateError> {
    let mut found = Vec::new();
    let mut chars = body.chars().peekable();
    let is_name = |c: &char| c.is_alphanumeric() || *c == '_';
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => {}
            '(' => found.push(Token::Open),
            ')' => found.push(Token::Close),
            '"' | '`' => {
                let mut text = String::new();
                loop {
                    match chars.next() {
                        None => return Err(TemplateError::UnterminatedString(body.to_owned())),
                        Some(end) if end == c => break,
                        Some('\\') if c == '"' => match chars.next() {
                            Some('n') => text.push('\n'),
                            Some('t') => text.push('\t'),
                            Some(plain @ ('\\' | '"' | '\'')) => text.push(plain),
                            other => {
                                let escape: String = std::iter::once('\\').chain(other).collect();
                                return Err(TemplateError::Unexpected(escape));
                            }
                        },
                        Some(plain) => text.push(plain),
                    }
                }
                found.push(Token::Text(text));
            }
            '.' => {
                let mut path = Vec::new();
                loop {
                    let mut name = String::new();
                    while let Some(c) = chars.next_if(is_name) {
                        name.push(c);
                    }
                    if name.is_empty() {
                        return Err(TemplateError::Unexpected(".".into()));
                    }
                    path.push(name);
                    if chars.next_if_eq(&'.').is_none() {
                        break;
                    }
                }
                found.push(Token::Field(path));
            }
            c if is_name(&c) => {
                let mut word = String::from(c);
                while let Some(c) = chars.next_if(is_name) {
                    word.push(c);
                }
                found.push(Token::Word(word));
            }
            other => return Err(TemplateError::Unexpected(other.to_string())),
        }
    }
    Ok(found)
}

fn evaluate(body: &str, context: &Context) -> Result<Value, TemplateError> {
    let mut parser = Parser {
        tokens: &tokens(body)?,
        at: 0,
        depth: 0,
        context,
    };
    let value = parser.command()?;
    match parser.peek() {
        None => Ok(value),
        Some(token) => Err(TemplateError::Unexpected(describe(token))),
    }
}

/// Evaluates the tokens of an action from the left to the right.
struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    /// Of the parentheses that are open.
    depth: usize,
    context: &'a Context,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.at)
    }

    /// A command is an operand, or a function and its operands, up to the end or a `)`.
    fn command(&mut self) -> Result<Value, TemplateError> {
        if let Some(Token::Word(function)) = self.peek() {
            self.at += 1;
            let mut arguments = Vec::new();
            let mut length = 0;
            while !matches!(self.peek(), None | Some(Token::Close)) {
                let argument = self.operand()?;
                if let Value::Text(text) = &argument {
                    length += text.len();
                }
                if length > OUTPUT_MAX {
                    return Err(TemplateError::TooLong);
                }
                arguments.push(argument);
            }
            return call(function, arguments, self.context);
        }
        self.operand()
    }

    fn operand(&mut self) -> Result<Value, TemplateError> {
        let token = self.peek().ok_or(TemplateError::Empty)?;
        self.at += 1;
        match token {
            Token::Text(text) => Ok(Value::Text(text.clone())),
            Token::Field(path) => self.context.field(path),
            Token::Open => {
                self.depth += 1;
                if self.depth > DEPTH_MAX {
                    return Err(TemplateError::TooDeep);
                }
                let value = self.command()?;
                self.depth -= 1;
                match self.peek() {
                    Some(Token::Close) => {
                        self.at += 1;
                        Ok(value)
                    }
                    Some(token) => Err(TemplateError::Unexpected(describe(token))),
                    None => Err(TemplateError::Unexpected("(".into())),
                }
            }
            Token::Close | Token::Word(_) => Err(TemplateError::Unexpected(describe(token))),
        }
    }
}

fn call(function: &str, arguments: Vec<Value>, context: &Context) -> Result<Value, TemplateError> {
    let mut arguments = arguments.into_iter();
    match (function, &context.attached) {
        ("secret", Some(attached)) => read("secret", arguments, &attached.secrets),
        ("config", Some(attached)) => read("config", arguments, &attached.configs),
        ("env", Some(attached)) => {
            let name = only("env", arguments)?;
            Ok(Value::Text(
                attached.env.get(&name).cloned().unwrap_or_default(),
            ))
        }
        ("index", _) => match (arguments.next(), arguments.next(), arguments.next()) {
            (Some(Value::Map(map)), Some(Value::Text(key)), None) => {
                // As in Go: `index` of an absent key is the empty string, `.Labels.key` an error.
                Ok(Value::Text(map.get(&key).cloned().unwrap_or_default()))
            }
            _ => Err(TemplateError::Arguments("index", "a map and a key")),
        },
        ("join", _) => {
            let separator = arguments
                .next()
                .ok_or(TemplateError::Arguments("join", "a separator and strings"))?
                .text("join")?;
            let parts: Vec<String> = arguments
                .map(|value| value.text("join"))
                .collect::<Result<_, _>>()?;
            // The parts have been counted; the separator is there as often as they are.
            if separator.len().saturating_mul(parts.len()) > OUTPUT_MAX {
                return Err(TemplateError::TooLong);
            }
            Ok(Value::Text(parts.join(&separator)))
        }
        (other, _) => Err(TemplateError::UnknownFunction(other.to_owned())),
    }
}

/// The one argument of a function, a text.
fn only(
    function: &'static str,
    mut arguments: impl Iterator<Item = Value>,
) -> Result<String, TemplateError> {
    match (arguments.next(), arguments.next()) {
        (Some(argument), None) => argument.text(function),
        _ => Err(TemplateError::Arguments(function, "one string")),
    }
}

/// A secret or config by the name of its file.
fn read(
    function: &'static str,
    arguments: impl Iterator<Item = Value>,
    from: &BTreeMap<String, Payload>,
) -> Result<Value, TemplateError> {
    let target = only(function, arguments)?;
    let failed = |what| TemplateError::Call {
        function,
        reason: format!("{function} target {target} {what}"),
    };
    let found = from.get(&target).ok_or_else(|| failed("not found"))?;
    let text = std::str::from_utf8(found).map_err(|_| failed("is not UTF-8"))?;
    Ok(Value::Text(text.to_owned()))
}

fn describe(token: &Token) -> String {
    match token {
        Token::Text(text) => text.clone(),
        Token::Field(path) => format!(".{}", path.join(".")),
        Token::Word(word) => word.clone(),
        Token::Open => "(".into(),
        Token::Close => ")".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_model::Platform;

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
