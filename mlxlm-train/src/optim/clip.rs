//! Gradient clipping by the norm of all gradients together, as `mlx.optimizers.clip_grad_norm`.

use mlxlm_core::{Array, Dtype, ops};

use crate::Result;

/// Scales all gradients so that their norm, as of one long vector, is at most `max_norm`; also returns the norm before.
pub fn clip_by_global_norm(gradients: &[Array], max_norm: f32) -> Result<(Vec<Array>, Array)> {
    let mut squares = Array::from_f32(0.0);
    for g in gradients {
        squares = squares.add(ops::square(&g.as_dtype(Dtype::Float32)?)?.sum(None)?)?;
    }
    let norm = ops::sqrt(&squares)?;
    let factor = Array::from_f32(max_norm).divide(norm.add(Array::from_f32(1e-6))?)?;
    let factor = ops::minimum(&factor, Array::from_f32(1.0))?;
    let clipped: Result<_> = gradients.iter().map(|g| Ok(g.multiply(factor.as_dtype(g.dtype())?)?)).collect();
    Ok((clipped?, norm))
}
