//! Attention.

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::{by_kernel, plain};
use crate::quant::{Packed, Scheme};

mod rows;
#[cfg(test)]
mod tests;

pub use rows::{Row, RowsAttention, attend_latent_rows, attend_rows};

/// How queries attend.
#[derive(Debug, Clone)]
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

impl Attention<'_> {
    /// Attention to all keys, without a cap and without sinks.
    pub fn scaled(scale: f32) -> Self {
        Self { scale, softcap: None, sight: Sight::all(), sinks: None }
    }
}

/// Which keys a query sees: those that both the rule and the bias show. What a query sees of which nothing is left is a mean of
/// values that is not specified further.
#[derive(Debug, Clone, Default)]
pub struct Sight<'a> {
    /// Those that the rule names, or all; no array is made of it where there is a kernel.
    pub rule: Option<Causal>,
    /// Broadcast to `[B, H, L, S]`, with the keys where they lie: `true` where a query sees the key, or numbers that are added to
    /// the scores.
    pub bias: Option<&'a Array>,
}

impl<'a> Sight<'a> {
    /// All keys.
    pub fn all() -> Self {
        Self::default()
    }

    /// The keys that a rule names.
    pub fn causal(rule: Causal) -> Self {
        Self { rule: Some(rule), bias: None }
    }

    /// The keys that an array shows.
    pub fn biased(bias: &'a Array) -> Self {
        Self { rule: None, bias: Some(bias) }
    }

    /// The same with a bias besides.
    #[must_use]
    pub fn and(self, bias: Option<&'a Array>) -> Self {
        Self { bias, ..self }
    }
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
    /// Where documents begin in each row of the batch, in ascending order, if rows hold several, one behind the other; empty if
    /// they do not. A query sees the keys of its own document.
    pub documents: Vec<Vec<i32>>,
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
            || self.documents.iter().flatten().any(|&start| 0 < start && start < keys)
    }

    /// Where the document of a key begins, in a row of the batch.
    pub(crate) fn document(&self, row: usize, key: i32) -> i32 {
        let starts = self.documents.get(row).map_or(&[][..], Vec::as_slice);
        let behind = starts.partition_point(|&start| start <= key);
        behind.checked_sub(1).map_or(0, |own| starts[own].max(0))
    }

    /// Whether the rule can be followed in a batch of `rows` with so many keys.
    pub(crate) fn fits(&self, rows: i32, keys: i32) -> bool {
        self.window.is_none_or(|window| window > 0)
            && self.chunk.is_none_or(|chunk| chunk.size > 0 && chunk.first >= 0)
            && (self.padding.is_empty() || self.padding.len() == rows as usize)
            && (self.documents.is_empty() || self.documents.len() == rows as usize)
            && self.documents.iter().all(|starts| starts.is_sorted())
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

impl Stored<'_> {
    /// An array whose first three axes are those of the whole.
    pub(crate) fn array(&self) -> &Array {
        match self {
            Self::Plain(array) => array,
            Self::Packed(packed, _) => &packed.weight,
        }
    }

    /// The values of a row.
    pub(crate) fn width(&self) -> i32 {
        match self {
            Self::Plain(array) => array.dim(-1),
            Self::Packed(packed, scheme) => packed.scales.dim(-1) * scheme.group_size,
        }
    }
}

/// Whether [`attend`] follows [`Sight::rule`] without making an array of it, on this thread.
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

/// Attention to latents, which are keys and values at once, and to keys of positions (multi-head latent attention in its absorbed
/// form, arXiv:2405.04434): `softmax(cap(scale · (q_nope @ latentᵀ + q_pe @ k_peᵀ))) @ latent` over the keys that a query sees.
///
/// Ports the decoding step of `mlx_lm/models/deepseek_v3.py`. On a Linux CPU the kernel reads both parts of the keys where they
/// lie, quantized or not.
///
/// # Shapes
/// - `q_nope`: `[B, H, L, r]`, `q_pe`: `[B, H, L, p]`, `latent`: `[B, K, S, r]`, `k_pe`: `[B, K, S, p]` with a `K` that divides `H`,
///   mostly 1; result: `[B, H, L, r]`, to be mapped to values head by head
#[track_caller]
pub fn attend_latent(
    q_nope: &Array,
    q_pe: &Array,
    latent: Stored<'_>,
    k_pe: Stored<'_>,
    how: &Attention<'_>,
) -> Result<Array, Exception> {
    by_kernel!(crate::kernels::attend_latent([q_nope, q_pe], latent, k_pe, how));
    plain::attend_latent(q_nope, q_pe, latent, k_pe, how)
}
