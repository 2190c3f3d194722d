//! How large a JSON schema is: what its compiler would not stop at is refused before it.

use serde_json::Value;

use super::error::GrammarError;

/// The levels that a schema may have; as many as `serde_json` reads.
const MAX_DEPTH: usize = 128;

/// The objects and lists of a schema. Each may take a frame of the compiler's stack (4 KB), since references chain them.
const MAX_PARTS: usize = 16 << 10;

/// The references of a schema: each step of a long chain of them is taken again with every token.
const MAX_REFERENCES: usize = 2 << 10;

/// What multiples of several numbers are multiples of: the compiler makes a state for each remainder, 400 bytes and 10 µs
/// each, without counting them.
const MAX_MULTIPLE: usize = 100_000;

/// The keyword by which a schema would set options of the parser.
const PARSER_OPTIONS: &str = "x-guidance";

/// Refuses a schema that is too large. It is looked at without recursion, since its levels are not known to be few.
pub(super) fn check(schema: &Value, kind: &'static str) -> Result<(), GrammarError> {
    let outline = Outline::of(schema);
    let within = |what, got, limit| {
        if got > limit { Err(GrammarError::TooLarge { kind, what, got, limit }) } else { Ok(()) }
    };
    within("levels", outline.depth, MAX_DEPTH)?;
    within("objects and lists", outline.parts, MAX_PARTS)?;
    within("references", outline.references, MAX_REFERENCES)?;
    within("as the common multiple of what is to be divided (`multipleOf`)", outline.common_multiple(), MAX_MULTIPLE)?;
    match schema.get(PARSER_OPTIONS) {
        Some(_) => Err(GrammarError::Bad { kind, reason: format!("`{PARSER_OPTIONS}` is not supported") }),
        None => Ok(()),
    }
}

/// What is counted of a schema.
#[derive(Default)]
struct Outline {
    depth: usize,
    parts: usize,
    references: usize,
    divisors: Vec<f64>,
}

impl Outline {
    fn of(schema: &Value) -> Self {
        let mut outline = Self::default();
        let mut open = vec![(schema, 1)];
        while let Some((value, depth)) = open.pop() {
            outline.depth = outline.depth.max(depth);
            match value {
                Value::Object(fields) => {
                    outline.parts += 1;
                    let is_reference = |key: &&String| matches!(key.as_str(), "$ref" | "$dynamicRef" | "$recursiveRef");
                    outline.references += fields.keys().filter(is_reference).count();
                    outline.divisors.extend(fields.get("multipleOf").and_then(Value::as_f64));
                    open.extend(fields.values().map(|value| (value, depth + 1)));
                }
                Value::Array(items) => {
                    outline.parts += 1;
                    open.extend(items.iter().map(|value| (value, depth + 1)));
                }
                _ => {}
            }
            // Enough is known, and what is still open may be very much.
            if outline.depth > MAX_DEPTH || outline.parts > MAX_PARTS {
                break;
            }
        }
        outline
    }

    /// The least common multiple of all divisors, as whole numbers of the smallest decimal place among them.
    fn common_multiple(&self) -> usize {
        let places = self.divisors.iter().map(|divisor| places(*divisor)).max().unwrap_or(0);
        let whole = |divisor: &f64| (divisor.abs() * 10_f64.powi(places)).round() as u64;
        let all = self.divisors.iter().map(whole).filter(|divisor| *divisor > 0).fold(1, |all, divisor| {
            // Beyond the limit it no longer matters how far.
            (all / common_divisor(all, divisor)).saturating_mul(divisor).min(u64::from(u32::MAX))
        });
        usize::try_from(all).unwrap_or(usize::MAX)
    }
}

/// How many decimal places a number has.
fn places(number: f64) -> i32 {
    let mut scaled = number;
    let mut places = 0;
    while scaled.fract() != 0.0 && places < 400 {
        scaled *= 10.0;
        places += 1;
    }
    places
}

fn common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn outlines() {
        let outline = Outline::of(&json!({"a": [{"$ref": "#"}, 1], "b": {}}));
        assert_eq!((outline.depth, outline.parts, outline.references), (4, 4, 1));
        let outline = Outline::of(&json!(true));
        assert_eq!((outline.depth, outline.parts, outline.references), (1, 0, 0));
    }

    #[test]
    fn common_multiples() {
        let check = |divisors: &[f64], expected: usize| {
            let outline = Outline { divisors: divisors.to_vec(), ..Outline::default() };
            assert_eq!(outline.common_multiple(), expected, "{divisors:?}");
        };
        check(&[], 1);
        check(&[5.0, 15.0, 100.0, 0.0, -4.0], 300);
        check(&[0.01], 1);
        check(&[0.01, 0.5, 2.0], 200);
        check(&[997.0, 998.0], 995_006);
        check(&[1e300, 1e-300, 7.0], u32::MAX as usize);
        check(&[f64::from(u32::MAX) - 4.0, 3.0], u32::MAX as usize);
    }
}
