//! What Python mlx-lm 0.32.2 computes, recorded in `fixtures/sample.json` (`null` is minus infinity).
#![allow(clippy::float_cmp, clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;

use mlxlm_core::{Array, random};
use mlxlm_sample::samplers::{MinP, Sampler, SamplerOptions, Temperature, TopK, TopP, Xtc};
use mlxlm_sample::{ProcessorOptions, Result, logits_processors};
use serde::Deserialize;
use serde_json::Value;

type Row = Vec<Option<f32>>;

#[derive(Deserialize)]
struct Fixture {
    logits: BTreeMap<String, Row>,
    logprobs: BTreeMap<String, Row>,
    filters: Vec<Filtered>,
    processors: Vec<Processed>,
    chains: Vec<Chained>,
    greedy: BTreeMap<String, u32>,
    errors: Vec<Refused>,
    categorical: Vec<Drawn>,
}

#[derive(Deserialize)]
struct Filtered {
    kind: String,
    params: Value,
    input: String,
    output: Row,
    #[serde(default)]
    tie: bool,
}

#[derive(Deserialize)]
struct Processed {
    params: Value,
    history: Vec<u32>,
    input: String,
    output: Row,
}

#[derive(Deserialize)]
struct Chained {
    params: Value,
    input: String,
    output: Row,
}

#[derive(Deserialize)]
struct Refused {
    kind: String,
    params: Value,
}

#[derive(Deserialize)]
struct Drawn {
    input: String,
    temp: f64,
    draws: usize,
    frequency: Vec<f64>,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("fixtures/sample.json")).unwrap()
}

fn values(row: &Row) -> Vec<f32> {
    row.iter().map(|x| x.unwrap_or(f32::NEG_INFINITY)).collect()
}

fn array(row: &Row) -> Array {
    Array::from_slice(&values(row), &[1, row.len() as i32])
}

fn number(params: &Value, name: &str) -> f64 {
    params[name].as_f64().unwrap()
}

fn size(params: &Value, name: &str) -> usize {
    params[name].as_u64().unwrap() as usize
}

/// The filter `kind` with `params`, on `logprobs`.
fn filter(kind: &str, params: &Value, logprobs: &Array) -> Result<Array> {
    match kind {
        "top_p" => TopP::new(number(params, "top_p"))?.apply(logprobs),
        "min_p" => MinP::new(number(params, "min_p"), size(params, "min_tokens_to_keep"))?.apply(logprobs),
        "top_k" => TopK::new(size(params, "top_k")).apply(logprobs),
        "xtc" => {
            let special: Vec<u32> = serde_json::from_value(params["xtc_special_tokens"].clone()).unwrap();
            Xtc::new(number(params, "xtc_probability"), number(params, "xtc_threshold"), &special)?
                .apply(logprobs, &random::key(1)?)
        }
        other => panic!("unknown kind of filter `{other}`"),
    }
}

fn process(params: &Value, history: &[u32], logits: &Array) -> Result<Array> {
    let mut options = ProcessorOptions::default();
    for (name, value) in params.as_object().unwrap() {
        match name.as_str() {
            "logit_bias" => {
                let bias: BTreeMap<String, f64> = serde_json::from_value(value.clone()).unwrap();
                options.logit_bias = bias.into_iter().map(|(id, value)| (id.parse().unwrap(), value)).collect();
            }
            "repetition_penalty" => options.repetition_penalty = value.as_f64(),
            "repetition_context_size" => options.repetition_context_size = value.as_u64().unwrap() as usize,
            "presence_penalty" => options.presence_penalty = value.as_f64(),
            "presence_context_size" => options.presence_context_size = value.as_u64().unwrap() as usize,
            "frequency_penalty" => options.frequency_penalty = value.as_f64(),
            "frequency_context_size" => options.frequency_context_size = value.as_u64().unwrap() as usize,
            other => panic!("unknown parameter `{other}`"),
        }
    }
    let history = Array::from_slice(history, &[history.len() as i32]);
    let mut logits = logits.clone();
    for processor in logits_processors(&options)? {
        logits = processor.process(&history, &logits)?;
    }
    Ok(logits)
}

#[track_caller]
fn check(what: &str, got: &Array, expected: &Row) {
    let got: Vec<f32> = got.to_vec_exact().unwrap();
    for (i, (got, expected)) in got.iter().zip(values(expected)).enumerate() {
        let same = *got == expected || (got - expected).abs() <= 1e-5 * expected.abs().max(1.0);
        assert!(same, "{what}: entry {i} is {got}, expected {expected}");
    }
}

#[test]
fn filters() {
    let fixture = fixture();
    assert!(fixture.filters.len() > 200);
    for case in &fixture.filters {
        let what = format!("{} {} on {}", case.kind, case.params, case.input);
        let got = filter(&case.kind, &case.params, &array(&fixture.logprobs[&case.input])).unwrap();
        if case.tie {
            // Which of the tying tokens stay is not determined; how many is, and what they are worth.
            let sorted = |row: &[f32]| {
                let mut row = row.to_vec();
                row.sort_by(f32::total_cmp);
                row
            };
            assert_eq!(sorted(&got.to_vec_exact::<f32>().unwrap()), sorted(&values(&case.output)), "{what}");
        } else {
            check(&what, &got, &case.output);
        }
    }
}

#[test]
fn chains() {
    let fixture = fixture();
    assert!(!fixture.chains.is_empty());
    for case in &fixture.chains {
        let mut got = array(&fixture.logprobs[&case.input]);
        for kind in case.params["order"].as_array().unwrap() {
            got = filter(kind.as_str().unwrap(), &case.params, &got).unwrap();
        }
        check(&format!("chain on {}", case.input), &got, &case.output);
    }
}

#[test]
fn processors() {
    let fixture = fixture();
    assert!(fixture.processors.len() > 200);
    for case in &fixture.processors {
        let got = process(&case.params, &case.history, &array(&fixture.logits[&case.input])).unwrap();
        check(&format!("{} after {:?} on {}", case.params, case.history, case.input), &got, &case.output);
    }
}

#[test]
fn greedy() {
    let fixture = fixture();
    assert!(!fixture.greedy.is_empty());
    for (input, token) in &fixture.greedy {
        let got = Sampler::greedy().sample(&array(&fixture.logprobs[input])).unwrap();
        assert_eq!(got.to_vec_exact::<u32>().unwrap(), [*token], "{input}");
    }
}

#[test]
fn errors() {
    let fixture = fixture();
    assert!(!fixture.errors.is_empty());
    for case in &fixture.errors {
        let row = array(&fixture.logprobs["peaked"]);
        let got = match case.kind.as_str() {
            "processors" => process(&case.params, &[], &row),
            kind => filter(kind, &case.params, &row),
        };
        assert!(got.is_err(), "{} {} is accepted", case.kind, case.params);
    }
}

#[test]
fn frequencies_of_draws() {
    let fixture = fixture();
    assert!(!fixture.categorical.is_empty());
    for case in &fixture.categorical {
        let row = values(&fixture.logprobs[&case.input]);
        let many = Array::from_slice(&row.repeat(case.draws), &[case.draws as i32, row.len() as i32]);
        let drawn = Temperature::new(case.temp).unwrap().draw(&many, &random::key(5).unwrap()).unwrap();
        let mut counts = vec![0; row.len()];
        for token in drawn.to_vec_exact::<u32>().unwrap() {
            counts[token as usize] += 1;
        }
        for (token, (count, expected)) in counts.iter().zip(&case.frequency).enumerate() {
            let got = f64::from(*count) / case.draws as f64;
            assert!(
                (got - expected).abs() < 0.015,
                "temp {}: token {token} came {got}, expected {expected}",
                case.temp
            );
        }
    }
}

/// One seed gives the tokens that `mx.random.seed` and `make_sampler` give in Python.
#[test]
fn seeded_draws() {
    let row = Array::from_slice(&(0..16).map(|i| -0.25 * i as f32).collect::<Vec<_>>(), &[1, 16]);
    let mut sampler = Sampler::new(&SamplerOptions {
        temp: 0.8,
        top_p: 0.95,
        xtc_probability: 0.5,
        xtc_threshold: 0.1,
        seed: Some(7),
        ..Default::default()
    })
    .unwrap();
    let got: Vec<u32> = (0..16).map(|_| sampler.sample(&row).unwrap().try_item_exact().unwrap()).collect();
    assert_eq!(got, [10, 3, 3, 1, 4, 3, 1, 3, 4, 0, 2, 0, 8, 9, 5, 3]);
}
