//! How Go prints values: `print`, `println` and `printf`.

use super::{OUTPUT_MAX, TemplateError, value::Value};

/// The widest that anything is padded, and the most digits that are written: more than Rust's own formats take, and
/// they panic. (Go's limit is a million.)
const WIDTH_MAX: usize = 65_535;

/// A number with no more digits than it takes to tell it from others.
pub(super) fn shortest(number: f64) -> String {
    let size = number.abs();
    if number == 0.0 || (1e-4..1e21).contains(&size) {
        return number.to_string();
    }
    exponential(&format!("{number:e}"))
}

/// `1e21`, as Rust writes it, as Go does: `1e+21`
fn exponential(text: &str) -> String {
    let Some((digits, exponent)) = text.split_once('e') else {
        return text.to_owned();
    };
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ('-', exponent),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{exponent:0>2}")
}

/// One after the other, with a space between two of which neither is a string.
pub(super) fn print(values: &[Value]) -> String {
    let mut out = String::new();
    let mut after_text = true;
    for value in values {
        let is_text = matches!(value, Value::Text(_));
        if !after_text && !is_text {
            out.push(' ');
        }
        after_text = is_text;
        out.push_str(&value.to_string());
    }
    out
}

/// With spaces between all, and a line's end.
pub(super) fn println(values: &[Value]) -> String {
    let values: Vec<String> = values.iter().map(ToString::to_string).collect();
    values.join(" ") + "\n"
}

/// How a value is to be written.
#[derive(Clone, Copy, Debug, Default)]
struct Verb {
    minus: bool,
    plus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

/// The format with values in place of its verbs.
pub(super) fn printf(format: &str, values: &[Value]) -> Result<String, TemplateError> {
    let mut out = String::new();
    let mut values = values.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let verb = verb(&mut chars, &mut values)?;
        match chars.next() {
            None => out.push_str("%!(NOVERB)"),
            Some('%') => out.push('%'),
            Some(letter) => match values.next() {
                None => {
                    out.push_str("%!");
                    out.push(letter);
                    out.push_str("(MISSING)");
                }
                Some(value) => out.push_str(&verb.write(letter, value)),
            },
        }
        if out.len() > OUTPUT_MAX {
            return Err(TemplateError::TooLong);
        }
    }
    let extra: Vec<String> = values
        .map(|value| format!("{}={value}", value.kind()))
        .collect();
    if !extra.is_empty() {
        out.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    Ok(out)
}

/// What stands between a `%` and its letter.
fn verb<'a>(
    chars: &mut Chars<'_>,
    values: &mut impl Iterator<Item = &'a Value>,
) -> Result<Verb, TemplateError> {
    let mut verb = Verb::default();
    loop {
        let flag = match chars.peek() {
            Some('-') => &mut verb.minus,
            Some('+') => &mut verb.plus,
            Some('#') => &mut verb.sharp,
            Some(' ') => &mut verb.space,
            Some('0') => &mut verb.zero,
            _ => break,
        };
        *flag = true;
        chars.next();
    }
    if let Some(width) = number(chars, values)? {
        verb.minus |= width < 0;
        verb.width = Some(bounded(width)?);
    }
    if chars.next_if_eq(&'.').is_some() {
        let precision = number(chars, values)?.unwrap_or(0);
        verb.precision = match precision < 0 {
            true => None,
            false => Some(bounded(precision)?),
        };
    }
    Ok(verb)
}

/// A number, or the next value where there is a `*`.
fn number<'a>(
    chars: &mut Chars<'_>,
    values: &mut impl Iterator<Item = &'a Value>,
) -> Result<Option<i64>, TemplateError> {
    if chars.next_if_eq(&'*').is_some() {
        return match values.next() {
            Some(Value::Int(number)) => Ok(Some(*number)),
            _ => Err(TemplateError::Arguments(
                "printf",
                "a whole number for each *",
            )),
        };
    }
    let digits: String = std::iter::from_fn(|| chars.next_if(char::is_ascii_digit)).collect();
    if digits.is_empty() {
        return Ok(None);
    }
    digits.parse().map(Some).map_err(|_| TemplateError::TooLong)
}

fn bounded(number: i64) -> Result<usize, TemplateError> {
    let size = usize::try_from(number.unsigned_abs()).ok();
    size.filter(|size| *size <= WIDTH_MAX)
        .ok_or(TemplateError::TooLong)
}

impl Verb {
    fn write(self, letter: char, value: &Value) -> String {
        match (letter, value) {
            ('T', _) => self.pad(value.kind()),
            ('v' | 's', Value::Text(text)) => self.pad(&self.cut(text)),
            ('q', Value::Text(text)) => self.pad(&quoted(&self.cut(text))),
            ('x', Value::Text(text)) => self.pad(&hex(&self.cut(text))),
            ('X', Value::Text(text)) => self.pad(&hex(&self.cut(text)).to_uppercase()),
            ('v' | 'd', Value::Int(number)) => {
                self.integer(*number < 0, "", &number.unsigned_abs().to_string())
            }
            ('x' | 'X' | 'o' | 'b', Value::Int(number)) => {
                let size = number.unsigned_abs();
                let (prefix, digits) = match letter {
                    'x' => ("0x", format!("{size:x}")),
                    'X' => ("0X", format!("{size:X}")),
                    'o' => ("0", format!("{size:o}")),
                    _ => ("0b", format!("{size:b}")),
                };
                let prefix = if self.sharp { prefix } else { "" };
                self.integer(*number < 0, prefix, &digits)
            }
            ('c', Value::Int(number)) => {
                let c = u32::try_from(*number).ok().and_then(char::from_u32);
                self.pad(&c.unwrap_or('\u{fffd}').to_string())
            }
            ('v' | 'g', Value::Float(number)) => self.float(*number, &shortest(number.abs())),
            ('f' | 'F', Value::Float(number)) => {
                let digits = self.precision.unwrap_or(6);
                self.float(*number, &format!("{:.digits$}", number.abs()))
            }
            ('e', Value::Float(number)) => {
                let digits = self.precision.unwrap_or(6);
                self.float(
                    *number,
                    &exponential(&format!("{:.digits$e}", number.abs())),
                )
            }
            ('v' | 't', Value::Bool(is)) => self.pad(&is.to_string()),
            ('v' | 's', Value::Map(_) | Value::Fields(_)) => value.to_string(),
            _ => format!("%!{letter}({}={})", value.kind(), self.write('v', value)),
        }
    }

    /// No more characters of a string than are asked for.
    fn cut(self, text: &str) -> String {
        match self.precision {
            Some(precision) => text.chars().take(precision).collect(),
            None => text.to_owned(),
        }
    }

    fn pad(self, text: &str) -> String {
        let missing = self.width.unwrap_or(0).saturating_sub(text.chars().count());
        match (self.minus, self.zero) {
            (true, _) => format!("{text}{}", " ".repeat(missing)),
            (false, true) => format!("{}{text}", "0".repeat(missing)),
            (false, false) => format!("{}{text}", " ".repeat(missing)),
        }
    }

    fn sign(self, is_negative: bool) -> &'static str {
        match (is_negative, self.plus, self.space) {
            (true, ..) => "-",
            (false, true, _) => "+",
            (false, false, true) => " ",
            (false, false, false) => "",
        }
    }

    fn integer(self, is_negative: bool, prefix: &str, digits: &str) -> String {
        let sign = self.sign(is_negative);
        let wanted = match (self.precision, self.width) {
            (Some(precision), _) => precision,
            // Zeroes stand behind the sign.
            (None, Some(width)) if self.zero && !self.minus => width.saturating_sub(sign.len()),
            _ => 0,
        };
        let spaces = Self {
            zero: false,
            ..self
        };
        spaces.pad(&format!("{sign}{prefix}{digits:0>wanted$}"))
    }

    fn float(self, number: f64, digits: &str) -> String {
        let unlimited = Self {
            precision: None,
            ..self
        };
        unlimited.integer(number.is_sign_negative(), "", digits)
    }
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// As a literal of Go's.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            plain => out.push(plain),
        }
    }
    out.push('"');
    out
}
