//! Operands of different floating-point types. MLX computes with them in f32, whatever they are, and so do the kernels. Activations
//! and parameters are widened here, and the keys and values of a cache that has another type than queries; matrices are read as
//! they are.

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::primitive::on_cpu;

pub(super) fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16)
}

/// Floating-point arrays of different types in f32; `None` for arrays of one type, for others, and on a GPU.
pub(super) fn widened(arrays: &[&Array]) -> Result<Option<Vec<Array>>, Exception> {
    let alike = arrays.windows(2).all(|pair| pair[0].dtype() == pair[1].dtype());
    if alike || !arrays.iter().all(|array| is_float(array.dtype())) || !on_cpu() {
        return Ok(None);
    }
    arrays.iter().map(|array| array.as_dtype(Dtype::Float32)).collect::<Result<_, _>>().map(Some)
}

/// Activations in the type in which they meet a matrix with `numbers` in this type (`Uint8` for what goes with all), and which
/// their product has; `None` for what is no float.
pub(super) fn meeting(x: &Array, numbers: Dtype) -> Result<Option<Array>, Exception> {
    match x.dtype() {
        dtype if !is_float(dtype) => Ok(None),
        dtype if dtype == Dtype::Float32 || numbers == Dtype::Uint8 || numbers == dtype => Ok(Some(x.clone())),
        _ => x.as_dtype(Dtype::Float32).map(Some),
    }
}
