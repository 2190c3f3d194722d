//! Muon as in `mlx.optimizers`: momentum whose direction is made orthogonal by five steps of Newton and Schulz
//! (Jordan et al. 2024, <https://kellerjordan.github.io/posts/muon/>). Vectors go along their momentum as it is.

use mlxlm_core::{Array, Exception, ops};
use serde::Deserialize;

use super::scalar;

/// The polynomial of one step towards an orthogonal matrix.
const COEFFICIENTS: [f32; 3] = [3.4445, -4.7750, 2.0315];

/// The numbers of Muon.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Muon {
    /// How much of the mean gradient a step keeps.
    pub momentum: f32,
    /// Share of a parameter that is added to its gradient.
    pub weight_decay: f32,
    /// Whether to look ahead along the direction (Nesterov).
    pub nesterov: bool,
    /// Steps towards an orthogonal direction.
    pub ns_steps: u32,
}

impl Default for Muon {
    fn default() -> Self {
        Self { momentum: 0.95, weight_decay: 0.01, nesterov: true, ns_steps: 5 }
    }
}

impl Muon {
    /// One step of the parameter `p` along `g`.
    pub(super) fn update(
        &self,
        p: &Array,
        g: &Array,
        learning_rate: f32,
        moments: &mut [Array],
    ) -> Result<Array, Exception> {
        let [v] = moments else { return Err(Exception::custom("Muon keeps one moment")) };
        let times = |array: &Array, factor: f32| array.multiply(scalar(factor, array)?);
        let g = if self.weight_decay == 0.0 { g.clone() } else { g.add(times(p, self.weight_decay)?)? };
        *v = times(v, self.momentum)?.add(times(&g, 1.0 - self.momentum)?)?;
        let along = match self.nesterov {
            true => times(&g, 1.0 - self.momentum)?.add(times(v, self.momentum)?)?,
            false => v.clone(),
        };
        let shape = along.shape().to_vec();
        let &[.., rows, columns] = shape.as_slice() else {
            return p.subtract(times(&along, learning_rate)?);
        };
        let along = self.orthogonal(&along.reshape(&[shape[0], -1])?)?.reshape(&shape)?;
        let tall = (rows as f32 / columns as f32).max(1.0).sqrt();
        p.subtract(times(&along, learning_rate * tall)?)
    }

    /// The orthogonal matrix that is nearest to `x`, nearly; `[n, m]`.
    fn orthogonal(&self, x: &Array) -> Result<Array, Exception> {
        let [a, b, c] = COEFFICIENTS;
        let times = |array: &Array, factor: f32| array.multiply(scalar(factor, array)?);
        let is_tall = x.dim(0) > x.dim(1);
        let mut x = if is_tall { x.t() } else { x.clone() };
        let norm = ops::sqrt(&ops::square(&x)?.sum(None)?)?;
        x = x.divide(norm.add(scalar(1e-7, &x)?)?)?;
        for _ in 0..self.ns_steps {
            let square = x.matmul(x.t())?;
            let more = times(&square, b)?.add(times(&square.matmul(&square)?, c)?)?;
            x = times(&x, a)?.add(more.matmul(&x)?)?;
        }
        Ok(if is_tall { x.t() } else { x })
    }
}
