//! Rotations that were folded into packed weights, so that what they read has to be rotated too.

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use crate::weights::Weights;
use crate::{Error, Result, fast};

/// A signed Walsh-Hadamard rotation of the last axis, in blocks (arXiv:2404.00456): it spreads what stands out in a few dimensions over
/// all, before two bits are made of each.
#[derive(Debug, Clone)]
pub struct Rotation {
    /// `[in]`, each 1 or -1.
    pub signs: Array,
    /// Dimensions that are mixed with each other, a power of two.
    block: i32,
}

impl Rotation {
    /// The rotation of `dims` dimensions at `w`, if the leaf there [has one](Weights::rotated).
    ///
    /// # Errors
    /// If `dims` cannot be cut into its blocks.
    pub(super) fn load(w: &Weights, dims: i32) -> Result<Option<Self>> {
        let Some(block) = w.block() else { return Ok(None) };
        if block <= 0 || dims % block != 0 {
            let why = format!("`{}`: rows of {dims} cannot be cut into blocks of {block}", w.path());
            return Err(Error::from(Exception::custom(why)));
        }
        Ok(Some(Self { signs: w.parameter("signs", &[dims], crate::weights::Init::Ones)?, block }))
    }

    /// `x` rotated, computed in f32.
    ///
    /// # Shapes
    /// - `x`: `[…, in]`, and the same comes back
    #[track_caller]
    pub fn forward(&self, x: &Array) -> Result<Array, Exception> {
        self.mixed(&x.as_dtype(Dtype::Float32)?.multiply(&self.signs)?)?.as_dtype(x.dtype())
    }

    /// The inverse of [`forward`](Self::forward).
    ///
    /// # Shapes
    /// - `x`: `[…, in]`, and the same comes back
    #[track_caller]
    pub fn back(&self, x: &Array) -> Result<Array, Exception> {
        self.mixed(&x.as_dtype(Dtype::Float32)?)?.multiply(&self.signs)?.as_dtype(x.dtype())
    }

    fn mixed(&self, x: &Array) -> Result<Array, Exception> {
        fast::hadamard(x, self.block)
    }
}

#[cfg(test)]
mod tests {
    use mlx_rs::random;

    use super::*;
    use crate::nn::{Embedding, Linear, LowRankAdapter, Matrix};
    use crate::weights::{QuantizationConfig, Tensors, WeightStore};

    const DIMS: i32 = 64;

    fn normal(shape: &[i32], seed: u64) -> Array {
        random::normal::<f32>(shape, None, None, &random::key(seed).unwrap()).unwrap()
    }

    fn store(rows: i32) -> WeightStore {
        let signs: Vec<f32> = (0..DIMS).map(|i| if i * i % 5 == 1 { -1.0 } else { 1.0 }).collect();
        let tensors = Tensors::from([
            ("weight".to_owned(), normal(&[rows, DIMS], 1)),
            ("signs".to_owned(), Array::from_slice(&signs, &[DIMS])),
        ]);
        let store = WeightStore::new(tensors, QuantizationConfig::default());
        store.root().rotated(32);
        store
    }

    fn close(a: &Array, b: &Array) -> bool {
        a.all_close(b, 1e-4, 1e-4, None).unwrap()
    }

    #[test]
    fn a_rotation_keeps_lengths_and_can_be_taken_back() {
        let rotation = Linear::load(&store(3).root(), 3, DIMS).unwrap().rotation.unwrap();
        let x = normal(&[2, 5, DIMS], 2);
        let turned = rotation.forward(&x).unwrap();
        assert!(!close(&turned, &x) && close(&rotation.back(&turned).unwrap(), &x));
        let length = |x: &Array| x.square().unwrap().sum_axis(-1, false).unwrap();
        assert!(close(&length(&turned), &length(&x)));
    }

    #[test]
    fn a_leaf_reads_what_is_rotated_and_a_table_gives_it_back() {
        let x = normal(&[2, DIMS], 3);
        let linear = Linear::load(&store(3).root(), 3, DIMS).unwrap();
        let table = Embedding::load(&store(3).root(), 3, DIMS).unwrap();
        // Row by row the table holds what a plain one would hold, and so does its head.
        let rows = table.forward(&Array::from_slice(&[0, 1, 2], &[3])).unwrap();
        let want = x.matmul(rows.t()).unwrap();
        assert!(close(&linear.forward(&x).unwrap(), &want) && close(&table.as_linear(&x).unwrap(), &want));
    }

    #[test]
    fn a_fine_tune_can_be_fused() {
        let mut linear = Linear::load(&store(3).root(), 3, DIMS).unwrap();
        let (a, b) = (normal(&[DIMS, 2], 4), normal(&[2, 3], 5));
        linear.adapter = Some(LowRankAdapter { a, b, m: Some(normal(&[3], 6)), scale: 0.5, dropout: 0.0 });
        let x = normal(&[2, DIMS], 7);
        let want = linear.forward(&x).unwrap();
        linear.fuse().unwrap();
        assert!(close(&linear.forward(&x).unwrap(), &want) && matches!(linear.weight, Matrix::Dense(_)));
    }

    #[test]
    fn rows_that_cannot_be_cut_are_refused() {
        let store = store(3);
        store.root().rotated(48);
        let error = Linear::load(&store.root(), 3, DIMS).unwrap_err().to_string();
        assert!(error.contains("rows of 64 cannot be cut into blocks of 48"), "{error}");
    }
}
