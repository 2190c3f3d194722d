//! Random answers: whatever the masks allow is what the grammar says.

use std::sync::OnceLock;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

/// More white space in a row than this is never allowed.
const MOST_BLANKS: usize = 68;

/// The toy vocabulary and trained ones.
fn vocabularies() -> &'static [(Tokenizer, Grammars)] {
    static ALL: OnceLock<Vec<(Tokenizer, Grammars)>> = OnceLock::new();
    ALL.get_or_init(|| {
        let trained = TRAINED.iter().map(|folder| trained(folder));
        std::iter::once(toy()).chain(trained).map(|one| (one.clone(), Grammars::new(&one, 2000))).collect()
    })
}

/// Schemas of which the test knows what they mean.
fn schemas() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({"type": "null"})),
        Just(json!({"type": "boolean"})),
        (-50i64..50, 0i64..1000)
            .prop_map(|(least, more)| json!({"type": "integer", "minimum": least, "maximum": least + more})),
        (-5i64..5, 1i64..9)
            .prop_map(|(least, more)| json!({"type": "number", "minimum": least, "maximum": least + more})),
        (0usize..4, 0usize..6)
            .prop_map(|(least, more)| json!({"type": "string", "minLength": least, "maxLength": least + more})),
        vec("[a-c\"\\\\é日 ]{0,3}", 1..4).prop_map(|texts| json!({"enum": texts})),
        any::<i32>().prop_map(|number| json!({"const": number})),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        let object = btree_map("[a-z\"é]{1,4}", (inner.clone(), any::<bool>()), 0..3).prop_map(|fields| {
            let required: Vec<&String> = fields.iter().filter(|(_, (_, required))| *required).map(|(key, _)| key).collect();
            let properties: Map<String, Value> = fields.iter().map(|(key, (value, _))| (key.clone(), value.clone())).collect();
            json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
        });
        let array = (inner.clone(), 0usize..3, 0usize..3)
            .prop_map(|(items, least, more)| json!({"type": "array", "items": items, "minItems": least, "maxItems": least + more}));
        let any_of = vec(inner, 1..3).prop_map(|options| json!({"anyOf": options}));
        prop_oneof![3 => object, 2 => array, 1 => any_of]
    })
}

/// Whether a value is one of a schema that [`schemas`] makes.
fn fits(schema: &Value, value: &Value) -> bool {
    let count = |key: &str| schema[key].as_u64().map(|count| count as usize);
    let within = |count: usize, least: Option<usize>, most: Option<usize>| {
        least.is_none_or(|least| count >= least) && most.is_none_or(|most| count <= most)
    };
    if let Some(options) = schema["anyOf"].as_array() {
        return options.iter().any(|option| fits(option, value));
    }
    if let Some(options) = schema["enum"].as_array() {
        return options.contains(value);
    }
    if !schema["const"].is_null() {
        return schema["const"] == *value;
    }
    match (schema["type"].as_str().unwrap(), value) {
        ("null", Value::Null) | ("boolean", Value::Bool(_)) => true,
        ("integer" | "number", Value::Number(number)) => {
            let number = number.as_f64().unwrap();
            (number.fract() == 0.0 || schema["type"] == "number")
                && schema["minimum"].as_f64().is_none_or(|least| number >= least)
                && schema["maximum"].as_f64().is_none_or(|most| number <= most)
        }
        ("string", Value::String(text)) => within(text.chars().count(), count("minLength"), count("maxLength")),
        ("array", Value::Array(items)) => {
            within(items.len(), count("minItems"), count("maxItems"))
                && items.iter().all(|item| fits(&schema["items"], item))
        }
        ("object", Value::Object(fields)) => {
            schema["required"].as_array().unwrap().iter().all(|key| fields.contains_key(key.as_str().unwrap()))
                && fields
                    .iter()
                    .all(|(key, value)| schema["properties"].get(key).is_some_and(|inner| fits(inner, value)))
        }
        _ => false,
    }
}

fn bytes(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<u8> {
    ids.iter().flat_map(|id| tokenizer.token_bytes(*id).unwrap()).collect()
}

/// Most bytes of white space in a row.
fn blanks(text: &[u8]) -> usize {
    text.split(|byte| !byte.is_ascii_whitespace()).map(<[u8]>::len).max().unwrap_or(0)
}

/// An answer of random tokens, or what there is of it after `most` tokens.
fn walk(tokenizer: &Tokenizer, matcher: &mut Matcher, seed: u64, most: usize) -> (Vec<u32>, bool) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut ids = Vec::new();
    while ids.len() < most && !matcher.is_over() {
        let mask = matcher.mask().unwrap();
        let allowed: Vec<u32> = mask.ids().collect();
        let ends = allowed.iter().any(|id| tokenizer.eos_token_ids().contains(id));
        assert_eq!(ends, matcher.can_end().unwrap());
        let id = allowed[random.random_range(0..allowed.len())];
        if random.random_bool(0.2) {
            matcher.forced().unwrap();
        }
        matcher.accept(id).unwrap();
        if tokenizer.eos_token_ids().contains(&id) {
            assert!(matcher.is_over());
            return (ids, true);
        }
        ids.push(id);
    }
    (ids, matcher.is_over())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_answers_are_json_of_the_schema(value in schemas(), seed in any::<u64>(), vocabulary in 0usize..7) {
        let (tokenizer, grammars) = &vocabularies()[vocabulary];
        let mut matcher = grammars.matcher(&schema(value.clone())).unwrap();
        let (ids, over) = walk(tokenizer, &mut matcher, seed, 3000);
        let text = bytes(tokenizer, &ids);
        prop_assert!(blanks(&text) <= MOST_BLANKS, "{:?}", String::from_utf8_lossy(&text));
        if over {
            let parsed: Result<Value, _> = serde_json::from_slice(&text);
            prop_assert!(parsed.as_ref().is_ok_and(|parsed| fits(&value, parsed)), "{:?}: {parsed:?}", String::from_utf8_lossy(&text));
        }
    }

    /// Masks along a proposal are those that are met when it is taken, and proposing changes nothing.
    #[test]
    fn proposals_change_nothing(value in schemas(), seed in any::<u64>(), vocabulary in 0usize..7, start in 0usize..20, wrong in any::<u16>()) {
        let (tokenizer, grammars) = &vocabularies()[vocabulary];
        let mut matcher = grammars.matcher(&schema(value)).unwrap();
        walk(tokenizer, &mut matcher, seed, start);
        let before = matcher.mask().unwrap();
        let (mut proposal, _) = walk(tokenizer, &mut matcher.clone(), seed.wrapping_add(1), 6);
        proposal.push(u32::from(wrong) % 2500);
        let accepted = matcher.accepted_prefix(&proposal).unwrap();
        let masks = matcher.masks_along(&proposal).unwrap();
        prop_assert_eq!(matcher.mask().unwrap(), before.clone());
        prop_assert_eq!(&masks[0], &before);
        // A mask forces the tokens of a tokenizer, and a proposal may spell a forced text in others.
        prop_assert!(masks.len() <= accepted + 1);
        let mut fork = matcher.clone();
        for (id, mask) in proposal.iter().zip(&masks[1..]) {
            fork.accept(*id).unwrap();
            prop_assert_eq!(&fork.mask().unwrap(), mask);
        }
        if let Some(id) = proposal.get(accepted) {
            prop_assert!(!masks.last().unwrap().allows(*id) || masks.len() <= accepted);
        }
        prop_assert_eq!(matcher.mask().unwrap(), before);
    }
}

/// A model that likes white space gets a little of it, then has to go on: blanks, or ends of line before blanks.
#[test]
fn white_space_ends() {
    let list =
        json!({"type": "array", "items": {"type": "object", "properties": {"a": {"type": "integer"}}}, "maxItems": 3});
    let specs = [GrammarSpec::JsonObject, schema(list)];
    let answers = vocabularies().iter().flat_map(|(tokenizer, grammars)| {
        let both = [false, true].map(|lines_first| (tokenizer, grammars, lines_first));
        both.into_iter().flat_map(|one| specs.iter().map(move |spec| (one, spec)))
    });
    for ((tokenizer, grammars, lines_first), spec) in answers {
        let mut matcher = grammars.matcher(spec).unwrap();
        let mut text = Vec::new();
        for _ in 0..400 {
            let rank = |id: &u32| match tokenizer.token_bytes(*id).unwrap_or_default() {
                _ if tokenizer.eos_token_ids().contains(id) => 2,
                bytes if !bytes.is_empty() && blanks(&bytes) == bytes.len() => {
                    u32::from((bytes[0] == b'\n') != lines_first)
                }
                bytes if bytes == b"}" || bytes == b"]" => 3,
                _ => 4,
            };
            let Some(id) = matcher.mask().unwrap().ids().min_by_key(rank) else { break };
            matcher.accept(id).unwrap();
            if matcher.is_over() {
                if !tokenizer.eos_token_ids().contains(&id) {
                    text.extend(tokenizer.token_bytes(id).unwrap());
                }
                break;
            }
            text.extend(tokenizer.token_bytes(id).unwrap());
        }
        assert!(blanks(&text) <= MOST_BLANKS && matcher.is_over(), "{:?}", String::from_utf8_lossy(&text));
        serde_json::from_slice::<Value>(&text).unwrap();
    }
}
