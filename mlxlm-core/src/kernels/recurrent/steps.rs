//! What a token does to some rows of a state, and back. Lanes go along a row; sums are in [`LANES`] at every level of instructions.
//!
//! Vectors are copied before they are computed with and written back after, for the compiler's sake: it cannot know that slices
//! which are reached by way of other slices do not overlap, and would compute number by number.

use crate::kernels::float::math::fold_lanes;
use crate::kernels::float::multiversion;
use crate::kernels::isa::Isa;

pub(super) use crate::kernels::float::LANES;

/// Values of a vector.
pub(super) type Lanes = [f32; LANES];

/// Rows that share what is read of a token.
pub(super) const TOGETHER: usize = 4;

/// What is looked up in the state before it changes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Lookup {
    /// Nothing: `S ← S diag(w) + v kᵀ`.
    None,
    /// What is found takes the place of a share of the value: `S ← S diag(w) + beta (v - S a) kᵀ`.
    Correct(f32),
    /// What is found is added elsewhere: `S ← S diag(w) + v kᵀ + (S a) bᵀ`.
    Add,
}

/// The operands of a token, each of the width of a row.
#[derive(Clone, Copy)]
struct Token<'a> {
    w: &'a [Lanes],
    k: &'a [Lanes],
    r: &'a [Lanes],
    a: &'a [Lanes],
    b: &'a [Lanes],
}

impl<'a> Token<'a> {
    #[inline(always)]
    fn new(vectors: &'a [f32]) -> Self {
        let vectors = vectors.as_chunks().0;
        let width = vectors.len() / 5;
        let of = |i: usize| &vectors[i * width..][..width];
        Self { w: of(0), k: of(1), r: of(2), a: of(3), b: of(4) }
    }
}

multiversion! {
    /// Changes rows of a state by a token, whose operands are `w`, `k`, `r`, `a` and `b` one after the other, and writes a result
    /// for each row.
    fn step(lookup: Lookup, vectors: &[f32], values: &[f32], state: &mut [f32], results: &mut [f32]) {
        let (token, state) = (Token::new(vectors), state.as_chunks_mut().0);
        let width = token.w.len();
        let mut states = state.chunks_exact_mut(TOGETHER * width);
        let (values, few) = values.as_chunks::<TOGETHER>();
        let (results, of_few) = results.as_chunks_mut::<TOGETHER>();
        for ((state, values), results) in states.by_ref().zip(values).zip(results) {
            rows(lookup, token, values, state, results);
        }
        let rest = states.into_remainder().chunks_exact_mut(width);
        for ((state, value), result) in rest.zip(few).zip(of_few) {
            rows(lookup, token, &[*value], state, std::array::from_mut(result));
        }
    }
}

/// [`step`] for `N` rows.
#[inline(always)]
fn rows<const N: usize>(
    lookup: Lookup,
    token: Token<'_>,
    values: &[f32; N],
    state: &mut [Lanes],
    results: &mut [f32; N],
) {
    let Token { w, k, r, a, b } = token;
    let width = w.len();
    let state = split::<N>(state, width);
    let mut found = [0.0; N];
    if lookup != Lookup::None {
        let mut sums = [[0.0; LANES]; N];
        for c in 0..width {
            for n in 0..N {
                let (s, a) = (state[n][c], a[c]);
                for l in 0..LANES {
                    sums[n][l] += s[l] * a[l];
                }
            }
        }
        found = sums.map(fold_lanes);
    }
    let mut taken = *values;
    if let Lookup::Correct(beta) = lookup {
        for n in 0..N {
            taken[n] = beta * (values[n] - found[n]);
        }
    }
    let mut sums = [[0.0; LANES]; N];
    for c in 0..width {
        let (w, k, r) = (w[c], k[c], r[c]);
        for n in 0..N {
            let mut s = state[n][c];
            for l in 0..LANES {
                s[l] = s[l] * w[l] + taken[n] * k[l];
            }
            if lookup == Lookup::Add {
                let b = b[c];
                for l in 0..LANES {
                    s[l] += found[n] * b[l];
                }
            }
            state[n][c] = s;
            for l in 0..LANES {
                sums[n][l] += s[l] * r[l];
            }
        }
    }
    *results = sums.map(fold_lanes);
}

multiversion! {
    /// Rounds numbers to bf16, to the even one of two that are as near.
    fn round(state: &mut [f32]) {
        for value in state {
            let bits = value.to_bits();
            let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000;
            // What is not a number stays none.
            *value = f32::from_bits(if value.is_nan() { bits | 0x0040_0000 } else { rounded });
        }
    }
}

/// Rows one after the other.
#[inline(always)]
fn split<const N: usize>(state: &mut [Lanes], width: usize) -> [&mut [Lanes]; N] {
    let mut rows = state.chunks_exact_mut(width);
    std::array::from_fn(|_| rows.next().unwrap_or_default())
}

/// What the gradient of [`TOGETHER`] rows reads of one token, and adds to.
pub(super) struct Back<'a> {
    /// As those of [`step`].
    pub(super) vectors: &'a [f32],
    /// The gradients of these.
    pub(super) gradients: &'a mut [f32],
    /// The state before the token, and behind it.
    pub(super) before: &'a [f32],
    pub(super) after: &'a [f32],
    /// What goes into the state, what was found in it, and the gradient of the result.
    pub(super) values: [f32; TOGETHER],
    pub(super) found: [f32; TOGETHER],
    pub(super) cotangents: [f32; TOGETHER],
}

multiversion! {
    /// Writes what the token finds in some rows, `S a`.
    fn look_up(vectors: &[f32], state: &[f32], found: &mut [f32]) {
        let (token, state) = (Token::new(vectors), state.as_chunks::<LANES>().0);
        for (found, row) in found.iter_mut().zip(state.chunks_exact(token.a.len())) {
            let mut sums = [0.0; LANES];
            for (&row, &a) in row.iter().zip(token.a) {
                for l in 0..LANES {
                    sums[l] += row[l] * a[l];
                }
            }
            *found = fold_lanes(sums);
        }
    }
}

multiversion! {
    /// Takes the gradient of rows of a state from behind a token to before it; writes those of the values.
    fn step_back(looks_up: bool, at: Back<'_>, slope: &mut [f32], of_values: &mut [f32; TOGETHER]) {
        const N: usize = TOGETHER;
        let Token { w, k, r, a, b } = Token::new(at.vectors);
        let Back { values, found, cotangents, .. } = at;
        let width = w.len();
        let (before, after) = (at.before.as_chunks::<LANES>().0, at.after.as_chunks::<LANES>().0);
        let slope = split::<N>(slope.as_chunks_mut().0, width);
        let [dw, dk, dr, da, db] = split::<5>(at.gradients.as_chunks_mut().0, width);
        let (mut of_value, mut of_found) = ([[0.0; LANES]; N], [[0.0; LANES]; N]);
        for c in 0..width {
            let (k, r, b, mut of_k, mut of_r, mut of_b) = (k[c], r[c], b[c], dk[c], dr[c], db[c]);
            for n in 0..N {
                let (mut s, after) = (slope[n][c], after[n * width + c]);
                for l in 0..LANES {
                    s[l] += cotangents[n] * r[l];
                    of_r[l] += cotangents[n] * after[l];
                    of_value[n][l] += s[l] * k[l];
                    of_k[l] += values[n] * s[l];
                }
                if looks_up {
                    for l in 0..LANES {
                        of_found[n][l] += s[l] * b[l];
                        of_b[l] += found[n] * s[l];
                    }
                }
                slope[n][c] = s;
            }
            (dk[c], dr[c], db[c]) = (of_k, of_r, of_b);
        }
        *of_values = of_value.map(fold_lanes);
        let of_found = of_found.map(fold_lanes);
        for c in 0..width {
            let (w, a, mut of_w, mut of_a) = (w[c], a[c], dw[c], da[c]);
            for n in 0..N {
                let (mut s, before) = (slope[n][c], before[n * width + c]);
                for l in 0..LANES {
                    of_w[l] += s[l] * before[l];
                    s[l] *= w[l];
                }
                if looks_up {
                    for l in 0..LANES {
                        of_a[l] += of_found[n] * before[l];
                        s[l] += of_found[n] * a[l];
                    }
                }
                slope[n][c] = s;
            }
            (dw[c], da[c]) = (of_w, of_a);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernels::float::tests::{each_level, numbers};

    proptest! {
        #[test]
        fn rounding_is_that_of_bf16(x in numbers(1..100)) {
            each_level(x.len(), |isa, out| {
                out.copy_from_slice(&x);
                round(isa, out);
                for (got, want) in out.iter().zip(&x) {
                    let want = half::bf16::from_f32(*want).to_f32();
                    assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{got} is not {want}");
                }
            })?;
        }

        #[test]
        fn every_level_gives_the_same_bits(
            (rows, width) in (1_usize..11, 1_usize..5), which in 0_usize..3, seed in prop::collection::vec(-2.0_f32..2.0, 997),
        ) {
            let lookup = [Lookup::None, Lookup::Correct(0.4), Lookup::Add][which];
            let drawn = |len: usize, from: usize| -> Vec<f32> { seed.iter().cycle().skip(from).take(len).copied().collect() };
            let (vectors, values) = (drawn(5 * width * LANES, 3), drawn(rows, 7));
            let len = rows * width * LANES;
            each_level(len + rows, |isa, out| {
                let (state, results) = out.split_at_mut(len);
                state.copy_from_slice(&drawn(len, 11));
                step(isa, lookup, &vectors, &values, state, results);
            })?;
            let (before, after) = (drawn(TOGETHER * width * LANES, 1), drawn(TOGETHER * width * LANES, 2));
            each_level(5 * width * LANES + before.len() + TOGETHER, |isa, out| {
                let (gradients, rest) = out.split_at_mut(5 * width * LANES);
                let (slope, of_values) = rest.split_at_mut(before.len());
                slope.copy_from_slice(&drawn(before.len(), 5));
                let mut found = [0.0; TOGETHER];
                look_up(isa, &vectors, &before, &mut found);
                let (before, after, vectors) = (&before[..], &after[..], &vectors[..]);
                let (values, cotangents) = ([1.0, 0.5, -0.25, 2.0], [0.5, -1.0, 0.75, 0.1]);
                let at = Back { vectors, gradients, before, after, values, found, cotangents };
                let mut of = [0.0; TOGETHER];
                step_back(isa, lookup == Lookup::Add, at, slope, &mut of);
                of_values.copy_from_slice(&of);
            })?;
        }
    }
}
