//! Attention that lends its keys and values to later layers, or borrows those of the last earlier layer of its kind (Gemma 3n,
//! Gemma 4).

use crate::prelude::*;

/// What such attention is made of. Scores are not scaled; queries, keys and values are normed, values without weights.
#[derive(Debug)]
pub(crate) struct LentHeads {
    /// The width of a token's state.
    pub(crate) hidden: i32,
    pub(crate) counts: HeadCounts,
    pub(crate) eps: f32,
    pub(crate) rope: Rope,
    pub(crate) window: Option<i32>,
    /// Whether keys and values are those of an earlier layer.
    pub(crate) borrows: bool,
    /// Whether the checkpoint has projections to keys and values.
    pub(crate) has_keys: bool,
    /// Whether values come out of the projection to keys.
    pub(crate) values_are_keys: bool,
}

/// An attention block.
#[derive(Debug)]
pub(crate) struct LentAttention {
    q_proj: Linear,
    k_proj: Option<Linear>,
    v_proj: Option<Linear>,
    q_norm: Norm,
    k_norm: Option<Norm>,
    v_norm: Norm,
    o_proj: Linear,
    counts: HeadCounts,
    rope: Rope,
    how: Attend,
    borrows: bool,
}

module!(LentAttention { q_proj, k_proj, v_proj, q_norm, k_norm, o_proj });

/// What was lent in this pass: by the last sliding layer, and by the last full one.
#[derive(Debug, Clone, Default)]
struct Lent([Option<Reach>; 2]);

impl LentAttention {
    /// The block at `w`.
    pub(crate) fn load(w: &Weights, heads: LentHeads) -> Result<Self> {
        let LentHeads { hidden, counts, eps, rope, window, borrows, has_keys, values_are_keys } = heads;
        let HeadCounts { count, kv_count, dim } = counts;
        let keys = |name: &str| Linear::load(&counts.cut_keys(&w.at(name)), kv_count * dim, hidden);
        Ok(Self {
            q_proj: Linear::load(&w.at("q_proj").columns(), count * dim, hidden)?,
            k_proj: has_keys.then(|| keys("k_proj")).transpose()?,
            v_proj: (has_keys && !values_are_keys).then(|| keys("v_proj")).transpose()?,
            q_norm: Norm::rms(&w.at("q_norm"), dim, eps)?,
            k_norm: has_keys.then(|| Norm::rms(&w.at("k_norm"), dim, eps)).transpose()?,
            v_norm: Norm::rms_plain(eps),
            o_proj: Linear::load(&w.at("o_proj").rows(), hidden, count * dim)?,
            counts,
            rope,
            how: Attend { window, ..Attend::scaled(1.0) },
            borrows,
        })
    }

    /// What the layer attends to: what it borrows, or its own keys and values, which are lent from here on.
    fn reach(&self, x: &Array, step: &mut Step) -> Result<Reach> {
        let kind = usize::from(self.how.window.is_none());
        if self.borrows {
            let lent = step.carry::<Lent>().0[kind].clone();
            return lent.ok_or_else(|| Error::config("no layer before those that borrow has keys of their kind"));
        }
        let heads = |map: Option<&Linear>| match map {
            Some(map) => split_heads(&map.forward(x)?, self.counts.kv_count).map(Some),
            None => Ok(None),
        };
        let Some(keys) = heads(self.k_proj.as_ref())? else { return Err(missing("num_kv_shared_layers")) };
        let values = heads(self.v_proj.as_ref())?.unwrap_or_else(|| keys.clone());
        let keys = match &self.k_norm {
            Some(norm) => norm.forward(&keys)?,
            None => keys,
        };
        let keys = self.rope.forward(&keys, step.position())?;
        let reach = step.remember(&keys, &self.v_norm.forward(&values)?, &self.how)?;
        step.carry::<Lent>().0[kind] = Some(reach.clone());
        Ok(reach)
    }

    /// # Shapes
    /// - `x`: `[B, L, D]`, and the same comes back
    pub(crate) fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let reach = self.reach(x, step)?;
        let queries = self.q_norm.forward(&split_heads(&self.q_proj.forward(x)?, self.counts.count)?)?;
        let queries = self.rope.forward(&queries, step.position())?;
        Ok(self.o_proj.forward(&merge_heads(&step.look(&reach, &queries, &self.how)?)?)?)
    }

    /// Nothing for layers that borrow.
    pub(crate) fn caches(&self) -> Vec<CacheKind> {
        match (self.borrows, self.how.window) {
            (true, _) => Vec::new(),
            (false, Some(max_size)) => vec![CacheKind::Rotating { max_size, keep: 0 }],
            (false, None) => vec![CacheKind::Kv],
        }
    }
}

/// The first of the last `borrowers` layers.
pub(crate) fn first_borrower(c: &Common, borrowers: i32) -> usize {
    usize::try_from(c.num_hidden_layers - borrowers).unwrap_or(0)
}

/// Refuses numbers of layers that borrow for which there are not lenders of all kinds.
pub(crate) fn check(c: &Common, borrowers: i32, slides: impl Fn(usize) -> Result<bool>) -> Result<()> {
    below("num_kv_shared_layers", borrowers, c.num_hidden_layers)?;
    let layers = c.num_hidden_layers as usize;
    let kinds = (0..layers).map(slides).collect::<Result<Vec<bool>>>()?;
    let (lenders, borrowers) = kinds.split_at(first_borrower(c, borrowers));
    match borrowers.iter().find(|kind| !lenders.contains(kind)) {
        None => Ok(()),
        Some(_) => Err(Error::config(format!(
            "`num_kv_shared_layers` is {}, and no layer before those is of the same type",
            borrowers.len()
        ))),
    }
}
