//! Adam and AdamW as in `mlx.optimizers`. Unusual: the bias correction is off by default there, and the betas are `f64`,
//! because `1 - beta` loses its digits in `f32`.

use mlxlm_core::{Array, Exception, ops};
use serde::Deserialize;

use super::scalar;

/// The numbers of Adam (arXiv:1412.6980) and AdamW (arXiv:1711.05101).
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Adam {
    /// How much of the mean gradient, and of the mean squared gradient, a step keeps.
    pub betas: [f64; 2],
    /// Added to the root of the mean squared gradient.
    pub eps: f32,
    /// Whether the means make up for having begun at zero.
    pub bias_correction: bool,
    /// Share of a parameter, times the learning rate, that each step takes away: 0 is Adam, the rest AdamW.
    pub weight_decay: f32,
}

impl Default for Adam {
    fn default() -> Self {
        Self { betas: [0.9, 0.999], eps: 1e-8, bias_correction: false, weight_decay: 0.0 }
    }
}

impl Adam {
    /// Adam with MLX's usual weight decay of AdamW.
    pub fn with_weight_decay() -> Self {
        Self { weight_decay: 0.01, ..Self::default() }
    }

    /// One step of the parameter `p` along `g`; `step` counts from 1.
    pub(super) fn update(
        &self,
        step: u64,
        p: &Array,
        g: &Array,
        learning_rate: f32,
        moments: &mut [Array],
    ) -> Result<Array, Exception> {
        let [m, v] = moments else { return Err(Exception::custom("Adam keeps two moments")) };
        let [b1, b2] = self.betas;
        *m = m.multiply(scalar(b1 as f32, m)?)?.add(g.multiply(scalar((1.0 - b1) as f32, g)?)?)?;
        *v = v.multiply(scalar(b2 as f32, v)?)?.add(ops::square(g)?.multiply(scalar((1.0 - b2) as f32, g)?)?)?;
        let decay = learning_rate * self.weight_decay;
        let p = if decay == 0.0 { p.clone() } else { p.multiply(scalar(1.0 - decay, p)?)? };
        let (of_m, of_v) = if self.bias_correction {
            let left = |b: f64| 1.0 - b.powf(step as f64);
            ((f64::from(learning_rate) / left(b1)) as f32, (1.0 / left(b2).sqrt()) as f32)
        } else {
            (learning_rate, 1.0)
        };
        let root = ops::sqrt(&*v)?;
        let root = if self.bias_correction { root.multiply(scalar(of_v, v)?)? } else { root };
        p.subtract(m.multiply(scalar(of_m, m)?)?.divide(root.add(scalar(self.eps, v)?)?)?)
    }
}
