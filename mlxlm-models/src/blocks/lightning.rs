//! Linear attention whose states decay at a rate of each head (arXiv:2401.04658), normed in groups and gated before the way out.
//!
//! Ports the mixer of `mlx_lm/models/bailing_moe_linear.py` @ 0.32.2.

use crate::prelude::*;

/// What a block of linear attention is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LightningShape {
    pub(crate) hidden: i32,
    pub(crate) heads: i32,
    pub(crate) dim: i32,
    /// Parts of a row that the last norm norms by themselves.
    pub(crate) groups: i32,
    pub(crate) eps: f32,
    /// Whether the projection into the heads and the way out have biases.
    pub(crate) bias: [bool; 2],
    /// Whether queries and keys are normed.
    pub(crate) has_norms: bool,
    /// The place of the layer among all, which the speed of forgetting falls with.
    pub(crate) place: (usize, usize),
}

impl LightningShape {
    /// Refuses sizes that no model has.
    pub(crate) fn check(&self) -> Result<()> {
        all_within(&[("head_dim", self.dim), ("group_norm_size", self.groups)])?;
        let width = product(product(self.heads, self.dim)?, 3)? / 3;
        match width % self.groups {
            0 => Ok(()),
            _ => Err(Error::config(format!(
                "`group_norm_size` is {}, which does not divide the width of the heads, {width}",
                self.groups
            ))),
        }
    }

    /// The logarithm of what a token leaves of each head's state: the slopes of ALiBi (arXiv:2108.12409), smaller in later layers.
    pub(crate) fn slopes(&self) -> Vec<f32> {
        let of_power = |n: i32| (1..=n).map(move |i| 2_f64.powf(-8.0 * f64::from(i) / f64::from(n)));
        let power = 1 << self.heads.ilog2();
        let between = of_power(2 * power).step_by(2).take((self.heads - power) as usize);
        let (layer, layers) = self.place;
        let factor = 1.0 - layer as f64 / layers.saturating_sub(1).max(1) as f64 + 1e-5;
        of_power(power).chain(between).map(|slope| (-slope * factor) as f32).collect()
    }
}

/// A block of linear attention (arXiv:2401.04658), normed in groups and gated before the way out.
#[derive(Debug)]
pub(crate) struct Lightning {
    query_key_value: Linear,
    query_layernorm: Option<Norm>,
    key_layernorm: Option<Norm>,
    g_norm: Parameter,
    g_proj: Linear,
    dense: Linear,
    /// `[H]`, not trained.
    slopes: Array,
    rope: Rope,
    shape: LightningShape,
}

module!(Lightning {
    query_key_value,
    query_layernorm,
    key_layernorm,
    g_norm as "g_norm.weight",
    g_proj,
    dense,
});

impl Lightning {
    /// The block at `w`, whose queries and keys are rotated so.
    pub(crate) fn load(w: &Weights, shape: LightningShape, rope: Rope) -> Result<Self> {
        let (width, [of_qkv, of_out]) = (shape.heads * shape.dim, shape.bias);
        let norm = |name: &str| {
            let norm = shape.has_norms.then(|| Norm::rms(&w.at(name), shape.dim, shape.eps));
            norm.transpose()
        };
        let (qkv, gate, out) = (w.at("query_key_value"), w.at("g_proj"), w.at("dense"));
        // Heads that are normed together are on every device.
        let [qkv, gate, out] = match shape.groups {
            1 => [qkv, gate, out],
            _ => [qkv.columns_of(&[width; 3]), gate.columns(), out.rows()],
        };
        Ok(Self {
            query_key_value: Linear::load_biased(&qkv, 3 * width, shape.hidden, of_qkv)?,
            query_layernorm: norm("query_layernorm")?,
            key_layernorm: norm("key_layernorm")?,
            g_norm: Parameter::load(&w.at("g_norm.weight"), &[width], Init::Ones)?,
            g_proj: Linear::load(&gate, width, shape.hidden)?,
            dense: Linear::load_biased(&out, shape.hidden, width, of_out)?,
            slopes: Array::from_slice(&shape.slopes(), &[shape.heads]),
            rope,
            shape,
        })
    }
}

impl Mixer for Lightning {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let parts = ops::split_equal(self.query_key_value.forward(x)?, 3, -1)?;
        let prepare = |part: &Array, norm: Option<&Norm>| -> Result<Array> {
            let heads = split_heads(part, self.shape.heads)?;
            let heads = norm.map_or(Ok(heads.clone()), |norm| norm.forward(&heads))?;
            self.rope.forward(&heads, step.position())
        };
        let q = prepare(&parts[0], self.query_layernorm.as_ref())?;
        let k = prepare(&parts[1], self.key_layernorm.as_ref())?;
        let v = split_heads(&parts[2], self.shape.heads)?;
        let (scale, state) = ((self.shape.dim as f32).powf(-0.5), step.recall(0)?);
        let (y, after) = fast::decay_attention(&q, &k, &v, &self.slopes, scale, state.as_ref(), None)?;
        let slopes = self.slopes.clone();
        step.keep(0, after, move |beginning| {
            let [q, k, v] = [&q, &k, &v].map(|x| beginning.of_heads(x));
            let state = beginning.before(state.as_ref())?;
            Ok(fast::decay_attention(&q?, &k?, &v?, &slopes, scale, state.as_ref(), None)?.1)
        })?;
        let normed = fast::group_rms_norm(&merge_heads(&y)?, &self.g_norm, self.shape.groups, self.shape.eps)?;
        Ok(self.dense.forward(&normed.multiply(ops::sigmoid(self.g_proj.forward(x)?)?)?)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        vec![CacheKind::State { slots: 1 }]
    }
}
