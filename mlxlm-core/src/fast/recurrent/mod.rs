//! Layers that remember a sequence as a matrix for each head, which every token changes: gated delta rule, state-space models,
//! RWKV-7 and linear attention with decay.
//!
//! All take tokens in one pass, in order, with sums in f32, and states too unless it says otherwise. Without a state they begin with zeros; a token that the mask
//! hides (`false`) leaves the state as it is, and its result is zero. So a row of a batch may be padded on either side.

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::{by_kernel, plain};

#[cfg(test)]
mod tests;

/// The gated delta rule (arXiv:2412.06464), with gates of whole heads or, in Kimi's delta attention (arXiv:2510.26692), of each
/// dimension of the keys. With the state `S`, `[Dv, Dk]` for each value head:
///
/// `S ← S · g`, `S ← S + beta (v - S k) kᵀ`, `y = S q`
///
/// Source: `mlx_lm/models/gated_delta.py`. Queries and keys come normalized and scaled; a key head serves `Hv / Hk` value heads.
///
/// # Shapes
/// - `q`, `k`: `[B, T, Hk, Dk]`, `v`: `[B, T, Hv, Dv]`, `g`: `[B, T, Hv]` or `[B, T, Hv, Dk]`, a factor of the state; `beta`:
///   `[B, T, Hv]`, `state`: `[B, Hv, Dv, Dk]`, `mask`: `[B, T]` of `bool`
/// - results: `[B, T, Hv, Dv]` in the type of `q`, and the state: in bf16 if the one given is, and then rounded to that after each
///   token, else in f32
///
/// # Errors
/// Of shapes that do not go together.
#[track_caller]
pub fn gated_delta(
    q: &Array,
    k: &Array,
    v: &Array,
    g: &Array,
    beta: &Array,
    state: Option<&Array>,
    mask: Option<&Array>,
) -> Result<(Array, Array), Exception> {
    const NAME: &str = "the gated delta rule";
    let (&[b, t, hk, dk], &[_, _, hv, dv]) = (q.shape(), v.shape()) else {
        return Err(misfit(NAME, "queries and values", "[B, T, H, D]", if q.ndim() == 4 { v } else { q }));
    };
    if hk <= 0 || hv % hk != 0 {
        return Err(Exception::custom(format!("{NAME}: {hk} key heads cannot serve {hv} value heads")));
    }
    expect(NAME, "keys", k, &[b, t, hk, dk])?;
    expect(NAME, "values", v, &[b, t, hv, dv])?;
    expect(NAME, "gates", g, &[b, t, hv, dk][..if g.ndim() == 4 { 4 } else { 3 }])?;
    expect(NAME, "beta", beta, &[b, t, hv])?;
    expect_state(NAME, state, &[b, hv, dv, dk], mask, &[b, t])?;
    by_kernel!(crate::kernels::recurrent::gated_delta([q, k, v, g, beta], state, mask));
    plain::gated_delta(q, k, v, g, beta, state, mask)
}

/// What a state-space model makes of tokens.
#[derive(Debug, Clone, Copy)]
pub struct Scan<'a> {
    /// What goes in.
    pub x: &'a Array,
    /// The step of each token, positive: after softplus, and cut to its limits.
    pub dt: &'a Array,
    /// The speed of the decay, negative: `-exp(A_log)`.
    pub a: &'a Array,
    /// How much of a token each dimension of the state takes up.
    pub b: &'a Array,
    /// How much of each dimension of the state comes out.
    pub c: &'a Array,
    /// What is added of the token itself.
    pub d: Option<&'a Array>,
    /// What was remembered; zeros without one.
    pub state: Option<&'a Array>,
    /// `[B, T]` of `bool`: `false` for padding.
    pub mask: Option<&'a Array>,
}

/// The state-space model of Mamba-2 (arXiv:2405.21060), whose heads decay as one. With the state `S`, `[P, N]` for each head:
///
/// `S ← exp(dt a) S + dt x Bᵀ`, `y = S C + d x`
///
/// Source: `mlx_lm/models/ssm.py`. A group of `B` and `C` serves `H / G` heads.
///
/// # Shapes
/// - `x`: `[B, T, H, P]`, `dt`: `[B, T, H]`, `a`, `d`: `[H]`, `b`, `c`: `[B, T, G, N]`, `state`: `[B, H, P, N]`
/// - results: `[B, T, H, P]` in the type of `x`, and the state in f32
///
/// # Errors
/// Of shapes that do not go together.
#[track_caller]
pub fn ssm_scan(scan: &Scan<'_>) -> Result<(Array, Array), Exception> {
    const NAME: &str = "a scan of Mamba-2";
    let &Scan { x, dt, a, b, c, d, state, mask } = scan;
    let (&[batch, t, h, p], &[_, _, g, n]) = (x.shape(), b.shape()) else {
        return Err(misfit(NAME, "x and B", "[B, T, H, P] and [B, T, G, N]", if x.ndim() == 4 { b } else { x }));
    };
    if g <= 0 || h % g != 0 {
        return Err(Exception::custom(format!("{NAME}: {g} groups cannot serve {h} heads")));
    }
    expect(NAME, "dt", dt, &[batch, t, h])?;
    expect(NAME, "A", a, &[h])?;
    expect(NAME, "B", b, &[batch, t, g, n])?;
    expect(NAME, "C", c, &[batch, t, g, n])?;
    d.map_or(Ok(()), |d| expect(NAME, "D", d, &[h]))?;
    expect_state(NAME, state, &[batch, h, p, n], mask, &[batch, t])?;
    by_kernel!(crate::kernels::recurrent::ssm_scan(scan));
    plain::ssm_scan(scan)
}

/// The selective state-space model of Mamba (arXiv:2312.00752), whose channels have a decay for each dimension of their state. With
/// the state `s`, `[N]` for each channel:
///
/// `s ← exp(dt a) s + dt x B`, `y = s · C + d x`
///
/// Source: `mlx_lm/models/mamba.py`.
///
/// # Shapes
/// - `x`, `dt`: `[B, T, D]`, `a`: `[D, N]`, `b`, `c`: `[B, T, N]`, `d`: `[D]`, `state`: `[B, D, N]`
/// - results: `[B, T, D]` in the type of `x`, and the state in f32
///
/// # Errors
/// Of shapes that do not go together.
#[track_caller]
pub fn selective_scan(scan: &Scan<'_>) -> Result<(Array, Array), Exception> {
    const NAME: &str = "a scan of Mamba";
    let &Scan { x, dt, a, b, c, d, state, mask } = scan;
    let (&[batch, t, channels], &[_, n]) = (x.shape(), a.shape()) else {
        return Err(misfit(NAME, "x and A", "[B, T, D] and [D, N]", if x.ndim() == 3 { a } else { x }));
    };
    expect(NAME, "dt", dt, &[batch, t, channels])?;
    expect(NAME, "A", a, &[channels, n])?;
    expect(NAME, "B", b, &[batch, t, n])?;
    expect(NAME, "C", c, &[batch, t, n])?;
    d.map_or(Ok(()), |d| expect(NAME, "D", d, &[channels]))?;
    expect_state(NAME, state, &[batch, channels, n], mask, &[batch, t])?;
    by_kernel!(crate::kernels::recurrent::selective_scan(scan));
    plain::selective_scan(scan)
}

/// What RWKV-7 makes of tokens; names are those of its paper.
#[derive(Debug, Clone, Copy)]
pub struct Wkv7<'a> {
    /// Receptance: what is read.
    pub r: &'a Array,
    /// The decay, a factor from 0 to 1.
    pub w: &'a Array,
    /// Keys.
    pub k: &'a Array,
    /// Values.
    pub v: &'a Array,
    /// What is looked up to be replaced.
    pub a: &'a Array,
    /// Where what was found is added.
    pub b: &'a Array,
    /// What was remembered; zeros without one.
    pub state: Option<&'a Array>,
    /// `[B, T]` of `bool`: `false` for padding.
    pub mask: Option<&'a Array>,
}

/// The time mixing of RWKV-7 (arXiv:2503.14456). With the state `S`, `[D, D]` for each head:
///
/// `S ← S diag(w) + v kᵀ + (S a) bᵀ`, `y = S r`
///
/// Source: `mlx_lm/models/rwkv7.py`.
///
/// # Shapes
/// - `r`, `w`, `k`, `a`, `b`: `[B, T, H, D]`, `v`: `[B, T, H, E]`, mostly `E = D`; `state`: `[B, H, E, D]`
/// - results: `[B, T, H, E]` in the type of `r`, and the state in f32
///
/// # Errors
/// Of shapes that do not go together.
#[track_caller]
pub fn wkv7(of: &Wkv7<'_>) -> Result<(Array, Array), Exception> {
    const NAME: &str = "the time mixing of RWKV-7";
    let (&[b, t, h, d], &[_, _, _, e]) = (of.r.shape(), of.v.shape()) else {
        return Err(misfit(NAME, "r and v", "[B, T, H, D]", if of.r.ndim() == 4 { of.v } else { of.r }));
    };
    for (what, array) in [("w", of.w), ("k", of.k), ("a", of.a), ("b", of.b)] {
        expect(NAME, what, array, &[b, t, h, d])?;
    }
    expect(NAME, "v", of.v, &[b, t, h, e])?;
    expect_state(NAME, of.state, &[b, h, e, d], of.mask, &[b, t])?;
    by_kernel!(crate::kernels::recurrent::wkv7(of));
    plain::wkv7(of)
}

/// Linear attention whose heads forget at a fixed speed (arXiv:2401.04658). With the state `S`, `[K, V]` for each head:
///
/// `S ← exp(g) S + kᵀ v`, `y = scale · q S`
///
/// Source: `recurrent_gla` of `mlx_lm/models/bailing_moe_linear.py`.
///
/// # Shapes
/// - `q`, `k`: `[B, H, T, K]`, `v`: `[B, H, T, V]`, `g`: `[H]`, negative; `state`: `[B, H, K, V]`, `mask`: `[B, T]` of `bool`
/// - results: `[B, H, T, V]` in the type of `q`, and the state in f32
///
/// # Errors
/// Of shapes that do not go together.
#[track_caller]
pub fn decay_attention(
    q: &Array,
    k: &Array,
    v: &Array,
    g: &Array,
    scale: f32,
    state: Option<&Array>,
    mask: Option<&Array>,
) -> Result<(Array, Array), Exception> {
    const NAME: &str = "linear attention with decay";
    let (&[b, h, t, dk], &[_, _, _, dv]) = (q.shape(), v.shape()) else {
        return Err(misfit(NAME, "queries and values", "[B, H, T, D]", if q.ndim() == 4 { v } else { q }));
    };
    expect(NAME, "keys", k, &[b, h, t, dk])?;
    expect(NAME, "values", v, &[b, h, t, dv])?;
    expect(NAME, "gates", g, &[h])?;
    expect_state(NAME, state, &[b, h, dk, dv], mask, &[b, t])?;
    by_kernel!(crate::kernels::recurrent::decay_attention([q, k, v, g], scale, state, mask));
    plain::decay_attention(q, k, v, g, scale, state, mask)
}

fn misfit(of: &str, what: &str, expected: &str, array: &Array) -> Exception {
    Exception::custom(format!("{of}: {what} must be {expected}, not {:?}", array.shape()))
}

/// Checks the shape of an array.
fn expect(of: &str, what: &str, array: &Array, shape: &[i32]) -> Result<(), Exception> {
    if array.shape() == shape { Ok(()) } else { Err(misfit(of, what, &format!("{shape:?}"), array)) }
}

fn expect_state(
    of: &str,
    state: Option<&Array>,
    shape: &[i32],
    mask: Option<&Array>,
    tokens: &[i32],
) -> Result<(), Exception> {
    state.map_or(Ok(()), |state| expect(of, "the state", state, shape))?;
    let Some(mask) = mask else { return Ok(()) };
    expect(of, "the mask", mask, tokens)?;
    if mask.dtype() == Dtype::Bool {
        Ok(())
    } else {
        Err(Exception::custom(format!("{of}: the mask must be of bool, not {:?}", mask.dtype())))
    }
}
