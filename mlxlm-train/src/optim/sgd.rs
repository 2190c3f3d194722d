//! Stochastic gradient descent as in `mlx.optimizers`.

use mlxlm_core::{Array, Exception};
use serde::Deserialize;

use super::scalar;

/// The numbers of SGD.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sgd {
    /// How much of the last direction a step keeps; at 0 none is remembered.
    pub momentum: f32,
    /// Share of a parameter that is added to its gradient.
    pub weight_decay: f32,
    /// How much less of the gradient enters the direction.
    pub dampening: f32,
    /// Whether to look ahead along the direction (Nesterov).
    pub nesterov: bool,
}

impl Sgd {
    /// One step of the parameter `p` along `g`.
    pub(super) fn update(
        &self,
        p: &Array,
        g: &Array,
        learning_rate: f32,
        moments: &mut [Array],
    ) -> Result<Array, Exception> {
        let times = |array: &Array, factor: f32| array.multiply(scalar(factor, array)?);
        let g = if self.weight_decay == 0.0 { g.clone() } else { g.add(times(p, self.weight_decay)?)? };
        let along = match moments {
            [v] => {
                let fresh = if self.dampening > 0.0 { times(&g, 1.0 - self.dampening)? } else { g.clone() };
                *v = times(v, self.momentum)?.add(fresh)?;
                if self.nesterov { g.add(times(v, self.momentum)?)? } else { v.clone() }
            }
            _ => g,
        };
        p.subtract(times(&along, learning_rate)?)
    }
}
