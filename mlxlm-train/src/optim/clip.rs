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

#[cfg(test)]
mod tests {
    use super::*;

    /// The gradients 3, 4 and 12 have a norm of 13.
    fn check(max_norm: f32, expected: [f32; 3]) {
        let gradients = [Array::from_slice(&[3_f32, 4.0], &[2]), Array::from_slice(&[12_f32], &[1])];
        let (clipped, norm) = clip_by_global_norm(&gradients, max_norm).unwrap();
        let got: Vec<f32> = clipped.iter().flat_map(|g| g.try_as_slice::<f32>().unwrap().to_vec()).collect();
        assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{got:?}");
        assert!((norm.try_item_exact::<f32>().unwrap() - 13.0).abs() < 1e-5);
    }

    #[test]
    fn only_long_gradients_are_clipped() {
        check(2.0, [0.461_538, 0.615_385, 1.846_15]);
        check(20.0, [3.0, 4.0, 12.0]);
    }
}
