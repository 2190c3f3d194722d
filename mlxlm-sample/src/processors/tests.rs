//! Laws of the processors; the values of the reference are in `tests/golden.rs`.
#![allow(clippy::float_cmp, reason = "values are kept as they are, or computed exactly")]

use mlxlm_core::{Array, Dtype};
use proptest::prelude::*;

use super::*;
use crate::SamplerOptions;
use crate::engine::Chooser;

const V: usize = 10;

fn process(options: &ProcessorOptions, history: &[u32], logits: &[f32]) -> Vec<f32> {
    let history = Array::from_slice(history, &[history.len() as i32]);
    let mut logits = Array::from_slice(logits, &[1, logits.len() as i32]);
    for processor in logits_processors(options).unwrap() {
        logits = processor.process(&history, &logits).unwrap();
    }
    logits.to_vec_exact().unwrap()
}

fn options() -> ProcessorOptions {
    ProcessorOptions::default()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn neutral_parameters_change_nothing(
        logits in prop::collection::vec(-8.0f32..8.0, V), history in prop::collection::vec(0..V as u32, 0..30),
    ) {
        let neutral = ProcessorOptions {
            repetition_penalty: Some(1.0), presence_penalty: Some(0.0), frequency_penalty: Some(0.0), ..options()
        };
        prop_assert_eq!(process(&neutral, &history, &logits), logits.clone());
        let bias = ProcessorOptions { logit_bias: [(2, 0.0)].into(), ..options() };
        prop_assert_eq!(process(&bias, &history, &logits), logits);
    }

    #[test]
    fn only_tokens_of_the_context_change(
        logits in prop::collection::vec(0.5f32..8.0, V), history in prop::collection::vec(0..V as u32, 1..30), n in 1..12usize,
    ) {
        let recent = &history[history.len().saturating_sub(n)..];
        let times = |id: usize| recent.iter().filter(|&&token| token as usize == id).count() as f32;
        let once = |id: usize| times(id).min(1.0);
        let presence = ProcessorOptions { presence_penalty: Some(0.5), presence_context_size: n, ..options() };
        let frequency = ProcessorOptions { frequency_penalty: Some(0.25), frequency_context_size: n, ..options() };
        let repetition = ProcessorOptions { repetition_penalty: Some(2.0), repetition_context_size: n, ..options() };
        for id in 0..V {
            prop_assert_eq!(process(&presence, &history, &logits)[id], logits[id] - 0.5 * once(id));
            prop_assert!((process(&frequency, &history, &logits)[id] - (logits[id] - 0.25 * times(id))).abs() < 1e-4);
            prop_assert_eq!(process(&repetition, &history, &logits)[id], logits[id] / (1.0 + once(id)));
        }
    }

    #[test]
    fn a_context_of_zero_is_the_whole_history(
        logits in prop::collection::vec(-8.0f32..8.0, V), history in prop::collection::vec(0..V as u32, 1..30),
    ) {
        let of_size = |size| ProcessorOptions {
            repetition_penalty: Some(1.5), repetition_context_size: size,
            presence_penalty: Some(0.5), presence_context_size: size,
            frequency_penalty: Some(0.5), frequency_context_size: size, ..options()
        };
        prop_assert_eq!(process(&of_size(0), &history, &logits), process(&of_size(1000), &history, &logits));
    }
}

#[test]
fn the_type_of_the_logits_stays() {
    let all = ProcessorOptions {
        logit_bias: [(1, 2.0)].into(),
        repetition_penalty: Some(1.5),
        presence_penalty: Some(0.5),
        frequency_penalty: Some(0.5),
        ..options()
    };
    let mut logits = Array::from_slice(&[1.0_f32, 2.0, 3.0], &[1, 3]).as_dtype(Dtype::Bfloat16).unwrap();
    for processor in logits_processors(&all).unwrap() {
        logits = processor.process(&Array::from_slice(&[1_u32, 2], &[2]), &logits).unwrap();
        assert_eq!(logits.dtype(), Dtype::Bfloat16);
        assert_eq!(logits.shape(), [1, 3]);
    }
}

#[test]
fn minus_infinity_forbids_a_token() {
    let forbid = ProcessorOptions { logit_bias: [(1, f64::NEG_INFINITY)].into(), ..options() };
    assert_eq!(process(&forbid, &[], &[1.0, 2.0]), [1.0, f32::NEG_INFINITY]);
}

/// Whatever finite number is asked for, in whatever type, a token can be chosen, and the right one.
#[test]
fn extreme_numbers_still_choose() {
    type Make = fn(f64) -> ProcessorOptions;
    let sizes = [1e-300, 1e-30, 1e30, 1e300];
    // What a small number leaves the best is token 2.
    let cases: [(&str, Make, u32); 6] = [
        ("bias up", |n| ProcessorOptions { logit_bias: [(1, n)].into(), ..options() }, 1),
        ("bias down", |n| ProcessorOptions { logit_bias: [(2, -n)].into(), ..options() }, 1),
        ("repetition", |n| ProcessorOptions { repetition_penalty: Some(n), ..options() }, 1),
        ("presence", |n| ProcessorOptions { presence_penalty: Some(n), ..options() }, 1),
        ("frequency", |n| ProcessorOptions { frequency_penalty: Some(n), ..options() }, 1),
        ("favour", |n| ProcessorOptions { presence_penalty: Some(-n), ..options() }, 2),
    ];
    for dtype in [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16] {
        let logits = Array::from_slice(&[1.0_f32, 2.0, 3.0, -4.0], &[1, 4]).as_dtype(dtype).unwrap();
        for (name, make, of_large) in cases {
            for size in sizes {
                let mut chooser = Chooser::from_options(&SamplerOptions::default(), &make(size)).unwrap();
                chooser.note(&Array::from_slice(&[2_u32, 3, 2], &[3])).unwrap();
                let id = chooser.choose(&logits).unwrap().id(0).unwrap();
                assert_eq!(id, if size < 1.0 { 2 } else { of_large }, "{dtype:?}: {name} of {size}");
            }
        }
    }
}

fn check_refused(options: &ProcessorOptions, expected: &str) {
    let refused = logits_processors(options)
        .and_then(|processors| processors.iter().try_for_each(|processor| processor.check_vocabulary(V as i32)));
    assert_eq!(refused.unwrap_err().to_string(), expected);
}

#[test]
fn what_is_out_of_range_is_refused_by_name() {
    check_refused(
        &ProcessorOptions { repetition_penalty: Some(-1.0), ..options() },
        "`repetition_penalty` is -1, expected a positive number, or 0 for none",
    );
    check_refused(
        &ProcessorOptions { presence_penalty: Some(f64::NAN), ..options() },
        "`presence_penalty` is NaN, expected a finite number",
    );
    check_refused(
        &ProcessorOptions { frequency_penalty: Some(f64::INFINITY), ..options() },
        "`frequency_penalty` is inf, expected a finite number",
    );
    check_refused(
        &ProcessorOptions { logit_bias: [(3, f64::INFINITY)].into(), ..options() },
        "`logit_bias` is inf, expected numbers below infinity",
    );
    check_refused(
        &ProcessorOptions { logit_bias: [(3, 1.0), (10, 1.0)].into(), ..options() },
        "token id 10 in `logit_bias` is outside the vocabulary of 10 tokens",
    );
}
