//! A template's text and actions, and the tokens of an action.

use super::{TemplateError, value::Value};

/// What a template is made of, in order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Piece<'a> {
    /// As it is.
    Text(&'a str),
    /// What stands between `{{` and `}}`.
    Action(&'a str),
}

/// Takes a template apart. Comments are gone, and so is what `{{-` and `-}}` trim.
pub(super) fn pieces(text: &str) -> Result<Vec<Piece<'_>>, TemplateError> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find("{{") {
        let (before, action) = (&rest[..open], &rest[open + 2..]);
        let trimmed = action.strip_prefix('-');
        let trimmed = trimmed.filter(|trimmed| trimmed.starts_with(char::is_whitespace));
        let before = match trimmed {
            Some(_) => before.trim_end(),
            None => before,
        };
        if !before.is_empty() {
            found.push(Piece::Text(before));
        }
        let action = trimmed.unwrap_or(action);
        let unclosed = || TemplateError::Unclosed(text.to_owned());
        let close = action_end(action).ok_or_else(unclosed)?;
        let (body, after) = (&action[..close], &action[close + 2..]);
        let trimmed = body.strip_suffix('-');
        let trimmed = trimmed.filter(|trimmed| trimmed.ends_with(char::is_whitespace));
        rest = match trimmed {
            Some(_) => after.trim_start(),
            None => after,
        };
        let body = trimmed.unwrap_or(body).trim();
        if !is_comment(body) {
            found.push(Piece::Action(body));
        }
    }
    if !rest.is_empty() {
        found.push(Piece::Text(rest));
    }
    Ok(found)
}

fn is_comment(body: &str) -> bool {
    body.len() >= 4 && body.starts_with("/*") && body.ends_with("*/")
}

/// Where the `}}` that ends an action begins; those inside of literals and comments do not count.
fn action_end(action: &str) -> Option<usize> {
    let bytes = action.as_bytes();
    let (mut at, mut quote) = (0, None);
    if action.trim_start().starts_with("/*") {
        at = action.find("*/")?;
    }
    while at < bytes.len() {
        match (quote, bytes[at]) {
            (Some(b'"' | b'\''), b'\\') => at += 1,
            (Some(q), c) if q == c => quote = None,
            (None, c @ (b'"' | b'`' | b'\'')) => quote = Some(c),
            (None, b'}') if bytes.get(at + 1) == Some(&b'}') => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

/// What an action is made of.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// A string, a number, or a character, which is a number, too.
    Literal(Value),
    /// `.Task.ID`; `.` has no names.
    Field(Vec<String>),
    /// `$x.ID`, by its name without the `$` and the names behind it.
    Variable(String, Vec<String>),
    Word(String),
    Open,
    /// With the names that follow it at once: `(…).ID`
    Close(Vec<String>),
    Pipe,
    /// `:=`
    Declare,
    /// `=`
    Assign,
    Comma,
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

fn is_name(c: &char) -> bool {
    c.is_alphanumeric() || *c == '_'
}

fn name(chars: &mut Chars<'_>) -> String {
    std::iter::from_fn(|| chars.next_if(is_name)).collect()
}

/// The names of `.A.B`, whose first point has been taken.
fn names(chars: &mut Chars<'_>) -> Result<Vec<String>, TemplateError> {
    let mut names = Vec::new();
    loop {
        let name = name(chars);
        if name.is_empty() {
            return Err(TemplateError::Unexpected(".".into()));
        }
        names.push(name);
        if chars.next_if_eq(&'.').is_none() {
            return Ok(names);
        }
    }
}

/// The tokens between `{{` and `}}`.
pub(super) fn tokens(body: &str) -> Result<Vec<Token>, TemplateError> {
    let mut found = Vec::new();
    let mut chars = body.chars().peekable();
    while let Some(c) = chars.next() {
        let token = match c {
            c if c.is_whitespace() => continue,
            '(' => Token::Open,
            ')' if chars.next_if_eq(&'.').is_some() => Token::Close(names(&mut chars)?),
            ')' => Token::Close(Vec::new()),
            '|' => Token::Pipe,
            ',' => Token::Comma,
            '=' => Token::Assign,
            ':' if chars.next_if_eq(&'=').is_some() => Token::Declare,
            '"' | '`' => Token::Literal(Value::from(quoted(c, &mut chars, body)?)),
            '\'' => Token::Literal(Value::Int(character(&mut chars, body)?)),
            '$' => {
                let name = name(&mut chars);
                let fields = match chars.next_if_eq(&'.') {
                    Some(_) => names(&mut chars)?,
                    None => Vec::new(),
                };
                Token::Variable(name, fields)
            }
            '.' if chars.peek().is_some_and(is_name) => Token::Field(names(&mut chars)?),
            '.' => Token::Field(Vec::new()),
            '-' | '+' | '0'..='9' => Token::Literal(number(c, &mut chars)?),
            c if is_name(&c) => Token::Word(format!("{c}{}", name(&mut chars))),
            other => return Err(TemplateError::Unexpected(other.to_string())),
        };
        found.push(token);
    }
    Ok(found)
}

/// What stands between two quotes, of which the first has been taken.
fn quoted(quote: char, chars: &mut Chars<'_>, body: &str) -> Result<String, TemplateError> {
    let mut text = String::new();
    loop {
        match chars.next() {
            None => return Err(TemplateError::UnterminatedString(body.to_owned())),
            Some(end) if end == quote => return Ok(text),
            Some('\\') if quote != '`' => text.push(escaped(quote, chars)?),
            Some(plain) => text.push(plain),
        }
    }
}

/// The character that stands behind a `\`.
fn escaped(quote: char, chars: &mut Chars<'_>) -> Result<char, TemplateError> {
    let unknown = |c: Option<char>| {
        let escape: String = std::iter::once('\\').chain(c).collect();
        TemplateError::Unexpected(escape)
    };
    let digits = match chars.next() {
        Some('n') => return Ok('\n'),
        Some('t') => return Ok('\t'),
        Some('r') => return Ok('\r'),
        Some('\\') => return Ok('\\'),
        Some(c) if c == quote => return Ok(c),
        Some('u') => 4,
        Some('U') => 8,
        other => return Err(unknown(other)),
    };
    let mut code = 0_u32;
    for _ in 0..digits {
        let next = chars.next();
        let digit = next
            .and_then(|c| c.to_digit(16))
            .ok_or_else(|| unknown(next))?;
        // Eight digits fit.
        code = (code << 4) | digit;
    }
    char::from_u32(code).ok_or_else(|| unknown(None))
}

/// The number of a character, of which the first quote has been taken.
fn character(chars: &mut Chars<'_>, body: &str) -> Result<i64, TemplateError> {
    let text = quoted('\'', chars, body)?;
    let mut only = text.chars();
    match (only.next(), only.next()) {
        (Some(c), None) => Ok(u32::from(c).into()),
        _ => Err(TemplateError::Unexpected(format!("'{text}'"))),
    }
}

/// A number whose first character has been taken.
fn number(first: char, chars: &mut Chars<'_>) -> Result<Value, TemplateError> {
    let mut text = String::from(first);
    loop {
        // An exponent may have a sign.
        let after_e = text.ends_with(['e', 'E']) && !text.contains(['x', 'X']);
        let is_part = |c: &char| is_name(c) || *c == '.' || (after_e && matches!(c, '+' | '-'));
        match chars.next_if(is_part) {
            Some(c) => text.push(c),
            None => break,
        }
    }
    let unsigned = text
        .trim_start_matches(['+', '-'])
        .replace('_', "")
        .to_lowercase();
    let radix = [("0x", 16), ("0o", 8), ("0b", 2)];
    let radix = radix
        .into_iter()
        .find_map(|(prefix, radix)| Some((unsigned.strip_prefix(prefix)?, radix)));
    let sign = if text.starts_with('-') { "-" } else { "" };
    let whole = match radix {
        Some((digits, radix)) => i64::from_str_radix(&format!("{sign}{digits}"), radix).ok(),
        None => format!("{sign}{unsigned}").parse().ok(),
    };
    if let Some(whole) = whole {
        return Ok(Value::Int(whole));
    }
    let is_number = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | '+' | '-');
    let float = unsigned
        .chars()
        .all(is_number)
        .then(|| format!("{sign}{unsigned}").parse().ok());
    match float.flatten() {
        Some(float) if f64::is_finite(float) => Ok(Value::Float(float)),
        _ => Err(TemplateError::Unexpected(text)),
    }
}

/// A token as it stands in a message.
pub(super) fn describe(token: &Token) -> String {
    let path = |names: &[String]| {
        let names = names.iter().map(|name| format!(".{name}"));
        names.collect::<String>()
    };
    match token {
        Token::Literal(value) => value.to_string(),
        Token::Field(names) if names.is_empty() => ".".into(),
        Token::Field(names) => path(names),
        Token::Variable(name, names) => format!("${name}{}", path(names)),
        Token::Word(word) => word.clone(),
        Token::Open => "(".into(),
        Token::Close(names) => format!("){}", path(names)),
        Token::Pipe => "|".into(),
        Token::Declare => ":=".into(),
        Token::Assign => "=".into(),
        Token::Comma => ",".into(),
    }
}
