//! The actions of a template, and the tokens of an action.

use super::TemplateError;

/// Where the `}}` that ends an action begins; those inside of string literals do not count.
pub(super) fn action_end(action: &str) -> Option<usize> {
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

/// What an action is made of.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Text(String),
    Field(Vec<String>),
    Word(String),
    Open,
    Close,
}

/// The tokens between `{{` and `}}`.
pub(super) fn tokens(body: &str) -> Result<Vec<Token>, TemplateError> {
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

/// A token as it stands in a message.
pub(super) fn describe(token: &Token) -> String {
    match token {
        Token::Text(text) => text.clone(),
        Token::Field(path) => format!(".{}", path.join(".")),
        Token::Word(word) => word.clone(),
        Token::Open => "(".into(),
        Token::Close => ")".into(),
    }
}
