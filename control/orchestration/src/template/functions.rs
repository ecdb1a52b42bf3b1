//! The functions of templates.

use super::{Context, OUTPUT_MAX, TemplateError, format, value::Value};
use skein_model::Payload;
use std::{cmp::Ordering, collections::BTreeMap};

/// A function, by its name in Go, or in Docker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    And,
    Or,
    Not,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Len,
    Index,
    Slice,
    Print,
    Printf,
    Println,
    Html,
    Urlquery,
    Join,
    Secret,
    Config,
    Env,
}

impl Function {
    const ALL: [Self; 21] = [
        Self::And,
        Self::Or,
        Self::Not,
        Self::Eq,
        Self::Ne,
        Self::Lt,
        Self::Le,
        Self::Gt,
        Self::Ge,
        Self::Len,
        Self::Index,
        Self::Slice,
        Self::Print,
        Self::Printf,
        Self::Println,
        Self::Html,
        Self::Urlquery,
        Self::Join,
        Self::Secret,
        Self::Config,
        Self::Env,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::And => "and",
            Self::Or => "or",
            Self::Not => "not",
            Self::Eq => "eq",
            Self::Ne => "ne",
            Self::Lt => "lt",
            Self::Le => "le",
            Self::Gt => "gt",
            Self::Ge => "ge",
            Self::Len => "len",
            Self::Index => "index",
            Self::Slice => "slice",
            Self::Print => "print",
            Self::Printf => "printf",
            Self::Println => "println",
            Self::Html => "html",
            Self::Urlquery => "urlquery",
            Self::Join => "join",
            Self::Secret => "secret",
            Self::Config => "config",
            Self::Env => "env",
        }
    }

    /// The one of that name; some only read what is attached to a task.
    pub fn of_name(name: &str, with_attached: bool) -> Result<Self, TemplateError> {
        let mut all = Self::ALL.into_iter();
        let found = all.find(|function| function.name() == name);
        let is_there = |function: &Self| {
            with_attached || !matches!(function, Self::Secret | Self::Config | Self::Env)
        };
        found
            .filter(is_there)
            .ok_or_else(|| TemplateError::UnknownFunction(name.to_owned()))
    }

    fn wants(self, what: &'static str) -> TemplateError {
        TemplateError::Arguments(self.name(), what)
    }

    fn failed(self, reason: impl Into<String>) -> TemplateError {
        TemplateError::Call {
            function: self.name(),
            reason: reason.into(),
        }
    }
}

/// What a function comes to. Its arguments are no longer than what a template makes.
pub(super) fn call(
    function: Function,
    arguments: &[Value],
    context: &Context,
) -> Result<Value, TemplateError> {
    let value = match function {
        Function::And | Function::Or => match arguments.last() {
            Some(last) => last.clone(),
            None => return Err(function.wants("at least one argument")),
        },
        Function::Not => match arguments {
            [argument] => Value::Bool(!argument.is_true()),
            _ => return Err(function.wants("one argument")),
        },
        Function::Eq => Value::Bool(is_any(function, arguments)?),
        Function::Ne => Value::Bool(!are_equal(function, two(function, arguments)?)?),
        Function::Lt => Value::Bool(order(function, arguments)?.is_lt()),
        Function::Le => Value::Bool(order(function, arguments)?.is_le()),
        Function::Gt => Value::Bool(order(function, arguments)?.is_gt()),
        Function::Ge => Value::Bool(order(function, arguments)?.is_ge()),
        Function::Len => match arguments {
            [Value::Text(text)] => length(text.len()),
            [Value::Map(map)] => length(map.len()),
            _ => return Err(function.wants("a string or a map")),
        },
        Function::Index => index(arguments)?,
        Function::Slice => slice(arguments)?,
        Function::Print => printed(&format::print(arguments))?,
        Function::Println => printed(&format::println(arguments))?,
        Function::Printf => match arguments {
            [Value::Text(text), rest @ ..] => printed(&format::printf(text, rest)?)?,
            _ => return Err(function.wants("a format and what stands in it")),
        },
        Function::Html => printed(&html(&format::print(arguments)))?,
        Function::Urlquery => printed(&urlquery(&format::print(arguments)))?,
        Function::Join => join(arguments)?,
        Function::Secret | Function::Config | Function::Env => {
            attached(function, arguments, context)?
        }
    };
    Ok(value)
}

fn length(length: usize) -> Value {
    Value::Int(i64::try_from(length).unwrap_or(i64::MAX))
}

fn printed(text: &str) -> Result<Value, TemplateError> {
    match text.len() > OUTPUT_MAX {
        true => Err(TemplateError::TooLong),
        false => Ok(Value::from(text)),
    }
}

fn two(function: Function, arguments: &[Value]) -> Result<(&Value, &Value), TemplateError> {
    match arguments {
        [first, second] => Ok((first, second)),
        _ => Err(function.wants("two arguments")),
    }
}

/// Whether the first is any of the others.
fn is_any(function: Function, arguments: &[Value]) -> Result<bool, TemplateError> {
    let [first, others @ ..] = arguments else {
        return Err(function.failed("missing argument for comparison"));
    };
    if others.is_empty() {
        return Err(function.failed("missing argument for comparison"));
    }
    for other in others {
        if are_equal(function, (first, other))? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn are_equal(function: Function, (a, b): (&Value, &Value)) -> Result<bool, TemplateError> {
    match (a, b) {
        (Value::Text(_), Value::Text(_))
        | (Value::Int(_), Value::Int(_))
        | (Value::Float(_), Value::Float(_))
        | (Value::Bool(_), Value::Bool(_)) => Ok(a == b),
        (Value::Map(_) | Value::Fields(_), _) | (_, Value::Map(_) | Value::Fields(_)) => {
            Err(function.failed("non-comparable type"))
        }
        _ => Err(incompatible(function, a, b)),
    }
}

fn incompatible(function: Function, a: &Value, b: &Value) -> TemplateError {
    function.failed(format!(
        "incompatible types for comparison: {} and {}",
        a.kind(),
        b.kind()
    ))
}

fn order(function: Function, arguments: &[Value]) -> Result<Ordering, TemplateError> {
    let (a, b) = two(function, arguments)?;
    match (a, b) {
        (Value::Text(a), Value::Text(b)) => Ok(a.cmp(b)),
        (Value::Int(a), Value::Int(b)) => Ok(a.cmp(b)),
        // Literals are finite.
        (Value::Float(a), Value::Float(b)) => Ok(a.partial_cmp(b).unwrap_or(Ordering::Equal)),
        (Value::Bool(_) | Value::Map(_) | Value::Fields(_), _) => {
            Err(function.failed("invalid type for comparison"))
        }
        _ => Err(incompatible(function, a, b)),
    }
}

/// An item of the first argument by key or place, and so on.
fn index(arguments: &[Value]) -> Result<Value, TemplateError> {
    let function = Function::Index;
    let [of, keys @ ..] = arguments else {
        return Err(function.wants("a map and a key"));
    };
    let mut value = of.clone();
    for key in keys {
        value = match (&value, key) {
            // As in Go: that of an absent key is the empty string, where `.Labels.key` is an error.
            (Value::Map(map), Value::Text(key)) => {
                Value::from(map.get(&**key).map_or("", String::as_str))
            }
            (Value::Text(text), Value::Int(at)) => {
                let byte = usize::try_from(*at)
                    .ok()
                    .and_then(|at| text.as_bytes().get(at));
                let byte =
                    byte.ok_or_else(|| function.failed(format!("index out of range: {at}")))?;
                Value::Int((*byte).into())
            }
            _ => return Err(function.wants("a map and a key")),
        };
    }
    Ok(value)
}

/// A part of a string, by the bytes that it begins at and ends before.
fn slice(arguments: &[Value]) -> Result<Value, TemplateError> {
    let function = Function::Slice;
    let [Value::Text(text), places @ ..] = arguments else {
        return Err(function.wants("a string, and where it begins and ends"));
    };
    let mut range = [0, text.len()];
    if places.len() > range.len() {
        return Err(function.failed("cannot 3-index slice a string"));
    }
    for (place, set) in places.iter().zip(&mut range) {
        let Value::Int(place) = place else {
            return Err(function.wants("a string, and where it begins and ends"));
        };
        let out_of_range = |_| function.failed(format!("index out of range: {place}"));
        *set = usize::try_from(*place).map_err(out_of_range)?;
    }
    let part = text.get(range[0]..range[1]);
    let part = part.ok_or_else(|| {
        function.failed(format!(
            "no characters begin and end at {} and {}",
            range[0], range[1]
        ))
    })?;
    Ok(Value::from(part))
}

fn join(arguments: &[Value]) -> Result<Value, TemplateError> {
    let function = Function::Join;
    let [separator, parts @ ..] = arguments else {
        return Err(function.wants("a separator and strings"));
    };
    let separator = separator.text(function.name())?;
    let parts: Vec<&str> = parts
        .iter()
        .map(|value| value.text(function.name()))
        .collect::<Result<_, _>>()?;
    // The parts have been counted; the separator is there as often as they are.
    if separator.len().saturating_mul(parts.len()) > OUTPUT_MAX {
        return Err(TemplateError::TooLong);
    }
    printed(&parts.join(separator))
}

/// What is attached to a task: secrets and configs by the names of their files, variables of its environment.
fn attached(
    function: Function,
    arguments: &[Value],
    context: &Context,
) -> Result<Value, TemplateError> {
    let [argument] = arguments else {
        return Err(function.wants("one string"));
    };
    let name = argument.text(function.name())?;
    let unknown = || TemplateError::UnknownFunction(function.name().to_owned());
    let attached = context.attached.as_ref().ok_or_else(unknown)?;
    match function {
        Function::Secret => payload(function, name, &attached.secrets),
        Function::Config => payload(function, name, &attached.configs),
        _ => Ok(Value::from(
            attached.env.get(name).map_or("", String::as_str),
        )),
    }
}

fn payload(
    function: Function,
    target: &str,
    from: &BTreeMap<String, Payload>,
) -> Result<Value, TemplateError> {
    let failed = |what| function.failed(format!("{} target {target} {what}", function.name()));
    let found = from.get(target).ok_or_else(|| failed("not found"))?;
    let text = std::str::from_utf8(found).map_err(|_| failed("is not UTF-8"))?;
    Ok(Value::from(text))
}

fn html(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\0' => escaped.push('\u{fffd}'),
            '"' => escaped.push_str("&#34;"),
            '\'' => escaped.push_str("&#39;"),
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            plain => escaped.push(plain),
        }
    }
    escaped
}

fn urlquery(text: &str) -> String {
    use std::fmt::Write as _;
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(byte.into());
            }
            b' ' => escaped.push('+'),
            other => drop(write!(escaped, "%{other:02X}")),
        }
    }
    escaped
}
