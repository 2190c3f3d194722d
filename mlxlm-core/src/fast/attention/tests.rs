//! Attention against its plain version, its gradients against steps, in every layout.

use std::slice::from_ref;

use mlx_rs::{Dtype, ops};
use proptest::prelude::*;

use super::*;
use crate::fast::testing::{
    FLOATS, Layout, check, check_narrow, close, copied, layouts, normal, same_bits, same_outcome, words,
};
use crate::quant::{self, Mode};

type Attend = fn(&Array, Stored<'_>, Stored<'_>, &Attention<'_>) -> Result<Array, Exception>;

/// Attention of each token to itself and those before it.
fn causal(x: &[Array], rule: &Causal, softcap: Option<f32>) -> Result<Array, Exception> {
    let how = Attention { scale: 0.3, softcap, sight: Sight::causal(rule.clone()), sinks: x.get(3) };
    attend(&x[0], Stored::Plain(&x[1]), Stored::Plain(&x[2]), &how)
}

#[test]
fn gradients_of_long_sequences_are_those_of_the_plain_version() {
    let check_sizes = |[len, heads, kv_heads, d, e]: [i32; 5], rule: &Causal, softcap: Option<f32>| {
        let of = |heads, dims, seed| normal(&[2, len, heads, dims], seed);
        let by_head = |x: &Array| x.transpose_axes(&[0, 2, 1, 3]);
        let inputs = [of(heads, d, 1), of(kv_heads, d, 2), of(kv_heads, e, 3), normal(&[heads], 4)];
        let how = Attention { scale: 0.3, softcap, sight: Sight::causal(rule.clone()), sinks: None };
        let with = |f: Attend| {
            let how = &how;
            move |x: &[Array]| {
                let how = Attention { sinks: x.get(3), ..how.clone() };
                by_head(&f(&by_head(&x[0])?, Stored::Plain(&by_head(&x[1])?), Stored::Plain(&by_head(&x[2])?), &how)?)
            }
        };
        for inputs in [&inputs[..3], &inputs] {
            check(inputs, with(attend), with(plain::attend_by_hand));
        }
    };
    let window = Causal { window: Some(20), ..Causal::default() };
    let chunk = Some(Chunk { size: 100, first: 30 });
    let all = Causal { window: Some(90), chunk, padding: vec![0, 70], ..Causal::default() };
    let documents = Causal { documents: vec![vec![0, 1, 30, 66, 149], vec![0]], ..Causal::default() };
    for (sizes, softcap) in [([1, 1, 1, 4, 4], None), ([64, 2, 2, 16, 8], Some(2.0)), ([150, 6, 1, 32, 32], None)] {
        for rule in [&Causal::default(), &window, &all, &documents] {
            check_sizes(sizes, rule, softcap);
        }
    }
    check_sizes([70, 36, 18, 4, 8], &window, Some(1.0));
}

#[test]
fn narrow_types_are_rounded_once() {
    let shapes: [&[i32]; 4] = [&[2, 4, 70, 16], &[2, 2, 70, 16], &[2, 2, 70, 16], &[4]];
    let window = Causal { window: Some(20), ..Causal::default() };
    check_narrow(&shapes[..3], |x| causal(x, &Causal::default(), None));
    check_narrow(&shapes, |x| causal(x, &window, Some(3.0)));
}

fn inputs() -> [Array; 3] {
    [normal(&[2, 4, 3, 32], 1), normal(&[2, 2, 9, 32], 2), normal(&[2, 2, 9, 64], 3)]
}

#[test]
fn gradients_under_masks_and_rules_are_what_steps_make() {
    let chunk = Some(Chunk { size: 4, first: 2 });
    let causal = Causal { window: Some(5), chunk, padding: vec![0, 3], ..Causal::default() };
    let documents = Sight::causal(Causal { documents: vec![vec![0, 7], vec![0, 4, 8]], ..Causal::default() });
    let mask = normal(&[2, 1, 3, 9], 4);
    let bools = mask.gt(Array::from_f32(-0.5)).unwrap();
    let both = Sight::causal(Causal { window: Some(7), ..Causal::default() }).and(Some(&bools));
    let (plain, rules) = (Sight::causal(Causal::default()), Sight::causal(causal));
    for sight in [Sight::all(), plain, rules, documents, Sight::biased(&bools), both] {
        let how = Attention { sight, ..Attention::scaled(0.2) };
        check(
            &inputs(),
            |x| attend(&x[0], Stored::Plain(&x[1]), Stored::Plain(&x[2]), &how),
            |x| plain::attend(&x[0], Stored::Plain(&x[1]), Stored::Plain(&x[2]), &how),
        );
    }
    // What is added to the scores, and the sinks, have gradients too.
    let all: Vec<Array> = inputs().into_iter().chain([mask, normal(&[4], 5)]).collect();
    for softcap in [None, Some(2.0)] {
        let with = |f: Attend| {
            move |x: &[Array]| {
                let (sight, sinks) = (Sight::biased(&x[3]), Some(&x[4]));
                let how = Attention { scale: 0.2, softcap, sight, sinks };
                f(&x[0], Stored::Plain(&x[1]), Stored::Plain(&x[2]), &how)
            }
        };
        check(&all, with(attend), with(plain::attend));
    }
}

#[test]
fn gradients_of_queries_of_a_quantized_cache_are_what_steps_make() {
    let [q, k, v] = inputs();
    for mode in Mode::ALL {
        let group = if mode == Mode::Nvfp4 { 16 } else { 32 };
        let scheme = Scheme::new(mode, mode.default_scheme().bits, group).unwrap();
        let [k, v] = [&k, &v].map(|x| quant::quantize(x, scheme).unwrap());
        let [dense_k, dense_v] = [&k, &v].map(|x| quant::dequantize(x, scheme, Some(Dtype::Float32)).unwrap());
        let how = Attention { sight: Sight::causal(Causal::default()), ..Attention::scaled(0.2) };
        check(
            from_ref(&q),
            |x| attend(&x[0], Stored::Packed(&k, scheme), Stored::Packed(&v, scheme), &how),
            |x| plain::attend(&x[0], Stored::Plain(&dense_k), Stored::Plain(&dense_v), &how),
        );
    }
}

/// Queries in two parts, latents and keys of positions.
fn latents(l: i32, s: i32, dtype: Dtype) -> [Array; 4] {
    let of = |shape: [i32; 4], seed| normal(&shape, seed).as_dtype(dtype).unwrap();
    [of([2, 6, l, 64], 1), of([2, 6, l, 32], 2), of([2, 1, s, 64], 3), of([2, 1, s, 32], 4)]
}

type Latent = fn(&Array, &Array, Stored<'_>, Stored<'_>, &Attention<'_>) -> Result<Array, Exception>;

#[test]
fn attention_to_latents_and_its_gradient_are_the_plain_ones() {
    let bools = normal(&[2, 1, 3, 9], 5).gt(Array::from_f32(-0.5)).unwrap();
    let rule = || Sight::causal(Causal { window: Some(7), ..Causal::default() });
    for (l, sight) in [(3, rule()), (1, rule()), (3, Sight::all()), (3, rule().and(Some(&bools)))] {
        let how = Attention { sight, ..Attention::scaled(0.1) };
        let with = |f: Latent| {
            let how = &how;
            move |x: &[Array]| f(&x[0], &x[1], Stored::Plain(&x[2]), Stored::Plain(&x[3]), how)
        };
        check(&latents(l, 9, Dtype::Float32), with(attend_latent), with(plain::attend_latent));
    }
}

#[test]
fn latents_and_keys_of_positions_have_the_bits_of_keys_that_hold_both() {
    let ring = Causal { window: Some(50), ring: Some(Ring { keep: 2, newest: 9 }), ..Causal::default() };
    let rules = [Causal::default(), Causal { padding: vec![0, 5], ..Causal::default() }, ring];
    for (dtype, (l, rule)) in FLOATS.into_iter().flat_map(|dtype| {
        [1, 4, 80].into_iter().flat_map(|l| rules.iter().map(move |rule| (l, rule))).map(move |of| (dtype, of))
    }) {
        let [q_nope, q_pe, latent, k_pe] = latents(l, 150, dtype);
        let how = Attention { sight: Sight::causal(rule.clone()), ..Attention::scaled(0.1) };
        let (q, k) = (ops::concatenate(&[&q_nope, &q_pe], -1), ops::concatenate(&[&latent, &k_pe], -1));
        let want = attend(&q.unwrap(), Stored::Plain(&k.unwrap()), Stored::Plain(&latent), &how).unwrap();
        let got = attend_latent(&q_nope, &q_pe, Stored::Plain(&latent), Stored::Plain(&k_pe), &how).unwrap();
        assert!(same_bits(&got, &want), "{dtype:?}, {l} queries, {rule:?}");
    }
}

#[test]
fn quantized_latents_are_those_that_they_stand_for() {
    let [q_nope, q_pe, latent, k_pe] = latents(3, 150, Dtype::Float32);
    let how = Attention { sight: Sight::causal(Causal::default()), ..Attention::scaled(0.1) };
    for scheme in Mode::ALL.map(|mode| {
        let group = if mode == Mode::Nvfp4 { 16 } else { 32 };
        Scheme::new(mode, mode.default_scheme().bits, group).unwrap()
    }) {
        let packed = [&latent, &k_pe].map(|x| quant::quantize(x, scheme).unwrap());
        let [a, b] = packed.each_ref().map(|x| quant::dequantize(x, scheme, Some(Dtype::Float32)).unwrap());
        let [c, d] = packed.each_ref().map(|x| Stored::Packed(x, scheme));
        let want = plain::attend_latent(&q_nope, &q_pe, Stored::Plain(&a), Stored::Plain(&b), &how).unwrap();
        close(&attend_latent(&q_nope, &q_pe, c, d, &how).unwrap(), &want, "value");
        close(&plain::attend_latent(&q_nope, &q_pe, c, d, &how).unwrap(), &want, "plain value");
        check(
            &[q_nope.clone(), q_pe.clone()],
            |x| attend_latent(&x[0], &x[1], c, d, &how),
            |x| plain::attend_latent(&x[0], &x[1], Stored::Plain(&a), Stored::Plain(&b), &how),
        );
    }
}

#[test]
fn types_that_differ_give_what_mlx_gives() {
    for types in [[Dtype::Bfloat16, Dtype::Float32, Dtype::Float32], [Dtype::Float32, Dtype::Bfloat16, Dtype::Float16]]
    {
        let mut types = types.into_iter();
        let [q, k, v] = inputs().map(|x| x.as_dtype(types.next().unwrap()).unwrap());
        let how = Attention::scaled(0.2);
        let of = |f: Attend| f(&q, Stored::Plain(&k), Stored::Plain(&v), &how).unwrap();
        close(&of(attend), &of(plain::attend), "value");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_layout_gives_the_bits_of_a_contiguous_one(
        [of_q, of_k, of_v, of_mask] in [layouts(4), layouts(4), layouts(4), layouts(4)], of_sinks in layouts(1),
        [b, kv_heads, group, l, more, d, e] in [1..3_i32, 1..3_i32, 1..3_i32, 1..6_i32, 0..70_i32, 1..40_i32, 1..40_i32],
        dtype in prop::sample::select(&FLOATS[..]), masked in any::<bool>(), bools in any::<bool>(),
    ) {
        let (h, s) = (kv_heads * group, l + more);
        let mask = of_mask.normal(&[b, h, l, s], 4, dtype);
        let mask = if bools { mask.gt(Array::from_f32(-0.5)).unwrap() } else { mask };
        let inputs = [
            of_q.normal(&[b, h, l, d], 1, dtype), of_k.normal(&[b, kv_heads, s, d], 2, dtype),
            of_v.normal(&[b, kv_heads, s, e], 3, dtype), mask, of_sinks.normal(&[h], 5, dtype),
        ];
        let of = |[q, k, v, mask, sinks]: &[Array; 5]| {
            let sight = if masked { Sight::biased(mask) } else { Sight::causal(Causal::default()) };
            let how = Attention { scale: 0.2, sight, sinks: Some(sinks), softcap: None };
            attend(q, Stored::Plain(k), Stored::Plain(v), &how).unwrap()
        };
        prop_assert!(same_bits(&of(&inputs), &of(&inputs.each_ref().map(copied))));
    }

    #[test]
    fn any_layout_of_a_quantized_cache_gives_the_bits_of_a_contiguous_one(
        [of_codes, of_scales, of_biases] in [layouts(4), layouts(4), layouts(4)],
        [l, more, groups] in [1..6_i32, 0..70_i32, 1..4_i32], bits in prop::sample::select(vec![2, 3, 4, 5, 6, 8]),
        dtype in prop::sample::select(&FLOATS[..]),
    ) {
        let (s, scheme) = (l + more, Scheme::new(Mode::Affine, bits, 32).unwrap());
        let shape = [2, 2, s, scheme.packed_words(groups * 32)];
        let numbers = |layout: &Layout, seed| layout.normal(&[2, 2, s, groups], seed, dtype);
        let weight = of_codes.of(&shape, words);
        let packed = Packed { weight, scales: numbers(&of_scales, 2), biases: Some(numbers(&of_biases, 3)) };
        let straight = Packed {
            weight: copied(&packed.weight), scales: copied(&packed.scales), biases: packed.biases.as_ref().map(copied),
        };
        let q = normal(&[2, 4, l, groups * 32], 4).as_dtype(dtype).unwrap();
        let how = Attention { sight: Sight::causal(Causal::default()), ..Attention::scaled(0.2) };
        let [got, want] = [&packed, &straight].map(|kv| {
            attend(&q, Stored::Packed(kv, scheme), Stored::Packed(kv, scheme), &how).unwrap()
        });
        prop_assert!(same_bits(&got, &want));
    }
}

#[test]
fn no_queries_and_no_keys_give_what_the_plain_version_gives() {
    let how = Attention::scaled(0.2);
    for [b, l, s] in [[0, 3, 5], [1, 0, 5], [1, 0, 0]] {
        let [q, k] = [[b, 4, l, 8], [b, 2, s, 8]].map(|shape| ops::zeros::<f32>(&shape).unwrap());
        let (k, v) = (Stored::Plain(&k), Stored::Plain(&k));
        same_outcome(attend(&q, k, v, &how), plain::attend(&q, k, v, &how));
    }
}
