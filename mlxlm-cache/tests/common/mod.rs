//! What the tests of this crate share: attention computed plainly, sequences to feed, and ways to compare.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test may")]

pub(crate) mod files;

use mlxlm_cache::{Attend, CacheKind, Caches, KvFormat, LayerCache, Masks};
use mlxlm_core::Array;
use mlxlm_core::fast;
use mlxlm_core::ops::indexing::TryIndexOp;
use proptest::prelude::*;

/// Query heads, kv-heads, head dimension.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heads {
    pub(crate) h: usize,
    pub(crate) k: usize,
    pub(crate) d: usize,
}

/// Keys and values at the same bits, in groups of 32.
pub(crate) fn bits(bits: i32) -> KvFormat {
    KvFormat::new(bits, 32).unwrap()
}

/// Keys and values at the same bits or at their own, rotated or not, in groups of 32.
pub(crate) fn kv_formats() -> impl Strategy<Value = KvFormat> {
    let bits = || prop::sample::select(vec![2, 3, 4, 5, 6, 8]);
    let format =
        |(keys, values, rotated): (i32, i32, [bool; 2])| KvFormat::mixed([keys, values], 32).unwrap().rotated(rotated);
    prop_oneof![bits().prop_map(self::bits), (bits(), bits(), any::<[bool; 2]>()).prop_map(format)]
}

/// Grouped queries, as most models have them.
pub(crate) const HEADS: Heads = Heads { h: 4, k: 2, d: 8 };
/// Wide enough to be quantized.
pub(crate) const WIDE: Heads = Heads { h: 4, k: 2, d: 32 };

/// The queries, keys and values of one sequence: `[1, H, T, d]`, `[1, K, T, d]`, `[1, K, T, d]`.
#[derive(Debug, Clone)]
pub(crate) struct Sequence {
    pub(crate) heads: Heads,
    pub(crate) tokens: usize,
    pub(crate) q: Vec<f32>,
    pub(crate) k: Vec<f32>,
    pub(crate) v: Vec<f32>,
}

impl Sequence {
    pub(crate) fn new(heads: Heads, tokens: usize, seed: u64) -> Self {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x1234_5678;
        let mut draw = |n: usize| {
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                ((state >> 40) as f32 / 16_777_216.0 - 0.5) * 4.0
            };
            (0..n).map(|_| next()).collect::<Vec<f32>>()
        };
        let Heads { h, k, d } = heads;
        Self { heads, tokens, q: draw(h * tokens * d), k: draw(k * tokens * d), v: draw(k * tokens * d) }
    }

    /// The tokens `from..to` as arrays.
    pub(crate) fn part(&self, from: usize, to: usize) -> (Array, Array, Array) {
        let take = |data: &[f32], heads: usize| {
            let shape = [1, heads as i32, self.tokens as i32, self.heads.d as i32];
            Array::from_slice(data, &shape).try_index((.., .., from as i32..to as i32, ..)).unwrap()
        };
        (take(&self.q, self.heads.h), take(&self.k, self.heads.k), take(&self.v, self.heads.k))
    }

    /// Attention computed one number at a time: for each token, `[H, d]`.
    pub(crate) fn plainly(&self, how: &Attend, sees: impl Fn(usize, usize) -> bool) -> Vec<Vec<f32>> {
        (0..self.tokens).map(|i| self.plainly_at(i, how, &sees)).collect()
    }

    fn plainly_at(&self, i: usize, how: &Attend, sees: &impl Fn(usize, usize) -> bool) -> Vec<f32> {
        let Heads { h, k, d } = self.heads;
        let sinks = how.sinks.as_ref().map(|sinks| sinks.to_vec_cast::<f32>().unwrap());
        let at = |head: usize, token: usize| (head * self.tokens + token) * d;
        let mut out = Vec::new();
        for head in 0..h {
            let kv = head / (h / k);
            let seen: Vec<usize> = (0..self.tokens).filter(|&j| sees(i, j)).collect();
            let score = |&j: &usize| {
                let (q, key) = (&self.q[at(head, i)..][..d], &self.k[at(kv, j)..][..d]);
                let dot: f64 = q.iter().zip(key).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                let score = dot * f64::from(how.scale);
                how.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
            };
            let weights: Vec<f64> = seen.iter().map(score).map(f64::exp).collect();
            let sink = sinks.as_ref().map_or(0.0, |sinks| f64::from(sinks[head]).exp());
            let sum = weights.iter().sum::<f64>() + sink;
            for x in 0..d {
                let value = |j: &usize| f64::from(self.v[at(kv, *j) + x]);
                out.push((seen.iter().zip(&weights).map(|(j, w)| w * value(j)).sum::<f64>() / sum) as f32);
            }
        }
        out
    }
}

/// Feeds the tokens `from..` of a sequence in steps of these sizes: for each token, `[H, d]`.
pub(crate) fn feed(
    layer: &mut LayerCache,
    sequence: &Sequence,
    from: usize,
    steps: &[usize],
    how: &Attend,
) -> Vec<Vec<f32>> {
    let (mut at, mut out) = (from, Vec::new());
    for step in steps {
        let (q, k, v) = sequence.part(at, at + step);
        let masks = Masks::default();
        let y = layer.attend(&q, &k, &v, how, &masks).unwrap();
        out.extend(by_token(&y, 0));
        at += step;
    }
    out
}

/// One row of `[B, H, L, d]` as `[H, d]` for each token.
pub(crate) fn by_token(y: &Array, row: i32) -> Vec<Vec<f32>> {
    let y = y.try_index(row..row + 1).unwrap().transpose_axes(&[2, 0, 1, 3]).unwrap();
    let len = y.shape()[0] as usize;
    let numbers = numbers(&y);
    numbers.chunks(numbers.len() / len).map(<[f32]>::to_vec).collect()
}

/// An array's numbers in row-major order.
pub(crate) fn numbers(array: &Array) -> Vec<f32> {
    if array.size() == 0 {
        return Vec::new();
    }
    array.contiguous().unwrap().to_vec_cast::<f32>().unwrap()
}

/// Empty caches of one layer.
pub(crate) fn one(kind: CacheKind) -> Caches {
    Caches::new(&[kind])
}

#[track_caller]
pub(crate) fn assert_close(got: &[Vec<f32>], expected: &[Vec<f32>], tolerance: f32) {
    assert_eq!(got.len(), expected.len(), "tokens");
    for (token, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert_eq!(got.len(), expected.len());
        for (a, b) in got.iter().zip(expected) {
            assert!((a - b).abs() <= tolerance, "token {token}: {a} against {b}, from {got:?} against {expected:?}");
        }
    }
}

/// Holds what was computed in one way against another. Where there are kernels, these are the same bits.
#[track_caller]
pub(crate) fn assert_same(got: &[Vec<f32>], expected: &[Vec<f32>]) {
    if fast::attends_by_rule() {
        let bits = |rows: &[Vec<f32>]| rows.iter().flatten().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(got), bits(expected), "{got:?} against {expected:?}");
    } else {
        assert_close(got, expected, 2e-5);
    }
}

/// Cuts `tokens` into steps of these sizes, again and again.
pub(crate) fn steps(tokens: usize, sizes: &[usize]) -> Vec<usize> {
    let (mut left, mut steps) = (tokens, Vec::new());
    for &size in sizes.iter().cycle() {
        if left == 0 {
            break;
        }
        steps.push(size.min(left));
        left -= size.min(left);
    }
    steps
}
