//! Attention.

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::{by_kernel, plain};
use crate::quant::{Packed, Scheme};

/// How queries attend.
#[derive(Debug, Clone, Default)]
pub struct Attention<'a> {
    /// What scores are multiplied with, as in `1 / sqrt(d)`.
    pub scale: f32,
    /// Scores become `cap · tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// Which keys a query sees.
    pub sight: Sight<'a>,
    /// A score for each head that takes part in the softmax and has no value: `[H]`.
    pub sinks: Option<&'a Array>,
}

/// Which keys a query sees.
#[derive(Debug, Clone, Default)]
pub enum Sight<'a> {
    /// All.
    #[default]
    All,
    /// Those that a rule names; no array is made where there is a kernel.
    Causal(Causal),
    /// Broadcast to `[B, H, L, S]`: `true` where it sees the key, or numbers that are added to the scores.
    Mask(&'a Array),
}

/// In the order of time the last `L` keys are the queries' own: a query sees its own key and earlier ones.
///
/// A query that is padding itself sees the first key of its row that is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Causal {
    /// A query sees this many keys, its own the last of them.
    pub window: Option<i32>,
    /// A query sees the keys of its own chunk.
    pub chunk: Option<Chunk>,
    /// Where the first token of each row of the batch lies, in the order of time; empty for zero in all. No query sees what lies
    /// before it. It is negative if so many tokens are no longer there: kernels add numbers up in groups that are counted from it,
    /// so that a query has the same bits whatever else is held.
    pub padding: Vec<i32>,
    /// Where keys lie that are not in the order of time.
    pub ring: Option<Ring>,
}

/// Keys in the order of time but for the oldest, which younger ones overwrite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ring {
    /// The first keys, which are never overwritten.
    pub keep: i32,
    /// Where the newest key lies. Behind it lie the oldest ones.
    pub newest: i32,
}

/// Tokens are cut into chunks by their position in the sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Tokens in a chunk.
    pub size: i32,
    /// The position of the first key.
    pub first: i32,
}

impl Causal {
    /// Whether any of `keys` keys is hidden from a query that comes after it.
    pub fn hides(&self, keys: i32) -> bool {
        self.window.is_some_and(|window| keys > window)
            || self.chunk.is_some_and(|c| c.first / c.size != (c.first + keys - 1) / c.size)
            || self.padding.iter().any(|&padding| padding > 0)
    }

    /// Whether the rule can be followed in a batch of `rows` with so many keys.
    pub(crate) fn fits(&self, rows: i32, keys: i32) -> bool {
        self.window.is_none_or(|window| window > 0)
            && self.chunk.is_none_or(|chunk| chunk.size > 0 && chunk.first >= 0)
            && (self.padding.is_empty() || self.padding.len() == rows as usize)
            && self.ring.is_none_or(|ring| ring.fits(keys))
    }
}

impl Ring {
    pub(crate) fn fits(self, keys: i32) -> bool {
        0 <= self.keep && self.keep <= self.newest && self.newest < keys
    }
}

/// Keys or values `[B, K, S, d]`.
#[derive(Debug, Clone, Copy)]
pub enum Stored<'a> {
    /// As they come, in the queries' type.
    Plain(&'a Array),
    /// Quantized along `d`; every part is `[B, K, S, …]`.
    Packed(&'a Packed, Scheme),
}

/// Whether [`attend`] follows the rules of [`Sight::Causal`] without making arrays of them, on this thread.
///
/// Where it does not, layers that share an array ([`plain::seen`]) save its making.
pub fn attends_by_rule() -> bool {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    return crate::kernels::on_cpu();
    #[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
    return false;
}

/// `softmax(cap(scale · q @ keys.T)) @ values` over the keys that a query sees, with query heads in groups that share a kv-head.
///
/// # Shapes
/// - `q`: `[B, H, L, d]`, `keys`: `[B, K, S, d]`, `values`: `[B, K, S, e]` with a `K` that divides `H`; result: `[B, H, L, e]`
#[track_caller]
pub fn attend(q: &Array, keys: Stored<'_>, values: Stored<'_>, how: &Attention<'_>) -> Result<Array, Exception> {
    by_kernel!(crate::kernels::attend(q, keys, values, how));
    plain::attend(q, keys, values, how)
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use mlx_rs::{Dtype, ops};
    use proptest::prelude::*;

    use super::super::testing::{
        FLOATS, Layout, check, check_narrow, close, copied, layouts, normal, same_bits, same_outcome, words,
    };
    use super::*;
    use crate::quant::{self, Mode};

    type Attend = fn(&Array, Stored<'_>, Stored<'_>, &Attention<'_>) -> Result<Array, Exception>;

    /// Attention of each token to itself and those before it.
    fn causal(x: &[Array], rule: &Causal, softcap: Option<f32>) -> Result<Array, Exception> {
        let how = Attention { scale: 0.3, softcap, sight: Sight::Causal(rule.clone()), sinks: x.get(3) };
        attend(&x[0], Stored::Plain(&x[1]), Stored::Plain(&x[2]), &how)
    }

    #[test]
    fn gradients_of_long_sequences_are_those_of_the_plain_version() {
        let check_sizes = |[len, heads, kv_heads, d, e]: [i32; 5], rule: &Causal, softcap: Option<f32>| {
            let of = |heads, dims, seed| normal(&[2, len, heads, dims], seed);
            let by_head = |x: &Array| x.transpose_axes(&[0, 2, 1, 3]);
            let inputs = [of(heads, d, 1), of(kv_heads, d, 2), of(kv_heads, e, 3), normal(&[heads], 4)];
            let how = Attention { scale: 0.3, softcap, sight: Sight::Causal(rule.clone()), sinks: None };
            let with = |f: Attend| {
                let how = &how;
                move |x: &[Array]| {
                    let how = Attention { sinks: x.get(3), ..how.clone() };
                    by_head(&f(
                        &by_head(&x[0])?,
                        Stored::Plain(&by_head(&x[1])?),
                        Stored::Plain(&by_head(&x[2])?),
                        &how,
                    )?)
                }
            };
            for inputs in [&inputs[..3], &inputs] {
                check(inputs, with(attend), with(plain::attend_by_hand));
            }
        };
        let window = Causal { window: Some(20), ..Causal::default() };
        let chunk = Some(Chunk { size: 100, first: 30 });
        let all = Causal { window: Some(90), chunk, padding: vec![0, 70], ring: None };
        for (sizes, softcap) in [([1, 1, 1, 4, 4], None), ([64, 2, 2, 16, 8], Some(2.0)), ([150, 6, 1, 32, 32], None)] {
            for rule in [&Causal::default(), &window, &all] {
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
        let causal = Causal { window: Some(5), chunk, padding: vec![0, 3], ring: None };
        let mask = normal(&[2, 1, 3, 9], 4);
        let bools = mask.gt(Array::from_f32(-0.5)).unwrap();
        for sight in [Sight::All, Sight::Causal(Causal::default()), Sight::Causal(causal), Sight::Mask(&bools)] {
            let how = Attention { scale: 0.2, sight, ..Default::default() };
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
                    let (sight, sinks) = (Sight::Mask(&x[3]), Some(&x[4]));
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
            let how = Attention { scale: 0.2, sight: Sight::Causal(Causal::default()), ..Default::default() };
            check(
                from_ref(&q),
                |x| attend(&x[0], Stored::Packed(&k, scheme), Stored::Packed(&v, scheme), &how),
                |x| plain::attend(&x[0], Stored::Plain(&dense_k), Stored::Plain(&dense_v), &how),
            );
        }
    }

    #[test]
    fn types_that_differ_give_what_mlx_gives() {
        for types in
            [[Dtype::Bfloat16, Dtype::Float32, Dtype::Float32], [Dtype::Float32, Dtype::Bfloat16, Dtype::Float16]]
        {
            let mut types = types.into_iter();
            let [q, k, v] = inputs().map(|x| x.as_dtype(types.next().unwrap()).unwrap());
            let how = Attention { scale: 0.2, ..Default::default() };
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
                let sight = if masked { Sight::Mask(mask) } else { Sight::Causal(Causal::default()) };
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
            let how = Attention { scale: 0.2, sight: Sight::Causal(Causal::default()), ..Default::default() };
            let [got, want] = [&packed, &straight].map(|kv| {
                attend(&q, Stored::Packed(kv, scheme), Stored::Packed(kv, scheme), &how).unwrap()
            });
            prop_assert!(same_bits(&got, &want));
        }
    }

    #[test]
    fn no_queries_and_no_keys_give_what_the_plain_version_gives() {
        let how = Attention { scale: 0.2, ..Default::default() };
        for [b, l, s] in [[0, 3, 5], [1, 0, 5], [1, 0, 0]] {
            let [q, k] = [[b, 4, l, 8], [b, 2, s, 8]].map(|shape| ops::zeros::<f32>(&shape).unwrap());
            let (k, v) = (Stored::Plain(&k), Stored::Plain(&k));
            same_outcome(attend(&q, k, v, &how), plain::attend(&q, k, v, &how));
        }
    }
}
