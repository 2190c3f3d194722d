//! Layers with a state in MLX's own operations: one token after the other, in f32.

use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::{Array, Dtype, ops};

use crate::fast::{Scan, Wkv7};

/// See [`crate::fast::gated_delta`].
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
    let heads = v.dim(2);
    let [k, v, g, beta] = [&serve(k, heads)?, v, g, beta].map(|x| x.as_dtype(Dtype::Float32));
    let (of_q, k, v, g, beta) = (wide(&serve(q, heads)?)?, k?, v?, g?, beta?);
    let start = start(state, &[q.dim(0), heads, v.dim(3), q.dim(3)])?;
    let run = Run { tokens: q.dim(1), axis: 1, mask, dtype: q.dtype() };
    let kept = state.map(Array::dtype).filter(|dtype| *dtype == Dtype::Bfloat16).unwrap_or(Dtype::Float32);
    let (y, last) = run.each(start, &[q.dim(0), 0, heads, v.dim(3)], |t, state| {
        let at = |x: &Array| x.try_index((.., t));
        let (key, gate) = (at(&k)?.expand_dims(-2)?, at(&g)?.expand_dims(-1)?);
        let gate = if gate.ndim() == 3 { gate.expand_dims(-1)? } else { gate.swap_axes(-1, -2)? };
        let state = state.multiply(gate)?;
        let found = state.multiply(&key)?.sum_axis(-1, false)?;
        let change = at(&v)?.subtract(found)?.multiply(at(&beta)?.expand_dims(-1)?)?;
        let state = state.add(change.expand_dims(-1)?.multiply(key)?)?;
        let y = state.multiply(at(&of_q)?.expand_dims(-2)?)?.sum_axis(-1, false)?;
        Ok((y, state.as_dtype(kept)?.as_dtype(Dtype::Float32)?))
    })?;
    Ok((y, last.as_dtype(kept)?))
}

/// See [`crate::fast::ssm_scan`].
#[track_caller]
pub fn ssm_scan(scan: &Scan<'_>) -> Result<(Array, Array), Exception> {
    let heads = scan.x.dim(2);
    let [x, dt, a, d] = in_f32(scan)?;
    let (b, c) = (wide(&serve(scan.b, heads)?)?, wide(&serve(scan.c, heads)?)?);
    let decay = dt.multiply(a)?.exp()?;
    let taken = x.multiply(dt.expand_dims(-1)?)?;
    let &[batch, tokens, _, width] = scan.x.shape() else { return Err(Exception::custom("x must be [B, T, H, P]")) };
    let start = start(scan.state, &[batch, heads, width, scan.b.dim(3)])?;
    let run = Run { tokens, axis: 1, mask: scan.mask, dtype: scan.x.dtype() };
    run.each(start, &[batch, 0, heads, width], |t, state| {
        let at = |x: &Array| x.try_index((.., t));
        let more = at(&taken)?.expand_dims(-1)?.multiply(at(&b)?.expand_dims(-2)?)?;
        let state = state.multiply(at(&decay)?.expand_dims(-1)?.expand_dims(-1)?)?.add(more)?;
        let y = state.multiply(at(&c)?.expand_dims(-2)?)?.sum_axis(-1, false)?;
        Ok((y.add(at(&x)?.multiply(d.expand_dims(-1)?)?)?, state))
    })
}

/// See [`crate::fast::selective_scan`].
#[track_caller]
pub fn selective_scan(scan: &Scan<'_>) -> Result<(Array, Array), Exception> {
    let [x, dt, a, d] = in_f32(scan)?;
    let (b, c) = (wide(scan.b)?, wide(scan.c)?);
    let &[batch, tokens, channels] = scan.x.shape() else { return Err(Exception::custom("x must be [B, T, D]")) };
    let start = start(scan.state, &[batch, channels, scan.a.dim(1)])?;
    let run = Run { tokens, axis: 1, mask: scan.mask, dtype: scan.x.dtype() };
    run.each(start, &[batch, 0, channels], |t, state| {
        let at = |x: &Array| x.try_index((.., t));
        let (x, dt) = (at(&x)?, at(&dt)?);
        let decay = dt.expand_dims(-1)?.multiply(&a)?.exp()?;
        let more = dt.multiply(&x)?.expand_dims(-1)?.multiply(at(&b)?.expand_dims(-2)?)?;
        let state = state.multiply(decay)?.add(more)?;
        let y = state.multiply(at(&c)?.expand_dims(-2)?)?.sum_axis(-1, false)?;
        Ok((y.add(x.multiply(&d)?)?, state))
    })
}

/// See [`crate::fast::wkv7`].
#[track_caller]
pub fn wkv7(of: &Wkv7<'_>) -> Result<(Array, Array), Exception> {
    let [r, w, k] = [of.r, of.w, of.k].map(wide);
    let [v, a, b] = [of.v, of.a, of.b].map(wide);
    let (r, w, k, v, a, b) = (r?, w?, k?, v?, a?, b?);
    let &[batch, tokens, heads, width] = v.shape() else { return Err(Exception::custom("v must be [B, T, H, E]")) };
    let start = start(of.state, &[batch, heads, width, r.dim(3)])?;
    let run = Run { tokens, axis: 1, mask: of.mask, dtype: of.r.dtype() };
    run.each(start, &[batch, 0, heads, width], |t, state| {
        let row = |x: &Array| x.try_index((.., t))?.expand_dims(-2);
        let found = state.multiply(row(&a)?)?.sum_axis(-1, true)?;
        let new = v.try_index((.., t))?.expand_dims(-1)?.multiply(row(&k)?)?;
        let state = state.multiply(row(&w)?)?.add(new)?.add(found.multiply(row(&b)?)?)?;
        Ok((state.multiply(row(&r)?)?.sum_axis(-1, false)?, state))
    })
}

/// See [`crate::fast::decay_attention`].
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
    let (of_q, k, v) = (wide(q)?.multiply(Array::from_f32(scale))?, wide(k)?, wide(v)?);
    let decay = wide(g)?.exp()?.expand_dims(-1)?.expand_dims(-1)?;
    let &[batch, heads, tokens, width] = v.shape() else { return Err(Exception::custom("v must be [B, H, T, V]")) };
    let start = start(state, &[batch, heads, q.dim(3), width])?;
    let run = Run { tokens, axis: 2, mask, dtype: q.dtype() };
    run.each(start, &[batch, heads, 0, width], |t, state| {
        let column = |x: &Array| x.try_index((.., .., t))?.expand_dims(-1);
        let new = column(&k)?.multiply(v.try_index((.., .., t))?.expand_dims(-2)?)?;
        let state = state.multiply(&decay)?.add(new)?;
        Ok((state.multiply(column(&of_q)?)?.sum_axis(-2, false)?, state))
    })
}

/// `x`, `dt`, `a` and `d` in f32.
fn in_f32(scan: &Scan<'_>) -> Result<[Array; 4], Exception> {
    let d = match scan.d {
        Some(d) => wide(d)?,
        None => Array::from_slice(&[0.0_f32], &[1]),
    };
    Ok([wide(scan.x)?, wide(scan.dt)?, wide(scan.a)?, d])
}

fn wide(x: &Array) -> Result<Array, Exception> {
    x.as_dtype(Dtype::Float32)
}

/// `[B, T, few, D]` for so many heads, each of which serves neighbours.
fn serve(x: &Array, heads: i32) -> Result<Array, Exception> {
    let few = x.dim(2).max(1);
    if few == heads {
        Ok(x.clone())
    } else {
        x.take_axis(ops::arange::<i32, i32>(0, heads, None)?.floor_divide(Array::from_int(heads / few))?, 2)
    }
}

fn start(state: Option<&Array>, shape: &[i32]) -> Result<Array, Exception> {
    state.map_or_else(|| ops::zeros::<f32>(shape), wide)
}

/// Tokens one after the other.
struct Run<'a> {
    tokens: i32,
    /// That of the tokens in results.
    axis: i32,
    mask: Option<&'a Array>,
    /// The type of results.
    dtype: Dtype,
}

impl Run<'_> {
    /// What `step` makes of each token and the state before it: a result and the state behind it. `nothing` is the shape of the
    /// results of no tokens.
    fn each(
        &self,
        mut state: Array,
        nothing: &[i32],
        step: impl Fn(i32, &Array) -> Result<(Array, Array), Exception>,
    ) -> Result<(Array, Array), Exception> {
        let mut results = Vec::new();
        for t in 0..self.tokens {
            let (mut y, mut next) = step(t, &state)?;
            if let Some(mask) = self.mask {
                let mask = mask.try_index((.., t))?;
                let like = |x: &Array| {
                    let mut shape = vec![1; x.ndim()];
                    shape[0] = mask.dim(0);
                    mask.reshape(&shape)
                };
                next = ops::select(like(&next)?, &next, &state)?;
                y = ops::select(like(&y)?, &y, Array::from_f32(0.0))?;
            }
            state = next;
            results.push(y.as_dtype(self.dtype)?);
        }
        let y =
            if results.is_empty() { ops::zeros_dtype(nothing, self.dtype)? } else { ops::stack(&results, self.axis)? };
        Ok((y, state))
    }
}
