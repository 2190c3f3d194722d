//! `format(value, spec)`: `[[fill]align][sign][z][#][0][width][grouping][.precision][type]`.

use super::super::fault::{Fault, Result, fail};
use super::super::limits;
use super::super::methods;
use super::super::sink::written;
use super::super::value::{Text, Value, defined, print};
use super::number::{self, FloatForm};

/// A parsed format.
#[derive(Debug, Default)]
struct Spec {
    fill: Option<char>,
    align: Option<char>,
    sign: Option<char>,
    alternate: bool,
    zero: bool,
    width: usize,
    grouping: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

/// Takes a number off the start.
fn take_number(rest: &mut &str) -> Result<Option<usize>> {
    let length = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, after) = rest.split_at(length);
    *rest = after;
    if digits.is_empty() {
        return Ok(None);
    }
    let number = digits.parse().map_err(|_| Fault::new("Too many decimal digits in format string"))?;
    limits::check_size(number)?;
    Ok(Some(number))
}

fn take_one(rest: &mut &str, of: &[char]) -> Option<char> {
    let c = rest.chars().next().filter(|c| of.contains(c))?;
    *rest = rest.get(c.len_utf8()..).unwrap_or("");
    Some(c)
}

const ALIGNS: [char; 4] = ['<', '>', '=', '^'];

impl Spec {
    fn parse(text: &str) -> Result<Self> {
        let mut spec = Self::default();
        let mut rest = text;
        let mut chars = text.chars();
        if let (Some(fill), Some(align)) = (chars.next(), chars.next())
            && ALIGNS.contains(&align)
        {
            spec.fill = Some(fill);
            spec.align = Some(align);
            rest = chars.as_str();
        } else {
            spec.align = take_one(&mut rest, &ALIGNS);
        }
        spec.sign = take_one(&mut rest, &['+', '-', ' ']);
        if rest.starts_with('z') {
            return fail("the format option `z` is not supported");
        }
        spec.alternate = take_one(&mut rest, &['#']).is_some();
        if spec.fill.is_none() && take_one(&mut rest, &['0']).is_some() {
            spec.zero = true;
            spec.fill = Some('0');
        } else if rest.starts_with('0') {
            take_one(&mut rest, &['0']);
        }
        spec.width = take_number(&mut rest)?.unwrap_or(0);
        spec.grouping = take_one(&mut rest, &[',', '_']);
        if take_one(&mut rest, &['.']).is_some() {
            spec.precision =
                Some(take_number(&mut rest)?.ok_or_else(|| Fault::new("Format specifier missing precision"))?);
        }
        let mut chars = rest.chars();
        spec.kind = chars.next();
        if chars.next().is_some() || spec.kind.is_some_and(|c| matches!(c, ',' | '_')) {
            return fail(format!("Invalid format specifier '{text}'"));
        }
        Ok(spec)
    }

    /// The text in its width; a number's sign stays in front of the fill where `=` says so.
    fn padded(&self, sign: &str, body: &str, default_align: char) -> Result<Text> {
        let length = sign.chars().count() + body.chars().count();
        let missing = self.width.saturating_sub(length);
        let fill = self.fill.unwrap_or(' ').to_string();
        let align = self.align.unwrap_or(default_align);
        let left = match align {
            '<' => 0,
            '^' => missing / 2,
            _ => missing,
        };
        written(|out| {
            if align == '=' {
                out.push(sign)?;
                out.fill(&fill, left)?;
            } else {
                out.fill(&fill, left)?;
                out.push(sign)?;
            }
            out.push(body)?;
            out.fill(&fill, missing - left)
        })
    }

    fn sign_of(&self, negative: bool) -> &'static str {
        match (negative, self.sign) {
            (true, _) => "-",
            (false, Some('+')) => "+",
            (false, Some(' ')) => " ",
            (false, _) => "",
        }
    }
}

/// `format(value, spec)`.
pub(in super::super) fn format_value(value: &Value, spec: &str) -> Result<Text> {
    if spec.is_empty() {
        return print(value);
    }
    let parsed = Spec::parse(spec);
    match value {
        Value::Str(text) => format_text(text, &parsed?),
        Value::Bool(_) | Value::Int(_) => {
            let spec = parsed?;
            let n = value.as_int().unwrap_or(0);
            match spec.kind {
                Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%') => format_float(n as f64, &spec),
                _ => format_int(n, &spec),
            }
        }
        Value::Float(x) => format_float(*x, &parsed?),
        other => {
            defined(other)?;
            fail(format!("unsupported format string passed to {}.__format__", other.type_name()))
        }
    }
}

fn format_text(text: &Text, spec: &Spec) -> Result<Text> {
    if !matches!(spec.kind, None | Some('s')) {
        return fail("Unknown format code for object of type 'str'");
    }
    if spec.sign.is_some() || spec.alternate || spec.grouping.is_some() || spec.align == Some('=') {
        return fail("a format of numbers is not allowed for a string");
    }
    let taken: String = text.chars().take(spec.precision.unwrap_or(usize::MAX)).collect();
    spec.padded("", &taken, '<')
}

fn format_int(n: i128, spec: &Spec) -> Result<Text> {
    if spec.precision.is_some() {
        return fail("Precision not allowed in integer format specifier");
    }
    let kind = spec.kind.unwrap_or('d');
    if kind == 'c' {
        let c = u32::try_from(n).ok().and_then(char::from_u32).filter(|_| spec.sign.is_none() && !spec.alternate);
        let c = c.ok_or_else(|| Fault::new("a number that is no character"))?;
        return spec.padded("", &c.to_string(), '>');
    }
    let prefix = match (spec.alternate, kind) {
        (true, 'x') => "0x",
        (true, 'X') => "0X",
        (true, 'o') => "0o",
        (true, 'b') => "0b",
        _ => "",
    };
    let group = match (spec.grouping, kind) {
        (None, 'd' | 'x' | 'X' | 'o' | 'b') => None,
        (Some(separator), 'd') => Some((3, separator)),
        (Some('_'), 'x' | 'X' | 'o' | 'b') => Some((4, '_')),
        _ => return fail(format!("the format '{kind}' is not supported for an integer")),
    };
    let digits = number::integer(n, kind);
    let sign = spec.sign_of(n < 0).to_owned() + prefix;
    finish(spec, &sign, &digits, "", group)
}

fn format_float(x: f64, spec: &Spec) -> Result<Text> {
    let kind = spec.kind.unwrap_or('r');
    let upper = kind.is_ascii_uppercase();
    let form = |kind, precision| FloatForm { kind, precision, upper, alternate: spec.alternate };
    let precision = spec.precision.unwrap_or(6);
    let (digits, percent) = match kind.to_ascii_lowercase() {
        '%' => (number::float(x * 100.0, form('f', precision))?, "%"),
        lower @ ('e' | 'f' | 'g') => (number::float(x, form(lower, precision))?, ""),
        'r' if spec.kind.is_none() && spec.precision.is_none() => (number::float(x, form('r', 0))?, ""),
        'r' if spec.kind.is_none() => (shortest(x, spec)?, ""),
        _ => return fail(format!("the format '{kind}' is not supported for a float")),
    };
    let sign = spec.sign_of(x.is_sign_negative() && !x.is_nan());
    let whole = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let (whole, rest) = digits.split_at(whole);
    finish(spec, sign, whole, &(rest.to_owned() + percent), spec.grouping.map(|separator| (3, separator)))
}

/// A precision without a type: as `g`, but with a digit after the point, and an exponent already where all digits are
/// before it.
fn shortest(x: f64, spec: &Spec) -> Result<String> {
    let precision = spec.precision.unwrap_or(6).max(1);
    let form = |kind, precision| FloatForm { kind, precision, upper: false, alternate: spec.alternate };
    let text = number::float(x, form('g', precision))?;
    if text.contains(['.', 'e', 'n', 'i']) {
        return Ok(text);
    }
    if text.len() < precision {
        return Ok(text + ".0");
    }
    let text = number::float(x, form('e', precision - 1))?;
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "+00"));
    let mantissa = if mantissa.contains('.') { mantissa.trim_end_matches('0').trim_end_matches('.') } else { mantissa };
    Ok(format!("{mantissa}e{exponent}"))
}

/// Puts a number together: grouped, and filled with grouped zeros where zeros fill it.
fn finish(spec: &Spec, sign: &str, whole: &str, rest: &str, group: Option<(usize, char)>) -> Result<Text> {
    let Some((size, separator)) = group else {
        let align = if spec.zero { '=' } else { '>' };
        return spec.padded(sign, &(whole.to_owned() + rest), align);
    };
    let mut digits = whole.to_owned();
    if spec.zero && spec.align.is_none() {
        let room = spec.width.saturating_sub(sign.len() + rest.len());
        limits::pass(room)?;
        while number::grouped(&digits, size, separator).len() < room {
            digits.insert(0, '0');
            limits::pass(digits.len())?;
        }
    }
    let body = number::grouped(&digits, size, separator) + rest;
    spec.padded(sign, &body, if spec.zero { '=' } else { '>' })
}

/// The width that `%` formats give: blanks to the left, or to the right.
pub(super) fn in_width(text: &str, width: usize, left: bool) -> Result<Text> {
    methods::padded(text, if left { "ljust" } else { "rjust" }, width as i128, " ")
}
