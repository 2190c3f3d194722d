//! Streams of states (hyper-connections, arXiv:2409.19606, kept on a manifold by Sinkhorn's iterations, arXiv:2512.24880).

use super::Config;
use crate::prelude::*;

/// What a block reads of the streams, what it writes to them, and how they mix, for each token.
#[derive(Debug)]
pub(crate) struct Mixtures {
    /// The weights of the streams in what the next half of a block reads, `f32` `[B, L, streams]`.
    pub(crate) read: Array,
    /// The weights of what is written to each stream, `f32` `[B, L, streams]`.
    pub(crate) write: Array,
    /// What each stream (the last but one axis) gives to each (the last), `f32` `[B, L, streams, streams]`.
    pub(crate) mix: Array,
}

/// What makes the mixtures of a token's streams.
#[derive(Debug)]
pub(crate) struct HyperConnection {
    map: Parameter,
    base: Parameter,
    scale: Parameter,
    count: i32,
    rounds: i32,
    eps: f32,
    norm_eps: f32,
}

module!(HyperConnection { map as "fn", base, scale });

impl HyperConnection {
    pub(crate) fn load(w: &Weights, own: &Config, c: &Common) -> Result<Self> {
        let (count, w) = (own.hc_mult, w.pinned());
        let outputs = (2 + count) * count;
        Ok(Self {
            map: Parameter::load(&w.at("fn"), &[outputs, count * c.hidden_size], Init::Zeros)?,
            base: Parameter::load(&w.at("base"), &[outputs], Init::Zeros)?,
            scale: Parameter::load(&w.at("scale"), &[3], Init::Ones)?,
            count,
            rounds: own.hc_sinkhorn_iters,
            eps: own.hc_eps,
            norm_eps: c.rms_norm_eps()?,
        })
    }

    /// # Shapes
    /// - `streams`: `[B, L, streams, D]`
    pub(crate) fn mixtures(&self, streams: &Array) -> Result<Mixtures> {
        let count = self.count;
        let flat = streams.flatten(-2, -1)?.as_dtype(Dtype::Float32)?;
        let flat = fast::rms_norm(&flat, None, self.norm_eps)?;
        let wide = |parameter: &Parameter| parameter.value.as_dtype(Dtype::Float32);
        // One factor for what is read, one for what is written, one for the mixing.
        let each = [vec![0_u32; count as usize], vec![1; count as usize], vec![2; (count * count) as usize]].concat();
        let factors = wide(&self.scale)?.take_axis(Array::from_slice(&each, &[each.len() as i32]), 0)?;
        let all = fast::linear(&flat, &wide(&self.map)?)?.multiply(factors)?.add(wide(&self.base)?)?;
        let parts = ops::split_at_indices(&all, &[count, 2 * count], -1)?;
        let eps = Array::from_f32(self.eps);
        let mix = parts[2].reshape(&[all.dim(0), all.dim(1), count, count])?;
        let mix = ops::softmax_axis(&mix, -1, true)?.add(&eps)?;
        Ok(Mixtures {
            read: ops::sigmoid(&parts[0])?.add(&eps)?,
            write: ops::sigmoid(&parts[1])?.multiply(Array::from_f32(2.0))?,
            mix: balanced(mix, self.rounds, &eps)?,
        })
    }
}

/// Divides columns by their sums, and then rows and columns again, `rounds - 1` times.
fn balanced(mix: Array, rounds: i32, eps: &Array) -> Result<Array> {
    let divided = |mix: &Array, axis: i32| mix.divide(mix.sum_axis(axis, true)?.add(eps)?);
    let mut mix = divided(&mix, -2)?;
    for _ in 1..rounds {
        mix = divided(&divided(&mix, -1)?, -2)?;
    }
    Ok(mix)
}

/// The mixture of streams that is read.
///
/// # Shapes
/// - `streams`: `[B, L, streams, D]`, `read`: `[B, L, streams]`, result: `[B, L, D]`
pub(crate) fn collapse(streams: &Array, read: &Array) -> Result<Array> {
    let sum = streams.as_dtype(Dtype::Float32)?.multiply(read.expand_dims(-1)?)?.sum_axis(2, false)?;
    Ok(sum.as_dtype(streams.dtype())?)
}

/// The streams mixed, with `x` written to each.
///
/// # Shapes
/// - `x`: `[B, L, D]`, `streams`: `[B, L, streams, D]`, and the same comes back
pub(crate) fn expand(x: &Array, streams: &Array, by: &Mixtures) -> Result<Array> {
    let [x, wide] = [x, streams].map(|array| array.as_dtype(Dtype::Float32));
    let mixed = by.mix.swap_axes(-1, -2)?.matmul(wide?)?;
    let written = by.write.expand_dims(-1)?.multiply(x?.expand_dims(-2)?)?;
    Ok(written.add(mixed)?.as_dtype(streams.dtype())?)
}

/// The mixture that the next block reads; the last one made it.
#[derive(Debug, Clone, Default)]
struct NextMixture(Option<Array>);

/// What this block reads.
pub(crate) fn take_mixture(step: &mut Step) -> Result<Array> {
    step.carry::<NextMixture>().0.take().ok_or_else(|| Error::config("a block has no mixture of streams to read"))
}

/// Leaves what the next block reads.
pub(crate) fn leave_mixture(step: &mut Step, read: Array) {
    step.carry::<NextMixture>().0 = Some(read);
}

/// Before the first block: every stream is the embedding, and the first block reads the first one.
#[derive(Debug)]
pub(crate) struct Spread {
    pub(crate) count: i32,
}

module!(Spread {});

impl Block for Spread {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let (batch, len, dims) = (x.dim(0), x.dim(1), x.dim(2));
        let mut first = vec![0.0_f32; self.count as usize];
        first[0] = 1.0;
        let first = ops::broadcast_to(Array::from_slice(&first, &[self.count]), &[batch, len, self.count])?;
        leave_mixture(step, first);
        Ok(ops::broadcast_to(x.expand_dims(2)?, &[batch, len, self.count, dims])?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        Vec::new()
    }
}

/// After the last block: the mixture that a further block would read.
#[derive(Debug)]
pub(crate) struct Collapse;

module!(Collapse {});

impl Block for Collapse {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        collapse(x, &take_mixture(step)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        Vec::new()
    }
}
