//! The digits of numbers in the forms `e`, `f`, `g`, `d`, `x`, `o` and `b`.

use crate::text::python::float_repr;

use super::super::fault::{Result, fail};
use super::super::limits;

/// The form of a float.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct FloatForm {
    /// `e`, `f`, `g`, or `r` for the shortest digits, as `repr` writes them.
    pub(in super::super) kind: char,
    pub(in super::super) precision: usize,
    pub(in super::super) upper: bool,
    /// Keeps the point and trailing zeros.
    pub(in super::super) alternate: bool,
}

/// The digits of a float without its sign.
pub(in super::super) fn float(x: f64, form: FloatForm) -> Result<String> {
    limits::check_size(form.precision)?;
    limits::pass(form.precision)?;
    let x = x.abs();
    let plain = if x.is_nan() {
        "nan".to_owned()
    } else if x.is_infinite() {
        "inf".to_owned()
    } else {
        finite(x, form)?
    };
    Ok(if form.upper { plain.to_uppercase() } else { plain })
}

fn finite(x: f64, form: FloatForm) -> Result<String> {
    let FloatForm { kind, precision, alternate, .. } = form;
    // No float has more digits than this; what follows are zeros.
    let (digits, zeros) = (precision.min(1100), precision.saturating_sub(1100));
    Ok(match kind {
        'f' => {
            let text = format!("{x:.digits$}") + &"0".repeat(zeros);
            if alternate && precision == 0 { text + "." } else { text }
        }
        'e' => scientific(x, digits, zeros, alternate),
        'g' => general(x, precision.clamp(1, 1100), alternate),
        'r' => float_repr(x),
        _ => return fail(format!("Unknown format code '{kind}' for object of type 'float'")),
    })
}

/// `d.ddde±xx`.
fn scientific(x: f64, digits: usize, zeros: usize, alternate: bool) -> String {
    let (mantissa, exponent) = split_exponent(x, digits);
    let point = if alternate && digits == 0 { "." } else { "" };
    format!("{mantissa}{}{point}{}", "0".repeat(zeros), exponent_text(exponent))
}

fn split_exponent(x: f64, digits: usize) -> (String, i32) {
    let text = format!("{x:.digits$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    (mantissa.to_owned(), exponent.parse().unwrap_or(0))
}

fn exponent_text(exponent: i32) -> String {
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("e{sign}{:02}", exponent.abs())
}

/// So many digits in all, with an exponent where the number is very small or large.
fn general(x: f64, precision: usize, alternate: bool) -> String {
    let (mantissa, exponent) = split_exponent(x, precision - 1);
    let with_exponent = exponent < -4 || exponent >= precision as i32;
    let text = if with_exponent {
        mantissa
    } else {
        let after = (precision as i32 - 1 - exponent).max(0) as usize;
        format!("{x:.after$}")
    };
    let text = if alternate {
        if text.contains('.') { text } else { text + "." }
    } else if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    };
    if with_exponent { text + &exponent_text(exponent) } else { text }
}

/// The digits of an integer without its sign, in the base of `kind`.
pub(in super::super) fn integer(n: i128, kind: char) -> String {
    let n = n.unsigned_abs();
    match kind {
        'x' => format!("{n:x}"),
        'X' => format!("{n:X}"),
        'o' => format!("{n:o}"),
        'b' => format!("{n:b}"),
        _ => n.to_string(),
    }
}

/// Digits in groups, from the point to the left.
pub(in super::super) fn grouped(digits: &str, size: usize, separator: char) -> String {
    let count = digits.len();
    let mut out = String::with_capacity(count + count / size);
    for (at, c) in digits.chars().enumerate() {
        if at > 0 && (count - at).is_multiple_of(size) {
            out.push(separator);
        }
        out.push(c);
    }
    out
}
