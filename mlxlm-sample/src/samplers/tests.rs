//! Laws of the filters and of the random state; the values of the reference are in `tests/golden.rs`.
#![allow(clippy::float_cmp, reason = "values are kept as they are, or computed exactly")]

use mlxlm_core::Array;
use proptest::prelude::*;

use super::*;
use crate::Error;

const V: i32 = 12;

fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = logits.iter().map(|x| (x - max).exp()).sum();
    logits.iter().map(|x| x - max - sum.ln()).collect()
}

/// Rows of log-probabilities; multiples of a quarter, so that ties occur.
fn logprobs() -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(-12i8..12, V as usize)
        .prop_map(|row| log_softmax(&row.iter().map(|&x| f32::from(x) * 0.25).collect::<Vec<_>>()))
}

fn row(values: &[f32]) -> Array {
    Array::from_slice(values, &[1, values.len() as i32])
}

fn kept(filtered: &Array) -> Vec<bool> {
    filtered.to_vec_exact::<f32>().unwrap().iter().map(|x| x.is_finite()).collect()
}

fn best(values: &[f32]) -> usize {
    (0..values.len()).fold(0, |best, i| if values[i] > values[best] { i } else { best })
}

fn count(kept: &[bool]) -> usize {
    kept.iter().filter(|&&kept| kept).count()
}

fn subset(inner: &[bool], outer: &[bool]) -> bool {
    inner.iter().zip(outer).all(|(inner, outer)| !inner || *outer)
}

/// What is kept keeps its value, and what is not is minus infinity.
fn only_removes(filtered: &Array, values: &[f32]) -> bool {
    filtered.to_vec_exact::<f32>().unwrap().iter().zip(values).all(|(new, old)| new == old || *new == f32::NEG_INFINITY)
}

fn key(seed: u64) -> Array {
    mlxlm_core::random::key(seed).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn top_p_keeps_the_best_its_share_and_all_ties(values in logprobs(), p in 0.01..0.99f64, q in 0.01..0.99f64) {
        let (p, q) = (p.min(q), p.max(q));
        let filtered = TopP::new(p).unwrap().apply(&row(&values)).unwrap();
        let small = kept(&filtered);
        prop_assert!(only_removes(&filtered, &values));
        prop_assert!(small[best(&values)]);
        prop_assert!(subset(&small, &kept(&TopP::new(q).unwrap().apply(&row(&values)).unwrap())));
        let mass: f32 = values.iter().zip(&small).filter(|(_, kept)| **kept).map(|(x, _)| x.exp()).sum();
        prop_assert!(f64::from(mass) >= p - 1e-5);
        for (i, x) in values.iter().enumerate() {
            for (j, y) in values.iter().enumerate() {
                prop_assert!(x != y || small[i] == small[j], "{x} is kept once and dropped once");
            }
        }
    }

    #[test]
    fn min_p_keeps_the_best_and_shrinks_with_p(values in logprobs(), p in 0.01..1.0f64, q in 0.01..1.0f64, keep in 1..V as usize) {
        let (p, q) = (p.min(q), p.max(q));
        let wide = MinP::new(p, 1).unwrap().apply(&row(&values)).unwrap();
        prop_assert!(only_removes(&wide, &values));
        let narrow = kept(&MinP::new(q, 1).unwrap().apply(&row(&values)).unwrap());
        prop_assert!(narrow[best(&values)]);
        prop_assert!(subset(&narrow, &kept(&wide)));
        let at_least = kept(&MinP::new(q, keep).unwrap().apply(&row(&values)).unwrap());
        prop_assert!(subset(&narrow, &at_least));
        prop_assert_eq!(count(&at_least), count(&narrow).max(keep));
    }

    #[test]
    fn top_k_keeps_k_of_the_largest(values in logprobs(), k in 1..V as usize) {
        let filtered = TopK::new(k).apply(&row(&values)).unwrap();
        let kept = kept(&filtered);
        prop_assert!(only_removes(&filtered, &values));
        prop_assert_eq!(count(&kept), k);
        let least_kept = (0..values.len()).filter(|&i| kept[i]).map(|i| values[i]).fold(f32::INFINITY, f32::min);
        let most_dropped = (0..values.len()).filter(|&i| !kept[i]).map(|i| values[i]).fold(f32::NEG_INFINITY, f32::max);
        prop_assert!(least_kept >= most_dropped);
    }

    #[test]
    fn xtc_leaves_one_top_choice_and_the_special_tokens(values in logprobs(), threshold in 0.0..0.5f64, special in 0..V as u32) {
        let filtered = Xtc::new(1.0, threshold, &[special]).unwrap().apply(&row(&values), &key(0)).unwrap();
        let kept = kept(&filtered);
        prop_assert!(only_removes(&filtered, &values));
        prop_assert!(kept[special as usize]);
        let likely = |i: &usize| f64::from(values[*i].exp()) > threshold + 1e-6;
        let unlikely = |i: &usize| f64::from(values[*i].exp()) < threshold - 1e-6;
        prop_assert!((0..values.len()).filter(unlikely).all(|i| kept[i]));
        if let Some(least) = (0..values.len()).filter(likely).min_by(|&i, &j| values[i].total_cmp(&values[j])) {
            prop_assert!(kept[least]);
        }
    }

    #[test]
    fn rows_are_filtered_each_on_its_own(a in logprobs(), b in logprobs(), p in 0.05..0.95f64, k in 1..V as usize) {
        let both = Array::from_slice(&[a.clone(), b.clone()].concat(), &[2, V]);
        let split = |filtered: Array| kept(&filtered).chunks(V as usize).map(<[bool]>::to_vec).collect::<Vec<_>>();
        let top_p = TopP::new(p).unwrap();
        prop_assert_eq!(split(top_p.apply(&both).unwrap()), [kept(&top_p.apply(&row(&a)).unwrap()), kept(&top_p.apply(&row(&b)).unwrap())]);
        let min_p = MinP::new(p, 2).unwrap();
        prop_assert_eq!(split(min_p.apply(&both).unwrap()), [kept(&min_p.apply(&row(&a)).unwrap()), kept(&min_p.apply(&row(&b)).unwrap())]);
        let top_k = TopK::new(k);
        prop_assert_eq!(split(top_k.apply(&both).unwrap()), [kept(&top_k.apply(&row(&a)).unwrap()), kept(&top_k.apply(&row(&b)).unwrap())]);
        let xtc = Xtc::new(1.0, p / 2.0, &[3]).unwrap();
        prop_assert_eq!(split(xtc.apply(&both, &key(1)).unwrap()), [kept(&xtc.apply(&row(&a), &key(1)).unwrap()), kept(&xtc.apply(&row(&b), &key(1)).unwrap())]);
    }

    #[test]
    fn a_seed_gives_the_same_tokens_whatever_else_is_drawn(values in logprobs(), seed: u64) {
        let options = SamplerOptions { temp: 1.3, top_p: 0.97, xtc_probability: 0.5, seed: Some(seed), ..Default::default() };
        let draw = |disturb: bool| {
            let mut sampler = Sampler::new(&options).unwrap();
            (0..8).map(|_| {
                if disturb {
                    mlxlm_core::random::uniform::<f32, f32>(0.0, 1.0, None, None).unwrap();
                }
                sampler.sample(&row(&values)).unwrap().try_item_exact::<u32>().unwrap()
            }).collect::<Vec<_>>()
        };
        prop_assert_eq!(draw(false), draw(true));
    }

    #[test]
    fn only_kept_tokens_are_drawn(values in logprobs(), seed: u64) {
        let options = SamplerOptions { temp: 5.0, top_k: 3, seed: Some(seed), ..Default::default() };
        let allowed = kept(&TopK::new(3).apply(&row(&values)).unwrap());
        let mut sampler = Sampler::new(&options).unwrap();
        for _ in 0..8 {
            let token: u32 = sampler.sample(&row(&values)).unwrap().try_item_exact().unwrap();
            prop_assert!(allowed[token as usize]);
        }
    }
}

#[test]
fn a_copy_draws_what_the_original_would_have_drawn() {
    let mut original = Sampler::new(&SamplerOptions { temp: 1.0, ..Default::default() }).unwrap();
    let flat = Array::from_slice(&[0.0_f32; 1000], &[1, 1000]);
    original.sample(&flat).unwrap();
    let mut copy = original.clone();
    let draw = |sampler: &mut Sampler| {
        (0..4).map(|_| sampler.sample(&flat).unwrap().try_item_exact::<u32>().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(draw(&mut original), draw(&mut copy));
}

#[test]
fn samplers_without_a_seed_differ() {
    let flat = Array::from_slice(&[0.0_f32; 1000], &[1, 1000]);
    let draw = || {
        let mut sampler = Sampler::new(&SamplerOptions { temp: 1.0, ..Default::default() }).unwrap();
        (0..8).map(|_| sampler.sample(&flat).unwrap().try_item_exact::<u32>().unwrap()).collect::<Vec<_>>()
    };
    assert_ne!(draw(), draw());
}

#[test]
fn cold_is_greedy_and_hot_is_uniform() {
    let values = log_softmax(&[0.0, 0.5, 1.0, 0.9]);
    let frequencies = |temp: f64| {
        let mut sampler = Sampler::new(&SamplerOptions { temp, seed: Some(3), ..Default::default() }).unwrap();
        let many = Array::from_slice(&values.repeat(4000), &[4000, 4]);
        let mut counts = [0; 4];
        for token in sampler.sample(&many).unwrap().to_vec_exact::<u32>().unwrap() {
            counts[token as usize] += 1;
        }
        counts
    };
    assert_eq!(frequencies(1e-3), [0, 0, 4000, 0]);
    assert!(frequencies(1e6).iter().all(|count| (850..1150).contains(count)), "{:?}", frequencies(1e6));
}

/// Temperatures and types in which the quotient of a log-probability and the temperature is no number of the type.
#[test]
fn the_coldest_is_greedy_in_every_type_and_the_hottest_draws_no_forbidden_token() {
    let inf = f32::INFINITY;
    let values = [-9.0, -0.5, -0.75, -inf, -1.5, -60000.0];
    for dtype in [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16] {
        let one = row(&values).as_dtype(dtype).unwrap();
        let many = Array::from_slice(&values.repeat(50), &[50, 6]).as_dtype(dtype).unwrap();
        let drawn = |temp: f64, seed: u64| {
            let mut sampler = Sampler::new(&SamplerOptions { temp, seed: Some(seed), ..Default::default() }).unwrap();
            let mut drawn = sampler.sample(&many).unwrap().to_vec_exact::<u32>().unwrap();
            drawn.extend((0..10).map(|_| sampler.sample(&one).unwrap().try_item_exact::<u32>().unwrap()));
            drawn
        };
        for temp in [1e-3, 1e-5, 1e-6, 1e-10, 1e-40, f64::MIN_POSITIVE, 5e-324] {
            assert_eq!(drawn(temp, 1), [1; 60], "{dtype:?}, {temp}");
        }
        for temp in [1e6, 1e30, 1e40, f64::MAX] {
            let drawn = drawn(temp, 1);
            assert!(!drawn.contains(&3) && (0..6).filter(|id| drawn.contains(id)).count() >= 4, "{temp}: {drawn:?}");
        }
    }
}

#[test]
fn filters_of_extreme_parameters_keep_the_best() {
    let values = [-9.0, -0.5, -0.75, f32::NEG_INFINITY, -1.5, -60000.0];
    let tiny = [5e-324, f64::MIN_POSITIVE, 1e-60, 1e-30, 1e-7];
    for dtype in [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16] {
        let row = row(&values).as_dtype(dtype).unwrap();
        let best = |filtered: Array| {
            let kept = filtered.as_dtype(Dtype::Float32).unwrap().to_vec_exact::<f32>().unwrap();
            kept[1].is_finite() && kept[3].is_infinite()
        };
        for p in tiny {
            assert_eq!(
                kept(&TopP::new(p).unwrap().apply(&row).unwrap().as_dtype(Dtype::Float32).unwrap()),
                [false, true, false, false, false, false]
            );
            assert!(best(MinP::new(p, 1).unwrap().apply(&row).unwrap()));
            assert!(best(MinP::new(1.0 - p, 3).unwrap().apply(&row).unwrap()));
            let xtc = Xtc::new(1.0, p, &[]).unwrap().apply(&row, &key(0)).unwrap();
            assert!(kept(&xtc.as_dtype(Dtype::Float32).unwrap()).contains(&true), "{dtype:?}, {p}");
        }
    }
}

#[test]
fn the_type_of_the_logprobs_stays() {
    let values = row(&log_softmax(&[0.0, 1.0, 2.0, 3.0])).as_dtype(Dtype::Bfloat16).unwrap();
    for filtered in [
        TopP::new(0.5).unwrap().apply(&values),
        MinP::new(0.5, 2).unwrap().apply(&values),
        TopK::new(2).apply(&values),
        Xtc::new(1.0, 0.1, &[]).unwrap().apply(&values, &key(0)),
    ] {
        assert_eq!(filtered.unwrap().dtype(), Dtype::Bfloat16);
    }
}

fn check_refused(options: &SamplerOptions, expected: &str) {
    let error = Sampler::new(options).and_then(|sampler| sampler.check_vocabulary(V).map(|()| sampler)).unwrap_err();
    assert_eq!(error.to_string(), expected);
}

#[test]
fn what_is_out_of_range_is_refused_by_name() {
    let base = SamplerOptions { temp: 1.0, ..Default::default() };
    check_refused(
        &SamplerOptions { temp: -1.0, ..base.clone() },
        "`temp` is -1, expected a finite number that is not negative",
    );
    check_refused(
        &SamplerOptions { temp: f64::NAN, ..base.clone() },
        "`temp` is NaN, expected a finite number that is not negative",
    );
    check_refused(&SamplerOptions { top_p: 1.5, ..base.clone() }, "`top_p` is 1.5, expected a number in [0, 1]");
    check_refused(&SamplerOptions { min_p: -0.1, ..base.clone() }, "`min_p` is -0.1, expected a number in [0, 1]");
    check_refused(
        &SamplerOptions { min_p: 0.1, min_tokens_to_keep: 0, ..base.clone() },
        "`min_tokens_to_keep` is 0, expected a positive 32-bit integer",
    );
    check_refused(
        &SamplerOptions { xtc_probability: 2.0, ..base.clone() },
        "`xtc_probability` is 2, expected a number in [0, 1]",
    );
    check_refused(
        &SamplerOptions { xtc_threshold: 0.6, ..base.clone() },
        "`xtc_threshold` is 0.6, expected a number in [0, 0.5]",
    );
    check_refused(
        &SamplerOptions { top_k: 12, ..base.clone() },
        "`top_k` is 12, expected an integer between 0 and the 12 of the vocabulary",
    );
    check_refused(
        &SamplerOptions { xtc_probability: 0.5, xtc_special_tokens: vec![3, 12], ..base },
        "token id 12 in `xtc_special_tokens` is outside the vocabulary of 12 tokens",
    );
    assert!(matches!(TopK::new(99).apply(&row(&[0.0; 12])), Err(Error::Parameter { name: "top_k", .. })));
}

#[test]
fn more_tokens_to_keep_than_there_are_keeps_all() {
    let filtered = MinP::new(1.0, 50).unwrap().apply(&row(&log_softmax(&[0.0, 5.0]))).unwrap();
    assert_eq!(kept(&filtered), [true, true]);
}
