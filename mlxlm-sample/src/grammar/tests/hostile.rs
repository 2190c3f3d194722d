//! Grammars that mean harm: every one is an error or can be followed, in bounded time and memory.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::Map;

use super::*;

/// Far more than any of it takes, since other tests run beside it.
const LONG: Duration = Duration::from_secs(30);

/// What following takes of memory at most, in kilobytes.
const MUCH: u64 = 1 << 20;

/// The memory of this process in kilobytes, where the system tells it.
fn memory() -> u64 {
    let status = mlxlm_core::io::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}

/// Compiles a grammar and follows it for some tokens, each the last that is allowed.
fn survive(grammars: &Grammars, spec: &GrammarSpec, name: &str) -> Result<(), GrammarError> {
    let (begun, before) = (Instant::now(), memory());
    let follow = || {
        let mut matcher = grammars.matcher(spec)?;
        for _ in 0..40 {
            let Some(id) = matcher.mask()?.ids().last() else { break };
            matcher.forced()?;
            if matcher.is_over() {
                break;
            }
            matcher.accept(id)?;
        }
        Ok(())
    };
    let result = follow();
    assert!(begun.elapsed() < LONG, "{name}: {:?}", begun.elapsed());
    let taken = memory().saturating_sub(before);
    assert!(taken < MUCH, "{name}: {taken} kB");
    result
}

fn nested(levels: usize, around: impl Fn(Value) -> Value) -> Value {
    (0..levels).fold(json!({"type": "integer"}), |inner, _| around(inner))
}

/// Definitions that each refer to the next one.
fn chain(length: usize, link: impl Fn(String) -> Value) -> Value {
    let mut definitions: Map<String, Value> =
        (0..length).map(|at| (format!("d{at}"), link(format!("#/$defs/d{}", at + 1)))).collect();
    definitions.insert(format!("d{length}"), json!({"type": "object"}));
    json!({"$ref": "#/$defs/d0", "$defs": definitions})
}

#[test]
fn ten_thousand_levels_are_too_many() {
    let grammars = toy_grammars();
    // `json!` would call itself for each level, and so would what drops it.
    let deep = schema(nested(10_000, |inner| Value::Object(Map::from_iter([("items".to_owned(), inner)]))));
    let error = survive(&grammars, &deep, "nested").unwrap_err();
    assert!(matches!(error, GrammarError::TooLarge { what: "levels", limit: 128, .. }), "{error}");
    std::mem::forget(deep);
    let text = "[".repeat(10_000);
    assert!(GrammarSpec::json_schema(&text).unwrap_err().to_string().contains("recursion"));
    let parentheses = "(".repeat(10_000) + "a" + &")".repeat(10_000);
    assert!(matches!(survive(&grammars, &regex(&parentheses), "regex"), Err(GrammarError::Bad { .. })));
    let rule = format!("start: {}", parentheses.replace('a', "\"a\""));
    assert!(matches!(survive(&grammars, &lark(&rule), "lark"), Err(GrammarError::Bad { .. })));
    let inner = format!("start: %json {}", "[".repeat(10_000));
    assert!(matches!(survive(&grammars, &lark(&inner), "json in lark"), Err(GrammarError::Bad { .. })));
}

#[test]
fn as_many_levels_as_may_be() {
    let grammars = toy_grammars();
    let mut levels: Vec<(&str, Value)> = vec![
        ("items", nested(120, |inner| json!({"type": "array", "items": inner, "minItems": 1}))),
        ("properties", nested(60, |inner| json!({"type": "object", "properties": {"a": inner}, "required": ["a"]}))),
        ("anyOf", nested(60, |inner| json!({"anyOf": [inner, {"type": "string"}]}))),
        ("allOf", nested(60, |inner| json!({"allOf": [inner]}))),
    ];
    // Chains of references are as deep for the compiler, though they are not nested.
    levels.push(("chain", chain(2000, |next| json!({"$ref": next}))));
    levels.push(("typed chain", chain(2000, |next| json!({"$ref": next, "type": "object"}))));
    let long = chain(100, |next| {
        (0..50).fold(json!({"$ref": next}), |inner, _| json!({"anyOf": [inner, {"type": "string"}]}))
    });
    levels.push(("nested chain", long));
    for (name, value) in levels {
        survive(&grammars, &schema(value), name).unwrap();
    }
    let rules = |rule: &dyn Fn(usize) -> String| {
        let all: String = (0..3500).map(rule).collect();
        format!("start: a0\n{all}a3500: \"x\"\nA3500: \"x\"\n")
    };
    survive(&grammars, &lark(&rules(&|at| format!("a{at}: a{}\n", at + 1))), "rules").unwrap();
    let terminals = rules(&|at| format!("A{at}: \"x\" A{}\n", at + 1)).replace("start: a0", "start: A0");
    survive(&grammars, &lark(&terminals), "terminals").unwrap();
}

#[test]
fn expressions_that_explode() {
    let grammars = toy_grammars();
    for source in [
        "(a+)+$",
        "(a|a)*b",
        "(.*)*(a|b|ab)*.{300}x",
        "(.*a.{200})",
        "(a?){200}a{200}",
        r"(\p{L}{200}x?){100}",
        "(x+x+)+y",
        "((a{100}){100}){100}",
        "(((a|b){0,50}c){0,50}d){0,50}",
    ] {
        let result = survive(&grammars, &regex(source), source);
        assert!(matches!(result, Ok(()) | Err(GrammarError::TooComplex { .. })), "{source}: {result:?}");
        let pattern = schema(json!({"type": "string", "pattern": source}));
        let result = survive(&grammars, &pattern, source);
        assert!(matches!(result, Ok(()) | Err(GrammarError::TooComplex { .. })), "{source}: {result:?}");
    }
    let result = survive(&grammars, &regex("((a{1000}){1000}){1000}"), "a thousand million");
    assert!(matches!(result, Err(GrammarError::TooComplex { .. })), "{result:?}");
    survive(&grammars, &regex(&"a?b".repeat(20_000)), "long").unwrap();
    let words: Vec<String> = (0..8000).map(|word| format!("x{word}y")).collect();
    survive(&grammars, &regex(&words.join("|")), "words").unwrap();
    survive(&grammars, &GrammarSpec::Choice(words), "choices").unwrap();
}

#[test]
fn references_that_go_round() {
    let grammars = toy_grammars();
    let two =
        json!({"a": {"properties": {"b": {"$ref": "#/$defs/b"}}}, "b": {"properties": {"a": {"$ref": "#/$defs/a"}}}});
    survive(&grammars, &schema(json!({"$ref": "#/$defs/a", "$defs": two})), "two").unwrap();
    for (name, value) in [
        ("itself", json!({"$ref": "#"})),
        ("beside", json!({"$ref": "#", "type": "object"})),
        ("allOf", json!({"allOf": [{"$ref": "#"}, {"type": "object"}]})),
        ("anyOf", json!({"anyOf": [{"$ref": "#"}]})),
        ("dynamic", json!({"$dynamicRef": "#"})),
    ] {
        let error = survive(&grammars, &schema(value), name).unwrap_err();
        let known = matches!(error, GrammarError::Unsatisfiable { .. } | GrammarError::Bad { .. });
        assert!(known, "{name}: {error}");
    }
}

#[test]
fn schemas_that_multiply() {
    let grammars = toy_grammars();
    let choice = |half: usize| -> Vec<Value> {
        let property = |at: usize| json!({"type": "string", "maxLength": at + 1});
        (0..200).map(|at| json!({"properties": {format!("p{half}x{at}"): property(at)}, "type": "object"})).collect()
    };
    let product = json!({"allOf": [{"anyOf": choice(0)}, {"anyOf": choice(1)}, {"anyOf": choice(2)}]});
    let optional: Map<String, Value> = (0..2000).map(|at| (format!("p{at}"), json!({"type": "integer"}))).collect();
    let patterns: Map<String, Value> =
        (0..60).map(|at| (format!("^(a?){{{at}}}b{at}.*c$"), json!({"type": "integer"}))).collect();
    for (name, value) in [
        ("product", product),
        ("optional", json!({"type": "object", "properties": optional.clone()})),
        ("at least", json!({"type": "object", "properties": optional, "minProperties": 1000})),
        ("patterns", json!({"type": "object", "patternProperties": patterns})),
        ("long", json!({"type": "string", "minLength": 1_000_000})),
        ("many", json!({"type": "array", "items": {"type": "integer"}, "minItems": 1_000_000})),
        ("multiples", json!({"type": "integer", "multipleOf": 99_991, "maximum": 1e300})),
        ("numbers", json!({"type": "number", "minimum": -1e308, "maximum": 1.000_000_000_000_000_2e-300})),
    ] {
        let result = survive(&grammars, &schema(value), name);
        let known = matches!(
            result,
            Ok(()) | Err(GrammarError::Bad { .. } | GrammarError::TooComplex { .. } | GrammarError::TooSlow { .. })
        );
        assert!(known, "{name}: {result:?}");
    }
}

/// Remainders are states that nobody counts.
#[test]
fn multiples_of_large_numbers() {
    let grammars = toy_grammars();
    let multiple = |of: f64| json!({"type": "number", "multipleOf": of});
    let both = json!({"allOf": [multiple(997.0), multiple(998.0)]});
    for spec in [schema(multiple(999_983.0)), schema(both), lark("start: %json {\"multiple\\u004ff\": 999983}")] {
        let error = survive(&grammars, &spec, "multiples").unwrap_err();
        assert!(matches!(error, GrammarError::TooLarge { limit: 100_000, .. }), "{error}");
    }
    survive(&grammars, &schema(json!({"allOf": [multiple(0.25), multiple(60.0)]})), "sixty").unwrap();
}

/// Any numbers, expressions and formats in any place.
fn wild() -> impl Strategy<Value = Value> {
    const NUMBERS: [f64; 16] = [
        0.0,
        1.0,
        -1.0,
        2.0,
        7.0,
        100.0,
        65_537.0,
        2_147_483_648.0,
        4_294_967_296.0,
        9e15,
        1e18,
        1e308,
        -1e308,
        0.1,
        1e-9,
        0.3,
    ];
    const PATTERNS: [&str; 8] =
        ["(a+)+$", "(.*)*b", "^.{1000}$", r"\p{L}+\d{500}", "(a|b)*c{999}", "^(?:x{99}){99}$", "[", "$^"];
    let number = proptest::sample::select(&NUMBERS[..]);
    let text = proptest::sample::select(&PATTERNS[..]);
    let format = proptest::sample::select(vec!["email", "uri", "date-time", "uuid", "ipv6", "idn-email", "regex"]);
    let bound = proptest::sample::select(vec![
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "minProperties",
        "maxProperties",
        "const",
    ]);
    let kind = proptest::sample::select(vec!["integer", "number", "string", "array", "object"]);
    let leaf = prop_oneof![
        (kind, proptest::collection::vec((bound, number), 0..4)).prop_map(|(kind, bounds)| {
            let bounds = bounds.into_iter().map(|(key, number)| {
                let whole = number.fract() == 0.0 && number.abs() < 1e19;
                (key.to_owned(), if whole { json!(number as i64) } else { json!(number) })
            });
            Value::Object(bounds.chain([("type".to_owned(), json!(kind))]).collect())
        }),
        (text, any::<u16>()).prop_map(|(text, most)| json!({"type": "string", "pattern": text, "maxLength": most})),
        format.prop_map(|format| json!({"type": "string", "format": format, "minLength": 100})),
        Just(json!({"$ref": "#"})),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let several = proptest::collection::vec(inner.clone(), 1..4);
        let word = proptest::sample::select(vec!["anyOf", "allOf", "oneOf", "prefixItems"]);
        let key = proptest::sample::select(vec!["properties", "patternProperties"]);
        prop_oneof![
            (word, several).prop_map(|(word, parts)| json!({word: parts})),
            (key, text_of(), inner.clone(), inner.clone())
                .prop_map(|(key, name, value, other)| json!({key: {name: value}, "additionalProperties": other})),
            inner.prop_map(|items| json!({"type": "array", "items": items})),
        ]
    })
}

fn text_of() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec!["a", "^a", ".*", "(a|b)+$", "\"", "日"])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn wild_schemas_are_bounded(value in wild()) {
        static GRAMMARS: OnceLock<Grammars> = OnceLock::new();
        let result = survive(GRAMMARS.get_or_init(toy_grammars), &schema(value), "wild");
        prop_assert!(!matches!(result, Err(GrammarError::TooSlow { .. } | GrammarError::Refused { .. })), "{result:?}");
    }
}

#[test]
fn ambiguous_rules() {
    let grammars = toy_grammars();
    survive(&grammars, &lark("start: e\ne: e e | \"a\" |"), "ambiguous").unwrap();
    survive(&grammars, &lark("start: e\ne: \"a\" e | \"a\""), "right").unwrap();
    let result = survive(&grammars, &lark("start: ((\"a\"{100}){100}){100}"), "repeated");
    assert!(matches!(result, Err(GrammarError::TooComplex { .. })), "{result:?}");
}
