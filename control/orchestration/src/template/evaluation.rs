//! What an action of a template comes to: operands, parentheses and functions.

use super::{
    Context, OUTPUT_MAX, TemplateError,
    syntax::{Token, describe, tokens},
};
use skein_model::Payload;
use std::collections::BTreeMap;

/// The deepest that parentheses nest in an action: no template that a person writes comes near, and
/// each of them takes stack.
pub(super) const DEPTH_MAX: usize = 32;

/// What an operand or a command comes to.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
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

/// The value of an action.
pub(super) fn evaluate(body: &str, context: &Context) -> Result<Value, TemplateError> {
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
