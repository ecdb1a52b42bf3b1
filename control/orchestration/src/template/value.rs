//! What operands and commands of a template come to.

use super::TemplateError;
use std::{collections::BTreeMap, fmt, sync::Arc};

/// A value. Clones share what is long.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text(Arc<str>),
    Int(i64),
    Float(f64),
    Bool(bool),
    /// By key.
    Map(Arc<BTreeMap<String, String>>),
    /// What a template can read of one thing: by name, in Docker's order.
    Fields(Arc<[(&'static str, Value)]>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl Value {
    /// Fields by name.
    pub fn fields(fields: impl IntoIterator<Item = (&'static str, Self)>) -> Self {
        Self::Fields(fields.into_iter().collect())
    }

    /// What `if`, `and` and others take for true: all but what is zero or empty.
    pub fn is_true(&self) -> bool {
        match self {
            Self::Text(text) => !text.is_empty(),
            Self::Int(number) => *number != 0,
            Self::Float(number) => *number != 0.0,
            Self::Bool(is) => *is,
            Self::Map(map) => !map.is_empty(),
            Self::Fields(_) => true,
        }
    }

    /// The name of the type in Go.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "string",
            Self::Int(_) => "int",
            Self::Float(_) => "float64",
            Self::Bool(_) => "bool",
            Self::Map(_) => "map[string]string",
            Self::Fields(_) => "struct",
        }
    }

    /// What stands behind it by these names.
    pub fn field(&self, names: &[String]) -> Result<Self, TemplateError> {
        let unknown = || {
            let path: String = names.iter().map(|name| format!(".{name}")).collect();
            TemplateError::UnknownField(path)
        };
        let mut value = self.clone();
        for name in names {
            value = match &value {
                Self::Fields(fields) => {
                    let found = fields.iter().find(|(own, _)| own == name);
                    found.ok_or_else(unknown)?.1.clone()
                }
                Self::Map(map) => {
                    let found = map.get(name).map(|value| Self::from(value.as_str()));
                    found.ok_or_else(|| TemplateError::NoEntry(name.clone()))?
                }
                _ => return Err(unknown()),
            };
        }
        Ok(value)
    }

    /// The text that it is, for a function that takes nothing else.
    pub fn text(&self, function: &'static str) -> Result<&str, TemplateError> {
        match self {
            Self::Text(text) => Ok(text),
            _ => Err(TemplateError::Arguments(function, "strings")),
        }
    }
}

/// As Go prints it (`%v`).
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Int(number) => write!(f, "{number}"),
            Self::Float(number) => f.write_str(&super::format::shortest(*number)),
            Self::Bool(is) => write!(f, "{is}"),
            Self::Map(map) => {
                let pairs: Vec<String> = map.iter().map(|(k, v)| format!("{k}:{v}")).collect();
                write!(f, "map[{}]", pairs.join(" "))
            }
            Self::Fields(fields) => {
                let values: Vec<String> = fields.iter().map(|(_, v)| v.to_string()).collect();
                write!(f, "{{{}}}", values.join(" "))
            }
        }
    }
}
