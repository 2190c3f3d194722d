//! The filter `tojson`, with what Python's `json.dumps` writes.
//!
//! Jinja's own `tojson` escapes HTML; transformers replaces it by `json.dumps(x, ensure_ascii=False, …)`, and so does this.

use crate::text::python::float_repr;

use super::eval::{Args, Interp};
use super::fault::{Fault, Result, fail};
use super::sink::Sink;
use super::value::{Dict, Items, Order, Text, Value, items_of, ordered};
use super::{limits, methods};

/// `value|tojson(ensure_ascii=false, indent=none, separators=none, sort_keys=false)`.
#[expect(clippy::needless_pass_by_value, reason = "all filters are of one type")]
pub(super) fn tojson(interp: &mut Interp, value: Value, args: Args) -> Result<Value> {
    let parameters = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let [ensure_ascii, indent, separators, sort_keys] = args.bind("tojson", parameters)?;
    let is_true = |flag: Option<Value>| flag.is_some_and(|flag| flag.truthy());
    let indent = match indent {
        None | Some(Value::None) => None,
        Some(Value::Str(text)) => Some(text),
        Some(spaces) => {
            let spaces = usize::try_from(methods::integer(&spaces)?.max(0)).unwrap_or(usize::MAX);
            Some(super::sink::written(|out| out.fill(" ", spaces))?)
        }
    };
    let [item, key] = match separators {
        None | Some(Value::None) => [Text::new(if indent.is_some() { "," } else { ", " })?, Text::new(": ")?],
        Some(given) => {
            let parts = items_of(interp, &given)?;
            match parts.as_slice() {
                [Value::Str(item), Value::Str(key)] => [item.clone(), key.clone()],
                _ => return fail("`separators` are two strings"),
            }
        }
    };
    let mut writer =
        Writer { out: Sink::default(), ascii: is_true(ensure_ascii), indent, item, key, sorted: is_true(sort_keys) };
    writer.value(&value, 0)?;
    writer.out.into_value()
}

struct Writer {
    out: Sink,
    ascii: bool,
    indent: Option<Text>,
    item: Text,
    key: Text,
    sorted: bool,
}

impl Writer {
    fn value(&mut self, value: &Value, depth: usize) -> Result<()> {
        limits::steps(1)?;
        match value {
            Value::None => self.out.push("null"),
            Value::Bool(b) => self.out.push(if *b { "true" } else { "false" }),
            Value::Int(n) => self.out.push(&n.to_string()),
            Value::Float(x) => self.out.push(&float(*x)),
            Value::Str(text) => self.string(text),
            Value::List(items) | Value::Tuple(items) => self.list(items, depth),
            Value::Dict(dict) => self.dict(dict, depth),
            other => fail(format!("Object of type {} is not JSON serializable", other.type_name())),
        }
    }

    fn list(&mut self, items: &Items, depth: usize) -> Result<()> {
        if items.is_empty() {
            return self.out.push("[]");
        }
        self.out.push("[")?;
        for (at, item) in items.iter().enumerate() {
            self.separate(at, depth + 1)?;
            self.value(item, depth + 1)?;
        }
        self.line(depth)?;
        self.out.push("]")
    }

    fn dict(&mut self, dict: &Dict, depth: usize) -> Result<()> {
        if dict.len() == 0 {
            return self.out.push("{}");
        }
        let mut pairs: Vec<&(Value, Value)> = dict.pairs().iter().collect();
        if self.sorted {
            pairs = sorted(pairs)?;
        }
        self.out.push("{")?;
        for (at, (key, value)) in pairs.into_iter().enumerate() {
            self.separate(at, depth + 1)?;
            match key {
                Value::Str(key) => self.string(key)?,
                Value::None => self.string("null")?,
                Value::Bool(b) => self.string(if *b { "true" } else { "false" })?,
                Value::Int(n) => self.string(&n.to_string())?,
                Value::Float(x) => self.string(&float(*x))?,
                other => {
                    return fail(format!("keys must be str, int, float, bool or None, not {}", other.type_name()));
                }
            }
            let separator = self.key.clone();
            self.out.push(&separator)?;
            self.value(value, depth + 1)?;
        }
        self.line(depth)?;
        self.out.push("}")
    }

    /// What stands before an item: a separator unless it is the first, and a new line where there is an indent.
    fn separate(&mut self, at: usize, depth: usize) -> Result<()> {
        if at > 0 {
            let separator = self.item.clone();
            self.out.push(&separator)?;
        }
        self.line(depth)
    }

    fn line(&mut self, depth: usize) -> Result<()> {
        let Some(indent) = self.indent.clone() else { return Ok(()) };
        self.out.push("\n")?;
        self.out.fill(&indent, depth)
    }

    fn string(&mut self, text: &str) -> Result<()> {
        self.out.push("\"")?;
        let mut plain = 0;
        for (at, c) in text.char_indices() {
            let is_control = c < ' ' || (self.ascii && c == '\u{7f}');
            if !matches!(c, '"' | '\\') && !is_control && (c.is_ascii() || !self.ascii) {
                continue;
            }
            self.out.push(text.get(plain..at).unwrap_or(""))?;
            plain = at + c.len_utf8();
            match c {
                '"' => self.out.push("\\\"")?,
                '\\' => self.out.push("\\\\")?,
                '\n' => self.out.push("\\n")?,
                '\r' => self.out.push("\\r")?,
                '\t' => self.out.push("\\t")?,
                '\u{8}' => self.out.push("\\b")?,
                '\u{c}' => self.out.push("\\f")?,
                c => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.out.push(&format!("\\u{unit:04x}"))?;
                    }
                }
            }
        }
        self.out.push(text.get(plain..).unwrap_or(""))?;
        self.out.push("\"")
    }
}

fn float(x: f64) -> String {
    if x.is_nan() {
        "NaN".into()
    } else if x.is_infinite() {
        if x > 0.0 { "Infinity".into() } else { "-Infinity".into() }
    } else {
        float_repr(x)
    }
}

/// The pairs by their keys, which must be comparable.
fn sorted(pairs: Vec<&(Value, Value)>) -> Result<Vec<&(Value, Value)>> {
    let mut failed: Option<Fault> = None;
    let mut by_key = pairs;
    let texts = by_key.iter().all(|(key, _)| matches!(key, Value::Str(_)));
    if texts {
        by_key.sort_by(|a, b| a.0.as_text().map(|a| &**a).cmp(&b.0.as_text().map(|b| &**b)));
        return Ok(by_key);
    }
    // A few keys that are not texts: insertion, which stands an order that fails.
    let mut made: Vec<&(Value, Value)> = Vec::with_capacity(by_key.len());
    for pair in by_key {
        let mut at = made.len();
        while let Some(before) = at.checked_sub(1).and_then(|at| made.get(at)) {
            match ordered(Order::Less, &pair.0, &before.0) {
                Ok(true) => at -= 1,
                Ok(false) => break,
                Err(fault) => {
                    failed.get_or_insert(fault);
                    break;
                }
            }
        }
        made.insert(at, pair);
    }
    failed.map_or(Ok(made), Err)
}
